import json
import pathlib
import types

import numpy as np
import pytest
from PIL import Image
from toy_gaze import Toy

from salflax import metrics
from salflax.cli import evaluate as cli
from salflax.config import resolve as config_lib
from salflax.data import batches, pp
from salflax.evaluate import map_folder
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import run as run_lib
from salflax.evaluate import scorer as scorer_lib
from salflax.predict import examples, predictor, trained

PROTOCOLS = {
  'mit': metrics.bind_metrics('cc|nss|auc_shuffled|ig'),
  'course': metrics.bind_metrics('course_auc|course_cc'),
}


class Gaze:
  """A run whose model looks up the gaze that the sentence asks for."""

  protocols = ['mit', 'course']
  workdir = 'runs/toy'
  at = 7
  variables = {}
  stage = types.SimpleNamespace(name='only')
  section = {'data': 'toy', 'split': 'train', 'test_split': 'test'}
  section |= {'conditions': (), 'limit': 0}
  config = {'data_dir': ''}

  def __init__(self, toy):
    self.toy = toy
    self.asked = {r['text']: r for r in toy.rows if r['text']}
    free = {r['image_id']: r for r in toy.rows if not r['text']}
    self.free = free

  def load_source(self, data, split, conditions, data_dir):
    return self.toy.only(*conditions) if conditions else self.toy

  def trained_on(self, data, source, data_dir):
    return 3 if len(source) < len(self.toy) else 0

  def eval_batches(self, source, *, store=False):
    self.stored = store

    def finish(example):
      row = self.asked.get(example['text']) or self.free[example['image_id']]
      saliency = row['saliency'][..., 0].astype(np.float32)
      return dict(example, sentence=pp.resize(saliency, (48, 64)))

    ops = pp.make('resize_pad(48, 64)|normalize("unit")')
    return batches.eval_batches(source, ops, batch_size=4, finish=[finish])

  def predict_fn(self, variables, batch):
    return np.asarray(batch['sentence'])


@pytest.fixture
def toy():
  return Toy(8)


def run(toy, **kwargs):
  model = Gaze(toy)
  rows_of = run_lib.rows_of_model(
    model.predict_fn, {}, model.eval_batches, PROTOCOLS
  )
  kwargs = dict(label='toy', train=Toy(4, seed=3)) | kwargs
  return run_lib.run(rows_of, toy, PROTOCOLS, **kwargs)


def test_a_model_that_reads_falls_with_the_wrong_sentence(toy):
  outcome = run(toy, references=True, sentences=True)
  assert list(outcome.rows) == [
    'model', 'wrong', 'none', 'centre', 'pure', 'others',
  ]  # fmt: skip
  assert len(outcome.rows['wrong']) == len(outcome.rows['none']) == 24
  tests = outcome.result['tests']
  for name in ('wrong', 'none'):
    found = tests[name]
    assert 'pure' not in found
    for condition in ('all', 'salient', 'non_salient'):
      assert found[condition]['mit/cc']['difference'] > 0.1
  for row in outcome.rows['wrong']:
    want = next(r for r in toy.rows if r['text'] == row['text'])
    assert want['image_id'] != row['image_id']
  assert tests['centre']['pure']['mit/cc']['n'] == 8


def test_wrong_sentences_are_scored_against_the_pictures_own_gaze(toy):
  outcome = run(toy, sentences=True)
  scorer = scorer_lib.Scorer(toy, {'mit': metrics.bind_metrics('nss')})
  row = outcome.rows['wrong'][0]
  index = next(
    k
    for k, r in enumerate(toy.rows)
    if (r['image_id'], r['condition']) == (row['image_id'], row['condition'])
  )
  said = next(r for r in toy.rows if r['text'] == row['text'])
  small = pp.resize(said['saliency'][..., 0].astype(np.float32), (48, 64))
  box = pp.fit(toy.rows[index]['image'].shape[:2], (48, 64))
  want = scorer(
    index, lambda e: pp.unletterbox(small, box, scorer_lib.size_of(e))
  )
  assert row['mit/nss'] == want['mit/nss']


