"""Contracts of every loss in the table, and of weighted sums over batches.

One program computes all losses and gradients of a batch: compiling is what
takes time, so the cases of a test lie along the batch.
"""

import functools
import inspect
import pathlib
import re

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax import losses
from salflax.losses import PRESETS, make_loss, maps

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


def with_network(loss):
  return loss._replace(fn=functools.partial(loss.fn, vgg=see))


LOSSES = {
  name: with_network(loss) if loss.needs else loss
  for name, loss in losses.LOSSES.items()
}
PERCEPTUAL = ('df', 'gm')
ROWS, SIZE = 81, (12, 16)
TRAINABLE = [n for n in LOSSES if n == 'kld_released' or 'released' not in n]
# These know no better than P = 1 everywhere: reasons not to train with them.
PUSH_UP = ('kld_released', 'nll_printed')
# What may be done to the prediction without changing the value.
OFFSET_FREE = ('cc', 'sim', 'nss', 'nss_printed')
OFFSET_FREE += tuple(f'{n}_released' for n in ('cc', 'sim', 'nss'))
SCALE_FREE = OFFSET_FREE + (
  *('mlnet_mse_maxnorm', 'kld', 'kld_printed', 'bhat', 'hellinger', 'nll'),
)
# The value where the prediction is the target scaled to a maximum of 1; None
# where that is not the least value, a word where it depends on the image.
MINIMUM = {name: 0.0 for name in LOSSES} | {
  'bce': 'entropy',
  **dict.fromkeys(('nss', 'nss_printed', 'nss_released')),
  **dict.fromkeys(('nll', 'nll_printed', 'kld_printed_raw', 'kld_released')),
  **dict.fromkeys(('wbce', 'focal', 'focal_printed')),
}
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


@jax.jit
def program(pred, targets, where):
  out = {}
  for name, loss in LOSSES.items():
    fn = lambda p, loss=loss: loss.fn(p, targets[loss.target], where=where)
    value, pull = jax.vjp(fn, pred)
    out[name] = value, pull(jnp.ones_like(value))[0]
  return out


def run(pred, targets, where=None):
  """Values [B] and gradients [B, H, W] by loss; one target may serve all."""
  n, size = len(pred), pred.shape[1:]
  if not isinstance(targets, dict):
    targets = dict.fromkeys(('saliency', 'fixations', 'center'), targets)
  where = np.ones(pred.shape, bool) if where is None else where
  rows = lambda x: jnp.concatenate([x, jnp.zeros((ROWS - n, *size), x.dtype)])
  out = program(*jax.tree.map(rows, (jnp.asarray(pred), targets, where)))
  return {
    name: (np.asarray(value)[:n], np.asarray(grad, np.float64)[:n])
    for name, (value, grad) in out.items()
  }


def values(*args, **kwargs):
  return {k: v for k, (v, _) in run(*args, **kwargs).items()}


def draw_targets(rng, n=3, size=SIZE):
  saliency = rng.uniform(0, 255, (n, *size)).astype(np.float32)
  return {
    'saliency': saliency,
    'fixations': (rng.random((n, *size)) > 0.9).astype(np.float32),
    'center': to_one(rng.uniform(0, 1, (n, *size)).astype(np.float32)),
  }


def draw_pred(rng, n=3, size=SIZE):
  return rng.uniform(0.05, 0.95, (n, *size)).astype(np.float32)


def to_one(target):
  return target / target.max(axis=(1, 2), keepdims=True)


def repeat(targets, times):
  return jax.tree.map(lambda x: np.concatenate([x] * times), targets)


HOT = np.eye(192, dtype=np.float32)[5].reshape(SIZE)
LIMITS = {
  'zero': np.zeros(SIZE, np.float32),
  'flat': np.full(SIZE, 0.1, np.float32),
  'one': np.ones(SIZE, np.float32),
  'one_hot': HOT,
  'corner': np.eye(192, dtype=np.float32)[191].reshape(SIZE),
  'faint': 1e-6 * HOT,
  'tiny': np.float32(1e-30) * HOT,
  'two_levels': np.tile(np.float32([0.5, 0.50000006]), (12, 8)),
}


