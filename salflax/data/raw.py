"""Reads raw pictures, maps and fixations, and refuses what is not sound."""

import collections
import dataclasses
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from salflax.data import maps
from salflax.data.problems import Dropped, Report

CONDITIONS = ('pure', 'whole', 'all', 'salient', 'non_salient')
PICTURE_TYPES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')
LOSSLESS_TYPES = ('.png', '.bmp', '.tif', '.tiff')
# Reads (row, column) points and, where the file tells it, the picture's size.
ReadGaze = Callable[[], tuple[np.ndarray, tuple[int, int] | None]]


@dataclasses.dataclass(frozen=True)
class Sample:
  """Where one example lies on the disk; nothing of it is read yet.

  Attributes:
    image_id: the picture's id, the same for all its conditions.
    condition: one of `CONDITIONS`.
    text: the sentence, '' for free viewing.
    image: the picture's file.
    saliency: the map's file, or None: it is made of the fixations.
    fixations: a fixation picture's file, points i32 [N, 2], a function that
      reads them (`ReadGaze`) when the sample is read, or None.
    sigma: of maps made of fixations, in pixels; None for `default_sigma`.
    split_by: 'id', or 'content' where names say nothing about pictures.
    part: 'fit', 'val', 'train' or 'test' where the dataset says so, else ''.
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
    """Returns about how many bytes the sample takes."""
    files = [self.image, self.saliency]
    return 10_000 + sum(f.stat().st_size for f in files if f and f.exists())


class Record(NamedTuple):
  """What is known of a stored row without decoding its pictures.

  Attributes:
    image_id: the picture's id.
    condition: one of `CONDITIONS`.
    text: the sentence.
    height: of the picture, in pixels.
    width: of the picture, in pixels.
    num_fixations: repeats counted.
    picture: what splits go by; the same for two copies of one picture.
    part: of the dataset's own split, '' where it has none; see `Sample`.
  """

  image_id: str
  condition: str
  text: str
  height: int
  width: int
  num_fixations: int
  picture: str
  part: str = ''


class _Encoded(NamedTuple):
  data: bytes
  size: tuple[int, int]
  digest: str = ''


def _open(path: pathlib.Path, what: str) -> Image.Image:
  """Returns the decoded image; `what` is wrong with it where it is not one."""
  try:
    image = Image.open(path)
    image.load()
  except Exception as e:  # Pillow raises many kinds for a broken file.
    raise Dropped(f'unreadable {what}', f'{path.name}: {e}') from e
  if image.mode.startswith(('I', 'F')):
    raise Dropped(
      f'unreadable {what}',
      f'{path.name}: pixels of mode {image.mode}; expected 8 bits a channel',
    )
  return image


def _png(image: Image.Image) -> bytes:
  buffer = io.BytesIO()
  # Photographs hardly shrink beyond level 1, which is several times faster.
  image.save(buffer, 'PNG', compress_level=1)
  return buffer.getvalue()


@functools.lru_cache(maxsize=2)
def _rgb_png(pixels: bytes, size: tuple[int, int]) -> bytes:
  """Encodes RGB pixels; SJTU-TIS repeats a picture for each condition."""
  return _png(Image.frombytes('RGB', size, pixels))


def read_picture(path: pathlib.Path) -> _Encoded:
  """Returns an RGB picture as JPEG or PNG bytes, upright, with its size.

  The file's own bytes are kept where they hold 8-bit RGB already.

  Raises:
    Dropped: where the picture cannot be decoded to its last byte.
  """
  try:
    stat = path.stat()
  except OSError as e:
    raise Dropped('unreadable picture', f'{path.name}: {e}') from e
  return _read_picture(path, stat.st_mtime_ns, stat.st_size)


# The conditions of a picture come one after the other and may share its file;
# the time and size in the key keep a file that was replaced from being stale.
@functools.lru_cache(maxsize=4)
def _read_picture(path: pathlib.Path, mtime_ns: int, size: int) -> _Encoded:
  image = _open(path, 'picture')
  content = path.read_bytes()
  digest = hashlib.sha256(content).hexdigest()[:32]
  turned = image.getexif().get(0x0112, 1) != 1
  if turned:
    image = ImageOps.exif_transpose(image)
  size = (image.height, image.width)
  if image.mode == 'RGB' and not turned and image.format in ('JPEG', 'PNG'):
    return _Encoded(content, size, digest)
  return _Encoded(
    _rgb_png(image.convert('RGB').tobytes(), image.size), size, digest
  )


def read_map(path: pathlib.Path) -> _Encoded:
  """Returns a saliency map as PNG or JPEG bytes of one channel, with its size.

  Raises:
    Dropped: where it cannot be decoded or is zero everywhere.
  """
  image = _open(path, 'map')
  gray = image if image.mode == 'L' else image.convert('RGB').convert('L')
  if gray.getextrema()[1] == 0:
    raise Dropped('empty map', f'{path.name} is zero everywhere')
  size = (image.height, image.width)
  if image.mode == 'L' and image.format in ('JPEG', 'PNG'):
    return _Encoded(path.read_bytes(), size)
  return _Encoded(_png(gray), size)


def read_fixation_picture(
  path: pathlib.Path, *, lossy: bool = False
) -> tuple[np.ndarray, tuple[int, int]]:
  """Returns the fixated pixels i32 [N, 2] of a two-valued picture and its size.

  Args:
    path: the picture.
    lossy: allow JPEG: what is brighter than half is fixated. Single white
      pixels come back exactly from JPEG of quality 75 and more.

  Raises:
    Dropped: where it cannot be decoded, or holds more than two values and so
      is no fixation picture but a blurred map or a photograph.
  """
  if path.suffix.lower() not in LOSSLESS_TYPES and not lossy:
    raise Dropped(
      'not a fixation picture',
      f'{path.name}: points do not survive lossy files; allowed are '
      + ', '.join(LOSSLESS_TYPES),
    )
  image = _open(path, 'fixations')
  values = np.asarray(image.convert('RGB')).max(axis=-1)
  if lossy:
    # A blurred map has more pixels of middle values than bright ones.
    if ((values >= 64) & (values < 192)).sum() > (values >= 192).sum():
      raise Dropped(
        'not a fixation picture', f'{path.name} is grey; expected points'
      )
    return np.argwhere(values >= 128).astype(np.int32), values.shape
  levels = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
  if len(levels) > 2 or (len(levels) == 2 and levels[0] != 0):
    raise Dropped(
      'not a fixation picture',
      f'{path.name} holds {len(levels)} values; expected 0 and one other',
    )
  return np.argwhere(values > 0).astype(np.int32), values.shape


def _check_size(found: tuple[int, int], size: tuple[int, int], what: str):
  if tuple(found) != tuple(size):
    raise Dropped(
      'sizes disagree',
      f'picture {size[1]} x {size[0]}, {what} {found[1]} x {found[0]}',
    )


def _points(sample: Sample, size: tuple[int, int], keep_inside: bool):
  """Returns i32 [N, 2], and how many points outside were left out."""
  if sample.fixations is None:
    return np.zeros((0, 2), np.int32), 0
  if isinstance(sample.fixations, np.ndarray):
    points, found = sample.fixations, None
  elif callable(sample.fixations):
    points, found = sample.fixations()
  else:
    points, found = read_fixation_picture(sample.fixations)
  if found is not None:
    _check_size(found, size, 'fixations')
  wrong = maps.outside(points, size)
  if wrong.any() and not keep_inside:
    row, column = points[wrong][0]
    raise Dropped(
      'fixation outside the picture',
      f'{wrong.sum()} of {len(points)}, first at x={column}, y={row} '
      f'of {size[1]} x {size[0]}',
    )
  points = points[~wrong]
  if not len(points):
    raise Dropped('no fixations', 'not one fixation inside the picture')
  return points, int(wrong.sum())


def read_sample(
  sample: Sample, report: Report, *, keep_inside: bool = False
) -> tuple[dict, Record] | None:
  """Reads and checks one sample.

  Args:
    sample: where it lies.
    report: takes the reason where the sample is dropped.
    keep_inside: leave out fixations outside the picture, each sample named,
      and keep the sample; by default such a sample is dropped.

  Returns:
    The example as stored (pictures as encoded bytes) and its record, or None.
  """
  try:
    picture = read_picture(sample.image)
    points, num_outside = _points(sample, picture.size, keep_inside)
    if sample.saliency is not None:
      saliency = read_map(sample.saliency)
      _check_size(saliency.size, picture.size, 'map')
      saliency_data = saliency.data
    else:
      sigma = sample.sigma or maps.default_sigma(picture.size)
      blurred = maps.saliency_from_fixations(points, picture.size, sigma)
      saliency_data = _png(Image.fromarray(maps.to_uint8(blurred)))
  except Dropped as e:
    report.drop(sample.key, e.reason, e.detail)
    return None
  if num_outside:
    detail = f'{num_outside} points left out, the sample is kept'
    report.drop(sample.key, 'fixation outside the picture', detail)
  record = Record(
    image_id=sample.image_id,
    condition=sample.condition,
    text=sample.text,
    height=picture.size[0],
    width=picture.size[1],
    num_fixations=len(points),
    picture=sample.image_id if sample.split_by == 'id' else picture.digest,
    part=sample.part,
  )
  example = {
    'image': io.BytesIO(picture.data),
    'saliency': io.BytesIO(saliency_data),
    'fixations': points.astype(np.int32),
    'text': sample.text,
    'condition': sample.condition,
    'image_id': sample.image_id,
  }
  return example, record


def files_by_stem(
  folder: pathlib.Path,
  report: Report,
  *,
  types: tuple[str, ...],
  ranked: bool = False,
  skip: tuple[str, ...] = (),
) -> dict[str, pathlib.Path]:
  """Returns the files of a folder and its subfolders by path without ending.

  Hidden files are passed over; files of other types and all files that share a
  stem are reported and left out.

  Args:
    folder: where to look; a folder that is absent holds nothing.
    report: takes what is left out.
    types: the endings wanted.
    ranked: of files that share a stem, take the one whose ending comes first
      in `types`.
    skip: names of subfolders to pass over.
  """
  found = collections.defaultdict(list)
  for root, folders, names in os.walk(folder):
    folders[:] = sorted(
      f for f in folders if not f.startswith('.') and f not in skip
    )
    for name in sorted(n for n in names if not n.startswith('.')):
      path = pathlib.Path(root, name)
      relative = path.relative_to(folder)
      if path.suffix.lower() not in types and name.lower() != 'thumbs.db':
        detail = f'in {folder.name}/; allowed are {", ".join(types)}'
        report.drop(relative.as_posix(), 'unknown file', detail)
      elif path.suffix.lower() in types:
        found[relative.with_suffix('').as_posix()].append(path)
  if ranked:
    for paths in found.values():
      paths.sort(key=lambda p: types.index(p.suffix.lower()))
      del paths[1:]
  for stem in [s for s, paths in found.items() if len(paths) > 1]:
    names = ', '.join(p.name for p in found.pop(stem))
    report.drop(f'{folder.name}/{stem}', 'duplicate id', f'files {names}')
  return {stem: paths[0] for stem, paths in found.items()}
