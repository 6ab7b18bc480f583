"""Scores at fixated places: AUC in its kinds, NSS, information gain.

All take a prediction f64 [h, w] of any scale and fixations i64 [N, 2] of (row,
column), and return NaN where there is no fixation. Each raises ValueError for
maps of different shapes, values that are not finite and fixations off the map.

References: Judd et al. 2009; Borji et al. 2013; Bylinskii et al. 2018, "What do
different evaluation metrics tell us about saliency models?"; Kuemmerer et al.
2015, 2018.
"""

import math

import numpy as np

from salflax.metrics.arrays import (
  EPS,
  as_cells,
  as_density,
  as_map,
  as_pair,
  is_flat,
  need_rng,
  scale_to_unit,
)

NAN = float('nan')


def _rank_auc(positives: np.ndarray, negatives: np.ndarray) -> float:
  """Chance that a positive exceeds a negative, a tie counting half."""
  if not len(positives) or not len(negatives):
    return NAN
  negatives = np.sort(negatives)
  below = np.searchsorted(negatives, positives, 'left')
  upto = np.searchsorted(negatives, positives, 'right')
  return float((below + upto).mean() / (2 * len(negatives)))


def auc(pred: np.ndarray, fixations: np.ndarray) -> float:
  """Chance that a fixation's value exceeds a pixel's, in [0, 1].

  Exact: every value is a threshold, ties count half, every pixel is a negative
  and every fixation counts as often as it was made. 0.5 for a flat map.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].

  Reference: pysaliency, AUC with uniform non-fixations.
  """
  values = as_map(pred).ravel()
  return _rank_auc(values[as_cells(fixations, np.shape(pred))], values)


def auc_nonfixated(pred: np.ndarray, fixations: np.ndarray) -> float:
  """Like `auc`, but only pixels without a fixation are negatives.

  NaN where every pixel was fixated.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
  """
  values = as_map(pred).ravel()
  cells = as_cells(fixations, np.shape(pred))
  rest = np.ones(values.size, bool)
  rest[cells] = False
  return _rank_auc(values[cells], values[rest])


def auc_judd(
  pred: np.ndarray,
  fixations: np.ndarray,
  rng: np.random.Generator | None = None,
  *,
  jitter: bool = False,
  unique: bool = True,
) -> float:
  """Area under the ROC curve by the MIT benchmark's rule.

  Thresholds are the values at the fixations, the i-th highest taken to find
  exactly i of them; the remaining pixels are negatives. On tied values that
  rule undercounts hits, so a quantised map scores below `auc`, even below 0.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    rng: used by the jitter only.
    jitter: add U(0, 1) * 1e-7 to the map as given, which breaks ties, and also
      the order of a map whose own values are that small. MATLAB's default is
      on, ours off, so that the score is a fact about the map.
    unique: count a pixel once, as MATLAB's binary fixation map does.

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
  if jitter:
    need_rng(rng, 'auc_judd(jitter=True)')
    pred = pred + rng.random(pred.shape) * 1e-7
  # Kept although ranks do not ask for it: rounding may merge close values.
  values = scale_to_unit(pred).ravel()
  rest = values.size - len(cells)
  if rest <= 0:
    return NAN
  thresholds = np.sort(values[cells])[::-1]
  above = values.size - np.searchsorted(np.sort(values), thresholds, 'left')
  hits = np.arange(1, len(cells) + 1)
  tp = np.concatenate([[0], hits / len(cells), [1]])
  fp = np.concatenate([[0], (above - hits) / rest, [1]])
  return float(np.trapezoid(tp, fp))


def stepped_auc(
  positives: np.ndarray,
  negatives: np.ndarray,
  *,
  step: float,
  closed: bool = True,
) -> float:
  """Area under an ROC curve with thresholds 0, step, 2 step, ... of [0, 1].

  Args:
    positives: f64 [p], values in [0, 1].
    negatives: f64 [n], values in [0, 1].
    step: distance of the thresholds, which are multiples `i * step` in floating
      point, as Octave computes `0:step:top`.
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
    found = 1 - np.searchsorted(values, thresholds, 'left') / len(values)
    return np.concatenate([[0], found, [1]])

  return float(np.trapezoid(rate(positives), rate(negatives)))