def test_one_number_an_image():
  rng = np.random.default_rng(0)
  pred, targets = draw_pred(rng), draw_targets(rng)
  together = values(pred, targets)
  # Nothing of the other images: they may be anything.
  for i in range(3):
    one = np.arange(3)[:, None, None] == i
    alone = values(
      np.where(one, pred, np.float32(0.3)),
      {k: np.where(one, v, np.float32(0)) for k, v in targets.items()},
    )
    for name, value in together.items():
      assert value.shape == (3,) and value.dtype == jnp.float32
      np.testing.assert_allclose(
        value[i], alone[name][i], rtol=2e-6, atol=1e-7, err_msg=name
      )


def test_better_prediction_is_lower():
  rng = np.random.default_rng(2)
  targets = draw_targets(rng)
  for key, target in targets.items():
    good = target / target.max()
    shares = [np.float32(s * good + 1 - s) for s in (0.95, 0.5, 0.05)]
    rows = values(
      np.concatenate([*shares, 1 - good]), np.tile(target, (4, 1, 1))
    )
    for name, value in rows.items():
      if LOSSES[name].target != key:
        continue
      near, half, far, bad = value.reshape(4, 3)
      if name in PUSH_UP:
        assert (near >= far - 1e-6).all(), name
        continue
      assert (near < bad).all(), name
      if name not in OFFSET_FREE:
        assert (near < half).all() and (half < far).all(), name


def test_least_value():
  rng = np.random.default_rng(3)
  for key, target in draw_targets(rng).items():
    best = to_one(target)
    others = [
      np.clip(best + rng.normal(0, 0.1, best.shape), 0, 1) for _ in range(5)
    ]
    pred = np.concatenate([best, *others]).astype(np.float32)
    s = np.clip(best.astype(np.float64), 1e-300, 1 - 1e-16)
    entropy = -(s * np.log(s) + (1 - s) * np.log(1 - s)).mean((1, 2))
    for name, value in values(pred, np.tile(target, (6, 1, 1))).items():
      least = MINIMUM[name]
      if least is None or LOSSES[name].target != key:
        continue
      least = entropy if least == 'entropy' else np.float64([least] * 3)
      np.testing.assert_allclose(
        value[:3], least, rtol=1e-6, atol=1e-6, err_msg=name
      )
      assert (value[3:].reshape(5, 3) > least + 1e-5).all(), name


def test_ignored_scale_and_offset():
  rng = np.random.default_rng(4)
  pred, targets = draw_pred(rng), draw_targets(rng)
  factors = np.float32([1e-6, 0.02, 7.0, 1e6, 1e30])
  rows = [pred, pred + np.float32(0.7), *(f * pred for f in factors)]
  for name, value in values(
    np.concatenate(rows), repeat(targets, len(rows))
  ).items():
    plain, moved, *scaled = value.reshape(-1, 3)
    same = dict(rtol=2e-5, atol=2e-6, err_msg=name)
    # What is out of [0, 1] may cost much, but not overflow.
    assert np.isfinite(scaled[:4]).all() and np.isfinite(moved).all(), name
    for other in scaled if name in SCALE_FREE else scaled[:4]:
      if name in SCALE_FREE:
        np.testing.assert_allclose(other, plain, **same)
      else:
        assert (np.abs(other - plain) > 1e-4).all(), name
    if name in OFFSET_FREE:
      np.testing.assert_allclose(moved, plain, **same)
    else:
      assert (np.abs(moved - plain) > 1e-4).all(), name


def test_scale_of_the_truth_does_not_matter():
  rng = np.random.default_rng(5)
  pred, targets = draw_pred(rng), draw_targets(rng)
  rows = [
    {k: np.float32(factor) * v for k, v in targets.items()}
    for factor in (1, 1 / 255, 1e4)
  ]
  stacked = {k: np.concatenate([r[k] for r in rows]) for k in targets}
  for name, value in values(np.tile(pred, (3, 1, 1)), stacked).items():
    plain, *scaled = value.reshape(3, 3)
    for other in scaled:
      if LOSSES[name].target == 'center':  # a mean is what it is
        assert (np.abs(other - plain) > 1e-3).all()
      else:
        np.testing.assert_allclose(
          other, plain, rtol=1e-5, atol=1e-6, err_msg=name
        )


