"""Scores at fixated places: AUC in its kinds, NSS, information gain.

All take `pred`, a prediction f64 [h, w] of any scale, and `fixations`, i64
[N, 2] of (row, column), and return NaN where there is no fixation. `unique`
counts a pixel once, as MATLAB's binary fixation map does; otherwise every
fixation counts. Sampled scores are means over `splits` draws by `rng`, with
thresholds `step` apart on the map scaled to [0, 1]: a coarse step lowers them.

Each raises ValueError for maps of different shapes, values that are not finite,
fixations off the map and options out of range.

References: Judd et al. 2009; Borji et al. 2013; Bylinskii et al. 2018, "What do
different evaluation metrics tell us about saliency models?"; Kuemmerer et al.
2015, 2018.
"""

import math

import numpy as np

from salflax.core import spec
from salflax.metrics.arrays import (
  EPS,
  NAN,
  as_cells,
  as_density,
  as_map,
  as_pair,
  is_flat,
  need_rng,
  scale_to_unit,
)

# Share of the uniform density in both densities of IG. Maps that were blurred
# and stored in 8 bits are exactly 0 far from gaze: 12 of them, as a baseline,
# would let one fixation in a corner earn 52 bits, and cost it as much.
FLOOR = 0.01


def _rank_auc(positives, negatives) -> float:
  """Computes the chance that a positive exceeds a negative; ties are half."""
  if not len(positives) or not len(negatives):
    return NAN
  negatives = np.sort(negatives)
  below = np.searchsorted(negatives, positives, 'left')
  upto = np.searchsorted(negatives, positives, 'right')
  return float((below + upto).mean() / (2 * len(negatives)))


def auc(pred, fixations) -> float:
  """Computes the chance that a fixation's value exceeds a pixel's, in [0, 1].

  Exact: every value is a threshold, ties count half, every pixel is a negative
  and every fixation counts. 0.5 for a flat map.

  Reference: pysaliency, AUC with uniform non-fixations.
  """
  values = as_map(pred).ravel()
  return _rank_auc(values[as_cells(fixations, np.shape(pred))], values)


def auc_nonfixated(pred, fixations) -> float:
  """Computes `auc` against the pixels without a fixation.

  NaN where every pixel was fixated.
  """
  values = as_map(pred).ravel()
  cells = as_cells(fixations, np.shape(pred))
  return _rank_auc(values[cells], np.delete(values, cells))


def auc_judd(pred, fixations, rng=None, *, jitter=False, unique=True) -> float:
  """Computes the area under the ROC curve with fixated values as thresholds.

  The negatives are the pixels without a fixation. With `unique`, the MIT
  benchmark's rule: the i-th highest threshold is taken to find exactly i
  fixated pixels, which undercounts hits on tied values, so that a quantised map
  scores below `auc_nonfixated`, even below 0. Without it, pysaliency's rule:
  a threshold hits all fixations at or above it, repeats and ties
  included.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    rng: used by the jitter only.
    jitter: add U(0, 1) * 1e-7 to the map scaled to [0, 1], which breaks ties.
      MATLAB and pysaliency add it to the map as it is, and by default; here it
      is off, so that the score is a fact about the map.
    unique: count a pixel once, and choose the rule.

  Returns:
    0.5 for a flat map, where MATLAB divides 0 by 0. NaN where every pixel was
    fixated and the map is not flat.
  """
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=unique)
  if not len(cells):
    return NAN
  if is_flat(pred):
    return 0.5
  # Kept although ranks do not ask for it: rounding may merge close values.
  values = scale_to_unit(pred).ravel()
  if jitter:
    need_rng(rng, 'auc_judd(jitter=True)')
    values = values + rng.random(values.size) * 1e-7
  rest = np.sort(np.delete(values, cells))
  if not len(rest):
    return NAN
  thresholds = np.sort(values[cells])[::-1]
  if unique:
    hits = np.arange(1, len(cells) + 1)
    above = values.size - np.searchsorted(np.sort(values), thresholds, 'left')
    alarms = above - hits
  else:
    hits = len(cells) - np.searchsorted(thresholds[::-1], thresholds, 'left')
    alarms = len(rest) - np.searchsorted(rest, thresholds, 'left')
  tp = np.concatenate([[0], hits / len(cells), [1]])
  fp = np.concatenate([[0], alarms / len(rest), [1]])
  return float(np.trapezoid(tp, fp))


def stepped_auc(positives, negatives, *, step, closed=True) -> float:
  """Computes the area under an ROC curve with thresholds 0, step, 2 step, ...

  Args:
    positives: f64 [p], values in [0, 1].
    negatives: f64 [n], values in [0, 1].
    step: distance of the thresholds, which are multiples `i * step` in floating
      point, as Octave computes `0:step:top`, in (0, 1].
    closed: whether a threshold that equals the highest value is used (MATLAB's
      range) or not (NumPy's `arange`).
  """
  positives, negatives = np.sort(positives), np.sort(negatives)
  top = max(positives[-1], negatives[-1])
  if closed:
    # A range reaches its end where it misses it by round-off alone.
    count = math.floor((top / step + 1) * (1 + 3 * EPS))
    thresholds = np.minimum(np.arange(count) * step, top)
  else:
    thresholds = np.arange(math.ceil(top / step)) * step
  thresholds = thresholds[::-1]

  def rate(values):
    above = 1 - np.searchsorted(values, thresholds, 'left') / len(values)
    return np.concatenate([[0], above, [1]])

  return float(np.trapezoid(rate(positives), rate(negatives)))