def _check_sampling(splits: int, step: float) -> None:
  if splits < 1 or not 0 < step <= 1:
    raise ValueError(
      f'Expected splits >= 1 and 0 < step <= 1, found {splits} and {step}.'
    )


def borji_splits(
  pred: np.ndarray,
  fixations: np.ndarray,
  rng: np.random.Generator,
  *,
  splits: int = 100,
  step: float = 0.1,
) -> np.ndarray:
  """AUC-Borji of every split, f64 [splits]; empty without fixations."""
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


def auc_borji(
  pred: np.ndarray,
  fixations: np.ndarray,
  rng: np.random.Generator,
  *,
  splits: int = 100,
  step: float = 0.1,
) -> float:
  """Area under the ROC curve against random pixels, by the MIT rule.

  The map is scaled to [0, 1]; as many pixels as were fixated are drawn from the
  whole map with replacement; thresholds lie `step` apart. Mean over splits.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2]; a pixel counts once.
    rng: draws the negatives.
    splits: number of draws.
    step: distance of thresholds; a coarse one lowers the score.

  Reference: Borji et al. 2013.
  """
  scores = borji_splits(pred, fixations, rng, splits=splits, step=step)
  return float(scores.mean()) if len(scores) else NAN


def shuffled_splits(
  pred: np.ndarray,
  fixations: np.ndarray,
  other_fixations: np.ndarray,
  rng: np.random.Generator,
  *,
  splits: int = 100,
  step: float = 0.1,
) -> np.ndarray:
  """Sampled shuffled AUC of every split, f64 [splits]; empty if undefined."""
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
  pred: np.ndarray,
  fixations: np.ndarray,
  other_fixations: np.ndarray,
  rng: np.random.Generator | None = None,
  *,
  exact: bool = False,
  splits: int = 100,
  step: float = 0.1,
) -> float:
  """AUC against fixations on other pictures, so that centre bias earns 0.5.

  Sampled, the MIT rule: fixated pixels of other pictures are merged, as many as
  this picture's fixated pixels are drawn without replacement, thresholds lie
  `step` apart on the map scaled to [0, 1], mean over splits. Exact, the
  Tuebingen rule: all other fixations are negatives, repeats and ties count.
  Neither takes this picture's own pixels out of the negatives.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    other_fixations: i64 [M, 2], of other pictures, rescaled to this size. NaN
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


def nss(
  pred: np.ndarray,
  fixations: np.ndarray,
  *,
  ddof: int = 0,
  unique: bool = False,
) -> float:
  """Normalised scanpath saliency: mean z-score of the map at the fixations.

  In standard deviations of the map; 0 is chance and the score of a flat map.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    ddof: 1 for MATLAB's unbiased deviation, 0 for pysaliency's and SALICON's.
    unique: count a pixel once, as MATLAB's binary fixation map does.

  Reference: Peters et al. 2005.
  """
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=unique)
  if not len(cells):
    return NAN
  if is_flat(pred):
    return 0.0
  return float((pred.ravel()[cells].mean() - pred.mean()) / pred.std(ddof=ddof))


def ig(
  pred: np.ndarray,
  fixations: np.ndarray,
  baseline: np.ndarray,
  *,
  minmax: bool = False,
  eps: float = EPS,
  unique: bool = False,
) -> float:
  """Information gain over the baseline, in bits per fixation.

  Mean over fixations of log2(eps + p) - log2(eps + b), with p and b the two
  maps as densities. 0 for the baseline itself; a zero under a fixation costs up
  to 52 bits.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2].
    baseline: f64 [h, w], usually the centre bias. NaN where it is all zero.
    minmax: subtract each map's minimum first (MIT). Without it (Tuebingen) the
      map is read as a density, as a probabilistic model gives it.
    eps: keeps the logarithms finite.
    unique: count a pixel once, as MATLAB's binary fixation map does.

  Reference: Kuemmerer et al. 2015.
  """
  pred, baseline = as_pair(pred, baseline, 'baseline')
  cells = as_cells(fixations, pred.shape, unique=unique)
  if not len(cells) or not baseline.any():
    return NAN
  p = as_density(pred, minmax=minmax).ravel()[cells]
  b = as_density(baseline, minmax=minmax).ravel()[cells]
  return float((np.log2(eps + p) - np.log2(eps + b)).mean())