def test_truth_may_be_integers():
  pred = draw_pred(np.random.default_rng(6))
  target = np.random.default_rng(6).integers(0, 255, pred.shape, np.uint8)
  jax.tree.map(
    np.testing.assert_array_equal,
    maps.prepare(pred, target, None),
    maps.prepare(pred, target.astype(np.float32), None),
  )
  for loss in LOSSES.values():
    out = jax.eval_shape(loss.fn, pred, target)
    assert (out.shape, out.dtype) == ((3,), jnp.float32)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_finite_on_limiting_maps(dtype):
  rng = np.random.default_rng(7)
  preds = [draw_pred(rng, 1)[0], *LIMITS.values()]
  for key, drawn in draw_targets(rng, 1).items():
    truths = [drawn[0], *LIMITS.values()]
    pred = jnp.asarray(np.repeat(preds, len(truths), 0), dtype)
    for name, (value, grad) in run(pred, np.tile(truths, (9, 1, 1))).items():
      assert value.dtype == jnp.float32, name
      assert np.isfinite(value).all() and np.isfinite(grad).all(), (name, key)
  nowhere = np.zeros(pred.shape, bool)
  for name, (value, grad) in run(
    pred, np.tile(truths, (9, 1, 1)), nowhere
  ).items():
    assert np.isfinite(value).all() and (grad == 0).all(), name
  for loss in LOSSES.values():
    fn = jax.grad(lambda p, loss=loss: loss.fn(p, p).sum())
    assert jax.eval_shape(fn, pred).dtype == dtype


def test_values_on_limiting_maps():
  rng = np.random.default_rng(9)
  targets = draw_targets(rng)
  s = targets['saliency'] / targets['saliency'].sum((1, 2), keepdims=True)
  overlap = np.sqrt(s / 192).sum((1, 2))
  uniform = {
    'cc': np.ones(3),
    'nss': np.zeros(3),
    'nll': np.log([192] * 3),
    'kld': (s * np.log(s * 192)).sum((1, 2)),
    'kld_printed': -np.log(s * 192).mean((1, 2)),
    'bhat': -np.log(overlap),
    'hellinger': np.sqrt(1 - overlap),
  }
  flats = ('zero', 'flat', 'one', 'tiny')
  flats = [0 * HOT if k == 'tiny' else LIMITS[k] for k in flats]
  rows = values(np.repeat(flats, 3, 0), repeat(targets, 4))
  for name, expected in uniform.items():
    for value in rows[name].reshape(4, 3):
      np.testing.assert_allclose(value, expected, rtol=1e-6, atol=5e-6)
  hot, zero = HOT[None], np.zeros((1, *SIZE), np.float32)
  pred = np.concatenate([draw_pred(rng, 1), hot, 1 - hot, hot])
  rows = values(pred, np.concatenate([zero, hot, hot, hot[:, ::-1]]))
  for name in ('kld', 'kld_printed', 'bhat', 'hellinger', 'nss', 'nll'):
    assert rows[name][0] == 0, name
  assert rows['cc'][0] == 1
  for name in ('bce', 'wbce', 'focal', 'focal_printed'):
    assert rows[name][1] == 0, name
  np.testing.assert_allclose(rows['bce'][2], 1 + np.log(1e7), rtol=1e-6)
  # Apart: two pixels of sqrt(eps / n), next to which the rest is nothing.
  np.testing.assert_allclose(
    rows['bhat'][3], -np.log(2e-6 / 192**0.5), rtol=1e-4
  )


