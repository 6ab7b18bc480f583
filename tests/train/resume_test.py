"""Runs in processes of their own, cut off from outside and started again."""

import random
import signal
import subprocess
import time

import main_runs
import pytest
import tiny

from salflax.config import resolve as config_lib

pytestmark = pytest.mark.slow

OPTIONS = (
  '--config.only.steps=60',
  '--config.only.eval_epochs=1.25',  # every fifth step
  '--config.log_every=3',
)


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  return main_runs.prepared(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def whole(tmp_path_factory, data_dir):
  folder = tmp_path_factory.mktemp('whole')
  run = main_runs.Run(folder / 'run', data_dir, *OPTIONS)
  assert main_runs.ended(run.start()) == [0], run.said()
  return run


def assert_same_end(run, whole):
  lines = tiny.read_metrics(run.workdir / 'only')
  assert lines == tiny.read_metrics(whole.workdir / 'only')
  kinds = [(r['step'], 'loss' in r) for r in lines]
  assert len(set(kinds)) == len(kinds)
  (stage,) = config_lib.resolve(
    config_lib.load(run.workdir), str(run.workdir), with_data=False
  )
  tiny.assert_same(
    tiny.last_state(stage, run.workdir), tiny.last_state(stage, whole.workdir)
  )


def test_killed_at_any_moment(whole, tmp_path):
  run = main_runs.Run(tmp_path / 'run', whole.data_dir, *OPTIONS)
  for kill in range(2):
    process = run.start()
    run.wait_for_lines(process, 6 + 10 * kill)
    time.sleep(random.uniform(0, 0.3))
    process.kill()
    assert main_runs.ended(process) == [-signal.SIGKILL], run.said()
  assert main_runs.ended(run.start()) == [0], run.said()
  assert 'going on from step' in run.said()
  assert_same_end(run, whole)


def test_ctrl_c_saves_first(whole, tmp_path):
  run = main_runs.Run(tmp_path / 'run', whole.data_dir, *OPTIONS)
  process = run.start()
  run.wait_for_lines(process, 7)
  process.send_signal(signal.SIGINT)
  assert main_runs.ended(process) == [130], run.said()
  assert 'Start again with the same --workdir' in run.said()
  assert 'Traceback' not in run.said()
  assert main_runs.ended(run.start()) == [0], run.said()
  assert_same_end(run, whole)
  # Once finished, nothing is trained again, and another config is refused.
  assert main_runs.ended(run.start()) == [0], run.said()
  assert 'only is finished already' in run.said()
  assert main_runs.ended(run.start('--config.seed=5')) == [1]
  assert 'seed: 0 there, 5 now' in run.said()


def test_a_disk_that_cannot_be_written(whole, tmp_path):
  (tmp_path / 'disk').mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'ro', 'none', str(tmp_path / 'disk')]
  if subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('no right to mount a disk')
  try:
    run = main_runs.Run(tmp_path / 'run', whole.data_dir, *OPTIONS)
    code = main_runs.ended(run.start(f'--workdir={tmp_path}/disk/run'))
    assert code == [1] and 'Read-only file system' in run.said()
    assert 'Traceback' not in run.said()
  finally:
    subprocess.run(['umount', '-l', str(tmp_path / 'disk')], check=True)
