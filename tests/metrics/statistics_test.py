"""Intervals and paired tests: coverage, clusters, agreement with SciPy."""

import numpy as np
import pytest
from scipy import stats

from salflax.metrics import interval, paired

RNG = np.random.default_rng


def test_interval_is_the_normal_one_for_many_images():
  values = RNG(0).normal(3, 2, 900)
  low, high = interval(values)
  error = values.std(ddof=1) / 30
  assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
  assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_interval_covers_the_mean_about_as_often_as_it_says():
  rng = RNG(0)
  covered = 0
  for seed in range(150):
    low, high = interval(rng.gamma(2, 1, 60), seed=seed)
    covered += low < 2 < high
  # 95 % of 150 is 142; 131 or fewer would come up once in 10^4.
  assert 131 < covered < 150


def test_results_are_seeded():
  a, b = RNG(0).normal(size=(2, 40))
  assert interval(a) == interval(a) != interval(a, seed=1)
  assert paired(a, b) == paired(a, b) != paired(a, b, seed=1)


def test_rows_of_one_image_are_one_observation():
  values = RNG(0).normal(size=50)
  repeated, groups = np.repeat(values, 4), np.repeat(np.arange(50), 4)
  assert interval(repeated, groups) == pytest.approx(interval(values))
  width = np.ptp(interval(values))
  # Taken for independent rows, the interval would be half as wide.
  assert np.ptp(interval(repeated)) == pytest.approx(width / 2, rel=0.1)
  other = values + RNG(1).normal(0.1, 0.3, 50)
  clustered = paired(repeated, np.repeat(other, 4), groups)
  assert clustered == pytest.approx(paired(values, other))
  assert paired(repeated, np.repeat(other, 4)).p < clustered.p


def test_the_mean_is_over_rows_also_where_images_have_unequal_numbers():
  a, b = np.array([1.0, 1, 1, 5]), np.zeros(4)
  groups = ['x', 'x', 'x', 'y']
  actual = paired(a, b, groups)
  assert actual.difference == 2
  # Two images: resamples are xx, xy, yy; swaps give sums of 8 and 2.
  assert (actual.low, actual.high) == (1, 5)
  assert actual.p == 0.5


def test_order_of_rows_does_not_matter():
  a, b = RNG(0).normal(size=(2, 30))
  groups = np.array([f'{i // 2}' for i in range(30)])
  order = RNG(1).permutation(30)
  assert paired(a[order], b[order], groups[order]) == pytest.approx(
    paired(a, b, groups)
  )


@pytest.mark.parametrize('images', [6, 13, 40])
def test_p_agrees_with_scipy(images):
  a, b = RNG(images).normal(size=(2, images))
  b = b + 0.5
  reference = stats.permutation_test(
    (a, b),
    lambda x, y, axis: (x - y).mean(axis),
    permutation_type='samples',
    vectorized=True,
    n_resamples=9_999,
    rng=RNG(5),
  ).pvalue
  # Exact for few images; else both sample.
  error = 0 if images <= 13 else 4 * np.sqrt(2 * reference / 9_999)
  assert paired(a, b).p == pytest.approx(reference, abs=error + 1e-12)


def test_p_is_uniform_where_nothing_differs():
  rng = RNG(0)
  actual = [paired(*rng.normal(size=(2, 12))).p for _ in range(200)]
  assert stats.kstest(actual, 'uniform').pvalue > 1e-3


def test_direction_and_ends():
  b = RNG(0).normal(size=100)
  actual = paired(b + 1, b + RNG(1).normal(0, 0.1, 100))
  assert actual.low < actual.difference < actual.high
  assert actual.low > 0.9
  # 1 of 10,000: the swap that was observed.
  assert actual.p == pytest.approx(1e-4)
  mirrored = paired(b, b + 1)
  assert mirrored.difference == pytest.approx(-1)


def test_equal_methods():
  a = RNG(0).normal(size=20)
  assert paired(a, a) == (0, 0, 0, 1)
  assert interval(np.ones(5)) == (1, 1)


def test_missing_scores_are_left_out():
  a, b = RNG(0).normal(size=(2, 30))
  gaps = np.append(a, [np.nan, 1.0]), np.append(b, [1.0, np.nan])
  assert paired(*gaps) == paired(a, b)
  assert interval(np.append(a, np.nan)) == interval(a)


@pytest.mark.parametrize('values', [[], [np.nan], [1.0]])
def test_too_few_images_have_no_interval(values):
  assert np.isnan(interval(values)).all()
  actual = paired(values, values)
  assert np.isnan([actual.low, actual.high]).all()
  assert np.isnan(actual.difference) == (values != [1.0])


def test_bad_input_is_named():
  with pytest.raises(ValueError, match='3 and 2'):
    paired([1, 2, 3], [1, 2])
  with pytest.raises(ValueError, match='group for each of the 3 values'):
    interval([1, 2, 3], [0, 1])
  with pytest.raises(ValueError, match='1 values are infinite'):
    interval([1, np.inf])
  with pytest.raises(ValueError, match=r'\(2, 2\)'):
    interval(np.ones((2, 2)))
