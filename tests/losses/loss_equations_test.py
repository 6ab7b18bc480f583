"""The losses are the equations, written down once more in NumPy."""

import jax
import numpy as np
import pytest

from salflax import losses
from salflax.losses import LOSSES, make_loss

SHAPE = (4, 9, 13)


def kinds(seed=0):
  """Prediction in (0, 1), saliency map, fixation map, mean map; f64."""
  rng = np.random.default_rng(seed)
  pred = rng.uniform(0.02, 0.98, SHAPE)
  saliency = 255 * rng.random(SHAPE) ** 3
  fixations = (rng.random(SHAPE) > 0.8).astype(float)
  return pred, {
    'saliency': saliency,
    'fixations': fixations,
    'center': rng.random(SHAPE),
  }


def over(x):
  return x.sum((1, 2))


def mean(x):
  return x.mean((1, 2))


def one(x):
  return x / x.sum((1, 2), keepdims=True)


def sharp(s, lam, k):
  return k / (1 + np.exp(-k * (s - lam)))


# P, and S scaled to a maximum of 1, F or B.
EQUATIONS = {
  'ead': lambda p, s: mean(np.exp(np.abs(s - p)) - 1),
  'ae': lambda p, s: mean(np.abs(s - p)),
  'mlnet_mse': lambda p, s: mean((s - p) ** 2 / (1.1 - s)),
  'mlnet_mse(alpha=1.5)': lambda p, s: mean((s - p) ** 2 / (1.5 - s)),
  'mlnet_mse_maxnorm': lambda p, s: mean(
    (s - p / p.max((1, 2), keepdims=True)) ** 2 / (1.1 - s)
  ),
  'sig_mse': lambda p, s: mean(sharp(s, 0.55, 10) * (s - p) ** 2),
  'sig_mse(lam=0.25, k=4)': lambda p, s: mean(sharp(s, 0.25, 4) * (s - p) ** 2),
  'center_bias': lambda p, b: mean(0.1 * (p - b) ** 2),
  'center_bias(alpha=2, sum=True)': lambda p, b: over(2 * (p - b) ** 2),
  'kld_printed': lambda p, s: over(one(p) * np.log(one(p) / one(s))),
  'kld_printed_raw': lambda p, s: over(p * np.log(p / s)),
  'bhat': lambda p, s: -np.log(over(np.sqrt(one(s) * one(p)))),
  'hellinger': lambda p, s: np.sqrt(1 - over(np.sqrt(one(s) * one(p)))),
  'bce': lambda p, s: -mean(s * np.log(p) + (1 - s) * np.log(1 - p)),
  'bce(sum=True)': lambda p, s: -over(s * np.log(p) + (1 - s) * np.log(1 - p)),
  'wbce(w=0.9, sum=True)': lambda p, s: (
    -over(0.9 * s * np.log(p) + 0.1 * (1 - s) * np.log(1 - p))
  ),
  'focal': lambda p, s: (
    -mean((1 - p) ** 2 * s * np.log(p) + p**2 * (1 - s) * np.log(1 - p))
  ),
  'focal(gamma=1.5, sum=True)': lambda p, s: (
    -over((1 - p) ** 1.5 * s * np.log(p) + p**1.5 * (1 - s) * np.log(1 - p))
  ),
  'focal_printed': lambda p, s: (
    -over((1 - p**2) * s * np.log(p) + p**2 * (1 - s) * np.log(1 - p))
  ),
  'nll': lambda p, f: -over(f * np.log(one(p))) / over(f),
  'nll_printed': lambda p, f: -over(f * np.log(p)) / over(f),
  'nss_printed': lambda p, f: (
    -mean(
      f
      * (p - p.mean((1, 2), keepdims=True))
      / p.std((1, 2), ddof=1, keepdims=True)
    )
  ),
}


@pytest.fixture(scope='module')
def computed():
  """The losses of all specs in `EQUATIONS`, from one program."""
  terms = {spec: losses.parse(spec)[0] for spec in EQUATIONS}

  @jax.jit
  def every(pred, batch):
    return {
      spec: t.entry.fn(pred, batch[t.entry.target], **t.kwargs)
      for spec, t in terms.items()
    }

  return every(*map_to_float32(kinds()))


