"""Batches: endless and shuffled for training, finite and padded to evaluate.

Rows are read and preprocessed in threads, or in worker processes. The order
and the random draws depend on the seed and the row's place in the run alone:
not on workers, nor on how many processes share the batch.
"""

import operator
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from salflax.core.types import Batch, Example

# What goes to the device; everything else stays with the example.
KEYS = (
  'image',
  'taps',
  'tokens',
  'token_mask',
  'text_tokens',
  'sentence',
  'saliency',
  'fixations',
  'center',
  'box',
  'size',
  'index',
  'image_number',
)
# What the rows of an image have in common, in a batch by image.
SHARED = ('image', 'taps')
# Epochs; Grain's own endless repetition cannot be cut into batches of 1.
_ENDLESS = 2**31


class Prepare:
  """Turns row `index` of a source into one row of a batch; picklable."""

  def __init__(
    self,
    source: Sequence[Example],
    pp: Callable[..., Example],
    finish: Sequence[Callable[[Example], Example]] = (),
  ):
    self.source, self.pp, self.finish = source, pp, tuple(finish)

  def __call__(
    self,
    index: int,
    rng: np.random.Generator | None,
    texts: Sequence[str] = (),
  ) -> Batch:
    """Prepares the keys of `KEYS` that the row has after pp and `finish`.

    Args:
      index: row of the source.
      rng: draws what pp draws.
      texts: sentences of all rows that must be drawn alike.
    """
    try:
      example = dict(self.source[index], texts=texts)
      if 'size' not in example:  # else of a frame, not of the row itself
        seen = example['image'] if 'image' in example else example['saliency']
        example['size'] = np.array(np.shape(seen)[:2], np.int32)
      example = self.pp(example, rng)
      for step in self.finish:
        example = step(example)
    except Exception as e:
      e.add_note(
        f'while preparing row {index} ({describe(self.source, index)})'
      )
      raise
    example['index'] = np.int32(index)
    if np.asarray(example.get('fixations', 0.0)).dtype.kind != 'f':
      del example['fixations']  # points: pp does not rasterize
    return {k: example[k] for k in KEYS if example.get(k) is not None}


class PrepareImage:
  """Turns image `number` into rows that share its features and its draws.

  Args:
    prepare: makes a row.
    rows: number of rows; an image with fewer repeats them, of one with more
      some are drawn.
  """

  def __init__(self, prepare: Prepare, rows: int):
    self.prepare, self.rows, self._images = prepare, rows, {}
    self._texts = []
    for index, row in enumerate(metas(prepare.source)):
      self._images.setdefault(image_key(row), []).append(index)
      self._texts.append(str(row['text']))
    self._images = list(self._images.values())

  def __len__(self) -> int:
    return len(self._images)

  def __call__(self, number: int, rng: np.random.Generator) -> Batch:
    """Prepares a batch of one image and `rows` of everything else."""
    own = rng.permutation(self._images[number])
    texts = [self._texts[i] for i in own]
    seed = rng.integers(2**63)
    rows = [
      self.prepare(int(own[i % len(own)]), np.random.default_rng(seed), texts)
      for i in range(self.rows)
    ]
    shared = {k: v for k, v in rows[0].items() if k in SHARED}
    return shared | {
      k: np.stack([row[k] for row in rows]) for k in rows[0] if k not in SHARED
    }


def count_rows(source: Sequence[Example], rows_per_image: int) -> int:
  """Counts the rows of an epoch: all rows, or so many of each image."""
  if rows_per_image == 1:
    return len(source)
  return rows_per_image * len({image_key(row) for row in metas(source)})


def join_images(batch: Batch) -> Batch:
  """Makes rows [N * R, ...] of a batch of images of `PrepareImage`."""
  return {
    k: v if k in SHARED else v.reshape(-1, *v.shape[2:])
    for k, v in batch.items()
  }


def meta(source: Sequence[Example], index: int) -> dict[str, Any]:
  """Reads image_id, condition and text of a row, undecoded if possible."""
  return source.meta(index) if hasattr(source, 'meta') else source[index]


def metas(source: Sequence[Example]) -> list[dict[str, Any]]:
  """Reads `meta` of every row."""
  return [meta(source, index) for index in range(len(source))]


def truth(source: Sequence[Example], index: int) -> Example:
  """Reads a row, without its image where the source can leave it out."""
  read = getattr(source, 'truth', source.__getitem__)
  return read(index)


def describe(source: Sequence[Example], index: int) -> str:
  """Names a row: 'image_id/condition'."""
  try:
    row = meta(source, index)
  except Exception:  # a row that cannot be read has an error of its own
    return 'unreadable'
  return f'{row.get("image_id", index)}/{row.get("condition", "")}'


def image_key(row: Mapping[str, Any]) -> tuple[int | str, str]:
  """Identifies the image of a row or of its `meta`.

  Data sets that are joined may each have an image of the same name.
  """
  return row.get('joined', 0), row['image_id']


def number_image(example: Example) -> Example:
  """Adds `image_number`, i32 [], the same for all rows of an image.

  A hash, so that every worker and process finds it alone: of 1,500 images
  two have the same number once in four thousand data sets.
  """
  number = zlib.crc32(repr(image_key(example)).encode())
  return dict(example, image_number=np.uint32(number).astype(np.int32))


