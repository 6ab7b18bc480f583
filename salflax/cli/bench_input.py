"""The way of a row from the disk to the device, against decoding JPEG alone."""

import collections
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from salflax.cli import bench_clock

BATCH = 16
ROWS = 200  # decoded alone, and timed in parts
PP = 'resize_pad({height}, {width})|flip(0.5)|rasterize|normalize("imagenet")'


def resident_mb() -> float:
  """Measures the memory of this process in use now, in MB; on Linux."""
  path = pathlib.Path('/proc/self/statm')
  if not path.exists():
    return float('nan')
  return int(path.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20


def example_source(folder: pathlib.Path, options: Any) -> Sequence[dict]:
  """Prepares made-up photographs of twice the frame's size and opens them."""
  from scipy import ndimage

  from salflax import data
  from salflax.data import prepare

  rng, size = np.random.default_rng(0), (2 * options.height, 2 * options.width)
  (folder / 'raw' / 'images').mkdir(parents=True)
  lines = ['image,subject,x,y']
  for i in range(2 * BATCH):
    values = ndimage.gaussian_filter(rng.random((*size, 3)), (8, 8, 0))
    values = np.interp(values, (values.min(), values.max()), (0, 255))
    image = Image.fromarray(values.astype(np.uint8))
    image.save(folder / 'raw' / 'images' / f'{i}.jpg', quality=90)
    x, y = rng.integers(0, size[1], 30), rng.integers(0, size[0], 30)
    lines += [f'{i}.jpg,{k % 3},{a},{b}' for k, (a, b) in enumerate(zip(x, y))]
  (folder / 'raw' / 'fixations.csv').write_text('\n'.join(lines))
  dataset = data.DATASETS['folder']()
  prepare.prepare(dataset, folder / 'raw', folder / 'data', name='made_up')
  return data.load_source('folder:made_up', 'all', folder / 'data')


def _epochs(source: Sequence[dict], pp: Callable) -> Iterator[None]:
  """Brings the rows to the device, an epoch of whole batches at a time."""
  import jax

  from salflax.core import parallel
  from salflax.data import batches

  mesh = parallel.make_mesh(jax.devices()[:1])
  options = dict(batch_size=BATCH, seed=0, threads=bench_clock.cores())
  rows = iter(batches.train_batches(source, pp, **options))
  try:
    while True:
      for _ in range(len(source) // BATCH):
        jax.block_until_ready(parallel.to_global(next(rows), mesh))
      yield
  finally:
    rows.close()


def part_times(
  source: Sequence[dict], rows: Sequence[int], text: str
) -> dict[str, float]:
  """Times the parts of a row on one thread, mean over rows, in ms of CPU."""
  from salflax.core import spec
  from salflax.data import pp
  from salflax.data.source import decode

  parts = {
    'read': lambda row: source.stored(row['index']),
    'decode the image': lambda row: {'image': decode(row['image'], 'RGB')},
    'decode the map': lambda row: {'saliency': decode(row['saliency'], 'L')},
  }
  rng, spent = np.random.default_rng(0), collections.Counter()
  for part in spec.split_chain(text):
    op = pp.make(part)
    parts[part] = lambda row, op=op: op(row, rng)
  for index in rows:
    row = {'index': index}
    for name, fn in parts.items():
      begin = time.process_time()
      row |= fn(row)
      spent[name] += 1e3 * (time.process_time() - begin) / len(rows)
  return spent


def measure(options: Any) -> list[dict[str, Any]]:
  """Times all together, decoding alone and the parts, by a row each.

  One epoch to warm up, then epochs in turn with decoding alone, on as many
  threads.
  """
  from salflax import data
  from salflax.config import resolve
  from salflax.data import batches, pp
  from salflax.data.source import decode

  text = PP.format(height=options.height, width=options.width)
  with tempfile.TemporaryDirectory() as folder:
    if options.data and not options.smoke:
      where = resolve.data_dir(options.data_dir)
      source = data.load_source(options.data, 'train', where)
    else:
      source = example_source(pathlib.Path(folder), options)
    if len(source) < BATCH:
      raise ValueError(f'{options.data}: fewer than {BATCH} rows to train on.')
    count = len(source) // BATCH * BATCH
    some = np.random.default_rng(0).permutation(len(source))[:ROWS].tolist()
    jpegs = [source.stored(i)['image'] for i in some]

    def decode_all():
      read = lambda jpeg: decode(jpeg, 'RGB').size
      return sum(batches.map_ahead(read, jpegs, threads=bench_clock.cores()))

    epochs, spent = _epochs(source, pp.make(text)), []
    clock = bench_clock.alone()
    decode_all(), next(epochs)
    before = resident_mb()
    for _ in range(options.repeats):
      both = decode_all, lambda: next(epochs)
      spent += zip(*(bench_clock.seconds(fn, clock) for fn in both))
    after = resident_mb()
    epochs.close()
    times = part_times(source, some, text)
  alone, whole = (statistics.median(t) for t in zip(*spent))
  alone, whole = 1e3 * alone / len(jpegs), 1e3 * whole / count
  rows = {'decoding alone': alone, 'all': whole} | times
  none = dict.fromkeys(('of decoding alone', 'MB before', 'MB after'), '')
  table = [
    {
      'what': f'`{what}`' if '(' in what else what,
      'ms an image': took,
      'images/s': f'{1e3 / max(took, 1e-9):.0f}',
      **none,
    }
    for what, took in rows.items()
  ]
  memory = (f'{mb:.0f}' for mb in (before, after))
  table[1] |= dict(zip(none, (alone / whole, *memory)))
  return table
