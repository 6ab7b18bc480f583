"""Reading images, maps and fixation images: one rule for each."""

import io
import os
import struct

import fake_data
import numpy as np
import pytest
from PIL import Image

from salflax.data import images, maps, problems, raw

COLOUR = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
GREY = np.tile(np.arange(40, dtype=np.uint8) * 6, (30, 1))


def _exif(entries):
  """Writes EXIF of (tag, type, count, bytes of 4) as cameras misspell it."""
  body = struct.pack('<2sHIH', b'II', 42, 8, len(entries))
  for tag, kind, count, value in entries:
    body += struct.pack('<HHI4s', tag, kind, count, value)
  return b'Exif\0\0' + body + b'\0\0\0\0'


TURN = (0x0112, 3, 1, struct.pack('<HH', 6, 0))
# What Pillow says of it on its own.
pytestmark = pytest.mark.filterwarnings('ignore:Tag data:UserWarning')
TEXT = (0x011A, 2, 4, b'abc\0')  # XResolution as text


@pytest.mark.parametrize(
  'entries, turned',
  [
    ([TURN], True),
    ([TURN, TEXT], True),
    ([TEXT], False),
    ([(0x0112, 2, 4, b'odd\0')], False),
    (
      [(0x0112, 3, 1, b'\x63\0\0\0'), (0x829A, 5, 9, b'\xff\xff\xff\x7f')],
      False,
    ),
  ],
)
def test_orientation_is_obeyed_whatever_else_exif_holds(
  tmp_path, entries, turned
):
  path = tmp_path / 'a.jpg'
  smooth = np.stack([GREY] * 3, -1)
  Image.fromarray(smooth).save(path, quality=98, exif=_exif(entries))
  plain = tmp_path / 'plain.jpg'
  Image.fromarray(smooth).save(plain, quality=98)
  want = images.read_image(plain)
  want = np.rot90(want, -1) if turned else want
  np.testing.assert_array_equal(images.read_image(path), want)
  stored = raw.encode_image(path)
  assert stored.size == want.shape[:2]
  decoded = np.asarray(Image.open(io.BytesIO(stored.data)))
  np.testing.assert_array_equal(decoded, want)


def _transparent():
  alpha = np.where(GREY > 100, 255, 90).astype(np.uint8)
  return Image.fromarray(np.dstack([COLOUR, alpha]))


def _palette():
  image = Image.fromarray(COLOUR).convert('P')
  image.info['transparency'] = 3
  return image


@pytest.mark.parametrize(
  'image',
  [
    _transparent(),
    _palette(),
    Image.fromarray(GREY.astype(np.uint16) * 200),
    Image.fromarray(GREY.astype(np.float32) / 255),
    Image.fromarray(COLOUR).convert('CMYK'),
  ],
)
def test_prepared_pixels_are_those_that_are_predicted_on(tmp_path, image):
  path = tmp_path / ('a.png' if image.mode in ('RGBA', 'P') else 'a.tiff')
  image.save(path, **({'transparency': 3} if image.mode == 'P' else {}))
  want = images.read_image(path)
  assert want.shape == (30, 40, 3) and np.ptp(want) > 100
  stored = Image.open(io.BytesIO(raw.encode_image(path).data))
  assert stored.mode == 'RGB'
  np.testing.assert_array_equal(np.asarray(stored), want)


def test_transparent_rgb_is_laid_on_white(tmp_path):
  # Opaque by its mode, transparent by a chunk of its own.
  path = tmp_path / 'a.png'
  Image.new('RGB', (9, 9), (7, 8, 9)).save(path, transparency=(7, 8, 9))
  assert (images.read_image(path) == 255).all()
  stored = Image.open(io.BytesIO(raw.encode_image(path).data))
  assert (np.asarray(stored) == 255).all()


@pytest.mark.parametrize('value', [np.nan, np.inf, -1.0])
def test_floats_that_are_no_pixels_are_refused(tmp_path, value):
  array = GREY.astype(np.float32)
  array[3, 4] = value
  Image.fromarray(array).save(tmp_path / 'a.tiff')
  with pytest.raises(ValueError, match='a.tiff: holds pixels'):
    images.read_image(tmp_path / 'a.tiff')


@pytest.mark.parametrize('source', [None, b'abc', 7, ['a.png']])
def test_what_is_no_image_at_all_is_named(source):
  with pytest.raises(ValueError, match=type(source).__name__):
    images.read_image(source)


def test_arrays_of_other_libraries_are_taken():
  class Array:
    def __array__(self, dtype=None, copy=None):
      return COLOUR

  np.testing.assert_array_equal(images.read_image(Array()), COLOUR)


def test_a_pipe_is_no_file(tmp_path):
  os.mkfifo(tmp_path / 'a.png')
  os.mkfifo(tmp_path / 'a.npy')
  for read in (images.read_image, maps.read_map, maps.read_fixations):
    with pytest.raises(ValueError, match='a.png.*is no file'):
      read(tmp_path / 'a.png')
  with pytest.raises(ValueError, match='a.npy.*is no file'):
    maps.read_map(tmp_path / 'a.npy')


def _heat():
  ramp = GREY.astype(float) / GREY.max()
  return np.uint8(255 * np.stack([ramp, 1 - ramp, ramp * (1 - ramp)], -1))


def _alpha_map():
  return np.dstack([np.zeros((30, 40, 3), np.uint8), GREY])


