"""Reads raw images, maps and fixations, and refuses what is not sound."""

import dataclasses
import functools
import hashlib
import io
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from salflax.data import images, maps
from salflax.data.problems import Dropped, Report

CONDITIONS = ('pure', 'whole', 'all', 'salient', 'non_salient')
# So many fixations do not fall in one corner, or on one pixel, by chance.
_IN_CORNER, _ON_PIXEL = 3, 5
# Reads (row, column) points and, where the file has it, the image's size.
ReadGaze = Callable[[], tuple[np.ndarray, tuple[int, int] | None]]


@dataclasses.dataclass(frozen=True)
class Sample:
  """Where one example lies on the disk; nothing of it is read yet.

  Attributes:
    image_id: id of the image, the same for all its conditions.
    condition: one of `CONDITIONS`.
    text: sentence, '' for free viewing.
    image: file of the image.
    saliency: file of the map, or None: it is blurred from the fixations.
    fixations: file of a fixation image, points [N, 2], a function that reads
      them (`ReadGaze`) when the sample is read, or None.
    sigma: blur of maps from fixations, in pixels; None for `default_sigma`.
    split_by: 'id', or 'content' where names say nothing about images.
    part: 'fit', 'val', 'train' or 'test' where the dataset has one, else ''.
  """

  image_id: str
  condition: str
  text: str
  image: pathlib.Path
  saliency: pathlib.Path | None = None
  fixations: pathlib.Path | np.ndarray | ReadGaze | None = None
  sigma: float | None = None
  split_by: str = 'id'
  part: str = ''

  @property
  def key(self) -> str:
    """Unique name of the row."""
    return f'{self.image_id}/{self.condition}'

  def num_bytes(self) -> int:
    """Estimates how many bytes the stored sample takes."""
    files = [self.image, self.saliency]
    return 10_000 + sum(f.stat().st_size for f in files if f and f.exists())


class Record(NamedTuple):
  """A stored row without its pixels.

  Attributes:
    image_id: id of the image.
    condition: one of `CONDITIONS`.
    text: sentence.
    height: height of the image, in pixels.
    width: width of the image, in pixels.
    num_fixations: number of fixations, repeats counted.
    split_key: what the splits go by; the same for two copies of one image.
    part: part of the dataset's own split, '' where it has none; see `Sample`.
  """

  image_id: str
  condition: str
  text: str
  height: int
  width: int
  num_fixations: int
  split_key: str
  part: str = ''


class _Encoded(NamedTuple):
  data: bytes
  size: tuple[int, int]
  digest: str = ''


