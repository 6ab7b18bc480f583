"""From images and sentences to maps: order, errors, bits."""

import numpy as np
import pytest
import tiny
from toy_gaze import Toy

RNG = np.random.default_rng(0)
PAIRS = [
  (RNG.integers(0, 256, (20 + k, 30, 3), np.uint8), 'x' * k) for k in range(7)
]


@pytest.fixture(scope='module')
def predictor():
  return tiny.red_predictor()


@pytest.fixture(scope='module')
def maps(predictor):
  return list(predictor.predict(PAIRS))


def test_the_map_has_the_images_size_and_follows_it(predictor):
  shapes = ((30, 40), (90, 20), (1, 1), (40, 100))
  images = [np.zeros((*shape, 3), np.uint8) for shape in shapes]
  for image in images:
    image[: (len(image) + 1) // 2, ..., 0] = 255
  maps = predictor.predict((image, '') for image in images)
  for shape, saliency in zip(shapes, maps, strict=True):
    assert saliency.shape == shape and saliency.dtype == np.float32
    assert saliency.min() >= 0 and saliency.max() <= 1
    assert saliency[0, 0] == pytest.approx(1, abs=0.02)


def test_the_sentence_reaches_the_network(predictor):
  with_text, without = predictor.predict([(PAIRS[0][0], 'seven..'), PAIRS[0]])
  np.testing.assert_allclose(with_text - without, 7, rtol=1e-5)


@pytest.mark.parametrize('batch_size, devices', [(1, 1), (3, 1), (6, 4)])
def test_batch_size_and_devices_change_no_bit(maps, batch_size, devices):
  other = tiny.red_predictor(devices, threads=1).replace(batch_size=batch_size)
  for a, b in zip(maps, other.predict(PAIRS), strict=True):
    np.testing.assert_array_equal(a, b)
  assert list(other.predict([])) == []


def test_rows_are_predicted_as_their_images_and_sentences(predictor):
  toy = Toy(2)
  rows = predictor.predict_rows(toy, [5, 0, 2])
  pairs = predictor.predict(
    (toy[k]['image'], toy[k]['text']) for k in (5, 0, 2)
  )
  for a, b in zip(rows, pairs, strict=True):
    np.testing.assert_array_equal(a, b)


class TestErrors:
  @staticmethod
  def read(image):
    if isinstance(image, str):
      raise ValueError(f'{image}: cut short')
    return image

  def test_an_error_comes_in_its_place_after_the_maps_before_it(
    self, predictor, maps
  ):
    pairs = [*PAIRS[:6], ('broken.png', ''), PAIRS[6]]
    rest = predictor.predict(iter(pairs), read=self.read)
    for want in maps[:6]:
      np.testing.assert_array_equal(next(rest), want)
    with pytest.raises(ValueError, match='broken.png: cut short'):
      next(rest)

  def test_the_images_after_a_broken_one_are_predicted(self, predictor, maps):
    pairs = [
      ('a.png', ''),
      *PAIRS[:3],
      ('b.png', ''),
      *PAIRS[3:],
      ('c.png', ''),
    ]
    results = list(predictor.predict(pairs, read=self.read, return_errors=True))
    for place, name in ((9, 'c'), (4, 'b'), (0, 'a')):
      assert str(results.pop(place)) == f'{name}.png: cut short'
    for a, b in zip(maps, results, strict=True):
      np.testing.assert_array_equal(a, b)

  def test_a_batch_of_broken_images_alone(self, predictor):
    pairs = [('a.png', '')] * 9
    results = list(predictor.predict(pairs, read=self.read, return_errors=True))
    assert [str(e) for e in results] == ['a.png: cut short'] * 9

  def test_a_sentence_is_a_str(self, predictor):
    with pytest.raises(TypeError, match='found NoneType'):
      list(predictor.predict([(PAIRS[0][0], None)]))

  def test_a_map_that_is_not_finite_names_its_image(self, maps):
    def letters(texts):
      ids, mask = tiny.letters(texts)
      return ids, np.where([t == 'bad' for t in texts], np.nan, mask.T).T

    predictor = tiny.red_predictor(tokenizer=letters)
    pairs = [PAIRS[1], ('in/street.jpg', 'bad')]
    rest = predictor.predict(pairs, read=lambda image: PAIRS[1][0])
    np.testing.assert_array_equal(next(rest), maps[1])
    with pytest.raises(ValueError, match='in/street.jpg: 630 of 630 values'):
      next(rest)
    with pytest.raises(ValueError, match='Image 1: .* not finite'):
      list(predictor.predict([(PAIRS[1][0], 'bad')]))
    toy = Toy(1)
    toy.rows[2]['text'] = 'bad'
    with pytest.raises(ValueError, match='picture00/non_salient: .*not finite'):
      list(predictor.predict_rows(toy, [0, 2]))
