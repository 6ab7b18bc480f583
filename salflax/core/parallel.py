"""One mesh over all devices of all processes; the batch is split, the rest is
on every device.

`jit` with these shardings does what `pmap` was for, with one code path for one
device, many devices and many processes: batch statistics and losses are those
of the global batch, and XLA inserts the all-reduces.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
  """Returns a mesh with the one axis 'data' over all devices.

  `jax.make_mesh` is avoided: from jax 0.9 on its axes are explicit, under
  which plain indexing inside a model raises.
  """
  return Mesh(
    np.array(jax.devices() if devices is None else devices), ('data',)
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that puts a whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that splits axis 0 over the devices."""
  return NamedSharding(mesh, PartitionSpec('data'))


def shard() -> tuple[int, int]:
  """Returns (index of this process, number of processes)."""
  return jax.process_index(), jax.process_count()


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises ValueError where a global batch does not divide over the mesh."""
  if batch_size < 1 or batch_size % mesh.size:
    raise ValueError(
      f'batch_size {batch_size} does not divide over {mesh.size} devices; use '
      f'a multiple of {mesh.size}.'
    )


def to_global(batch: Mapping[str, Any], mesh: Mesh) -> Mapping[str, Any]:
  """Returns the batch as arrays split over the mesh.

  Args:
    batch: arrays [B / processes, ...]: this process's rows.
    mesh: the mesh.
  """
  sharding = split(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)),
    batch,
  )


def to_everywhere(tree: Any, mesh: Mesh) -> Any:
  """Returns the arrays of `tree`, equal on all processes, on every device."""
  sharding = replicated(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_callback(
      np.shape(x), sharding, lambda i, x=x: np.asarray(x)[i]
    ),
    tree,
  )


def local_rows(array: jax.Array) -> np.ndarray:
  """Returns this process's rows of an array that is split along axis 0."""
  if array.is_fully_addressable:
    return np.asarray(array)
  shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
  return np.concatenate([np.asarray(shards[k]) for k in sorted(shards)])


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
