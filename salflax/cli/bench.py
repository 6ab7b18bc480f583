"""Times parts of the system and prints a Markdown table.

    salflax bench --what=metrics --height=768 --width=1024
    salflax bench --what=train --config=configs/sjtu_tis.py:small
    salflax bench --what=compile --config=configs/sjtu_tis.py --topology=v5e:2x2

`train` and `compile` take the last stage of a config with drawn weights and
made-up rows: no data, and of weights only the text encoder's. `compile` needs
no TPU, only its compiler: pip install "salflax[tpu]".
"""

import platform
import statistics
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


def rows_of(stage: Any) -> dict[str, Any]:
  """Makes up a batch, with stored features where the stage has them."""
  import jax

  from salflax.train import stage as stages_lib
  from salflax.train import step

  rng = np.random.default_rng(0)
  batch = dict(stages_lib.example_batch(stage))
  abstract = stages_lib.abstract_state(stage)
  if 'text' in stage.stored:
    ids, mask = batch['tokens'], batch['token_mask']
    text = jax.eval_shape(
      lambda v: stage.model.apply(v, ids, mask, method='encode_text'),
      abstract.variables,
    )
    batch['text_tokens'] = rng.normal(size=text.tokens.shape)
    batch['sentence'] = rng.normal(size=text.sentence.shape)
  if 'backbone' in stage.stored:
    image = batch['image']
    taps = jax.eval_shape(
      lambda v: step.encode_image(stage.model, v, image), abstract.variables
    )
    batch['taps'] = {k: rng.random(t.shape) for k, t in taps.items()}
  if stage.contrast_fn is None:
    for stored, key in (('text_tokens', 'tokens'), ('taps', 'image')):
      batch.pop(key if stored in batch else '', None)
  batch['saliency'] = rng.random(batch['saliency'].shape)

  def repeat(x):
    kind = {'f': np.float32}.get(np.asarray(x).dtype.kind)
    return np.repeat(np.asarray(x, kind), stage.batch_size, 0)

  batch = jax.tree.map(repeat, batch)
  if 'backbone' in stage.stored:
    batch['taps'] = {k: t.astype('f2') for k, t in batch['taps'].items()}
  return batch


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
  batch = parallel.to_global(rows_of(stage), mesh)
  key = jax.random.key_data(jax.random.key(0))
  take_step = train_step(stage, mesh)
  times = []
  for _ in range(options.repeats + 1):
    start = time.perf_counter()
    state, measures = jax.block_until_ready(take_step(state, batch, key))
    times.append(time.perf_counter() - start)
  seconds = statistics.median(times[1:])
  row = (
    f'{mesh.size} x {jax.devices()[0].device_kind}',
    str(stage.batch_size),
    f'{times[0]:.1f}',
    f'{1e3 * seconds:.0f}',
    f'{stage.batch_size / seconds:.1f}',
    f'{log.peak_memory_mb():.0f}',
  )
  head = ('devices', 'batch', 'first step, s', 'step, ms', 'images/s')
  return (*head, 'peak memory, MB'), [row]


def bench_compile(options: Any) -> tuple[Row, list[Row]]:
  """Compiles a train step for TPUs; returns head and rows of a table.

  Raises:
    ImportError: the TPU compiler is not installed.
  """
  import jax
  from jax.experimental import topologies

  from salflax.core import parallel
  from salflax.train import stage as stages_lib

  try:
    import libtpu  # noqa: F401
  except ImportError as e:
    raise ImportError(
      'The TPU compiler is not installed: pip install "salflax[tpu]".'
    ) from e
  stage = last_stage(options)
  topology = topologies.get_topology_desc(
    platform='tpu', topology_name=options.topology
  )
  mesh = parallel.make_mesh(topology.devices)
  parallel.check_batch_size(stage.batch_size, mesh)
  start = time.perf_counter()
  compiled = (
    train_step(stage, mesh)
    .lower(
      stages_lib.abstract_state(stage),
      jax.eval_shape(lambda: rows_of(stage)),
      jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
    )
    .compile()
  )
  seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  text = compiled.as_text()
  row = (
    options.topology,
    str(stage.batch_size),
    f'{seconds:.0f}',
    f'{memory.temp_size_in_bytes / 1e6:.0f}',
    f'{memory.argument_size_in_bytes / 1e6:.0f}',
    f'{compiled.cost_analysis()["flops"]:.3g}',
    str(text.count('all-reduce(') + text.count('all-reduce-start(')),
  )
  head = ('topology', 'batch', 'compile, s', 'temporaries, MB')
  return (*head, 'arguments, MB', 'flops', 'all-reduces'), [row]


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


def run() -> None:
  """Runs the command."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
