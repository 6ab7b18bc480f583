"""Images and maps in a frame of another size, and back."""

from collections.abc import Sequence

import numpy as np
from PIL import Image


def fit(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, ...]:
  """Computes the box (top, left, height, width) of an image in a frame.

  The image keeps its aspect and is centred, as in TranSalNet's test path.

  Args:
    size: (h, w) of the image.
    frame: (H, W) of the frame.
  """
  (h, w), (H, W) = size, frame
  if h / H > w / W:
    box_h, box_w = H, max(1, w * H // h)
  else:
    box_h, box_w = max(1, h * W // w), W
  return (H - box_h) // 2, (W - box_w) // 2, box_h, box_w


def blank(size: Sequence[int]) -> np.ndarray:
  """Makes a black image u8 [h, w, 3] that takes no memory, for its size."""
  return np.broadcast_to(np.uint8(0), (*size, 3))


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Resizes a map or image bilinearly; shrinking averages.

  Args:
    array: f32 [h, w] or u8 [h, w, 3].
    size: (height, width) wanted.
  """
  if array.shape[:2] == tuple(size):
    return array
  if array.ndim == 3 and not any(array.strides) and not array[0, 0].any():
    return blank(size)
  image = Image.fromarray(array)
  return np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR))


def unletterbox(
  pred: np.ndarray, box: Sequence[int], size: tuple[int, int]
) -> np.ndarray:
  """Cuts out the map of the image itself: the inverse of `resize_pad`.

  Args:
    pred: f32 [H, W], a map of the whole frame.
    box: top, left, height, width of the image inside the frame.
    size: (h, w) of the image.

  Returns:
    f32 [h, w]: the box, resized bilinearly.
  """
  top, left, h, w = (int(v) for v in box)
  cut = np.asarray(pred, np.float32)[top : top + h, left : left + w]
  return resize(np.ascontiguousarray(cut), tuple(size))
