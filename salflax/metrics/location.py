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

import numpy as np

from salflax.core import spec
from salflax.metrics import arrays
from salflax.metrics.arrays import EPS, NAN, Map, as_cells, as_map, as_pair

# Share of the uniform density in both densities of IG. Maps that were blurred
# and stored in 8 bits are exactly 0 far from gaze: 12 of them, as a baseline,
# would let one fixation in a corner earn 52 bits, and cost it as much.
FLOOR = 0.01


# Bins of a map's range, so many that few pixels share one with a fixation.
BINS = 1 << 14


def _ranks(values, points, ties) -> np.ndarray:
  """Counts the sorted values below each point; one that equals it is `ties`."""
  left, right = (np.searchsorted(values, points, k) for k in ('left', 'right'))
  return left + ties * (right - left)


def _exceeded(values, points, weights, low, high, ties=0.0) -> float:
  """Sums the weights of the points over the values that each exceeds.

  Values f64 [n] and points f64 [N] lie in [low, high], weights f64 [N] are >=
  0; a value that equals a point counts as the share `ties`.
  """
  if len(values) < BINS:
    return arrays.total(weights * _ranks(np.sort(values), points, ties))
  # To sort a map takes longer than all else in a score. A value's bin tells
  # what exceeds it; only what shares a bin with a point is compared. Of that,
  # in a map of few levels, most equals one point of the bin, its pivot.
  scale = (BINS - 1) / (high - low) if high > low else 0.0
  at = ((points - low) * scale).astype(np.int64)
  upto = np.cumsum(np.bincount(at, weights, BINS)[::-1])[::-1]
  above = np.append(upto[1:], 0.0)  # the weight in higher bins
  pivot, table = np.zeros(BINS), above.copy()
  pivot[at], table[at] = points, -1
  won, near, buffer = 0.0, [], np.empty((2, arrays.BLOCK))
  for start in range(0, len(values), arrays.BLOCK):
    block = values[start : start + arrays.BLOCK]
    x, bins = buffer[0, : len(block)], buffer[1, : len(block)].view(np.int64)
    shifted = np.subtract(block, low, out=x) if low else block
    bins[:] = np.multiply(shifted, scale, out=x)
    table.take(bins, out=x, mode='clip')
    close = np.flatnonzero(x < 0)
    won += arrays.total(x) + len(close)
    near.append((block[close], bins[close]))
  values, bins = map(np.concatenate, zip(*near))
  tied = values == pivot[bins]
  count = np.bincount(bins[tied], minlength=BINS)
  ranks = _ranks(np.sort(values[~tied]), points, ties)
  own = (pivot[at] < points) + ties * (pivot[at] == points)
  won += arrays.total(count * above)
  return won + arrays.total(weights * (ranks + count[at] * own))


def _rank_auc(pred: Map, positives, negatives) -> float:
  """Computes the chance that a positive exceeds a negative; ties are half."""
  if not len(positives) or not len(negatives):
    return NAN
  weights = np.ones(len(positives))
  won = _exceeded(negatives, positives, weights, pred.low, pred.high, ties=0.5)
  return float(won / len(positives) / len(negatives))


def auc(pred, fixations) -> float:
  """Computes the chance that a fixation's value exceeds a pixel's, in [0, 1].

  Exact: every value is a threshold, ties count half, every pixel is a negative
  and every fixation counts. 0.5 for a flat map.

  Reference: pysaliency, AUC with uniform non-fixations.
  """
  pred = as_map(pred)
  values, cells = pred.values.ravel(), as_cells(fixations, pred.shape)
  return _rank_auc(pred, values[cells], values)


def auc_nonfixated(pred, fixations) -> float:
  """Computes `auc` against the pixels without a fixation.

  NaN where every pixel was fixated.
  """
  pred = as_map(pred)
  values, cells = pred.values.ravel(), as_cells(fixations, pred.shape)
  return _rank_auc(pred, values[cells], np.delete(values, cells))


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
  if pred.flat:
    return 0.5
  # Kept although ranks do not ask for it: rounding may merge close values.
  values = pred.unit.ravel()
  if jitter:
    arrays.need_rng(rng, 'auc_judd(jitter=True)')
    values = values + rng.random(values.size) * 1e-7
  rest = values.size - len(np.unique(cells))
  if not rest:
    return NAN
  thresholds = np.sort(values[cells])[::-1]
  if unique:
    hits = np.arange(1, len(cells) + 1)
    false = values.size - hits
  else:
    hits = len(cells) - np.searchsorted(thresholds[::-1], thresholds, 'left')
    values, false = np.delete(values, cells), rest
  # A trapezoid of the area above the curve for the alarms of each threshold.
  tp = np.concatenate([[0], hits / len(cells), [1]])
  widths = (tp[2:] - tp[:-2]) / 2
  correct = _exceeded(values, thresholds, widths, 0, 1)
  return float(1 - ((widths * false).sum() - correct) / rest)