@pytest.mark.parametrize(
  'array, reason',
  [
    (_heat(), 'not a map'),
    (np.uint8(0.5 * _heat() + 0.5 * COLOUR), 'not a map'),
    (_alpha_map(), 'not a map'),
    (np.dstack([COLOUR, GREY]), 'not a map'),
    (np.zeros((30, 40), np.uint8), 'empty map'),
    (np.full((30, 40), 128, np.uint8), 'empty map'),
    (np.full((30, 40, 3), 255, np.uint8), 'empty map'),
    (np.full((1, 1), 9, np.uint8), 'empty map'),
    (-GREY.astype(np.float32), 'not a map'),
    (np.where(GREY > 9, np.nan, 1).astype(np.float32), 'not a map'),
  ],
)
def test_what_is_no_map_is_refused(tmp_path, array, reason):
  path = tmp_path / ('m.tiff' if array.dtype == np.float32 else 'm.png')
  fake_data.save(path, array)
  with pytest.raises(problems.Dropped, match=f'{reason}: {path.name}'):
    maps.read_map(path)
  with pytest.raises(problems.Dropped, match=reason):
    raw.encode_map(path)
  if reason == 'empty map':
    assert np.ptp(maps.read_map(path, allow_flat=True)) == 0


def test_palettes_in_colour_are_no_maps(tmp_path):
  Image.fromarray(_heat()).convert('P').save(tmp_path / 'm.png')
  with pytest.raises(problems.Dropped, match='in colour'):
    maps.read_map(tmp_path / 'm.png')


@pytest.mark.parametrize(
  'image',
  [
    Image.fromarray(GREY),
    Image.fromarray(GREY).convert('RGB'),
    Image.fromarray(GREY).convert('RGBA'),
    Image.fromarray(GREY).convert('LA'),
    Image.fromarray(GREY).convert('P'),
    Image.fromarray(GREY.astype(np.uint16) * 257),
    Image.fromarray(GREY.astype(np.float32) / 999),
  ],
)
def test_grey_maps_of_any_kind_are_read(tmp_path, image):
  path = tmp_path / ('m.tiff' if image.mode == 'F' else 'm.png')
  image.save(path)
  values = maps.read_map(path)
  assert values.dtype == np.float32
  np.testing.assert_allclose(
    values / values.max(), GREY / GREY.max(), atol=1e-6
  )
  stored = np.asarray(Image.open(io.BytesIO(raw.encode_map(path).data)))
  assert stored.shape == GREY.shape and stored.dtype == np.uint8
  scale = stored.max() / GREY.max()
  np.testing.assert_allclose(stored, GREY * scale, atol=0.51)


@pytest.mark.parametrize('scale', [1e-300, 1e-42, 1.0, 1e300])
def test_arrays_of_any_scale_are_maps(tmp_path, scale):
  np.save(tmp_path / 'm.npy', GREY[..., None] / 255 * scale)
  values = maps.read_map(tmp_path / 'm.npy')
  assert np.isfinite(values).all()
  np.testing.assert_allclose(
    values / values.max(), GREY / GREY.max(), rtol=1e-5
  )


def _many(path):
  with path.open('wb') as f:
    np.savez(f, a=GREY)


def _huge(path):
  np.save(path, GREY)
  content = path.read_bytes().replace(b'(30, 40)', b'(1<<25, ')
  path.write_bytes(content.replace(b'(1<<25, ', b'(9999999'))


def _cut(path):
  np.save(path, GREY)
  path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
  'write',
  [
    _many,
    _huge,
    _cut,
    lambda p: p.write_bytes(b'x'),
    lambda p: np.save(p, GREY.astype(complex)),
    lambda p: np.save(p, GREY.astype(str)),
    lambda p: np.save(p, np.array([None, 1])),
    lambda p: np.save(p, COLOUR),
    lambda p: np.save(p, GREY[:0]),
  ],
)
def test_arrays_that_are_no_maps_are_named(tmp_path, write):
  write(tmp_path / 'm.npy')
  with pytest.raises(problems.Dropped, match='m.npy'):
    maps.read_map(tmp_path / 'm.npy')


def _dots(size=(60, 80), count=30):
  array = np.zeros(size, np.uint8)
  rng = np.random.default_rng(1)
  array[rng.integers(0, size[0], count), rng.integers(0, size[1], count)] = 255
  return array


def _mask(radius):
  rows, columns = np.mgrid[:60, :80]
  return np.uint8(255 * (np.hypot(rows - 30, columns - 40) < radius))


@pytest.mark.parametrize(
  'array',
  [
    255 - _dots(),
    np.full((60, 80), 255, np.uint8),
    _mask(6),
    _mask(25),
    np.dstack([np.full((60, 80, 3), 255, np.uint8), _dots()]),
    np.dstack([_dots(), _dots()]),
    GREY,
  ],
)
def test_what_marks_no_points_is_no_fixation_image(tmp_path, array):
  path = tmp_path / 'f.png'
  image = Image.fromarray(array)
  image.save(path)
  with pytest.raises(problems.Dropped, match='not a fixation image: f.png'):
    maps.read_fixations(path)


@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'I;16'])
def test_points_of_any_mode_are_fixations(tmp_path, mode):
  dots = _dots()
  image = Image.fromarray(dots.astype(np.uint16) * 9)
  if mode != 'I;16':
    image = Image.fromarray(dots).convert(mode)
  image.save(tmp_path / 'f.png')
  points, size = maps.read_fixations(tmp_path / 'f.png')
  np.testing.assert_array_equal(points, np.argwhere(dots))
  assert size == dots.shape and points.dtype == np.int32
