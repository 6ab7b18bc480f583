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
import functools
import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

import numpy as np
from absl import flags

from salflax import cli
from salflax.cli import (
  bench_clock,
  bench_compile,
  bench_cores,
  bench_input,
  bench_metrics,
  bench_torch,
  config_file,
)
from salflax.core import files

Rows = list[dict[str, Any]]  # of a table: cells by column, the same in each


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


def train(options: Any) -> Rows:
  """Times a train step and measures its memory."""
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

  def call():
    nonlocal state
    state, _ = jax.block_until_ready(take_step(state, batch, key))

  clock, calls = time.perf_counter, options.repeats + 1
  first, *times = bench_clock.seconds(call, clock, calls)
  usual = statistics.median(times)
  return [
    {
      'devices': f'{mesh.size} x {jax.devices()[0].device_kind}',
      'batch': stage.batch_size,
      'first step, s': f'{first:.1f}',
      'step, ms': f'{1e3 * usual:.0f}',
      'images/s': f'{stage.batch_size / usual:.1f}',
      'peak memory, MB': f'{log.peak_memory_mb():.0f}',
    }
  ]


def compile_step(options: Any) -> Rows:
  """Compiles a train step for accelerators.

  Frozen parts are in the step: no stored features stand in for them.
  """
  # First, since what is wrong shows in a second, and CUDA's must be the first.
  counts = [len(bench_compile.devices(t)[1]) for t in options.topology]
  stage = dataclasses.replace(last_stage(options), stored=frozenset())
  if options.largest:
    return [bench_compile.largest(stage, t) for t in options.topology]
  each = options.device_batch
  return [
    bench_compile.measure(
      dataclasses.replace(stage, batch_size=each * n or stage.batch_size), t
    )
    for t, n in zip(options.topology, counts)
  ]


def start(options: Any) -> Rows:
  """Times the start of new processes."""
  calls = {'import salflax': ('-c', 'import salflax')}
  for what in ('salflax', 'salflax train', 'salflax predict'):
    calls[f'{what} --help'] = ('-m', *what.split(), '--help')
  rows, clock = [], time.perf_counter
  for what, arguments in calls.items():
    run = functools.partial(
      subprocess.check_output, [sys.executable, *arguments]
    )
    times = bench_clock.seconds(run, clock, options.repeats)
    rows.append({'what': what, 's': statistics.median(times)})
  return rows


# Functions of the options that give the rows of a table.
BENCHMARKS = {
  'metrics': bench_metrics.measure,
  'pysaliency': bench_metrics.compare,
  'cores': bench_cores.measure,
  'torch': bench_torch.compare,
  'input': bench_input.measure,
  'train': train,
  'compile': compile_step,
  'start': start,
}


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  config_file.define(values, 'What train and compile take.')
  topologies = (
    'Devices to compile for, e.g. v5e:2x2,v4:2x2x1,h100:8; '
    "'cpu:1' tries the command."
  )
  number = flags.DEFINE_integer
  device_batch = (
    'Rows of a batch on each device, for compile; 0: as the config.'
  )
  largest = 'Compile the largest power of two of rows a device that fits.'
  data = 'Data set, for pysaliency, cores and input; else made up.'
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
    (flags.DEFINE_string, 'data', '', data),
    (flags.DEFINE_string, 'data_dir', '', 'Where prepared data sets are.'),
    (number, 'maps', 100, 'Number of maps, for pysaliency and cores.', 1),
    (number, 'processes', 2, 'Number of processes, for cores.', 2),
    (number, 'repeats', 9, 'Number of calls to take the median of.', 1),
    (number, 'height', None, f'Height {size}', 1),
    (number, 'width', None, f'Width {size}', 1),
    (flags.DEFINE_list, 'batches', '1,4', 'Images of a batch, for torch.'),
    (flags.DEFINE_list, 'dtypes', 'float32', dtypes),
  )


def _text(cell: Any) -> str:
  return f'{cell:.3g}' if isinstance(cell, float) else str(cell)


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
    rows = BENCHMARKS[name](options)
    results[name] = [{k: _text(v) for k, v in row.items()} for row in rows]
    head = results[name][0]
    lines = (head, ['---'] * len(head), *(r.values() for r in results[name]))
    print(*(f'| {" | ".join(line)} |' for line in lines), '', sep='\n')
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
