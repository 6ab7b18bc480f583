"""TranSalNet, with a sentence joined to the image's features.

References:
  Lou et al., TranSalNet: Towards perceptually relevant visual saliency
    prediction, Neurocomputing 2022.
  Huang, Text-Guided Saliency Prediction Model, 2024.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models import base, layers
from salflax.models import fusion as fusions
from salflax.models.layers import TextFeatures
from salflax.models.transencoder import TransEncoder

STRIDES = (32, 16, 8, 4, 2, 1)  # of conv1 to conv6


def _stride(level: str) -> int:
  return int(level.removeprefix('1/'))


class Decoder(nn.Module):
  """From coarse to fine: multiply, ReLU, 3x3 convolution, norm, ReLU, double.

  A convolution has the number of its scale, conv1 at 1/32 to conv6 at 1/1,
  whichever are there; conv7 makes the map.

  Attributes:
    widths: channels after the convolution at each stride that is used.
    bn: mode of `layers.BatchNorm`.
  """

  widths: Mapping[int, int]
  bn: str = 'train'

  @nn.compact
  def __call__(self, encoded: dict[str, jax.Array], *, train: bool):
    """Computes logits [B, h, w, 1] of {level: [B, h, w, D]}."""
    x = None
    for stride in sorted(self.widths, reverse=True):
      number = STRIDES.index(stride) + 1
      level = encoded.get(f'1/{stride}')
      if x is None:
        x = level
      else:
        x = layers.upsample(x)
        x = x if level is None else nn.relu(x * level)
      x = layers.Conv(self.widths[stride], name=f'conv{number}')(x)
      x = layers.BatchNorm(self.bn, name=f'batchnorm{number}')(x, train=train)
      x = nn.relu(x)
    return layers.Conv(1, name='conv7')(x)


class TranSalNet(base.Saliency):
  """Saliency of an image, or of an image seen with a sentence.

  The defaults are the published network: 72,510,977 parameters with a
  ResNet-50. Text forms that start as the identity, rows without a real word
  and calls without tokens all give the network without text.

  Attributes:
    backbone: maps an image to {level: features}, e.g. `resnet.ResNet`.
    text: maps token ids and mask to `TextFeatures`; None takes those as
      they come, or no text at all.
    fuse: levels that the sentence joins, out of `levels`.
    fusion: form in `fusion.FORMS`, with options: 'lowrank(dim=128)'.
    place: 'backbone' joins the text to the backbone's features (the paper's
      scheme 1), 'encoder' to those inside the transformer encoders (scheme 2);
      '' is the form's own, 'backbone' for those that may stand at both.
    size: (H, W) of the image, multiples of the coarsest level's stride.
    levels: backbone levels used, each through an encoder of its own.
    widths: width of each level's encoder.
    depth: transformer blocks in each encoder.
    head_dim: channels per attention head.
    mlp_ratio: width inside the MLPs, in encoder widths.
    decoder_widths: channels after the convolution at the finest level, and at
      each finer scale down to `out_stride`. At coarser ones they are the next
      level's width, which the product asks for.
    out_stride: the decoder stops at 1/out_stride; its logits are enlarged
      bilinearly.
    bn: batch normalisation of the decoder: 'train', or 'frozen' for running
      statistics that never move. The backbone has its own.
    dropout: share of the channels, of the backbone's features and of the
      sentence's, that are left out in training; for small data sets.
    contrast: compares images seen through their maps with sentences, in
      training alone (the paper's scheme 3); None for none.
    dtype: type of the computation; parameters and output are float32.
  """

  backbone: nn.Module
  text: nn.Module | None = None
  fuse: tuple[str, ...] = ()
  fusion: str = 'lowrank'
  place: str = ''
  size: tuple[int, int] = (288, 384)
  levels: tuple[str, ...] = ('1/8', '1/16', '1/32')
  widths: tuple[int, ...] = (512, 768, 768)
  depth: int = 2
  head_dim: int = 64
  mlp_ratio: int = 4
  decoder_widths: tuple[int, ...] = (256, 128, 64, 32)
  out_stride: int = 1
  bn: str = 'train'
  dropout: float = 0.0
  contrast: nn.Module | None = None
  dtype: Any = jnp.float32

  def __call__(
    self, image, tokens=None, token_mask=None, *, train: bool
  ) -> jax.Array:
    """Predicts saliency in [0, 1], f32 [B, H, W]; arguments as `logits`."""
    return nn.sigmoid(self.logits(image, tokens, token_mask, train=train))

  @nn.compact
  def logits(
    self, image, tokens=None, token_mask=None, *, train: bool
  ) -> jax.Array:
    """Computes the map before the sigmoid, f32 [B, H, W].

    Args:
      image: f32 [B, H, W, 3], or the backbone's features {level: [B, h, w, C]}
        of any float type.
      tokens: i32 [B, L], or `TextFeatures`; None for no text.
      token_mask: bool [B, L], True for real words; None means all are.
      train: whether batch normalisation takes the batch's statistics.

    Raises:
      ValueError: for attributes that do not fit together, or an input of
        another size than `size`.
    """
    self._check()
    taps, text = self.features(image, train=train), None
    if self.fuse:
      text = self.text_features(tokens, token_mask)
    if train and self.dropout:
      taps = {k: self._drop(v) for k, v in taps.items()}
      text = text and TextFeatures(
        self._drop(text.tokens), text.mask, self._drop(text.sentence)
      )
    encoded = {
      level: self._encode(level, width, taps[level], text)
      for level, width in zip(self.levels, self.widths)
    }
    x = Decoder(self._conv_widths(), self.bn, name='decoder')(
      encoded, train=train
    )
    return self.enlarged(x)

  def compare(
    self, image, pred, tokens, token_mask=None, *, ids, train: bool, **options
  ) -> Any:
    """Compares masked images with sentences, as `contrast` does.

    Args:
      image: f32 [B, H, W, 3].
      pred: saliency, f32 [B, H, W].
      tokens: i32 [B, L], or `TextFeatures`.
      token_mask: bool [B, L], True for real words.
      ids: i32 [B, L], word pieces, also where `tokens` are features.
      train: whether dropout is on.
      **options: of `contrast`.
    """
    tokens = self.text_features(tokens, token_mask)
    options.update(backbone=self.backbone, train=train)
    return self.contrast(image, pred, tokens, ids, **options)

  def _drop(self, x: jax.Array) -> jax.Array:
    # Whole channels: neighbouring cells would give single values away.
    between = tuple(range(1, x.ndim - 1))
    drop = nn.Dropout(self.dropout, broadcast_dims=between, deterministic=False)
    return drop(x)

  def _encode(self, level, width, tap, text):
    stride = _stride(level)
    cells = tuple(s // stride for s in self.size)
    if tap.shape[1:3] != cells:
      raise ValueError(
        f'Features at {level} of an image of size {tuple(self.size)} are '
        f'{cells}, found {tap.shape[1:3]}.'
      )
    at = {}
    if text is not None and level in self.fuse:
      form = fusions.make(self.fusion, name=f'fusion_{stride}')
      point = fusions.point(self.fusion, self.place)
      join = fusions.prepend if point == 'token' else fusions.fuse
      at[point] = functools.partial(join, form, text=text)
    if 'backbone' in at:
      tap = at['backbone'](tap)
    return TransEncoder(
      width,
      self.depth,
      self.head_dim,
      self.mlp_ratio,
      name=f'encoder_{stride}',
    )(tap, at)

  def _conv_widths(self) -> dict[int, int]:
    """Lists the channels after the convolution at each stride used."""
    level_widths = {_stride(v): w for v, w in zip(self.levels, self.widths)}
    coarsest, finest = max(level_widths), min(level_widths)
    strides = [s for s in STRIDES if self.out_stride <= s <= coarsest]
    rest = iter(self.decoder_widths)
    widths = {}
    for stride in strides:
      finer = [s for s in level_widths if s < stride]
      if stride > finest:
        widths[stride] = level_widths[max(finer)]
      else:
        widths[stride] = next(rest, 0)
    if not all(widths.values()):
      raise ValueError(
        f'decoder_widths={tuple(self.decoder_widths)} is too short: strides '
        f'{[s for s in strides if s <= finest]} need a width each.'
      )
    return widths

  def _check(self):
    layers.check_positive(
      **{k: getattr(self, k) for k in ('size', 'widths', 'depth', 'head_dim')},
      **{k: getattr(self, k) for k in ('mlp_ratio', 'decoder_widths')},
      out_stride=self.out_stride,
    )
    levels = tuple(f'1/{s}' for s in STRIDES)
    for level in self.levels:
      spec.lookup('level', levels, level)
    for level in self.fuse:
      spec.lookup('level in fuse', self.levels, level)
    fusions.point(self.fusion, self.place)
    if not self.levels or len(set(self.levels)) != len(self.levels):
      raise ValueError(f'levels={self.levels} must be different, and some.')
    if len(self.widths) != len(self.levels):
      raise ValueError(
        f'{len(self.levels)} levels need as many widths, found {self.widths}.'
      )
    strides = [_stride(level) for level in self.levels]
    if self.out_stride not in STRIDES or self.out_stride > min(strides):
      raise ValueError(
        f'out_stride={self.out_stride} must be a power of two up to the finest '
        f"level's stride, {min(strides)}."
      )
    if any(s % max(strides) for s in self.size):
      raise ValueError(
        f'size={tuple(self.size)} must be multiples of {max(strides)}, the '
        'stride of the coarsest level.'
      )
    for width in self.widths:
      if width % self.head_dim:
        raise ValueError(f'head_dim={self.head_dim} does not divide {width}.')
