"""The network of the loss-function study: VGG-16 with pyramid pooling.

References:
  Bruckert et al., Deep saliency models: The quest for the loss function,
    Neurocomputing 2021, section 3.1.
  Chen et al., DeepLab, TPAMI 2018 (atrous spatial pyramid pooling).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salflax.models import base, layers


def gaussian(sigma: float, radius: int = 2) -> np.ndarray:
  """Computes a Gaussian of 2 radius + 1 taps, f32, that sums to 1."""
  x = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  return (x / x.sum()).astype(np.float32)


def smooth(x: jax.Array, taps: np.ndarray) -> jax.Array:
  """Filters x [B, h, w, C] along rows and columns.

  Beyond the border the nearest cell counts, so that a flat map stays flat.

  Args:
    x: maps.
    taps: odd in number, of the separable filter.
  """
  pad, (_, h, w, _) = len(taps) // 2, x.shape
  x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode='edge')
  x = sum(float(t) * x[:, i : i + h] for i, t in enumerate(taps))
  return sum(float(t) * x[:, :, i : i + w] for i, t in enumerate(taps))


class AsppNet(base.Saliency):
  """Three levels of VGG-16, reduced, pooled at four rates; no text.

  1,622,401 parameters beside VGG-16, as published, which also says that the
  reduction from 1280 channels is a 3x3 convolution. What the paper leaves open
  and is chosen here: the levels meet at pool3's size, bilinearly; the
  reduction has a ReLU; dropout comes in front of the last convolution; the
  Gaussian comes after the ReLU, and before the sigmoid; the map is enlarged
  bilinearly from 1/8.

  Attributes:
    backbone: `vgg.VGG16`, or what else maps an image to {level: features}.
    size: (H, W) of the image.
    levels: taps of the backbone; all are brought to the first one's size.
    width: channels of the reduction, and of the four rates together.
    rates: dilations of the parallel 3x3 convolutions.
    feature_scale: what the backbone's features are multiplied by. Those of
      pixels in 0..255 reach hundreds, and steps that are as long for every
      weight, such as Adam's, then move the map by more than all of its range:
      a ReLU is left dead.
    dropout: share of the values left out in front of the last convolution.
    sigma: deviation of the fixed 5x5 Gaussian, cells; 0 for none.
    output: 'relu' for pixel losses (0 or more), 'sigmoid' for losses on
      distributions; 'projected_relu' is a ReLU that cannot die.
    dtype: type of the computation; parameters and output are float32.
  """

  backbone: nn.Module
  size: tuple[int, int] = (300, 400)
  levels: tuple[str, ...] = ('pool3', 'pool4', 'conv5_3')
  width: int = 128
  rates: tuple[int, ...] = (1, 3, 6, 12)
  feature_scale: float = 1.0
  dropout: float = 0.25
  sigma: float = 1.0
  output: str = 'relu'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image, tokens=None, token_mask=None, *, train: bool
  ) -> jax.Array:
    """Predicts saliency, f32 [B, H, W], 0 or more.

    Args:
      image: f32 [B, H, W, 3], or the backbone's features {level: [B, h, w, C]}.
      tokens: ignored, like token_mask.
      token_mask: ignored.
      train: whether dropout is on.

    Raises:
      ValueError: for an unknown output, rates that do not share `width`, or a
        image of another size than `size`.
    """
    del tokens, token_mask
    output = base.output_of(self.output)
    layers.check_positive(size=self.size, width=self.width, rates=self.rates)
    if not self.rates or self.width % len(self.rates):
      raise ValueError(
        f'width={self.width} is not to be shared by {len(self.rates)} rates.'
      )
    taps = self.features(image, train=train)
    x = [taps[level] for level in self.levels]
    x = jnp.concatenate([layers.resized(t, x[0].shape[1:3]) for t in x], -1)
    x = x * jnp.asarray(self.feature_scale, x.dtype)
    x = nn.relu(layers.Conv(self.width, name='reduce')(x))
    parts = [
      layers.Conv(
        self.width // len(self.rates),
        dilation=rate,
        name=f'aspp_{rate}',
      )(x)
      for rate in self.rates
    ]
    x = nn.relu(jnp.concatenate(parts, -1))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = base.last_conv(self.output, name='last')(x)
    x = x.astype(jnp.float32)
    bounded = self.output == 'sigmoid'
    x = x if bounded else output(x)
    x = smooth(x, gaussian(self.sigma)) if self.sigma else x
    # What is 0 or more stays so.
    return self.enlarged(output(x) if bounded else x)
