"""A whole evaluation of a predictor, and the files of its folder."""

import json

import numpy as np
import pytest
from toy_gaze import Reader, Toy

from salflax import metrics
from salflax.data import batches
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import run as run_lib
from salflax.evaluate import scorer as scorer_lib

PROTOCOLS = {
  'mit': metrics.bind_metrics('cc|nss|auc_shuffled|ig'),
  'course': metrics.bind_metrics('course_auc|course_cc'),
}
QUICK = {'mit': metrics.bind_metrics('cc|ig')}


def other_images(toy):
  for row in toy.rows:
    row['image_id'] = f'train {row["image_id"]}'
  return toy


def run(toy, predictor=None, protocols=QUICK, **options):
  options = dict(label='toy', baselines=other_images(Toy(4, seed=3))) | options
  predictor = predictor or Reader(toy)
  return run_lib.run(predictor, toy, protocols, **options)


@pytest.fixture(scope='module')
def toy():
  return Toy(8)


@pytest.fixture(scope='module')
def outcome(toy):
  return run(toy, None, PROTOCOLS, controls=True)


def test_a_model_that_reads_falls_with_the_wrong_sentence(toy, outcome):
  assert list(outcome.rows) == [
    'model', 'wrong', 'other', 'none', 'centre', 'pure', 'others',
  ]  # fmt: skip
  assert set(outcome.result['controls']) == {'wrong', 'other', 'none'}
  assert set(outcome.result['references']) == {'centre', 'pure', 'others'}
  counts = {name: len(outcome.rows[name]) for name in ('wrong', 'none')}
  assert (
    counts == {'wrong': 24, 'none': 24} and len(outcome.rows['other']) == 16
  )
  tests = outcome.result['tests']
  for name in ('wrong', 'none', 'other'):
    assert 'pure' not in tests[name]
    for condition in set(tests[name]) - {'overall'}:
      assert tests[name][condition]['mit/cc']['difference'] > 0.1
  assert set(tests['other']) == {'salient', 'non_salient', 'overall'}
  for row in outcome.rows['wrong']:
    want = next(r for r in toy.rows if r['text'] == row['text'])
    assert want['image_id'] != row['image_id']
  assert tests['centre']['pure']['mit/cc']['n'] == 8
  assert outcome.notes == []


@pytest.mark.parametrize('name', ['wrong', 'other'])
def test_other_sentences_are_scored_against_the_images_own_gaze(
  toy, outcome, name
):
  scorer = scorer_lib.Scorer(toy, {'mit': metrics.bind_metrics('nss')})
  row = outcome.rows[name][0]
  index = next(
    k
    for k, r in enumerate(toy.rows)
    if (r['image_id'], r['condition']) == (row['image_id'], row['condition'])
  )
  pair = toy.rows[index]['image'], row['text']
  (saliency,) = Reader(toy).predict([pair])
  assert row['mit/nss'] == scorer(index, saliency)['mit/nss']


def test_the_sentences_of_conditions_that_are_not_scored(toy, outcome):
  one = run(
    toy.only('salient'), Reader(toy), PROTOCOLS, whole=toy, controls=True
  )
  for name, rows in one.rows.items():
    every = outcome.rows[name]
    if name == 'wrong':  # drawn among the rows that are scored
      continue
    assert rows == [r for r in every if r['condition'] == 'salient'], name


def test_a_predictor_that_reads_no_text_has_no_other_sentences(toy):
  predictor = Reader(toy)
  predictor.reads_text = False
  rows = run(toy, predictor, controls=True).rows
  assert list(rows) == ['model', 'centre', 'pure', 'others']


def test_without_training_images_there_is_no_prior_and_no_ig(toy):
  outcome = run(toy, baselines=None, controls=True)
  assert 'centre' not in outcome.rows
  assert 'mit/ig' not in outcome.rows['model'][0]
  assert 'mit/ig' not in outcome.rows['pure'][0]
  assert 'ig' not in outcome.result['protocols']['mit']['metrics']


def test_the_baseline_leaves_out_the_images_that_are_scored(toy):
  train = Toy(10)  # eight of them are scored
  rest = Toy(10)
  rest.rows = rest.rows[32:]
  ours, want = run(toy, baselines=train), run(toy, baselines=rest)
  assert ours.rows == want.rows and want.notes == []
  assert '8 of 10 training images are scored here' in ours.notes[0]
  nothing = run(toy, baselines=toy)
  assert 'mit/ig' not in nothing.rows['model'][0]
  assert 'no centre prior, and no IG' in nothing.notes[0]


