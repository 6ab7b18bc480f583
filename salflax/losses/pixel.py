"""Losses that compare maps pixel by pixel.

All take `pred`, predicted saliency P in [0, 1] as from a sigmoid, [B, H, W];
`target`, the saliency map S of any scale, which they scale to a maximum of 1 so
that weights mean the same for every image; and `where`, see `maps.prepare`.
Options out of range raise ValueError.
"""

import math

import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.losses import maps

MOST = 1e6  # greatest weight or steepness: beyond, float32 loses the rest


@maps.per_image
def mse(pred, target, valid):
  """Computes the mean squared difference of the maps.

  Returns:
    [B], in [0, 1]; 0 where both maps are equal.

  Reference: Bruckert et al. 2021, eq. 1.
  """
  target = maps.max_to_one(target, valid)
  return maps.mean((pred - target) ** 2, valid)


@maps.per_image
def ead(pred, target, valid):
  """Computes the exponential absolute difference, the mean of exp |P - S| - 1.

  Beyond a difference of 1, which no prediction in [0, 1] has, it goes on as its
  tangent: an unbounded output cannot overflow it.

  Returns:
    [B], in [0, e - 1]; 0 where both maps are equal. Its gradient there jumps
    between -1/n and 1/n.

  Reference: Bruckert et al. 2021, eq. 2.
  """
  gap = jnp.abs(pred - maps.max_to_one(target, valid))
  beyond = math.e * jnp.maximum(gap - 1, 0)
  values = jnp.expm1(jnp.minimum(gap, 1)) + beyond
  return maps.mean(values, valid)


@maps.per_image
def ae(pred, target, valid):
  """Computes the mean absolute difference of the maps.

  Returns:
    [B], in [0, 1]; 0 where both maps are equal. Its gradient there jumps
    between -1/n and 1/n.

  Reference: Bruckert et al. 2021, eq. 3.
  """
  gap = jnp.abs(pred - maps.max_to_one(target, valid))
  return maps.mean(gap, valid)


@maps.per_image
def mlnet_mse(pred, target, valid, *, alpha=1.1):
  """Computes the mean squared difference weighted by 1 / (alpha - S).

  Args:
    alpha: above 1, the maximum of S: the weights rise from 1 / alpha where
      nobody looked to 1 / (alpha - 1).

  Returns:
    [B], in [0, 1 / (alpha - 1)]; 0 where both maps are equal.

  Reference: Bruckert et al. 2021, eq. 4; Cornia et al. 2016 (ML-Net), without
  its scaling of the prediction.
  """
  spec.check_number('mlnet_mse: alpha', alpha, 1, MOST, above=True)
  target = maps.max_to_one(target, valid)
  return maps.mean((pred - target) ** 2 / (alpha - target), valid)


@maps.per_image
def mlnet_mse_maxnorm(pred, target, valid, *, alpha=1.1):
  """Computes `mlnet_mse` of the prediction divided by its own maximum.

  The only loss on pixels that takes predictions of any scale. One of zeros
  stays zero.

  Args:
    alpha: as in `mlnet_mse`.

  Returns:
    [B], in [0, 1 / (alpha - 1)]; 0 for proportional maps.

  Reference: ML-Net, released code.
  """
  pred = maps.max_to_one(pred, valid)
  return mlnet_mse(pred, target, where=valid, alpha=alpha)


@maps.per_image
def sig_mse(pred, target, valid, *, lam=0.55, k=10.0):
  """Computes the mean squared difference weighted by a sigmoid of S.

  The weights are k / (1 + exp(-k (S - lambda))).

  Args:
    lam: lambda, the saliency in [0, 1] from which errors weigh more than half.
      The paper tries .25, .55 and .75.
    k: steepness and greatest weight, above 0; the loss is up to `k` times
      `mse`.

  Returns:
    [B], in [0, k]; 0 where both maps are equal.

  Reference: Bruckert et al. 2021, after eq. 4.
  """
  spec.check_number('sig_mse: lam', lam, 0, 1)
  spec.check_number('sig_mse: k', k, 0, MOST, above=True)
  target = maps.max_to_one(target, valid)
  weights = k * jax.nn.sigmoid(k * (target - lam))
  return maps.mean(weights * (pred - target) ** 2, valid)


@maps.per_image
def center_bias(pred, target, valid, *, alpha=0.1, sum=False):
  """Computes alpha (P - B)^2: draws predictions to the mean training map B.

  A regulariser, to be added to a loss that knows the image.

  Args:
    target: B, the mean of the training maps, each scaled to a maximum of 1, in
      the frame of each image, [B, H, W]. It is not scaled here.
    alpha: weight, at least 0.
    sum: sum over the pixels in place of their mean. The paper does not say
      which it took.

  Returns:
    [B], in [0, alpha], `sum` apart; 0 for B itself.

  Reference: Bruckert et al. 2021, eq. 16 (R).
  """
  spec.check_number('center_bias: alpha', alpha, 0, MOST)
  return maps.reduced(alpha * (pred - target) ** 2, valid, sum=sum)
