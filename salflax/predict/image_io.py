"""Images of any kind, read as arrays."""

import os
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

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
