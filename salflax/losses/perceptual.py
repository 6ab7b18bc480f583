"""Losses that compare what a fixed network sees in both maps.

All take `pred`, predicted saliency P in [0, 1], [B, H, W]; `target`, the
saliency map S of any scale, which they scale to a maximum of 1; `where`, see
`maps.prepare`; and

  vgg: the fixed network.
  shrink: both maps are replaced by means over shrink x shrink pixels first,
    which makes VGG cheaper by the square; a whole number from 1 to 64.
  relative: each pooling's term is divided by what it is for a P that gives no
    features: the value no longer hangs on how large VGG's features are.

They raise ValueError without `vgg`, for maps too small for its poolings, and
for a `shrink` out of range.

`vgg` is (maps [B, H, W] in [0, 1]) -> its outputs after the first, second, ...
2x2 pooling, each [B, h, w, C]: VGG-16's five in the paper. `make_loss` takes
it; it is not written into a spec.

Padding is 0 in both maps, and cells that pool nothing but padding are left out.
What VGG sees next to the border still includes it: a letterboxed map has nearly
the value of the cropped one, not exactly.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from salflax.core import spec
from salflax.losses import maps

Features = Callable[[Array], list[Array]]


@maps.per_image
def df(pred, target, valid, *, vgg=None, shrink=1, relative=False):
  """Computes the squared distance of deep features.

  sum_j |phi_j(S) - phi_j(P)|^2 / (C h w), for the features phi of pooling j.

  Returns:
    [B], at least 0; 0 where both maps are equal. Its size is that of the
    features, hence of the network's weights.

  Reference: Bruckert et al. 2021, eq. 13.
  """
  total = 0.0
  for p, s, cells in _pairs('df', pred, target, valid, vgg, shrink):
    square, whole = (
      jnp.where(cells, x**2, 0).sum((1, 2, 3)) for x in (p - s, s)
    )
    size = p.shape[-1] * _count(cells)
    total += square / (_above_zero(whole) if relative else size)
  return total


@maps.per_image
def gm(pred, target, valid, *, vgg=None, shrink=1, relative=False):
  """Computes the squared distance of Gram matrices.

  sum_j |G_j(S) - G_j(P)|^2, with G psi psi^T / (C h w) for the features psi
  [C, h w]: which of them go together, wherever that is.

  Returns:
    [B], at least 0; 0 where both maps are equal, and for others, too.

  Reference: Bruckert et al. 2021, eqs. 14 and 15.
  """
  total = 0.0
  for p, s, cells in _pairs('gm', pred, target, valid, vgg, shrink):
    scale = p.shape[-1] * _count(cells)[:, None, None]
    p, s = _gram(p, cells) / scale, _gram(s, cells) / scale
    square = ((p - s) ** 2).sum((1, 2))
    whole = (s**2).sum((1, 2))
    total += square / _above_zero(whole) if relative else square
  return total


def _pairs(name, pred, target, valid, vgg, shrink):
  """Lists (features of P, of S, cells that count [B, h, w, 1]) by pooling."""
  if vgg is None:
    raise ValueError(
      f"{name} needs VGG-16's features, and there are none: give the stage "
      "perceptual=dict(weights='...'), or make_loss its vgg."
    )
  spec.check_number(f'{name}: shrink', shrink, 1, 64, whole=True)
  if not min(pred.shape[1:]) // shrink:
    raise ValueError(
      f'{name}: shrink={shrink} leaves nothing of maps of {pred.shape[1]} x '
      f'{pred.shape[2]}.'
    )
  target = maps.max_to_one(target, valid)
  pred, target = _shrunk(pred, shrink), _shrunk(target, shrink)
  cells = _shrunk(valid.astype(pred.dtype), shrink)[..., None] > 0
  out = []
  for p, s in zip(vgg(pred), vgg(target)):
    b, h, w, _ = p.shape
    if not h * w:
      raise ValueError(
        f'{name}: maps of {pred.shape[1]} x {pred.shape[2]} are too small for '
        f'pooling number {len(out) + 1}.'
      )
    cells = cells[:, : 2 * h, : 2 * w].reshape(b, h, 2, w, 2, 1).any((2, 4))
    out.append((p, s, cells))
  return out


def _shrunk(x, by):
  """Averages cells of `by` x `by`; what is left over is cut off."""
  b, h, w = x.shape[0], x.shape[1] // by, x.shape[2] // by
  x = x[:, : h * by, : w * by].reshape(b, h, by, w, by)
  return x.mean((2, 4))


def _above_zero(x):
  return jnp.maximum(x, jnp.finfo(x.dtype).tiny)


def _count(cells):
  return jnp.maximum(cells.sum((1, 2, 3)), 1)


def _gram(x, cells):
  x = jnp.where(cells, x, 0)
  return jnp.einsum('bhwc,bhwd->bcd', x, x)
