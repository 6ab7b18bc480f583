"""Contracts of every loss in the table, and of weighted sums over batches."""

import functools
import pathlib

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax import losses
from salflax.losses import LOSSES, PRESETS, doc, make_loss

SHAPE = (3, 12, 16)
TRAINABLE = [n for n in LOSSES if n == 'kld_released' or 'released' not in n]
each_loss = pytest.mark.parametrize('name', LOSSES)
few = hypothesis.settings(
  max_examples=25,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@functools.cache
def jitted(name):
  return jax.jit(LOSSES[name].fn)


@functools.cache
def gradient(name):
  fn = LOSSES[name].fn
  return jax.jit(jax.grad(lambda p, t, w: fn(p, t, where=w).sum()))


def draw_target(name, rng, shape=SHAPE):
  if LOSSES[name].target == 'fixations':
    return (rng.random(shape) > 0.9).astype(np.float32)
  return rng.uniform(0, 255, shape).astype(np.float32)


def draw_pred(rng, shape=SHAPE):
  return rng.uniform(0.05, 0.95, shape).astype(np.float32)


LIMITS = {
  'zero': np.zeros(SHAPE, np.float32),
  'flat': np.full(SHAPE, 0.1, np.float32),
  'one': np.ones(SHAPE, np.float32),
  'one_hot': np.eye(192, dtype=np.float32)[[0, 5, 191]].reshape(SHAPE),
  'faint': 1e-6 * np.eye(192, dtype=np.float32)[[0, 5, 191]].reshape(SHAPE),
  'two_levels': np.tile(np.float32([0.5, 0.50000006]), (3, 12, 8)),
}


@each_loss
def test_one_number_a_picture(name):
  rng = np.random.default_rng(0)
  pred, target = draw_pred(rng), draw_target(name, rng)
  value = LOSSES[name].fn(pred, target)
  assert value.shape == (3,) and value.dtype == jnp.float32
  alone = [
    LOSSES[name].fn(pred[i : i + 1], target[i : i + 1]) for i in range(3)
  ]
  np.testing.assert_allclose(value, np.concatenate(alone), rtol=2e-6, atol=1e-7)


@each_loss
def test_jit_agrees_with_eager(name):
  rng = np.random.default_rng(1)
  pred, target = draw_pred(rng), draw_target(name, rng)
  where = rng.random(SHAPE) > 0.3
  np.testing.assert_allclose(
    jitted(name)(pred, target, where=where),
    LOSSES[name].fn(pred, target, where=where),
    rtol=2e-6,
    atol=1e-7,
  )


@each_loss
def test_better_prediction_is_lower(name):
  rng = np.random.default_rng(2)
  target = draw_target(name, rng)
  good = target / target.max()
  values = [
    np.asarray(LOSSES[name].fn(np.float32(share * good + 1 - share), target))
    for share in (0.95, 0.5, 0.05)
  ]
  bad = np.asarray(LOSSES[name].fn(1 - good, target))
  if name == 'kld_released':
    # It knows no better than P = 1: the reason not to train with it.
    assert (values[0] > values[2]).all()
    return
  assert (values[0] < bad).all()
  if not LOSSES[name].ignores == 'scale and offset':
    assert (values[0] < values[1]).all() and (values[1] < values[2]).all()


@each_loss
def test_documented_minimum(name):
  minimum = LOSSES[name].minimum
  if minimum is None:
    pytest.skip('no minimum is claimed')
  rng = np.random.default_rng(3)
  target = draw_target(name, rng)
  best = target / target.max(axis=(1, 2), keepdims=True)
  np.testing.assert_allclose(LOSSES[name].fn(best, target), minimum, atol=1e-6)
  for _ in range(5):
    other = np.clip(best + rng.normal(0, 0.1, SHAPE), 0, 1).astype(np.float32)
    assert (LOSSES[name].fn(other, target) > minimum + 1e-5).all()


@each_loss
@pytest.mark.parametrize('factor', [1e-6, 0.02, 7.0, 1e6])
def test_ignored_scale_and_offset(name, factor):
  rng = np.random.default_rng(4)
  pred, target = draw_pred(rng), draw_target(name, rng)
  fn, ignores = LOSSES[name].fn, LOSSES[name].ignores
  value = np.asarray(fn(pred, target))
  scaled = np.asarray(fn(np.float32(factor) * pred, target))
  moved = np.asarray(fn(pred + np.float32(0.7), target))
  same = dict(rtol=2e-5, atol=2e-6)
  if 'scale' in ignores:
    np.testing.assert_allclose(scaled, value, **same)
  else:
    assert (np.abs(scaled - value) > 1e-4).all()
  if 'offset' in ignores:
    np.testing.assert_allclose(moved, value, **same)
  else:
    assert (np.abs(moved - value) > 1e-4).all()


@each_loss
def test_scale_of_the_truth_does_not_matter(name):
  rng = np.random.default_rng(5)
  pred, target = draw_pred(rng), draw_target(name, rng)
  for factor in (1 / 255, 1e4):
    np.testing.assert_allclose(
      LOSSES[name].fn(pred, np.float32(factor) * target),
      LOSSES[name].fn(pred, target),
      rtol=1e-5,
      atol=1e-6,
    )


@each_loss
def test_truth_may_be_integers(name):
  rng = np.random.default_rng(6)
  pred, target = draw_pred(rng), draw_target(name, rng).round()
  np.testing.assert_array_equal(
    LOSSES[name].fn(pred, target.astype(np.uint8)),
    LOSSES[name].fn(pred, target),
  )


@each_loss
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('limit', LIMITS)
def test_finite_on_limiting_predictions(name, limit, dtype):
  rng = np.random.default_rng(7)
  pred = jnp.asarray(LIMITS[limit], dtype)
  where = np.ones(SHAPE, bool)
  targets = [draw_target(name, rng), *LIMITS.values()]
  for target in targets:
    value = jitted(name)(pred, target)
    assert value.dtype == jnp.float32 and np.isfinite(value).all()
    grad = gradient(name)(pred, target, where)
    assert grad.dtype == dtype
    assert np.isfinite(np.asarray(grad, np.float32)).all()


@each_loss
@pytest.mark.parametrize('limit', LIMITS)
def test_finite_on_limiting_truths(name, limit):
  pred = draw_pred(np.random.default_rng(8))
  target = LIMITS[limit]
  assert np.isfinite(jitted(name)(pred, target)).all()
  where = np.ones(SHAPE, bool)
  assert np.isfinite(gradient(name)(pred, target, where)).all()
  assert np.isfinite(gradient(name)(pred, target, np.zeros(SHAPE))).all()
  assert np.isfinite(jitted(name)(pred, target, where=np.zeros(SHAPE))).all()


def test_values_on_limiting_maps():
  rng = np.random.default_rng(9)
  saliency, fixations = draw_target('kld', rng), draw_target('nss', rng)
  uniform = np.full(SHAPE, 1 / 192)
  s = saliency / saliency.sum((1, 2), keepdims=True)
  to_uniform = (s * np.log(s / uniform)).sum((1, 2))
  for limit in ('zero', 'flat', 'one'):
    flat = LIMITS[limit]
    np.testing.assert_array_equal(LOSSES['cc'].fn(flat, saliency), 1)
    np.testing.assert_array_equal(LOSSES['nss'].fn(flat, fixations), 0)
    np.testing.assert_allclose(
      LOSSES['kld'].fn(flat, saliency), to_uniform, rtol=0, atol=2e-6
    )
  pred, zero = draw_pred(rng), LIMITS['zero']
  np.testing.assert_array_equal(LOSSES['kld'].fn(pred, zero), 0)
  np.testing.assert_array_equal(LOSSES['cc'].fn(pred, zero), 1)
  np.testing.assert_array_equal(LOSSES['nss'].fn(pred, zero), 0)


@pytest.mark.parametrize('name', TRAINABLE)
@pytest.mark.parametrize('limit', ['zero', 'flat'])
def test_a_flat_prediction_can_leave(name, limit):
  # A guard that also kills the gradient would leave a dead network dead.
  target = draw_target(name, np.random.default_rng(10))
  grad = gradient(name)(LIMITS[limit], target, np.ones(SHAPE, bool))
  for downhill, truth in zip(-np.asarray(grad), target):
    assert np.corrcoef(downhill.ravel(), truth.ravel())[0, 1] > 0.5
  assert np.abs(grad).max() < 100


@pytest.mark.parametrize('name', LOSSES)
def test_gradient_against_finite_differences(name):
  rng = np.random.default_rng(11)
  shape = (2, 4, 5)
  with jax.enable_x64(True):
    pred = rng.uniform(0.1, 0.9, shape)
    target = draw_target(name, rng, shape).astype(np.float64)
    where = rng.random(shape) > 0.2
    target[:, 1, 1], where[:, 1, 1] = 1, True
    fn = lambda p: LOSSES[name].fn(p, target, where=where)
    value = fn(jnp.asarray(pred))
    assert value.dtype == jnp.float64
    found = np.asarray(jax.grad(lambda p: fn(p).sum())(jnp.asarray(pred)))
    if name not in TRAINABLE:
      np.testing.assert_array_equal(found, 0)
      return
    expected = np.zeros(shape)
    for at in np.ndindex(shape):
      step = np.zeros(shape)
      step[at] = 1e-6
      expected[at] = (fn(pred + step) - fn(pred - step)).sum() / 2e-6
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
  assert (found[~where] == 0).all() and np.abs(found[where]).max() > 1e-4


@each_loss
def test_padding_weighs_nothing(name):
  rng = np.random.default_rng(12)
  shape = (2, 9, 7)
  pred, target = draw_pred(rng, shape), draw_target(name, rng, shape)
  inside = LOSSES[name].fn(pred, target)
  border = ((0, 0), (2, 3), (4, 1))
  where = np.pad(np.ones(shape, bool), border)
  for junk in (0.0, 5.0, np.nan):
    padded = [np.pad(x, border, constant_values=junk) for x in (pred, target)]
    np.testing.assert_allclose(
      LOSSES[name].fn(*padded, where=where), inside, rtol=1e-5, atol=1e-6
    )
    grad = gradient(name)(*padded, where)
    assert np.isfinite(grad).all() and (np.asarray(grad)[~where] == 0).all()


maps_01 = hnp.arrays(np.float32, (1, 6, 5), elements=st.floats(0, 1, width=32))


@each_loss
@few
@hypothesis.given(pred=maps_01, target=maps_01)
def test_any_maps(name, pred, target):
  value = float(jitted(name)(pred, target)[0])
  grad = gradient(name)(pred, target, np.ones(pred.shape, bool))
  assert np.isfinite(value) and np.isfinite(grad).all()
  bounds = {
    'mse': (0, 1),
    'kld': (0, 37),
    'cc': (0, 2),
    'sim': (0, 1),
    'kld_released': (-1, 0),
  }
  low, high = bounds.get(name.replace('_released', ''), (-6, 6))
  if name == 'kld_released':
    low, high = bounds[name]
  assert low - 1e-5 <= value <= high + 1e-5


@each_loss
def test_wrong_shapes_and_types(name):
  fn, good = LOSSES[name].fn, np.ones((2, 4, 5), np.float32)
  with pytest.raises(ValueError, match=r'\[4, 5\].*\[4, 5\]'):
    fn(good[0], good[0])
  with pytest.raises(ValueError, match=r'\[2, 4, 5, 1\]'):
    fn(good[..., None], good[..., None])
  with pytest.raises(ValueError, match=r'\[2, 4, 5\].*\[1, 4, 5\]'):
    fn(good, good[:1])
  with pytest.raises(ValueError, match=r'where.*\[2, 4\]'):
    fn(good, good, where=np.ones((2, 4)))
  with pytest.raises(ValueError, match='int32'):
    fn(good.astype(np.int32), good)
  with pytest.raises(ValueError, match='complex64'):
    fn(good, good.astype(np.complex64))


def test_eps_that_float32_cannot_hold():
  good = np.ones((2, 4, 5), np.float32)
  for eps in (0, 1e-30, float('nan')):
    with pytest.raises(ValueError, match='eps'):
      LOSSES['kld'].fn(good, good, eps=eps)


def example_batch(seed=0, shape=(4, 12, 16)):
  rng = np.random.default_rng(seed)
  batch = {
    'saliency': draw_target('kld', rng, shape),
    'fixations': draw_target('nss', rng, shape),
    'box': np.int32(
      [[0, 0, 12, 16], [2, 0, 8, 12], [0, 3, 8, 12], [1, 1, 8, 12]]
    ),
  }
  return draw_pred(rng, shape), batch


def by_hand(spec, pred, batch):
  """Means over cropped pictures, one at a time."""
  means = {}
  for term in losses.parse(spec):
    values = []
    for i in range(len(pred)):
      y, x, h, w = batch['box'][i]
      cut = np.s_[i : i + 1, y : y + h, x : x + w]
      target = batch[term.entry.target][cut]
      if batch.get('mask', np.ones(len(pred), bool))[i] and target.any():
        values.append(float(term.entry.fn(pred[cut], target, **term.kwargs)[0]))
    means[term.name] = np.mean(values)
  return means


@pytest.mark.parametrize(
  'spec', [*PRESETS, 'nss', 'kld + 0.5*sim(minmax=False) + 2*nss(ddof=0)']
)
@pytest.mark.parametrize('masked', [False, True])
def test_weighted_sum_over_a_batch(spec, masked):
  pred, batch = example_batch()
  batch['fixations'][1] = 0
  batch['fixations'][2, :, :3] = 1  # in the padding of a picture with others
  if masked:
    batch['mask'] = np.array([True, True, False, True])
    pred[2] = np.nan
  step = jax.jit(jax.value_and_grad(make_loss(spec), has_aux=True))
  (total, terms), grad = step(pred, batch)
  expected = by_hand(spec, pred, batch)
  assert total.shape == () and set(terms) == set(expected)
  for name, value in expected.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-5, atol=1e-6)
  weights = {t.name: t.weight for t in losses.parse(spec)}
  np.testing.assert_allclose(
    total,
    sum(weights[n] * v for n, v in expected.items()),
    rtol=1e-5,
    atol=2e-6,
  )
  assert np.isfinite(grad).all()


