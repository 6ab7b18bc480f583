"""Evaluations of folds, joined to one."""

import shutil
from types import SimpleNamespace

import pytest
from flax import traverse_util
from toy_gaze import Reader, Toy

from salflax import metrics
from salflax.cli import evaluate as cli
from salflax.core import files
from salflax.evaluate import join
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import run as run_lib

PROTOCOLS = {'mit': metrics.bind_metrics('cc|nss')}


@pytest.fixture(scope='module')
def folds(tmp_path_factory):
  """Writes the evaluations of two halves; returns them and that of all."""
  toy = Toy(6)
  options = dict(label='toy', controls=True, threads=1)
  whole = run_lib.run(Reader(toy), toy, PROTOCOLS, **options)
  folder = tmp_path_factory.mktemp('folds')
  ids = sorted({row['image_id'] for row in toy.rows})
  halves = []
  for k, some in enumerate((ids[:3], ids[3:])):
    rows = {
      name: [row for row in table if row['image_id'] in some]
      for name, table in whole.rows.items()
    }
    labels = run_lib.labels_of(whole.result)
    protocols = whole.result['protocols']
    result = run_lib.summarise(rows, labels, 'toy', protocols)
    part = run_lib.Outcome(result, rows, [])
    halves.append(run_lib.write(folder / f'{k}', part, split=f'fold{k}'))
  return halves, whole


def _numbers(tree):
  flat = traverse_util.flatten_dict(tree, sep='/')
  return {k: v for k, v in flat.items() if isinstance(v, int | float)}


def test_joined_folds_score_as_one_evaluation(folds):
  halves, whole = folds
  about, outcome = join.join(halves, label='toy')
  assert about['split'] == 'fold0+fold1' and outcome.notes == []
  for key in ('scores', 'controls', 'tests', 'protocols'):
    assert _numbers(outcome.result[key]) == pytest.approx(
      _numbers(whole.result[key]), nan_ok=True
    )


def test_the_command_writes_the_joined_folds(folds, tmp_path, capsys):
  halves, whole = folds
  out = tmp_path / 'both'
  options = dict(join=halves, out=str(out), run=None, maps=None)
  assert cli.execute(SimpleNamespace(**options)) == 0
  result = files.read_json(out / 'summary.json')
  assert result['scores']['n'] == whole.result['scores']['n'] == 24
  assert 'wrong' in result['controls'] and 'both' in capsys.readouterr().out
  with pytest.raises(ValueError, match='--join goes with --out'):
    cli.execute(SimpleNamespace(**options | {'out': None}))


def test_a_table_of_one_data_set_joins_one_of_several(folds, tmp_path):
  (first, second), _ = folds
  table = rows_lib.read_table(first / 'per_image.csv')
  shutil.copytree(first, tmp_path / 'first')
  table.assign(source='a').to_csv(tmp_path / 'first' / 'per_image.csv')
  joined = join._rows([tmp_path / 'first', second], 'model')
  assert set(joined['source']) == {'a', ''}


def test_what_does_not_join(folds, tmp_path):
  halves, whole = folds
  with pytest.raises(ValueError, match='different images'):
    join.join([halves[0], halves[0]])
  with pytest.raises(FileNotFoundError, match='no summary.json'):
    join.join([halves[0], tmp_path])
  other = dict(whole.result, protocols={'course': {}})
  files.write_json(tmp_path / 'summary.json', other)
  with pytest.raises(ValueError, match='other protocols'):
    join.join([halves[0], tmp_path])
