"""Losses that compare a prediction with the saliency map as a whole."""

import jax.numpy as jnp
from jax import Array

from salflax.losses import maps

MIT_EPS = 2.2204e-16


def kld(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  eps: float = MIT_EPS,
) -> Array:
  """Kullback-Leibler divergence of the prediction from the saliency map.

  sum S log(eps + S / (P + eps)) in nats, of maps that sum to 1.

  Args:
    pred: predicted saliency >= 0 of any scale, [B, H, W].
    target: saliency map of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    eps: bounds the price of predicting exactly 0. The gradient at such a pixel
      grows as its inverse: 1e-7 is milder for networks that end in a ReLU.

  Returns:
    [B], at least 0 up to rounding; 0 where the densities are equal or the
    saliency map is empty.

  Raises:
    ValueError: where float32 cannot hold the square of `eps`.

  Reference: MIT saliency benchmark (KLdiv); TranSalNet's training loss.
  """
  if not eps >= 1e-18:
    raise ValueError(f'kld: eps must be at least 1e-18, found {eps!r}.')
  pred, target, valid = maps.prepare(pred, target, where)
  p = maps.density(pred, valid)
  s = maps.truth_density(target, valid)
  return maps.total(s * jnp.log(eps + s / (p + eps)), valid)[:, 0, 0]


def kld_released(
  pred: Array, target: Array, *, where: Array | None = None
) -> Array:
  """What the text-guided model's released code minimises in place of a KL.

  mean S (log S - P), with P not a log-probability: its gradient is -S / n
  whatever P is, so it only pushes predictions up to 1. To reproduce that code;
  not to train with.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.

  Returns:
    [B], in [-1, 0]; lowest for a prediction of 1 at every salient pixel.

  Reference: Huang, Text-Guided Saliency Prediction Model, released code.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  s = maps.max_to_one(target, valid)
  log_s = jnp.log(jnp.where(s > 0, s, 1))
  return maps.mean(s * (log_s - pred), valid)[:, 0, 0]


def cc(pred: Array, target: Array, *, where: Array | None = None) -> Array:
  """One minus Pearson's correlation of prediction and saliency map.

  Args:
    pred: predicted saliency of any scale and offset, [B, H, W].
    target: saliency map of any scale and offset, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.

  Returns:
    [B], in [0, 2]; 0 for proportional maps, 1 where either map is flat.

  Reference: Bruckert et al. 2021, eq. 12, with the sign that minimises.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  p, s = maps.centre(pred, valid), maps.centre(target, valid)
  # Two roots, not the root of a product, which may leave float32's range.
  norm = maps.root(maps.total(p * p, valid))
  norm = norm * maps.root(maps.total(s * s, valid))
  return 1 - (maps.total(p * s, valid) / norm)[:, 0, 0]


def sim(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  minmax: bool = True,
) -> Array:
  """One minus the histogram intersection of prediction and saliency map.

  Args:
    pred: predicted saliency >= 0 of any scale, [B, H, W].
    target: saliency map >= 0 of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    minmax: subtract each map's minimum before it is divided by its sum, as in
      the MIT benchmark and in TranSalNet.

  Returns:
    [B], in [0, 1]; 0 where the densities are equal, 1 where they do not meet or
    the saliency map is empty.

  Reference: MIT saliency benchmark (similarity); TranSalNet's training loss.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  p = maps.density(pred, valid, minmax=minmax)
  s = maps.truth_density(target, valid, minmax=minmax)
  return 1 - maps.total(jnp.minimum(p, s), valid)[:, 0, 0]