@pytest.mark.parametrize('limit', ['zero', 'flat'])
def test_a_flat_prediction_can_leave(limit):
  # A guard that also kills the gradient would leave a dead network dead.
  targets = draw_targets(np.random.default_rng(10))
  pred = np.tile(LIMITS[limit], (3, 1, 1))
  rows = run(pred, targets)
  for name in TRAINABLE:
    value, grad = rows[name]
    if name in PERCEPTUAL:  # what they see may point anywhere, but down
      step = np.float32(-1e-3 * grad / np.abs(grad).max())
      assert (values(pred + step, targets)[name] < value).all()
      continue
    for downhill, truth in zip(-grad, targets[LOSSES[name].target]):
      if name == 'ae':  # it knows a direction, but no distance
        direction = np.sign(truth / truth.max() - LIMITS[limit])
        assert (np.sign(downhill) == direction).all()
        continue
      assert np.corrcoef(downhill.ravel(), truth.ravel())[0, 1] > 0.5, name
    logs = ('bce', 'wbce', 'focal', 'focal_printed', 'nll_printed')
    steep = name in logs and limit == 'zero'
    summed = name == 'focal_printed'
    assert np.abs(grad).max() < (1.1e7 if steep else 1000 if summed else 100)


SMALL = (4, 5)


def test_gradient_against_finite_differences():
  rng = np.random.default_rng(11)
  pred = rng.uniform(0.1, 0.9, SMALL)
  targets = draw_targets(rng, 1, SMALL)
  where = rng.random(SMALL) > 0.2
  where[1, 1] = True
  for target in targets.values():
    target[:, 1, 1] = target.max() or 1
  steps = 1e-6 * np.eye(20).reshape(20, *SMALL)
  rows = np.concatenate([pred[None], pred + steps, pred - steps])
  with jax.enable_x64(True):
    wide = lambda x: np.tile(x, (41, 1, 1)).astype(np.float64)
    out = run(rows, jax.tree.map(wide, targets), np.tile(where, (41, 1, 1)))
  for name, (value, grad) in out.items():
    assert value.dtype == np.float64
    if name not in TRAINABLE:
      assert (grad == 0).all(), name
      continue
    expected = (value[1:21] - value[21:]).reshape(SMALL) / 2e-6
    np.testing.assert_allclose(
      grad[0], expected, rtol=1e-5, atol=1e-8, err_msg=name
    )
    assert (grad[0][~where] == 0).all() and np.abs(grad[0][where]).max() > 1e-4


def test_padding_weighs_nothing():
  rng = np.random.default_rng(12)
  pred, targets = draw_pred(rng, 3, SMALL), draw_targets(rng, 3, SMALL)
  targets['fixations'][:, 2, 3] = 1
  with jax.enable_x64(True):
    inside = values(*jax.tree.map(np.float64, (pred, targets)))
  border = ((0, 0), (2, 6), (7, 4))
  where = np.pad(np.ones(pred.shape, bool), border)
  for junk in (0.0, 5.0, np.nan):
    pad = functools.partial(np.pad, pad_width=border, constant_values=junk)
    rows = run(*jax.tree.map(pad, (pred, targets)), where)
    for name, (value, grad) in rows.items():
      if name in PERCEPTUAL and junk == 0:  # whose cells at the border see it
        inside[name] = value
      np.testing.assert_allclose(
        value, inside[name], rtol=1e-5, atol=1e-6, err_msg=name
      )
      assert np.isfinite(grad).all() and (grad[~where] == 0).all(), name


maps_01 = hnp.arrays(np.float32, (16, 6, 5), elements=st.floats(0, 1, width=32))


@hypothesis.settings(max_examples=10, deadline=None)
@hypothesis.given(pred=maps_01, target=maps_01)
def test_any_maps(pred, target):
  corner = lambda x: np.pad(x, ((0, 0), (3, 3), (11, 0)))
  where = corner(np.ones(pred.shape, bool))
  for name, (value, grad) in run(corner(pred), corner(target), where).items():
    low, high = BOUNDS[name]
    assert np.isfinite(value).all() and np.isfinite(grad).all(), name
    assert (low - 1e-5 <= value).all() and (value <= high + 1e-5).all(), name


def test_every_loss_is_in_the_tables_above():
  assert set(BOUNDS) == set(MINIMUM) == set(LOSSES)


