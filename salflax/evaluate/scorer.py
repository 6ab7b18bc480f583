"""Scores of predicted maps: one row per picture and condition.

A prediction is cut out of its letterbox, brought to the picture's own size and
scored there by every metric of every protocol. All that is random is seeded by
the picture's id, so a number does not depend on batch size, threads, devices
or hosts, nor on which other conditions or protocols are asked for.
"""

import collections
import concurrent.futures
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

from salflax import metrics
from salflax.core import parallel
from salflax.core.types import Batch, Example, GroundTruth
from salflax.data import pp
from salflax.evaluate.rows import IDENTITY, Row
from salflax.evaluate.rows import summarise as summarise

Protocols = Mapping[str, Sequence[metrics.BoundMetric]]
Baseline = Callable[[str, tuple[int, int]], np.ndarray]

# The MATLAB code of the MIT benchmark draws the negatives of shuffled AUC from
# 10 other pictures; the other protocols use the fixations of all of them.
NUM_OTHERS = {'mit': 10}


def size_of(example: Example) -> tuple[int, int]:
  """Returns height and width of the picture, in pixels."""
  return tuple(int(n) for n in np.shape(example['saliency'])[:2])


class OtherFixations:
  """Where people looked on the other pictures seen in the same condition.

  Only rows of the same condition count, so that scoring one condition alone
  gives the same numbers as scoring all of them.
  """

  def __init__(self, source: Sequence[Example], *, threads: int | None = None):
    def read(index):
      example = source[index]
      points = np.asarray(example['fixations'], np.int64).reshape(-1, 2)
      key = example['condition'], example['image_id']
      return key, points, size_of(example)

    self._pictures = collections.defaultdict(dict)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      for (condition, image_id), points, size in pool.map(
        read, range(len(source))
      ):
        pictures = self._pictures[condition].setdefault(image_id, [])
        pictures.append((points, size))

  def __call__(
    self,
    image_id: str,
    condition: str,
    size: tuple[int, int],
    *,
    count: int | None = None,
  ) -> np.ndarray:
    """Returns i64 [M, 2], (row, column) rescaled to `size` and truncated.

    Args:
      image_id: the picture whose own fixations are left out.
      condition: only pictures seen in this condition count.
      size: height and width the points are brought to.
      count: how many other pictures to draw, seeded by `image_id`; None for
        all of them.
    """
    pictures = self._pictures[condition]
    ids = sorted(i for i in pictures if i != image_id)
    if count is not None and count < len(ids):
      rng = metrics.image_rng(image_id)
      ids = [ids[k] for k in sorted(rng.permutation(len(ids))[:count])]
    points = [
      xy * np.array(size) // np.array(own)
      for i in ids
      for xy, own in pictures[i]
    ]
    return np.concatenate([np.zeros((0, 2), np.int64), *points])


