"""Saliency maps and fixations: read, checked for plausibility, blurred."""

import math
import os
import pathlib
import threading

import numpy as np

from salflax.data import densities, images
from salflax.data.problems import Dropped

# One header of a .npy at a time: numpy reads it with `ast`, which in threads of
# Python 3.11.7, and others, fails now and then (python/cpython#106905).
_HEADERS = threading.Lock()

LOSSLESS_TYPES = ('.png', '.bmp', '.tif', '.tiff')
# Of 8 bits: JPEG moves the channels of a grey pixel apart by as much.
COLOUR_TOLERANCE = 8


def _kernels(centres: np.ndarray, length: int, sigma: float) -> np.ndarray:
  """Makes f64 [n, length], a unit-sum Gaussian about each centre."""
  distance = np.arange(length)[None, :] - centres[:, None]
  total = sigma * math.sqrt(2 * math.pi)
  if sigma < 3:  # beyond, the sum over the pixels is the integral
    reach = np.arange(-31, 32)
    total = np.exp(-0.5 * (reach / sigma) ** 2).sum()
  return np.exp(-0.5 * (distance / sigma) ** 2) / total


def saliency_from_fixations(
  fixations: np.ndarray, size: tuple[int, int], sigma: float
) -> np.ndarray:
  """Blurs fixations with a Gaussian; outside the image counts as zero.

  The Gaussian is separable and the points are few, so the blur is a product of
  three small matrices: exact, without truncation, milliseconds an image.

  Args:
    fixations: integers [N, 2], (row, column); a repeated point counts again.
    size: height and width of the image, in pixels.
    sigma: standard deviation of the Gaussian in pixels, > 0.

  Returns:
    f64 [h, w] >= 0. Every fixation adds a unit mass, less what falls outside.

  Raises:
    ValueError: for sigma <= 0, a wrong shape or a point outside the image.
  """
  points = np.asarray(fixations)
  height, width = size
  if not sigma > 0:
    raise ValueError(f'sigma must be above 0 pixels, found {sigma}.')
  if points.size == 0:
    return np.zeros((height, width))
  if points.ndim != 2 or points.shape[1] != 2:
    raise ValueError(f'Fixations must be [N, 2], found {list(points.shape)}.')
  if outside(points, size).any():
    raise ValueError(f'A fixation lies outside the {height} x {width} image.')
  rows, row = np.unique(points[:, 0], return_inverse=True)
  columns, column = np.unique(points[:, 1], return_inverse=True)
  counts = np.zeros((len(rows), len(columns)))
  np.add.at(counts, (row, column), 1)
  across = counts @ _kernels(columns, width, sigma)
  return _kernels(rows, height, sigma).T @ across


def to_uint8(saliency: np.ndarray) -> np.ndarray:
  """Scales a map to a maximum of 255 and rounds it to u8, same shape."""
  peak = saliency.max(initial=0)
  if not peak > 0:
    return np.zeros(saliency.shape, np.uint8)
  return (saliency / peak * 255 + 0.5).astype(np.uint8)


def outside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Tells which of the points [N, 2] are no pixel: bool [N]; NaN is none."""
  return ~((points >= 0) & (points < np.asarray(size)[None])).all(axis=1)


def to_points(x: np.ndarray, y: np.ndarray, *, first: int = 0) -> np.ndarray:
  """Rounds positions to pixels [N, 2], (row, column).

  Args:
    x: horizontal positions [N] in pixels, with decimals.
    y: vertical positions [N].
    first: number of the first pixel: 0, or 1 for MATLAB's coordinates.

  Returns:
    i32, or f64 where a position is not finite or beyond any image.
  """
  positions = np.stack([np.asarray(y, float), np.asarray(x, float)], axis=-1)
  points = np.rint(positions) - first
  fits = (np.abs(points) < 1 << 30).all()  # False for NaN
  return points.astype(np.int32) if fits else points


def default_sigma(size: tuple[int, int]) -> float:
  """Takes 3 % of the longer side: OSIE's 24 px on 800 px, at any size."""
  return 0.03 * max(size)


def _values(path: pathlib.Path) -> np.ndarray:
  """Reads numbers [h, w] or [h, w, C] of an array, an image or an HDF5."""
  if file := densities.holder(path):
    return densities.read(file, path.relative_to(file).as_posix())
  if path.suffix.lower() == '.npy':
    images.check_regular(path)
    # Mapped, so that a head that asks for more than there is fails at once.
    with _HEADERS:
      values = np.load(path, mmap_mode='r', allow_pickle=False)
    if not isinstance(values, np.ndarray):
      raise ValueError(f'it is {type(values).__name__}, no single array')
    if values.dtype.kind not in 'buif':
      raise ValueError(f'it holds {values.dtype}, not numbers')
    return values[..., 0] if values.shape[2:] == (1,) else values
  image = images.open_image(path)
  if images.is_transparent(image):
    raise Dropped(
      'not a map', f'{path.name}: is transparent; values of a map are grey'
    )
  if image.mode in ('1', 'L') or image.mode.startswith(('I', 'F')):
    return np.asarray(image)
  # A grey image may be stored as three equal channels and an opaque alpha.
  rgb = np.asarray(image.convert('RGB'))
  if np.ptp(rgb, axis=2).max() > COLOUR_TOLERANCE:
    raise Dropped(
      'not a map',
      f'{path.name}: is in colour; a map must be grey, not a heat overlay',
    )
  return rgb.mean(axis=2)


