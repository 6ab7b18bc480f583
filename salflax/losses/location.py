"""Losses that read the prediction at the fixated pixels."""

import jax.numpy as jnp
from jax import Array

from salflax.losses import maps
from salflax.losses.binary import LOG_EPS
from salflax.losses.distribution import MIT_EPS


def nss(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  ddof: int = 1,
) -> Array:
  """Minus the mean standardised prediction at the fixated pixels.

  Args:
    pred: predicted saliency of any scale and offset, [B, H, W].
    target: fixation map, positive where somebody looked, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    ddof: 1 divides by the deviation with n - 1, 0 by the one with n.

  Returns:
    [B], in standard deviations, unbounded; 0 for a flat prediction and for a
    picture without fixations.

  Reference: Peters et al. 2005; Bruckert et al. 2021, eq. 11, with the sign
  that minimises and divided by the number of fixations.
  """
  z, fixated, _ = _standardised(pred, target, where, ddof)
  return -maps.mean(z, fixated)[:, 0, 0]


def nss_printed(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  ddof: int = 1,
) -> Array:
  """`nss` as printed: divided by the pixels, not by the fixations.

  So it is `nss` times the share of fixated pixels: beside other losses, hardly
  anything. The sign is turned, so that it can be minimised.

  Args:
    pred: predicted saliency of any scale and offset, [B, H, W].
    target: fixation map, positive where somebody looked, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    ddof: as in `nss`.

  Returns:
    [B], unbounded; 0 for a flat prediction and for a picture without fixations.

  Reference: Bruckert et al. 2021, eq. 11, negated.
  """
  z, fixated, valid = _standardised(pred, target, where, ddof)
  return -maps.mean(jnp.where(fixated, z, 0), valid)[:, 0, 0]


def _standardised(pred, target, where, ddof):
  """Returns the standardised prediction, where it is fixated, and valid."""
  pred, target, valid = maps.prepare(pred, target, where)
  p = maps.centre(pred, valid)
  freedom = jnp.maximum(maps.count(valid, p.dtype) - ddof, 1)
  z = p / maps.root(maps.total(p * p, valid) / freedom)
  return z, valid & (target > 0), valid


def nll(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  eps: float = MIT_EPS,
) -> Array:
  """Mean negative log-likelihood of the fixated pixels.

  -log(p + eps) in nats, with p the prediction divided by its sum. For a
  network that ends in an exponential, log p is the log-softmax of what it
  exponentiates.

  Args:
    pred: predicted saliency >= 0 of any scale, [B, H, W].
    target: fixation map, positive where somebody looked, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    eps: bounds the price of predicting exactly 0, at least 1e-18.

  Returns:
    [B], in [0, -log eps], in nats a fixation; log n for a flat prediction of n
    pixels, 0 for a picture without fixations.

  Raises:
    ValueError: where `eps` is below 1e-18.

  Reference: Kuemmerer et al. 2016 (DeepGaze II); Bruckert et al. 2021, eq. 10,
  of a density.
  """
  maps.check_option('nll: eps', eps, 1e-18)
  pred, target, valid = maps.prepare(pred, target, where)
  log_p = jnp.log(maps.density(pred, valid) + eps)
  return -maps.mean(log_p, valid & (target > 0))[:, 0, 0]


def nll_printed(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  eps: float = LOG_EPS,
) -> Array:
  """Mean of -log P at the fixated pixels, of P in [0, 1], no density.

  It is least, 0, for a prediction of 1 everywhere: nothing makes it choose. To
  reproduce the equation; not to train with.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: fixation map, positive where somebody looked, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    eps: below it the logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], in [0, 1 - log eps], in nats; 0 for a picture without fixations.

  Raises:
    ValueError: where `eps` is out of range.

  Reference: Bruckert et al. 2021, eq. 10.
  """
  maps.check_option('nll_printed: eps', eps, 1e-18, 0.5)
  pred, target, valid = maps.prepare(pred, target, where)
  log_p = maps.bounded_log(pred, eps)
  return -maps.mean(log_p, valid & (target > 0))[:, 0, 0]
