"""Losses that compare maps pixel by pixel.

All take the prediction as it is: it has to be in [0, 1], as from a sigmoid. The
saliency map is scaled to a maximum of 1, so that the weights mean the same for
every picture.
"""

import math

import jax
import jax.numpy as jnp
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


def ead(pred: Array, target: Array, *, where: Array | None = None) -> Array:
  """Mean of exp |P - S| - 1, the exponential absolute difference.

  Beyond a difference of 1, which no prediction in [0, 1] has, it goes on as its
  tangent: an unbounded output cannot overflow it.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.

  Returns:
    [B], in [0, e - 1]; 0 where both maps are equal. Its gradient there jumps
    between -1/n and 1/n.

  Reference: Bruckert et al. 2021, eq. 2.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  gap = jnp.abs(pred - maps.max_to_one(target, valid))
  beyond = math.e * jnp.maximum(gap - 1, 0)
  values = jnp.expm1(jnp.minimum(gap, 1)) + beyond
  return maps.mean(values, valid)[:, 0, 0]


def ae(pred: Array, target: Array, *, where: Array | None = None) -> Array:
  """Mean absolute difference to the saliency map scaled to a maximum of 1.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.

  Returns:
    [B], in [0, 1]; 0 where both maps are equal. Its gradient there jumps
    between -1/n and 1/n.

  Reference: Bruckert et al. 2021, eq. 3.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  gap = jnp.abs(pred - maps.max_to_one(target, valid))
  return maps.mean(gap, valid)[:, 0, 0]


def mlnet_mse(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  alpha: float = 1.1,
) -> Array:
  """Mean squared difference weighted by 1 / (alpha - S).

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    alpha: above 1, the maximum of S: the weights rise from 1 / alpha where
      nobody looked to 1 / (alpha - 1).

  Returns:
    [B], in [0, 1 / (alpha - 1)]; 0 where both maps are equal.

  Raises:
    ValueError: where `alpha` is not above 1.

  Reference: Bruckert et al. 2021, eq. 4; Cornia et al. 2016 (ML-Net), without
  its scaling of the prediction.
  """
  maps.check_option('mlnet_mse: alpha', alpha, 1, above=True)
  pred, target, valid = maps.prepare(pred, target, where)
  target = maps.max_to_one(target, valid)
  return maps.mean((pred - target) ** 2 / (alpha - target), valid)[:, 0, 0]


def mlnet_mse_maxnorm(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  alpha: float = 1.1,
) -> Array:
  """`mlnet_mse` of the prediction divided by its own maximum.

  The only loss on pixels that takes predictions of any scale. One of zeros
  stays zero.

  Args:
    pred: predicted saliency >= 0 of any scale, [B, H, W].
    target: saliency map of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    alpha: as in `mlnet_mse`.

  Returns:
    [B], in [0, 1 / (alpha - 1)]; 0 for proportional maps.

  Raises:
    ValueError: where `alpha` is not above 1.

  Reference: ML-Net, released code.
  """
  pred, target, valid = maps.prepare(pred, target, where)
  pred = maps.max_to_one(pred, valid)
  return mlnet_mse(pred, target, where=valid, alpha=alpha)


def sig_mse(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  lam: float = 0.55,
  k: float = 10.0,
) -> Array:
  """Mean squared difference weighted by k / (1 + exp(-k (S - lambda))).

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    lam: lambda, the saliency in [0, 1] from which errors weigh more than half.
      The paper tries .25, .55 and .75.
    k: steepness and greatest weight, above 0; the loss is up to `k` times
      `mse`.

  Returns:
    [B], in [0, k]; 0 where both maps are equal.

  Raises:
    ValueError: where `lam` is not in [0, 1] or `k` not above 0.

  Reference: Bruckert et al. 2021, after eq. 4.
  """
  maps.check_option('sig_mse: lam', lam, 0, 1)
  maps.check_option('sig_mse: k', k, 0, above=True)
  pred, target, valid = maps.prepare(pred, target, where)
  target = maps.max_to_one(target, valid)
  weights = k * jax.nn.sigmoid(k * (target - lam))
  return maps.mean(weights * (pred - target) ** 2, valid)[:, 0, 0]


def center_bias(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  alpha: float = 0.1,
  sum: bool = False,
) -> Array:
  """alpha (P - B)^2: draws predictions to the mean training map B.

  A regulariser, to be added to a loss that knows the picture.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: B, the mean of the training maps, each scaled to a maximum of 1, in
      the frame of each picture, [B, H, W]. It is not scaled here.
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    alpha: weight, at least 0.
    sum: sum over the pixels in place of their mean. The paper does not say
      which it took.

  Returns:
    [B], in [0, alpha], `sum` apart; 0 for B itself.

  Raises:
    ValueError: where `alpha` is negative.

  Reference: Bruckert et al. 2021, eq. 16 (R).
  """
  maps.check_option('center_bias: alpha', alpha, 0)
  pred, target, valid = maps.prepare(pred, target, where)
  return maps.reduced(alpha * (pred - target) ** 2, valid, sum=sum)
