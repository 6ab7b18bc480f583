"""SAM, with a sentence that may steer its attention.

References:
  Cornia et al., Predicting human eye fixations via an LSTM-based saliency
    attentive model, IEEE TIP 2018.
  Huang, Text-Guided Saliency Prediction Model, 2024 (the gate).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models import base, fusion, layers
from salflax.models.layers import TextFeatures

GATE_FORMS = ('logits', 'released')
BOUNDS = ('clip', 'soft')
# Lowest and highest mu_x, mu_y, sigma_x, sigma_y, as shares of the width.
LOW = (0.25, 0.35, 0.1, 0.2)
HIGH = (0.75, 0.65, 0.9, 0.8)

_input_init = nn.initializers.normal(0.05)


def _gates_init(key, shape, dtype=jnp.float32):
  """Draws the four gates' kernels one by one, each orthogonal."""
  init = nn.initializers.orthogonal(1.1)
  part = (*shape[:-1], shape[-1] // 4)
  parts = [init(k, part, dtype) for k in jax.random.split(key, 4)]
  return jnp.concatenate(parts, -1)


class TextGate(nn.Module):
  """What a sentence adds to an attention map.

  Queries W_Q t are for every cell, keys and values W_K a and W_V a from
  the map a, all without bias. The sum over channels of query times key, over
  sqrt(dim), goes through a softmax over the rows of each column, weighs the
  values, and a linear map takes them back to one channel.

  Attributes:
    dim: channels of query, key and value.
    released: whether the last linear map starts as PyTorch's do and has a
      bias; else it starts at zero, without one.
  """

  dim: int
  released: bool = False

  @nn.compact
  def __call__(self, a: jax.Array, text: TextFeatures) -> jax.Array:
    """Computes f32 [B, h, w, 1] of a [B, h, w, 1]; 0 for rows without words."""
    query, key, value = fusion.text_query(a, text, self.dim)
    zero = nn.initializers.zeros
    out = layers.Dense(
      1,
      use_bias=self.released,
      kernel_init=layers.torch_kernel_init if self.released else zero,
      name='out',
    )
    y = out(fusion.gate_share(query, key, axis=1) * value)
    has_text = text.mask.any(-1)[:, None, None, None]
    return jnp.where(has_text, y.astype(jnp.float32), 0.0)


class AttentiveConvLSTM(nn.Module):
  """Looks at the same features several times, each time elsewhere.

  With zero h and c at first, and * for a 3x3 convolution, each step is

    e = V * tanh(W_a * h + U_a * x),  a = softmax of e over all cells
    i, f, o = sigmoid(W * (a x) + U * h),  g = tanh(W_g * (a x) + U_g * h)
    c = f c + i g,  h = o tanh(c)

  The four gates share one convolution on each side: `gates_x` and `gates_h`,
  channels in the order i, f, g, o. 23,602,688 parameters at 512 channels.

  A sentence joins e, in front of the softmax (form 'logits'). So it can only
  move attention. V and the gate's last map start at zero: the gate reads
  nothing until the first step has moved V. The paper's released code (form
  'released') differs in three ways, read in it: its attention is a softmax
  over a single channel, hence 1 everywhere, so that the gate reads no image;
  the gate is added behind it; h and c start as x. The code as released calls
  this part from nowhere, so its training is unknown.

  Attributes:
    steps: number of looks.
    gate: channels of the gate, 0 for none.
    gate_form: 'logits' or 'released'.
  """

  steps: int = 4
  gate: int = 0
  gate_form: str = 'logits'

  @nn.compact
  def __call__(
    self, x: jax.Array, text: TextFeatures | None = None
  ) -> jax.Array:
    """Computes the last h, [B, h, w, C], of x [B, h, w, C]."""
    width, released = x.shape[-1], self.gate_form == 'released'
    conv = functools.partial(layers.Conv, kernel_init=_input_init)
    attend_h = conv(width, name='attend_h')
    gates_x = conv(4 * width, name='gates_x')
    gates_h = conv(4 * width, kernel_init=_gates_init, name='gates_h')
    attend = conv(
      1, use_bias=False, kernel_init=nn.initializers.zeros, name='attend'
    )
    gate = None
    if self.gate and text is not None:
      gate = TextGate(self.gate, released, name='gate')
    seen = conv(width, name='attend_x')(x)  # The same at every step.
    h = c = x if released else jnp.zeros_like(x)
    for _ in range(self.steps):
      a = attend(jnp.tanh(attend_h(h) + seen)).astype(jnp.float32)
      if released:
        a = jnp.ones_like(a)
      if gate is not None:
        a = a + gate(a.astype(x.dtype), text)
      if not released:
        a = jax.nn.softmax(a, (1, 2))
      gates = gates_x(a.astype(x.dtype) * x) + gates_h(h)
      i, f, g, o = jnp.split(gates, 4, axis=-1)
      c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
      h = nn.sigmoid(o) * jnp.tanh(c)
    return h


class GaussianPriors(nn.Module):
  """Learned maps of where people look on any image.

  Axis-aligned Gaussians with a maximum of 1. x runs from 0 to 1 over the
  width, y over a share of the same length, centred at 1/2. Means and
  deviations are held in bounds: 'clip' is the published one, under which a
  value outside gets no gradient, as the narrowest do from the start; 'soft'
  is a sigmoid of slope 1 in the middle.

  Attributes:
    number: number of Gaussians.
    bound: 'clip' or 'soft'.
  """

  number: int = 16
  bound: str = 'clip'

  @nn.compact
  def __call__(self, h: int, w: int) -> jax.Array:
    """Draws the Gaussians, f32 [h, w, number] in [0, 1]."""

    def init(key, shape):
      mean_key, sigma_key = jax.random.split(key)
      half = (2, shape[1])
      return jnp.concatenate(
        [
          jax.random.uniform(mean_key, half, minval=0.3, maxval=0.7),
          jax.random.uniform(sigma_key, half, minval=0.05, maxval=0.3),
        ]
      )

    table = self.param('gaussians', init, (4, self.number))
    low, high = (jnp.asarray(v).reshape(4, 1) for v in (LOW, HIGH))
    if self.bound == 'soft':
      span, middle = high - low, (low + high) / 2
      table = low + span * nn.sigmoid(4 * (table - middle) / span)
    else:
      table = jnp.clip(table, low, high)
    mu_x, mu_y, sigma_x, sigma_y = table[:, None]  # [1, number] each
    x = jnp.linspace(0, 1, w).reshape(-1, 1)
    y = jnp.linspace((1 - h / w) / 2, (1 + h / w) / 2, h).reshape(-1, 1)
    # The largest of the product is the product of the largest.
    x = jnp.exp(-0.5 * ((x - mu_x) / sigma_x) ** 2)
    y = jnp.exp(-0.5 * ((y - mu_y) / sigma_y) ** 2)
    x, y = (v / v.max(0, keepdims=True) for v in (x, y))
    return y[:, None] * x[None]


class SAM(base.Saliency):
  """Saliency of an image, or of an image seen with a sentence.

  The defaults are SAM-VGG, 51,835,841 parameters; SAM-ResNet has 70,093,441
  with levels=('layer4',) and a dilated ResNet-50 v1 with biases. Published
  training: RMSprop at 1e-4, pixels BGR minus VGG's means. The published map is
  enlarged to twice the image, this one to the image.

  Rows without a real word and calls without tokens give the network without
  text, as does a gate of form 'logits' that was not trained.

  Attributes:
    backbone: maps an image to {level: features} at 1/8: the dilated
      `vgg.VGG16` or `resnet.ResNet`.
    text: maps token ids and mask to `TextFeatures`; None takes those as
      they come, or no text at all.
    gate: channels of the sentence's gate on the attention; 0 for none.
    gate_form: 'logits' or 'released': see `AttentiveConvLSTM`.
    size: (H, W) of the image, multiples of 8.
    levels: the backbone's tap, one.
    width: channels throughout; a tap with others goes through a 3x3
      convolution first.
    steps: looks of the ConvLSTM.
    priors: Gaussians in front of each of the two dilated 5x5 convolutions.
    bound: 'clip' or 'soft': see `GaussianPriors`.
    output: 'relu' as published, 'projected_relu', which cannot die, or
      'sigmoid'.
    dtype: type of the computation; parameters and output are float32.
  """

  backbone: nn.Module
  text: nn.Module | None = None
  gate: int = 0
  gate_form: str = 'logits'
  size: tuple[int, int] = (240, 320)
  levels: tuple[str, ...] = ('conv5_3',)
  width: int = 512
  steps: int = 4
  priors: int = 16
  bound: str = 'clip'
  output: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image, tokens=None, token_mask=None, *, train: bool
  ) -> jax.Array:
    """Predicts saliency, f32 [B, H, W], 0 or more.

    Args:
      image: f32 [B, H, W, 3], or the backbone's features {level: [B, h, w, C]}.
      tokens: i32 [B, L], or `TextFeatures`; None for no text.
      token_mask: bool [B, L], True for real words; None means all are.
      train: whether the backbone's batch normalisation takes the batch's
        statistics.

    Raises:
      ValueError: for attributes that do not fit together, or an input of
        another size than `size`.
    """
    self._check()
    x = self.features(image, train=train)[self.levels[0]]
    cells = tuple(s // 8 for s in self.size)
    if x.shape[1:3] != cells:
      raise ValueError(
        f'SAM works on {cells} cells, 1/8 of {tuple(self.size)}; found '
        f'{x.shape[1:3]}: set dilated=True in the backbone.'
      )
    text = None
    if self.gate:
      text = self.text_features(tokens, token_mask)
    if x.shape[-1] != self.width:
      x = nn.relu(layers.Conv(self.width, name='reduce')(x))
    x = AttentiveConvLSTM(
      *(self.steps, self.gate, self.gate_form), name='convlstm'
    )(x, text)
    for i in (1, 2):
      priors = GaussianPriors(self.priors, self.bound, name=f'priors{i}')
      maps = priors(*cells).astype(self.dtype)
      maps = jnp.broadcast_to(maps[None], (x.shape[0], *maps.shape))
      x = jnp.concatenate([x, maps], -1)
      conv = layers.Conv(self.width, 5, dilation=4, name=f'conv{i}')
      x = nn.relu(conv(x))
    x = base.last_conv(self.output, name='last')(x)
    return self.enlarged(base.output_of(self.output)(x.astype(jnp.float32)))

  def _check(self):
    base.output_of(self.output)
    layers.check_positive(
      **{k: getattr(self, k) for k in ('size', 'width', 'steps', 'priors')},
      gate=self.gate or 1,
    )
    spec.lookup('gate_form', GATE_FORMS, self.gate_form)
    spec.lookup('bound', BOUNDS, self.bound)
    if len(self.levels) != 1:
      raise ValueError(f'SAM has one level, found {self.levels}.')
    if any(s % 8 for s in self.size):
      raise ValueError(f'size={tuple(self.size)} must be multiples of 8.')