def test_without_training_pictures_there_is_no_prior_and_no_ig(toy):
  outcome = run(toy, train=None, references=True)
  assert 'centre' not in outcome.rows
  assert 'mit/ig' not in outcome.rows['model'][0]
  assert 'mit/ig' not in outcome.rows['pure'][0]
  assert 'ig' not in outcome.result['protocols']['mit']['metrics']


def test_the_folder_that_is_written(toy, tmp_path):
  outcome = run(toy, references=True)
  folder = run_lib.write(tmp_path / 'out', outcome, ['table'], data='toy')
  assert sorted(p.name for p in folder.iterdir()) == [
    'per_image.csv',
    'per_image_centre.csv',
    'per_image_others.csv',
    'per_image_pure.csv',
    'summary.json',
    'tables.md',
  ]
  assert rows_lib.read_rows(folder / 'per_image.csv') == outcome.rows['model']
  result = json.loads((folder / 'summary.json').read_text())
  assert result['data'] == 'toy' and result['scores']['n'] == 32
  assert result['protocols']['mit']['num_others'] == 10
  assert result['protocols']['mit']['metrics']['cc']['spec'] == 'cc'
  assert result['versions']['salflax']


def save(folder, name, values, dtype):
  path = pathlib.Path(folder) / name
  path.parent.mkdir(exist_ok=True)
  if path.suffix == '.npy':
    np.save(path, values.astype(dtype))
  else:
    top = np.iinfo(dtype).max
    grey = np.floor(values / values.max() * top + 0.5).astype(dtype)
    Image.fromarray(grey).save(path)


def fill(folder, toy, name, dtype=np.float32, *, scale=1):
  for row in toy.rows:
    h, w, _ = row['saliency'].shape
    values = row['saliency'][..., 0].astype(np.float32)
    values = pp.resize(values, (h * scale, w * scale))
    save(folder, name.format(**row), values, dtype)


class TestMatch:
  @pytest.mark.parametrize('style', ['condition', 'number'])
  def test_every_row_by_name(self, toy, tmp_path, style):
    for row in toy.rows:
      row['number'] = map_folder.NUMBERS[row['condition']]
    fill(tmp_path, toy, '{image_id}_{' + style + '}.npy')
    found = map_folder.match(tmp_path, toy)
    assert len(found.paths) == 32 and not found.shared
    assert (found.missing, found.extra) == ([], [])
    for index, path in found.paths.items():
      values = toy[index]['saliency'][..., 0]
      np.testing.assert_array_equal(map_folder.read_map(path), values)

  def test_one_map_for_all_conditions(self, toy, tmp_path):
    fill(tmp_path, toy.only('pure'), '{image_id}.npy')
    found = map_folder.match(tmp_path, toy)
    assert len(found.paths) == 32 and found.shared

  def test_no_suffix_is_the_whole_scene_where_others_have_one(self, tmp_path):
    toy = Toy(2, ('pure', 'whole'))
    fill(tmp_path, toy.only('whole'), '{image_id}.npy')
    fill(tmp_path, toy.only('pure'), '{image_id}_0.npy')
    (tmp_path / 'picture01_0.npy').unlink()
    found = map_folder.match(tmp_path, toy)
    assert found.missing == ['picture01 (pure)'] and not found.shared

  def test_ids_that_look_like_suffixes(self, tmp_path):
    toy = Toy(2, ('pure',))
    toy.rows[0]['image_id'], toy.rows[1]['image_id'] = 'a', 'a_1'
    fill(tmp_path, toy, '{image_id}.npy')
    found = map_folder.match(tmp_path, toy)
    assert [p.name for p in found.paths.values()] == ['a.npy', 'a_1.npy']

  def test_strangers_and_twins(self, toy, tmp_path):
    fill(tmp_path, toy.only('pure'), '{image_id}.npy')
    save(tmp_path, 'stranger.npy', np.ones((2, 2)), np.float32)
    (tmp_path / 'notes.txt').write_text('x')
    assert map_folder.match(tmp_path, toy).extra == ['stranger.npy']
    save(tmp_path, 'stranger.png', np.ones((2, 2)), np.uint8)
    with pytest.raises(ValueError, match='stranger.npy and stranger.png'):
      map_folder.match(tmp_path, toy)

  def test_no_folder_and_no_maps(self, toy, tmp_path):
    with pytest.raises(FileNotFoundError, match='No such folder'):
      map_folder.match(tmp_path / 'absent', toy)
    with pytest.raises(FileNotFoundError, match='holds no map'):
      map_folder.match(tmp_path, toy)


