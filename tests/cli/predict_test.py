"""The command `predict`, with a network that copies the red channel."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from scipy import special

from salflax import cli
from salflax.cli import predict
from salflax.predict import inputs
from salflax.predict import predictor as predictor_lib

COLOUR = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


class Red:
  """A predictor whose map is the red channel, plus the sentence's length."""

  def predict(self, pairs, *, batch_size, return_errors):
    assert return_errors
    for path, text in pairs:
      try:
        image = predictor_lib.read_image(path)
      except (ValueError, OSError) as e:
        yield e
        continue
      bad = ValueError(f'{path}: not finite')
      yield bad if text == 'nan' else image[..., 0] + np.float32(len(text))


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
  return cli.call(predict.define_flags, predict.execute, ['predict', *argv])


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
    {
      'name': 'a',
      'image': 'a.jpg',
      'text': 'the red, or',
      'endings': ['.npy', '.png', '_overlay.png'],
    }
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
  assert '2 of 8 failed:\nin/bad.jpg' in err
  assert err.count('bad.jpg') == 1
  expected = COLOUR[..., 0] + np.float32(3)
  np.testing.assert_array_equal(np.load('predictions/b_text1.npy'), expected)


def test_a_map_that_is_not_finite_is_not_written(capsys):
  assert run('--image=a.jpg', '--text=nan', '--text=red') == 1
  assert [row['text'] for row in predictions()] == ['red']
  assert not pathlib.Path('predictions/a_text0.png').exists()
  assert 'a.jpg: not finite' in capsys.readouterr().err


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
  assert inputs.names(paths) == ['a', 'a-2', 'a-2-2']
  # Nor is one map's overlay another's map.
  paths = [pathlib.Path(p) for p in ('a.png', 'a_overlay.png')]
  assert inputs.names(paths) == ['a', 'a_overlay-2']


@pytest.mark.parametrize('pattern', ['in/**', 'in/**/*.png', 'in/*'])
def test_a_link_to_its_own_folder_repeats_nothing(pattern):
  pathlib.Path('in/deeper').rmdir()
  pathlib.Path('in/again').symlink_to('.')
  jobs = inputs.collect([pattern], [])
  names = [path.name for path, _ in jobs.pairs if path.suffix == '.png']
  assert sorted(names) == ['b.png', 'c, d.png']


def test_a_name_with_a_comma():
  jobs = inputs.collect(['in/c, d.png'], [])
  assert jobs.pairs == [(pathlib.Path('in/c, d.png'), '')]


def test_plain_arguments_are_images_then_sentences():
  assert run('a.jpg', 'the red umbrella') == 0
  assert run('a.jpg', 'in/*.png', 'one', 'two', '--out=more') == 0
  assert [row['text'] for row in predictions()] == ['the red umbrella']
  assert [(r['image'], r['text']) for r in predictions('more')] == [
    (image, text)
    for image in ('a.jpg', 'in/b.png', 'in/c, d.png')
    for text in ('one', 'two')
  ]


TABLES = {
  'pairs.csv': 'Image,sentence\nb.png,"red, or"\na.jpg,\nb.png\nno.png,x\n',
  'pairs.jsonl': '{"image": "b.png", "sentence": "red, or"}\n'
  '{"image": "a.jpg"}\n\nno json\n{"image": "no.png", "text": "x"}\n',
}


@pytest.mark.parametrize('name', TABLES)
def test_a_table_of_images_and_sentences(name, capsys):
  pathlib.Path('in', name).write_text(TABLES[name])
  # Images beside the table, or from where the command runs.
  assert run(f'in/{name}') == 1
  assert [(r['image'], r['text']) for r in predictions()] == [
    ('in/b.png', 'red, or'),
    ('a.jpg', ''),
  ]
  err = capsys.readouterr().err
  assert '2 of 4 failed' in err and f'in/{name}, line 4: ' in err
  assert 'No such image: no.png' in err


def test_tables_of_other_separators_and_names(capsys):
  pathlib.Path('a.csv').write_text('image;sentence\na.jpg;the red, or\n')
  long = f'data:{"x" * 5000}'
  pathlib.Path('b.csv').write_text(f'image,text\n{long},x\nin/b.png,y\n')
  pathlib.Path('c.jsonl').write_text('{"image": "a", "image": "b"}\n')
  jobs = inputs.collect(['a.csv', 'b.csv', 'c.jsonl'], [])
  assert jobs.pairs[0] == (pathlib.Path('a.jpg'), 'the red, or')
  assert [str(path) for path, _ in jobs.pairs[1:]] == [long, 'in/b.png']
  assert jobs.faults and 'c.jsonl, line 1' in jobs.faults[0]
  pathlib.Path('c.csv').write_text('image,text\n')
  with pytest.raises(ValueError, match='c.csv: the table has no rows'):
    inputs.collect(['a.csv', 'c.csv'], [])


def test_a_long_name_is_cut_between_characters():
  (name,) = inputs.names([pathlib.Path('图' * 80 + '.png')])
  assert name == '图' * 73


