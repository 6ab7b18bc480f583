"""Metrics of salflax against pysaliency's: the same numbers, and how fast."""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from salflax.cli import bench_clock

# Ours, as pysaliency computes them.
SPEC = 'auc|auc_shuffled(exact=True)|nss|cc|sim|kl(eps=2.2204e-16)'


def example(height: int, width: int, seed: int = 0):
  """Makes up a prediction and a ground truth like those of real gaze."""
  from scipy import ndimage

  from salflax.core.types import GroundTruth

  rng = np.random.default_rng(seed)
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


def examples(options: Any) -> Iterator[tuple[np.ndarray, Any]]:
  """Yields made-up predictions for rows of --data, or for made-up gaze."""
  from salflax.config import resolve
  from salflax.core.types import GroundTruth
  from salflax.evaluate import scorer

  if not options.data:
    for seed in range(options.maps):
      yield example(options.height, options.width, seed)
    return
  folder = resolve.data_dir(options.data_dir)
  rows = resolve.load_rows(options.data, 'test', folder, limit=options.maps)
  others = scorer.OtherFixations(rows)
  for seed in range(len(rows)):
    row = rows[seed]
    size = scorer.size_of(row)
    pred, _ = example(*size, seed)
    yield (
      pred,
      GroundTruth(
        np.asarray(row['saliency'], np.float64).reshape(size),
        np.asarray(row['fixations'], np.int64).reshape(-1, 2),
        others(row, size),
        None,
      ),
    )


def theirs(pred: np.ndarray, truth: Any) -> dict[str, float]:
  """Scores one image with the functions of pysaliency."""
  from pysaliency import metrics, roc

  at = pred[tuple(truth.fixations.T)]
  others = pred[tuple(truth.other_fixations.T)]
  y, x = truth.fixations.T
  with np.errstate(divide='ignore'):  # its logarithm of 0
    return {
      'auc': roc.general_rocs_per_positive(at, pred.ravel()).mean(),
      'auc_shuffled': roc.general_rocs_per_positive(at, others).mean(),
      'nss': metrics.NSS(pred, x, y).mean(),
      'cc': metrics.CC(pred, truth.saliency),
      'sim': metrics.SIM(pred, truth.saliency),
      'kl': metrics.MIT_KLDiv(pred, truth.saliency),
    }


def measure(options: Any) -> list[dict[str, Any]]:
  """Times each metric, with the checks of `score`, by a row each."""
  from salflax import metrics

  pred, truth = example(options.height, options.width)
  rng, rows = metrics.image_rng('bench'), []
  column = f'ms of CPU, {options.width}x{options.height}'
  names = (*metrics.METRICS, 'auc_shuffled(exact=True)', *metrics.PROTOCOLS)
  for text in names:
    bound = metrics.bind_metrics(text)
    call = lambda bound=bound: metrics.score(pred, truth, bound, rng)
    call()
    times = bench_clock.seconds(call, time.process_time, options.repeats)
    took = f'{1e3 * statistics.median(times):.1f}'
    kind = 'protocol' if text in metrics.PROTOCOLS else 'metric'
    rows.append({'what': f'`{text}`', 'kind': kind, column: took})
  return rows


def compare(options: Any) -> list[dict[str, Any]]:
  """Times both in turn, image by image, in one row.

  Raises:
    ImportError: pysaliency is not installed.
    ValueError: a number differs by more than 1e-6.
  """
  import pysaliency  # noqa: F401 (what it imports at first is not timed)

  from salflax import metrics

  bound, spent, worst, count = metrics.bind_metrics(SPEC), [0.0, 0.0], 0.0, 0
  ours = lambda pred, truth: metrics.score(pred, truth, bound, None)
  for pred, truth in examples(options):
    scores, count = [], count + 1
    for k, score in enumerate((ours, theirs)):
      start = time.process_time()
      scores.append(score(pred, truth))
      spent[k] += time.process_time() - start
    for key, value in scores[1].items():
      worst = max(worst, abs(scores[0][key] - value))
      if not worst <= 1e-6:
        raise ValueError(f'{key}: {scores[0][key]} here, pysaliency {value}.')
  return [
    {
      'images': count,
      'ms an image': 1e3 * spent[0] / count,
      'pysaliency, ms': 1e3 * spent[1] / count,
      'times as fast': spent[1] / spent[0],
      'largest difference': worst,
    }
  ]
