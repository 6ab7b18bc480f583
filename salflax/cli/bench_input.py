"""The way of a row from the disk to the device, against decoding JPEG alone."""

import collections
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from salflax.cli import bench_clock
from salflax.core import workers

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


def _epochs(
  source: Sequence[dict], text: str, room: int
) -> Iterator[dict[str, float]]:
  """Brings the rows to the device, an epoch of whole batches at a time.

  Yields what an epoch took: ms an image, and MB in use before and after it.

  Args:
    source: the rows.
    text: pp string.
    room: bytes that kept rows may take.
  """
  import jax

  from salflax.core import parallel
  from salflax.data import batches, kept, pp

  mesh = parallel.make_mesh(jax.devices()[:1])
  options = dict(batch_size=BATCH, seed=0, threads=workers.cores())
  before, after = pp.make(text).split()
  source = kept.Kept(source, before, room)
  rows = iter(batches.train_batches(source, after, **options))
  count = len(source) // BATCH

  clock = bench_clock.alone()

  def epoch():
    for _ in range(count):
      jax.block_until_ready(parallel.to_global(next(rows), mesh))

  try:
    while True:
      before = resident_mb()
      took = 1e3 * bench_clock.seconds(epoch, clock)[0] / (count * BATCH)
      yield {'ms': took, 'before': before, 'after': resident_mb()}
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

  Epochs in turn with decoding alone, on as many threads, one of each to warm
  up: some that keep nothing in memory, the first that keeps rows, later ones.
  """
  from salflax import data
  from salflax.config import resolve
  from salflax.data import kept
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
    some = np.random.default_rng(0).permutation(len(source))[:ROWS].tolist()
    jpegs = [source.stored(i)['image'] for i in some]

    def decode_all():
      read = lambda jpeg: decode(jpeg, 'RGB').size
      return sum(workers.map_ahead(read, jpegs, threads=workers.cores()))

    def alone():
      (took,) = bench_clock.seconds(decode_all, bench_clock.alone())
      return {'ms': 1e3 * took / len(jpegs)}

    alone()
    runs = collections.defaultdict(list)
    for later, room in (('nothing kept', 0), ('later epochs', kept.room())):
      epochs = _epochs(source, text, room)
      first = next(epochs)
      if room:
        runs['first epoch'].append(first)
      for _ in range(options.repeats):
        runs['decoding alone'].append(alone())
        runs[later].append(next(epochs))
      epochs.close()
    times = part_times(source, some, text)
  return _table(runs, times)


def _table(
  runs: dict[str, list[dict[str, float]]], times: dict[str, float]
) -> list[dict[str, Any]]:
  """Writes what was measured as rows of a table."""
  took = {k: statistics.median(r['ms'] for r in v) for k, v in runs.items()}
  alone, table = took.pop('decoding alone'), []
  for what, ms in {'decoding alone': alone, **took, **times}.items():
    whole = what in took
    row = {'what': f'`{what}`' if '(' in what else what, 'ms an image': ms}
    row['images/s'] = f'{1e3 / max(ms, 1e-9):.0f}'
    row['of decoding alone'] = alone / ms if whole else ''
    row['MB before'] = f'{runs[what][0]["before"]:.0f}' if whole else ''
    row['MB after'] = f'{runs[what][-1]["after"]:.0f}' if whole else ''
    table.append(row)
  return table
