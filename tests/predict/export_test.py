"""Exports: the model's own maps without salflax, and what is refused."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from salflax import cli
from salflax.cli import export as command
from salflax.core import files
from salflax.predict import export
from salflax.predict import predictor as predictor_lib

EXAMPLES = pathlib.Path(__file__).parents[2] / 'docs' / 'export'


def _export(*argv):
  return cli.call(command.define_flags, command.execute, ['export', *argv])


@pytest.fixture(scope='module')
def folder(tiny_run, tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'tiny'
  # The stage that rounds no features: those of the second are float16.
  options = (f'--run={tiny_run}', '--stage=only', f'--out={path}')
  assert _export(*options, '--quiet') == 0
  return path


def _run(program, *argv, **options):
  return subprocess.run(
    [sys.executable, EXAMPLES / program, *map(str, argv)],
    capture_output=True,
    text=True,
    **options,
  )


def test_another_program_gives_the_maps_of_the_model(folder):
  done = _run('predict_stablehlo.py', folder, '--check')
  assert done.returncode == 0, done.stdout + done.stderr
  assert done.stdout.count('of the maximum') == 3


def test_the_check_notices_another_map(folder, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import predict_onnx
  import predict_stablehlo

  model = predict_onnx.Model(folder, predict_stablehlo.StableHloPrograms)
  (tmp_path / 'check').mkdir()
  for row in model.about['check']:
    for name in (row['image'], row['map']):
      (tmp_path / name).write_bytes((folder / name).read_bytes())
  wanted = np.load(tmp_path / 'check/0.npy')
  np.save(tmp_path / 'check/0.npy', wanted + 0.01)
  assert predict_onnx.check(model, tmp_path) > 1e-3


def test_programs_take_any_number_of_rows(folder, tiny_run, monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import predict_onnx
  import predict_stablehlo

  model = predict_onnx.Model(folder, predict_stablehlo.StableHloPrograms)
  image = Image.open(folder / 'check/0.png')
  pixels, _ = model.frame(image)
  texts = ('the red', '', 'all')
  words = [model.word_pieces(text) for text in texts]
  words = {k: np.concatenate([w[k] for w in words]) for k in words[0]}
  inputs = model.run('image', {'image': np.stack([pixels] * 3)})
  inputs |= model.run('text', words) | {'token_mask': words['token_mask']}
  assert model.run('head', inputs)['saliency'].shape == (3, 32, 32)
  # No sentence is no sentence there, too.
  assert not words['token_mask'][1].any() and words['token_mask'][0].any()
  live = predictor_lib.Predictor.load(tiny_run, stage='only')
  np.testing.assert_allclose(model(image), live(image), rtol=1e-4, atol=1e-6)


def test_the_example_reads_images_as_salflax_does(tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(EXAMPLES)
  import predict_onnx

  pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 4), np.uint8)
  colours = Image.fromarray(pixels[..., :3])
  turned = Image.Exif()
  turned[0x0112] = 6
  colours.save(tmp_path / 'turned.png', exif=turned)
  Image.fromarray(pixels).save(tmp_path / 'clear.png')
  Image.fromarray(pixels).convert('LA').save(tmp_path / 'grey.png')
  colours.quantize(8).save(tmp_path / 'palette.png', transparency=1)
  colours.convert('CMYK').save(tmp_path / 'print.jpg')
  deep = pixels[..., 0].astype(np.uint16) * 200
  Image.fromarray(deep).save(tmp_path / 'deep.png')
  for path in sorted(tmp_path.iterdir()):
    theirs = np.asarray(predict_onnx.read_image(path))
    np.testing.assert_array_equal(theirs, predictor_lib.read_image(path), path)


def test_the_example_names_a_broken_image(folder, tmp_path):
  (tmp_path / 'empty.jpg').write_bytes(b'')
  done = _run('predict_stablehlo.py', folder, tmp_path / 'empty.jpg')
  assert done.returncode == 1 and 'Traceback' not in done.stderr
  assert 'empty.jpg' in done.stderr


def test_the_description_names_every_file(folder):
  about = json.loads((folder / export.FILE).read_text())
  assert [*about['programs']] == ['image', 'text', 'head']
  for program in about['programs'].values():
    assert (folder / program['files']['stablehlo']).stat().st_size
  assert about['image']['size'] == [32, 32]
  assert about['text']['length'] == 8


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    (['--format=onx'], "Did you mean 'onnx'"),
    (['--format='], 'Name a format: stablehlo, onnx'),
    (['--run=.'], 'is not a run'),
  ],
)
def test_bad_input_is_named(tmp_path, capsys, options, message):
  code = cli.FAILED if options == ['--run=.'] else cli.USAGE
  assert _export(f'--out={tmp_path / "new"}', *options) == code
  assert message in capsys.readouterr().err
  assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r'pip install --no-deps jax2o'):
    export.check(tmp_path, ['onnx'], replace=False)


def test_a_folder_is_not_overwritten_by_accident(folder, tmp_path):
  (tmp_path / 'thesis.tex').touch()
  with pytest.raises(FileExistsError, match='has other files'):
    export.check(tmp_path, ['stablehlo'], replace=True)
  with pytest.raises(FileExistsError, match='has an export already'):
    export.check(folder, ['stablehlo'], replace=False)
  export.check(folder, ['stablehlo'], replace=True)


def test_a_failure_leaves_the_earlier_export(tmp_path):
  (tmp_path / 'out').mkdir()
  (tmp_path / 'out' / export.FILE).write_text('old')
  with (
    pytest.raises(RuntimeError),
    files.replacing_folder(tmp_path / 'out') as new,
  ):
    (new / 'half').touch()
    raise RuntimeError
  assert [p.name for p in tmp_path.iterdir()] == ['out']
  with files.replacing_folder(tmp_path / 'out') as new:
    (new / export.FILE).write_text('new')
  assert (tmp_path / 'out' / export.FILE).read_text() == 'new'
  assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_preprocessing_that_others_cannot_do_is_refused():
  with pytest.raises(ValueError, match='mirror.* cannot be exported'):
    export._image('resize_pad(8, 8)|mirror|normalize("unit")')


@pytest.mark.nightly
def test_onnx_without_salflax_or_jax(tiny_run, tmp_path):
  for package in ('jax2onnx', 'onnxruntime'):
    pytest.importorskip(package)
  options = (f'--run={tiny_run}', '--stage=only', '--format=onnx')
  assert _export(*options, f'--out={tmp_path / "out"}') == 0
  code = (
    'import runpy, sys\n'
    'sys.modules["jax"] = sys.modules["salflax"] = None\n'
    f'sys.argv = ["x", {str(tmp_path / "out")!r}, "--check"]\n'
    f'runpy.run_path({str(EXAMPLES / "predict_onnx.py")!r}, '
    'run_name="__main__")'
  )
  done = subprocess.run([sys.executable, '-c', code], capture_output=True)
  assert done.returncode == 0, done.stdout + done.stderr
