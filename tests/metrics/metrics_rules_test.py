"""Metrics against slow, literal versions of their rules; what they ignore."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, optimize, special

from salflax.metrics import course, distribution, location, salicon

RNG = np.random.default_rng


# The references below follow the definitions word by word and slowly.


def slow_rank_auc(positives, negatives):
  wins = np.sign(positives[:, None] - negatives[None])
  return float((wins / 2 + 0.5).mean())


def slow_judd(pred, mask):
  values = (pred - pred.min()) / (pred.max() - pred.min())
  fixated = sorted(values[mask], reverse=True)
  tp, fp = [0.0], [0.0]
  for i, threshold in enumerate(fixated, 1):
    tp.append(i / len(fixated))
    above = (values >= threshold).sum()
    fp.append((above - i) / (values.size - len(fixated)))
  return np.trapezoid(tp + [1.0], fp + [1.0])


def slow_stepped(positives, negatives, thresholds):
  tp, fp = [0.0], [0.0]
  for t in sorted(thresholds, reverse=True):
    tp.append(np.mean(positives >= t))
    fp.append(np.mean(negatives >= t))
  return np.trapezoid(tp + [1.0], fp + [1.0])


@st.composite
def images(draw, levels=(2, 3, 21, 10**6)):
  """A map with few or many levels, and fixations with repeats."""
  rng = RNG(draw(st.integers(0, 2**32)))
  h, w = draw(st.integers(2, 13)), draw(st.integers(2, 13))
  top = draw(st.sampled_from(levels))
  pred = rng.integers(0, top, (h, w)) / top
  pred[0, 0] = 1.0  # never flat
  points = rng.integers(0, (h, w), (draw(st.integers(1, 20)), 2))
  points = np.concatenate([points, points[: draw(st.integers(0, 5))]])
  return pred, points, rng


def mask_of(shape, points):
  mask = np.zeros(shape, bool)
  mask[tuple(points.T)] = True
  return mask


@given(images())
def test_rank_aucs_count_ties_half_and_repeats_each_time(image):
  pred, points, rng = image
  positives = pred[tuple(points.T)]
  others = rng.integers(0, pred.shape, (9, 2))
  rest = pred[~mask_of(pred.shape, points)]
  np.testing.assert_allclose(
    location.auc(pred, points),
    slow_rank_auc(positives, pred.ravel()),
  )
  np.testing.assert_allclose(
    location.auc_shuffled(pred, points, others, exact=True),
    slow_rank_auc(positives, pred[tuple(others.T)]),
  )
  if rest.size:
    np.testing.assert_allclose(
      location.auc_nonfixated(pred, points), slow_rank_auc(positives, rest)
    )


@given(images())
def test_judd_follows_matlab_on_ties_and_repeats(image):
  pred, points, _ = image
  mask = mask_of(pred.shape, points)
  ours = location.auc_judd(pred, points)
  if mask.all():
    assert np.isnan(ours)
  else:
    np.testing.assert_allclose(ours, slow_judd(pred, mask), atol=1e-12)


@pytest.mark.parametrize('floor', [0.0, 3.0, -0.4])
@pytest.mark.parametrize('levels', [3, 40, 1 << 20])
@pytest.mark.parametrize('bins', [1, 8, 1 << 8])
def test_ranks_of_large_maps_are_exact(bins, levels, floor, monkeypatch):
  # A large map is one of more values than bins.
  monkeypatch.setattr(location, 'BINS', bins)
  monkeypatch.setattr(location.arrays, 'BLOCK', 100)
  rng = RNG(levels)
  pred = floor + np.floor(rng.random((23, 31)) ** 2 * levels) / levels
  points = rng.integers(0, pred.shape, (40, 2))
  mask = mask_of(pred.shape, points)
  positives = pred[tuple(points.T)]
  same = lambda value: pytest.approx(value, abs=1e-13)
  assert location.auc(pred, points) == same(
    slow_rank_auc(positives, pred.ravel())
  )
  assert location.auc_nonfixated(pred, points) == same(
    slow_rank_auc(positives, pred[~mask])
  )
  assert location.auc_judd(pred, points) == same(slow_judd(pred, mask))
  assert location.auc_judd(pred, points, unique=False) == same(
    slow_pysaliency_judd(pred, points)
  )


@pytest.mark.parametrize('floor', [0, 1, 3, 10, 1e3, -1e3, 1e6])
@pytest.mark.parametrize('other', [0, 1e4])
def test_a_floor_costs_no_digits(floor, other):
  pred, saliency = RNG(0).random((2, 300, 400)) ** 3 + [[[floor]], [[other]]]
  points = RNG(1).integers(0, pred.shape, (30, 2))
  x, y = (
    v - v.mean()
    for v in (pred.astype(np.longdouble), saliency.astype(np.longdouble))
  )
  expected = (x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum())
  assert distribution.cc(pred, saliency) == pytest.approx(
    float(expected), abs=1e-11
  )
  z = (x / np.sqrt((x * x).mean()))[tuple(points.T)].mean()
  assert location.nss(pred, points) == pytest.approx(float(z), abs=1e-9)


def slow_pysaliency_judd(pred, points):
  """Every fixation is a positive, every pixel without one a negative."""
  positives = pred[tuple(points.T)]
  negatives = pred[~mask_of(pred.shape, points)]
  tp, fp = [0.0], [0.0]
  for threshold in [*sorted(positives, reverse=True), pred.min()]:
    tp.append((positives >= threshold).mean())
    fp.append((negatives >= threshold).mean())
  return np.trapezoid(tp, fp)


@given(images())
def test_judd_follows_pysaliency_where_repeats_count(image):
  pred, points, _ = image
  ours = location.auc_judd(pred, points, unique=False)
  if mask_of(pred.shape, points).all():
    assert np.isnan(ours)
  else:
    assert ours == pytest.approx(slow_pysaliency_judd(pred, points), abs=1e-12)


@pytest.mark.parametrize(
  ('points', 'score'),
  [
    # pysaliency's value; jitter breaks ties at random and moves it a little.
    ([(10, 0), (11, 1), (12, 2), (12, 2), (12, 2)], 0.43632),
    ([(10, 0), (11, 1), (12, 2)], None),
  ],
)
@pytest.mark.parametrize('jitter', [False, True])
def test_judd_of_repeated_fixations(points, score, jitter):
  y, x = np.mgrid[:40, :40]
  pred = np.exp(-((x - 20) ** 2 + (y - 20) ** 2) / (2 * np.sqrt(3200)))
  points = np.array(points)
  if score is None:  # without repeats the rules agree
    score = location.auc_judd(pred, points)
  ours = location.auc_judd(pred, points, RNG(0), jitter=jitter, unique=False)
  assert ours == pytest.approx(score, abs=4e-3 if jitter else 5e-6)


def test_a_zero_of_the_baseline_earns_little():
  # 12 maps of 8 bits, all zero in the corner that was fixated.
  y, x = np.mgrid[:96, :128]
  blob = lambda at: np.exp(-((y - 48) ** 2 + (x - at) ** 2) / 200)
  baseline = sum(np.round(255 * blob(at)) for at in range(40, 88, 4))
  corner, pred = np.array([[0, 0]]), 0.1 + blob(64)
  pred[0, 0] = 1
  for minmax in (False, True):
    options = dict(minmax=minmax)
    assert location.ig(pred, corner, baseline, floor=0, **options) > 35
    gain = location.ig(pred, corner, baseline, **options)
    density = (pred - minmax * pred.min()) / (pred - minmax * pred.min()).sum()
    mixed = 0.99 * density[0, 0] + 0.01 / pred.size
    assert gain == pytest.approx(np.log2(mixed * pred.size / 0.01))
    assert gain < 13
    # The baseline gains nothing over itself; to swap both turns the sign.
    assert location.ig(3 * baseline, corner, baseline, **options) == 0
    loss = location.ig(baseline, corner, pred, **options)
    assert loss == pytest.approx(-gain)


@given(st.integers(0, 10**6), st.sampled_from([3, 10, 20, 40, 10**6]))
def test_stepped_auc_thresholds(seed, levels):
  rng = RNG(seed)
  positives = rng.integers(0, levels + 1, 7) / levels
  negatives = rng.integers(0, levels + 1, 9) / levels
  top = max(positives.max(), negatives.max())
  for step in (0.1, 0.01):
    kept = [i * step for i in range(102) if i * step <= top]
    # A range whose end is missed by round-off ends there.
    nearest = round(top / step)
    if abs(nearest * step - top) < 1e-12 and nearest * step > top:
      kept.append(top)
    np.testing.assert_allclose(
      location.stepped_auc(positives, negatives, step=step),
      slow_stepped(positives, negatives, kept),
    )
    np.testing.assert_allclose(
      location.stepped_auc(positives, negatives, step=step, closed=False),
      slow_stepped(positives, negatives, np.arange(0, top, step)),
    )


def test_a_quantised_map_meets_its_thresholds_as_in_octave():
  # 0.3 < 3 * 0.1 in floating point, so a value of 0.3 is below the threshold,
  # unless it is the highest of all.
  low, high = np.array([0.3]), np.array([0.3, 1.0])
  assert location.stepped_auc(low, np.array([0.25]), step=0.1) == 1
  assert location.stepped_auc(high, np.array([0.25]), step=0.1) == 0.75


@given(images())
def test_salicon_sauc_takes_own_pixels_out(image):
  pred, points, rng = image
  others = rng.integers(0, pred.shape, (30, 2))
  negatives = mask_of(pred.shape, others) & ~mask_of(pred.shape, points)
  ours = salicon.salicon_sauc(pred, points, others)
  if not negatives.any():
    assert np.isnan(ours)
    return
  values = (pred - pred.min()) / (pred.max() - pred.min())
  positives, negatives = values[tuple(points.T)], values[negatives]
  top = max(positives.max(), negatives.max())
  reference = slow_stepped(positives, negatives, np.arange(0, top, 0.01))
  np.testing.assert_allclose(ours, reference)


def test_salicon_auc_and_cc():
  rng = RNG(0)
  pred = ndimage.gaussian_filter(rng.random((120, 160)), 5)
  points = rng.integers(0, pred.shape, (80, 2))
  points = np.concatenate([points, points[:20]])
  ours = salicon.salicon_auc(pred, points, RNG(0), samples=10**6)
  values = (pred - pred.min()) / (pred.max() - pred.min())
  thresholds = np.arange(0, 1, 0.01)
  reference = slow_stepped(values[tuple(points.T)], values.ravel(), thresholds)
  # The draw of 10^6 pixels has a standard error of 0.0003.
  assert abs(ours - reference) < 1.2e-3
  blurred = ndimage.gaussian_filter(
    mask_of(pred.shape, points).astype(float), 19
  )
  reference = np.corrcoef(pred.ravel(), blurred.ravel())[0, 1]
  assert abs(salicon.salicon_cc(pred, points) - reference) < 1e-9


@given(images())
def test_exact_auc_ignores_monotone_maps(image):
  pred, points, _ = image
  for change in (np.sqrt, np.exp, lambda x: 3 * x**3 + 1):
    assert location.auc(change(pred), points) == location.auc(pred, points)


def maps(seed, count=2, shape=(9, 12)):
  rng = RNG(seed)
  return [rng.random(shape) ** 3 for _ in range(count)]


@given(st.integers(0, 10**6), st.floats(1e-6, 1e6), st.floats(0, 1e3))
def test_cc_and_nss_ignore_affine_maps(seed, scale, offset):
  pred, saliency = maps(seed)
  points = RNG(seed).integers(0, pred.shape, (5, 2))
  moved = scale * (pred + offset)
  assert distribution.cc(moved, saliency) == pytest.approx(
    distribution.cc(pred, saliency), abs=1e-8
  )
  for options in ({}, {'ddof': 1, 'unique': True}):
    assert location.nss(moved, points, **options) == pytest.approx(
      location.nss(pred, points, **options), abs=1e-8
    )


@given(st.integers(0, 10**6))
def test_sim_kl_and_ig_bounds(seed):
  pred, saliency = maps(seed)
  points = RNG(seed).integers(0, pred.shape, (5, 2))
  for minmax in (False, True):
    value = distribution.sim(pred, saliency, minmax=minmax)
    assert 0 <= value < 1
    assert value == distribution.sim(saliency, pred, minmax=minmax)
    assert distribution.sim(pred, 5 * pred, minmax=minmax) == pytest.approx(1)
    assert location.ig(pred, points, 7 * pred, minmax=minmax) == (
      pytest.approx(0, abs=1e-12)
    )
  assert distribution.kl(pred, saliency) > 0
  assert 0 <= distribution.kl(3 * pred, pred) < 1e-12
  assert distribution.cc(pred, 2 * pred + 1) == pytest.approx(1)


def test_kl_conventions():
  pred, saliency = maps(0)
  pred[0, :3] = saliency[0, 2:5] = 0
  p, s = pred / pred.sum(), saliency / saliency.sum()
  assert distribution.kl(pred, saliency, eps=0) == np.inf
  eps = 1e-7
  assert distribution.kl(pred, saliency, eps=eps) == pytest.approx(
    (s * np.log(eps + s / (p + eps))).sum()
  )
  # The general form of pysaliency.
  p, s = (x / x.max() + 1e-20 for x in (pred, saliency))
  assert distribution.kl(pred, saliency, eps=0, floor=1e-20) == pytest.approx(
    special.rel_entr(s / s.sum(), p / p.sum()).sum()
  )


def test_kl_is_of_the_truth_from_the_prediction():
  # A prediction that misses gaze is worse than one that is too wide.
  wide, narrow = np.ones((2, 2)), np.array([[1.0, 1.0], [0, 0]])
  assert distribution.kl(wide, narrow) == pytest.approx(np.log(2))
  assert distribution.kl(narrow, wide) > 15


def linear_programme(p, s):
  """Transport of density p into s by SciPy, all bins and routes kept."""
  points = np.argwhere(np.ones(p.shape))
  cost = np.linalg.norm(points[:, None] - points[None], axis=-1)
  size = p.size
  out = np.kron(np.eye(size), np.ones(size))
  into = np.kron(np.ones(size), np.eye(size))
  actual = optimize.linprog(
    cost.ravel(),
    A_eq=np.concatenate([out, into]),
    b_eq=np.concatenate([p.ravel(), s.ravel()]),
  )
  return actual.fun


@pytest.mark.parametrize('shape', [(15, 20), (14, 19), (3, 23)])
def test_emd_is_the_linear_programme(shape):
  pred, saliency = maps(1, shape=shape)
  cell = 4

  def grid(x):
    rows, columns = (-(-n // cell) for n in x.shape)
    out = np.zeros((rows, columns))
    for i, j in itertools.product(*map(range, x.shape)):
      out[i // cell, j // cell] += x[i, j]
    return out / out.sum()

  ours = distribution.emd(pred, saliency, cell=cell)
  assert ours == pytest.approx(linear_programme(grid(pred), grid(saliency)))
  assert distribution.emd(2 * pred, pred, cell=cell) == pytest.approx(0)


def test_emd_is_in_cells():
  pred, saliency = np.zeros((2, 96, 160))
  pred[5, 7] = 2
  saliency[5 + 64, 7 + 96] = 9
  assert distribution.emd(pred, saliency) == pytest.approx(np.hypot(2, 3))
  assert distribution.emd(pred, saliency, cell=16) == pytest.approx(
    np.hypot(4, 6)
  )


def test_repeated_fixations_count_unless_merged():
  pred, baseline = maps(3)
  points = np.array([[1, 1], [2, 5], [2, 5], [2, 5]])
  merged = points[:2]
  for fn, needed, merges in [
    (location.auc, (), {}),
    (location.auc_nonfixated, (), {}),
    (location.nss, (), {'unique': True}),
    (location.ig, (baseline,), {'unique': True}),
    (location.auc_judd, (), {'unique': True}),
  ]:
    count = {'unique': False} if fn is location.auc_judd else {}
    assert fn(pred, points, *needed, **count) != pytest.approx(
      fn(pred, merged, *needed, **count)
    )
    if merges:
      assert fn(pred, points, *needed, **merges) == pytest.approx(
        fn(pred, merged, *needed, **merges)
      )


def test_jitter_breaks_ties_and_is_seeded():
  rng = RNG(0)
  pred = rng.integers(0, 3, (40, 50)).astype(float)
  points = rng.integers(0, pred.shape, (60, 2))
  jittered = location.auc_judd(pred, points, RNG(1), jitter=True)
  assert jittered == location.auc_judd(pred, points, RNG(1), jitter=True)
  exact = location.auc_nonfixated(pred, np.unique(points, axis=0))
  # Broken ties fall either way; unbroken ones undercount hits.
  assert abs(jittered - exact) < 0.05
  assert location.auc_judd(pred, points) < exact - 0.05
  with pytest.raises(ValueError, match='Generator'):
    location.auc_judd(pred, points, jitter=True)


def test_course_resizes_like_a_image():
  shape = 240, 320
  pred, saliency = maps(7, shape=shape)
  points = np.array([[100, 100], [100, 100], [0, 319]])
  resized = course._resize(pred, course.SIZE)
  assert resized.shape == course.SIZE
  assert course.course_auc(pred, pred) == pytest.approx(1)
  assert course.course_cc(resized, resized) == course.course_cc(pred, pred)
  # Enlarged 1.2 times, a point covers up to 3 x 3 pixels.
  flat = np.zeros(shape, np.uint8)
  flat[tuple(points.T)] = 255
  patch = course._resize(flat, course.SIZE) > 0
  assert 4 < patch.sum() < 20
  expected = (resized[patch].mean() - resized.mean()) / resized.std(ddof=1)
  assert course.course_nss(pred, points) == pytest.approx(expected)


@given(st.integers(0, 1000))
@settings(max_examples=20)
def test_course_auc_is_linear_in_the_overlap(seed):
  rng = RNG(seed)
  ranks = np.arange(1000.0).reshape(25, 40)
  pred = rng.permutation(ranks.ravel()).reshape(ranks.shape)
  # The upper fifth leaves out the value of rank 800 itself.
  overlap = ((pred > 800) & (ranks > 800)).sum()
  hit, miss = overlap / 199, (199 - overlap) / 801
  value = course.course_auc(pred, ranks, size=None)
  assert value == pytest.approx(0.5 + (hit - miss) / 2)
