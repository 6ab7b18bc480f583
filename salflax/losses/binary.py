"""Losses that read every pixel as a probability of its own: BCE and kin.

All take `pred`, predicted saliency P in [0, 1], [B, H, W]; `target`, the
saliency map S of any scale, which they scale to a maximum of 1; `where`, see
`maps.prepare`; and

  sum: sum over the pixels, so that the loss grows with their number, in place
    of their mean.
  eps: in [1e-18, .5]. Below it a logarithm goes on as its tangent, so that P of
    exactly 0 or 1 has a finite price and a finite gradient that still points
    the right way.

They return [B], at least 0, in nats. Options out of range raise ValueError.
"""

import jax.numpy as jnp

from salflax.core import spec
from salflax.losses import maps

LOG_EPS = 1e-7  # as Keras; 1 - P in float32 has steps of 6e-8


def _logs(name, pred, target, valid, eps):
  """Computes -S log P and -(1 - S) log(1 - P), both [B, H, W]."""
  spec.check_number(f'{name}: eps', eps, 1e-18, 0.5)
  s = maps.max_to_one(target, valid)
  miss = -s * maps.bounded_log(pred, eps)
  return miss, -(1 - s) * maps.bounded_log(1 - pred, eps)


@maps.per_image
def bce(pred, target, valid, *, sum=False, eps=LOG_EPS):
  """Computes the binary cross-entropy of the maps.

  Returns:
    [B], in [0, 1 - log eps] for the mean. Least where the maps are equal, and
    there the entropy of S, which is 0 for a binary map only.

  Reference: Bruckert et al. 2021, eq. 7, divided by the pixels; with `sum` as
  printed.
  """
  miss, alarm = _logs('bce', pred, target, valid, eps)
  return maps.reduced(miss + alarm, valid, sum=sum)


@maps.per_image
def wbce(pred, target, valid, *, w=0.5, sum=False, eps=LOG_EPS):
  """Computes BCE with weight w for salient and 1 - w for other pixels.

  Args:
    w: in [0, 1]; the paper tries .4 to .9. At .5 this is half of `bce`.

  Returns:
    [B]; least at P = w S / (w S + (1 - w) (1 - S)), which is S for w = .5 only.

  Reference: Bruckert et al. 2021, eq. 8.
  """
  spec.check_number('wbce: w', w, 0, 1)
  miss, alarm = _logs('wbce', pred, target, valid, eps)
  return maps.reduced(w * miss + (1 - w) * alarm, valid, sum=sum)


@maps.per_image
def focal(pred, target, valid, *, gamma=2.0, sum=False, eps=LOG_EPS):
  """Computes BCE in which a pixel that is right weighs little.

  -(1 - P)^gamma S log P - P^gamma (1 - S) log(1 - P).

  Args:
    gamma: in [1, 100]; below 1 the gradient is infinite where a pixel is right.

  Returns:
    [B]; 0 only for a binary map and P = S. For soft maps it is least at a P
    that is nearer to .5 than S is.

  Reference: Lin et al. 2017, for soft targets.
  """
  spec.check_number('focal: gamma', gamma, 1, 100)
  miss, alarm = _logs('focal', pred, target, valid, eps)
  far, near = jnp.maximum(1 - pred, 0), jnp.maximum(pred, 0)
  values = far**gamma * miss + near**gamma * alarm
  return maps.reduced(values, valid, sum=sum)


@maps.per_image
def focal_printed(pred, target, valid, *, gamma=2.0, sum=True, eps=LOG_EPS):
  """Computes `focal` as printed: its first factor is 1 - P^gamma.

  Misses hardly weigh less than in `bce`, false alarms as in `focal`.

  Args:
    gamma: in [1, 100].

  Reference: Bruckert et al. 2021, eq. 9.
  """
  spec.check_number('focal_printed: gamma', gamma, 1, 100)
  miss, alarm = _logs('focal_printed', pred, target, valid, eps)
  power = jnp.maximum(pred, 0) ** gamma
  values = jnp.maximum(1 - power, 0) * miss + power * alarm
  return maps.reduced(values, valid, sum=sum)
