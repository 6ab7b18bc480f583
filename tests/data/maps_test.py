"""Fixations and the maps made of them."""

import time
from concurrent import futures

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from salflax.data import maps


@given(
  st.lists(st.tuples(st.integers(0, 17), st.integers(0, 22)), max_size=30),
  st.sampled_from([0.3, 1.0, 2.5, 6.0]),
)
@settings(max_examples=30, deadline=None)
def test_blur_is_a_zero_padded_gaussian(points, sigma):
  points = np.array(points, int).reshape(-1, 2)
  counts = np.zeros((18, 23))
  np.add.at(counts, tuple(points.T), 1)
  want = ndimage.gaussian_filter(counts, sigma, mode='constant', truncate=10)
  got = maps.saliency_from_fixations(points, (18, 23), sigma)
  np.testing.assert_allclose(got, want, atol=1e-9)


def test_blur_refuses_what_it_cannot_blur():
  with pytest.raises(ValueError, match='outside the 4 x 5'):
    maps.saliency_from_fixations([[4, 0]], (4, 5), 1.0)
  with pytest.raises(ValueError, match='above 0'):
    maps.saliency_from_fixations([[1, 1]], (4, 5), 0.0)
  with pytest.raises(ValueError, match=r'\[N, 2\]'):
    maps.saliency_from_fixations([[1, 1, 1]], (4, 5), 1.0)
  assert not maps.saliency_from_fixations([], (4, 5), 1.0).any()


def test_uint8_maps_are_rounded_to_a_maximum_of_255():
  out = maps.to_uint8(
    np.array([[0.0, 1.0, 1.49 / 255 * 4, 1.51 / 255 * 4, 4.0]])
  )
  assert out.tolist() == [[0, 64, 1, 2, 255]]
  assert not maps.to_uint8(np.zeros((2, 2))).any()


def test_positions_go_to_the_nearest_pixel():
  points = maps.to_points([0.4, 1.6, 2.0], [0.0, 9.4, 3.9])
  assert points.tolist() == [[0, 0], [9, 2], [4, 2]]
  one_based = maps.to_points([1.2, 800.4], [600.0, 1.0], first=1)
  assert one_based.tolist() == [[599, 0], [0, 799]]
  assert points.dtype == np.int32


def test_a_point_outside_is_seen_on_every_side():
  points = np.array([[0, 0], [-1, 0], [0, -1], [4, 0], [0, 5], [3, 4]])
  wrong = maps.outside(points, (4, 5))
  assert wrong.tolist() == [False, True, True, True, True, False]


def test_default_sigma_is_that_of_osie_on_its_images():
  assert maps.default_sigma((600, 800)) == pytest.approx(24.0)


def test_one_header_of_a_npy_is_read_at_a_time(tmp_path, monkeypatch):
  path, inside, most = tmp_path / 'a.npy', [], []
  np.save(path, np.eye(4))
  load = np.load

  def slow(*args, **options):
    inside.append(1)
    most.append(len(inside))
    time.sleep(0.01)
    values = load(*args, **options)
    inside.pop()
    return values

  monkeypatch.setattr(np, 'load', slow)
  with futures.ThreadPoolExecutor(4) as pool:
    read = [*pool.map(maps.read_map, [path] * 8)]
  assert all((x == np.eye(4)).all() for x in read)
  assert max(most) == 1 and len(most) == 8
