"""Scores behind the tables of the text-guided paper, `course_*`.

They are its own, and comparable with nothing else: both maps are cut to their
upper fifth before an AUC is taken, and its shuffled AUC is a noisy copy of that
AUC. Here to compare with those tables only.

All take `pred`, a prediction f64 [h, w] of any scale. `size` is (height, width)
that the maps are resized to first, by Pillow's bilinear filter as the released
code does; None leaves them alone. A truth that is zero everywhere scores NaN.

Reference: Huang and Li, "Text-guided saliency prediction", released code.
"""

import numpy as np

from salflax.core import spec
from salflax.metrics import distribution, location
from salflax.metrics.arrays import NAN, Map, as_cells, as_map, as_pair, need_rng

SIZE = (288, 384)
Size = tuple[int, int] | None


def _resize(x, size) -> np.ndarray:
  if size is None:
    return x
  if not isinstance(size, tuple | list) or len(size) != 2:
    raise ValueError(f'size must be (height, width) or None; found {size!r}.')
  for n in size:
    spec.check_number('size: a side', n, 1, 10_000, whole=True)
  if x.shape == tuple(size):
    return x
  from PIL import Image

  image = Image.fromarray(x if x.dtype == np.uint8 else x.astype(np.float32))
  small = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
  return np.asarray(small, np.float64)


def _resized(x: Map, size: Size) -> Map:
  key = repr(size)
  if key not in x.resized:
    x.resized[key] = as_map(_resize(x.values, size))
  return x.resized[key]


def _maps(pred, saliency, size: Size) -> tuple[Map, Map]:
  pred, saliency = as_pair(pred, saliency)
  return _resized(pred, size), _resized(saliency, size)


def _binary_auc(upper, target) -> float:
  """Computes 1/2 + (hit rate inside the target - rate outside) / 2."""
  if target.all() or not target.any():
    return NAN
  return float(0.5 + (upper[target].mean() - upper[~target].mean()) / 2)


def course_auc(pred, saliency, *, size=SIZE) -> float:
  """Computes AUC80: how well the map's upper fifth covers the truth's.

  In [0, 1]. With exact fifths that overlap by a share k it is 0.375 + 0.625 k.
  0.5 for a flat prediction, NaN for a flat truth.
  """
  pred, saliency = _maps(pred, saliency, size)
  return _binary_auc(pred.upper_fifth, saliency.upper_fifth)


def course_sauc(pred, saliency, rng, *, size=SIZE, draws=1) -> float:
  """Computes AUC80 after as many negatives as positives are called positive.

  This sAUC80 says nothing that AUC80 does not: relabelling at random halves the
  difference of the rates, so its expected value is 0.25 + 0.5 * AUC80, and it
  cannot be above 0.75.

  Args:
    pred: f64 [h, w].
    saliency: f64 [h, w].
    rng: draws the negatives.
    size: (height, width) to resize both to, or None.
    draws: number of draws to average, 1 in the released code.
  """
  need_rng(rng, 'course_sauc')
  spec.check_number('course_sauc: draws', draws, 1, 100_000, whole=True)
  pred, saliency = _maps(pred, saliency, size)
  upper, target = pred.upper_fifth, saliency.upper_fifth
  positives, negatives = int(target.sum()), int((~target).sum())
  count = min(positives, negatives)
  if not positives or count == negatives:
    return NAN
  # The score depends on how many upper pixels are among the drawn, no more.
  inside, outside = int(upper[target].sum()), int(upper[~target].sum())
  moved = rng.hypergeometric(outside, negatives - outside, count, draws)
  hits = (inside + moved) / (positives + count)
  misses = (outside - moved) / (negatives - count)
  return float((0.5 + (hits - misses) / 2).mean())


def course_cc(pred, saliency, *, size=SIZE) -> float:
  """Computes the correlation of the resized maps; 0 where one is flat."""
  return distribution.cc(*_maps(pred, saliency, size))


def course_nss(pred, fixations, *, size=SIZE) -> float:
  """Computes the mean z-score where the resized fixation map is above 0.

  The deviation is the unbiased one. The map of fixated pixels is resized like
  an image, so that each fixation grows to a patch of a few pixels. 0 for a flat
  prediction.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2]; a pixel counts once. NaN where empty.
    size: (height, width) to resize both to, or None.
  """
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape)
  if not len(cells):
    return NAN
  # Eight bits, as the released code reads it: faint edges round to 0.
  image = np.zeros(pred.size, np.uint8)
  image[cells] = 255
  fixated = _resize(image.reshape(pred.shape), size) > 0
  pred = _resized(pred, size)
  if pred.flat:
    return 0.0
  return location.nss(pred, np.argwhere(fixated), ddof=1)
