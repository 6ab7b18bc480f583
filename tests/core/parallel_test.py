"""One mesh over all devices: what is split, what is everywhere."""

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
  found = jax.jit(lambda t, i: t[i])(table, batch['x'])
  np.testing.assert_array_equal(found, np.arange(8.0))


def test_a_batch_is_split_and_comes_back_whole(mesh):
  batch = {
    'image': np.arange(8 * 6, dtype=np.float32).reshape(8, 2, 3),
    'taps': {'1/8': np.arange(8, dtype=np.int32)[:, None]},
    'mask': np.arange(8) < 5,
  }
  found = parallel.to_global(batch, mesh)
  for array, value in zip(jax.tree.leaves(found), jax.tree.leaves(batch)):
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
  found = parallel.to_everywhere(tree, mesh)
  for array, value in zip(jax.tree.leaves(found), jax.tree.leaves(tree)):
    assert len(array.addressable_shards) == mesh.size
    for shard in array.addressable_shards:
      np.testing.assert_array_equal(shard.data, value)
  assert isinstance(found['a'], jax.Array) and found['b'].dtype == jnp.int32


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
