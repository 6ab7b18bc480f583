"""Runs of the command as real processes: one killed, one of two processes."""

import random
import signal
import time

import jax
import main_runs
import numpy as np
import pytest
import tiny

from salflax.config import resolve, saved
from salflax.evaluate import rows as rows_lib

pytestmark = pytest.mark.slow

# Drawn by one process alone.
FIGURES = ('conditions.png', 'sentences.png', 'difference.png')
OPTIONS = (
  # With seed 0 a value comes so near to 0 that on some processors the last bit
  # decides which way it goes, and after that the losses are 1e-4 apart.
  '--config.seed=1',
  '--config.only.optimizer=sgd',
  '--config.only.lr=0.001',
  '--config.only.steps=40',
  '--config.only.eval_epochs=2.5',
  '--config.log_every=3',
  '--config.evaluate.protocols=mit',
  '--config.evaluate.controls=False',
)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return main_runs.prepared(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir):
  """A run of one process that nothing cuts off."""
  run = main_runs.Run(
    tmp_path_factory.mktemp('whole') / 'run', data_dir, *OPTIONS
  )
  assert main_runs.ended(run.start()) == [0], run.output()
  return run


def end_of(run):
  (stage,) = resolve.resolve(
    saved.load(run.workdir), str(run.workdir), with_data=False
  )
  return tiny.last_state(stage, run.workdir)


def measures(run):
  """Returns the steps of metrics.jsonl, and the losses there."""
  rows = tiny.read_metrics(run.workdir / 'only')
  steps = [(r['step'], 'loss' in r) for r in rows]
  return steps, np.array([r['loss'] for r in rows if 'loss' in r])


def test_killed_at_any_moment(whole, tmp_path):
  run = main_runs.Run(tmp_path / 'run', whole.data_dir, *OPTIONS)
  process = run.start()
  run.wait_for_lines(process, 9)  # the second of four checkpoints is due
  time.sleep(random.uniform(0, 0.3))
  process.kill()
  assert main_runs.ended(process) == [-signal.SIGKILL], run.output()
  assert main_runs.ended(run.start()) == [0], run.output()
  assert 'going on from step' in run.output()
  lines = tiny.read_metrics(run.workdir / 'only')
  assert lines == tiny.read_metrics(whole.workdir / 'only')
  steps, _ = measures(run)
  assert len(set(steps)) == len(steps)
  tiny.assert_same(end_of(run), end_of(whole))


@pytest.fixture(scope='module')
def two(tmp_path_factory, data_dir):
  """A run of two processes: one is asked to stop, then both go on."""
  run = main_runs.Run(
    tmp_path_factory.mktemp('two') / 'run', data_dir, *OPTIONS
  )
  both = run.start_all(2)
  run.wait_for_lines(both[0], 4)
  both[1].send_signal(signal.SIGTERM)
  codes = main_runs.ended(*both)
  assert codes == [130, 130], run.output(0) + run.output(1)
  assert 'stopped and saved at step' in run.output(0)
  assert 'Start again with the same --workdir' in run.output(0)
  steps, _ = measures(run)
  assert steps[-1][0] < 40
  codes = main_runs.ended(*run.start_all(2))
  assert codes == [0, 0], run.output(0) + run.output(1)
  assert 'going on from step' in run.output(0)
  assert 'Traceback' not in run.output(0) + run.output(1)
  return run


def test_two_processes_train_as_one(whole, two):
  (steps, losses), (theirs, others) = measures(whole), measures(two)
  # Where both stopped there may be a line of its own.
  assert steps == theirs
  # float32 sums over rows that lie on other devices.
  np.testing.assert_allclose(losses, others, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    *(end_of(whole), end_of(two)),
  )


def test_two_processes_evaluate_as_one(whole, two):
  paths = [sorted(r.workdir.glob('**/per_image.csv')) for r in (whole, two)]
  assert [len(p) for p in paths] == [1, 1]
  ours, theirs = (rows_lib.read_table(p).to_dict('records') for (p,) in paths)
  assert len(ours) == len(theirs) == 4
  for a, b in zip(ours, theirs):
    assert {k: a[k] for k in rows_lib.IDENTITY} == {
      k: b[k] for k in rows_lib.IDENTITY
    }
    for key in rows_lib.metric_keys(ours):
      assert a[key] == pytest.approx(b[key], rel=1e-3, abs=1e-4), key


def test_two_processes_write_one_set_of_files(whole, two):
  def names(run):
    files = (p.relative_to(run.workdir) for p in run.workdir.glob('**/*'))
    return {
      str(p)
      for p in files
      # Names of events have the time, of parts of a state their content.
      if p.name[:6] != 'events'
      and 'state' not in p.parts
      and p.name not in (*FIGURES, 'commit_success.txt')
    }

  assert names(whole) == names(two)
  # One of each start.
  assert len(list((two.workdir / 'only' / 'tensorboard').iterdir())) == 2


@pytest.mark.nightly
def test_processes_come_and_go(whole, tmp_path):
  """Four processes, then one, one of two killed, then three: as one."""
  # Twelve rows divide by 4, 1, 2 and 3.
  options = (*OPTIONS, '--config.only.batch_size=12')
  one = main_runs.Run(tmp_path / 'one', whole.data_dir, *options)
  assert main_runs.ended(one.start()) == [0], one.output()
  run = main_runs.Run(tmp_path / 'run', whole.data_dir, *options)
  four = run.start_all(4)
  run.wait_for_lines(four[0], 4)
  four[3].send_signal(signal.SIGTERM)
  assert main_runs.ended(*four) == [130] * 4, run.output(0)
  alone = run.start()
  run.wait_for_lines(alone, 8)
  alone.send_signal(signal.SIGTERM)
  assert main_runs.ended(alone) == [130], run.output()
  both = run.start_all(2)
  run.wait_for_lines(both[0], run.lines() + 2)
  both[1].kill()
  start = time.monotonic()
  codes = main_runs.ended(*both)
  assert time.monotonic() - start < 60
  assert codes == [1, -signal.SIGKILL], run.output(0)
  assert 'Another process of this run has ended' in run.output(0)
  assert main_runs.ended(*run.start_all(3)) == [0] * 3, run.output(0)
  losses, others = (dict(zip(*pairs(r))) for r in (one, run))
  np.testing.assert_allclose(
    [others[step] for step in losses], [*losses.values()], rtol=1e-5
  )


def pairs(run):
  """Reads steps and losses of metrics.jsonl."""
  rows = [r for r in tiny.read_metrics(run.workdir / 'only') if 'loss' in r]
  return [r['step'] for r in rows], [r['loss'] for r in rows]
