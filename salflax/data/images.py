"""Reads images that anybody may have written: u8 RGB, upright, or an error.

Preparing data and predicting read with these functions, so that a network
sees the same pixels in both.
"""

import os
import stat
import warnings
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_TYPES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')
_ORIENTATION = 0x0112  # a tag of EXIF
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}


def _name(source: Any) -> str:
  if isinstance(source, str | os.PathLike):
    return os.fspath(source)
  for name in (getattr(source, k, None) for k in ('filename', 'name')):
    if isinstance(name, str) and name:
      return name
  return f'an image ({type(source).__name__})'


def check_regular(path: str | os.PathLike) -> None:
  """Raises ValueError for what is no file: reading a pipe would not end."""
  if not stat.S_ISREG(os.stat(path).st_mode):
    raise ValueError(f'{os.fspath(path)} is no file')


def _upright(image: Image.Image) -> Image.Image:
  try:
    # Other fields may hold anything; none of them is looked at.
    turn = _TURNS.get(image.getexif().get(_ORIENTATION))
  except Exception:  # Pillow raises many kinds for EXIF that is damaged.
    turn = None
  return image if turn is None else image.transpose(turn)


def open_image(source: Any) -> Image.Image:
  """Decodes an image to its last byte and turns it upright.

  Args:
    source: path, binary file or PIL image.

  Returns:
    PIL image of the file's own mode. Its `format` is None where it was turned.

  Raises:
    FileNotFoundError: for a path without a file.
    ValueError: for what is no image, is cut short or unpacks to more pixels
      than Pillow's limit; it names the file.
  """
  is_path = isinstance(source, str | os.PathLike)
  is_image = isinstance(source, Image.Image)
  if not (is_path or is_image or hasattr(source, 'read')):
    raise ValueError(
      'An image is a path, a binary file, a PIL image or a u8 array; found '
      f'{type(source).__name__}.'
    )
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      # Beyond this limit a small file can unpack to more than fits.
      warnings.simplefilter('error', Image.DecompressionBombWarning)
      if is_path:
        check_regular(source)
      opened = source if is_image else Image.open(source)
      opened.load()
      return _upright(opened)
  except FileNotFoundError:
    raise FileNotFoundError(f'No such image: {_name(source)}') from None
  except UnidentifiedImageError:
    types = ', '.join(t[1:].upper() for t in IMAGE_TYPES)
    raise ValueError(
      f'{_name(source)}: cannot be read: no image by its content; {types} are '
      'read, among others.'
    ) from None
  except Exception as e:  # Pillow raises many kinds for a broken file.
    raise ValueError(f'{_name(source)}: cannot be read: {e}') from e


def is_transparent(image: Image.Image) -> bool:
  """Tells whether some pixel of a PIL image is not opaque."""
  if image.mode.startswith(('I', 'F')) or not image.has_transparency_data:
    return False
  return image.convert('RGBA').getchannel('A').getextrema()[0] < 255


def _grey(image: Image.Image) -> Image.Image:
  """Scales whole numbers of 16 or 32 bits, or floats, to 8 bits."""
  values = np.asarray(image, np.float64)
  if not np.isfinite(values).all() or values.min() < 0:
    raise ValueError(
      f'{_name(image)}: holds pixels that are negative or not finite.'
    )
  peak = values.max()
  tops = (1, 255, 65535) if image.mode == 'F' else (255, 65535)
  top = next((t for t in tops if peak <= t), peak)
  return Image.fromarray(np.floor(values * (255 / top) + 0.5).astype(np.uint8))


def _from_array(array: np.ndarray) -> Image.Image:
  channels = array.shape[2:] or (1,)
  fits = array.ndim in (2, 3) and channels[0] in (1, 3, 4)
  if array.dtype != np.uint8 or not fits or not array.size:
    raise ValueError(
      'An image array must be u8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] and '
      f'not empty; found {array.dtype} {list(array.shape)}.'
    )
  return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array)


def read_image(source: Any) -> np.ndarray:
  """Reads an image as u8 RGB [h, w, 3], upright.

  Grey, palette, CMYK and 16-bit images are converted, floats up to 1 are
  scaled by 255, what is transparent is laid on white, and the orientation in
  EXIF is obeyed. Of an animation it is the first frame.

  Args:
    source: path, binary file, PIL image, or array u8 [h, w] or [h, w, 1|3|4].

  Raises:
    FileNotFoundError: for a path without a file.
    ValueError: for what is no image, is cut short, has pixels that are negative
      or not finite, or is an array of another shape or type.
  """
  if hasattr(source, '__array__') and not isinstance(source, Image.Image):
    return to_rgb(_from_array(np.asarray(source)))
  return to_rgb(open_image(source))


def to_rgb(image: Image.Image) -> np.ndarray:
  """Converts what `open_image` returns, as `read_image` does."""
  if image.mode.startswith(('I', 'F')):
    image = _grey(image)
  if is_transparent(image):
    image = image.convert('RGBA')
    page = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(page, image)
  try:
    return np.ascontiguousarray(np.asarray(image.convert('RGB'), np.uint8))
  except ValueError as e:  # a mode without colours
    raise ValueError(f'{_name(image)}: cannot be read: {e}') from e
