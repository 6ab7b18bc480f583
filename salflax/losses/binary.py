"""Losses that read every pixel as a probability of its own: BCE and kin.

P has to be in [0, 1]; S is scaled to a maximum of 1. A logarithm goes on as its
tangent below `eps`, so that P of exactly 0 or 1 has a finite price and a finite
gradient that still points the right way.
"""

import jax.numpy as jnp
from jax import Array

from salflax.losses import maps

LOG_EPS = 1e-7  # as Keras; 1 - P in float32 has steps of 6e-8


def _logs(name, pred, target, where, eps):
  """Returns -S log P, -(1 - S) log(1 - P), P, valid, all [B, H, W]."""
  maps.check_option(f'{name}: eps', eps, 1e-18, 0.5)
  pred, target, valid = maps.prepare(pred, target, where)
  s = maps.max_to_one(target, valid)
  seen = -s * maps.bounded_log(pred, eps)
  unseen = -(1 - s) * maps.bounded_log(1 - pred, eps)
  return seen, unseen, pred, valid


def bce(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  eps: float = LOG_EPS,
) -> Array:
  """Mean binary cross-entropy of the saliency map scaled to a maximum of 1.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    eps: below it a logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], in [0, 1 - log eps], in nats. Least where the maps are equal, and there
    the mean entropy of S, which is 0 for a binary map only.

  Raises:
    ValueError: where `eps` is out of range.

  Reference: Bruckert et al. 2021, eq. 7, divided by the pixels.
  """
  seen, unseen, _, valid = _logs('bce', pred, target, where, eps)
  return maps.reduced(seen + unseen, valid, sum=False)


def bce_sum(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  eps: float = LOG_EPS,
) -> Array:
  """`bce` as printed: summed over the pixels, so that it grows with the size.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    eps: below it a logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], `bce` times the number of pixels.

  Raises:
    ValueError: where `eps` is out of range.

  Reference: Bruckert et al. 2021, eq. 7.
  """
  seen, unseen, _, valid = _logs('bce_sum', pred, target, where, eps)
  return maps.reduced(seen + unseen, valid, sum=True)


def wbce(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  w: float = 0.5,
  sum: bool = False,
  eps: float = LOG_EPS,
) -> Array:
  """Binary cross-entropy with w for salient and 1 - w for other pixels.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    w: in [0, 1]; the paper tries .4 to .9. At .5 this is half of `bce`.
    sum: sum over the pixels, as printed, in place of their mean.
    eps: below it a logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], at least 0, in nats; least at P = w S / (w S + (1 - w) (1 - S)), which
    is S for w = .5 only.

  Raises:
    ValueError: where `w` or `eps` is out of range.

  Reference: Bruckert et al. 2021, eq. 8.
  """
  maps.check_option('wbce: w', w, 0, 1)
  seen, unseen, _, valid = _logs('wbce', pred, target, where, eps)
  return maps.reduced(w * seen + (1 - w) * unseen, valid, sum=sum)


def focal(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  gamma: float = 2.0,
  sum: bool = False,
  eps: float = LOG_EPS,
) -> Array:
  """Binary cross-entropy in which a pixel that is right weighs little.

  -(1 - P)^gamma S log P - P^gamma (1 - S) log(1 - P).

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    gamma: at least 1: below, the gradient is infinite where a pixel is right.
    sum: sum over the pixels in place of their mean.
    eps: below it a logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], at least 0, in nats; 0 only for a binary map and P = S. For soft maps
    it is least at a P that is nearer to .5 than S is.

  Raises:
    ValueError: where `gamma` or `eps` is out of range.

  Reference: Lin et al. 2017, for soft targets.
  """
  maps.check_option('focal: gamma', gamma, 1)
  seen, unseen, pred, valid = _logs('focal', pred, target, where, eps)
  miss, alarm = jnp.maximum(1 - pred, 0), jnp.maximum(pred, 0)
  values = miss**gamma * seen + alarm**gamma * unseen
  return maps.reduced(values, valid, sum=sum)


def focal_printed(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  gamma: float = 2.0,
  sum: bool = True,
  eps: float = LOG_EPS,
) -> Array:
  """`focal` as printed: the first factor is 1 - P^gamma, and it is a sum.

  Misses hardly weigh less than in `bce`, false alarms as in `focal`.

  Args:
    pred: predicted saliency in [0, 1], [B, H, W].
    target: saliency map of any scale, scaled here to a maximum of 1, [B, H, W].
    where: nonzero for the pixels that count, [B, H, W]; None for all.
    gamma: at least 1.
    sum: sum over the pixels; False for their mean.
    eps: below it a logarithm goes on as its tangent, in [1e-18, .5].

  Returns:
    [B], at least 0, in nats.

  Raises:
    ValueError: where `gamma` or `eps` is out of range.

  Reference: Bruckert et al. 2021, eq. 9.
  """
  maps.check_option('focal_printed: gamma', gamma, 1)
  seen, unseen, pred, valid = _logs('focal_printed', pred, target, where, eps)
  power = jnp.maximum(pred, 0) ** gamma
  values = jnp.maximum(1 - power, 0) * seen + power * unseen
  return maps.reduced(values, valid, sum=sum)
