"""The network that ships: frozen eyes, frozen words, a small head between.

EfficientNet-Lite looks at the image at two sizes, a text encoder reads the
sentence and each of its words alone, and heads of a third of a million
parameters learn where people look (`grounding`). Rows without a word take the
path without text, bit for bit.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.models import base, class_names, grounding, layers, sights
from salflax.models.backbones.efficientnet_lite import CLASSES, THINGS
from salflax.models.layers import TextFeatures

# Channels that each level is reduced to; of the image at half its size, too.
WIDTHS = (
  ('1/8', 24),
  ('1/16', 64),
  ('1/32', 96),
  ('coarse/32', 48),
)
COARSE_CLASSES = f'coarse/{CLASSES}'


def halved(x: jax.Array) -> jax.Array:
  """Averages 2 x 2 cells of [B, h, w, C]; an odd last row or column is lost."""
  height, width = (size // 2 * 2 for size in x.shape[1:3])
  x = x[:, :height, :width]
  x = (x[:, ::2] + x[:, 1::2]) / 2
  return (x[:, :, ::2] + x[:, :, 1::2]) / 2


class Lite(base.Saliency):
  """Saliency of an image, or of an image seen with a sentence.

  Attributes:
    backbone: `EfficientNetLite` with the taps in `levels`.
    text: text encoder with sentence vectors of length 1, the one that made the
      vectors of `names`; None takes `TextFeatures`, or no text at all.
    size: (H, W) of the image, multiples of 32.
    levels: taps of the backbone; 'things' among them adds colours and places.
    names: .npz of class names and vectors of another text encoder, as
      `class_names.load` reads it; '' for those of all-MiniLM-L6-v2.
    sight_names: the same of things, colours and places.
    members: heads, trained apart, whose maps are averaged.
    width: channels of a cell.
    free_maps: maps between words and cells that need no names.
    dropout: share of channels that are left out in training.
    text_dropout: the same of the vectors of words and sentences.
    noise: deviation of what is added to the features in training.
    word_dropout: share of words that are left out in training.
    train_scale: maps are smaller by this factor in training, as the targets of
      `shrink` in a pp string are; the losses are the same.
    dtype: type of the backbone's computation; the heads are float32.
  """

  backbone: nn.Module
  text: nn.Module | None = None
  size: tuple[int, int] = (480, 640)
  levels: tuple[str, ...] = ('1/8', '1/16', '1/32', CLASSES)
  names: str = ''
  sight_names: str = ''
  members: int = 1
  width: int = 96
  free_maps: int = 4
  dropout: float = 0.3
  text_dropout: float = 0.3
  noise: float = 0.2
  word_dropout: float = 0.2
  train_scale: int = 1
  dtype: Any = jnp.float32

  # An image may have several sentences: R rows of tokens for B images.
  shares_images = True

  @nn.compact
  def __call__(
    self, image, tokens=None, token_mask=None, *, train: bool
  ) -> jax.Array:
    """Computes saliency f32 [B, H, W], with a mean of 1 over the image.

    Args:
      image: f32 [B, H, W, 3], or features {level: [B, h, w, C]} from
        `encode_image`, of any float type.
      tokens: i32 [B, L]; the first and the last real one of a row frame the
        sentence. Or `TextFeatures` from `encode_text`; None for no text. Where
        there are R = n B rows, the first n are of the first image, and so on;
        maps are then [R, H, W].
      token_mask: bool [B, L], True for real word pieces; None means all are.
      train: whether channels and words are left out.

    Raises:
      ValueError: for an image of another size than `size`, features without
        classes, or text vectors of another width than the class names'.
    """
    features = self.features(image, train=train)
    if CLASSES not in features:
      raise ValueError(
        f'Grounding needs the level {CLASSES!r}, the class logits of each '
        f'cell; the backbone gives {sorted(features)}.'
      )
    names = self._names()
    text = self.text_features(tokens, token_mask)
    words = None
    if text is not None:
      count = sum(len(v.names) for v in self._vocabularies())
      words = _words(text, names.vectors, count)
    maps = [
      self._member(i, features, words, names.vectors, train)
      for i in range(self.members)
    ]
    scale = self.train_scale if train else 1
    size = tuple(side // scale for side in self.size)
    x = sum(maps)[..., None] / self.members
    return layers.resized(x.astype(jnp.float32), size)[..., 0]

  def _names(self) -> class_names.ClassNames:
    return class_names.load(self.names or class_names.NAMES_FILE)

  def _vocabularies(self) -> list[class_names.ClassNames]:
    if THINGS not in self.levels:
      return [self._names()]
    sights_file = self.sight_names or class_names.SIGHTS_FILE
    return [self._names(), class_names.load(sights_file)]

  def features(self, image, *, train: bool) -> dict:
    """Computes {level: [B, h, w, C]} of an image, or takes stored features."""
    if isinstance(image, Mapping):
      return {k: v.astype(self.dtype) for k, v in image.items()}
    return self.encode_image(image, train=train)

  def encode_image(self, image, *, train: bool = False) -> dict:
    """Computes {level: [B, h, w, C]} of image f32 [B, H, W, 3], at two sizes.

    Raises:
      ValueError: for an image of another size than `size`.
    """
    fine = dict(super().encode_image(image, train=train))
    without = {'things': False} if THINGS in self.levels else {}
    coarse = self.backbone(halved(image), train=train, **without)
    fine['1/8'] = halved(fine['1/8'])
    fine['coarse/32'] = coarse['1/32']
    if CLASSES in coarse:
      fine[COARSE_CLASSES] = coarse[CLASSES]
    if (things := fine.pop(THINGS, None)) is not None:
      grid = things.shape[1:3]
      colours = sights.colours(image * 128 + 127, image.shape[1] // grid[0])
      places = jnp.broadcast_to(
        sights.places(grid), (things.shape[0], *grid, 5)
      )
      parts = [things, colours, places]
      fine[grounding.SIGHTS] = jnp.concatenate(parts, -1)
    return fine

  def encode_text(self, tokens, token_mask=None) -> TextFeatures:
    """Computes words in their sentence, alone, and their likeness to classes.

    Args:
      tokens: i32 [B, L]; the first and the last real one of a row frame the
        sentence and are no words.
      token_mask: bool [B, L], True for real word pieces; None means all are.

    Returns:
      Words f32 [B, L, D + D + K] of all K names, and sentences [B, D].

    Raises:
      ValueError: if the network has no text encoder.
    """
    if token_mask is None:
      token_mask = jnp.ones(tokens.shape, bool)
    text = super().encode_text(tokens, token_mask)
    last = token_mask.sum(-1, keepdims=True) - 1
    end = jnp.take_along_axis(tokens, jnp.maximum(last, 0), 1)
    start, end = (
      jnp.broadcast_to(x, tokens.shape) for x in (tokens[:, :1], end)
    )
    alone = jnp.stack([start, tokens, end], -1).reshape(-1, 3)
    alone = self.text(alone, jnp.ones(alone.shape, bool)).sentence
    alone = alone.reshape(*tokens.shape, -1)
    for vocabulary in self._vocabularies():
      _check_width(vocabulary.vectors, text.sentence)
    alike = [class_names.likeness(alone, v) for v in self._vocabularies()]
    words = jnp.concatenate([text.tokens, alone, *alike], -1)
    return TextFeatures(words, text.mask, text.sentence)

  def text_sources(self) -> tuple[Any, ...]:
    """Lists arrays that `encode_text` reads beside its text encoder."""
    return tuple(
      x for v in self._vocabularies() for x in (v.lemma_vectors, v.entries)
    )

  def _member(self, number, features, words, names, train) -> jax.Array:
    grid = features['1/16'].shape[1:3]
    classes = tuple(k for k in (CLASSES, COARSE_CLASSES) if k in features)
    cells = grounding.ImageHead(
      dict(WIDTHS),
      classes,
      grid,
      width=self.width,
      dropout=self.dropout,
      noise=self.noise,
      name=f'image_{number}',
    )(features, names, train=train)
    logits = cells.logits
    if words is not None:
      with_text = grounding.SentenceHead(
        heads=self.free_maps,
        dropout=self.dropout,
        text_dropout=self.text_dropout,
        word_dropout=self.word_dropout,
        name=f'sentence_{number}',
      )(cells, words, train=train)
      some = words.mask.any(-1)[:, None, None]
      each = with_text.shape[0] // logits.shape[0]
      logits = jnp.where(some, with_text, jnp.repeat(logits, each, axis=0))
    rows = logits.reshape(logits.shape[0], -1)
    return (jax.nn.softmax(rows, -1) * rows.shape[1]).reshape(logits.shape)


def _words(text: TextFeatures, names: Any, count: int) -> grounding.Words:
  width = names.shape[1]
  _check_width(names, text.sentence)
  if text.tokens.shape[-1] != 2 * width + count:
    raise ValueError(
      f'Words have {text.tokens.shape[-1]} values, not {2 * width + count}: '
      'they are not text features of this network.'
    )
  words = text.tokens.astype(jnp.float32)
  context, alone, likeness = jnp.split(words, [width, 2 * width], axis=-1)
  place = jnp.arange(text.mask.shape[1])[None]
  last = text.mask.sum(-1, keepdims=True) - 1
  mask = text.mask & (place > 0) & (place < last)
  sentence = text.sentence.astype(jnp.float32)
  return grounding.Words(context, alone, mask, sentence, likeness)


def _check_width(names: Any, vectors: jax.Array) -> None:
  if vectors.shape[-1] != names.shape[1]:
    raise ValueError(
      f'Class names have vectors of {names.shape[1]} values, sentences of '
      f'{vectors.shape[-1]}. Use all-MiniLM-L6-v2, or set `names` and '
      '`sight_names`.'
    )