def read_map(
  path: str | os.PathLike, *, allow_flat: bool = False
) -> np.ndarray:
  """Reads a saliency map as f32 [h, w] >= 0, of any scale.

  Args:
    path: .npy of [h, w] or [h, w, 1]; a grey image of 8 or 16 bits; or an
      HDF5 file of log-densities with an image's name below it.
    allow_flat: take maps that are the same everywhere, zero or not.

  Raises:
    problems.Dropped: (a ValueError) names the file and why it is no map: it
      cannot be read, is in colour, is transparent, is flat, or holds values
      that are negative or not finite.
  """
  path = pathlib.Path(path)
  try:
    values = np.asarray(_values(path), np.float64)
  except Dropped:
    raise
  except Exception as e:  # np.load raises many kinds for a broken file
    raise Dropped(
      'unreadable map', f'{path.name}: cannot be read as a map: {e}'
    ) from e
  if values.ndim != 2 or 0 in values.shape:
    detail = f'{path.name}: expected [h, w], found {list(values.shape)}'
    raise Dropped('not a map', detail)
  if count := np.count_nonzero(~np.isfinite(values)):
    detail = f'{path.name}: {count} values are not finite (NaN or inf)'
    raise Dropped('not a map', detail)
  low, high = values.min(), values.max()
  if low < 0:
    raise Dropped(
      'not a map',
      f'{path.name}: has negative values, down to {low:.4g}; a map is at '
      'least 0 (take the exponential of log densities)',
    )
  if low == high and not allow_flat:
    what = 'zero' if not high else f'{high:.4g}'
    raise Dropped('empty map', f'{path.name}: is {what} everywhere')
  if high and not 1e-30 < high < 1e30:
    values = values / high  # f32 would make it zero or infinite
  return values.astype(np.float32)


def check_fixated(points: np.ndarray, size: tuple[int, int], name: str) -> None:
  """Raises Dropped where the pixels of a fixation image are areas, not points.

  Args:
    points: fixated pixels i32 [N, 2], none twice.
    size: height and width of the image.
    name: file, for the message.
  """
  fixated = np.zeros((size[0] + 2, size[1] + 2), bool)
  fixated[tuple(points.T + 1)] = True
  inner = fixated[1:-1, 1:-1] & fixated[:-2, 1:-1] & fixated[2:, 1:-1]
  inner &= fixated[1:-1, :-2] & fixated[1:-1, 2:]
  if len(points) > 0.2 * size[0] * size[1] or inner.sum() > len(points) / 3:
    raise Dropped(
      'not a fixation image',
      f'{name}: {len(points)} of {size[0] * size[1]} pixels are fixated, '
      f'{inner.sum()} of them within an area; expected single bright points '
      'on black',
    )


def read_fixations(
  path: pathlib.Path, *, lossy: bool = False
) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads the fixated pixels i32 [N, 2] of a two-valued image, and its size.

  Args:
    path: image of bright points on black.
    lossy: allow JPEG: what is brighter than half is fixated. Single white
      pixels come back exactly from JPEG of quality 75 and more.

  Raises:
    problems.Dropped: names the file and why it is no fixation image: it cannot
      be read, is transparent, holds more than two values as a blurred map or
      a photograph does, or marks areas instead of points.
  """
  if path.suffix.lower() not in LOSSLESS_TYPES and not lossy:
    raise Dropped(
      'not a fixation image',
      f'{path.name}: points do not survive lossy files; allowed are '
      + ', '.join(LOSSLESS_TYPES),
    )
  try:
    image = images.open_image(path)
  except (OSError, ValueError) as e:
    raise Dropped('unreadable fixations', str(e)) from e
  if images.is_transparent(image):
    detail = f'{path.name}: is transparent; expected bright points on black'
    raise Dropped('not a fixation image', detail)
  if image.mode.startswith(('I', 'F')):
    values = np.asarray(image)
  else:
    values = np.asarray(image.convert('RGB')).max(axis=-1)
  if lossy:
    # A blurred map has more pixels of middle values than bright ones.
    if ((values >= 64) & (values < 192)).sum() > (values >= 192).sum():
      detail = f'{path.name}: is grey; expected points'
      raise Dropped('not a fixation image', detail)
    points = np.argwhere(values >= 128).astype(np.int32)
  else:
    levels = np.unique(values)
    if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
      raise Dropped(
        'not a fixation image',
        f'{path.name}: holds {len(levels)} values; expected 0 and one other',
      )
    points = np.argwhere(values > 0).astype(np.int32)
  check_fixated(points, values.shape, path.name)
  return points, values.shape
