"""Compiles a train step ahead of time for accelerators that are not here.

What a step costs on them is the compiler's word (operations, bytes, memory,
collectives); how long it takes is an estimate from the published figures of
the chips: the longer of computing and of reading and writing, plus the
collectives, as if nothing overlapped with them.
"""

import dataclasses
import math
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from unittest import mock

from salflax.core import spec


class Chip(NamedTuple):
  """What the maker publishes of a chip.

  Attributes:
    flops: operations a second in bfloat16.
    bandwidth: bytes a second of its memory.
    link: bytes a second to its neighbours, one way, over all links.
    devices: devices that XLA sees in a chip.
    shapes: allowed topologies.
  """

  flops: float
  bandwidth: float
  link: float
  devices: int
  shapes: str


_FLAT = '1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16'
_CUBE = '1x1x1, 2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8, ...'
# cloud.google.com/tpu/docs/v5e and its neighbours.
CHIPS = {
  'v4': Chip(275e12, 1228e9, 300e9, 2, _CUBE),
  'v5e': Chip(197e12, 819e9, 200e9, 1, _FLAT),
  'v5p': Chip(459e12, 2765e9, 600e9, 1, _CUBE),
  'v6e': Chip(918e12, 1638e9, 400e9, 1, _FLAT),
  # nvidia.com/en-us/data-center/h100, SXM, dense.
  'h100': Chip(989e12, 3352e9, 450e9, 1, '1 to 8'),
  # No accelerator: the processor that is here, to try the command.
  'cpu': Chip(1e11, 1e10, 1e10, 1, '1, 2, ...: as many as jax has'),
}
# An H100 SXM with 80 GB, as the compiler describes one that it has found.
_H100 = pathlib.Path(__file__).with_name('h100.textproto')
# Without a GPU, its search for the tiles of a product ends the process.
_OPTIONS = {'gpu': {'xla_gpu_enable_triton_gemm': False}}
_BYTES = {'pred': 1, 'bf16': 2, 'f16': 2, 'f32': 4, 's32': 4, 'u32': 4}
_COLLECTIVE = re.compile(
  r'= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|'
  r'collective-permute)(-done)?\('
)


def devices(topology: str) -> tuple[Chip, Sequence[Any]]:
  """Looks up the chip of a topology such as 'v5e:2x2', and makes its devices.

  Raises:
    ValueError: there is no such topology, or the processor has fewer devices.
    ImportError: the compiler for TPUs is not installed.
  """
  import jax

  name, _, shape = topology.partition(':')
  chip = spec.lookup('chip of --topology', CHIPS, name)
  wrong = ValueError(
    f'--topology={topology}: no such shape of {name}; allowed: {chip.shapes}.'
  )
  if name == 'cpu':
    here = jax.devices('cpu')
    if not shape.isdigit() or not int(shape):
      raise wrong
    if int(shape) > len(here):
      raise ValueError(
        f'--topology={topology}: a mesh of {shape} devices, but {len(here)} '
        f'are here; allowed: 1 to {len(here)}.'
      )
    return chip, here[: int(shape)]
  if name == 'h100':
    if shape not in map(str, range(1, 9)):
      raise wrong
    return chip, _h100(int(shape))
  # Two programs may compile at once: neither has the chips.
  os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
  import libtpu  # noqa: F401 (the error says what to install)
  from jax.experimental import topologies

  sides = shape.split('x')
  if not all(s.isdigit() and int(s) for s in sides):
    raise wrong
  # A host of one chip; else the default, a host of 2x2.
  one = {'chips_per_host_bounds': (1, 1, 1)} if {*sides} == {'1'} else {}
  try:
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=topology, **one
    )
  except Exception as e:
    raise wrong from e
  return chip, description.devices


def _h100(count: int) -> Sequence[Any]:
  """Makes H100s of one host, for the compiler alone.

  Raises:
    ImportError: the compiler for CUDA is not installed.
  """
  # It would look for libraries that only running needs.
  os.environ['JAX_SKIP_CUDA_CONSTRAINTS_CHECK'] = '1'
  import jax_plugins.xla_cuda13  # noqa: F401 (the error says what to install)
  from jax.experimental import topologies

  description = topologies.get_topology_desc(
    platform='cuda', target_config=_H100.read_text(), topology=f'1x1x{count}'
  )
  return description.devices


def collectives(text: str) -> dict[str, tuple[int, int]]:
  """Counts the collectives of a compiled program: {kind: (number, bytes)}.

  Bytes are those of the results, on one device; a loop counts once.
  """
  totals = {}
  for shapes, kind, _ in _COLLECTIVE.findall(text):
    size = sum(
      _BYTES.get(dtype, 4) * math.prod(int(n) for n in sides.split(',') if n)
      for dtype, sides in re.findall(r'(\w+)\[([\d,]*)\]', shapes)
    )
    number, total = totals.get(kind, (0, 0))
    totals[kind] = number + 1, total + size
  return totals


