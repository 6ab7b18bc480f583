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
from salflax.losses import PRESETS, SIMILARITIES, doc, make_loss

KERNELS = np.random.default_rng(99).normal(0, 0.5, (2, 3, 3, 4, 4))


def see(x):
  """Stands in for VGG-16: two convolutions with ReLUs, each pooled."""
  x, out = jnp.repeat(x[..., None] - 0.4, 4, -1), []
  for kernel in KERNELS:
    x = jax.lax.conv_general_dilated(
      *(x, jnp.asarray(kernel, x.dtype), (1, 1), 'SAME'),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    x = jax.nn.relu(x).max((2, 4))
    out.append(x)
  return out


def given(loss):
  return loss._replace(fn=functools.partial(loss.fn, vgg=see))


LOSSES = {
  name: given(loss) if loss.needs else loss
  for name, loss in losses.LOSSES.items()
}
PERCEPTUAL = ('df', 'gm')
SHAPE = (3, 12, 16)
ALL = np.ones(SHAPE, bool)
TRAINABLE = [n for n in LOSSES if n == 'kld_released' or 'released' not in n]
# These know no better than P = 1 everywhere: reasons not to train with them.
PUSH_UP = ('kld_released', 'nll_printed')
# A sum over 192 pixels, where others have the mean.
SUMS = ('bce_sum', 'focal_printed')
BOUNDS = {
  'mse': (0, 1),
  'mse_released': (0, 1),
  'ead': (0, np.e - 1),
  'ae': (0, 1),
  'mlnet_mse': (0, 10),
  'mlnet_mse_maxnorm': (0, 10),
  'sig_mse': (0, 10),
  'center_bias': (0, 0.1),
  'kld': (0, 36.1),
  'kld_printed': (0, 36.1),
  'kld_printed_raw': (-30 / np.e, 30 * 36.1),
  'kld_released': (-1, 0),
  'bhat': (0, 27.7),
  'hellinger': (0, 1),
  'bce': (0, 17.2),
  'bce_sum': (0, 30 * 17.2),
  'wbce': (0, 8.6),
  'focal': (0, 17.2),
  'focal_printed': (0, 30 * 17.2),
  'nll': (0, 36.1),
  'df': (0, 1000),
  'gm': (0, 1e6),
  'nll_printed': (0, 17.2),
  'cc': (0, 2),
  'cc_released': (0, 2),
  'sim': (0, 1),
  'sim_released': (0, 1),
  'nss': (-6, 6),
  'nss_printed': (-6, 6),
  'nss_released': (-6, 6),
}
each_loss = pytest.mark.parametrize('name', LOSSES)
few = hypothesis.settings(
  max_examples=20,
  deadline=None,
  suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


@functools.cache
def compiled(name):
  """Value and gradient, compiled once a type: compiling is what takes time."""

  def both(pred, target, where):
    fn = lambda p: LOSSES[name].fn(p, target, where=where)
    value, pull = jax.vjp(fn, pred)
    return value, pull(jnp.ones_like(value))[0]

  return jax.jit(both)


def value_of(name, pred, target, where=ALL):
  return np.asarray(compiled(name)(pred, target, where)[0])


def gradient_of(name, pred, target, where=ALL):
  return compiled(name)(pred, target, where)[1]


def draw_target(name, rng, shape=SHAPE):
  target = LOSSES[name].target
  if target == 'fixations':
    return (rng.random(shape) > 0.9).astype(np.float32)
  drawn = rng.uniform(0, 255, shape).astype(np.float32)
  return to_one(drawn) if target == 'center' else drawn


def to_one(target):
  return target / target.max(axis=(1, 2), keepdims=True)


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
  value = compiled(name)(pred, target, ALL)[0]
  assert value.shape == (3,) and value.dtype == jnp.float32
  # Nothing of the other pictures: they may be anything.
  for i in range(3):
    one = np.arange(3)[:, None, None] == i
    alone = value_of(name, np.where(one, pred, 0.3), np.where(one, target, 0))
    np.testing.assert_allclose(value[i], alone[i], rtol=2e-6, atol=1e-7)


@each_loss
def test_jit_agrees_with_eager(name):
  rng = np.random.default_rng(1)
  pred, target = draw_pred(rng), draw_target(name, rng)
  where = rng.random(SHAPE) > 0.3
  np.testing.assert_allclose(
    value_of(name, pred, target, where),
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
    value_of(name, np.float32(share * good + 1 - share), target)
    for share in (0.95, 0.5, 0.05)
  ]
  bad = value_of(name, 1 - good, target)
  if name in PUSH_UP:
    assert (values[0] >= values[2] - 1e-6).all()
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
  best = to_one(target)
  least = value_of(name, best, target)
  if isinstance(minimum, str):
    s = np.clip(best.astype(np.float64), 1e-300, 1 - 1e-16)
    entropy = -(s * np.log(s) + (1 - s) * np.log(1 - s))
    total = np.mean if minimum.startswith('mean') else np.sum
    minimum = total(entropy, (1, 2))
  np.testing.assert_allclose(least, minimum, rtol=1e-6, atol=1e-6)
  for _ in range(5):
    other = np.clip(best + rng.normal(0, 0.1, SHAPE), 0, 1).astype(np.float32)
    assert (value_of(name, other, target) > minimum + 1e-5).all()


@each_loss
@pytest.mark.parametrize('factor', [1e-6, 0.02, 7.0, 1e6])
def test_ignored_scale_and_offset(name, factor):
  rng = np.random.default_rng(4)
  pred, target = draw_pred(rng), draw_target(name, rng)
  ignores = LOSSES[name].ignores
  value = value_of(name, pred, target)
  scaled = value_of(name, np.float32(factor) * pred, target)
  moved = value_of(name, pred + np.float32(0.7), target)
  # What is out of [0, 1] may cost much, but not overflow.
  assert np.isfinite(scaled).all() and np.isfinite(moved).all()
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
  value = value_of(name, pred, target)
  for factor in (1 / 255, 1e4):
    scaled = value_of(name, pred, np.float32(factor) * target)
    if LOSSES[name].target == 'center':  # a mean is what it is
      assert (np.abs(scaled - value) > 1e-3).all()
    else:
      np.testing.assert_allclose(scaled, value, rtol=1e-5, atol=1e-6)


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
def test_finite_on_limiting_maps(name, dtype):
  rng = np.random.default_rng(7)
  some, none = [draw_pred(rng)], np.zeros(SHAPE, bool)
  for pred in some + list(LIMITS.values()):
    pred = jnp.asarray(pred, dtype)
    for target in [draw_target(name, rng), *LIMITS.values()]:
      value, grad = compiled(name)(pred, target, ALL)
      assert value.dtype == jnp.float32 and np.isfinite(value).all()
      assert grad.dtype == dtype
      assert np.isfinite(np.asarray(grad, np.float32)).all()
    value, grad = compiled(name)(pred, target, none)
    assert np.isfinite(value).all()
    np.testing.assert_array_equal(np.asarray(grad, np.float32), 0)


def test_values_on_limiting_maps():
  rng = np.random.default_rng(9)
  saliency, fixations = draw_target('kld', rng), draw_target('nss', rng)
  s = saliency / saliency.sum((1, 2), keepdims=True)
  to_uniform = (s * np.log(s * 192)).sum((1, 2))
  from_uniform = -np.log(s * 192).mean((1, 2))
  overlap = np.sqrt(s / 192).sum((1, 2))
  close = dict(rtol=0, atol=5e-6)
  for limit in ('zero', 'flat', 'one'):
    flat = LIMITS[limit]
    assert (value_of('cc', flat, saliency) == 1).all()
    assert (value_of('nss', flat, fixations) == 0).all()
    for name, expected in [
      ('kld', to_uniform),
      ('kld_printed', from_uniform),
      ('bhat', -np.log(overlap)),
      ('hellinger', np.sqrt(1 - overlap)),
    ]:
      np.testing.assert_allclose(
        value_of(name, flat, saliency), expected, **close
      )
    np.testing.assert_allclose(
      value_of('nll', flat, fixations), np.log(192), rtol=1e-6
    )
  pred, zero = draw_pred(rng), LIMITS['zero']
  for name in ('kld', 'kld_printed', 'bhat', 'hellinger', 'nss', 'nll'):
    np.testing.assert_array_equal(value_of(name, pred, zero), 0)
  np.testing.assert_array_equal(value_of('cc', pred, zero), 1)
  hot = LIMITS['one_hot']
  for name in ('bce', 'bce_sum', 'wbce', 'focal', 'focal_printed'):
    np.testing.assert_array_equal(value_of(name, hot, hot), 0)
  np.testing.assert_allclose(
    value_of('bce', 1 - hot, hot), 1 + np.log(1e7), rtol=1e-6
  )
  # Apart: two pixels of sqrt(eps / n), next to which the rest is nothing.
  np.testing.assert_allclose(
    value_of('bhat', hot, hot[::-1])[0], -np.log(2e-6 / 192**0.5), rtol=1e-4
  )


@pytest.mark.parametrize('name', TRAINABLE)
@pytest.mark.parametrize('limit', ['zero', 'flat'])
def test_a_flat_prediction_can_leave(name, limit):
  # A guard that also kills the gradient would leave a dead network dead.
  target = draw_target(name, np.random.default_rng(10))
  grad = np.asarray(gradient_of(name, LIMITS[limit], target))
  if name in PERCEPTUAL:  # what they see may point anywhere, but down
    step = -1e-3 * grad / np.abs(grad).max()
    before, after = (
      value_of(name, p, target) for p in (LIMITS[limit], LIMITS[limit] + step)
    )
    assert (after < before).all()
    return
  for downhill, truth in zip(-grad, target):
    if name == 'ae':  # it knows a direction, but no distance
      assert (
        np.sign(downhill) == np.sign(truth / 255 - LIMITS[limit][0])
      ).all()
      continue
    assert np.corrcoef(downhill.ravel(), truth.ravel())[0, 1] > 0.5
  logs = ('bce', 'bce_sum', 'wbce', 'focal', 'focal_printed', 'nll_printed')
  steep = name in logs and limit == 'zero'
  assert np.abs(grad).max() < (
    1.1e7 if steep else 1000 if name in SUMS else 100
  )


@pytest.mark.parametrize('name', LOSSES)
def test_gradient_against_finite_differences(name):
  rng = np.random.default_rng(11)
  h, w = 4, 5
  with jax.enable_x64(True):
    pred = rng.uniform(0.1, 0.9, (1, h, w))
    target = draw_target(name, rng, (1, h, w)).astype(np.float64)
    where = rng.random((1, h, w)) > 0.2
    target[:, 1, 1], where[:, 1, 1] = target.max() or 1, True

    def fn(p):
      whole = lambda x: jnp.broadcast_to(x, p.shape)
      return LOSSES[name].fn(p, whole(target), where=whole(where))

    assert fn(jnp.asarray(pred)).dtype == jnp.float64
    found = np.asarray(jax.grad(lambda p: fn(p).sum())(jnp.asarray(pred)))
    if name not in TRAINABLE:
      np.testing.assert_array_equal(found, 0)
      return
    steps = 1e-6 * np.eye(h * w).reshape(h * w, h, w)
    ends = np.asarray(
      fn(jnp.asarray(np.concatenate([pred + steps, pred - steps])))
    )
  expected = (ends[: h * w] - ends[h * w :]).reshape(1, h, w) / 2e-6
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
  assert (found[~where] == 0).all() and np.abs(found[where]).max() > 1e-4


@each_loss
def test_padding_weighs_nothing(name):
  rng = np.random.default_rng(12)
  shape = (3, 7, 11)
  pred, target = draw_pred(rng, shape), draw_target(name, rng, shape)
  inside = LOSSES[name].fn(pred, target)
  border = ((0, 0), (2, 3), (4, 1))
  where = np.pad(np.ones(shape, bool), border)
  for junk in (0.0, 5.0, np.nan):
    padded = [np.pad(x, border, constant_values=junk) for x in (pred, target)]
    value, grad = compiled(name)(*padded, where)
    if name in PERCEPTUAL:  # whose cells at the border see it
      inside = value if junk == 0 else inside
    np.testing.assert_allclose(value, inside, rtol=1e-5, atol=1e-6)
    assert np.isfinite(grad).all() and (np.asarray(grad)[~where] == 0).all()


maps_01 = hnp.arrays(np.float32, (6, 5), elements=st.floats(0, 1, width=32))


@each_loss
@few
@hypothesis.given(pred=maps_01, target=maps_01)
def test_any_maps(name, pred, target):
  corner = lambda x: np.pad(x[None], ((1, 1), (3, 3), (11, 0)))
  where = corner(np.ones((6, 5), bool))
  value, grad = compiled(name)(corner(pred), corner(target), where)
  assert np.isfinite(value).all() and np.isfinite(grad).all()
  low, high = BOUNDS[name]
  assert low - 1e-5 <= value[1] <= high + 1e-5


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


@pytest.mark.parametrize(
  ('spec', 'hint'),
  [
    ('kld(eps=0)', 'eps must be a number at least 1e-18; found 0'),
    ('kld(eps=1e-30)', 'at least 1e-18'),
    ("kld(eps='small')", "found 'small'"),
    ('mlnet_mse(alpha=1)', 'alpha must be a number above 1; found 1'),
    ('mse + mlnet_mse(alpha=0.9)', 'above 1'),
    ('mlnet_mse_maxnorm(alpha=1.0)', 'above 1'),
    ('mlnet_mse(alpha=1e999)', 'found inf'),
    ('sig_mse(lam=1.5)', 'lam must be a number at least 0 and at most 1'),
    ('sig_mse(lam=-0.1)', 'at most 1; found -0.1'),
    ('sig_mse(k=0)', 'k must be a number above 0'),
    ('center_bias(alpha=-1)', 'alpha must be a number at least 0'),
    ('wbce(w=1.2)', 'w must be a number at least 0 and at most 1'),
    ('wbce(w=True)', 'found True'),
    ('bce(eps=0.9)', 'at most 0.5'),
    ('focal(gamma=0.5)', 'gamma must be a number at least 1'),
    ('focal_printed(gamma=0)', 'gamma must be a number at least 1'),
    ('bhat(eps=0)', 'at least 1e-18 and at most 0.5'),
    ('hellinger(eps=2)', 'at most 0.5'),
    ('kld_printed(eps=0)', 'kld_printed: eps'),
    ('kld_printed_raw(eps=0)', 'kld_printed_raw: eps'),
    ('nll(eps=0)', 'nll: eps'),
    ('nll_printed(eps=0)', 'nll_printed: eps'),
    ('sig_mse(lambd=0.5)', "'lam'"),
    ('kld + df', 'perceptual=dict'),
    ('lc2', "df needs VGG-16's features"),
    ('gm(vgg=1)', 'vgg is not written in a spec'),
    ('kld + bhat_printed_sim', 'must not be minimised.*bhat and hellinger'),
  ],
)
def test_options_are_checked_when_the_loss_is_made(spec, hint):
  with pytest.raises(ValueError, match=hint):
    make_loss(spec)


def example_batch(seed=0, shape=(4, 12, 16)):
  rng = np.random.default_rng(seed)
  batch = {
    'saliency': draw_target('kld', rng, shape),
    'fixations': draw_target('nss', rng, shape),
    'center': draw_target('center_bias', rng, shape),
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
  ('spec', 'masked'),
  [
    ('paper1_paper', False),
    ('paper1_released', True),
    ('lc1_r', True),
    ('lc1_printed', False),
    ('nss', True),
    ('kld + 0.5*sim(minmax=False) + 2*nss(ddof=0)', True),
  ],
)
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
  assert weights['lc1'] == dict(kld=10, cc=2, nss=1)
  assert weights['lc1_r'] == dict(kld=10, cc=2, nss=1, center_bias=1)
  assert weights['lc1_printed'] == dict(kld_printed_raw=10, cc=2, nss_printed=1)
  assert list(weights['sam'].values()) == [10, 2, 1]


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
    ('10*kldd + cc', "'kld'"),
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
  without = {k: v for k, v in batch.items() if k != 'center'}
  with pytest.raises(KeyError, match="'center_bias' needs 'center'"):
    make_loss('lc1_r')(pred, without)


def test_targets_of_a_spec():
  assert losses.targets('10*kld + cc') == ('saliency',)
  assert losses.targets('transalnet') == ('fixations', 'saliency')
  assert losses.targets('lc1_r') == ('center', 'fixations', 'saliency')


def test_table_is_filled_in():
  for name, loss in (LOSSES | SIMILARITIES).items():
    assert loss.target in ('saliency', 'fixations', 'center'), name
    assert loss.formula and loss.range and loss.reference, name
    assert loss.ignores in ('', 'scale', 'scale and offset'), name


def test_documentation_is_current():
  path = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'losses.md'
  assert path.read_text() == doc.render(), 'run python -m salflax.losses.doc'