def test_a_table_has_its_own_sentences(capsys):
  pathlib.Path('pairs.csv').write_text('image,text\na.jpg,red\n')
  assert run('pairs.csv', 'blue') == 1
  assert 'has its own sentences' in capsys.readouterr().err
  pathlib.Path('pairs.csv').write_text('picture,text\na.jpg,red\n')
  assert run('pairs.csv') == 1
  assert "pairs.csv: no column ['image']" in capsys.readouterr().err


def test_rows_that_no_file_can_be_of(capsys):
  lines = (r'{"image": "a\u0000.jpg"}', r'{"image": "a.jpg", "text": "\ud800"}')
  pathlib.Path('pairs.jsonl').write_text('\n'.join(lines))
  assert run('pairs.jsonl') == 1
  assert [row['text'] for row in predictions()] == ['\\ud800']
  assert 'pairs.jsonl, line 1: no file has' in capsys.readouterr().err
  pathlib.Path('pairs.csv').write_text('image,text\n')
  assert run('pairs.csv') == 1
  assert 'pairs.csv: the table has no rows' in capsys.readouterr().err


def test_what_is_written_is_chosen():
  assert run('a.jpg', '--write=logdensity,png') == 0
  assert sorted(p.name for p in pathlib.Path('predictions').iterdir()) == [
    'a.png',
    'a_logdensity.npy',
    'predictions.json',
  ]
  values = np.load('predictions/a_logdensity.npy')
  assert values.shape == (30, 40) and values.dtype == np.float32
  assert abs(special.logsumexp(values.astype(np.float64))) < 1e-6


def test_the_overlay_has_its_looks():
  assert run('a.jpg') == run('a.jpg', '--out=other', '--opacity=0') == 0
  assert run('a.jpg', '--out=lines', '--opacity=0', '--contours=50') == 0
  plain, other, lines = (
    np.asarray(Image.open(f'{out}/a_overlay.png'))
    for out in ('predictions', 'other', 'lines')
  )
  image = predictor_lib.read_image('a.jpg')
  np.testing.assert_array_equal(other, image)
  assert (plain != image).any() and (lines == 255).all(-1).any()


@pytest.mark.parametrize(
  'option, message',
  [
    ('--write=npz', "Did you mean 'npy'"),
    ('--colours=turboo', "Did you mean 'turbo'"),
    ('--contours=120', "percentages, found '120'"),
    ('--write=', 'Allowed: logdensity, npy'),
    ('--opacity=nan', 'no finite number'),
    ('--out=a.jpg', '--out=a.jpg is a file'),
  ],
)
def test_looks_that_do_not_exist(option, message, capsys):
  assert run('a.jpg', option) == 2
  assert message in capsys.readouterr().err


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


def test_an_image_is_asked_for(capsys):
  assert run() == 2
  assert 'Give an image and a sentence' in capsys.readouterr().err


def listing(path):
  return json.loads(pathlib.Path(path).read_text())


def test_hosts_share_the_work(capsys):
  pathlib.Path('in/broken.png').write_bytes(b'no image')
  command = ('in', 'a.jpg', '--text=', '--text=red', '--text=nan')
  assert run(*command, '--out=one') == 1
  every = capsys.readouterr().err.splitlines()
  faults, codes = [], []
  for k in range(4):
    host = '--out=all', '--processes=4', f'--process={k}'
    codes.append(run(*command, *host))
    err = capsys.readouterr().err.splitlines()
    faults += [line for line in err if line in every]
  assert 1 in codes
  failed = [line for line in every if 'not finite' in line or 'broken' in line]
  # Of an image that cannot be read, one line a host.
  assert set(failed) <= set(faults)

  def maps(out):
    paths = pathlib.Path(out).iterdir()
    return {p.name: p.read_bytes() for p in paths if p.suffix != '.json'}

  assert maps('one') == maps('all') and maps('one')
  parts = [listing(f'all/predictions.{k}-of-4.json') for k in range(4)]
  assert not pathlib.Path('all/predictions.json').exists()
  key = lambda row: row['name']
  assert sorted(sum(parts, []), key=key) == sorted(predictions('one'), key=key)
  # Lists of other numbers of hosts do not stay.
  assert run('a.jpg', '--out=all') == 0
  assert [p.name for p in pathlib.Path('all').glob('*.json')] == [
    'predictions.json'
  ]
  assert run('a.jpg', '--processes=2', '--out=all') == 0
  assert [p.name for p in pathlib.Path('all').glob('*.json')] == [
    'predictions.0-of-2.json'
  ]


def test_a_host_without_a_share_is_done():
  assert run('a.jpg', '--processes=4', '--process=3') == 0
  assert not pathlib.Path('predictions').exists()


def test_a_host_that_there_is_not(capsys):
  assert run('a.jpg', '--processes=4', '--process=4') == 2
  assert '4 processes are 0 to 3' in capsys.readouterr().err