def estimate(
  chip: Chip, flops: float, moved: float, sent: dict, count: int
) -> tuple[float, float]:
  """Estimates (seconds of a step, seconds of its collectives).

  Args:
    chip: the chip.
    flops: operations of one device.
    moved: bytes that one device reads and writes.
    sent: as of `collectives`.
    count: number of devices.
  """
  share = 1 / chip.devices
  # A ring passes each result round once to sum it, and once to spread it.
  rounds = {'all-reduce': 2, 'reduce-scatter': count, 'all-gather': 1}
  passed = sum(rounds.get(kind, 1) * size for kind, (_, size) in sent.items())
  link = passed * (count - 1) / count / (share * chip.link)
  work = max(flops / (share * chip.flops), moved / (share * chip.bandwidth))
  return work + link, link


def lower(stage: Any, targets: Sequence[Any]) -> Any:
  """Traces the train step of a stage for devices.

  Raises:
    ValueError: the batch, its parts or the shards do not divide.
  """
  import jax

  from salflax.core import parallel
  from salflax.train import checks
  from salflax.train import stage as stages_lib

  mesh = parallel.make_mesh(list(targets), shards=stage.param_shards)
  checks.check_batch(stage, mesh)
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((stage.batch_size, *x.shape[1:]), x.dtype),
    stages_lib.example_batch(stage),
  )
  key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  state = stages_lib.abstract_state(stage)
  if stage.param_shards > 1:
    state = parallel.on_mesh(state, parallel.layout(state, mesh))
  return stages_lib.train_step(stage, mesh).lower(state, batch, key)


def peak_bytes(compiled: Any) -> int:
  """Adds up the bytes that a compiled program plans to take at most."""
  memory = compiled.memory_analysis()
  kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
  return memory.argument_size_in_bytes + memory.temp_size_in_bytes + kept


def costs(stage: Any, compiled: Any, count: int) -> tuple[float, float]:
  """Counts the operations of one of `count` devices, and the bytes it moves."""
  import jax
  from jaxlib import _jax

  # XLA counts the loop over the parts of a batch once.
  parts = stage.accumulate
  if cost := compiled.cost_analysis():
    return parts * cost['flops'], parts * cost['bytes accessed']
  # The compiler for CUDA does not count. Operations are those of the traced
  # step, since much of a compiled one is calls of libraries; bytes are those
  # of the compiled one.
  cpu = jax.devices('cpu')[:1]
  one = dataclasses.replace(
    stage, batch_size=stage.batch_size // count, param_shards=1
  )
  traced = lower(one, cpu).cost_analysis()
  module = compiled.runtime_executable().hlo_modules()[0]
  moved = _jax.hlo_module_cost_analysis(cpu[0].client, module)
  return parts * traced['flops'], parts * moved['bytes accessed']


def measure(stage: Any, topology: str) -> dict[str, Any]:
  """Compiles the train step of a stage for a topology, and says what it costs.

  Raises:
    MemoryError: it does not fit; the message is the compiler's.
    ValueError: there is no such topology, or the batch does not divide.
  """
  import jax

  chip, targets = devices(topology)
  start = time.perf_counter()
  platform = targets[0].platform
  # Networks take the form that they have there.
  with mock.patch.object(jax, 'default_backend', lambda: platform):
    try:
      compiled = lower(stage, targets).compile(_OPTIONS.get(platform))
    except Exception as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      raise MemoryError(str(e).splitlines()[0][:300]) from e
  flops, moved = costs(stage, compiled, len(targets))
  sent = collectives(compiled.as_text())
  step, link = estimate(chip, flops, moved, sent, len(targets))
  return {
    'topology': topology,
    'chips': len(targets) // chip.devices,
    'batch': stage.batch_size,
    'Tflop': flops / 1e12,
    'GB moved': moved / 1e9,
    'peak GB': peak_bytes(compiled) / 1e9,
    'collectives': sum(number for number, _ in sent.values()),
    'MB sent': sum(size for _, size in sent.values()) / 1e6,
    'step ms': 1e3 * step,
    'images/s': stage.batch_size / step,
    '% of peak': 100 * flops / (chip.flops / chip.devices) / step,
    '% scaling': 100 * (1 - link / step),
    'compile s': time.perf_counter() - start,
  }


def largest(stage: Any, topology: str, top: int = 1024) -> dict[str, Any]:
  """Finds the largest power of two of rows a device that the compiler fits.

  From above, since what does not fit is refused within seconds.

  Raises:
    MemoryError: not even one row a device fits.
  """
  _, targets = devices(topology)
  rows, refused = top, ''
  while rows:
    batch = rows * len(targets) * stage.accumulate
    try:
      return measure(dataclasses.replace(stage, batch_size=batch), topology)
    except MemoryError as e:
      rows, refused = rows // 2, str(e)
  raise MemoryError(refused)
