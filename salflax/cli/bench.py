"""Times parts of the system and prints a Markdown table.

    salflax bench metrics --height=768 --width=1024
    salflax bench train --config=configs/sjtu_tis.py:small
    salflax bench input --data=sjtu_tis
    salflax bench compile --config=configs/sjtu_tis.py --topology=v5e:2x2
    salflax bench torch --batches=1,4 --dtypes=float32,bfloat16

`train` and `compile` take the last stage of a config with drawn weights and
made-up rows: no data, and of weights only the text encoder's. `compile` needs
no TPU or GPU, only its compiler: pip install "salflax[tpu]" or "salflax[gpu]".
`torch` times the published network beside PyTorch's: pip install
"salflax[torch]". `pysaliency` needs pysaliency. `cores` scores the same maps
with one core and with several.
"""

import dataclasses
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from absl import flags

from salflax import cli
from salflax.cli import config_file
from salflax.core import files

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


def bench_metrics(options: Any) -> tuple[Row, list[Row]]:
  """Times each metric; returns the head and rows of a table.

  The checks of `score` are part of the time, once a row.
  """
  from salflax import metrics
  from salflax.cli import bench_metrics

  pred, truth = bench_metrics.example(options.height, options.width)
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


def bench_pysaliency(options: Any) -> tuple[Row, list[Row]]:
  """Times six metrics and pysaliency's; returns head and rows of a table."""
  from salflax.cli import bench_metrics

  return _table(bench_metrics.compare(options))


def bench_cores(options: Any) -> tuple[Row, list[Row]]:
  """Times scoring on several cores; returns head and rows of a table."""
  from salflax.cli import bench_cores

  return _table(bench_cores.measure(options))


def bench_torch(options: Any) -> tuple[Row, list[Row]]:
  """Times a network and PyTorch's; returns head and rows of a table."""
  from salflax.cli import bench_torch

  return _table(bench_torch.compare(options))


def last_stage(options: Any):
  """Builds the last stage of --config, without data or backbone weights."""
  from salflax.config import resolve as config_lib
  from salflax.config import schema

  if options.config is None and not options.smoke:
    raise cli.UsageError(f'{options.what} needs --config.')
  config = small_config() if options.smoke else schema.plain(options.config)
  config['model']['weights'] = config['model']['backbone']['weights'] = ''
  config[config['stages'][-1]].update(steps=100, epochs=0.0)
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


def small_config() -> dict[str, Any]:
  """Makes a config that compiles in seconds, without data and files."""
  from salflax.config import schema

  pp = 'resize_pad(32, 32)|rasterize|normalize("imagenet")'
  stage = dict(pp=pp, eval_pp=pp, loss='kld', batch_size=4, steps=1)
  model = dict(
    name='transalnet',
    size=(32, 32),
    backbone=dict(name='resnet', depths=(1, 1), width=4),
    text=dict(name='none'),
    levels=('1/8',),
    widths=(8,),
    depth=1,
    head_dim=8,
    decoder_widths=(8,),
    out_stride=8,
  )
  run = dict(schema.RUN, stages=('only',), model=model)
  return dict(run, only=dict(schema.STAGE, data='scenes', **stage))


def bench_train(options: Any) -> tuple[Row, list[Row]]:
  """Times a train step and its memory; returns head and rows of a table."""
  import jax

  from salflax.core import parallel
  from salflax.train import log
  from salflax.train import stage as stages_lib

  stage = last_stage(options)
  mesh = parallel.make_mesh(shards=stage.param_shards)
  state = stages_lib.initial_state(stage, mesh)
  with tempfile.TemporaryDirectory() as folder:
    stage = dataclasses.replace(
      stage, train_source=example_rows(stage), cache_dir=folder, workers=0
    )
    batches = iter(stages_lib.train_batches(stage, state.variables))
    batch = parallel.to_global(next(batches), mesh)
    batches.close()
  key = jax.random.key_data(jax.random.key(0))
  take_step = stages_lib.train_step(stage, mesh)
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
  """Compiles a train step for accelerators; returns head and rows of a table.

  Frozen parts are in the step: no stored features stand in for them.
  """
  from salflax.cli import bench_compile

  # First, since what is wrong shows in a second, and CUDA's must be the first.
  counts = [len(bench_compile.devices(t)[1]) for t in options.topology]
  stage = dataclasses.replace(last_stage(options), stored=frozenset())
  results = []
  for topology, count in zip(options.topology, counts):
    if options.largest:
      results.append(bench_compile.largest(stage, topology))
      continue
    if options.device_batch:
      stage = dataclasses.replace(
        stage, batch_size=options.device_batch * count
      )
    results.append(bench_compile.measure(stage, topology))
  return _table(results)


