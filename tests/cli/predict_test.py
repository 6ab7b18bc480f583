"""The command `predict`, with a network that copies the red channel."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from salflax import cli
from salflax.cli import predict
from salflax.predict import predictor as predictor_lib

COLOUR = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


class Red:
  """A predictor whose map is the red channel, plus the sentence's length."""

  def predict(self, pairs, *, batch_size):
    pairs = list(pairs)  # as a batch is read before its maps come
    for image, text in pairs:
      bad = np.nan if text == 'nan' else 0
      yield image[..., 0] + np.float32(len(text) + bad)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    predictor_lib.Predictor, 'load', lambda run, *, stage: Red()
  )
  for path in ('a.jpg', 'in/b.png', 'in/c, d.png'):
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    Image.fromarray(COLOUR).save(path)
  pathlib.Path('in/notes.txt').write_text('x')
  pathlib.Path('in/deeper').mkdir()


def run(*argv):
  return cli.call(
    predict.define_flags, predict.execute, ['predict', '--run=r', *argv]
  )


def predictions(out='predictions'):
  return json.loads((pathlib.Path(out) / 'predictions.json').read_text())


def test_one_image_one_sentence(capsys):
  assert run('--image=a.jpg', '--text=the red, or', '--out=out') == 0
  out = pathlib.Path('out')
  saliency = np.load(out / 'a.npy')
  assert saliency.shape == (30, 40) and saliency.dtype == np.float32
  grey = np.asarray(Image.open(out / 'a.png'))
  assert grey.dtype == np.uint16 and grey.max() == 65535
  assert Image.open(out / 'a_overlay.png').size == (40, 30)
  assert 'the red, or' in capsys.readouterr().out
  assert predictions('out') == [
    {'name': 'a', 'image': 'a.jpg', 'text': 'the red, or'}
  ]
  assert sorted(p.name for p in out.iterdir()) == [
    'a.npy',
    'a.png',
    'a_overlay.png',
    'predictions.json',
  ]


def test_images_times_sentences(capsys):
  # A byte-order mark, as some editors write it, is no part of a sentence.
  pathlib.Path('texts').write_text('\ufeffone\n\n two \n', encoding='utf-8')
  options = ('--image=a.jpg,in', '--text=', '--texts=texts', '--dtype=float16')
  assert run(*options) == 0
  assert [(row['name'], row['text']) for row in predictions()] == [
    (f'{stem}_text{k}', text)
    for stem in ('a', 'b', 'c, d')
    for k, text in enumerate(('', 'one', 'two'))
  ]
  assert np.load('predictions/b_text2.npy').dtype == np.float16
  assert 'in: 2 left out: deeper/, notes.txt' in capsys.readouterr().err


def test_a_broken_image_fails_alone(capsys):
  data = pathlib.Path('a.jpg').read_bytes()
  pathlib.Path('in/bad.jpg').write_bytes(data[: len(data) // 2])
  assert run('--image=in', '--image=a.jpg', '--text=', '--text=red') == 1
  assert [row['name'] for row in predictions()] == [
    f'{stem}_text{k}' for stem in ('b', 'c, d', 'a') for k in (0, 1)
  ]
  err = capsys.readouterr().err
  assert '1 images failed:\nin/bad.jpg' in err
  expected = COLOUR[..., 0] + np.float32(3)
  np.testing.assert_array_equal(np.load('predictions/b_text1.npy'), expected)


def test_a_map_that_is_not_finite_is_not_written(capsys):
  assert run('--image=a.jpg', '--text=nan', '--text=red') == 1
  assert [row['text'] for row in predictions()] == ['red']
  assert not pathlib.Path('predictions/a_text0.png').exists()
  assert 'a.jpg: the map is not finite' in capsys.readouterr().err


@pytest.mark.parametrize('stem', ['x' * 236, 'ü' * 120])
def test_a_name_near_the_limit_is_cut(stem):
  Image.fromarray(COLOUR).save(f'{stem}.png')
  assert run(f'--image={stem}.png', '--text=', '--text=red') == 0
  assert [row['image'] for row in predictions()] == [f'{stem}.png'] * 2
  assert len(list(pathlib.Path('predictions').glob('*_overlay.png'))) == 2


def test_a_name_that_is_not_utf8(capsys):
  name = b'\xff\x1b[31m.png'
  with open(name, 'wb') as f:
    f.write(pathlib.Path('in/b.png').read_bytes())
  assert run('--image', name.decode(errors='surrogateescape')) == 0
  assert predictions()[0]['image'] == '\\xff\x1b[31m.png'
  assert '\x1b' not in capsys.readouterr().out


def test_equal_names_stay_apart():
  paths = [pathlib.Path(p) for p in ('x/a.png', 'y/a.png', 'a-2.png')]
  assert predict.map_names(paths, 1) == [['a'], ['a-2'], ['a-2-2']]


def test_a_name_with_a_comma():
  assert predict.image_files(['in/c, d.png']) == [pathlib.Path('in/c, d.png')]


@pytest.mark.parametrize(
  'image, message',
  [
    ('z.jpg', 'No such image: z.jpg'),
    ('a.jpg,empty', 'No images in the folder empty'),
    ('in/deeper', 'it is empty'),
  ],
)
def test_absent_images(image, message, capsys):
  pathlib.Path('empty').mkdir()
  assert run(f'--image={image}') == 1
  assert message in capsys.readouterr().err


def test_sentences_that_are_not_utf8(capsys):
  pathlib.Path('texts').write_bytes(b'caf\xe9\n')
  assert run('--image=a.jpg', '--texts=texts') == 1
  assert '--texts=texts is not UTF-8' in capsys.readouterr().err


def test_no_image_is_overwritten(capsys):
  before = pathlib.Path('in/b.png').read_bytes()
  assert run('--image=in/b.png', '--out=in') == 1
  assert 'b.png would be overwritten' in capsys.readouterr().err
  assert pathlib.Path('in/b.png').read_bytes() == before


def test_images_and_a_run_are_asked_for(capsys):
  assert run() == 2
  assert 'Give --run and --image.' in capsys.readouterr().err
