"""Losses: a table of them, and weighted sums written as strings.

A loss is `fn(pred [B, H, W], target [B, H, W], *, where=None, **options)` and
returns one number an image, [B]. Lower is always better; measures of agreement
are turned round, so that `cc` is 1 - CC. A loss is not a score: scores come
from `salflax.metrics`. docs/losses.md has every formula.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from salflax.core import spec
from salflax.core.types import Batch
from salflax.losses import (
  between,
  binary,
  distribution,
  location,
  maps,
  perceptual,
  pixel,
)

LossFn = Callable[[Array, Batch], tuple[Array, dict[str, Array]]]


class Loss(NamedTuple):
  """One line of the table of losses.

  Attributes:
    fn: `fn(pred, target, *, where=None, **options) -> [B]`.
    target: key of the batch it compares with, 'saliency', 'fixations' or
      'center'. Fixed here, so that NSS cannot meet a blurred map.
    needs: what `make_loss` has to pass on: 'vgg', a fixed network; 'rows', how
      many rows of an image stand together; or ''.
  """

  fn: Callable[..., Array]
  target: str = 'saliency'
  needs: str = ''


# `_printed` is an equation as a paper has it, `_released` what a published
# program computes, where they differ from the standard form.
LOSSES = {
  'mse': Loss(pixel.mse),
  'ead': Loss(pixel.ead),
  'ae': Loss(pixel.ae),
  'mlnet_mse': Loss(pixel.mlnet_mse),
  'mlnet_mse_maxnorm': Loss(pixel.mlnet_mse_maxnorm),
  'sig_mse': Loss(pixel.sig_mse),
  'center_bias': Loss(pixel.center_bias, 'center'),
  'kld': Loss(distribution.kld),
  'kld_printed': Loss(distribution.kld_printed),
  'kld_printed_raw': Loss(distribution.kld_printed_raw),
  'kld_released': Loss(distribution.kld_released),
  'bhat': Loss(distribution.bhat),
  'hellinger': Loss(distribution.hellinger),
  'cc': Loss(distribution.cc),
  'sim': Loss(distribution.sim),
  'bce': Loss(binary.bce),
  'wbce': Loss(binary.wbce),
  'focal': Loss(binary.focal),
  'focal_printed': Loss(binary.focal_printed),
  'nss': Loss(location.nss, 'fixations'),
  'nss_printed': Loss(location.nss_printed, 'fixations'),
  'nll': Loss(location.nll, 'fixations'),
  'nll_printed': Loss(location.nll_printed, 'fixations'),
  'df': Loss(perceptual.df, needs='vgg'),
  'gm': Loss(perceptual.gm, needs='vgg'),
}
# The text-guided model's released code: values without gradient.
LOSSES |= {
  f'{name}_released': LOSSES[name]._replace(fn=maps.detached(LOSSES[name].fn))
  for name in ('mse', 'cc', 'sim', 'nss')
}

# Of maps of one image, seen with one sentence or another: see `between`.
BETWEEN = {
  'difference': Loss(between.difference, needs='rows'),
  'sentence': Loss(between.sentence, needs='rows'),
}

# Sums that have a name. The additive constant b of the text-guided model's
# eq. 5 has no gradient, hence no place here; neither have the constants by
# which 1 - CC and 1 - SIM differ from the -CC and -SIM that were published.
PRESETS = {
  'paper1_paper': '10*kld + 3*mse + 2*cc + nss + sim',
  'paper1_released': (
    '10*kld_released + 3*mse_released + 2*cc_released + nss_released'
    ' + sim_released'
  ),
  'transalnet': '10*kld + 2*cc + sim + nss',
  'tranblend': '10*kld + 4*mse + 2*cc + nss + sim',
  'sam': '10*kld(eps=1e-7) + 2*cc + nss(ddof=0)',
  'lc1': '10*kld + 2*cc + nss',
  'lc1_r': '10*kld + 2*cc + nss + center_bias',
  'lc2': '10*kld + 2*cc + nss + df + gm + sig_mse(lam=0.55)',
  'lc2_r': '10*kld + 2*cc + nss + df + gm + sig_mse(lam=0.55) + center_bias',
  'lc1_printed': '10*kld_printed_raw + 2*cc + nss_printed',
}


def parse(text: str) -> list[spec.Term]:
  """Reads the terms of a spec such as '10*kld + cc' or of a named preset.

  Raises:
    ValueError: for an unknown name or option, naming the nearest one, and for
      what is not a sum of positively weighted losses.
  """
  if isinstance(text, str) and text.strip().isidentifier():
    text = PRESETS.get(text.strip(), text.strip())
    if text.isidentifier() and text not in {**LOSSES, **BETWEEN}:
      raise spec.unknown('loss', text, [*LOSSES, *BETWEEN, *PRESETS])
  return spec.weighted_sum({**LOSSES, **BETWEEN}, text, takes=2)


def targets(text: str) -> tuple[str, ...]:
  """Lists the batch keys that the losses of a spec compare with, sorted."""
  return tuple(sorted({term.entry.target for term in parse(text)}))


def between_sentences(text: str) -> list[str]:
  """Lists the terms of a spec that compare the sentences of an image."""
  return [t.name for t in parse(text) if t.entry.needs == 'rows']


def make_loss(text: str, *, vgg: perceptual.Features | None = None) -> LossFn:
  """Makes the weighted sum that `text` describes, for batches.

  Args:
    text: e.g. '10*kld + 2*cc + sim(minmax=False)', or a name in `PRESETS`.
    vgg: fixed network of `df` and `gm`, see `salflax.losses.perceptual`.

  Returns:
    `loss_fn(pred [B, H, W], batch) -> (scalar, terms)`: the weighted sum of the
    batch means, and each term's own unweighted batch mean by its written name.
    It reads batch['saliency'], batch['fixations'] and batch['center'] (the mean
    training map, [B, H, W]) as far as the terms need them; batch['box'], where
    present, so that padding weighs zero; and batch['mask'], where present, so
    that filling rows weigh zero. An image without ground truth for a term (no
    fixation; a saliency map of zeros) is left out of that term's mean. Where
    the targets are smaller than `pred`, by whole factors, it is averaged in
    blocks to their size.

  Raises:
    ValueError: here for a bad spec, an option out of its range, or a missing
      fixed network; `loss_fn` raises KeyError where the batch lacks a target.
  """
  terms = [_with_network(term, vgg=vgg) for term in parse(text)]
  for term in terms:
    _check_options(term)

  def loss_fn(pred, batch):
    targets = {term.entry.target for term in terms} & batch.keys()
    for key in sorted(targets)[:1]:
      pred = maps.shrunk(pred, jnp.shape(batch[key]))
    where = _valid_pixels(batch, jnp.shape(pred))
    values = {t.name: _batch_mean(t, pred, batch, where) for t in terms}
    return sum(t.weight * values[t.name] for t in terms), values

  return loss_fn


def box_pixels(box: Array, shape: tuple[int, ...]) -> Array:
  """Marks the pixels inside each image's box, bool [B, H, W].

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