class View:
  """Rows of other sources, whole or in part, by `read(index, reader)`."""

  def __getitem__(self, index: int) -> Example:
    return self.read(index, operator.getitem)

  def meta(self, index: int) -> dict[str, Any]:
    """Reads image_id, condition and text of a row, without its image."""
    return self.read(index, meta)

  def truth(self, index: int) -> Example:
    """Reads a row without its image."""
    return self.read(index, truth)


class Rows(View):
  """Some rows of a source, in an order of their own."""

  def __init__(self, source: Sequence[Example], rows: Sequence[int]):
    self.source, self.rows = source, list(rows)

  def __len__(self) -> int:
    return len(self.rows)

  def read(self, index: int, reader: Callable) -> dict[str, Any]:
    """Reads a row by `reader(source, index)`."""
    return reader(self.source, self.rows[index])


class Joined(View):
  """The rows of several sources, one after another; `joined` tells which."""

  def __init__(
    self, sources: Sequence[Sequence[Example]], names: Sequence[str] = ()
  ):
    self.sources = list(sources)
    self.names = list(names) or list(range(len(self.sources)))
    self._ends = np.cumsum([len(s) for s in self.sources])

  def __len__(self) -> int:
    return int(self._ends[-1])

  def read(self, index: int, reader: Callable) -> dict[str, Any]:
    """Reads a row by `reader(source, index)`, and adds `joined`."""
    part = int(np.searchsorted(self._ends, index, side='right'))
    if not 0 <= index < len(self):
      raise IndexError(f'Row {index} of {len(self)}.')
    row = index - int(self._ends[part]) + len(self.sources[part])
    return dict(reader(self.sources[part], row), joined=self.names[part])


def _check_batch_size(batch_size: int, count: int) -> None:
  if batch_size < 1 or batch_size % count:
    raise ValueError(
      f'batch_size {batch_size} does not divide over {count} processes, or '
      f'processes and rows of an image; use a multiple of {count}.'
    )


def train_batches(
  source: Sequence[Example],
  pp: Callable[..., Example],
  *,
  batch_size: int,
  seed: int,
  start: int = 0,
  shard: tuple[int, int] = (0, 1),
  finish: Sequence[Callable[[Example], Example]] = (),
  threads: int = 2,
  workers: int = 0,
  rows_per_image: int = 1,
) -> grain.IterDataset:
  """Makes endless batches, shuffled anew every epoch.

  Args:
    source: random access to examples.
    pp: (example, rng) -> example.
    batch_size: rows of the global batch, over all processes.
    seed: seed of the order and of every random op.
    start: number of batches to leave out: those an earlier run has seen.
    shard: (index, count) of this process; each takes every count-th row.
    finish: applied to the example after pp, e.g. the tokenizer.
    threads: number that read and preprocess where there are no workers.
    workers: number of processes that read and preprocess; 0 = threads.
    rows_per_image: above 1, makes batches by image: that many rows of each
      image, whose `image` or `taps` come once.
  """
  index, count = shard
  _check_batch_size(batch_size, count * rows_per_image)
  if not len(source):
    raise ValueError('The training split is empty.')
  prepare, number = Prepare(source, pp, finish), len(source)
  if rows_per_image > 1:
    prepare = PrepareImage(prepare, rows_per_image)
    number = len(prepare)
  rows = grain.MapDataset.range(number).seed(seed).shuffle().repeat(_ENDLESS)
  rows = rows.random_map(prepare)[index::count]
  rows = rows.batch(batch_size // count // rows_per_image)[start:]
  if rows_per_image > 1:
    rows = rows.map(join_images)
  read = grain.ReadOptions(
    num_threads=0 if workers else threads, prefetch_buffer_size=2
  )
  batches = rows.to_iter_dataset(read)
  if workers:
    options = grain.MultiprocessingOptions(
      num_workers=workers, per_worker_buffer_size=2
    )
    batches = batches.mp_prefetch(options)
  return batches


def eval_batches(
  source: Sequence[Example],
  pp: Callable[..., Example],
  *,
  batch_size: int,
  shard: tuple[int, int] = (0, 1),
  finish: Sequence[Callable[[Example], Example]] = (),
  threads: int = 2,
) -> Iterator[Batch]:
  """Yields every row once, in order; `mask` is False for rows that only fill.

  Args:
    source: random access to examples.
    pp: (example, None) -> example.
    batch_size: rows of the global batch, over all processes.
    shard: (index, count) of this process. All processes yield equally many
      batches, as the devices must keep in step.
    finish: applied to the example after pp, e.g. the tokenizer.
    threads: number that read and preprocess.
  """
  index, count = shard
  _check_batch_size(batch_size, count)
  if not len(source):
    raise ValueError('The split to evaluate on is empty.')
  local = batch_size // count
  num_batches = -(-len(source) // batch_size)
  prepare = Prepare(source, pp, finish)
  ids = np.arange(index, num_batches * batch_size, count)
  # A row that only fills repeats the last real one and is masked.
  rows = grain.MapDataset.source(np.minimum(ids, len(source) - 1))
  rows = rows.map(lambda i: prepare(int(i), None)).batch(local)
  read = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2)
  for n, batch in enumerate(rows.to_iter_dataset(read)):
    mask = ids[n * local : (n + 1) * local] < len(source)
    yield dict(batch, mask=mask)
