"""Scores of the SALICON toolkit (2015), where they differ from the others.

Its NSS is `nss()`. The toolkit first resizes a prediction to the image by cubic
splines; here every map has the image's own size already. All take `pred`, f64
[h, w] of any scale, and `fixations`, i64 [N, 2]; NaN where there is none.

Reference: NUS-VIP/salicon-evaluation, saliconeval/.
"""

import numpy as np

from salflax.core import spec
from salflax.metrics.arrays import NAN, as_cells, as_map, need_rng
from salflax.metrics.distribution import cc
from salflax.metrics.location import stepped_auc


def salicon_auc(pred, fixations, rng, *, samples=100_000, step=0.01) -> float:
  """Computes the area under the ROC curve against one draw of random pixels.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2]; repeats count.
    rng: draws the pixels, with replacement.
    samples: number of pixels drawn.
    step: distance of thresholds, the highest value excluded.
  """
  need_rng(rng, 'salicon_auc')
  spec.check_number('samples', samples, 1, 10_000_000, whole=True)
  spec.check_number('step', step, 1e-4, 1)
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape)
  if not len(cells):
    return NAN
  values = pred.unit.ravel()
  drawn = values[rng.integers(values.size, size=samples)]
  return stepped_auc(values[cells], drawn, step=step, closed=False).item()


def salicon_sauc(pred, fixations, other_fixations, *, step=0.01) -> float:
  """Computes AUC against all pixels fixated on other images, in [0, 1].

  A negative counts once however often it was fixated, and pixels fixated on
  this image are taken out. NaN where nothing remains.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2]; repeats count.
    other_fixations: i64 [M, 2], of other images, rescaled to this size.
    step: distance of thresholds, the highest value excluded.
  """
  spec.check_number('step', step, 1e-4, 1)
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape)
  others = np.setdiff1d(as_cells(other_fixations, pred.shape), cells)
  if not len(cells) or not len(others):
    return NAN
  x = pred.unit.ravel()
  return stepped_auc(x[cells], x[others], step=step, closed=False).item()


def _blur(x, sigma) -> np.ndarray:
  """Blurs [h, w] by a Gaussian, borders mirrored, kernel cut at 4 sigma."""
  # Mirroring makes the cosine transform diagonalise the blur: seven times as
  # fast as filtering with 153 taps along each axis.
  from scipy import fft

  offsets = np.arange(int(4 * sigma + 0.5) + 1)
  weights = np.exp(-0.5 * (offsets / sigma) ** 2)
  weights[1:] *= 2
  weights /= weights.sum()
  spectrum = fft.dctn(x)
  for axis, size in enumerate(x.shape):
    angles = np.pi / size * np.outer(np.arange(size), offsets)
    gain = (np.cos(angles) * weights).sum(axis=1)
    spectrum *= gain[:, None] if axis == 0 else gain
  return fft.idctn(spectrum)


def salicon_cc(pred, fixations, *, sigma=19.0) -> float:
  """Computes the correlation with the toolkit's blur of the fixated pixels.

  Args:
    pred: f64 [h, w].
    fixations: i64 [N, 2]; a pixel counts once.
    sigma: deviation of the Gaussian, in pixels, above 0 and at most 10,000;
      borders are mirrored, and the kernel ends at 4 sigma.
  """
  spec.check_number('salicon_cc: sigma', sigma, 0, 10_000, above=True)
  pred = as_map(pred)
  cells = as_cells(fixations, pred.shape, unique=True)
  if not len(cells):
    return NAN
  saliency = np.zeros(pred.shape)
  saliency.ravel()[cells] = 1
  return cc(pred, _blur(saliency, sigma))