def _check_sampling(splits: int, step: float) -> None:
  spec.check_number('splits', splits, 1, 10_000, whole=True)
  spec.check_number('step', step, 1e-4, 1)


def borji_splits(pred, fixations, rng, *, splits=100, step=0.1) -> np.ndarray:
  """Computes AUC-Borji of every split, f64 [splits]; empty if undefined."""
  _check_sampling(splits, step)
  need_rng(rng, 'auc_borji')
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=True)
  if not len(cells):
    return np.zeros(0)
  values = scale_to_unit(pred).ravel()
  drawn = values[rng.integers(values.size, size=(splits, len(cells)))]
  positives = values[cells]
  return np.array([stepped_auc(positives, d, step=step) for d in drawn])


def auc_borji(pred, fixations, rng, *, splits=100, step=0.1) -> float:
  """Computes the area under the ROC curve against random pixels (MIT rule).

  As many pixels as were fixated are drawn from the whole map with replacement.
  A fixated pixel counts once.

  Reference: Borji et al. 2013.
  """
  scores = borji_splits(pred, fixations, rng, splits=splits, step=step)
  return float(scores.mean()) if len(scores) else NAN


def shuffled_splits(
  pred, fixations, other_fixations, rng, *, splits=100, step=0.1
) -> np.ndarray:
  """Computes sampled sAUC of every split, f64 [splits]; empty if undefined."""
  _check_sampling(splits, step)
  need_rng(rng, 'auc_shuffled')
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=True)
  others = as_cells(other_fixations, pred.shape, unique=True)
  if not len(cells) or not len(others):
    return np.zeros(0)
  values = scale_to_unit(pred).ravel()
  positives, pool = values[cells], values[others]
  size = min(len(cells), len(others))
  scores = np.zeros(splits)
  for i in range(splits):
    drawn = rng.choice(pool, size, replace=False, shuffle=False)
    scores[i] = stepped_auc(positives, drawn, step=step)
  return scores


def auc_shuffled(
  pred,
  fixations,
  other_fixations,
  rng=None,
  *,
  exact=False,
  splits=100,
  step=0.1,
) -> float:
  """Computes AUC against fixations on other images: centre bias earns 0.5.

  Sampled, the MIT rule: fixated pixels of other images are merged, as many as
  this image's fixated pixels are drawn without replacement. Exact, the
  Tuebingen rule: all other fixations are negatives, repeats and ties count.
  Neither takes this image's own pixels out of the negatives.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    other_fixations: i64 [M, 2], of other images, rescaled to this size. NaN
      where there are none.
    rng: draws the negatives; unused when exact.
    exact: use all negatives and thresholds.
    splits: number of draws.
    step: distance of thresholds.
  """
  if exact:
    values = as_map(pred).ravel()
    cells = as_cells(fixations, np.shape(pred))
    others = as_cells(other_fixations, np.shape(pred))
    return _rank_auc(values[cells], values[others])
  scores = shuffled_splits(
    pred, fixations, other_fixations, rng, splits=splits, step=step
  )
  return float(scores.mean()) if len(scores) else NAN


def nss(pred, fixations, *, ddof=0, unique=False) -> float:
  """Computes the normalised scanpath saliency: mean z-score at the fixations.

  In standard deviations of the map; 0 is chance and the score of a flat map.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    ddof: 1 for MATLAB's unbiased deviation, 0 for pysaliency's and SALICON's.
    unique: count a pixel once.

  Reference: Peters et al. 2005.
  """
  spec.check_number('nss: ddof', ddof, 0, 1, whole=True)
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=unique)
  if not len(cells):
    return NAN
  if is_flat(pred):
    return 0.0
  return float((pred.ravel()[cells].mean() - pred.mean()) / pred.std(ddof=ddof))


def ig(
  pred, fixations, baseline, *, minmax=False, eps=EPS, floor=FLOOR, unique=False
) -> float:
  """Computes the information gain over the baseline, in bits per fixation.

  Mean over fixations of log2(eps + p) - log2(eps + b), with p and b the two
  maps as densities, of which a share `floor` is uniform. 0 for the baseline
  itself.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    baseline: f64 [h, w], usually the centre bias. NaN where it is all zero.
    minmax: subtract each map's minimum first (MIT). Without it (Tuebingen) the
      map is read as a density, as a probabilistic model gives it.
    eps: keeps the logarithms finite where `floor` is 0.
    floor: in [0, 1): where a map is zero it is worth that share of the uniform
      density, so that a zero under a fixation costs log2(1 / floor) bits more
      than the uniform density would. 0, as in MATLAB, lets it cost 52 bits and
      a zero of the baseline earn as many.
    unique: count a pixel once.

  Reference: Kuemmerer et al. 2015; pysaliency's baselines for the uniform
  share, which it fits.
  """
  spec.check_number('ig: eps', eps, 0, 1)
  spec.check_number('ig: floor', floor, 0, 0.99)
  pred, baseline = as_pair(pred, baseline, 'baseline')
  cells = as_cells(fixations, pred.shape, unique=unique)
  if not len(cells) or not baseline.any():
    return NAN

  def bits(x):
    density = as_density(x, minmax=minmax).ravel()[cells]
    return np.log2(eps + (1 - floor) * density + floor / x.size)

  with np.errstate(divide='ignore', invalid='ignore'):
    return float((bits(pred) - bits(baseline)).mean())
