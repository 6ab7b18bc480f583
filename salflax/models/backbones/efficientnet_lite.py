"""EfficientNet-Lite as a feature extractor, with its ImageNet class head.

Names are those of the published PyTorch files: `_conv_stem`, `_blocks_0` to
the last, `_conv_head`, `_fc`. Pixels are RGB in 0..255, as (x - 127) / 128.

References:
  Tan and Le, EfficientNet, ICML 2019; the Lite edition has neither squeeze and
    excitation nor swish (tensorflow/tpu, 2020).
"""

import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models import layers
from salflax.models.backbones import nanodet

# Of each stage: blocks, kernel, stride, expansion, channels.
STAGES = (
  (1, 3, 1, 1, 16),
  (2, 3, 2, 6, 24),
  (2, 5, 2, 6, 40),
  (3, 3, 2, 6, 80),
  (3, 5, 1, 6, 112),
  (4, 5, 2, 6, 192),
  (1, 3, 1, 6, 320),
)
# Multiples of width and of depth.
SCALES = {
  'lite0': (1.0, 1.0),
  'lite1': (1.0, 1.1),
  'lite2': (1.1, 1.2),
  'lite3': (1.2, 1.4),
  'lite4': (1.4, 1.8),
}
# Index of the stage at whose end a tap stands.
TAPS = {'1/2': 0, '1/4': 1, '1/8': 2, '1/16': 4, '1/32': 6}
CLASSES, THINGS = 'classes', 'things'
DETECTOR_FILE = pathlib.Path(__file__).parent / 'nanodet.safetensors'
NUM_CLASSES = 1000
_EPSILON = 1e-3
_STEM, _HEAD = 32, 1280

_kernel_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
  """Counts the zeros before and after a side, as TensorFlow's SAME does."""
  total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
  return total // 2, total - total // 2


def _padded(x: jax.Array, kernel: int, stride: int) -> jax.Array:
  rows, columns = (same_padding(s, kernel, stride) for s in x.shape[1:3])
  return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


class Depthwise(nn.Module):
  """Convolution of each channel on its own, with SAME padding.

  A sum of shifted images: XLA's grouped convolution takes many times as long
  on a CPU.

  Attributes:
    kernel_size: side of the square kernel.
    stride: step in both directions.
  """

  kernel_size: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k, s = self.kernel_size, self.stride
    shape = (k, k, 1, x.shape[-1])
    kernel = self.param('kernel', _kernel_init, shape).astype(x.dtype)
    height, width = (math.ceil(size / s) for size in x.shape[1:3])
    x = _padded(x, k, s)
    rows, columns = (height - 1) * s + 1, (width - 1) * s + 1
    return sum(
      x[:, i : i + rows : s, j : j + columns : s] * kernel[i : i + 1, j : j + 1]
      for i in range(k)
      for j in range(k)
    )


class Block(nn.Module):
  """Inverted residual: wider, each channel on its own, narrower again.

  Attributes:
    features: number of output channels.
    kernel_size: side of the depthwise kernel.
    stride: step in both directions; 1 with equal channels adds the input.
    expansion: width inside, in input widths.
  """

  features: int
  kernel_size: int
  stride: int
  expansion: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inside = x.shape[-1] * self.expansion
    y = x
    if self.expansion != 1:
      y = _pointwise(inside, '_expand_conv')(y)
      y = _relu6(_norm('_bn0')(y, train=False))
    y = Depthwise(self.kernel_size, self.stride, name='_depthwise_conv')(y)
    y = _relu6(_norm('_bn1')(y, train=False))
    y = _pointwise(self.features, '_project_conv')(y)
    y = _norm('_bn2')(y, train=False)
    return x + y if x.shape == y.shape and self.stride == 1 else y


def _relu6(x):
  return jnp.clip(x, 0, 6)


def _pointwise(features: int, name: str) -> layers.Conv:
  return layers.Conv(features, 1, use_bias=False, name=name)


def _norm(name: str) -> layers.BatchNorm:
  return layers.BatchNorm('frozen', epsilon=_EPSILON, name=name)


