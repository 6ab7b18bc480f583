import contextlib
import dataclasses
import fcntl
import re
import shutil
import subprocess
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from salflax.config import saved
from salflax.core import parallel
from salflax.train import checkpoint, interrupt, loop, step


def state_of(value, at=0):
  return step.TrainState(
    step=jnp.int32(at),
    params={'w': jnp.full((64, 64), value, jnp.float32)},
    batch_stats={},
    opt_state=({'m': jnp.zeros(3)},),
  )


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
    state_at, _ = checkpoints.restore(at, abstract, mesh)
    assert (np.asarray(state_at.params['w']) == at).all()
  checkpoints.close()


def test_another_model_is_named(tmp_path):
  checkpoints = checkpoint.Checkpoints(str(tmp_path))
  checkpoints.save(state_of(1), score=1.0)
  other = state_of(1).replace(params={'w': jnp.zeros((64, 32))})
  other = jax.eval_shape(lambda: other)
  with pytest.raises(ValueError, match='not of this model'):
    checkpoints.restore(0, other, tiny.mesh())
  checkpoints.close()
  with pytest.raises(ValueError, match='not of this model'):
    checkpoint.load_variables(str(tmp_path), other, tiny.mesh())


def test_nothing_to_load_is_named(tmp_path):
  abstract = jax.eval_shape(lambda: state_of(0))
  with pytest.raises(FileNotFoundError, match='not a folder'):
    checkpoint.load_variables(str(tmp_path / 'x'), abstract, tiny.mesh())
  # As a save leaves behind that was killed.
  (tmp_path / '3.orbax-checkpoint-tmp').mkdir()
  with pytest.raises(FileNotFoundError, match='No finished checkpoint'):
    checkpoint.load_variables(str(tmp_path), abstract, tiny.mesh())
  assert (tmp_path / '3.orbax-checkpoint-tmp').is_dir()


def _cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_data(step_folder):
  for path in (step_folder / 'state').glob('**/d/*'):
    _cut(path)


# Name -> (damage to one step's folder, message).
DAMAGE = {
  'cut data': (_cut_data, 'state cannot be read: '),
  'data gone': (
    lambda p: [shutil.rmtree(d) for d in p.glob('state/**/d')],
    'state cannot be read: ',
  ),
  'emptied manifest': (
    lambda p: (p / 'state' / 'manifest.ocdbt').write_bytes(b''),
    'state cannot be read: .*manifest',
  ),
  'no manifest': (
    lambda p: (p / 'state' / 'manifest.ocdbt').unlink(),
    'state/manifest.ocdbt is missing',
  ),
  'cut names': (
    lambda p: _cut(p / 'state' / '_METADATA'),
    'state/_METADATA cannot be read: ',
  ),
  'cut meta': (
    lambda p: _cut(p / 'meta' / 'metadata'),
    'meta/metadata cannot be read: ',
  ),
  'cut score': (
    lambda p: _cut(p / 'metrics' / 'metrics'),
    'metrics/metrics cannot be read: ',
  ),
  'binary score': (
    lambda p: (p / 'metrics' / 'metrics').write_bytes(b'\xff\x00'),
    'metrics/metrics cannot be read: ',
  ),
  'empty folder': (
    lambda p: (shutil.rmtree(p), p.mkdir()),
    'state/_METADATA is missing',
  ),
  'a file': (
    lambda p: (shutil.rmtree(p), p.write_text('x')),
    'state/_METADATA cannot be read: .*Not a directory',
  ),
}


@pytest.fixture(scope='module')
def two_steps(tmp_path_factory):
  """Checkpoints of step 1, and of step 3, which is the best and the last."""
  folder = tmp_path_factory.mktemp('two') / 'c'
  checkpoints = checkpoint.Checkpoints(str(folder), higher_is_better=False)
  for at, score in ((1, 0.1), (3, 0.05)):
    checkpoints.save(state_of(at, at), score=score)
    checkpoints.wait()
    if at == 1:  # else it would go away
      shutil.copytree(folder / '1', folder.parent / '1')
  checkpoints.close()
  if not (folder / '1').exists():
    (folder.parent / '1').rename(folder / '1')
  return folder