def _with_network(term, **networks):
  """Adds the fixed network that a term needs to its options."""
  needs = term.entry.needs
  for name in ('rows', 'index') if needs == 'rows' else (needs,):
    if name in term.kwargs:
      raise ValueError(f'{name} is not written in a spec: {term.name!r}.')
  if needs not in networks:
    return term
  return term._replace(kwargs={**term.kwargs, needs: networks[needs]})


def _check_options(term):
  """Traces a loss, which computes nothing: it raises for a bad option."""
  maps_of_a_row, small = jax.ShapeDtypeStruct((1, 64, 64), jnp.float32), {}
  if term.kwargs.get(term.entry.needs) is not None:
    # Any network will do; a large one takes seconds.
    pooled = lambda x: [x[:, : x.shape[1] // 2 * 2 : 2, ::2, None]]
    small = {term.entry.needs: pooled}
  elif term.entry.needs == 'rows':
    small = dict(rows=1, index=jnp.zeros(1, jnp.int32))
  elif not term.kwargs and not term.entry.needs:
    return
  fn = functools.partial(term.entry.fn, **{**term.kwargs, **small})
  try:
    jax.eval_shape(fn, maps_of_a_row, maps_of_a_row)
  except TypeError as e:
    raise ValueError(f'Bad option in {term.name!r}: {e}') from e


def _valid_pixels(batch, shape):
  """Marks the pixels inside the box of rows that do not fill, [B, H, W]."""
  where = jnp.ones(shape, bool)
  if 'box' in batch:
    where = where & box_pixels(batch['box'], shape)
  if 'mask' in batch:
    where = where & jnp.asarray(batch['mask']).astype(bool)[:, None, None]
  return where


def _batch_mean(term, pred, batch, where):
  """Averages one term over the rows with ground truth; 0 where none has."""
  key = term.entry.target
  if key not in batch:
    raise KeyError(
      f'The loss {term.name!r} needs {key!r}; the batch has {sorted(batch)}.'
    )
  pred, target, valid = maps.prepare(pred, batch[key], where)
  if term.entry.needs == 'rows':
    target = jnp.where(_has_words(batch, len(pred)), target, 0)
    group = dict(rows=_rows_per_image(batch, len(pred)), index=batch['index'])
    values, rows = term.entry.fn(
      pred, target, where=valid, **group, **term.kwargs
    )
  else:
    values = term.entry.fn(pred, target, where=valid, **term.kwargs)
    rows = maps.has_truth(target, valid)[:, 0, 0]
  return jnp.where(rows, values, 0).sum() / jnp.maximum(rows.sum(), 1)


def _has_words(batch, rows):
  """Marks rows with a word between the pieces that frame it, [B, 1, 1]."""
  mask = batch.get('token_mask')
  some = jnp.ones(rows, bool) if mask is None else mask.sum(-1) > 2
  return some[:, None, None]


def _rows_per_image(batch, maps_in_batch):
  """Counts the maps of each image of a batch by image."""
  inputs = jax.tree.leaves(batch['taps' if 'taps' in batch else 'image'])
  return maps_in_batch // len(inputs[0])
