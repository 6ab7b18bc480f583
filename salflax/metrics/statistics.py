"""Uncertainty of a mean over images: intervals and paired tests.

Rows of one image (several sentences, several conditions) are not independent,
so both functions take `groups` and resample images, never rows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 9_999
# Draws held at once: bounds memory for data sets of thousands of images.
BATCH = 250


class Paired(NamedTuple):
  """Comparison of two methods on the same images.

  Attributes:
    difference: mean over rows of a - b.
    low: lower end of its 95 % interval.
    high: upper end.
    p: two-sided probability of a difference as large if the two methods were
      interchangeable on every image.
  """

  difference: float
  low: float
  high: float
  p: float


def _by_image(
  values: np.ndarray, groups: Sequence | None
) -> tuple[np.ndarray, np.ndarray]:
  """Sums and counts the values of each image, f64 [G] both.

  Rows with NaN, a score that its image's truth does not define, are left out.
  """
  if groups is None:
    groups = np.arange(len(values))
  groups = np.asarray(groups)
  if groups.shape != values.shape:
    raise ValueError(
      f'Expected a group for each of the {len(values)} values, found shape '
      f'{groups.shape}.'
    )
  keep = ~np.isnan(values)
  names, index = np.unique(groups[keep], return_inverse=True)
  sums = np.bincount(index, values[keep], len(names))
  return sums, np.bincount(index, minlength=len(names)).astype(np.float64)


def _as_values(values: Sequence[float]) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 1:
    raise ValueError(f'Expected values [N], found shape {values.shape}.')
  if np.isinf(values).any():
    raise ValueError(f'{int(np.isinf(values).sum())} values are infinite.')
  return values


def _bootstrap(sums, counts, seed: int) -> tuple[float, float]:
  """Computes the 95 % interval of sum / count over resampled images."""
  if len(sums) < 2:
    return float('nan'), float('nan')
  from scipy import stats

  result = stats.bootstrap(
    (sums, counts),
    lambda s, n, axis=-1: s.sum(axis) / n.sum(axis),
    paired=True,
    vectorized=True,
    n_resamples=RESAMPLES,
    batch=BATCH,
    method='percentile',
    rng=np.random.default_rng(seed),
  )
  low, high = result.confidence_interval
  return float(low), float(high)


def _swap_p(sums: np.ndarray, seed: int) -> float:
  """Computes the share of swaps with a sum at least as far from 0, of f64 [G].

  Swapping two methods on an image flips the sign of its sum, and leaves the
  number of rows alone, so the sum stands for the mean.
  """
  images, total = len(sums), sums.sum()
  # Sums that differ by the order of addition alone are equal.
  bar = abs(total) - 1e-12 * np.abs(sums).sum()

  def as_far(swapped):
    return int((np.abs(total - 2 * (swapped * sums).sum(axis=1)) >= bar).sum())

  if 2**images <= RESAMPLES + 1:
    every = np.arange(2**images)[:, None] >> np.arange(images) & 1
    return as_far(every) / len(every)
  rng = np.random.default_rng(seed)
  count = 0
  for start in range(0, RESAMPLES, BATCH):
    size = min(BATCH, RESAMPLES - start), -(-images // 8)
    octets = rng.integers(0, 256, size, np.uint8)
    count += as_far(np.unpackbits(octets, axis=1, count=images))
  # The swap that was observed is one of those that could have been.
  return (count + 1) / (RESAMPLES + 1)


def interval(
  values: Sequence[float], groups: Sequence | None = None, seed: int = 0
) -> tuple[float, float]:
  """Computes the 95 % bootstrap interval of the mean of `values`.

  Percentile method over 9,999 resamples of images.

  Args:
    values: [N], a score per row; rows with NaN are left out.
    groups: [N], image of each row; None where every row is an image.
    seed: the same seed gives the same interval.

  Returns:
    (low, high), both NaN where fewer than two images have a score.

  Raises:
    ValueError: for infinite values or groups of another length.

  Reference: Efron and Tibshirani 1993.
  """
  return _bootstrap(*_by_image(_as_values(values), groups), seed)


def paired(
  a: Sequence[float],
  b: Sequence[float],
  groups: Sequence | None = None,
  seed: int = 0,
) -> Paired:
  """Computes the mean of a - b, its 95 % interval and a permutation test.

  The test swaps the two methods on whole images at random: exactly, over all
  swaps, where there are at most 13 images; else 9,999 swaps are drawn, and p
  is at least 1e-4. It assumes no distribution and tests the mean that is
  printed, which a signed-rank test would not.

  Args:
    a: [N], scores of one method.
    b: [N], scores of the other on the same rows; rows where either is NaN are
      left out.
    groups: [N], image of each row; None where every row is an image.
    seed: the same seed gives the same numbers.

  Raises:
    ValueError: for different lengths or infinite values.
  """
  a, b = _as_values(a), _as_values(b)
  if a.shape != b.shape:
    raise ValueError(f'Expected rows in pairs, found {len(a)} and {len(b)}.')
  sums, counts = _by_image(a - b, groups)
  if not len(sums):
    return Paired(*[float('nan')] * 4)
  low, high = _bootstrap(sums, counts, seed)
  difference = float(sums.sum() / counts.sum())
  return Paired(difference, low, high, _swap_p(sums, seed))
