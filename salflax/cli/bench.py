"""Times parts of the system and prints a Markdown table.

    salflax bench --what=metrics --height=768 --width=1024
    salflax bench --what=train --config=configs/sjtu_tis.py:small
    salflax bench --what=compile --config=configs/sjtu_tis.py --topology=v5e:2x2

`train` and `compile` take the last stage of a config with drawn weights and
made-up rows: no data, and of weights only the text encoder's. `compile` needs
no TPU, only its compiler: pip install "salflax[tpu]".
"""

import dataclasses
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from salflax import cli
from salflax.cli import config_file

Row = tuple[str, ...]


def _cpu_ms(fn: Callable[[], Any], repeats: int) -> float:
  """Median CPU time of a call in ms, all threads, after one call to warm up."""
  fn()
  times = []
  for _ in range(repeats):
    start = time.process_time()
    fn()
    times.append(1e3 * (time.process_time() - start))
  return statistics.median(times)


def _example(height: int, width: int):
  """Makes up a prediction and a ground truth like those of real gaze."""
  from scipy import ndimage

  from salflax.core.types import GroundTruth

  rng = np.random.default_rng(0)
  size = np.array([height, width])
  points = rng.normal(size / 2, size / 6, (170, 2)).astype(np.int64)
  points = np.clip(points, 0, size - 1)
  fixations = np.zeros((height, width))
  np.add.at(fixations, tuple(points.T), 1)
  saliency = ndimage.gaussian_filter(fixations, 32)
  noise = ndimage.gaussian_filter(rng.random((height, width)), 16)
  y, x = (np.linspace(-1, 1, n) for n in (height, width))
  centre = np.exp(-2 * (y[:, None] ** 2 + x**2))
  truth = GroundTruth(
    saliency=saliency,
    fixations=points,
    other_fixations=rng.integers(0, size, (1_700, 2)),
    baseline=centre / centre.sum(),
  )
  return centre * (noise - noise.min()), truth


def bench_metrics(options: Any) -> tuple[Row, list[Row]]:
  """Times each metric; returns the head and rows of a table.

  The checks of `score` are part of the time, once a row.
  """
  from salflax import metrics

  pred, truth = _example(options.height, options.width)
  rng = metrics.image_rng('bench')
  rows = []
  for text in [
    *metrics.METRICS,
    'auc_shuffled(exact=True)',
    *metrics.PROTOCOLS,
  ]:
    bound = metrics.bind_metrics(text)
    call = lambda bound=bound: metrics.score(pred, truth, bound, rng)
    kind = 'protocol' if text in metrics.PROTOCOLS else 'metric'
    rows.append((f'`{text}`', kind, f'{_cpu_ms(call, options.repeats):.1f}'))
  size = f'{options.width}x{options.height}'
  return ('what', 'kind', f'ms of CPU, {size}'), rows


def last_stage(options: Any):
  """Builds the last stage of --config, without data or backbone weights."""
  from salflax.config import resolve as config_lib

  if options.config is None:
    raise cli.UsageError(f'--what={options.what} needs --config.')
  config = options.config
  with config.unlocked():
    config.model.weights = config.model.backbone.weights = ''
    for key, value in (('steps', 100), ('epochs', 0.0)):
      config[config.stages[-1]][key] = value
  return config_lib.resolve(config, with_data=False)[-1]


def example_rows(stage: Any) -> list[dict[str, Any]]:
  """Makes up the rows of one batch."""
  rng, size = np.random.default_rng(0), tuple(stage.model.size)
  row = {
    'image': rng.integers(0, 256, (*size, 3), np.uint8),
    'saliency': rng.integers(0, 256, (*size, 1), np.uint8),
    'fixations': rng.integers(0, min(size), (100, 2)),
    'text': 'a red umbrella',
    'condition': 'whole',
  }
  return [dict(row, image_id=str(i)) for i in range(stage.batch_size)]


def train_step(stage: Any, mesh: Any) -> Callable:
  """Builds the train step of a stage."""
  from salflax.train import step

  return step.make_train_step(
    stage.model,
    stage.loss_fn,
    stage.make_tx(),
    mesh,
    contrast_fn=stage.contrast_fn,
    round_taps='backbone' in stage.stored,
  )