def test_batch_without_any_truth():
  pred, batch = example_batch()
  batch = {k: np.zeros_like(v) if k != 'box' else v for k, v in batch.items()}
  total, _ = make_loss('paper1_paper')(pred, batch)
  assert total == 0


def test_no_box_means_the_whole_map():
  pred, batch = example_batch()
  whole = dict(batch, box=np.int32([[0, 0, 12, 16]] * 4))
  del batch['box']
  loss_fn = make_loss('paper1_paper')
  assert loss_fn(pred, batch)[0] == loss_fn(pred, whole)[0]


def test_presets_are_the_published_weights():
  weights = {
    name: {t.name: t.weight for t in losses.parse(name)} for name in PRESETS
  }
  assert weights['paper1_paper'] == dict(kld=10, mse=3, cc=2, nss=1, sim=1)
  assert weights['transalnet'] == dict(kld=10, cc=2, nss=1, sim=1)
  assert weights['tranblend'] == dict(kld=10, mse=4, cc=2, nss=1, sim=1)


def test_released_preset_only_pushes_up():
  # The gradient of its divergence is -S / n whatever is predicted, and that of
  # all else is nothing.
  pred, batch = example_batch()
  del batch['box']
  grad = jax.grad(lambda p: make_loss('paper1_released')(p, batch)[0])(pred)
  s = batch['saliency'] / batch['saliency'].max((1, 2), keepdims=True)
  np.testing.assert_allclose(grad, -10 * s / s.size, rtol=1e-5)