class Scorer:
  """Scores one prediction against what people did: `scorer(index, predict)`.

  Args:
    source: the examples, with `source.meta(index)`.
    protocols: bound metrics by the name of their protocol.
    baseline: `(condition, (h, w)) -> [h, w]`, the centre-bias density of the
      training pictures; needed by information gain.
    others: the negatives of shuffled AUC; read from `source` when a metric
      needs them and none are given.

  Raises:
    ValueError: if a metric needs a baseline and there is none.
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
        'baseline=reference.CentrePrior(training_source).'
      )
    if needing['other_fixations'] and others is None:
      others = OtherFixations(source)
    self._baseline = baseline if needing['baseline'] else None
    self._others = others if needing['other_fixations'] else None

  def _truth(self, example: Example, protocol: str) -> GroundTruth:
    size = size_of(example)
    image_id, condition = example['image_id'], example['condition']
    others = self._others and self._others(
      image_id, condition, size, count=NUM_OTHERS.get(protocol)
    )
    baseline = self._baseline and self._baseline(condition, size)
    saliency = np.asarray(example['saliency'], np.float64).reshape(size)
    fixations = np.asarray(example['fixations'], np.int64).reshape(-1, 2)
    return GroundTruth(saliency, fixations, others, baseline)

  def __call__(
    self, index: int, predict: Callable[[Example], np.ndarray]
  ) -> Row:
    """Returns the row of `source[index]`; `predict(example)` gives [h, w]."""
    example = self.source[index]
    try:
      return self._score(example, np.asarray(predict(example), np.float64))
    except ValueError as e:
      name = f'{example["image_id"]} ({example["condition"]})'
      raise ValueError(f'Picture {name}: {e}') from e

  def _score(self, example: Example, pred: np.ndarray) -> Row:
    if not np.isfinite(pred).all():
      count = np.count_nonzero(~np.isfinite(pred))
      raise ValueError(f'{count} values of the prediction are not finite.')
    row = {key: example[key] for key in IDENTITY}
    for name, bound in self.protocols.items():
      scores = metrics.score(
        pred,
        self._truth(example, name),
        bound,
        metrics.image_rng(example['image_id']),
      )
      row.update({f'{name}/{k}': float(v) for k, v in scores.items()})
    return row


def score_all(
  scorer: Scorer,
  predictions: Iterable[tuple[int, Callable[[Example], np.ndarray]]],
  *,
  total: int | None = None,
  threads: int | None = None,
  progress: str = '',
) -> dict[int, Row]:
  """Returns the rows by index in the source, in order of the index.

  Args:
    scorer: says what to measure.
    predictions: pairs of index and `predict(example) -> [h, w]`; read no
      faster than it can be scored, so that maps do not pile up in memory.
    total: number of predictions, for the time left.
    threads: number of scoring threads, by default one per processor.
    progress: what to call the work in the progress bar; '' shows none.
  """
  threads = threads or os.cpu_count() or 1
  waiting, rows = collections.deque(), {}
  bar = tqdm.tqdm(
    total=total,
    desc=progress,
    unit='map',
    disable=not progress,
    # A log file keeps every line that a terminal would overwrite.
    mininterval=0.5 if sys.stderr.isatty() else 30,
  )

  def collect():
    index, future = waiting.popleft()
    if index in rows:
      raise ValueError(f'Row {index} of the source was predicted twice.')
    rows[index] = future.result()
    bar.update()

  with bar, concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for index, predict in predictions:
      waiting.append((index, pool.submit(scorer, index, predict)))
      if len(waiting) > 4 * threads:
        collect()
    while waiting:
      collect()
  return {index: rows[index] for index in sorted(rows)}


def _gather(
  rows: dict[int, Row], source: Sequence[Example], keys: Sequence[str]
) -> dict[int, Row]:
  """Returns the rows of all hosts, on every host."""
  if jax.process_count() == 1:
    return rows
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
      meta = source.meta(int(index))
      row = {key: meta[key] for key in IDENTITY}
      merged[int(index)] = row | dict(zip(keys, map(float, scores)))
  return {index: merged[index] for index in sorted(merged)}


def evaluate(
  predict_fn: Callable[[Any, Batch], Any],
  variables: Any,
  batches: Iterable[Batch],
  source: Sequence[Example],
  protocols: Protocols,
  *,
  baseline: Baseline | None = None,
  others: OtherFixations | None = None,
  threads: int | None = None,
  progress: str = '',
) -> list[Row]:
  """Returns one row per example, on every host: identity and all scores.

  Args:
    predict_fn: `(variables, batch) -> [B, H, W]`.
    variables: its first argument.
    batches: this host's share; rows whose `mask` is False are not counted.
    source: the whole split, which `batch['index']` points into.
    protocols: bound metrics by protocol, e.g. `{'mit': bind_metrics('mit')}`.
    baseline: see `Scorer`.
    others: see `Scorer`.
    threads: number of scoring threads.
    progress: name in the progress bar, '' for none.

  Returns:
    Dicts with image_id, condition, text and '<protocol>/<metric>', in the
    order of the source.
  """
  scorer = Scorer(source, protocols, baseline=baseline, others=others)

  def cut(pred, box, example):
    return pp.unletterbox(pred, box, size_of(example))

  def predictions():
    for batch in batches:
      preds = predict_fn(variables, batch)
      if not isinstance(preds, np.ndarray):
        preds = parallel.local_rows(preds)
      for k in np.flatnonzero(batch['mask']):
        predict = functools.partial(cut, preds[k], batch['box'][k])
        yield int(batch['index'][k]), predict

  rows = score_all(
    scorer,
    predictions(),
    total=math.ceil(len(source) / jax.process_count()),
    threads=threads,
    progress=progress,
  )
  return list(_gather(rows, source, scorer.keys).values())
