"""TranSalNet here against the same network in PyTorch: same numbers, how fast.

Both take the same drawn parameters and made-up images. PyTorch has its faster
layout, channels_last, and is not compiled. float32 is that throughout, tf32
lets a GPU round what it multiplies; bfloat16 is `config.dtype` here and
autocast there, parameters float32 in both.

On a CPU both take turns, on as many threads. On a GPU each has the memory to
itself: first PyTorch does all, then we.
"""

import gc
import importlib.util
import multiprocessing
import os
import statistics
import time
import types
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import numpy as np

from salflax import cli
from salflax.cli import bench_clock
from salflax.cli.bench_sides import Ours, Task, Torch
from salflax.core import spec, workers

# Train steps first: what needs most memory finds it in one piece.
WHATS = ('train step', 'forward')
DTYPES = ('float32', 'tf32', 'bfloat16')
FULL = 'out of memory'
# How far maps, and losses of their size, may differ in float32.
LIMIT = 1e-5


class Result(NamedTuple):
  """What a task took on one side.

  Attributes:
    seconds: time of one call; None where the memory did not suffice.
    memory: peak in GB; None on a CPU.
    value: maps f32 [B, H, W] of the forward pass, or the first step's loss.
  """

  seconds: float | None
  memory: float | None
  value: np.ndarray | None


def _warm(side: Any, task: Task) -> tuple[Callable, np.ndarray] | None:
  """Makes a task's call and takes its first value; None if memory is short."""
  try:
    call = side.start(task)
    value = side.array(call())
    side.wait(call())
  except Exception as e:
    text = f'{type(e).__name__} {e}'
    if 'RESOURCE_EXHAUSTED' in text or 'OutOfMemory' in text:
      return None
    raise
  return call, value


def _seconds(side: Any, call: Callable[[], Any]) -> float:
  """Times one call, as the mean of several where they queue up."""

  def calls():
    for _ in range(side.calls):
      value = call()
    side.wait(value)

  clock = bench_clock.alone() if side.calls == 1 else time.perf_counter
  return bench_clock.seconds(calls, clock)[0] / side.calls


def measure(sides: Sequence[Any], task: Task, repeats: int) -> list[Result]:
  """Times a task on each side in turn; medians, after two calls to warm up."""
  ready, times = [_warm(side, task) for side in sides], [[] for _ in sides]
  for _ in range(repeats):
    for side, warm, took in zip(sides, ready, times):
      if warm:
        took.append(_seconds(side, warm[0]))
  results = [
    Result(
      statistics.median(took) if warm else None,
      side.memory(task),
      warm and warm[1],
    )
    for side, warm, took in zip(sides, ready, times)
  ]
  del ready, warm
  gc.collect()
  return results


def row(task: Task, device: str, ours: Result, theirs: Result) -> dict:
  """Writes the row of a table."""
  both = ours.seconds and theirs.seconds
  rate = lambda r: task.batch / r.seconds if r.seconds else FULL
  values = {
    'what': task.what,
    'batch': task.batch,
    'dtype': task.dtype,
    'images/s': rate(ours),
    'PyTorch, images/s': rate(theirs),
    'times as fast': theirs.seconds / ours.seconds if both else '',
    'peak GB': ours.memory or '',
    'PyTorch, peak GB': theirs.seconds and theirs.memory or '',
    'largest difference': '',
    'device': device,
  }
  if both:
    far = np.abs(ours.value - theirs.value) / np.maximum(1, theirs.value)
    values['largest difference'] = float(far.max())
    if task.dtype == 'float32' and not far.max() <= LIMIT:
      cli.say(f'These are not the same numbers: {task}, {far.max():.2g}.')
  return values


def compare(options: Any) -> list[dict[str, Any]]:
  """Times both, task by task, by a row each.

  Raises:
    ImportError: PyTorch is not installed.
    ValueError: an option is out of its range.
  """
  tasks = _tasks(options)
  if importlib.util.find_spec('torch') is None:
    raise ModuleNotFoundError("No module named 'torch'", name='torch')
  names = ('height', 'width', 'smoke', 'repeats')
  options = types.SimpleNamespace(**{k: getattr(options, k) for k in names})
  # JAX reaches a GPU by a plugin.
  gpu = importlib.util.find_spec('jax_plugins') and _of_gpu(options, tasks)
  if gpu:
    device, results = gpu
    os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '.92')
    results |= _results([Ours(options, gpu=True)], tasks, options)
  else:
    device = f'CPU, {workers.cores()} threads'
    os.environ['JAX_PLATFORMS'] = 'cpu'
    sides = [Ours(options, gpu=False), Torch(options, gpu=False)]
    results = _results(sides, tasks, options)
  order = lambda t: (t.what, DTYPES.index(t.dtype), t.batch)
  return [
    row(task, device, results[task, 'ours'], results[task, 'PyTorch'])
    for task in sorted(tasks, key=order)
  ]


def _of_gpu(options: Any, tasks: Sequence[Task]) -> tuple[str, dict] | None:
  """Takes PyTorch's results on a GPU, with its name; None without a GPU.

  In a process of its own: what PyTorch had is free then, and each library
  loads its own CUDA.
  """
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(1, mp_context=context) as pool:
    return pool.submit(_torch_on_gpu, options, tasks).result()


def _torch_on_gpu(options, tasks):
  os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  import jax
  import torch

  if not torch.cuda.is_available() or jax.default_backend() != 'gpu':
    return None
  results = _results([Torch(options, gpu=True)], tasks, options)
  return torch.cuda.get_device_name(), results


def _results(sides, tasks, options) -> dict:
  """Measures {(task, name of a side): result}, and says them as they come."""
  results = {}
  for task in tasks:
    for side, result in zip(sides, measure(sides, task, options.repeats)):
      results[task, side.name] = result
      took = f'{result.seconds:.4f} s' if result.seconds else FULL
      cli.say(f'{side.name}, {task.what}, {task.batch}, {task.dtype}: {took}')
  return results


def _tasks(options: Any) -> list[Task]:
  """Reads --batches and --dtypes; what needs most memory comes first."""
  for dtype in options.dtypes:
    if dtype not in DTYPES:
      raise spec.unknown('dtype', dtype, DTYPES)
  for batch in options.batches:
    if not batch.isdecimal() or not int(batch):
      raise ValueError(f'--batches={batch}: a whole number above 0 is wanted.')
  batches = sorted({int(b) for b in options.batches}, reverse=True)
  return [
    Task(what, batch, dtype)
    for batch in batches
    for what in WHATS
    for dtype in dict.fromkeys(options.dtypes)
  ]