def _png(array: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  # Photographs hardly shrink beyond level 1, which is several times faster.
  Image.fromarray(array).save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()


def encode_image(path: pathlib.Path) -> _Encoded:
  """Encodes an image as upright RGB in JPEG or PNG, with its size.

  The file's own bytes are kept where they hold opaque 8-bit RGB already.

  Raises:
    Dropped: where the image cannot be decoded to its last byte.
  """
  try:
    status = path.stat()
    return _encode_image(path, status.st_mtime_ns, status.st_size)
  except (OSError, ValueError) as e:
    raise Dropped('unreadable image', str(e)) from e


# The conditions of an image come one after the other and may share its file;
# the time and size in the key keep a file that was replaced from being stale.
@functools.lru_cache(maxsize=4)
def _encode_image(path: pathlib.Path, mtime_ns: int, size: int) -> _Encoded:
  image = images.open_image(path)
  content = path.read_bytes()
  digest = hashlib.sha256(content).hexdigest()[:32]
  if (
    image.mode != 'RGB'
    or image.format not in ('JPEG', 'PNG')
    or images.is_transparent(image)
  ):
    content = _rgb_png(images.to_rgb(image).tobytes(), image.size)
  return _Encoded(content, (image.height, image.width), digest)


@functools.lru_cache(maxsize=2)
def _rgb_png(pixels: bytes, size: tuple[int, int]) -> bytes:
  """Encodes RGB pixels; SJTU-TIS repeats an image for each condition."""
  return _png(np.frombuffer(pixels, np.uint8).reshape(*size[::-1], 3))


def encode_map(path: pathlib.Path) -> _Encoded:
  """Encodes a saliency map as one channel in JPEG or PNG, with its size.

  The file's own bytes are kept where they hold 8-bit grey already; values of
  more bits are scaled to a maximum of 255.

  Raises:
    Dropped: see `maps.read_map`.
  """
  values = maps.read_map(path)
  image = images.open_image(path)
  if image.mode == 'L' and image.format in ('JPEG', 'PNG'):
    return _Encoded(path.read_bytes(), values.shape)
  deep = image.mode.startswith(('I', 'F'))
  grey = maps.to_uint8(values) if deep else np.uint8(np.rint(values))
  return _Encoded(_png(grey), values.shape)


def _check_size(size: tuple[int, int], image: tuple[int, int], what: str):
  if tuple(size) != tuple(image):
    raise Dropped(
      'sizes disagree',
      f'image {image[1]} x {image[0]}, {what} {size[1]} x {size[0]}',
    )


def _check_plausible(points: np.ndarray, size: tuple[int, int]) -> None:
  """Raises Dropped for positions that are in no pixels or of no eye."""
  corner = max(1, min(size) // 100)
  if len(points) >= _IN_CORNER and points.max() <= corner < min(size) / 8:
    raise Dropped(
      'implausible fixations',
      f'all {len(points)} lie within 0 to {corner} of {size[1]} x {size[0]} '
      'pixels; expected positions in pixels',
    )
  if len(points) >= _ON_PIXEL and (points == points[0]).all():
    row, column = points[0]
    raise Dropped(
      'implausible fixations',
      f'all {len(points)} lie at x={column:g}, y={row:g}',
    )


def _points(sample: Sample, size: tuple[int, int], keep_inside: bool):
  """Reads i32 [N, 2], and how many points outside were left out."""
  if sample.fixations is None:
    return np.zeros((0, 2), np.int32), 0
  if isinstance(sample.fixations, np.ndarray):
    points, own_size = sample.fixations, None
  elif callable(sample.fixations):
    points, own_size = sample.fixations()
  else:
    points, own_size = maps.read_fixations(sample.fixations)
  if own_size is not None:
    _check_size(own_size, size, 'fixations')
  blink = ~np.isfinite(points).all(axis=1)
  if blink.any() and not keep_inside:
    raise Dropped(
      'unreadable fixations',
      f'a position is not a finite number ({blink.sum()} of {len(points)}, '
      f'first at {np.argmax(blink) + 1}; --keep_inside leaves them out)',
    )
  wrong = maps.outside(points, size)
  if wrong.any() and not keep_inside:
    row, column = points[wrong][0]
    raise Dropped(
      'fixation outside the image',
      f'{wrong.sum()} of {len(points)}, first at x={column:.12g}, '
      f'y={row:.12g} of {size[1]} x {size[0]}',
    )
  points = points[~wrong].astype(np.int32)
  if not len(points):
    raise Dropped('no fixations', 'not one fixation inside the image')
  _check_plausible(points, size)
  return points, int(wrong.sum())


def read_sample(
  sample: Sample, report: Report, *, keep_inside: bool = False
) -> tuple[dict, Record] | None:
  """Reads and checks one sample.

  Args:
    sample: where it lies.
    report: takes the reason where the sample is dropped.
    keep_inside: leave out fixations outside the image or without a position,
      each sample named, and keep the sample; by default it is dropped.

  Returns:
    Example as stored (images as encoded bytes) and its record, or None.
  """
  try:
    image = encode_image(sample.image)
    points, num_outside = _points(sample, image.size, keep_inside)
    if sample.saliency is not None:
      saliency = encode_map(sample.saliency)
      _check_size(saliency.size, image.size, 'map')
      saliency_data = saliency.data
    else:
      sigma = sample.sigma or maps.default_sigma(image.size)
      blurred = maps.saliency_from_fixations(points, image.size, sigma)
      saliency_data = _png(maps.to_uint8(blurred))
  except Dropped as e:
    report.drop(sample.key, e.reason, e.detail)
    return None
  if num_outside:
    detail = f'{num_outside} points left out, the sample is kept'
    report.drop(sample.key, 'fixation outside the image', detail)
  record = Record(
    image_id=sample.image_id,
    condition=sample.condition,
    text=sample.text,
    height=image.size[0],
    width=image.size[1],
    num_fixations=len(points),
    split_key=sample.image_id if sample.split_by == 'id' else image.digest,
    part=sample.part,
  )
  example = {
    'image': io.BytesIO(image.data),
    'saliency': io.BytesIO(saliency_data),
    'fixations': points,
    'text': sample.text,
    'condition': sample.condition,
    'image_id': sample.image_id,
  }
  return example, record
