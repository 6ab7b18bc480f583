"""Losses that read the prediction at the fixated pixels.

All take `pred`, predicted saliency P, and `target`, the fixation map, positive
where somebody looked, [B, H, W]; and `where`, see `maps.prepare`. They return
[B], 0 for an image without fixations. Options out of range raise ValueError.
"""

import jax.numpy as jnp

from salflax.core import spec
from salflax.losses import maps
from salflax.losses.binary import LOG_EPS
from salflax.losses.distribution import MIT_EPS


@maps.per_image
def nss(pred, target, valid, *, ddof=1):
  """Computes minus the mean standardised prediction at the fixated pixels.

  P may have any scale and offset.

  Args:
    ddof: 1 divides by the deviation with n - 1, 0 by the one with n.

  Returns:
    [B], in standard deviations, unbounded; 0 for a flat prediction.

  Reference: Peters et al. 2005; Bruckert et al. 2021, eq. 11, with the sign
  that minimises and divided by the number of fixations.
  """
  z, fixated = _standardised(pred, target, valid, ddof)
  return -maps.mean(z, fixated)


@maps.per_image
def nss_printed(pred, target, valid, *, ddof=1):
  """Computes `nss` as printed: divided by the pixels, not by the fixations.

  So it is `nss` times the share of fixated pixels: beside other losses, hardly
  anything. The sign is turned, so that it can be minimised.

  Args:
    ddof: as in `nss`.

  Reference: Bruckert et al. 2021, eq. 11, negated.
  """
  z, fixated = _standardised(pred, target, valid, ddof)
  return -maps.mean(jnp.where(fixated, z, 0), valid)


def _standardised(pred, target, valid, ddof):
  """Computes the standardised prediction, and where it is fixated."""
  spec.check_number('nss: ddof', ddof, 0, 1, whole=True)
  p = maps.centre(pred, valid)
  freedom = jnp.maximum(maps.count(valid, p.dtype) - ddof, 1)
  z = p / maps.root(maps.total(p * p, valid) / freedom)
  return z, valid & (target > 0)


@maps.per_image
def nll(pred, target, valid, *, eps=MIT_EPS):
  """Computes the mean negative log-likelihood of the fixated pixels.

  -log(p + eps) in nats, with p the prediction, of any scale, divided by its
  sum. For a network that ends in an exponential, log p is the log-softmax of
  what it exponentiates.

  Args:
    eps: in [1e-18, 1]; bounds the price of predicting exactly 0.

  Returns:
    [B], in [0, -log eps], in nats a fixation; log n for a flat prediction of n
    pixels.

  Reference: Kuemmerer et al. 2016 (DeepGaze II); Bruckert et al. 2021, eq. 10,
  of a density.
  """
  spec.check_number('nll: eps', eps, 1e-18, 1)
  log_p = jnp.log(maps.density(pred, valid) + eps)
  return -maps.mean(log_p, valid & (target > 0))


@maps.per_image
def nll_printed(pred, target, valid, *, eps=LOG_EPS):
  """Computes the mean of -log P at the fixated pixels, of P in [0, 1].

  It is least, 0, for a prediction of 1 everywhere: nothing makes it choose. To
  reproduce the equation; not to train with.

  Args:
    eps: below it the logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], in [0, 1 - log eps], in nats.

  Reference: Bruckert et al. 2021, eq. 10.
  """
  spec.check_number('nll_printed: eps', eps, 1e-18, 0.5)
  log_p = maps.bounded_log(pred, eps)
  return -maps.mean(log_p, valid & (target > 0))
