import signal

import jax
import main_runs
import numpy as np
import pytest
import tiny

from salflax.config import resolve as config_lib
from salflax.evaluate import rows as rows_lib

pytestmark = pytest.mark.slow

PICTURES = ('conditions.png', 'sentences.png', 'difference.png')
OPTIONS = (
  '--config.only.optimizer=sgd',
  '--config.only.lr=0.001',
  '--config.only.steps=40',
  '--config.only.eval_epochs=2.5',
  '--config.evaluate.protocols=mit',
  '--config.evaluate.controls=False',
)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return main_runs.prepared(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def one(tmp_path_factory, data_dir):
  """One process with two devices."""
  run = main_runs.Run(
    tmp_path_factory.mktemp('one') / 'run', data_dir, *OPTIONS
  )
  assert main_runs.ended(run.start(devices=2)) == [0], run.said()
  return run


@pytest.fixture(scope='module')
def two(tmp_path_factory, data_dir):
  """Two processes with a device each."""
  run = main_runs.Run(
    tmp_path_factory.mktemp('two') / 'run', data_dir, *OPTIONS
  )
  codes = main_runs.ended(*run.start_two())
  assert codes == [0, 0], run.said(0) + run.said(1)
  return run


def end_of(run):
  (stage,) = config_lib.resolve(
    config_lib.load(run.workdir), str(run.workdir), with_data=False
  )
  return tiny.last_state(stage, run.workdir)


def losses(run):
  rows = tiny.read_metrics(run.workdir / 'only')
  return np.array([r['loss'] for r in rows if 'loss' in r])


def test_two_processes_train_as_one(one, two):
  # float32 sums over rows that lie on other devices.
  np.testing.assert_allclose(losses(one), losses(two), rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    *(end_of(one), end_of(two)),
  )


def test_two_processes_evaluate_as_one(one, two):
  paths = [sorted(r.workdir.glob('**/per_image.csv')) for r in (one, two)]
  assert [len(p) for p in paths] == [1, 1]
  ours, theirs = (rows_lib.read_rows(p) for (p,) in paths)
  assert len(ours) == len(theirs) == 4
  for a, b in zip(ours, theirs):
    assert {k: a[k] for k in rows_lib.IDENTITY} == {
      k: b[k] for k in rows_lib.IDENTITY
    }
    for key in rows_lib.metric_keys(ours):
      assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4), key


def test_two_processes_write_one_set_of_files(one, two):
  def names(run):
    files = (p.relative_to(run.workdir) for p in run.workdir.glob('**/*'))
    return {
      str(p)
      for p in files
      # Names of events have the time, of parts of a state their content, and
      # pictures are drawn by one process alone.
      if p.name[:6] != 'events'
      and 'state' not in p.parts
      and p.name not in (*PICTURES, 'commit_success.txt')
    }

  assert names(one) == names(two)
  assert len(list((two.workdir / 'only' / 'tensorboard').iterdir())) == 1


def test_one_told_to_stop_stops_both_and_they_go_on(two, tmp_path):
  run = main_runs.Run(tmp_path / 'run', two.data_dir, *OPTIONS)
  both = run.start_two()
  run.wait_for_lines(both[0], 5)
  both[1].send_signal(signal.SIGTERM)
  codes = main_runs.ended(*both)
  assert codes == [130, 130], run.said(0) + run.said(1)
  assert 'stopped and saved at step' in run.said(0)
  assert run.lines() < 40
  codes = main_runs.ended(*run.start_two())
  assert codes == [0, 0], run.said(0) + run.said(1)
  assert 'going on from step' in run.said(0)
  assert tiny.read_metrics(run.workdir / 'only') == tiny.read_metrics(
    two.workdir / 'only'
  )
  tiny.assert_same(end_of(run), end_of(two))
