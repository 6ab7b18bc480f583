"""What changes between two maps."""

import math

import numpy as np
import pytest

from salflax.metrics import distribution
from salflax.predict import compare


def spot(y, x, size=(48, 64), sigma=3.0):
  rows, columns = np.mgrid[: size[0], : size[1]]
  square = (rows - y) ** 2 + (columns - x) ** 2
  return compare.density(np.exp(-square / (2 * sigma**2)))


def test_a_density_sums_to_one():
  rng = np.random.default_rng(0)
  for scale in (1e-300, 1e-20, 1, 255, 1e200):
    density = compare.density(rng.random((20, 30)) * scale)
    assert density.dtype == np.float64 and density.sum() == pytest.approx(1)
  flat = compare.density(np.zeros((4, 5), np.float32))
  np.testing.assert_array_equal(flat, np.full((4, 5), 1 / 20))
  with pytest.raises(ValueError, match='negative'):
    compare.density(np.array([[-1.0, 2]]))
  with pytest.raises(ValueError, match='NaN'):
    compare.density(np.array([[np.nan, 2]]))


def test_nothing_moves_between_equal_maps():
  density = spot(20, 30)
  moved = compare.moved(density, density)
  assert moved['information_gain'] == pytest.approx(0, abs=1e-12)
  assert moved['cc'] == pytest.approx(1)
  assert moved['emd']['pixels'] == pytest.approx(0, abs=1e-9)
  assert moved['shift'] == pytest.approx({'dy': 0, 'dx': 0, 'diagonal': 0})


def test_a_spot_that_moves():
  moved = compare.moved(spot(20, 20), spot(23, 40))
  shift = moved['shift']
  assert shift['dy'] == pytest.approx(3, abs=0.01)
  assert shift['dx'] == pytest.approx(20, abs=0.01)
  assert shift['diagonal'] == pytest.approx(math.hypot(3, 20) / 80, abs=1e-3)
  # Every part moves as far; blocks are 2 pixels wide.
  assert moved['emd']['pixels'] == pytest.approx(math.hypot(3, 20), abs=0.5)
  assert moved['emd']['diagonal'] == moved['emd']['pixels'] / 80
  assert moved['cc'] < 0 < moved['information_gain']


def test_the_gain_is_that_of_fixations_on_the_second_map():
  from salflax.metrics import location

  before, after = spot(20, 20, sigma=6), spot(25, 30, sigma=6)
  rng = np.random.default_rng(0)
  drawn = rng.choice(before.size, 100_000, p=after.ravel())
  fixations = np.stack(np.unravel_index(drawn, before.shape), 1)
  gain = location.ig(after, fixations, before)
  moved = compare.moved(before, after)
  # Fixations of the uniform share count there, and not here.
  assert moved['information_gain'] == pytest.approx(gain, rel=0.03)


def test_different_sizes_leave_out_what_needs_one_grid():
  small, large = spot(12, 16, (24, 32)), spot(24, 48, sigma=6)
  moved = compare.moved(small, large)
  assert [moved[k] for k in ('information_gain', 'cc', 'emd')] == [None] * 3
  assert moved['shift']['dx'] == pytest.approx(16, abs=1)
  assert moved['shift']['dy'] == pytest.approx(0, abs=1)


def test_without_the_solver_the_rest_is_measured(monkeypatch):
  monkeypatch.setattr(distribution, 'has_solver', lambda: False)
  moved = compare.moved(spot(20, 20), spot(23, 40))
  assert moved['emd'] is None and moved['cc'] < 0
