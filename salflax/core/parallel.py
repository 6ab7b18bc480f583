"""One mesh over all devices of all processes; the batch is split, the rest is
on every device, or the larger parameters are split over some of them.

`jit` with these shardings does what `pmap` was for, with one code path for one
device, many devices and many processes: batch statistics and losses are those
of the global batch, and XLA inserts the all-reduces.
"""

import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Seconds without a sign of life after which a process counts as dead, and all
# others end.
HEARTBEAT = 30
# Seconds that finished processes wait for the last one, which may have hours
# of evaluation to do: its heartbeat says whether it lives.
SHUTDOWN = 7 * 24 * 3600


def initialise(coordinator: str, processes: int = 1, process: int = 0) -> None:
  """Joins the processes of one run over several hosts.

  Args:
    coordinator: host:port of process 0; 'auto' where the cluster sets it; ''
      for a run of one process.
    processes: number of processes.
    process: index of this process.
  """
  if not coordinator:
    return
  place = () if coordinator == 'auto' else (coordinator, processes, process)
  jax.distributed.initialize(
    *place,
    heartbeat_timeout_seconds=HEARTBEAT,
    shutdown_timeout_seconds=SHUTDOWN,
  )


def describe(error: BaseException) -> str:
  """Writes an error's message; says so where it is another process's end.

  Such an error comes out of whatever computation this process was in.
  """
  signs = ('closed by peer', 'Gloo', 'coordination service', 'heartbeat')
  if any(s in str(error) for s in signs):
    first = str(error).splitlines()[0][:200]
    return (
      'Another process of this run has ended; what it printed says why. (Here: '
      f'{first})'
    )
  return str(error)


def leave(code: int) -> int:
  """Ends this process at once if it is one of several, with an exit code.

  For errors: an orderly exit would wait for the others, which wait for this
  one in a computation. Without its heartbeat they end, too.

  Returns:
    The code, where this is the only process.
  """
  if not jax.distributed.is_initialized() or jax.process_count() == 1:
    return code
  if jax.process_index() == 0:
    # The others have the same error, perhaps: they may say so first.
    time.sleep(2)
  logging.shutdown()
  for stream in (sys.stdout, sys.stderr):
    stream.flush()
  os._exit(code)


def make_mesh(
  devices: list[jax.Device] | None = None, *, shards: int = 1
) -> Mesh:
  """Makes a mesh with the axis 'data' over all devices.

  `jax.make_mesh` is avoided: from jax 0.9 on its axes are explicit, under
  which plain indexing inside a model raises.

  Args:
    devices: devices of the mesh; all by default.
    shards: above 1, neighbours that share one copy of the state stand along a
      second axis, 'shard'.

  Raises:
    ValueError: `shards` does not divide the number of devices.
  """
  devices = np.array(jax.devices() if devices is None else devices)
  if shards == 1:
    return Mesh(devices, ('data',))
  if shards < 1 or devices.size % shards:
    fit = [n for n in range(1, devices.size + 1) if devices.size % n == 0]
    raise ValueError(
      f'param_shards {shards} does not divide {devices.size} devices; allowed: '
      f'{", ".join(map(str, fit))}.'
    )
  return Mesh(devices.reshape(-1, shards), ('data', 'shard'))


def replicated(mesh: Mesh) -> NamedSharding:
  """Makes the sharding that puts a whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
  """Makes the sharding that splits axis 0 over the devices."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def layout(tree: Any, mesh: Mesh) -> Any:
  """Makes the sharding of each array of a state, or of its shapes.

  Along the axis 'shard' of the mesh, if it has one, arrays of two and more
  axes are split at the longest axis that divides; all else is everywhere.
  """
  shards = mesh.shape.get('shard', 1)

  def of(x):
    fit = [k for k, n in enumerate(x.shape) if n % shards == 0]
    if shards == 1 or len(x.shape) < 2 or not fit:
      return replicated(mesh)
    longest = max(fit, key=lambda k: x.shape[k])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, 'shard'))

  return jax.tree.map(of, tree)


def on_mesh(tree: Any, shardings: Any) -> Any:
  """Describes the shapes of a tree, and where its arrays belong."""
  return jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    *(tree, shardings),
  )


def keep_layout(tree: Any, mesh: Mesh) -> Any:
  """Asks for the sharding of `layout`, inside `jit`."""
  if 'shard' not in mesh.shape:
    return tree
  return jax.lax.with_sharding_constraint(tree, layout(tree, mesh))


def gather(tree: Any, mesh: Mesh) -> Any:
  """Puts the arrays of `tree`, whole, on every device."""
  if all(x.sharding.is_fully_replicated for x in jax.tree.leaves(tree)):
    return tree
  return jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)


def shard() -> tuple[int, int]:
  """Tells the index of this process and the number of processes."""
  return jax.process_index(), jax.process_count()


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Raises ValueError where a global batch does not divide over the mesh."""
  if batch_size < 1 or batch_size % mesh.size:
    raise ValueError(
      f'batch_size {batch_size} does not divide over {mesh.size} devices; use '
      f'a multiple of {mesh.size}.'
    )


def to_global(batch: Mapping[str, Any], mesh: Mesh) -> Mapping[str, Any]:
  """Splits the batch over the mesh.

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
  """Puts the arrays of `tree`, equal on all processes, on every device."""
  return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def place(tree: Any, shardings: Any) -> Any:
  """Puts the arrays of `tree`, equal on all processes, where they belong."""
  return jax.tree.map(
    lambda x, sharding: jax.make_array_from_callback(
      np.shape(x), sharding, lambda i: np.asarray(x)[i]
    ),
    *(tree, shardings),
  )


def local_rows(array: jax.Array) -> np.ndarray:
  """Collects this process's rows of an array that is split along axis 0."""
  if array.is_fully_addressable:
    return np.asarray(array)
  shards = {s.index[0].start or 0: s.data for s in array.addressable_shards}
  return np.concatenate([np.asarray(shards[k]) for k in sorted(shards)])


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
