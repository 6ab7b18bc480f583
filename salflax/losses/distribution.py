"""Losses that compare a prediction with the saliency map as a whole.

All take `pred`, predicted saliency P, and `target`, the saliency map S, both
>= 0, of any scale, [B, H, W]; and `where`, see `maps.prepare`. Unless a loss
says otherwise, P and S stand for the maps divided by their sums. Options out of
range raise ValueError.
"""

import jax.numpy as jnp

from salflax.core import spec
from salflax.losses import maps

MIT_EPS = 2.2204e-16
# Changes no value by more than 1e-6 and keeps the slope of a root below 1e6.
ROOT_EPS = 1e-12


@maps.per_image
def kld(pred, target, valid, *, eps=MIT_EPS):
  """Computes the divergence of the prediction from the saliency map (KL).

  sum S log(eps + S / (P + eps)) in nats.

  Args:
    eps: in [1e-18, 1], so that float32 can hold its square. It bounds the price
      of predicting exactly 0. The gradient at such a pixel grows as its
      inverse: 1e-7 is milder for networks that end in a ReLU.

  Returns:
    [B], at least 0 up to rounding; 0 where the densities are equal or the
    saliency map is empty.

  Reference: MIT saliency benchmark (KLdiv); TranSalNet's training loss.
  """
  spec.check_number('kld: eps', eps, 1e-18, 1)
  p = maps.density(pred, valid)
  s = maps.truth_density(target, valid)
  return maps.total(s * jnp.log(eps + s / (p + eps)), valid)


@maps.per_image
def kld_released(pred, target, valid):
  """Computes what the text-guided model's released code has in place of a KL.

  mean S (log S - P), of P in [0, 1] and S scaled to a maximum of 1, with P not
  a log-probability: its gradient is -S / n whatever P is, so it only pushes
  predictions up to 1. To reproduce that code; not to train with.

  Returns:
    [B], in [-1, 0]; lowest for a prediction of 1 at every salient pixel.

  Reference: Huang, Text-Guided Saliency Prediction Model, released code.
  """
  s = maps.max_to_one(target, valid)
  log_s = jnp.log(jnp.where(s > 0, s, 1))
  return maps.mean(s * (log_s - pred), valid)


@maps.per_image
def kld_printed(pred, target, valid, *, eps=MIT_EPS):
  """Computes the divergence of the saliency map from the prediction.

  sum P log((P + eps) / (S + eps)) in nats. It is the printed direction, which
  asks that nothing be predicted where nobody looked rather than that all be
  covered, on maps that are distributions.

  Args:
    eps: in [1e-18, 1]; bounds the price of predicting where S is exactly 0.

  Returns:
    [B], at least 0 up to rounding; 0 where the densities are equal or the
    saliency map is empty.

  Reference: Bruckert et al. 2021, eq. 5, of maps divided by their sums.
  """
  spec.check_number('kld_printed: eps', eps, 1e-18, 1)
  p = maps.density(pred, valid)
  s = maps.truth_density(target, valid)
  value = maps.total(p * (jnp.log(p + eps) - jnp.log(s + eps)), valid)
  return jnp.where(maps.has_truth(target, valid), value, 0)


@maps.per_image
def kld_printed_raw(pred, target, valid, *, eps=MIT_EPS):
  """Computes the printed divergence, of maps that are no distributions.

  sum P log((P + eps) / (S + eps)), of P in [0, 1] and S scaled to a maximum of
  1. It grows with the size of the image and is 0 for a prediction of zeros as
  for S itself; its least value, below 0, is at P = S / e. To reproduce the
  equation; not to train with.

  Args:
    eps: in [1e-18, 1]; bounds the price of predicting where S is exactly 0.

  Returns:
    [B], in [-n / e, -n log eps] for n pixels.

  Reference: Bruckert et al. 2021, eq. 5.
  """
  spec.check_number('kld_printed_raw: eps', eps, 1e-18, 1)
  s = maps.max_to_one(target, valid)
  logs = jnp.log(pred + eps) - jnp.log(s + eps)
  return maps.total(pred * logs, valid)


@maps.per_image
def bhat(pred, target, valid, *, eps=ROOT_EPS):
  """Computes the Bhattacharyya distance, -log sum sqrt(S P).

  The printed sum of sqrt(S P) itself grows with agreement: minimised, it would
  drive the prediction away from the truth.

  Args:
    eps: share of the uniform density that is mixed into both maps, in
      [1e-18, .5]: the root has an infinite slope at 0. At such a pixel the
      gradient goes with its inverse root.

  Returns:
    [B], in [0, -log eps]; 0 where the densities are equal or the saliency map
    is empty.

  Reference: Jetley et al. 2016; Bruckert et al. 2021, eq. 6, turned round.
  """
  p, s, has_truth = _roots('bhat', pred, target, valid, eps)
  value = -jnp.log(maps.total(p * s, valid))
  return jnp.where(has_truth, value, 0)


@maps.per_image
def hellinger(pred, target, valid, *, eps=ROOT_EPS):
  """Computes the Hellinger distance, sqrt(1 - sum sqrt(S P)).

  Args:
    eps: as in `bhat`.

  Returns:
    [B], in [0, 1]; 0 where the densities are equal or the saliency map is
    empty.

  Reference: Hellinger 1909.
  """
  p, s, has_truth = _roots('hellinger', pred, target, valid, eps)
  # Half the squared distance of the roots is 1 - sum sqrt(S P), without the
  # cancellation that would hide what is near 0.
  square = maps.total((p - s) ** 2, valid) / 2
  value = jnp.where(square > 0, maps.root(square), 0)
  return jnp.where(has_truth, value, 0)


def _roots(name, pred, target, valid, eps):
  """Computes the roots of both densities, and which rows have gaze."""
  spec.check_number(f'{name}: eps', eps, 1e-18, 0.5)
  uniform = eps / maps.count(valid, pred.dtype)
  p = jnp.sqrt((1 - eps) * maps.density(pred, valid) + uniform)
  s = jnp.sqrt((1 - eps) * maps.truth_density(target, valid) + uniform)
  return p, s, maps.has_truth(target, valid)


@maps.per_image
def cc(pred, target, valid):
  """Computes one minus Pearson's correlation of both maps, of any offset.

  Returns:
    [B], in [0, 2]; 0 for proportional maps, 1 where either map is flat.

  Reference: Bruckert et al. 2021, eq. 12, with the sign that minimises.
  """
  p, s = maps.centre(pred, valid), maps.centre(target, valid)
  # Two roots, not the root of a product, which may leave float32's range.
  norm = maps.root(maps.total(p * p, valid))
  norm = norm * maps.root(maps.total(s * s, valid))
  return 1 - (maps.total(p * s, valid) / norm)


@maps.per_image
def sim(pred, target, valid, *, minmax=True):
  """Computes one minus the histogram intersection of both maps.

  Args:
    minmax: subtract each map's minimum before it is divided by its sum, as in
      the MIT benchmark and in TranSalNet.

  Returns:
    [B], in [0, 1]; 0 where the densities are equal, 1 where they do not meet or
    the saliency map is empty.

  Reference: MIT saliency benchmark (similarity); TranSalNet's training loss.
  """
  p = maps.density(pred, valid, minmax=minmax)
  s = maps.truth_density(target, valid, minmax=minmax)
  return 1 - maps.total(jnp.minimum(p, s), valid)
