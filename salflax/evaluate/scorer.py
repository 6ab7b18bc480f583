"""Scores of predicted maps: one row per image and condition.

A map is brought to the image's own size and scored there by every metric of
every protocol. All that is random is seeded by the image's id, so a number does
not depend on batch size, threads, devices or hosts, nor on which other
conditions or protocols are asked for.
"""

import collections
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from salflax import metrics
from salflax.core import parallel, workers
from salflax.core.types import Example, GroundTruth
from salflax.data import batches, frames
from salflax.evaluate.rows import IDENTITY

Protocols = Mapping[str, Sequence[metrics.BoundMetric]]
Baseline = Callable[[str, tuple[int, int]], np.ndarray]

# The MATLAB code of the MIT benchmark draws the negatives of shuffled AUC from
# 10 other images; the other protocols use the fixations of all of them.
NUM_OTHERS = {'mit': 10}


def size_of(example: Example) -> tuple[int, int]:
  """Reads height and width of the image, in pixels."""
  return tuple(int(n) for n in np.shape(example['saliency'])[:2])


class OtherFixations:
  """Where people looked on the other images seen in the same condition.

  Only rows of the same condition count, so that scoring one condition alone
  gives the same numbers as scoring all of them.
  """

  def __init__(self, source: Sequence[Example], *, threads: int | None = None):
    def read(index):
      example = batches.truth(source, index)
      points = np.asarray(example['fixations'], np.int64).reshape(-1, 2)
      return (
        example['condition'],
        batches.image_key(example),
        (points, size_of(example)),
      )

    self._images = collections.defaultdict(dict)
    rows = workers.map_ahead(read, range(len(source)), threads=threads)
    for condition, image, points in rows:
      self._images[condition].setdefault(image, []).append(points)

  def __call__(
    self,
    example: Example,
    size: tuple[int, int],
    *,
    count: int | None = None,
  ) -> np.ndarray:
    """Collects i64 [M, 2], (row, column) rescaled to `size` and truncated.

    Args:
      example: row whose condition counts, and whose image is left out.
      size: height and width the points are brought to.
      count: number of other images to draw, seeded by the image's id; None for
        all of them.
    """
    images, own = self._images[example['condition']], batches.image_key(example)
    ids = sorted(i for i in images if i != own)
    if count is not None and count < len(ids):
      rng = metrics.image_rng(example['image_id'])
      ids = [ids[k] for k in sorted(rng.permutation(len(ids))[:count])]
    points = [
      xy * np.array(size) // np.array(theirs)
      for i in ids
      for xy, theirs in images[i]
    ]
    return np.concatenate([np.zeros((0, 2), np.int64), *points])


class Scorer:
  """Scores one map against what people did: `scorer(index, saliency)`.

  Args:
    source: rows, with `source.meta(index)`.
    protocols: bound metrics by the name of their protocol.
    baseline: `(condition, (h, w)) -> [h, w]`, the centre-bias density of the
      training images; needed by information gain.
    others: negatives of shuffled AUC; read from `source` when a metric needs
      them and there are none.

  Raises:
    ValueError: a metric needs a baseline and there is none.
  """

  def __init__(
    self,
    source: Sequence[Example],
    protocols: Protocols,
    *,
    baseline: Baseline | None = None,
    others: OtherFixations | None = None,
  ):
    self.source, self.protocols = source, protocols
    self.keys = [
      f'{name}/{m.key}' for name, ms in protocols.items() for m in ms
    ]
    needing = collections.defaultdict(list)
    for name, bound in protocols.items():
      for metric in bound:
        for need in metric.needs:
          needing[need].append(f'{name}/{metric.key}')
    if needing['baseline'] and baseline is None:
      raise ValueError(
        f'{", ".join(needing["baseline"])} needs a centre-bias baseline: pass '
        'baseline=references.CentrePrior(training_source).'
      )
    if needing['other_fixations'] and others is None:
      others = OtherFixations(source)
    self._baseline = baseline if needing['baseline'] else None
    self._others = others if needing['other_fixations'] else None

  def _truth(self, example: Example, saliency, count) -> GroundTruth:
    size = size_of(example)
    others = self._others and self._others(example, size, count=count)
    baseline = self._baseline and self._baseline(example['condition'], size)
    fixations = np.asarray(example['fixations'], np.int64).reshape(-1, 2)
    return GroundTruth(saliency, fixations, others, baseline)

  def __call__(self, index: int, saliency: np.ndarray) -> dict[str, Any]:
    """Scores a map [h, w] of `source[index]`, of any size."""
    example = batches.truth(self.source, index)
    try:
      return self._score(example, np.asarray(saliency, np.float64))
    except (ValueError, RuntimeError) as e:
      name = f'{example["image_id"]} ({example["condition"]})'
      raise ValueError(f'Image {name}: {e}') from e

  def _score(self, example: Example, pred: np.ndarray) -> dict[str, Any]:
    if pred.ndim != 2 or 0 in pred.shape:
      raise ValueError(f'a map is [h, w]; found {list(pred.shape)}.')
    if not np.isfinite(pred).all():
      count = np.count_nonzero(~np.isfinite(pred))
      raise ValueError(f'{count} values of the prediction are not finite.')
    if pred.shape != size_of(example):
      # Resizing is done in float32, into which this scales a map.
      pred = metrics.as_map(pred, least=0).values.astype(np.float32)
      pred = frames.resize(pred, size_of(example)).astype(np.float64)
    # What protocols have in common is computed once.
    pred = metrics.as_map(pred, least=0)
    saliency = np.reshape(example['saliency'], pred.shape)
    saliency = metrics.as_map(saliency, 'saliency', least=0)
    truth = functools.cache(functools.partial(self._truth, example, saliency))
    row = identity(example)
    for name, bound in self.protocols.items():
      scores = metrics.score(
        pred,
        truth(NUM_OTHERS.get(name)),
        bound,
        metrics.image_rng(example['image_id']),
      )
      row.update({f'{name}/{k}': float(v) for k, v in scores.items()})
    if infinite := [key for key in self.keys if np.isinf(row[key])]:
      raise ValueError(
        f'{", ".join(infinite)} is infinite: raise eps or floor.'
      )
    return row


