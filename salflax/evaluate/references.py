"""What a text-guided model is measured against.

A centre prior knows neither picture nor sentence. The human map of the same
picture seen without text, and the mean of the other conditions' maps, know the
picture perfectly and the sentence not at all: a model that does not pass them
gives no evidence that it uses the text. The wrong-sentence control asks the
same of one model: its scores must fall.
"""

import collections
import concurrent.futures
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.core.types import Example
from salflax.data import batches, pp
from salflax.evaluate import scorer as scorer_lib
from salflax.evaluate.rows import Row

# The condition in which people saw the picture without a sentence.
UNGUIDED = 'pure'
# Training maps are averaged on this grid, whatever the size of the pictures.
GRID = (288, 384)


def _density(example: Example, size: tuple[int, int]) -> np.ndarray | None:
  """Returns the human map f64 at `size`, summing to 1; None if empty."""
  saliency = np.asarray(example['saliency'], np.float32)
  grid = pp.resize(saliency.reshape(scorer_lib.size_of(example)), size)
  total = grid.sum(dtype=np.float64)
  return grid.astype(np.float64) / total if total > 0 else None


class CentrePrior:
  """Where people look on any picture: `prior(condition, (h, w)) -> [h, w]`.

  The mean density of a source's human maps, each picture counting alike, for
  each condition apart. A condition that the source lacks gets the mean over
  all its rows. Build it from training pictures only.

  Raises:
    ValueError: if the source holds no map with any mass.
  """

  def __init__(self, source: Sequence[Example], *, threads: int | None = None):
    def read(index):
      example = source[index]
      return example['condition'], _density(example, GRID)

    sums = collections.defaultdict(lambda: np.zeros(GRID))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      for condition, density in pool.map(read, range(len(source))):
        if density is not None:
          sums[condition] += density
    if not sums:
      raise ValueError(
        f'A centre prior needs human maps; none of {len(source)} has any mass.'
      )
    self._sums = {c: s.astype(np.float32) for c, s in sums.items()}
    self._all = sum(sums.values()).astype(np.float32)
    self._resized = functools.lru_cache(maxsize=64)(self._resize)

  def _resize(self, condition: str, size: tuple[int, int]) -> np.ndarray:
    grid = self._sums.get(condition, self._all)
    density = pp.resize(grid, size).astype(np.float64)
    density /= density.sum()
    density.flags.writeable = False
    return density

  def __call__(self, condition: str, size: tuple[int, int]) -> np.ndarray:
    """Returns f64 [h, w] summing to 1; read-only."""
    return self._resized(condition, tuple(size))


class SamePicture:
  """The human maps of one picture, over the conditions it was seen in.

  Args:
    source: all conditions of the pictures, with `source.meta(index)`.
  """

  def __init__(self, source: Sequence[Example]):
    self._source = source
    self._rows = collections.defaultdict(dict)
    for index in range(len(source)):
      meta = source.meta(index)
      rows = self._rows[meta['image_id']].setdefault(meta['condition'], [])
      rows.append(index)

  def others(self, meta: Mapping[str, Any]) -> list[str]:
    """Returns the other conditions of this row's picture."""
    conditions = self._rows.get(meta['image_id'], {})
    return sorted(c for c in conditions if c != meta['condition'])

  def mean(self, example: Example, conditions: Sequence[str]) -> np.ndarray:
    """Returns f64 [h, w], the picture's mean density over `conditions`.

    Maps are brought to a sum of 1 first: each comes scaled to its own maximum,
    which would let the most scattered gaze weigh most.
    """
    rows = self._rows[example['image_id']]
    size = scorer_lib.size_of(example)
    total = np.zeros(size)
    for condition in conditions:
      for index in rows[condition]:
        density = _density(self._source[index], size)
        if density is not None:
          total += density / len(rows[condition])
    return total / len(conditions)


class Reference(NamedTuple):
  """A predictor that is no model.

  Attributes:
    label: its name in tables.
    covers: tells from `source.meta(index)` whether it has an answer.
    predict: `(example) -> [h, w]`.
  """

  label: str
  covers: Callable[[Mapping[str, Any]], bool]
  predict: Callable[[Example], np.ndarray]