def test_a_condition_with_a_single_sentence_is_left_out_of_the_exchange():
  toy = Toy(5)
  toy.rows = [
    r
    for r in toy.rows
    if r['condition'] != 'salient' or r['image_id'] == 'picture02'
  ]
  outcome = run(toy, controls=True)
  assert outcome.notes == [
    "Condition 'salient' has too few images to exchange sentences."
  ]
  conditions = {r['condition'] for r in outcome.rows['wrong']}
  assert conditions == {'all', 'non_salient'}
  single = run(Toy(1), controls=True)
  assert 'wrong' not in single.rows and len(single.notes) == 3


def test_data_sets_with_equal_ids():
  one, two = Toy(3), Toy(3, seed=1)
  for name, part in (('a', one), ('b', two)):
    for row in part.rows:
      row['text'] = row['text'] and f'{row["text"]} of {name}'
  joined = batches.Joined([one, two], ['a', 'b'])
  rows = [joined[k] for k in range(len(joined))]
  everything = Toy(0)
  everything.rows = rows
  outcome = run(joined, Reader(everything), controls=True)
  assert outcome.result['scores']['images'] == 6
  assert {r['source'] for r in outcome.rows['model']} == {'a', 'b'}
  alone = run(two, Reader(two), controls=True).rows
  for name in ('model', 'pure', 'others', 'none', 'other'):
    ours = [r['mit/cc'] for r in outcome.rows[name] if r['source'] == 'b']
    assert ours == [r['mit/cc'] for r in alone[name]], name
  # Of two images of one name, one may have the sentence of the other.
  assert len(outcome.rows['wrong']) == 18


class TestFolder:
  def test_the_files(self, outcome, tmp_path):
    folder = run_lib.write(tmp_path / 'out', outcome, ['table'], data='toy')
    assert sorted(p.name for p in folder.iterdir()) == [
      'per_image.csv',
      'per_image_centre.csv',
      'per_image_none.csv',
      'per_image_other.csv',
      'per_image_others.csv',
      'per_image_pure.csv',
      'per_image_wrong.csv',
      'summary.json',
      'tables.md',
    ]
    assert (
      rows_lib.read_table(folder / 'per_image.csv').to_dict('records')
      == outcome.rows['model']
    )
    result = json.loads((folder / 'summary.json').read_text())
    assert result['data'] == 'toy' and result['scores']['n'] == 32
    assert result['protocols']['mit']['num_others'] == 10
    assert result['protocols']['mit']['metrics']['cc']['spec'] == 'cc'
    assert result['versions']['salflax']

  def test_what_an_earlier_evaluation_left_is_removed(
    self, toy, outcome, tmp_path
  ):
    run_lib.write(tmp_path, outcome)
    own = tmp_path / 'per_image_of_my_own.csv'
    own.write_text('mine')
    run_lib.write(tmp_path, outcome._replace(rows={'model': []}))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
      'per_image.csv', 'per_image_of_my_own.csv', 'summary.json',
    ]  # fmt: skip
    assert own.read_text() == 'mine'

  def test_names_say_what_was_evaluated(self):
    name = run_lib.folder_name
    assert name() == name('', split='', conditions=(), seed='') == 'test'
    assert name('folder:a/b+osie', split='all') == 'folder:a_b+osie-split=all'
    assert name(conditions=('pure', 'all'), protocols=['mit|emd'], seed=1) == (
      'conditions=pure+all-protocols=mit_emd-seed=1'
    )


class TestKeptMaps:
  def test_they_are_grey_and_of_the_images_sizes(self, toy, tmp_path):
    from PIL import Image

    outcome = run(toy, keep=tmp_path)
    assert outcome.rows == run(toy).rows
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(
      f'{r["image_id"]}_{r["condition"]}.png' for r in toy.rows
    )
    for row in toy.rows:
      with Image.open(
        tmp_path / f'{row["image_id"]}_{row["condition"]}.png'
      ) as image:
        assert image.mode == 'L' and image.getextrema()[1] == 255
        assert np.shape(image) == row['image'].shape[:2]

  def test_a_name_too_long_for_a_file_is_named_before_any_map(self, tmp_path):
    toy = Toy(2)
    for row in toy.rows[4:]:
      row['image_id'] = 'x' * 236
    with pytest.raises(ValueError, match='x_pure.png: a file cannot have'):
      run(toy, keep=tmp_path)
    assert not any(tmp_path.iterdir())
