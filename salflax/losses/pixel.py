"""Losses that compare maps pixel by pixel."""

from jax import Array

from salflax.losses import maps


def mse(pred: Array, target: Array, *, where: Array | None = None) -> Array:
  """Mean squared difference to the saliency map scaled to a maximum of 1.

  The prediction is taken as it is: it has to be in [0, 1], as from a sigmoid.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.

  Returns:
    [B], in [0, 1]; 0 where both maps are equal.

  Reference: Bruckert et al. 2021, eq. 1.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  target = maps.max_to_one(target, valid)
  return maps.mean((pred - target) ** 2, valid)[:, 0, 0]
