"""Losses that read the prediction at the fixated pixels."""

import jax.numpy as jnp
from jax import Array

from salflax.losses import maps


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
  pred, target, valid = maps.prepare(pred, target, where)
  p = maps.centre(pred, valid)
  freedom = jnp.maximum(maps.count(valid, p.dtype) - ddof, 1)
  z = p / maps.root(maps.total(p * p, valid) / freedom)
  return -maps.mean(z, valid & (target > 0))[:, 0, 0]
