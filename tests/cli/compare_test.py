"""The command `compare`, with a model that sees what a sentence names."""

import errno
import html.parser
import json
import pathlib
import re

import numpy as np
import pytest
from PIL import Image

import salflax.__main__ as program
from salflax import cli
from salflax.cli import compare
from salflax.core import files
from salflax.predict import predictor as predictor_lib

SCHEMA = pathlib.Path(__file__).parents[2] / 'docs' / 'comparison.schema.json'
AREAS = [
  {'name': 'cta', 'box': [0, 0, 20, 30]},
  {'name': 'logo.top', 'polygon': [[20, 0], [40, 0], [40, 30]]},
]


class Channels:
  """A predictor whose map is the channel that the sentence names, or grey."""

  def predict(self, pairs, *, batch_size):
    for image, text in pairs:
      if text == 'nan':
        yield np.full(image.shape[:2], np.nan)
      elif text in ('red', 'green', 'blue'):
        index = ('red', 'green', 'blue').index(text)
        yield image[..., index].astype(np.float32)
      else:
        yield image.mean(-1).astype(np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(
    predictor_lib.Predictor, 'load', lambda run, *, stage: Channels()
  )
  rng = np.random.default_rng(0)
  image = rng.integers(0, 40, (30, 40, 3), np.uint8)
  image[:, :20, 0] += 160  # red where the area cta is
  image[:, 20:, 1] += 160
  Image.fromarray(image).save('a.png')
  Image.fromarray(image[:, ::-1]).save('b.png')
  Image.fromarray(np.kron(image, np.ones((2, 2, 1), np.uint8))).save('c.png')
  pathlib.Path('areas.json').write_text(json.dumps({'areas': AREAS}))


def run(*argv):
  return program.main(['salflax', 'compare', *argv])


def result(out='comparison'):
  return json.loads((pathlib.Path(out) / 'comparison.json').read_text('utf-8'))


def shares(tree):
  return {
    (view['name'], area['name']): area['share']
    for view in tree['views']
    for area in view['areas']
  }


TWO = ('a.png', '--text=red', '--text=green', '--areas=areas.json')


def test_two_sentences(capsys):
  assert run(*TWO) == cli.DONE
  out, tree = capsys.readouterr().out, result()
  share = shares(tree)
  assert share['text1', 'cta'] > 0.8 > 0.2 > share['text2', 'cta']
  (change,) = tree['changes']
  assert (change['before'], change['after']) == ('text1', 'text2')
  assert change['information_gain'] > 0.5 and change['cc'] < 0
  assert change['shift']['dx'] > 10 and abs(change['shift']['dy']) < 2
  assert 10 < change['emd']['pixels'] < 25
  gain = share['text2', 'cta'] - share['text1', 'cta']
  assert change['areas'][0]['share'] == pytest.approx(gain, abs=1e-5)
  assert f'{100 * gain:+.1f}' in out and 'text2 | a.png, "green"' in out
  assert max(map(len, out.splitlines())) <= 100
  assert sorted(p.name for p in pathlib.Path('comparison').iterdir()) == [
    *('comparison.html', 'comparison.json', 'text1_overlay.png'),
    *('text1_text2_difference.png', 'text2_overlay.png'),
  ]


def test_the_difference_is_red_where_gaze_goes():
  assert run(*TWO[:3]) == cli.DONE
  path = 'comparison/text1_text2_difference.png'
  red, _, blue = np.asarray(Image.open(path), float).transpose(2, 0, 1)
  left, right = np.split(red - blue, 2, axis=1)
  assert right.mean() > 50 and left.mean() < -50


def test_the_file_follows_its_schema():
  jsonschema = pytest.importorskip('jsonschema')
  schema = json.loads(SCHEMA.read_text())
  check = jsonschema.Draft202012Validator(schema)
  check.check_schema(schema)
  assert run(*TWO, '--fail-if=cta<0.5') == cli.GATE
  check.validate(result())
  assert run('a.png', 'c.png') == cli.DONE
  check.validate(result())
  assert not check.is_valid(result() | {'version': 2})


def test_the_files_are_the_same_from_run_to_run():
  for out in ('one', 'two'):
    assert run(*TWO, f'--out={out}') == cli.DONE
  for path in pathlib.Path('one').iterdir():
    assert path.read_bytes() == (pathlib.Path('two') / path.name).read_bytes()


class Page(html.parser.HTMLParser):
  """What a page holds: tags in order, and images."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.images = [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.images += [dict(attrs)] if tag == 'img' else []


def test_the_page_needs_nothing_else():
  evil = '<script>alert(1)</script>'
  assert run('a.png', f'--text={evil}', '--areas=areas.json') == cli.DONE
  text = pathlib.Path('comparison/comparison.html').read_text('utf-8')
  page = Page(text)
  assert not {'script', 'link', 'iframe'} & {*page.tags}
  assert not re.search(r'https?://|url\(|@import', text)
  assert len(page.images) == 3
  for image in page.images:
    assert image['src'].startswith('data:image/png;base64,')
    assert 'cta' in image['alt']
  assert '&lt;script&gt;' in text and 'none to text1' in text


def test_one_sentence_is_compared_with_none():
  assert run('a.png', '--text=red') == cli.DONE
  tree = result()
  assert [(v['name'], v['text']) for v in tree['views']] == [
    ('none', ''),
    ('text1', 'red'),
  ]
  # A condition on all views is not about the one that was added.
  gate = ('a.png', '--text=red', '--areas=areas.json')
  assert run(*gate, '--fail-if=cta<0.7') == cli.DONE
  assert run(*gate, '--fail-if=none.cta<0.7') == cli.GATE


def test_two_images_with_sentences():
  assert run('a.png', 'b.png', '--text=red', '--text=green') == cli.DONE
  tree = result()
  assert [v['name'] for v in tree['views']] == [
    *('image1.text1', 'image1.text2', 'image2.text1', 'image2.text2'),
  ]
  assert [(c['before'], c['after']) for c in tree['changes']] == [
    ('image1.text1', 'image2.text1'),
    ('image1.text2', 'image2.text2'),
  ]
  assert tree['changes'][0]['shift']['dx'] > 10
  assert tree['changes'][1]['shift']['dx'] < -10


def test_images_of_different_sizes(capsys):
  pathlib.Path('large.csv').write_text('name,x,y,width,height\ncta,0,0,40,60\n')
  areas = ('--areas=areas.json', '--areas=large.csv')
  assert run('a.png', 'c.png', '--text=red', *areas) == cli.DONE
  captured, tree = capsys.readouterr(), result()
  (change,) = tree['changes']
  assert change['cc'] is change['emd'] is change['information_gain'] is None
  assert abs(change['shift']['dx']) < 1e-6  # the same image, twice as large
  assert change['areas'] == [{'name': 'cta', 'share': 0.0}]
  assert 'the images differ in size' in captured.err
  assert not list(pathlib.Path('comparison').glob('*difference*'))
  assert 'the images differ in size' in pathlib.Path(
    'comparison/comparison.html'
  ).read_text('utf-8')


@pytest.mark.parametrize(
  'condition, failures',
  [
    ('cta<0.5', ['text2.cta<0.5']),
    ('text1.cta<0.5', []),
    ('text2.cta >= 0.05', ['text2.cta>=0.05']),
    ('logo.top>0', ['text1.logo.top>0.0', 'text2.logo.top>0.0']),
    ('text2.logo.top<=1', ['text2.logo.top<=1.0']),
  ],
)
def test_conditions(condition, failures, capsys):
  code = run(*TWO, f'--fail-if={condition}')
  assert code == (cli.GATE if failures else cli.DONE)
  failed = [
    '{view}.{area}{operator}{number}'.format(**f) for f in result()['failures']
  ]
  assert failed == failures
  lines = [
    line
    for line in capsys.readouterr().err.splitlines()
    if line.startswith('Failed: ')
  ]
  assert len(lines) == bool(failures)
  assert not failures or failures[0].split('.')[0] in lines[0]


def test_several_conditions_fail_in_one_line(capsys):
  options = ('--fail-if=text2.cta<0.5', '--fail-if=text1.cta>0.5')
  assert run(*TWO, *options) == cli.GATE
  err = capsys.readouterr().err
  assert re.search(
    r'^Failed: text2\.cta<0\.5 \(0\.\d{4}\); text1\.cta>0\.5 \(0\.\d{4}\)$',
    err,
    re.MULTILINE,
  )


@pytest.mark.parametrize(
  'argv, message',
  [
    ((), 'Give an image'),
    (('a.png',), 'Give two images, or a --text.'),
    ((*TWO, '--fail-if=ctaa<1'), "Did you mean 'cta'"),
    ((*TWO, '--fail-if=text3.cta<1'), "Did you mean 'text"),
    ((*TWO, '--fail-if=cta'), 'Cannot read the condition'),
    ((*TWO, '--fail-if=cta<much'), 'Cannot read the condition'),
    ((*TWO, '--fail-if=cta>8'), "'cta>8': expected a share from 0 to 1"),
    ((*TWO, '--fail-if=cta<-.1'), 'expected a share from 0 to 1'),
    ((*TWO[:3], '--fail-if=cta<1'), '--fail-if needs --areas'),
    ((*TWO, '--areas=a', '--areas=b'), 'found 3 for 1 images'),
    ((*TWO, '--fixations=0'), 'fixations'),
  ],
)
def test_usage(argv, message, capsys):
  assert run(*argv) == cli.USAGE
  assert message in capsys.readouterr().err
  assert not pathlib.Path('comparison').exists()


@pytest.mark.parametrize(
  'argv, message',
  [
    (('z.png', '--text=red'), 'No such image: z.png'),
    (('areas.json', '--text=red'), 'areas.json: cannot be read'),
    (('a.png', '--text=red', '--areas=z.json'), 'z.json'),
    (('a.png', '--text=nan'), 'text1: The saliency map holds 1200 NaN'),
    (
      ('a.png', '--text=nan', '--areas=far.json'),
      'far.json, a.png: No pixel of the 40x30 image (width x height) lies in',
    ),
    (('a.png', '--text=nan', '--areas=coco.json'), 'a.png has 400x300 pixels'),
    (('a.png', '--text=nan', '--out=a.png'), '--out=a.png: a.png is a file'),
    (('a.png', '--text=nan', '--out=a.png/b/c'), 'a.png is a file'),
  ],
)
def test_wrong_input(argv, message, capsys):
  far = [{'name': 'far', 'box': [50, 50, 9, 9]}]
  pathlib.Path('far.json').write_text(json.dumps(far))
  image = {'id': 1, 'file_name': 'a.png', 'width': 400, 'height': 300}
  coco = {'images': [image], 'annotations': []}
  pathlib.Path('coco.json').write_text(json.dumps(coco))
  assert run(*argv) == cli.FAILED
  err = capsys.readouterr().err
  assert message in err and 'Traceback' not in err
  assert not pathlib.Path('comparison').exists()


@pytest.mark.parametrize(
  'image, areas',
  [
    ('text1_overlay.png', 'areas.json'),
    ('text1_text2_difference.png', 'areas.json'),
    ('a.png', 'comparison.json'),
  ],
)
def test_no_input_is_overwritten(image, areas, capsys):
  pathlib.Path('a.png').rename(image)
  pathlib.Path('areas.json').rename(areas)
  pathlib.Path('link').symlink_to('.')
  before = {p.name: p.read_bytes() for p in pathlib.Path().glob('*.*')}
  options = ('--text=nan', '--text=nan', f'--areas={areas}', '--out=link')
  assert run(image, *options) == cli.FAILED
  assert 'would be overwritten' in capsys.readouterr().err
  assert {p.name: p.read_bytes() for p in pathlib.Path().glob('*.*')} == before


def test_a_full_disk_leaves_what_was_there(monkeypatch, capsys):
  assert run(*TWO) == cli.DONE
  before = {p: p.read_bytes() for p in pathlib.Path('comparison').iterdir()}

  def full(path, tree):
    raise OSError(errno.ENOSPC, 'No space left on device', str(path))

  monkeypatch.setattr(files, 'write_json', full)
  assert run('b.png', *TWO[1:]) == cli.FAILED
  assert 'No space left' in capsys.readouterr().err
  after = {p: p.read_bytes() for p in pathlib.Path('comparison').iterdir()}
  assert after == before


def test_areas_beyond_the_image_are_noted(capsys):
  areas = [{'name': 'wide', 'box': [30, 0, 90, 9]}, *AREAS]
  pathlib.Path('areas.json').write_text(json.dumps(areas))
  assert run('a.png', '--text=red', '--areas=areas.json') == cli.DONE
  err = capsys.readouterr().err
  assert 'a.png: wide reaches beyond the 40x30 image' in err
  assert 'wide and logo.top share' in err


def test_a_single_pixel_is_compared():
  Image.new('RGB', (1, 1), 'red').save('dot.png')
  assert run('dot.png', '--text=red') == cli.DONE
  (change,) = result()['changes']
  assert change['information_gain'] == change['emd']['pixels'] == 0


def test_the_plan_of_one_image_and_many():
  seen, pairs = compare.plan(1, ['a', 'b', 'c'])
  assert [view.name for view in seen] == ['text1', 'text2', 'text3']
  assert pairs == [(0, 1), (0, 2)]
  seen, pairs = compare.plan(3, [])
  assert [view.name for view in seen] == ['image1', 'image2', 'image3']
  assert pairs == [(0, 1), (0, 2)]


@pytest.mark.slow
def test_a_trained_run(tmp_path, monkeypatch, tiny_run):
  monkeypatch.undo()
  monkeypatch.chdir(tmp_path)
  assert run('a.png', f'--run={tiny_run}', '--text=the red') == cli.DONE
  first = pathlib.Path('comparison/comparison.json').read_bytes()
  assert run('a.png', f'--run={tiny_run}', '--text=the red') == cli.DONE
  assert pathlib.Path('comparison/comparison.json').read_bytes() == first
  assert result()['changes'][0]['information_gain'] > 0
