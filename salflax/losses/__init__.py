"""Losses: a table of them, and weighted sums written as strings.

A loss is `fn(pred [B, H, W], target [B, H, W], *, where=None, **options)` and
returns one number a picture, [B]. Lower is always better; measures of agreement
are turned round, so that `cc` is 1 - CC. A loss is not a score: scores come
from `salflax.metrics`.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from salflax import spec
from salflax.losses import distribution, location, maps, pixel
from salflax.types import Batch

LossFn = Callable[[Array, Batch], tuple[Array, dict[str, Array]]]


class Loss(NamedTuple):
  """One line of the table of losses; docs/losses.md prints all but `fn`.

  Attributes:
    fn: `fn(pred, target, *, where=None, **options) -> [B]`.
    target: the key of the batch it compares with, 'saliency' or 'fixations'.
      Fixed here, so that NSS cannot meet a blurred map.
    formula: in plain text; P prediction, S saliency map, F fixation map.
    range: the values it can take.
    minimum: its value where the prediction is the saliency map scaled to a
      maximum of 1; None where that is not its least value.
    ignores: what may be done to the prediction without changing it: 'scale',
      'scale and offset' or '' (nothing).
    reference: where it comes from.
  """

  fn: Callable[..., Array]
  target: str
  formula: str
  range: str
  minimum: float | None
  ignores: str
  reference: str


_PAPER1 = 'Huang, Text-Guided Saliency Prediction Model, eq. 5'
_RELEASED = 'the same, released code: a value without gradient'
_PAPER2 = 'Bruckert et al. 2021'

LOSSES = {
  'mse': Loss(
    pixel.mse,
    'saliency',
    'mean (P - S / max S)^2',
    '[0, 1] for P in [0, 1]',
    0.0,
    '',
    f'{_PAPER2}, eq. 1',
  ),
  'kld': Loss(
    distribution.kld,
    'saliency',
    'sum s log(eps + s / (p + eps)), s = S / sum S, p = P / sum P',
    '[0, -log eps]',
    0.0,
    'scale',
    'MIT saliency benchmark; TranSalNet',
  ),
  'cc': Loss(
    distribution.cc,
    'saliency',
    '1 - cov(P, S) / (std P std S)',
    '[0, 2]',
    0.0,
    'scale and offset',
    f'{_PAPER2}, eq. 12',
  ),
  'sim': Loss(
    distribution.sim,
    'saliency',
    '1 - sum min(s, p), S and P first less their minima (minmax), then '
    'divided by their sums',
    '[0, 1]',
    0.0,
    'scale and offset',
    'MIT saliency benchmark; TranSalNet',
  ),
  'nss': Loss(
    location.nss,
    'fixations',
    '-mean of (P - mean P) / std P over F > 0',
    'unbounded',
    None,
    'scale and offset',
    f'{_PAPER2}, eq. 11, negated and divided by the fixations',
  ),
  'kld_released': Loss(
    distribution.kld_released,
    'saliency',
    'mean S (log S - P), S / max S for S',
    '[-1, 0] for P in [0, 1]',
    None,
    '',
    f'{_PAPER1}, released code',
  ),
  'mse_released': Loss(
    maps.detached(pixel.mse),
    'saliency',
    'mse',
    '[0, 1] for P in [0, 1]',
    0.0,
    '',
    _RELEASED,
  ),
  'cc_released': Loss(
    maps.detached(distribution.cc),
    'saliency',
    'cc',
    '[0, 2]',
    0.0,
    'scale and offset',
    _RELEASED,
  ),
  'sim_released': Loss(
    maps.detached(distribution.sim),
    'saliency',
    'sim',
    '[0, 1]',
    0.0,
    'scale and offset',
    _RELEASED,
  ),
  'nss_released': Loss(
    maps.detached(location.nss),
    'fixations',
    'nss',
    'unbounded',
    None,
    'scale and offset',
    _RELEASED,
  ),
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
}


def parse(text: str) -> list[spec.Term]:
  """Returns the terms of a spec such as '10*kld + cc' or of a named preset.

  Raises:
    ValueError: for an unknown name or option, naming the nearest one, and for
      what is not a sum of positively weighted losses.
  """
  text = text.strip() if isinstance(text, str) else text
  if isinstance(text, str) and text.isidentifier():
    text = PRESETS.get(text, text)
    if text.isidentifier() and text not in LOSSES:
      raise spec.unknown('loss', text, [*LOSSES, *PRESETS])
  return spec.weighted_sum(LOSSES, text, takes=2)


def targets(text: str) -> tuple[str, ...]:
  """Returns the batch keys that the losses of a spec compare with, sorted."""
  return tuple(sorted({term.entry.target for term in parse(text)}))


def make_loss(text: str) -> LossFn:
  """Returns the weighted sum that `text` describes, for batches.

  Args:
    text: e.g. '10*kld + 2*cc + sim(minmax=False)', or a name in `PRESETS`.

  Returns:
    `loss_fn(pred [B, H, W], batch) -> (scalar, terms)`: the weighted sum of the
    batch means, and each term's own unweighted batch mean by its written name.
    It reads batch['saliency'] and batch['fixations'] as far as the terms need
    them; batch['box'], where present, so that padding weighs zero; and
    batch['mask'], where present, so that filling rows weigh zero. A picture
    without ground truth for a term (no fixation; a saliency map of zeros) is
    left out of that term's mean.

  Raises:
    ValueError: here for a bad spec; `loss_fn` raises KeyError where the batch
      lacks a target.
  """
  terms = parse(text)

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
