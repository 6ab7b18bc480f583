"""Bottleneck residual networks as feature extractors.

Names are torchvision's: `layer1_0/conv1`, `layer1_0/downsample_0`.

References:
  He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from salflax.core import spec
from salflax.models import layers

# Where a stage's output stands, as a share of the image's side.
SCALES = ('1/4', '1/8', '1/16', '1/32')
STAGES = ('layer1', 'layer2', 'layer3', 'layer4')
VARIANTS = ('v1', 'v1.5')

_kernel_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


def _stage(tap: str) -> int:
  return (SCALES if tap in SCALES else STAGES).index(tap)


class Bottleneck(nn.Module):
  """1x1, 3x3, 1x1 convolutions beside a shortcut, then ReLU.

  Attributes:
    width: channels of the 3x3 convolution; four times as many come out.
    stride: stride of the block.
    variant: 'v1' strides in the first 1x1, 'v1.5' in the 3x3.
    dilation: dilation of the 3x3 convolution.
    conv_bias: whether the convolutions have biases.
    bn: mode of `layers.BatchNorm`.
  """

  width: int
  stride: int = 1
  variant: str = 'v1.5'
  dilation: int = 1
  conv_bias: bool = False
  bn: str = 'train'

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    def conv(x, features, size, stride, name):
      return layers.Conv(
        features,
        size,
        stride,
        dilation=self.dilation if size > 1 else 1,
        use_bias=self.conv_bias,
        kernel_init=_kernel_init,
        name=name,
      )(x)

    def norm(x, name):
      return layers.BatchNorm(self.bn, name=name)(x, train=train)

    first = self.stride if self.variant == 'v1' else 1
    y = nn.relu(norm(conv(x, self.width, 1, first, 'conv1'), 'bn1'))
    y = conv(y, self.width, 3, self.stride // first, 'conv2')
    y = nn.relu(norm(y, 'bn2'))
    y = norm(conv(y, 4 * self.width, 1, 1, 'conv3'), 'bn3')
    if self.stride > 1 or x.shape[-1] != y.shape[-1]:
      x = conv(x, 4 * self.width, 1, self.stride, 'downsample_0')
      x = norm(x, 'downsample_1')
    return checkpoint_name(nn.relu(x + y), 'block')


class ResNet(nn.Module):
  """An image's features at several scales; ResNet-50 by default.

  Stages deeper than the deepest tap are not built, so weights that end early
  fit too.

  Attributes:
    depths: blocks in each of the four stages; a stage of 0 is the 2x2 mean of
      the stage before, for weights that end early.
    width: channels of the stem, and of the first stage's 3x3 convolutions.
    variant: 'v1.5' is torchvision's; 'v1' is the original (Caffe): stride on
      the first 1x1 of a stage, max-pool without padding, last window partial.
    taps: what to return: scales out of '1/4', '1/8', '1/16', '1/32', or stages
      out of 'layer1' to 'layer4'.
    dilated: SAM's form: the last two stages do not stride, their 3x3
      convolutions are dilated by 2 and 4, and both stand at 1/8.
    conv_bias: whether the convolutions have biases, as SAM's have. In front of
      a normalisation they do nothing but count.
    bn: 'train' normalises by the batch when training, 'frozen' never does and
      never moves the running statistics.
    dtype: type of the computation.
  """

  depths: tuple[int, ...] = (3, 4, 6, 3)
  width: int = 64
  variant: str = 'v1.5'
  taps: tuple[str, ...] = ('1/8', '1/16', '1/32')
  dilated: bool = False
  conv_bias: bool = False
  bn: str = 'train'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool) -> dict[str, jax.Array]:
    """Computes {tap: [B, h, w, C]} after the ReLU, for image [B, H, W, 3].

    Raises:
      ValueError: for an unknown variant or tap, or for one whose stage has no
        depth.
    """
    self._check()
    x = layers.Conv(
      self.width,
      7,
      2,
      use_bias=self.conv_bias,
      kernel_init=_kernel_init,
      name='conv1',
    )(image.astype(self.dtype))
    x = layers.BatchNorm(self.bn, name='bn1')(x, train=train)
    caffe = self.variant == 'v1'
    x = layers.max_pool(nn.relu(x), padding=0 if caffe else 1, ceil=caffe)
    features = {}
    for i in range(self._deepest() + 1):
      dilation = 2 ** (i - 1) if self.dilated and i > 1 else 1
      stride = 2 if i > 0 and dilation == 1 else 1
      if not self.depths[i] and stride > 1:
        x = layers.shrink(x)
      for j in range(self.depths[i]):
        x = Bottleneck(
          self.width * 2**i,
          stride=stride if j == 0 else 1,
          variant=self.variant,
          dilation=dilation,
          conv_bias=self.conv_bias,
          bn=self.bn,
          name=f'layer{i + 1}_{j}',
        )(x, train=train)
      features |= {t: x for t in self.taps if i == _stage(t)}
    return features

  def unused(self, scope: str = 'backbone') -> tuple[str, ...]:
    """Lists patterns of a published file's tensors that it does without.

    Args:
      scope: place of this network in the whole one.
    """
    self._check()
    stages = [
      rf'{name}_\d+'
      for i, name in enumerate(STAGES)
      if i > self._deepest() or not self.depths[i]
    ]
    return (rf'[^/]+/{scope}/({"|".join(("fc", *stages))})/.*',)

  def _deepest(self) -> int:
    return max(_stage(t) for t in self.taps)

  def _check(self):
    layers.check_positive(width=self.width)
    spec.lookup('variant of ResNet', VARIANTS, self.variant)
    if not self.taps:
      raise ValueError(f'ResNet needs a tap out of {", ".join(SCALES)}.')
    n = len(self.depths)
    # Dilated, the last two stages do not stand where their scales say.
    taps = (*SCALES[: min(n, 2) if self.dilated else n], *STAGES[:n])
    for tap in self.taps:
      spec.lookup('tap', taps, tap)
