"""What every network shares: its encoders going in, a map coming out."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models import layers
from salflax.models.layers import TextFeatures


@jax.custom_vjp
def projected_relu(x: jax.Array) -> jax.Array:
  """Computes max(x, 0), with the gradient of a projection onto 0 or more.

  Where x is negative, a gradient that would raise it passes, one that would
  lower it further does not. So a map that was pushed to zero everywhere can
  still learn, which behind a ReLU it cannot.
  """
  return jnp.maximum(x, 0)


def _projected_forward(x):
  return projected_relu(x), x > 0


def _projected_backward(positive, gradient):
  return (jnp.where(positive, gradient, jnp.minimum(gradient, 0)),)


projected_relu.defvjp(_projected_forward, _projected_backward)

# What the last layer's values become: 0 or more, or between 0 and 1.
OUTPUTS = {
  'relu': nn.relu,
  'projected_relu': projected_relu,
  'sigmoid': nn.sigmoid,
}


class Saliency(nn.Module):
  """A network with the attributes backbone, text, size, levels and dtype."""

  def features(self, image, *, train: bool) -> dict:
    """Computes {level: [B, h, w, C]} of an image, or takes stored features."""
    if not isinstance(image, Mapping):
      image = self.encode_image(image, train=train)
    return {level: image[level].astype(self.dtype) for level in self.levels}

  def text_features(self, tokens, token_mask=None) -> TextFeatures | None:
    """Encodes tokens i32 [B, L]; features and None stay as they are."""
    if tokens is None or isinstance(tokens, TextFeatures):
      return tokens
    return self.encode_text(tokens, token_mask)

  def encode_image(self, image, *, train: bool = False) -> dict:
    """Computes the backbone's {level: [B, h, w, C]} of image [B, H, W, 3].

    Raises:
      ValueError: for an image of another size than `size`.
    """
    if tuple(image.shape[1:3]) != tuple(self.size):
      raise ValueError(
        f'The network is for images of size {tuple(self.size)}, found '
        f'{tuple(image.shape[1:3])}: set `size`, or resize.'
      )
    return self.backbone(image, train=train)

  def encode_text(self, tokens, token_mask=None) -> TextFeatures:
    """Computes the features of tokens i32 [B, L], token_mask bool [B, L].

    Raises:
      ValueError: if the network has no text encoder.
    """
    if self.text is None:
      raise ValueError(
        'Found token ids, but the network has no text encoder: set `text`, or '
        'pass TextFeatures.'
      )
    if token_mask is None:
      token_mask = jnp.ones(tokens.shape, bool)
    return self.text(tokens, token_mask)

  def enlarged(self, x: jax.Array) -> jax.Array:
    """Enlarges the map x [B, h, w, 1] to f32 [B, H, W], bilinearly."""
    return layers.resized(x.astype(jnp.float32), self.size)[..., 0]


def output_of(name: str):
  """Looks up a function in OUTPUTS."""
  return spec.lookup('output', OUTPUTS, name)


def _alive_init(key, shape, dtype=jnp.float32):
  return jax.random.uniform(key, shape, dtype, maxval=0.02 / shape[-2])


def last_conv(output: str, *, name: str) -> layers.Conv:
  """Makes the 1x1 convolution that draws the map, in front of `output`.

  It starts small, since features of pixels in 0..255 are large, without bias.
  In front of a ReLU it starts positive too: the cells of an image are much
  alike, and with either sign about every second network gave a map of zeros,
  which has no gradient.

  Args:
    output: name in OUTPUTS.
    name: the module's name.
  """
  relu = output != 'sigmoid'
  init = _alive_init if relu else nn.initializers.normal(1e-3)
  zero = nn.initializers.zeros
  return layers.Conv(1, 1, kernel_init=init, bias_init=zero, name=name)