def references(
  prior: CentrePrior | None, source: Sequence[Example], *, truth: bool = False
) -> dict[str, Reference]:
  """Returns the reference predictors by name.

  Args:
    prior: the centre prior of the training pictures; left out if None.
    source: the evaluated pictures in all their conditions.
    truth: adds the ground truth itself, the ceiling of every
      distribution-based metric.

  Returns:
    `centre`; `pure`, the same picture seen without text (not for the
    condition `pure` itself); `others`, the mean of the picture's other
    conditions where there are at least two; `truth` if asked for.
  """
  pictures = SamePicture(source)

  def rest(example):
    return pictures.mean(example, pictures.others(example))

  found = {}
  if prior is not None:
    found['centre'] = Reference(
      'Centre prior',
      lambda meta: True,
      lambda e: prior(e['condition'], scorer_lib.size_of(e)),
    )
  found['pure'] = Reference(
    'Same picture, no text (human)',
    lambda meta: UNGUIDED in pictures.others(meta),
    lambda e: pictures.mean(e, [UNGUIDED]),
  )
  found['others'] = Reference(
    'Same picture, other conditions (human)',
    lambda meta: len(pictures.others(meta)) > 1,
    rest,
  )
  if truth:
    found['truth'] = Reference(
      'Ground truth',
      lambda meta: True,
      lambda e: np.asarray(e['saliency'], float).reshape(scorer_lib.size_of(e)),
    )
  return found


def reference_rows(
  reference: Reference,
  scorer: scorer_lib.Scorer,
  *,
  threads: int | None = None,
  progress: str = '',
) -> list[Row]:
  """Returns the rows of a reference predictor, of the pictures it covers."""
  source = scorer.source
  covered = [i for i in range(len(source)) if reference.covers(source.meta(i))]
  rows = scorer_lib.score_all(
    scorer,
    ((index, reference.predict) for index in covered),
    total=len(covered),
    threads=threads,
    progress=progress,
  )
  return list(rows.values())


class Retold(Sequence):
  """A source with other sentences.

  Args:
    source: the examples, with `source.meta(index)`.
    texts: one for each row.
  """

  def __init__(self, source: Sequence[Example], texts: Sequence[str]):
    if len(texts) != len(source):
      raise ValueError(f'{len(source)} rows, but {len(texts)} sentences.')
    self._source, self._texts = source, list(texts)

  def __len__(self):
    return len(self._texts)

  def __getitem__(self, index: int) -> Example:
    return dict(self._source[index], text=self._texts[index])

  def meta(self, index: int) -> dict[str, Any]:
    """Returns image_id, condition and text of a row, without its picture."""
    return dict(self._source.meta(index), text=self._texts[index])


def with_text(source: Sequence[Example]) -> batches.Rows:
  """Returns the rows that have a sentence."""
  texts = [source.meta(index)['text'] for index in range(len(source))]
  return batches.Rows(
    source, [i for i, text in enumerate(texts) if text.strip()]
  )


def no_sentence(source: Sequence[Example]) -> Retold:
  """Returns the rows that have a sentence, with the empty one instead."""
  rows = with_text(source)
  return Retold(rows, [''] * len(rows))


def _deranged(metas: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
  """Returns for each row another row, always of another picture.

  Pictures are shuffled and the rows, in blocks by picture, rotated by the
  largest block: no row can meet its own picture.
  """
  blocks = collections.defaultdict(list)
  for k, meta in enumerate(metas):
    blocks[meta['image_id']].append(k)
  shift = max(len(block) for block in blocks.values())
  if 2 * shift > len(metas):
    raise ValueError(
      f'Condition {metas[0]["condition"]!r}: {len(metas)} rows of '
      f'{len(blocks)} pictures are too few to exchange their sentences.'
    )
  ids = sorted(blocks)
  rng = np.random.default_rng(
    [seed, zlib.crc32(metas[0]['condition'].encode())]
  )
  order = [k for p in rng.permutation(len(ids)) for k in blocks[ids[p]]]
  giver = [0] * len(order)
  for place, k in enumerate(order):
    giver[k] = order[(place + shift) % len(order)]
  return giver


def wrong_sentence(source: Sequence[Example], *, seed: int = 0) -> Retold:
  """Returns the rows that have a sentence, each with that of another picture.

  Sentences are exchanged within a condition, so that only the content is
  wrong, not the kind. Every sentence is used once. Where two pictures share a
  sentence, the drawing with the fewest such pairs among 20 is taken.

  Args:
    source: the examples, with `source.meta(index)`.
    seed: of the exchange.

  Raises:
    ValueError: if a condition has too few pictures for an exchange.
  """
  view = with_text(source)
  by_condition = collections.defaultdict(list)
  for index in range(len(view)):
    by_condition[view.meta(index)['condition']].append(index)
  texts = [''] * len(view)
  for rows in by_condition.values():
    metas = [view.meta(index) for index in rows]

    def unchanged(giver, metas=metas):
      return sum(metas[k]['text'] == m['text'] for k, m in zip(giver, metas))

    drawings = (_deranged(metas, 20 * seed + trial) for trial in range(20))
    giver = min(drawings, key=unchanged)
    for index, k in zip(rows, giver):
      texts[index] = metas[k]['text']
  return Retold(view, texts)
