"""Losses: a table of them, and weighted sums written as strings.

A loss is `fn(pred [B, H, W], target [B, H, W], *, where=None, **options)` and
returns one number a picture, [B]. Lower is always better; measures of agreement
are turned round, so that `cc` is 1 - CC. A loss is not a score: scores come
from `salflax.metrics`.
"""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from salflax.core import spec
from salflax.core.types import Batch
from salflax.losses import maps, perceptual
from salflax.losses.table import LOSSES, PRESETS, SIMILARITIES, Loss

__all__ = ['LOSSES', 'PRESETS', 'SIMILARITIES', 'Loss']
LossFn = Callable[[Array, Batch], tuple[Array, dict[str, Array]]]


def parse(text: str) -> list[spec.Term]:
  """Returns the terms of a spec such as '10*kld + cc' or of a named preset.

  Raises:
    ValueError: for an unknown name or option, naming the nearest one, for a
      similarity, and for what is not a sum of positively weighted losses.
  """
  text = text.strip() if isinstance(text, str) else text
  for name in SIMILARITIES:
    if isinstance(text, str) and re.search(rf'\b{name}\b', text):
      raise ValueError(
        f'{name} grows with agreement: it is a measure, not a loss, and must '
        'not be minimised. The losses are bhat and hellinger.'
      )
  if isinstance(text, str) and text.isidentifier():
    text = PRESETS.get(text, text)
    if text.isidentifier() and text not in LOSSES:
      raise spec.unknown('loss', text, [*LOSSES, *PRESETS])
  return spec.weighted_sum(LOSSES, text, takes=2)


def targets(text: str) -> tuple[str, ...]:
  """Returns the batch keys that the losses of a spec compare with, sorted."""
  return tuple(sorted({term.entry.target for term in parse(text)}))


def make_loss(text: str, *, vgg: perceptual.Features | None = None) -> LossFn:
  """Returns the weighted sum that `text` describes, for batches.

  Args:
    text: e.g. '10*kld + 2*cc + sim(minmax=False)', or a name in `PRESETS`.
    vgg: the fixed network of `df` and `gm`, see `salflax.losses.perceptual`.

  Returns:
    `loss_fn(pred [B, H, W], batch) -> (scalar, terms)`: the weighted sum of the
    batch means, and each term's own unweighted batch mean by its written name.
    It reads batch['saliency'], batch['fixations'] and batch['center'] (the mean
    training map, [B, H, W]) as far as the terms need them; batch['box'], where
    present, so that padding weighs zero; and batch['mask'], where present, so
    that filling rows weigh zero. A picture without ground truth for a term (no
    fixation; a saliency map of zeros) is left out of that term's mean.

  Raises:
    ValueError: here for a bad spec, an option out of its range, or a fixed
      network that is not given; `loss_fn` raises KeyError where the batch lacks
      a target.
  """
  terms = [_given(term, vgg=vgg) for term in parse(text)]
  for term in terms:
    _check_options(term)

  def loss_fn(pred, batch):
    where = _counted(batch, jnp.shape(pred))
    values = {t.name: _batch_mean(t, pred, batch, where) for t in terms}
    return sum(t.weight * values[t.name] for t in terms), values

  return loss_fn


def box_pixels(box: Array, shape: tuple[int, ...]) -> Array:
  """Returns the pixels inside each picture's box, bool [B, H, W].

  Args:
    box: top, left, height, width, i32 [B, 4].
    shape: (B, H, W).

  Raises:
    ValueError: where `box` is not [B, 4] or `shape` not (B, H, W).
  """
  if len(shape) != 3 or jnp.shape(box) != (shape[0], 4):
    raise ValueError(
      f'box must be [B, 4] for maps [B, H, W]; found box '
      f'{list(jnp.shape(box))} for maps {list(shape)}.'
    )
  top, left, height, width = jnp.asarray(box).T[:, :, None]
  y, x = jnp.arange(shape[1])[None], jnp.arange(shape[2])[None]
  rows = (y >= top) & (y < top + height)
  columns = (x >= left) & (x < left + width)
  return rows[:, :, None] & columns[:, None, :]


def _given(term, **fixed):
  """Returns a term with the fixed network that it needs."""
  needs = term.entry.needs
  if not needs:
    return term
  if needs in term.kwargs:
    raise ValueError(f'{needs} is not written in a spec: {term.name!r}.')
  return term._replace(kwargs={**term.kwargs, needs: fixed[needs]})


def _check_options(term):
  """Traces a loss, which computes nothing: it raises for a bad option."""
  some, given = jax.ShapeDtypeStruct((1, 64, 64), jnp.float32), {}
  if term.kwargs.get(term.entry.needs) is not None:
    # Any network will do; a large one takes seconds.
    pooled = lambda x: [x[:, : x.shape[1] // 2 * 2 : 2, ::2, None]]
    given = {term.entry.needs: pooled}
  fn = functools.partial(term.entry.fn, **{**term.kwargs, **given})
  try:
    jax.eval_shape(fn, some, some)
  except TypeError as e:
    raise ValueError(f'Bad option in {term.name!r}: {e}') from e


def _counted(batch, shape):
  """Pixels inside the box of rows that are not mere filling, [B, H, W]."""
  where = jnp.ones(shape, bool)
  if 'box' in batch:
    where = where & box_pixels(batch['box'], shape)
  if 'mask' in batch:
    where = where & jnp.asarray(batch['mask']).astype(bool)[:, None, None]
  return where


def _batch_mean(term, pred, batch, where):
  """Mean of one term over the rows with ground truth; 0 where none has."""
  key = term.entry.target
  if key not in batch:
    raise KeyError(
      f'The loss {term.name!r} needs {key!r}; the batch has {sorted(batch)}.'
    )
  pred, target, valid = maps.prepare(pred, batch[key], where)
  values = term.entry.fn(pred, target, where=valid, **term.kwargs)
  rows = maps.recorded(target, valid)[:, 0, 0]
  return jnp.where(rows, values, 0).sum() / jnp.maximum(rows.sum(), 1)