def identity(meta: Mapping[str, Any]) -> dict[str, Any]:
  """Selects the columns that name a row, from its `meta`."""
  source = {'source': str(meta['joined'])} if 'joined' in meta else {}
  return source | {k: meta[k] for k in IDENTITY}


def maps_of(
  predictor: Any,
  source: Sequence[Example],
  indexes: Iterable[int],
  *,
  threads: int | None = None,
) -> Iterator[np.ndarray]:
  """Yields the map [h, w] of each of these rows, of any size.

  Args:
    predictor: anything with `predict(pairs) -> maps`, where a pair is an image
      u8 [h, w, 3] and a sentence. One whose answer hangs on the row, such as a
      folder of maps, has `predict_rows(source, indexes) -> maps` instead.
    source: rows.
    indexes: rows to predict, in order.
    threads: threads that read images.
  """
  if hasattr(predictor, 'predict_rows'):
    return iter(predictor.predict_rows(source, indexes))
  examples = workers.map_ahead(source.__getitem__, indexes, threads=threads)
  return iter(predictor.predict((e['image'], e['text']) for e in examples))


def score(
  predictor: Any,
  scorer: Scorer,
  *,
  threads: int | None = None,
  progress: str = '',
) -> list[dict[str, Any]]:
  """Scores a predictor, one row per example; the same on every host.

  Every host predicts and scores its share of the rows.

  Args:
    predictor: see `maps_of`.
    scorer: source and metrics.
    threads: threads that score, by default one per processor.
    progress: name in the progress bar; '' shows none.

  Returns:
    Dicts of the columns of `identity` and '<protocol>/<metric>', in the order
    of the source.

  Raises:
    ValueError: a map is not finite or of a wrong shape; names the image.
  """
  total = len(scorer.source)
  index, count = parallel.shard()
  places = np.arange(index, -(-total // count) * count, count)
  # All hosts predict equally many maps, as their devices keep in step; what
  # repeats the last row is not scored.
  maps = maps_of(
    predictor,
    scorer.source,
    [int(i) for i in np.minimum(places, total - 1)],
    threads=threads,
  )
  predictions = (
    (int(place), saliency)
    for place, saliency in zip(places, maps, strict=True)
    if place < total
  )
  scores = workers.map_ahead(
    lambda item: (item[0], scorer(*item)),
    predictions,
    threads=threads,
  )
  bar = tqdm.tqdm(
    scores,
    total=int((places < total).sum()),
    desc=progress,
    unit='map',
    disable=not progress,
    # A log file keeps every line that a terminal would overwrite.
    mininterval=0.5 if sys.stderr.isatty() else 30,
  )
  return _gather(dict(bar), scorer.source, scorer.keys)


def _gather(
  rows: dict[int, dict], source: Sequence[Example], keys: Sequence[str]
) -> list[dict]:
  """Collects the rows of all hosts, on every host."""
  if jax.process_count() == 1:
    return list(rows.values())
  counts = multihost_utils.process_allgather(np.array(len(rows), np.int32))
  values = np.full((int(np.max(counts)), 1 + len(keys)), -1, np.float64)
  for k, (index, row) in enumerate(rows.items()):
    values[k] = [index, *(row[key] for key in keys)]
  # Sent as bits: jax would round float64 to float32.
  bits = multihost_utils.process_allgather(values.view(np.uint32))
  bits = np.ascontiguousarray(bits, np.uint32).reshape(-1, 2 * (1 + len(keys)))
  merged = {}
  for index, *scores in bits.view(np.float64):
    if index >= 0:
      meta = batches.meta(source, int(index))
      merged[int(index)] = identity(meta) | dict(zip(keys, map(float, scores)))
  return [merged[index] for index in sorted(merged)]
