"""Where an image shows what a sentence names: the heads of `lite`.

Every cell of an image has posteriors over ImageNet's classes, every class has
names, its own and those of what it is a kind of, and every name a vector of
the text encoder. So a word is where those classes are whose names it
resembles. Free low-rank maps between features and words learn beside it what
ImageNet lacks, such as people.

`B` images, `h x w` cells, `K` classes, `L` words, `D` width of a word's vector.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salflax.models import layers

FAR = -1e9
SIGHTS = 'sights'
# Word vectors have length 1; times this, their values are near 1.
_LOUDER = 8.0
_NAME_WIDTH = 24
# Slopes, and where they stand: of ImageNet's classes, of what else has a name.
_CLASS_START = ((10.0, 20.0), (0.55, 0.75))
_START = ((20.0, 30.0), (0.6, 0.75))
_small = nn.initializers.normal(0.05)
_resized = functools.partial(layers.resized, antialias=True)


class Words(NamedTuple):
  """What a sentence says, word by word.

  Attributes:
    context: f32 [B, L, D], vectors of the words in their sentence.
    alone: f32 [B, L, D], vectors of length 1 of the words on their own.
    mask: bool [B, L], True for words.
    sentence: f32 [B, D], vectors of length 1.
    likeness: f32 [B, L, K], of words to names, by `class_names.likeness`.
  """

  context: jax.Array
  alone: jax.Array
  mask: jax.Array
  sentence: jax.Array
  likeness: jax.Array


class Cells(NamedTuple):
  """What an image shows, cell by cell.

  Attributes:
    features: f32 [B, h, w, C].
    named: maps f32 [B, h', w', N] of things that have names, on any grid, and
      which of the names in `Words.likeness` they are.
    logits: f32 [B, h, w], of where people look without a sentence.
  """

  features: jax.Array
  named: Sequence[tuple[jax.Array, slice]]
  logits: jax.Array


class Dense(layers.Dense):
  """`layers.Dense` on rows: its gradient is one matrix product."""

  def __call__(self, x: jax.Array) -> jax.Array:
    y = super().__call__(x.reshape(-1, x.shape[-1]))
    return y.reshape(*x.shape[:-1], self.features)


def unit(x: jax.Array) -> jax.Array:
  """Scales [..., C] to mean 0 and deviation 1 over the channels."""
  x = x - x.mean(-1, keepdims=True)
  return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def contrasted(x: jax.Array, floor: float = 0.03) -> jax.Array:
  """Scales maps [B, h, w, C] to mean 0 and deviation 1, flat ones to less."""
  x = x - x.mean((1, 2), keepdims=True)
  return x * jax.lax.rsqrt((x * x).mean((1, 2), keepdims=True) + floor**2)


def around(x: jax.Array, distance: int) -> jax.Array:
  """Averages cells of [B, h, w, C] with their 8 neighbours at `distance`."""
  d, (height, width) = distance, x.shape[1:3]
  # Not jnp.pad: it pads the axis of the batch too, by nothing, which other
  # programs than jax do not get right.
  x = jnp.concatenate([x[:, :1]] * d + [x] + [x[:, -1:]] * d, 1)
  x = sum(x[:, i : i + height] for i in (0, d, 2 * d)) / 3
  x = jnp.concatenate([x[:, :, :1]] * d + [x] + [x[:, :, -1:]] * d, 2)
  return sum(x[:, :, i : i + width] for i in (0, d, 2 * d)) / 3


def dropped(module: nn.Module, x: jax.Array, rate: float, *, train: bool):
  """Leaves out whole channels of [B, ..., C] in training."""
  if not train or not rate:
    return x
  mask = jax.random.bernoulli(
    module.make_rng('dropout'),
    1 - rate,
    (len(x), *(1,) * (x.ndim - 2), x.shape[-1]),
  )
  return x * mask / (1 - rate)


class Mix(nn.Module):
  """Residual block that sees each cell beside the mean of its neighbours.

  The neighbourhood has no weights of its own: they would overfit, and their
  gradient is slow on a CPU.

  Attributes:
    distance: distance of the neighbours, in cells.
    hidden: channels inside.
  """

  distance: int = 1
  hidden: int = 64

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = unit(x)
    here = Dense(self.hidden, name='here')(y)
    near = Dense(self.hidden, use_bias=False, name='around')(y)
    y = nn.relu(here + around(near, self.distance))
    return x + Dense(x.shape[-1], name='mix')(y)


class ImageHead(nn.Module):
  """What each cell shows, and where people look without a sentence.

  Attributes:
    widths: channels that each level is reduced to, by its name.
    classes: levels that hold logits of ImageNet's classes.
    grid: (h, w), the finest level's cells.
    width: C, channels of a cell.
    temperatures: factors of the class logits.
    distances: distances of the neighbours that each block sees.
    dropout: share of channels that are left out in training.
    noise: deviation of what is added to the features in training.
  """

  widths: Mapping[str, int]
  classes: tuple[str, ...]
  grid: tuple[int, int]
  width: int = 96
  temperatures: tuple[float, ...] = (1.0, 0.4)
  distances: tuple[int, ...] = (1, 3)
  dropout: float = 0.3
  noise: float = 0.2

  @nn.compact
  def __call__(
    self, features: Mapping[str, jax.Array], names: np.ndarray, *, train: bool
  ) -> Cells:
    """Computes the cells of features {level: [B, h, w, C]}, names [K, D]."""
    parts = [self._level(k, features[k], train) for k in self.widths]
    maps = []
    for level in self.classes:
      for i, temperature in enumerate(self.temperatures):
        logits = features[level].astype(jnp.float32) * temperature
        posteriors = jax.nn.softmax(logits, -1)
        maps.append((posteriors, slice(len(names))))
        parts.append(self._named(f'{level}/{i}', posteriors, names, train))
    if SIGHTS in features:
      sights = features[SIGHTS].astype(jnp.float32)
      maps.append((sights, slice(len(names), None)))
      x = dropped(self, sights, self.dropout / 2, train=train)
      parts.append(self._joined(SIGHTS, x))
    # The image as a whole.
    scene = features['1/32'].astype(jnp.float32)
    scene = unit(scene.mean((1, 2), keepdims=True))
    x = Dense(self.width, name='scene')(scene)
    # From coarse to fine, one step of the grids at a time.
    for grid in sorted({p.shape[1:3] for p in parts}):
      if x.shape[1:3] != (1, 1):
        x = _resized(x, grid)
      x = x + sum(p for p in parts if p.shape[1:3] == grid)
    x = _resized(x, self.grid)
    for i, distance in enumerate(self.distances):
      x = dropped(self, x, self.dropout, train=train)
      x = Mix(distance, name=f'mix_{i}')(x)
    x = dropped(self, unit(x), self.dropout, train=train)
    y = nn.relu(Dense(32, name='map_1')(x))
    y = Dense(1, kernel_init=_small, name='map_2')(y)
    # Where people look whatever they see.
    prior = self.param('prior', nn.initializers.zeros, (1, 6, 8, 1))
    logits = y + 4 * _resized(prior, self.grid)
    return Cells(x, tuple(maps), logits[..., 0])

  def _level(self, level, x, train):
    x = unit(x.astype(jnp.float32))
    if train and self.noise:
      shape = (len(x), 1, 1, x.shape[-1])
      noise = jax.random.normal(self.make_rng('dropout'), shape)
      x = x + self.noise * noise
    x = dropped(self, x, self.dropout / 2, train=train)
    name = level.replace('/', '_')
    x = nn.relu(Dense(self.widths[level], name=f'in_{name}')(x))
    return Dense(self.width, use_bias=False, name=f'join_{name}')(x)

  def _named(self, level, posteriors, names, train):
    # Names first: posteriors times 384 columns would take the most time.
    name = level.replace('/', '_')
    x = dropped(self, 4 * names[None], self.dropout / 2, train=train)[0]
    x = Dense(_NAME_WIDTH, name=f'in_{name}')(x)
    rows = posteriors.reshape(-1, posteriors.shape[-1]) @ x
    x = nn.relu(rows.reshape(*posteriors.shape[:-1], _NAME_WIDTH))
    return Dense(self.width, use_bias=False, name=f'join_{name}')(x)

  def _joined(self, name, x):
    x = nn.relu(Dense(_NAME_WIDTH, name=f'in_{name}')(x))
    # From zero, so that a stage may begin where one without it has ended.
    zeros = nn.initializers.zeros
    return Dense(
      self.width, use_bias=False, kernel_init=zeros, name=f'join_{name}'
    )(x)


class SentenceHead(nn.Module):
  """Where people look with a sentence: where the things are that it names.

  Attributes:
    heads: number of free maps between words and cells.
    head_dim: width of each.
    hidden: channels of the last layers.
    dropout: share of channels that are left out in training.
    text_dropout: the same of the vectors of words and sentences.
    word_dropout: share of words that are left out in training.
  """

  heads: int = 4
  head_dim: int = 16
  hidden: int = 32
  dropout: float = 0.3
  text_dropout: float = 0.3
  word_dropout: float = 0.2

  @nn.compact
  def __call__(self, cells: Cells, words: Words, *, train: bool) -> jax.Array:
    """Computes logits f32 [R, h, w].

    Args:
      cells: cells of B images.
      words: words of R sentences, R / B for each image, one after another.
      train: whether channels and words are left out.
    """
    each = words.mask.shape[0] // cells.logits.shape[0]
    logits = cells.logits[..., None]
    # Two slopes for each grid and temperature.
    named = 2 * len(cells.named)
    both = jnp.concatenate([unit(words.context), _LOUDER * words.alone], -1)
    both = dropped(self, both, self.text_dropout, train=train)
    shares = self._importance(both, words.mask, named + self.heads, train)
    maps = self._by_name(cells, words, shares[..., :named])
    maps.append(self._freely(cells.features, both, shares[..., named:]))
    maps = jnp.concatenate(maps, -1)
    sentence = dropped(
      self, _LOUDER * words.sentence, self.text_dropout, train=train
    )
    sentence = Dense(self.head_dim, name='sentence')(sentence)[:, None, None]
    join = lambda name, x: Dense(self.hidden, name=f'join_{name}')(x)
    # Once for an image, whatever the number of its sentences.
    x = join('cells', cells.features) + join('logits', logits)
    x, logits = (jnp.repeat(v, each, axis=0) for v in (x, logits))
    x = x + join('maps', maps) + join('sentence', sentence)
    x = dropped(self, nn.relu(x), self.dropout, train=train)
    x = Dense(1, kernel_init=_small, name='out')(x)
    # The sentence also says how much each map counts.
    weight = 0.3 + Dense(
      maps.shape[-1],
      kernel_init=nn.initializers.normal(0.02),
      bias_init=nn.initializers.zeros,
      name='weight',
    )(sentence)
    share = self.param('share', nn.initializers.ones, (1, 1, 1, 1))
    x = x + share * logits + (maps * weight).sum(-1, keepdims=True)
    return x[..., 0]

  def _importance(self, both, mask, count, train):  # [B, L, count]
    if train and self.word_dropout:
      keep = 1 - self.word_dropout
      kept = jax.random.bernoulli(self.make_rng('dropout'), keep, mask.shape)
      kept = mask & kept
      mask = jnp.where(kept.any(-1, keepdims=True), kept, mask)
    x = nn.relu(Dense(24, name='importance_1')(both))
    x = Dense(count, name='importance_2')(x)
    return jax.nn.softmax(jnp.where(mask[..., None], x, FAR), axis=1)

  def _by_name(self, cells, words, shares):
    starts = [_START if k.start else _CLASS_START for _, k in cells.named]
    slopes, places = (
      self.param(
        name, lambda key, i=i: jnp.array([v for s in starts for v in s[i]])
      )
      for i, name in enumerate(('slope', 'place'))
    )
    maps = []
    for i in range(2 * len(cells.named)):
      x, which = cells.named[i // 2]
      likeness = words.likeness[..., which]
      alike = nn.sigmoid(slopes[i] * (likeness - places[i]))
      alike = jnp.einsum('blk,bl->bk', alike, shares[..., i])
      alike = alike.reshape(x.shape[0], -1, alike.shape[-1])
      x = jnp.einsum('bhwk,brk->brhw', x, alike)
      x = contrasted(x.reshape(-1, *x.shape[2:], 1))
      maps.append(_resized(x, cells.logits.shape[1:]))
    return maps

  def _freely(self, features, both, shares):
    width = self.heads * self.head_dim
    x = Dense(width, name='cells_map')(features)
    x = x.reshape(*x.shape[:3], self.heads, self.head_dim)
    q = Dense(width, name='words_free')(both)
    q = q.reshape(*q.shape[:2], self.heads, self.head_dim)
    q = jnp.einsum('blnd,bln->bnd', q, shares)
    q = q.reshape(x.shape[0], -1, *q.shape[1:])
    x = jnp.einsum('bhwnd,brnd->brhwn', x, q) * self.head_dim**-0.5
    x = x.reshape(-1, *x.shape[2:])
    return x - x.mean((1, 2), keepdims=True)