def _table(results: list[dict[str, Any]]) -> tuple[Row, list[Row]]:
  """Writes results of the same keys as head and rows of a table."""
  rows = [
    tuple(f'{v:.3g}' if isinstance(v, float) else str(v) for v in r.values())
    for r in results
  ]
  return tuple(results[0]), rows


def bench_start(options: Any) -> tuple[Row, list[Row]]:
  """Times the start of new processes; returns head and rows of a table."""
  calls = {
    'import salflax': ('-c', 'import salflax'),
    'salflax --help': ('-m', 'salflax', '--help'),
    'salflax train --help': ('-m', 'salflax', 'train', '--help'),
    'salflax predict --help': ('-m', 'salflax', 'predict', '--help'),
  }
  rows = []
  for name, arguments in calls.items():
    times = []
    for _ in range(options.repeats):
      start = time.perf_counter()
      subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL
      )
      times.append(time.perf_counter() - start)
    rows.append({'what': name, 's': statistics.median(times)})
  return _table(rows)


def bench_input(options: Any) -> tuple[Row, list[Row]]:
  """Times rows from disk to device; returns head and rows of a table."""
  from salflax.cli import bench_input

  return _table(bench_input.measure(options))


BENCHMARKS = {
  'metrics': bench_metrics,
  'pysaliency': bench_pysaliency,
  'cores': bench_cores,
  'torch': bench_torch,
  'input': bench_input,
  'train': bench_train,
  'compile': bench_compile,
  'start': bench_start,
}


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  config_file.define(values, 'What train and compile take.')
  topologies = (
    'Devices to compile for, e.g. v5e:2x2,v4:2x2x1,h100:8; '
    "'cpu:4' tries the command."
  )
  number = flags.DEFINE_integer
  device_batch = (
    'Rows of a batch on each device, for compile; 0: as the config.'
  )
  largest = 'Compile the largest power of two of rows a device that fits.'
  size = 'of the image in pixels: 288x384 for torch, input; else 480x640.'
  dtypes = 'What torch computes in: float32, tf32 (on a GPU), bfloat16.'
  cli.define(
    values,
    (flags.DEFINE_enum, 'what', 'metrics', list(BENCHMARKS), 'What to time.'),
    (flags.DEFINE_list, 'topology', 'v5e:2x2', topologies),
    (number, 'device_batch', 0, device_batch, 0),
    (flags.DEFINE_bool, 'largest', False, largest),
    (flags.DEFINE_bool, 'smoke', False, 'Try everything on something tiny.'),
    (flags.DEFINE_string, 'out', '', 'A file of JSON to write, too.'),
    (
      flags.DEFINE_string,
      'data',
      '',
      'Data set, for pysaliency, cores and input; else made up.',
    ),
    (flags.DEFINE_string, 'data_dir', '', 'Where prepared data sets are.'),
    (number, 'maps', 100, 'Number of maps, for pysaliency and cores.', 1),
    (number, 'processes', 2, 'Number of processes, for cores.', 2),
    (number, 'repeats', 9, 'Number of calls to take the median of.', 1),
    (number, 'height', None, f'Height {size}', 1),
    (number, 'width', None, f'Width {size}', 1),
    (flags.DEFINE_list, 'batches', '1,4', 'Images of a batch, for torch.'),
    (flags.DEFINE_list, 'dtypes', 'float32', dtypes),
  )


def execute(options: Any) -> None:
  """Runs benchmarks and prints their tables; costs are those of a device."""
  names = [options.what]
  if options.smoke:
    names = [name for name in BENCHMARKS if name != 'pysaliency']
    options.repeats, options.height, options.width = 1, 32, 64
    options.topology, options.batches = ['cpu:1'], ['2']
    options.maps = 4
    if importlib.util.find_spec('torch') is None:
      names.remove('torch')
      cli.say('Without torch: pip install "salflax[torch]".')
  results = {}
  for name in names:
    published = name in ('torch', 'input')
    height, width = (288, 384) if published else (480, 640)
    options.height = options.height or height
    options.width = options.width or width
    head, rows = BENCHMARKS[name](options)
    for row in (head, ('---',) * len(head), *rows):
      print('| ' + ' | '.join(row) + ' |')
    results[name] = [dict(zip(head, row)) for row in rows]
    print()
  versions = ', '.join(
    f'{name} {metadata.version(name)}'
    for name in ('jax', 'flax', 'numpy', *({'torch'} & {*results}))
  )
  where = (
    f'Python {platform.python_version()}, {versions}, {platform.machine()}'
  )
  print(f'{where}; median of {options.repeats}.')
  if options.out:
    files.write_text(options.out, json.dumps({'where': where, **results}))


if __name__ == '__main__':
  cli.run(define_flags, execute)