@pytest.mark.parametrize('spec', EQUATIONS)
def test_the_equation(spec, computed):
  pred, batch = kinds()
  (term,) = losses.parse(spec)
  target = batch[term.entry.target]
  if term.entry.target == 'saliency':
    target = target / target.max((1, 2), keepdims=True)
  expected = EQUATIONS[spec](pred, target)
  np.testing.assert_allclose(computed[spec], expected, rtol=2e-5)


def test_every_loss_has_an_equation_or_a_metric():
  from parity_test import PAIRS

  written = {losses.parse(spec)[0].entry for spec in EQUATIONS}
  rest = {n for n, loss in LOSSES.items() if loss not in written} - set(PAIRS)
  assert rest == {'mse', 'df', 'gm', *(n for n in LOSSES if 'released' in n)}


def test_wbce_of_a_half_is_half_of_bce():
  pred, batch = map_to_float32(kinds())
  bce, wbce = LOSSES['bce'].fn, LOSSES['wbce'].fn
  whole, half = jax.jit(lambda p, s: (bce(p, s), wbce(p, s, w=0.5)))(
    pred, batch['saliency']
  )
  np.testing.assert_array_equal(2 * half, whole)


def map_to_float32(tree):
  return jax.tree.map(np.float32, tree)


@pytest.mark.parametrize(
  ('name', 'options', 'best'),
  [
    ('kld_printed_raw', {}, lambda s: s / np.e),
    ('wbce', {'w': 0.8}, lambda s: 0.8 * s / (0.8 * s + 0.2 * (1 - s))),
    ('bce', {}, lambda s: s),
    ('kld_printed', {}, lambda s: 0.3 * s),
  ],
)
def test_least_where_documented(name, options, best):
  _, batch = map_to_float32(kinds())
  s = np.clip(batch['saliency'] / 255, 0.01, 0.99)
  s[:, 0, 0] = 1  # the maximum, left out below: no minimum is inside
  fn = lambda p: LOSSES[name].fn(p, s, **options).sum()
  at = np.float32(np.clip(best(s), 0, 1 - 1e-6))
  gradient = jax.jit(jax.grad(fn))
  grad, elsewhere = map(np.asarray, (gradient(at), gradient(0.5 * at + 0.2)))
  inner = s < 1
  assert np.abs(grad[inner]).max() < 1e-3 * np.abs(elsewhere[inner]).max()


def test_a_focal_minimum_is_nearer_to_a_half():
  p = np.float32(np.linspace(0.001, 0.999, 999))
  pred = np.stack([p, np.ones_like(p)], -1)[:, None]
  focal = jax.jit(LOSSES['focal'].fn)
  for s in (0.1, 0.3, 0.7, 0.9):
    target = np.broadcast_to(np.float32([s, 1.0]), pred.shape)
    least = p[int(np.argmin(focal(pred, target)))]
    assert min(s, 0.5) < least < max(s, 0.5)


def test_relations():
  pred, batch = map_to_float32(kinds())
  names = ('nss', 'nss_printed', 'hellinger', 'bhat', 'bce', 'focal_printed')

  @jax.jit
  def every(pred, batch):
    fn = lambda n, **k: LOSSES[n].fn(pred, batch[LOSSES[n].target], **k)
    sums = {n: fn(n, sum=True) for n in ('bce', 'focal')}
    return {n: fn(n) for n in names}, sums

  plain, sums = jax.tree.map(np.asarray, every(pred, batch))
  fn = lambda name: plain[name]
  close = dict(rtol=1e-5)
  share = batch['fixations'].mean((1, 2))
  np.testing.assert_allclose(fn('nss_printed'), fn('nss') * share, **close)
  np.testing.assert_allclose(
    fn('hellinger') ** 2, 1 - np.exp(-fn('bhat')), **close
  )
  np.testing.assert_allclose(sums['bce'], fn('bce') * pred[0].size, **close)
  assert (sums['focal'] < fn('focal_printed')).all()
  assert (fn('focal_printed') < sums['bce']).all()


def test_the_printed_combination_is_little_but_the_divergence():
  # Literal equations: a sum over all pixels beside two means.
  pred, batch = map_to_float32(kinds())
  total, terms = jax.jit(make_loss('lc1_printed'))(pred, batch)
  rest = abs(float(total - 10 * terms['kld_printed_raw']))
  assert rest < 0.02 * abs(float(total))
