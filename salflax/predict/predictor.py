"""From a picture and a sentence to the map of where people will look."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, ImageOps

from salflax.core import parallel
from salflax.core.types import Batch
from salflax.data import pp
from salflax.predict import trained

Picture = Any  # a path, a file, a PIL image or an array: see read_picture
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.gif', '.tif', '.tiff', '.webp')


def _name(image: Picture) -> str:
  if isinstance(image, str | os.PathLike):
    return os.fspath(image)
  return (
    getattr(image, 'filename', None)
    or getattr(image, 'name', None)
    or (f'the given {type(image).__name__}')
  )


def _from_array(array: np.ndarray) -> np.ndarray:
  if array.dtype != np.uint8 or array.ndim not in (2, 3):
    raise ValueError(
      f'A picture array must be u8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]; '
      f'found {array.dtype} {list(array.shape)}.'
    )
  if array.ndim == 3 and array.shape[2] == 1:
    array = array[..., 0]
  if array.ndim == 3 and array.shape[2] not in (3, 4):
    raise ValueError(
      f'A picture array has 1, 3 or 4 channels, last; found {array.shape}.'
    )
  if 0 in array.shape:
    raise ValueError(f'The picture array is empty: {list(array.shape)}.')
  return _from_pil(Image.fromarray(array))


def _from_pil(image: Image.Image) -> np.ndarray:
  image = ImageOps.exif_transpose(image)
  if image.mode.startswith('I') or image.mode == 'F':
    # 16 and 32 bits: Pillow's own conversion would clip at 255.
    values = np.asarray(image, np.float64)
    top = 255.0 if values.max() <= 255 else max(65535.0, values.max())
    grey = np.floor(values.clip(min=0) * (255 / top) + 0.5).astype(np.uint8)
    image = Image.fromarray(grey)
  if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or (
    'transparency' in image.info
  ):
    image = image.convert('RGBA')
    page = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(page, image)
  return np.ascontiguousarray(np.asarray(image.convert('RGB'), np.uint8))


def read_picture(image: Picture) -> np.ndarray:
  """Returns a picture as u8 RGB [h, w, 3], upright.

  Grey, palette, CMYK and 16-bit pictures are converted, what is transparent
  is laid on white, and a camera's rotation note (EXIF) is obeyed. Of an
  animation it is the first frame.

  Args:
    image: a path, a binary file, a PIL image, or u8 [h, w], [h, w, 1|3|4].

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no picture, is cut short, or has a wrong shape.
  """
  if isinstance(image, np.ndarray):
    return _from_array(image)
  try:
    if isinstance(image, Image.Image):
      return _from_pil(image)
    with warnings.catch_warnings():
      # Beyond this limit a small file can unpack to more than fits.
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      with Image.open(image) as opened:
        opened.load()
        return _from_pil(opened)
  except FileNotFoundError:
    raise FileNotFoundError(f'No such picture: {_name(image)}') from None
  except Image.DecompressionBombWarning as e:
    raise ValueError(f'{_name(image)}: {e}') from e
  except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
    raise ValueError(f'{_name(image)}: cannot be read as a picture: {e}') from e


def quantise(saliency: np.ndarray, *, bits: int) -> np.ndarray:
  """Returns a map as whole numbers, its maximum becoming the largest one.

  Values are rounded, not cut off: cutting off darkens every pixel by half a
  level, which alone moves KL and IG visibly for 8 bits.

  Args:
    saliency: [h, w] >= 0, any scale.
    bits: 8 or 16.

  Returns:
    u8 or u16 [h, w]; all zero for a map that is all zero.
  """
  if bits not in (8, 16):
    raise ValueError(f'bits must be 8 or 16, found {bits}.')
  values = np.asarray(saliency, np.float64)
  top = values.max()
  scaled = values / top * (2**bits - 1) if top > 0 else values
  return np.floor(scaled.clip(min=0) + 0.5).astype(f'uint{bits}')


def _stack(batches: Sequence[Batch], size: int) -> Batch:
  """Returns batches of one as one batch of `size` rows; the last one fills."""
  rows = [*batches, *[batches[-1]] * (size - len(batches))]
  batch = jax.tree.map(lambda *x: np.concatenate(x), *rows)
  return dict(batch, mask=np.arange(size) < len(batches))


class Predictor:
  """Predicts saliency maps at the picture's own size.

      predictor = Predictor.load('runs/tsn')
      saliency = predictor('street.jpg', 'the red umbrella')   # f32 [h, w]

  A map is the network's own output, unscaled: in [0, 1] for networks that end
  in a sigmoid, at least 0 for all. It is no density; divide by its sum to get
  one. Values of one network are comparable between sentences.

  Args:
    run: with `preprocess(image u8 [h, w, 3], text) -> Batch of one`,
      `predict_fn(variables, batch) -> [B, H, W]` and `variables`.
  """

  def __init__(self, run: Any):
    self.run = run

  @classmethod
  def load(cls, workdir: str | os.PathLike, *, stage: str = '') -> 'Predictor':
    """Returns a predictor with the best checkpoint of a run.

    Args:
      workdir: folder of the run.
      stage: whose checkpoint; the last stage's by default.
    """
    return cls(trained.load(workdir, stage=stage))

  def __call__(self, image: Picture, text: str = '') -> np.ndarray:
    """Returns f32 [h, w] >= 0 for one picture and one sentence.

    Args:
      image: see `read_picture`.
      text: what people were told before they looked; '' for free viewing.
    """
    (saliency,) = self.batch([(image, text)], batch_size=1)
    return saliency

  def batch(
    self, pairs: Iterable[tuple[Picture, str]], *, batch_size: int = 8
  ) -> Iterator[np.ndarray]:
    """Yields the map f32 [h, w] of each (picture, sentence), in order.

    Args:
      pairs: pictures of any sizes; read as they are needed.
      batch_size: how many go through the network at once; rounded up to fill
        all devices.
    """
    devices = jax.device_count()
    batch_size = -(-batch_size // devices) * devices
    waiting: list[tuple[Batch, tuple[int, int]]] = []
    for image, text in pairs:
      picture = read_picture(image)
      waiting.append((self.run.preprocess(picture, text), picture.shape[:2]))
      if len(waiting) == batch_size:
        yield from self._predict(waiting, batch_size)
        waiting = []
    if waiting:
      yield from self._predict(waiting, batch_size)

  def _predict(self, waiting, size) -> Iterator[np.ndarray]:
    batch = _stack([one for one, _ in waiting], size)
    preds = self.run.predict_fn(self.run.variables, batch)
    if not isinstance(preds, np.ndarray):
      preds = parallel.local_rows(preds)
    for pred, box, (_, shape) in zip(preds, batch['box'], waiting):
      # Bilinear resizing stays within the range of the network's output.
      yield pp.unletterbox(pred, box, shape)