def bench_train(options: Any) -> tuple[Row, list[Row]]:
  """Times a train step and its memory; returns head and rows of a table."""
  import jax

  from salflax.core import parallel
  from salflax.train import log
  from salflax.train import stage as stages_lib

  stage, mesh = last_stage(options), parallel.make_mesh()
  state = stages_lib.initial_state(stage, mesh)
  with tempfile.TemporaryDirectory() as folder:
    stage = dataclasses.replace(
      stage, train_source=example_rows(stage), cache_dir=folder, workers=0
    )
    batches = iter(stages_lib.train_batches(stage, state.variables))
    batch = parallel.to_global(next(batches), mesh)
    batches.close()
  key = jax.random.key_data(jax.random.key(0))
  take_step = train_step(stage, mesh)
  times = []
  for _ in range(options.repeats + 1):
    start = time.perf_counter()
    state, measures = jax.block_until_ready(take_step(state, batch, key))
    times.append(time.perf_counter() - start)
  seconds = statistics.median(times[1:])
  numbers = {
    'devices': f'{mesh.size} x {jax.devices()[0].device_kind}',
    'batch': stage.batch_size,
    'first step, s': f'{times[0]:.1f}',
    'step, ms': f'{1e3 * seconds:.0f}',
    'images/s': f'{stage.batch_size / seconds:.1f}',
    'peak memory, MB': f'{log.peak_memory_mb():.0f}',
  }
  return tuple(numbers), [tuple(map(str, numbers.values()))]


def bench_compile(options: Any) -> tuple[Row, list[Row]]:
  """Compiles a train step for TPUs; returns head and rows of a table.

  Frozen parts are in the step: no stored features stand in for them.
  """
  import jax
  import libtpu  # noqa: F401 (the error says what to install)
  from jax.experimental import topologies

  from salflax.core import parallel
  from salflax.train import stage as stages_lib

  stage = dataclasses.replace(last_stage(options), stored=frozenset())
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=options.topology
  )
  mesh = parallel.make_mesh(topology.devices)
  parallel.check_batch_size(stage.batch_size, mesh)
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((stage.batch_size, *x.shape[1:]), x.dtype),
    stages_lib.example_batch(stage),
  )
  key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  start = time.perf_counter()
  lowered = train_step(stage, mesh).lower(
    stages_lib.abstract_state(stage), batch, key
  )
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  memory, text = compiled.memory_analysis(), compiled.as_text()
  numbers = {
    'topology': options.topology,
    'batch': stage.batch_size,
    'compile, s': f'{seconds:.0f}',
    'temporaries, MB': f'{memory.temp_size_in_bytes / 1e6:.0f}',
    'arguments, MB': f'{memory.argument_size_in_bytes / 1e6:.0f}',
    'flops': f'{compiled.cost_analysis()["flops"]:.3g}',
    'all-reduces': len(re.findall(r'all-reduce(-start)?\(', text)),
  }
  return tuple(numbers), [tuple(map(str, numbers.values()))]


BENCHMARKS = {
  'metrics': bench_metrics,
  'train': bench_train,
  'compile': bench_compile,
}


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  config_file.define(values, 'What train and compile take.')
  topologies = 'TPUs to compile for, e.g. v4:2x2x1, v6e:2x2.'
  number = flags.DEFINE_integer
  cli.define(
    values,
    (flags.DEFINE_enum, 'what', 'metrics', list(BENCHMARKS), 'What to time.'),
    (flags.DEFINE_string, 'topology', 'v5e:2x2', topologies),
    (number, 'repeats', 9, 'Number of calls to take the median of.', 1),
    (number, 'height', 480, 'Height of the image in pixels, for metrics.', 1),
    (number, 'width', 640, 'Width of the image in pixels, for metrics.', 1),
  )


def execute(options: Any) -> None:
  """Runs a benchmark and prints its table; memory and flops are a device's."""
  head, rows = BENCHMARKS[options.what](options)
  for row in (head, ('---',) * len(head), *rows):
    print('| ' + ' | '.join(row) + ' |')
  print(
    f'\nPython {platform.python_version()}, NumPy {np.__version__}, '
    f'{platform.machine()}; median of {options.repeats}.'
  )


if __name__ == '__main__':
  cli.run(define_flags, execute)
