"""The predictor of a user: images of any kind."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from salflax.predict import predictor as predictor_lib

COLOUR = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


@pytest.fixture(scope='module')
def predictor():
  return predictor_lib.Predictor(tiny.red_predictor())


@pytest.fixture(scope='module')
def files(tmp_path_factory):
  folder = tmp_path_factory.mktemp('images')
  Image.fromarray(COLOUR).save(folder / 'a.png')
  (folder / 'broken.png').write_bytes((folder / 'a.png').read_bytes()[:300])
  return folder


def test_images_of_any_kind_give_the_same_map(predictor, files):
  want = predictor(COLOUR, 'the red')
  data = (files / 'a.png').read_bytes()
  kinds = [
    *(str(files / 'a.png'), files / 'a.png', data, bytearray(data)),
    *(io.BytesIO(data), Image.fromarray(COLOUR), jnp.asarray(COLOUR)),
  ]
  for kind in kinds:
    np.testing.assert_array_equal(predictor(kind, 'the red'), want)
  assert not np.array_equal(predictor(COLOUR), want)


@pytest.mark.parametrize(
  'image', [None, 3, [[1, 2]], b'', b'no image', 'a.jpg']
)
def test_what_is_no_image_is_named(predictor, image):
  with pytest.raises((ValueError, FileNotFoundError), match='(?i)image'):
    predictor(image)


def test_many_at_once_equal_one_by_one(predictor):
  rng = np.random.default_rng(1)
  pairs = [
    (rng.integers(0, 256, (20 + k, 30, 3), np.uint8), 'x' * k) for k in range(7)
  ]
  many = list(predictor.predict(pairs, batch_size=4))
  for saliency, (image, text) in zip(many, pairs, strict=True):
    np.testing.assert_array_equal(saliency, predictor(image, text))


def test_an_unreadable_image_takes_no_other_map_with_it(predictor, files):
  pairs = [(files / name, '') for name in ('a.png', 'broken.png', 'a.png')]
  first, error, last = predictor.predict(pairs, return_errors=True)
  np.testing.assert_array_equal(first, last)
  assert isinstance(error, ValueError) and 'broken.png' in str(error)
  rest = predictor.predict(pairs)
  np.testing.assert_array_equal(next(rest), first)
  with pytest.raises(ValueError, match='broken.png: cannot be read'):
    next(rest)


def test_the_maps_of_a_run(tiny_run):
  predictor = predictor_lib.Predictor.load(tiny_run)
  saliency = predictor(COLOUR, 'the red')
  assert saliency.shape == (30, 40) and saliency.dtype == np.float32
  assert saliency.min() >= 0
  assert not np.array_equal(saliency, predictor(COLOUR))