@pytest.mark.parametrize('name', LOSSES)
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
  ('option', 'outside', 'allowed'),
  [
    ('kld(eps={})', (0, 1e-30, 2), 'eps must be a number at least 1e-18'),
    ('kld_printed(eps={})', (0, 2), 'kld_printed: eps'),
    ('kld_printed_raw(eps={})', (0, 2), 'kld_printed_raw: eps'),
    ('nll(eps={})', (0, 2), 'nll: eps'),
    ('nll_printed(eps={})', (0, 0.9), 'nll_printed: eps .* at most 0.5'),
    ('bhat(eps={})', (0, 2), 'at least 1e-18 and at most 0.5'),
    ('hellinger(eps={})', (0, 2), 'at least 1e-18 and at most 0.5'),
    ('bce(eps={})', (0, 0.9), 'bce: eps .* at most 0.5'),
    ('wbce(w={})', (1.2, -0.1), 'w must be a number at least 0 and at most 1;'),
    ('focal(gamma={})', (0.5, 1e9), 'gamma must be a number at least 1 and'),
    ('focal_printed(gamma={})', (0,), 'gamma must be a number at least 1 and'),
    ('mse + mlnet_mse(alpha={})', (1, 0.9), 'alpha must be a number above 1'),
    ('mlnet_mse_maxnorm(alpha={})', (1.0,), 'above 1 and at most'),
    ('sig_mse(lam={})', (1.5, -0.1), 'lam must be a number at least 0'),
    ('sig_mse(k={})', (0, -1), 'k must be a number above 0'),
    ('center_bias(alpha={})', (-1, 1e30), 'alpha must be a number at least 0'),
    ('nss(ddof={})', (-1, 2, 0.5), 'ddof must be a whole number at least 0'),
    ('nss_printed(ddof={})', (3,), 'ddof must be a whole number at least 0'),
    ('sim(minmax={})', (0, 1), 'minmax must be True or False'),
    ('bce(sum={})', (0, 2), 'sum must be True or False'),
  ],
)
def test_options_are_checked_when_the_loss_is_bound(option, outside, allowed):
  for value in (*outside, '"small"', None, [1], '1e999', '-1e999'):
    with pytest.raises(ValueError, match=f'{allowed}.*found'):
      make_loss(option.format(value))


@pytest.mark.parametrize(
  ('spec', 'hint'),
  [
    ('wbce(w=True)', 'found True'),
    ('sig_mse(lambd=0.5)', "'lam'"),
    ('kld + df', 'perceptual=dict'),
    ('lc2', "df needs VGG-16's features"),
    ('gm(vgg=1)', 'vgg is not written in a spec'),
    ('10*kldd + cc', "'kld'"),
    ('transalnt', "'transalnet'"),
    ('kld(epz=1e-7)', "'eps'"),
    ('kld - nss', 'minus'),
    ('kld + kld', 'twice'),
    ('', 'spec'),
    (None, 'spec'),
  ],
)
def test_bad_specs(spec, hint):
  with pytest.raises(ValueError, match=hint):
    make_loss(spec)


def test_a_sum_of_thousands_of_losses():
  text = '+'.join(f'kld(eps={i}e-9)' for i in range(1, 3001))
  assert len(losses.parse(text)) == 3000
  loss_fn = make_loss('+'.join(text.split('+')[:60]))
  pred, batch = example_batch()
  assert jax.eval_shape(loss_fn, pred, batch)[0].shape == ()


def example_batch(seed=0):
  rng = np.random.default_rng(seed)
  batch = draw_targets(rng, 4)
  batch['box'] = np.int32(
    [[4, 4, 8, 12], [2, 0, 8, 12], [0, 3, 8, 12], [1, 1, 8, 12]]
  )
  return draw_pred(rng, 4), batch


def by_hand(spec, pred, batch):
  """Means over cropped images with ground truth."""
  crop = lambda x: np.stack(
    [m[y : y + h, x : x + w] for m, (y, x, h, w) in zip(x, batch['box'])]
  )
  mask = batch.get('mask', np.ones(len(pred), bool))
  terms, cut = (
    losses.parse(spec),
    {k: crop(batch[k]) for k in losses.targets(spec)},
  )

  @jax.jit
  def each(pred, cut):
    return [t.entry.fn(pred, cut[t.entry.target], **t.kwargs) for t in terms]

  return {
    t.name: value[mask & cut[t.entry.target].any((1, 2))].mean()
    for t, value in zip(terms, map(np.asarray, each(crop(pred), cut)))
  }


