import io

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image

from salflax.core import parallel
from salflax.data import batches, pp
from salflax.predict import predictor as predictor_lib

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (30, 40, 3), np.uint8)


class FakeRun:
  """A run whose map is the red channel, plus the length of the sentence."""

  def __init__(self):
    self.variables, self.sizes = {}, []
    mesh = parallel.make_mesh()
    split = parallel.split(mesh)
    self._jitted = jax.jit(
      lambda image, length: image[..., 0] + length[:, None, None],
      in_shardings=split,
      out_shardings=split,
    )

  def preprocess(self, image, text):
    def finish(example):
      length = np.float32(len(example['text']))
      return dict(example, sentence=length)

    ops = pp.make('resize_pad(48, 64)|normalize("unit")')
    example = {'image': image, 'text': text}
    row = batches.Prepare([example], ops, [finish])(0, None)
    return {k: np.asarray(v)[None] for k, v in row.items()}

  def predict_fn(self, variables, batch):
    del variables
    self.sizes.append(len(batch['image']))
    return self._jitted(batch['image'], batch['sentence'])


@pytest.fixture
def predictor():
  return predictor_lib.Predictor(FakeRun())


def saved(image, suffix, **options):
  file = io.BytesIO()
  image.save(file, suffix, **options)
  file.seek(0)
  return file


def test_the_map_has_the_pictures_size_and_follows_it(predictor):
  for shape in ((30, 40), (90, 20), (1, 1), (40, 100)):
    picture = np.zeros((*shape, 3), np.uint8)
    picture[: (shape[0] + 1) // 2, ..., 0] = 255
    found = predictor(picture)
    assert found.shape == shape and found.dtype == np.float32
    assert found.min() >= 0 and found.max() <= 1
    assert found[0, 0] == pytest.approx(1, abs=0.02)


def test_the_sentence_reaches_the_network(predictor):
  difference = predictor(COLOUR, 'seven..') - predictor(COLOUR)
  np.testing.assert_allclose(difference, 7, rtol=1e-5)


def test_many_at_once_equal_one_by_one(predictor):
  pairs = [
    (RNG.integers(0, 256, (20 + k, 30, 3), np.uint8), 'x' * k) for k in range(7)
  ]
  many = list(predictor.batch(pairs, batch_size=4))
  assert len(many) == 7
  for found, (image, text) in zip(many, pairs):
    np.testing.assert_array_equal(found, predictor(image, text))
  # Batches are filled up, so that each size compiles once.
  assert {s % jax.device_count() for s in predictor.run.sizes} == {0}
  assert list(predictor.batch([])) == []


class TestReadPicture:
  def test_arrays(self):
    grey = COLOUR[..., 0]
    stacked = np.stack([grey] * 3, -1)
    for array, want in (
      (COLOUR, COLOUR),
      (grey, stacked),
      (grey[..., None], stacked),
      (np.dstack([COLOUR, np.full_like(grey, 255)]), COLOUR),
    ):
      np.testing.assert_array_equal(predictor_lib.read_picture(array), want)

  @pytest.mark.parametrize(
    'array, message',
    [
      (COLOUR / 255, 'float64'),
      (COLOUR[..., :2], '1, 3 or 4 channels'),
      (COLOUR[None], r'\[1, 30, 40, 3\]'),
      (COLOUR[:0], 'empty'),
    ],
  )
  def test_wrong_arrays(self, array, message):
    with pytest.raises(ValueError, match=message):
      predictor_lib.read_picture(array)

  @pytest.mark.parametrize('mode', ['L', 'P', '1', 'RGBA', 'LA', 'CMYK'])
  def test_modes(self, mode):
    image = Image.fromarray(COLOUR).convert(mode)
    want = np.asarray(image.convert('RGB'))
    found = predictor_lib.read_picture(image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, want)

  def test_transparent_is_laid_on_white(self):
    array = np.dstack([COLOUR, np.zeros((30, 40), np.uint8)])
    assert (predictor_lib.read_picture(array) == 255).all()
    palette = Image.new('P', (4, 4))
    palette.info['transparency'] = 0
    assert (predictor_lib.read_picture(palette) == 255).all()

  @pytest.mark.parametrize('suffix', ['png', 'tiff'])
  def test_sixteen_bits_keep_their_range(self, suffix):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    found = predictor_lib.read_picture(saved(Image.fromarray(ramp), suffix))
    want = np.arange(256).reshape(16, 16)
    np.testing.assert_allclose(found[..., 1], want, atol=1)

  def test_a_cameras_rotation_is_obeyed(self, tmp_path):
    image = Image.fromarray(COLOUR)
    exif = image.getexif()
    exif[0x0112] = 6
    path = tmp_path / 'a.png'
    image.save(path, exif=exif)
    np.testing.assert_array_equal(
      predictor_lib.read_picture(path), np.rot90(COLOUR, -1)
    )

  def test_a_cmyk_jpeg(self):
    red = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
    found = predictor_lib.read_picture(saved(red, 'jpeg'))
    np.testing.assert_allclose(found[8, 8], (255, 0, 0), atol=4)

  def test_an_animation_gives_its_first_frame(self):
    frames = [Image.new('L', (8, 8), v) for v in (10, 200)]
    file = saved(frames[0], 'gif', save_all=True, append_images=frames[1:])
    assert (predictor_lib.read_picture(file) == 10).all()

  def test_what_cannot_be_read_is_named(self, tmp_path):
    text = tmp_path / 'text.png'
    text.write_text('no picture')
    with pytest.raises(ValueError, match='text.png: cannot be read'):
      predictor_lib.read_picture(text)
    short = tmp_path / 'short.jpg'
    short.write_bytes(saved(Image.fromarray(COLOUR), 'jpeg').read()[:-200])
    with pytest.raises(ValueError, match='short.jpg: cannot be read'):
      predictor_lib.read_picture(str(short))
    with pytest.raises(FileNotFoundError, match='absent.jpg'):
      predictor_lib.read_picture(tmp_path / 'absent.jpg')

  def test_a_bomb_is_named(self, tmp_path, monkeypatch):
    path = tmp_path / 'bomb.png'
    Image.fromarray(COLOUR).save(path)
    for limit in (1000, 100):
      monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', limit)
      with pytest.raises(ValueError, match='bomb.png'):
        predictor_lib.read_picture(path)


class TestQuantise:
  def test_rounds_instead_of_cutting_off(self):
    values = np.array([[0, 0.4, 0.6, 254.4, 254.6, 255]])
    found = predictor_lib.quantise(values, bits=8)
    assert found.tolist() == [[0, 0, 1, 254, 255, 255]]

  @given(
    hnp.arrays(np.float32, (5, 6), elements={'min_value': 0, 'max_value': 1})
  )
  def test_is_within_half_a_level(self, values):
    for bits in (8, 16):
      found = predictor_lib.quantise(values, bits=bits)
      assert found.dtype == np.dtype(f'uint{bits}')
      top = values.max()
      if top == 0:
        assert not found.any()
      else:
        scaled = values.astype(np.float64) / top * (2**bits - 1)
        assert np.abs(found - scaled).max() <= 0.5 + 1e-9

  def test_bits(self):
    with pytest.raises(ValueError, match='8 or 16'):
      predictor_lib.quantise(np.ones((2, 2)), bits=12)