class TestReadMap:
  @pytest.mark.parametrize(
    'name, dtype, tolerance',
    [
      ('a.npy', np.float64, 1e-6),
      ('a.npy', np.float16, 1e-3),
      ('a.png', np.uint8, 1 / 255),
      ('a.png', np.uint16, 1 / 65535),
      ('a.jpg', np.uint8, 0.05),
    ],
  )
  def test_formats(self, tmp_path, name, dtype, tolerance):
    rows, columns = np.mgrid[:40, :50]
    values = np.exp(-((rows - 20) ** 2 + (columns - 10) ** 2) / 200)
    save(tmp_path, name, values, dtype)
    found = map_folder.read_map(tmp_path / name)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found / found.max(), values, atol=tolerance)

  @pytest.mark.parametrize(
    'values, message',
    [
      (np.full((4, 4), np.nan), '16 values are not finite'),
      (np.full((4, 4), -1.0), 'negative values, down to -1'),
      (np.zeros((2, 4, 4)), r'expected \[h, w\]'),
      (np.zeros((4, 4), complex), 'complex128'),
      (np.zeros((0, 4)), 'expected'),
    ],
  )
  def test_bad_arrays(self, tmp_path, values, message):
    np.save(tmp_path / 'a.npy', values)
    with pytest.raises(ValueError, match='a.npy: .*' + message):
      map_folder.read_map(tmp_path / 'a.npy')

  def test_no_pickle_is_opened(self, tmp_path):
    np.save(tmp_path / 'a.npy', np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match='a.npy: cannot be read'):
      map_folder.read_map(tmp_path / 'a.npy')

  def test_colour_and_damage(self, tmp_path):
    colour = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(colour).save(tmp_path / 'a.png')
    with pytest.raises(ValueError, match='a.png: is in colour'):
      map_folder.read_map(tmp_path / 'a.png')
    grey = np.repeat(colour[..., :1], 3, -1)
    Image.fromarray(grey).save(tmp_path / 'b.png')
    np.testing.assert_array_equal(
      map_folder.read_map(tmp_path / 'b.png'), grey[..., 0]
    )
    data = (tmp_path / 'b.png').read_bytes()
    (tmp_path / 'c.png').write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match='c.png: cannot be read'):
      map_folder.read_map(tmp_path / 'c.png')


def test_check_names_nan_and_aspect_and_counts_sizes(toy, tmp_path):
  fill(tmp_path, toy, '{image_id}_{condition}.npy', scale=2)
  turned = tmp_path / 'picture00_pure.npy'
  np.save(turned, np.load(turned).T)
  np.save(tmp_path / 'picture01_all.npy', np.full((48, 48), np.nan))
  matched = map_folder.match(tmp_path, toy)
  found = map_folder.check(matched, toy)
  assert list(found.unusable) == [5] and 'not finite' in found.unusable[5]
  assert list(found.misshapen) == [0]
  assert '80x120 (width x height) for a picture of 60x40' in found.misshapen[0]
  assert found.resized == 31
  said = ' '.join(map_folder.notes(matched, found))
  assert '31 resized' in said and 'picture00_pure.npy' in said


