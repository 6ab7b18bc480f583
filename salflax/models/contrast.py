"""An image seen through its predicted map, beside its sentence.

What the map lets through should be what the sentence tells of: the masked
image is embedded, the sentence is brought to the same space, and a decoder
says the sentence from the masked image's tokens. Nothing of this takes part
in a prediction.

References:
  Huang, Text-Guided Saliency Prediction Model, 2024, section IV.A.
  Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models import layers
from salflax.models.captioner import Captioner
from salflax.models.layers import TextFeatures

KINDS = ('vsrn', 'order')
# How a map becomes a mask: divided by its maximum, so that a dim map does not
# put out the image; as it is; or as it is, times the normalised image,
# where 0 is the mean colour instead of black.
MASKS = ('max', 'raw', 'released')
POOLS = ('mean', 'first')
# A map whose maximum is below this stays dim.
DIM = 1e-6


class Compared(NamedTuple):
  """Embeddings of images and sentences; None where not asked for.

  Attributes:
    images: f32 [B, D].
    sentences: f32 [B, D].
    nll: f32 [B], negative log-likelihood of the sentence for the image.
  """

  images: jax.Array | None = None
  sentences: jax.Array | None = None
  nll: jax.Array | None = None


class Pixels(NamedTuple):
  """How a tower's pixels come from the network's: x * scale + shift.

  Attributes:
    turned: whether RGB becomes BGR or the other way round, first.
    scale, shift: factor and addend of each channel.
  """

  turned: bool
  scale: tuple[float, ...]
  shift: tuple[float, ...]


def masked(
  image: jax.Array,
  pred: jax.Array,
  *,
  mask: str = 'max',
  black: tuple[float, ...] = (0.0, 0.0, 0.0),
  where: jax.Array | None = None,
) -> jax.Array:
  """Dims images by their maps, f32 [B, H, W, 3].

  Args:
    image: normalised, f32 [B, H, W, 3].
    pred: P, f32 [B, H, W] >= 0, in [0, 1] unless mask is 'max'.
    mask: out of `MASKS`.
    black: what a pixel of zeros is after normalisation; not used for
      'released'.
    where: bool [B, H, W], False for padding, where P counts as 0.
  """
  pred = pred.astype(jnp.float32)
  if where is not None:
    pred = jnp.where(where, pred, 0.0)
  if mask == 'max':
    pred = pred / jnp.maximum(pred.max((1, 2), keepdims=True), DIM)
  pred = pred[..., None]
  if mask == 'released':
    return pred * image
  black = layers.channels(jnp.asarray(black, jnp.float32), image)
  return pred * (image - black) + black


def visual_tokens(features: Any) -> jax.Array:
  """Takes tokens [B, N, C] as they are, or the cells of the coarsest level.

  Args:
    features: [B, N, C], or {level: [B, h, w, C]}.
  """
  if isinstance(features, Mapping):
    # Of levels of one size, as where dilation takes the place of strides, the
    # last one has most channels.
    size = lambda x: (x.shape[1] * x.shape[2], -x.shape[-1])
    x = min(features.values(), key=size)
    return x.reshape(x.shape[0], -1, x.shape[-1])
  return features


class Contrast(nn.Module):
  """Embeds masked images and sentences, and says the sentence.

  kind 'vsrn': the pooled tokens and the sentence vector each go through a
  linear map to `dim`; a cosine compares them. kind 'order', the released code:
  the sentence goes to the size of all visual tokens together, which are taken
  as they are. The largest matrix then is that of a sentence of 256 to 433
  tokens of 768: 85 M parameters.

  Attributes:
    kind: out of `KINDS`.
    matching: whether images and sentences are embedded.
    caption: whether the sentence is predicted from the image.
    mask: out of `MASKS`.
    black: see `masked`.
    stride: side of the cells whose means are embedded instead of pixels.
    dim: width of the common space of 'vsrn'.
    hidden: width of the captioner.
    per_token: see `Captioner`.
    vocab_size: number of word pieces.
    vision: maps an image [B, H, W, 3] to tokens [B, N, D] or to {level:
      [B, h, w, C]}; None for the network's own backbone.
    pixels: what that tower's pixels are; None for the network's own.
    pool: 'mean' of the tokens, or the 'first', which stands for the image in
      a ViT.
    dtype: type of the computation.
  """

  kind: str = 'vsrn'
  matching: bool = True
  caption: bool = True
  mask: str = 'max'
  black: tuple[float, ...] = (0.0, 0.0, 0.0)
  stride: int = 1
  dim: int = 256
  hidden: int = 512
  per_token: bool = False
  vocab_size: int = 30522
  vision: nn.Module | None = None
  pixels: Pixels | None = None
  pool: str = 'mean'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    image: jax.Array,
    pred: jax.Array,
    text: TextFeatures,
    ids: jax.Array,
    *,
    backbone: nn.Module | None = None,
    where: jax.Array | None = None,
    train: bool,
  ) -> Compared:
    """Computes embeddings and the sentences' likelihood.

    Args:
      image: normalised, f32 [B, H, W, 3].
      pred: saliency, f32 [B, H, W].
      text: the sentences' features.
      ids: i32 [B, L], the sentences' word pieces; `text.mask` marks real ones.
      backbone: takes the place of `vision` where that is None.
      where: see `masked`.
      train: whether the captioner drops out. The tower never does, and its
        batch normalisations take their running statistics: a masked image
        is not what those are gathered from.

    Raises:
      ValueError: for attributes that do not fit together.
    """
    self._check()
    x = masked(image, pred, mask=self.mask, black=self.black, where=where)
    x = self._repainted(layers.shrink(x, factor=self.stride))
    look = backbone if self.vision is None else self.vision
    tokens = visual_tokens(look(x, train=False))
    compared = Compared()
    if self.matching:
      compared = self._embedded(tokens, text.sentence)
    if self.caption:
      say = Captioner(
        self.vocab_size,
        self.hidden,
        per_token=self.per_token,
        dtype=self.dtype,
        name='captioner',
      )
      compared = compared._replace(nll=say(tokens, ids, text.mask, train=train))
    return compared

  def _embedded(self, tokens, sentence):
    def linear(x, features, name):
      return layers.Dense(features, name=name)(x.astype(self.dtype))

    if self.kind == 'order':
      images = tokens.reshape(tokens.shape[0], -1)
      sentences = linear(sentence, images.shape[-1], 'sentence')
    else:
      pooled = tokens[:, 0] if self.pool == 'first' else tokens.mean(1)
      images = linear(pooled, self.dim, 'picture')
      sentences = linear(sentence, self.dim, 'sentence')
    single = lambda x: x.astype(jnp.float32)
    return Compared(single(images), single(sentences))

  def _repainted(self, x):
    if self.pixels is None:
      return x
    x = x[..., ::-1] if self.pixels.turned else x
    scale, shift = (
      layers.channels(jnp.asarray(v, x.dtype), x)
      for v in (self.pixels.scale, self.pixels.shift)
    )
    return x * scale + shift

  def _check(self):
    spec.lookup('kind of contrast', KINDS, self.kind)
    spec.lookup('mask of contrast', MASKS, self.mask)
    spec.lookup('pool of contrast', POOLS, self.pool)