@pytest.mark.parametrize(
  ('spec', 'hint'),
  [
    ('10*kll + cc', "'kld'"),
    ('transalnt', "'transalnet'"),
    ('kld(epz=1e-7)', "'eps'"),
    ('kld - nss', 'minus'),
    ('kld + kld', 'twice'),
    ('', 'spec'),
  ],
)
def test_bad_specs(spec, hint):
  with pytest.raises(ValueError, match=hint):
    make_loss(spec)


def test_missing_target_and_bad_box():
  pred, batch = example_batch()
  with pytest.raises(KeyError, match='fixations'):
    make_loss('nss')(pred, {'saliency': batch['saliency']})
  with pytest.raises(ValueError, match='box'):
    make_loss('cc')(pred, dict(batch, box=batch['box'][:3]))


def test_targets_of_a_spec():
  assert losses.targets('10*kld + cc') == ('saliency',)
  assert losses.targets('transalnet') == ('fixations', 'saliency')


def test_table_is_filled_in():
  for name, loss in LOSSES.items():
    assert loss.target in ('saliency', 'fixations'), name
    assert loss.formula and loss.range and loss.reference, name
    assert loss.ignores in ('', 'scale', 'scale and offset'), name


def test_documentation_is_current():
  path = pathlib.Path(__file__).resolve().parent.parent / 'docs' / 'losses.md'
  assert path.read_text() == doc.render(), 'run python -m salflax.losses.doc'