@pytest.mark.parametrize('name', DAMAGE)
def test_the_newest_whole_step_is_used_in_place_of_a_damaged_one(
  two_steps, tmp_path, caplog, name
):
  break_it, says = DAMAGE[name]
  folder = tmp_path / 'c'
  shutil.copytree(two_steps, folder)
  break_it(folder / '3')
  abstract, options = jax.eval_shape(lambda: state_of(0)), {}
  options['higher_is_better'] = False
  variables, at = checkpoint.load_variables(
    str(folder), abstract, tiny.mesh(), **options
  )
  assert at == 1 and (variables['params']['w'] == 1).all()
  (warning,) = (r.getMessage() for r in caplog.records)
  assert re.search(f'{folder}/3 is damaged: {says}', warning)
  assert 'Step 1 is read in its place' in warning
  assert sorted(p.name for p in folder.iterdir()) == ['1', '3']
  caplog.clear()
  checkpoints = checkpoint.Checkpoints(str(folder), **options)
  (warning,) = (r.getMessage() for r in caplog.records)
  assert re.search(f'{folder}/3 is damaged .{says}', warning)
  assert checkpoints.latest_step() == 1 and checkpoints.best() == (1, 0.1)
  state, _ = checkpoints.restore(1, abstract, tiny.mesh())
  tiny.assert_same(state, state_of(1, 1))
  # The step can be saved anew, and stands when it is read again.
  checkpoints.save(state_of(7, 3), score=0.01)
  checkpoints.close()
  variables, at = checkpoint.load_variables(
    str(folder), abstract, tiny.mesh(), **options
  )
  assert at == 3 and (variables['params']['w'] == 7).all()
  assert (folder / 'damaged-3').exists()


def test_where_every_step_is_damaged_nothing_is_begun_anew(two_steps, tmp_path):
  folder = tmp_path / 'c'
  shutil.copytree(two_steps, folder)
  for at in ('1', '3'):
    (folder / at / 'state' / 'manifest.ocdbt').write_bytes(b'')
  abstract = jax.eval_shape(lambda: state_of(0))
  for call in (
    lambda: checkpoint.Checkpoints(str(folder)),
    lambda: checkpoint.load_variables(str(folder), abstract, tiny.mesh()),
  ):
    with pytest.raises(ValueError, match=f'{folder}/1 is damaged: state') as e:
      call()
    assert f'{folder}/3 is damaged: state' in str(e.value)
    assert 'checkpoint is whole' in str(e.value)
  assert sorted(p.name for p in folder.iterdir()) == ['1', '3']
  # So does one empty folder, which no save leaves behind.
  shutil.rmtree(folder)
  (folder / '9').mkdir(parents=True)
  with pytest.raises(ValueError, match='9 is damaged: .* is missing'):
    checkpoint.Checkpoints(str(folder))


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


def test_too_little_room_is_an_error_before(tmp_path, monkeypatch):
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


@pytest.mark.usefixtures('console')
def test_a_disk_that_fills_up_leaves_earlier_ones_whole(small_disk, capfd):
  before = set(threading.enumerate())
  checkpoints = checkpoint.Checkpoints(str(small_disk / 'c'))

  def fill():
    free = shutil.disk_usage(small_disk).free
    (small_disk / 'other').write_bytes(bytes(free - 4096))

  def fails(at, rest):
    with pytest.raises(OSError, match='Cannot save a checkpoint in') as e:
      checkpoints.save(state_of(at, at), score=1.0 * at)
      checkpoints.wait()
    assert str(e.value).endswith(f'c: No space left on device; {rest}.')

  fill()
  fails(1, 'no earlier one is there')
  with contextlib.suppress(OSError):
    checkpoints.close()
  # A new process would not meet the threads of the failed save, which still
  # write.
  for thread in set(threading.enumerate()) - before:
    if not thread.name.startswith('asyncio'):  # those wait for further work
      threading.Thread.join(thread, 60)  # its own raises the error again
  (small_disk / 'other').unlink()
  checkpoints = checkpoint.Checkpoints(str(small_disk / 'c'))
  checkpoints.save(state_of(1, 1), score=1.0)
  checkpoints.wait()
  fill()
  fails(2, 'step 1 is intact')
  with contextlib.suppress(OSError):
    checkpoints.close()
  abstract = jax.eval_shape(lambda: state_of(0))
  variables, at = checkpoint.load_variables(
    str(small_disk / 'c'), abstract, tiny.mesh()
  )
  assert at == 1 and (variables['params']['w'] == 1).all()
  # The message alone: no tracebacks of libraries.
  assert capfd.readouterr().err == ''