def stepped_auc(positives, negatives, *, step, closed=True) -> np.ndarray:
  """Computes areas under ROC curves with thresholds 0, step, 2 step, ...

  Args:
    positives: f64 [p], values in [0, 1].
    negatives: f64 [splits, n], values in [0, 1]; each split has its curve.
      [n] for one.
    step: distance of the thresholds, which are multiples `i * step` in floating
      point, as Octave computes `0:step:top`, in (0, 1].
    closed: whether a threshold that equals the highest value is used (MATLAB's
      range) or not (NumPy's `arange`).

  Returns:
    f64 [splits].
  """
  negatives = np.atleast_2d(negatives)
  top = np.maximum(positives.max(), negatives.max(axis=1, keepdims=True))
  if closed:
    # A range reaches its end where it misses it by round-off alone.
    count = np.floor((top / step + 1) * (1 + 3 * EPS)).astype(np.int64)
  else:
    count = np.ceil(top / step).astype(np.int64)
  width = int(count.max()) + 2
  grid = np.arange(width) * step

  def rate(values):
    # How many thresholds each value meets; the quotient may be off by one.
    met = (values / step).astype(np.int64)
    met = met + (grid[met] <= values) + (grid[met + 1] <= values)
    met = np.where(closed & (values == top), count, np.minimum(met, count))
    # By split: nobody meets the last of `width` numbers, all meet the first.
    met += np.arange(len(top))[:, None] * width
    counts = np.bincount(met.ravel(), minlength=len(top) * width)
    above = counts.reshape(-1, width)[:, ::-1].cumsum(axis=1)
    return above / values.shape[-1]

  return np.trapezoid(rate(positives), rate(negatives))


def _check_sampling(splits: int, step: float) -> None:
  spec.check_number('splits', splits, 1, 10_000, whole=True)
  spec.check_number('step', step, 1e-4, 1)


def borji_splits(pred, fixations, rng, *, splits=100, step=0.1) -> np.ndarray:
  """Computes AUC-Borji of every split, f64 [splits]; empty if undefined."""
  _check_sampling(splits, step)
  arrays.need_rng(rng, 'auc_borji')
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=True)
  if not len(cells):
    return np.zeros(0)
  values = pred.unit.ravel()
  drawn = values[rng.integers(values.size, size=(splits, len(cells)))]
  return stepped_auc(values[cells], drawn, step=step)


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
  arrays.need_rng(rng, 'auc_shuffled')
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=True)
  others = as_cells(other_fixations, pred.shape, unique=True)
  if not len(cells) or not len(others):
    return np.zeros(0)
  values = pred.unit.ravel()
  size = min(len(cells), len(others))
  drawn = [
    rng.choice(others, size, replace=False, shuffle=False)
    for _ in range(splits)
  ]
  return stepped_auc(values[cells], values[np.array(drawn)], step=step)


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
    pred = as_map(pred)
    cells = as_cells(fixations, pred.shape)
    others = as_cells(other_fixations, pred.shape)
    values = pred.values.ravel()
    return _rank_auc(pred, values[cells], values[others])
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
  if pred.flat:
    return 0.0
  mean = (pred.values.ravel()[cells] - pred.mean).mean()
  return float(mean * np.sqrt(pred.size - ddof) / pred.norm)


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
  if not len(cells) or baseline.empty:
    return NAN

  def bits(x):
    shift, scale = x.as_density(minmax=minmax)
    density = (x.values.ravel()[cells] - shift) * scale
    return np.log2(eps + (1 - floor) * density + floor / x.size)

  with np.errstate(divide='ignore', invalid='ignore'):
    return float((bits(pred) - bits(baseline)).mean())
