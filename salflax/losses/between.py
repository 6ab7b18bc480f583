"""Losses between the sentences of one image.

A batch by image has `rows` maps of each image in a row, one for each of its
sentences. These losses ask that a map differ from the other maps of its image
as people's gaze does, not only that it be right by itself.

All take `pred`, predicted saliency P, and `target`, the saliency map S, both
>= 0, of any scale, [B, H, W]; `where`, see `maps.prepare`; `rows`, of which B
is a multiple; and `index`, i32 [B], equal where a row is repeated, None where
none is. They return the loss f32 [B] and which rows count, bool [B]: those with
ground truth whose image has another row with ground truth. In a sum, rows
without a word do not count either.
"""

import jax
import jax.numpy as jnp
from jax import Array

from salflax.core import spec
from salflax.losses import maps


def _grouped(pred, target, where, rows, index):
  """Groups maps by image: densities [N, R, H, W], pairs that count, pixels."""
  pred, target, valid = maps.prepare(pred, target, where)
  if rows < 1 or len(pred) % rows:
    raise ValueError(f'{len(pred)} maps are no groups of {rows}.')
  some = maps.has_truth(target, valid)[:, 0, 0].reshape(-1, rows)
  index = jnp.arange(len(pred)) if index is None else index
  index = index.reshape(-1, rows)
  pairs = index[:, :, None] != index[:, None]
  pairs = pairs & some[:, :, None] & some[:, None]
  group = lambda x: x.reshape(-1, rows, *x.shape[1:])
  p, s = maps.density(pred, valid), maps.density(target, valid)
  return group(p), group(s), pairs, group(valid)


def _unit(x, valid):
  """Scales maps [..., H, W] to mean 0 and length 1; flat ones to 0."""
  flat = valid.reshape(-1, *valid.shape[-2:])
  x = maps.centre(x.reshape(flat.shape), flat)
  x = x / maps.root(maps.total(x * x, flat))
  return x.reshape(valid.shape)


def difference(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  rows: int = 1,
  index: Array | None = None,
) -> tuple[Array, Array]:
  """Computes one minus the correlation of differences of maps.

  The difference of two predictions for an image is correlated with the
  difference of the two saliency maps; the mean over the other rows of the
  image.

  Returns:
    [B], in [0, 2], and which rows count.
  """
  p, s, pairs, valid = _grouped(pred, target, where, rows, index)
  both = valid[:, :, None] & valid[:, None]
  p = _unit(p[:, :, None] - p[:, None], both)
  s = _unit(s[:, :, None] - s[:, None], both)
  values = jnp.where(pairs, 1 - (p * s).sum((-2, -1)), 0).sum(-1)
  number = pairs.sum(-1)
  values = values / jnp.maximum(number, 1)
  return values.reshape(-1), (number > 0).reshape(-1)


def sentence(
  pred: Array,
  target: Array,
  *,
  where: Array | None = None,
  rows: int = 1,
  index: Array | None = None,
  scale: float = 8.0,
) -> tuple[Array, Array]:
  """Computes how hard it is to tell which map goes with which sentence.

  The cross-entropy of a softmax over CC(P, S): of the image's saliency maps
  for each prediction, plus of its predictions for each saliency map.

  Args:
    scale: factor of CC before the softmax.

  Returns:
    [B], at least 0; 2 ln(rows) where the predictions are flat; and which
    rows count.
  """
  spec.check_number('sentence: scale', scale, 0, 1e3)
  p, s, pairs, valid = _grouped(pred, target, where, rows, index)
  p, s = _unit(p, valid), _unit(s, valid)
  scores = scale * jnp.einsum('nahw,nbhw->nab', p, s)
  own = jnp.eye(rows, dtype=bool)[None]
  scores = jnp.where(pairs | own, scores, -jnp.inf)
  values = sum(
    -jnp.diagonal(jax.nn.log_softmax(scores, axis), axis1=1, axis2=2)
    for axis in (1, 2)
  )
  some = pairs.any(-1)
  return jnp.where(some, values, 0).reshape(-1), some.reshape(-1)