class EfficientNetLite(nn.Module):
  """Features of an image at several scales, and ImageNet's classes per cell.

  Lite0 has 4,652,008 parameters, a third of them in the class head. Batch
  normalisation is frozen: its statistics are those of the file.

  Attributes:
    variant: 'lite0' to 'lite4'.
    taps: what comes out: '1/2' to '1/32'; 'classes', the logits of ImageNet's
      1000 classes at every 1/32 cell; 'things', what NanoDet, a network of its
      own, detects at every 1/16 cell, scores of COCO's 80 kinds.
    dtype: type of the computation.
  """

  variant: str = 'lite0'
  taps: tuple[str, ...] = ('1/8', '1/16', '1/32')
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: jax.Array, *, train: bool = False, things: bool = True
  ) -> dict[str, jax.Array]:
    """Computes {tap: [B, h, w, C]} of image [B, H, W, 3].

    Args:
      image: RGB, (pixel - 127) / 128; 'things' asks for sides that are
        multiples of 32.
      train: has no effect, for batch normalisation is frozen.
      things: whether the tap 'things' comes out, where it is one.

    Raises:
      ValueError: for an unknown variant or tap.
    """
    del train
    wanted = self._checked()
    features = {}
    if wanted.pop(THINGS, None) is not None and things:
      features[THINGS] = self._things(image)
    x = layers.Conv(
      _STEM,
      stride=2,
      padding=0,
      use_bias=False,
      name='_conv_stem',
    )(_padded(image.astype(self.dtype), 3, 2))
    x = _relu6(_norm('_bn0')(x, train=False))
    number = 0
    for stage, blocks in enumerate(self.plan()):
      for options in blocks:
        x = Block(*options, name=f'_blocks_{number}')(x)
        number += 1
      features.update({tap: x for tap, i in wanted.items() if i == stage})
      if CLASSES not in wanted and stage == max(wanted.values()):
        return features
    x = _pointwise(_HEAD, '_conv_head')(x)
    x = _relu6(_norm('_bn1')(x, train=False))
    # Linear, then averaged, is what the published head does the other way
    # round: so each cell has logits of its own.
    features[CLASSES] = layers.Dense(NUM_CLASSES, name='_fc')(x)
    return features

  def _things(self, image):
    size = image.shape[1:3]
    detections = nanodet.NanoDet(self.dtype, name='detector')(image * 128 + 127)
    return nanodet.painted(detections, size, (size[0] // 16, size[1] // 16))

  @property
  def packaged(self) -> tuple[pathlib.Path, ...]:
    """Lists files of weights in this package that it needs, too."""
    return (DETECTOR_FILE,) if THINGS in self.taps else ()

  def plan(self) -> list[list[tuple[int, int, int, int]]]:
    """Lists each stage's blocks: (channels, kernel, stride, expansion)."""
    width, depth = spec.lookup('variant', SCALES, self.variant)
    stages = []
    for i, (repeats, kernel, stride, expansion, channels) in enumerate(STAGES):
      if i not in (0, len(STAGES) - 1):
        repeats = math.ceil(depth * repeats)
      channels = _round(channels * width)
      first = (channels, kernel, stride, expansion)
      rest = (channels, kernel, 1, expansion)
      stages.append([first] + [rest] * (repeats - 1))
    return stages

  def unused(self, scope: str = 'backbone') -> tuple[str, ...]:
    """Lists patterns of a published file's tensors that it does without."""
    wanted = self._checked()
    wanted.pop(THINGS, None)
    if CLASSES in wanted:
      return ()
    counts = [len(blocks) for blocks in self.plan()]
    kept = sum(counts[: max(wanted.values()) + 1])
    above = [f'_blocks_{n}' for n in range(kept, sum(counts))]
    names = '|'.join(['_conv_head', '_bn1', '_fc', *above])
    return (rf'[^/]+/{scope}/({names})/.*',)

  def _checked(self) -> dict[str, int]:
    names = {**TAPS, CLASSES: len(STAGES), THINGS: -1}
    if not {*self.taps} - {THINGS}:
      raise ValueError('EfficientNet-Lite needs a tap, such as 1/16.')
    for tap in self.taps:
      spec.lookup('tap of EfficientNet-Lite', names, tap)
    return {tap: names[tap] for tap in self.taps}


def _round(channels: float) -> int:
  """Rounds to a multiple of 8 near `channels`, never below 90 % of it."""
  rounded = max(8, int(channels + 4) // 8 * 8)
  return rounded + 8 if rounded < 0.9 * channels else rounded