@pytest.mark.slow
def test_training_on_a_disk_that_fills_up(base, small_disk, monkeypatch):
  stage = dataclasses.replace(base, eval_every=1)

  calls, folder = [], small_disk / 'only' / 'checkpoints'

  def fill(*args):
    calls.append(args)
    if len(calls) == 3:
      end = time.monotonic() + 60
      while [p.name for p in folder.iterdir()] != ['2']:
        assert time.monotonic() < end
        time.sleep(0.01)
      free = shutil.disk_usage(small_disk).free
      (small_disk / 'other').write_bytes(bytes(free - 8192))
    return {'mit/cc': 0.5}

  monkeypatch.setattr(loop._Evaluation, '__init__', lambda *args: None)
  monkeypatch.setattr(loop._Evaluation, '__call__', fill)
  with pytest.raises(OSError, match=f'{small_disk}.*No space left') as e:
    loop.train_stage(stage, str(small_disk / 'only'), tiny.mesh())
  assert str(e.value).endswith('step 2 is intact.')
  (small_disk / 'other').unlink()
  assert int(tiny.last_state(stage, small_disk).step) == 2


class TestWorkdir:
  def save(self, folder, **changes):
    config = tiny.get_config()
    for key, value in changes.items():
      config[key] = value
    saved.save(config, str(folder))
    return saved.load(folder)

  def test_another_config_is_refused_by_its_keys(self, tmp_path):
    self.save(tmp_path)
    (tmp_path / 'only' / 'checkpoints' / '3').mkdir(parents=True)
    before = (tmp_path / 'config.json').read_text()
    with pytest.raises(ValueError, match='seed: 0 there, 5 now') as e:
      self.save(tmp_path, seed=5)
    assert str(tmp_path) in str(e.value)
    assert (tmp_path / 'config.json').read_text() == before
    # What changes no number may change.
    config = self.save(tmp_path, threads=4, workers=2, log_every=7)
    assert config['threads'] == 4

  def test_a_begun_run_without_its_config_is_not_claimed(self, tmp_path):
    self.save(tmp_path)
    (tmp_path / 'only' / 'checkpoints' / '3').mkdir(parents=True)
    (tmp_path / 'config.json').unlink()
    for changes in ({}, {'seed': 5}):
      with pytest.raises(ValueError, match=f'{tmp_path} .* no config.json'):
        self.save(tmp_path, **changes)
    assert not (tmp_path / 'config.json').exists()

  @pytest.mark.parametrize('text', ['', '{"seed": 0,', '[]', '\x00'])
  def test_a_damaged_config_is_named(self, tmp_path, text):
    self.save(tmp_path)
    (tmp_path / 'only' / 'checkpoints' / '3').mkdir(parents=True)
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(ValueError, match=f'{tmp_path}/config.json: '):
      saved.load(tmp_path)
    with pytest.raises(ValueError, match=f'{tmp_path}/config.json: '):
      self.save(tmp_path)

  def test_one_that_never_began_makes_room(self, tmp_path):
    self.save(tmp_path)
    assert self.save(tmp_path, seed=5)['seed'] == 5


def test_a_workdir_is_for_one_training(tmp_path, monkeypatch):
  lock = open(tmp_path / '.lock', 'w+')
  lock.write('Process 7 on elsewhere')
  lock.flush()
  fcntl.flock(lock, fcntl.LOCK_EX)  # a file of its own: as another process
  with pytest.raises(BlockingIOError, match='7 on elsewhere is training in'):
    loop.run([], str(tmp_path))
  # Of the processes of one run, the first alone takes it.
  monkeypatch.setattr(jax, 'process_index', lambda: 1)
  with checkpoint.workdir_lock(str(tmp_path)):
    pass


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
  handler = signal.signal(signal.SIGINT, before)
  assert handler is signal.default_int_handler