@pytest.mark.parametrize(
  ('spec', 'masked'),
  [
    ('paper1_paper', False),
    ('paper1_released', True),
    ('lc1_r', True),
    ('kld + 0.5*sim(minmax=False) + 2*nss(ddof=0)', True),
  ],
)
def test_weighted_sum_over_a_batch(spec, masked):
  pred, batch = example_batch()
  batch['fixations'][1] = 0
  batch['fixations'][2, :, :3] = 1  # in the padding of an image with others
  if masked:
    batch['mask'] = np.array([True, True, False, True])
  expected = by_hand(spec, pred, batch)
  if masked:
    pred[2] = np.nan
  step = jax.jit(jax.value_and_grad(make_loss(spec), has_aux=True))
  (total, terms), grad = step(pred, batch)
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
  empty = {k: np.zeros_like(v) for k, v in batch.items()}
  assert step(pred, empty | {'box': batch['box']})[0][0] == 0


def test_no_box_means_the_whole_map():
  pred, batch = example_batch()
  whole = dict(batch, box=np.int32([[0, 0, 12, 16]] * 4))
  del batch['box']
  loss_fn = jax.jit(make_loss('cc + nss'))
  np.testing.assert_allclose(
    loss_fn(pred, batch)[0], loss_fn(pred, whole)[0], rtol=1e-6
  )


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
  loss_fn = make_loss('paper1_released')
  grad = jax.jit(jax.grad(lambda p: loss_fn(p, batch)[0]))(pred)
  s = batch['saliency'] / batch['saliency'].max((1, 2), keepdims=True)
  np.testing.assert_allclose(grad, -10 * s / s.size, rtol=1e-5)


def test_missing_target_and_bad_box():
  pred, batch = example_batch()
  check = lambda spec, batch: jax.eval_shape(make_loss(spec), pred, batch)
  with pytest.raises(KeyError, match='fixations'):
    check('nss', {'saliency': batch['saliency']})
  with pytest.raises(ValueError, match='box'):
    check('cc', dict(batch, box=batch['box'][:3]))
  without = {k: v for k, v in batch.items() if k != 'center'}
  with pytest.raises(KeyError, match="'center_bias' needs 'center'"):
    check('lc1_r', without)


def test_targets_of_a_spec():
  assert losses.targets('10*kld + cc') == ('saliency',)
  assert losses.targets('transalnet') == ('fixations', 'saliency')
  assert losses.targets('lc1_r') == ('center', 'fixations', 'saliency')


def test_docs_have_every_loss_and_preset():
  path = pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'losses.md'
  rows = {}
  for line in path.read_text(encoding='utf-8').splitlines():
    if line.startswith('| `'):
      cells = [c.strip() for c in re.split(r'(?<!\\)\|', line)[1:-1]]
      rows[cells[0].strip('`')] = cells[1:]
  table = {**losses.LOSSES, **losses.BETWEEN}
  assert set(rows) == set(table) | set(PRESETS)
  for name, text in PRESETS.items():
    assert rows[name] == [f'`{text}`']
  for name, loss in table.items():
    target, formula, options, value_range, least, ignores, reference = rows[
      name
    ]
    assert target == loss.target, name
    assert formula and value_range and least and ignores and reference, name
    written = ', '.join(
      f'{p.name}={p.default!r}'
      for p in inspect.signature(loss.fn).parameters.values()
      if p.name not in ('pred', 'target', 'where', 'index', loss.needs)
    )
    assert options == (f'`{written}`' if written else '–'), name
    if name in losses.BETWEEN:
      continue  # what they ignore is tested beside them
    free = 'scale' * (name in SCALE_FREE) + ' and offset' * (
      name in OFFSET_FREE
    )
    assert ignores == (free or '–'), name
    assert (least == '–') == (MINIMUM[name] is None), name
