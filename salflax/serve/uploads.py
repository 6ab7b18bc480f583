"""What a request brings: read within its limits, checked, decoded."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import python_multipart as python_multipart  # says what to install if absent
from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from salflax.core import files, spec
from salflax.data import images
from salflax.predict import areas as areas_lib
from salflax.serve.limits import Limits, Refusal

# No TIFF: a small one may unpack tiles larger than the image, and browsers show
# none. A file of another kind is named by how it begins.
TYPES = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF')
_OTHERS = {
  b'II*\0': 'a TIFF image',
  b'MM\0*': 'a TIFF image',
  b'%PDF': 'a PDF',
  b'<svg': 'an SVG drawing',
  b'<?xml': 'an SVG drawing or another XML file',
  b'ftypheic': 'a HEIC image',
  b'ftypmif1': 'a HEIC image',
  b'ftypavif': 'an AVIF image',
  b'<!DOCTYPE': 'a page of HTML',
}
FORMATS = ('json', 'npy', 'png')
FIELDS = ('image', 'text', 'areas', 'format', 'map_side')
MAX_MAP_SIDE = 1024
# Each decodes the whole JPEG again, in a few bytes of the file.
_MAX_SCANS = 64
# Names and values of the fields beside the image, in bytes.
_REST = 1_000_000


class Order(NamedTuple):
  """A request, checked.

  Attributes:
    file: bytes of the image file.
    size: (height, width) in its header, before it is turned upright.
    texts: sentences.
    areas: the field of the areas of interest; see `read_areas`.
    format: one of `FORMATS`.
    map_side: longer side of the maps in JSON; 0 for none.
  """

  file: bytes
  size: tuple[int, int]
  texts: Sequence[str]
  areas: str
  format: str
  map_side: int

  @property
  def cost(self) -> int:
    """Pixels of the image and its maps."""
    return self.size[0] * self.size[1] * (1 + len(self.texts))


async def _chunks(request: Request, limits: Limits) -> AsyncIterator[bytes]:
  size = 0
  async for chunk in request.stream():
    size += len(chunk)
    if size > limits.file_bytes + _REST:
      raise _too_large(limits)
    yield chunk


def _too_large(limits: Limits) -> Refusal:
  return Refusal(
    413, f'The file is too large: allowed are {limits.file_bytes:,} bytes.'
  )


async def read_form(request: Request, limits: Limits) -> FormData:
  """Reads a form of several parts, in memory.

  Raises:
    Refusal: for another type of content, a body that is too large, too slow
      or no form.
  """
  kind = request.headers.get('content-type', '').partition(';')[0].strip()
  if kind.lower() != 'multipart/form-data':
    raise Refusal(
      415,
      f'Expected a multipart/form-data body, found {kind[:100] or "no type"!r}.'
      " For example: curl -F image=@street.jpg -F text='the red umbrella'.",
    )
  parser = MultiPartParser(
    request.headers,
    _chunks(request, limits),
    max_files=1,
    max_fields=200,
    max_part_size=_REST,
  )
  parser.spool_max_size = limits.file_bytes + _REST  # never on the disk
  try:
    async with asyncio.timeout(limits.upload_seconds):
      return await parser.parse()
  except TimeoutError:
    raise Refusal(
      408, f'The request did not arrive within {limits.upload_seconds:g} s.'
    ) from None
  except ClientDisconnect as e:  # nobody reads it, but it counts
    raise Refusal(400, 'The request ended before it was complete.') from e
  except MultiPartException as e:
    raise Refusal(400, f'The form cannot be read: {e.message}') from e


def image_size(file: bytes, limits: Limits) -> tuple[int, int]:
  """Reads (height, width) of an image from its header, decoding nothing.

  Raises:
    Refusal: it is no image of an allowed type, has too many pixels, or would
      take too long to decode.
  """
  if not file:
    raise Refusal(422, 'The image file is empty (0 bytes).')
  if file[:2] == b'\xff\xd8' and file.count(b'\xff\xda') > _MAX_SCANS:
    raise Refusal(
      422, f'The JPEG has more than {_MAX_SCANS} scans; save it anew.'
    )
  try:
    size = _webp_size(file)
    if size is None:
      with Image.open(io.BytesIO(file), formats=TYPES) as image:
        size = image.height, image.width
  except Image.DecompressionBombError:
    size = None
  except Exception:  # Pillow raises many kinds for a broken file.
    head, brand = file[:300].lstrip(), file[4:12]
    kind = next(
      (v for k, v in _OTHERS.items() if head.startswith(k) or brand == k),
      'no image',
    )
    raise Refusal(
      415,
      f'The file is {kind}, whatever its name ends in. Allowed are '
      f'{", ".join(TYPES)}.',
    ) from None
  if size is None or size[0] * size[1] > limits.pixels:
    shape = f'{size[1]}x{size[0]}' if size else 'far too many'
    raise Refusal(
      413,
      f'The image has {shape} pixels; allowed are {limits.pixels:,}.',
    )
  return size


def _webp_size(file: bytes) -> tuple[int, int] | None:
  """Reads the size of a WebP: Pillow makes a canvas when it opens one."""
  if file[:4] != b'RIFF' or file[8:12] != b'WEBP':
    return None
  head, data = file[12:16], file[20:30].ljust(10, b'\0')
  number = lambda a, b: int.from_bytes(data[a:b], 'little')
  if head == b'VP8X':
    return number(7, 10) + 1, number(4, 7) + 1
  if head == b'VP8L':
    return (number(1, 5) >> 14 & 0x3FFF) + 1, (number(1, 5) & 0x3FFF) + 1
  if head == b'VP8 ':
    return number(8, 10) & 0x3FFF, number(6, 8) & 0x3FFF
  raise ValueError(f'no WebP: {head!r}')


def decode(file: bytes) -> np.ndarray:
  """Decodes an image whose header was checked, as u8 RGB [h, w, 3].

  Raises:
    Refusal: the file is cut short or damaged.
  """
  try:
    return images.read_image(io.BytesIO(file))
  except ValueError as e:
    reason = str(e).rpartition(': ')[2]
    raise Refusal(422, f'The image is damaged or cut short: {reason}.') from e


def _texts(form: FormData, limits: Limits) -> list[str]:
  texts = [_plain('text', value) for value in form.getlist('text')] or ['']
  if len(texts) > limits.texts:
    raise Refusal(
      422, f'{len(texts)} sentences; allowed are {limits.texts} in a request.'
    )
  for place, text in enumerate(texts, start=1):
    if len(text) > limits.text_length:
      raise Refusal(
        422,
        f'Sentence {place} has {len(text):,} letters; allowed are '
        f'{limits.text_length}.',
      )
  return texts


def _plain(name: str, value: str | UploadFile) -> str:
  if not isinstance(value, str):
    raise Refusal(422, f'{name} must be text, found a file.')
  return value


def _check_name(kind: str, names: Sequence[str], name: str) -> None:
  try:
    spec.lookup(kind, names, name[:100])
  except ValueError as e:
    raise Refusal(422, str(e)) from e


def read_areas(
  order: Order, size: tuple[int, int], limits: Limits
) -> list[areas_lib.Area]:
  """Reads the areas of interest of a request.

  Args:
    order: the request.
    size: height and width of the upright image.
    limits: limits of requests.

  Raises:
    Refusal: says which areas are wrong, or hold no pixel.
  """
  if not order.areas.strip():
    return []
  try:
    tree = json.loads(order.areas, object_pairs_hook=files.once)
  except (ValueError, RecursionError) as e:
    raise Refusal(422, f'areas: not JSON ({e}).') from e
  entries = tree.get('areas') if isinstance(tree, Mapping) else tree
  if entries == []:
    return []
  try:
    areas = areas_lib.parse_areas(tree, size=size)
  except ValueError as e:
    raise Refusal(422, str(e)) from e
  if len(areas) > limits.areas:
    raise Refusal(422, f'{len(areas)} areas; allowed are {limits.areas}.')
  try:
    areas_lib.masks(areas, *size)
  except ValueError as e:
    raise Refusal(422, f'areas: {e}') from e
  return areas


def _map_side(text: str) -> int:
  try:
    side = int(text)
  except ValueError:
    side = -1
  if not 0 <= side <= MAX_MAP_SIDE:
    raise Refusal(
      422,
      f'map_side must be a whole number from 0 to {MAX_MAP_SIDE}, found '
      f'{text[:50]!r}.',
    )
  return side


async def read_order(request: Request, limits: Limits) -> Order:
  """Reads and checks a request.

  Raises:
    Refusal: says what is wrong with it.
  """
  form = await read_form(request, limits)
  try:
    for name in form:
      _check_name('field', FIELDS, name)
    upload = form.get('image')
    if not isinstance(upload, UploadFile):
      raise Refusal(422, 'No image: expected a file in the field image.')
    file = await upload.read()
  finally:
    await form.close()
  if len(file) > limits.file_bytes:
    raise _too_large(limits)
  kind = _plain('format', form.get('format', 'json'))
  texts = _texts(form, limits)
  _check_name('format', FORMATS, kind)
  if kind != 'json' and len(texts) > 1:
    raise Refusal(
      422, f'{len(texts)} sentences; allowed is one with format {kind}.'
    )
  side = _map_side(_plain('map_side', form.get('map_side', str(MAX_MAP_SIDE))))
  areas = _plain('areas', form.get('areas', ''))
  size = await asyncio.to_thread(image_size, file, limits)
  order = Order(file, size, texts, areas, kind, side)
  if order.cost > limits.held_pixels:
    most = limits.held_pixels // (size[0] * size[1]) - 1
    raise Refusal(
      413,
      f'{len(texts)} sentences are too many for an image of '
      f'{size[1]}x{size[0]} pixels; allowed are {most}.',
    )
  return order