def test_rounded_sides_are_no_other_aspect(tmp_path):
  toy = Toy(3, ('pure',))
  for row in toy.rows:
    h, w, _ = row['saliency'].shape
    save(tmp_path, f'{row["image_id"]}.npy', np.ones((h // 7, w // 7)), float)
  found = map_folder.check(map_folder.match(tmp_path, toy), toy)
  assert not found.misshapen and found.resized == 3


def options(**kwargs):
  default = dict(run=None, stage='', maps=None, data='', data_dir='', split='')
  default |= dict(train_split='', conditions=[], protocols=None, seed=0)
  default |= dict(
    controls=False, figures=0, partial=False, threads=None, out=None
  )
  default |= dict(keep_maps=False, store=False)
  return types.SimpleNamespace(**default | kwargs)


class TestCommand:
  @pytest.fixture(autouse=True)
  def world(self, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_rows(names, split, folder, conditions=(), *, limit=0):
      assert names == 'toy'
      source = Toy(4, seed=3) if split == 'train' else toy
      return source.only(*conditions) if conditions else source

    monkeypatch.setattr(config_lib, 'load_rows', load_rows)
    monkeypatch.setattr(trained, 'load', lambda workdir, *, stage: Gaze(toy))

  def test_a_run_with_its_controls(self, capsys):
    cli.execute(options(run='runs/toy', controls=True, protocols=['mit']))
    folder = pathlib.Path('runs/toy/evaluate/test')
    result = json.loads((folder / 'summary.json').read_text())
    assert set(result['controls']) == {'wrong', 'none'}
    assert set(result['references']) == {'centre', 'pure', 'others'}
    assert (result['step'], result['split']) == (7, 'test')
    printed = capsys.readouterr().out
    assert '**Protocol mit: toy test**' in printed
    assert str(folder) in printed
    assert 'trained on' not in capsys.readouterr().err
    # Eight pictures that all fall: 2 of the 256 swaps are as extreme.
    assert 'p=0.008' in (folder / 'tables.md').read_text()

  def test_maps_are_kept_and_score_as_they_did(self, toy):
    given = dict(run='runs/toy', protocols=['mit|emd'], keep_maps=True)
    cli.execute(options(**given, controls=True))
    folder = pathlib.Path('runs/toy/evaluate/test')
    kept = sorted(p.name for p in (folder / 'maps').iterdir())
    assert kept == sorted(
      f'{r["image_id"]}_{r["condition"]}.png' for r in toy.rows
    )
    # Those of the right sentence, without the letterbox.
    h, w = toy.rows[0]['saliency'].shape[:2]
    with Image.open(folder / 'maps' / kept[0]) as image:
      assert image.mode == 'L' and image.getextrema()[1] == 255
      assert image.width / image.height == pytest.approx(w / h, rel=0.05)
    cli.execute(
      options(
        maps=str(folder / 'maps'),
        protocols=['mit|emd'],
        data='toy',
        out='again',
      )
    )
    ours, again = (
      json.loads((f / 'summary.json').read_text())['scores']['overall']
      for f in (folder, pathlib.Path('again'))
    )
    for key in ('mit/cc', 'mit/nss', 'mit/emd'):
      assert again[key]['mean'] == pytest.approx(ours[key]['mean'], rel=0.02)

  def test_features_are_stored_where_asked(self, toy, monkeypatch):
    run = Gaze(toy)
    monkeypatch.setattr(trained, 'load', lambda workdir, *, stage: run)
    for store in (True, False):
      cli.execute(options(run='r', protocols=['mit'], store=store))
      assert run.stored == store

  def test_pictures_the_run_was_trained_on_are_told(self, capsys):
    cli.execute(options(run='r', conditions=['salient'], out='one'))
    assert 'trained on 3 of the pictures' in capsys.readouterr().err

  def test_one_condition_has_the_same_references(self):
    cli.execute(
      options(run='r', controls=True, conditions=['salient'], out='one')
    )
    cli.execute(options(run='r', controls=True, out='every'))
    one = rows_lib.read_rows('one/per_image_others.csv')
    every = rows_lib.read_rows('every/per_image_others.csv')
    assert one == [r for r in every if r['condition'] == 'salient']

  def test_maps_score_as_the_model_that_made_them(self, toy, capsys):
    fill('maps', toy, '{image_id}_{condition}.npy')
    cli.execute(options(maps='maps', data='toy', protocols=['mit']))
    rows = rows_lib.read_rows('maps-scores/per_image.csv')
    assert all(r['mit/cc'] == pytest.approx(1) for r in rows)
    assert len(rows) == 32 and 'mit/ig' in rows[0]
    assert 'Written to maps-scores' in capsys.readouterr().out.replace(
      str(pathlib.Path.cwd()) + '/', ''
    )

  def test_faulty_maps_are_named_and_may_be_left_out(self, toy, capsys):
    fill('maps', toy, '{image_id}_{condition}.npy')
    pathlib.Path('maps/picture02_all.npy').unlink()
    np.save('maps/picture03_pure.npy', np.full((40, 60), np.nan))
    given = options(
      maps='maps', data='toy', protocols=['course'], train_split='none'
    )
    with pytest.raises(ValueError, match=r'picture02 \(all\)') as e:
      cli.execute(given)
    assert 'picture03_pure.npy' in str(e.value)
    given.partial = True
    cli.execute(given)
    captured = capsys.readouterr()
    assert 'picture02 (all)' in captured.err and 'no IG' in captured.err
    assert len(rows_lib.read_rows('maps-scores/per_image.csv')) == 30
    result = json.loads(pathlib.Path('maps-scores/summary.json').read_text())
    assert (result['scored'], result['rows']) == (30, 32)

  @pytest.mark.parametrize(
    'given, message',
    [
      (dict(), 'either --run or --maps'),
      (dict(run='a', maps='b'), 'either --run or --maps'),
      (dict(maps='b'), '--maps needs --data'),
      (dict(run='a', protocols=['mitt']), "did you mean 'mit'"),
    ],
  )
  def test_wrong_options(self, given, message):
    with pytest.raises(ValueError, match=f'(?i){message}'):
      cli.execute(options(**given))


def test_figures_of_a_few_pictures(toy, tmp_path, monkeypatch):
  monkeypatch.setattr(trained, 'load', lambda workdir, *, stage: Told(toy))
  cli._draw(options(run='r', figures=2), toy, toy, tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'conditions.png',
    'difference.png',
    'sentences.png',
  ]


class Told(Gaze):
  """As `Gaze`, of one picture at a time."""

  def preprocess(self, image, text):
    rows = [r for r in self.toy.rows if np.array_equal(r['image'], image)]
    (batch,) = self.eval_batches_of([dict(rows[0], text=text)])
    return {k: v[:1] for k, v in batch.items() if k != 'mask'}

  def eval_batches_of(self, rows):
    source = Toy(0)
    source.rows = rows
    return self.eval_batches(source)


def test_examples_show_every_condition_and_sentence(toy):
  toy.rows = toy.rows[:-1]  # the last picture lacks a condition
  assert examples.choose(toy, 3) == ['picture00', 'picture03', 'picture06']
  assert len(examples.choose(toy, 99)) == 7
  found = examples.predict(predictor.Predictor(Told(toy)), toy, 2)
  assert [e['image_id'] for e in found] == ['picture00', 'picture06']
  pure, *told = found[0]['rows']
  assert pure['condition'] == 'pure' and 'none' not in pure
  for row in told:
    shape = found[0]['image'].shape[:2]
    assert row['human'].shape == row['pred'].shape == shape
    assert row['wrong_text'] not in ('', row['text'])
    # Without a sentence this model looks up free viewing.
    np.testing.assert_allclose(row['none'], pure['pred'])
    assert not np.allclose(row['wrong'], row['pred'])


def test_examples_of_two_sentences_of_one_picture(toy):
  toy.rows = toy.rows[:-1]  # the last picture lacks a condition
  found = examples.contrast(predictor.Predictor(Told(toy)), toy, 2)
  assert [e['image_id'] for e in found] == ['picture00', 'picture06']
  for example in found:
    assert example['conditions'] == ('salient', 'non_salient')
    for k, condition in enumerate(example['conditions']):
      (row,) = [
        r
        for r in toy.only(condition).rows
        if r['image_id'] == example['image_id']
      ]
      assert example['texts'][k] == row['text']
      np.testing.assert_array_equal(
        example['human'][k], row['saliency'][..., 0]
      )
      # This model looks up the gaze that the sentence asks for.
      alike = np.corrcoef(example['pred'][k].ravel(), row['saliency'].ravel())
      assert alike[0, 1] > 0.95
  nothing = examples.contrast(None, toy.only('salient'), 2)
  assert nothing == []
