"""One mesh over all devices: what is split, what is everywhere."""

import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax.core import parallel


@pytest.fixture(params=[1, 2, 4])
def mesh(request):
  return parallel.make_mesh(jax.devices()[: request.param])


def test_the_mesh_has_every_device():
  mesh = parallel.make_mesh()
  assert mesh.axis_names == ('data',) and mesh.size == jax.device_count() == 4


def test_plain_indexing_works_on_split_arrays(mesh):
  """It would not with the explicit axes of `jax.make_mesh`."""
  batch = parallel.to_global({'x': np.arange(8)}, mesh)
  table = parallel.to_everywhere(np.arange(10.0), mesh)
  arrays = jax.jit(lambda t, i: t[i])(table, batch['x'])
  np.testing.assert_array_equal(arrays, np.arange(8.0))


def test_a_batch_is_split_and_comes_back_whole(mesh):
  batch = {
    'image': np.arange(8 * 6, dtype=np.float32).reshape(8, 2, 3),
    'taps': {'1/8': np.arange(8, dtype=np.int32)[:, None]},
    'mask': np.arange(8) < 5,
  }
  arrays = parallel.to_global(batch, mesh)
  for array, value in zip(jax.tree.leaves(arrays), jax.tree.leaves(batch)):
    assert array.sharding.is_equivalent_to(parallel.split(mesh), array.ndim)
    assert array.addressable_shards[0].data.shape[0] == 8 // mesh.size
    np.testing.assert_array_equal(parallel.local_rows(array), value)
    assert parallel.local_rows(array).dtype == value.dtype


def test_a_batch_that_does_not_divide_is_refused():
  mesh = parallel.make_mesh(jax.devices()[:4])
  parallel.check_batch_size(8, mesh)
  for size in (6, 0, -4):
    with pytest.raises(ValueError, match=f'batch_size {size} .* multiple of 4'):
      parallel.check_batch_size(size, mesh)


def test_a_tree_is_on_every_device(mesh):
  tree = {'a': np.arange(6.0).reshape(2, 3), 'b': np.int32(4)}
  arrays = parallel.to_everywhere(tree, mesh)
  for array, value in zip(jax.tree.leaves(arrays), jax.tree.leaves(tree)):
    assert len(array.addressable_shards) == mesh.size
    for shard in array.addressable_shards:
      np.testing.assert_array_equal(shard.data, value)
  assert isinstance(arrays['a'], jax.Array) and arrays['b'].dtype == jnp.int32


def test_a_mean_over_the_batch_is_the_global_one(mesh):
  values = np.float32([1, 2, 3, 10, -4, 0, 7, 5])
  batch = parallel.to_global({'x': values}, mesh)
  mean = jax.jit(
    lambda b: b['x'].mean(),
    in_shardings=(parallel.split(mesh),),
    out_shardings=parallel.replicated(mesh),
  )
  assert float(mean(batch)) == pytest.approx(values.mean())


def test_one_process_is_shard_zero_of_one():
  assert parallel.shard() == (0, 1)
  parallel.barrier('nobody to wait for')


LEAVE = """
import sys, time
from salflax.core import parallel
parallel.HEARTBEAT = 5
parallel.initialise(sys.argv[1], 2, int(sys.argv[2]))
print('ready', flush=True)
if sys.argv[2] == sys.argv[3]:
  parallel.barrier('both are here')
  try:
    raise ValueError('row 7 cannot be read')
  except ValueError as e:
    print(e)
    sys.exit(parallel.leave(1))
parallel.barrier('both are here')
if sys.argv[3] == '1':
  time.sleep(600)  # as in a computation that nothing ends
try:
  parallel.barrier('one has left')
except Exception as e:
  print(parallel.describe(e))
  sys.exit(parallel.leave(1))
"""


@pytest.mark.slow
@pytest.mark.parametrize('first', ['0', '1'])
def test_an_error_in_one_process_ends_all(first):
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{s.getsockname()[1]}'
  both = [
    subprocess.Popen(
      [sys.executable, '-c', LEAVE, address, i, first],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in '01'
  ]
  try:
    texts = [p.communicate(timeout=300)[0] for p in both]
  finally:
    for p in both:
      p.kill()
  assert both[int(first)].returncode == 1
  assert 'row 7 cannot be read' in texts[int(first)]
  assert 'Traceback' not in texts[int(first)]
  other = 1 - int(first)
  assert both[other].returncode not in (0, -9), texts[other]
  assert 'another task died' in texts[other] or (
    'Another process of this run has ended' in texts[other]
  )


def test_finished_processes_wait_for_the_last_one(monkeypatch):
  calls = []
  monkeypatch.setattr(
    jax.distributed, 'initialize', lambda *a, **k: calls.append((a, k))
  )
  parallel.initialise('')
  assert not calls
  parallel.initialise('auto')
  parallel.initialise('host:1', 4, 2)
  assert [a for a, _ in calls] == [(), ('host:1', 4, 2)]
  for _, options in calls:
    # Without a sign of life all end within a minute; with one, nobody waits
    # too short a time for references that one process alone computes.
    assert options['heartbeat_timeout_seconds'] < 60
    assert options['shutdown_timeout_seconds'] > 24 * 3600


def test_one_process_leaves_in_order():
  assert parallel.leave(3) == 3


def test_the_end_of_another_process_is_described():
  gone = RuntimeError('Gloo AllGather failed: Connection closed by peer\nmore')
  assert 'Another process of this run has ended' in parallel.describe(gone)
  assert parallel.describe(ValueError('row 7')) == 'row 7'
