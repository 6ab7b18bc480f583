import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from salflax.config import resolve as config_lib
from salflax.core import parallel
from salflax.train import checkpoint, interrupt, loop, step


def state_of(value, at=0):
  return step.TrainState(
    step=jnp.int32(at),
    params={'w': jnp.full((64, 64), value, jnp.float32)},
    batch_stats={},
    opt_state=({'m': jnp.zeros(3)},),
  )


@pytest.fixture
def small_disk(tmp_path):
  """A disk of one megabyte."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', str(folder)]
  if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('no right to mount a small disk')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=True)


@pytest.mark.parametrize('higher', [True, False])
def test_the_best_and_the_last_survive(tmp_path, higher):
  checkpoints = checkpoint.Checkpoints(str(tmp_path), higher_is_better=higher)
  sign = 1 if higher else -1
  scores = {1: 0.2, 2: 0.9, 3: 0.9, 4: 0.1, 5: None}
  for at, score in scores.items():
    score = None if score is None else sign * score
    checkpoints.save(state_of(at, at), score=score, extra={'a': [at, 0.1]})
  assert checkpoints.best() == (3, sign * 0.9)
  assert checkpoints.latest_step() == 5
  assert sorted(p.name for p in tmp_path.iterdir()) == ['3', '5']
  abstract = jax.eval_shape(lambda: state_of(0))
  state, extra = checkpoints.restore(3, abstract, tiny.mesh(4))
  assert extra == {'a': [3, 0.1]}
  tiny.assert_same(state, state_of(3, 3))
  checkpoints.close()
  for good in (True, False):
    variables, at = checkpoint.load_variables(
      str(tmp_path), abstract, tiny.mesh(4), higher_is_better=good
    )
    assert at == 3 and (variables['params']['w'] == 3).all()


def test_what_was_saved_is_what_the_state_was(tmp_path):
  # Saving goes on in the background while later steps reuse the memory.
  mesh = tiny.mesh()
  add = jax.jit(
    lambda s: s.replace(step=s.step + 1, params={'w': s.params['w'] + 1}),
    donate_argnums=0,
  )
  state = parallel.to_everywhere(
    step.TrainState(jnp.int32(0), {'w': jnp.zeros(3_000_000)}, {}, ()), mesh
  )
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  abstract = jax.eval_shape(lambda s: s, state)
  for at in (0, 5, 10):
    checkpoints.save(state, score=1.0)
    for _ in range(5):
      state = add(state)
    jax.block_until_ready(state)
    checkpoints.wait()
    found, _ = checkpoints.restore(at, abstract, mesh)
    assert (np.asarray(found.params['w']) == at).all()
  checkpoints.close()


def test_another_model_is_told(tmp_path):
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  checkpoints.save(state_of(1), score=1.0)
  other = state_of(1).replace(params={'w': jnp.zeros((64, 32))})
  other = jax.eval_shape(lambda: other)
  with pytest.raises(ValueError, match='not of this model'):
    checkpoints.restore(0, other, tiny.mesh())
  checkpoints.close()
  with pytest.raises(ValueError, match='not of this model'):
    checkpoint.load_variables(str(tmp_path), other, tiny.mesh())


def test_nothing_to_load_is_told(tmp_path):
  abstract = jax.eval_shape(lambda: state_of(0))
  with pytest.raises(FileNotFoundError, match='not a folder'):
    checkpoint.load_variables(str(tmp_path / 'x'), abstract, tiny.mesh())
  # As a save leaves behind that was killed.
  (tmp_path / '3.orbax-checkpoint-tmp').mkdir()
  with pytest.raises(FileNotFoundError, match='No finished checkpoint'):
    checkpoint.load_variables(str(tmp_path), abstract, tiny.mesh())
  assert (tmp_path / '3.orbax-checkpoint-tmp').is_dir()


def test_reading_a_run_needs_no_right_to_write(small_disk):
  checkpoints = checkpoint.Checkpoints(str(small_disk / 'c'))
  checkpoints.save(state_of(1, 1), score=1.0)
  checkpoints.close()
  subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
  abstract = jax.eval_shape(lambda: state_of(0))
  _, at = checkpoint.load_variables(
    str(small_disk / 'c'), abstract, tiny.mesh()
  )
  assert at == 1
  with pytest.raises(OSError, match=f'Cannot write to {small_disk}'):
    checkpoint.check_room(str(small_disk / 'new'), 1)


def test_too_little_room_is_told_before(tmp_path, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=250)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  checkpoint.check_room(str(tmp_path), 80)
  with pytest.raises(OSError, match=f'Not enough room in {tmp_path}: 3'):
    checkpoint.check_room(str(tmp_path), 100)
  # Those of an earlier part of the run are there already.
  (tmp_path / '10').mkdir()
  checkpoint.check_room(str(tmp_path), 100)
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='Cannot write to'):
    checkpoint.check_room(str(tmp_path / 'file' / 'x'), 1)


def test_a_disk_that_fills_up_leaves_earlier_ones_whole(small_disk):
  checkpoints = checkpoint.Checkpoints(str(small_disk / 'c'))
  checkpoints.save(state_of(1, 1), score=1.0)
  checkpoints.wait()
  free = shutil.disk_usage(small_disk).free
  with open(small_disk / 'other', 'wb') as f:
    f.write(bytes(free - 4096))
  with pytest.raises(
    OSError, match='Cannot save a checkpoint in .*No space left'
  ):
    checkpoints.save(state_of(2, 2), score=2.0)
    checkpoints.wait()
  abstract = jax.eval_shape(lambda: state_of(0))
  try:
    checkpoints.close()
  except OSError:
    pass
  variables, at = checkpoint.load_variables(
    str(small_disk / 'c'), abstract, tiny.mesh()
  )
  assert at == 1 and (variables['params']['w'] == 1).all()


@pytest.mark.slow
def test_training_on_a_disk_that_fills_up(small_disk, monkeypatch):
  config = tiny.get_config()
  config.only.update(steps=6, eval_epochs=0.2)
  (stage,) = tiny.stages(config, small_disk)

  def fill(*args):
    if (small_disk / 'only' / 'checkpoints' / '2').exists():
      free = shutil.disk_usage(small_disk).free
      (small_disk / 'other').write_bytes(bytes(free - 8192))
    return {'mit/cc': 0.5}

  monkeypatch.setattr(loop._Evaluation, '__init__', lambda *args: None)
  monkeypatch.setattr(loop._Evaluation, '__call__', fill)
  with pytest.raises(OSError, match=f'{small_disk}.*No space left') as e:
    loop.train_stage(stage, str(small_disk / 'only'), tiny.mesh())
  assert 'intact' in str(e.value)
  (small_disk / 'other').unlink()
  at = int(tiny.last_state(stage, small_disk).step)
  assert at in (2, 3)


class TestWorkdir:
  def save(self, folder, **changes):
    config = tiny.get_config()
    for key, value in changes.items():
      config[key] = value
    config_lib.save(config, str(folder))
    return config_lib.load(folder)

  def test_another_config_is_refused_by_its_keys(self, tmp_path):
    self.save(tmp_path)
    (tmp_path / 'only' / 'checkpoints' / '3').mkdir(parents=True)
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(ValueError, match='seed: 0 there, 5 now') as e:
      self.save(tmp_path, seed=5)
    assert str(tmp_path) in str(e.value)
    assert (tmp_path / 'config.json').read_text() == before
    # What changes no number may change.
    found = self.save(tmp_path, threads=4, workers=2, log_every=7)
    assert found['threads'] == 4

  def test_one_that_never_began_makes_room(self, tmp_path):
    self.save(tmp_path)
    assert self.save(tmp_path, seed=5)['seed'] == 5


def test_the_first_ctrl_c_waits_the_second_does_not():
  import signal

  # A shell starts what it runs in the background with Ctrl-C ignored.
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  with interrupt.Stop() as stop:
    assert not stop(together=False)
    signal.raise_signal(signal.SIGINT)
    assert stop(together=False)
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  found = signal.signal(signal.SIGINT, before)
  assert found is signal.default_int_handler
  assert issubclass(loop.Interrupted, Exception)
