"""Scores of one map against another: CC, SIM, KL, EMD.

All take `pred`, a prediction, and `saliency`, a ground-truth saliency map, f64
[h, w] of any scale. A flat map, all-zero too, is read as the uniform density; a
truth that is zero everywhere records no gaze, and scores NaN. Each raises
ValueError for maps of different shapes, values that are not finite and options
out of range.

Reference: Bylinskii et al. 2018, "What do different evaluation metrics tell us
about saliency models?"
"""

import importlib.util

import numpy as np

from salflax.core import spec
from salflax.metrics import arrays
from salflax.metrics.arrays import EPS, NAN, as_map, as_pair, dot


def cc(pred, saliency) -> float:
  """Computes Pearson's correlation coefficient of the two maps, in [-1, 1].

  0 where either map is flat.
  """
  pred, saliency = as_pair(pred, saliency)
  if saliency.empty:
    return NAN
  if pred.flat or saliency.flat:
    return 0.0
  product = arrays.covariance(pred, saliency) / pred.norm / saliency.norm
  return float(np.clip(product, -1, 1))


def sim(pred, saliency, *, minmax=False) -> float:
  """Computes the histogram intersection of both maps as densities, in [0, 1].

  Args:
    pred: f64 [h, w].
    saliency: f64 [h, w].
    minmax: subtract each map's minimum first (MIT). Without it (Tuebingen) a
      floor under the map costs score.
  """
  pred, saliency = as_pair(pred, saliency)
  if saliency.empty:
    return NAN
  pair = ((*x.as_density(minmax=minmax), x) for x in (pred, saliency))
  # In units of the one map; which one does not depend on the order of the two.
  (shift, scale, one), (floor, unit, other) = sorted(pair, key=lambda x: x[1])
  pairs = zip(one.blocks(shift, scale / unit), other.blocks(floor))
  shared = sum(arrays.total(np.minimum(x, y, out=x)) for x, y in pairs)
  return float(min(unit * shared, 1.0))


def kl(pred, saliency, *, eps=EPS, floor=0.0) -> float:
  """Computes the divergence of the prediction from the truth (KL), in nats.

  sum of s * log(eps + s / (p + eps)), with p and s the maps plus `floor`,
  scaled to sum 1. Never below 0; a constant `eps` dominates it where the
  prediction is zero under gaze, so it means nothing without its constants.

  Args:
    pred: f64 [h, w].
    saliency: f64 [h, w].
    eps: added in both places, in [0, 1]: 2^-52 in MATLAB, 2.2204e-16 in
      pysaliency's form for the MIT/Tuebingen benchmark, 0 with pysaliency's
      general form.
    floor: added to both maps, each scaled to a maximum of 1, in [0, 1]: 1e-20
      in pysaliency's general form, which adds it at whatever scale they have.
  """
  spec.check_number('kl: eps', eps, 0, 1)
  spec.check_number('kl: floor', floor, 0, 1)
  pred, saliency = as_pair(pred, saliency)
  if saliency.empty:
    return NAN
  if floor:
    pred, saliency = (
      as_map(x.values + floor * x.high) for x in (pred, saliency)
    )
  (low, scale), (floor, factor) = (x.as_density() for x in (pred, saliency))
  # With p and s as they are, their factors taken out of the logarithm.
  ratio, divergence = factor / scale, 0.0
  buffer = np.empty_like(arrays.split(pred.values)[0])
  with np.errstate(divide='ignore', invalid='ignore'):
    for p, s in zip(pred.blocks(low), saliency.blocks(floor)):
      log = np.add(p, eps / scale, out=buffer[: len(p)])
      np.divide(s, log, out=log)
      log += eps / ratio
      np.log(log, out=log)
      if not eps:
        log[s == 0] = 0  # 0 log 0 is 0
      divergence += dot(s, log)
  divergence = factor * divergence + np.log(ratio)
  # The constant can push a perfect prediction below 0, by about eps * h * w.
  return float(max(divergence, 0.0))


def _block_sums(x, cell) -> np.ndarray:
  for axis in (0, 1):
    x = np.add.reduceat(x, np.arange(0, x.shape[axis], cell), axis=axis)
  return x


def emd(pred, saliency, *, cell=32) -> float:
  """Computes the earth mover's distance on a coarse grid, in its cells.

  Both maps are summed over blocks of `cell` x `cell` pixels, those at the right
  and lower edge being smaller where the size does not divide, and scaled to sum
  1; then the cheapest transport of one into the other is solved exactly, the
  cost being the Euclidean distance in cells. Multiply by `cell` for pixels. 0
  where the image is a single block.

  Args:
    pred: f64 [h, w] >= 0.
    saliency: f64 [h, w] >= 0.
    cell: pixels along the side of a block, a whole number from 1.

  Raises:
    ImportError: where POT is not installed.
    RuntimeError: where the solver stops early.

  References: Rubner et al. 2000; Pele and Werman 2009.
  """
  spec.check_number('emd: cell', cell, 1, 100_000, whole=True)
  pred, saliency = as_pair(pred, saliency)
  if saliency.empty:
    return NAN
  p, s = (
    as_map(_block_sums(x.density, cell)).density for x in (pred, saliency)
  )
  return _transport(p, s)


def has_solver() -> bool:
  """Tells whether POT, which `emd` needs, is installed."""
  return importlib.util.find_spec('ot') is not None


def require_solver() -> None:
  """Checks that POT, which `emd` needs, is installed.

  Raises:
    ImportError: it is not.
  """
  if not has_solver():
    raise ImportError(
      "emd needs POT: pip install 'salflax[emd]', or leave emd out."
    )


def _transport(p, s) -> float:
  """Computes the cost of the cheapest transport of `p` into `s`, densities."""
  # Mass on both sides may stay where it is, since the cost is a metric.
  surplus, lack = np.maximum(p - s, 0), np.maximum(s - p, 0)
  mass = surplus.sum()
  if mass <= EPS * p.size:
    return 0.0
  require_solver()
  import ot

  source, sink = np.argwhere(surplus > 0), np.argwhere(lack > 0)
  cost = np.linalg.norm(source[:, None] - sink[None], axis=-1)
  value, log = ot.emd2(
    surplus[surplus > 0] / mass,
    lack[lack > 0] / lack.sum(),
    cost,
    numItermax=10_000_000,
    log=True,
  )
  if log['warning']:
    raise RuntimeError(f'Optimal transport did not finish: {log["warning"]}')
  return float(value * mass)
