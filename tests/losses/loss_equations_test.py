"""The losses are the equations, written down once more in NumPy."""

import jax
import numpy as np
import pytest

from salflax import losses
from salflax.losses import LOSSES, SIMILARITIES, make_loss

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
  'bce_sum': lambda p, s: -over(s * np.log(p) + (1 - s) * np.log(1 - p)),
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


@pytest.mark.parametrize('spec', EQUATIONS)
def test_the_equation(spec):
  pred, batch = kinds()
  (term,) = losses.parse(spec)
  target = batch[term.entry.target]
  given = target
  if term.entry.target == 'saliency':
    given = target / target.max((1, 2), keepdims=True)
  found = term.entry.fn(np.float32(pred), np.float32(target), **term.kwargs)
  np.testing.assert_allclose(found, EQUATIONS[spec](pred, given), rtol=2e-5)


def test_every_loss_has_an_equation_or_a_metric():
  from parity_test import PAIRS

  written = {losses.parse(spec)[0].entry for spec in EQUATIONS}
  rest = {n for n, loss in LOSSES.items() if loss not in written} - set(PAIRS)
  assert rest == {'mse', 'df', 'gm', *(n for n in LOSSES if 'released' in n)}


def test_wbce_of_a_half_is_half_of_bce():
  pred, batch = map_to_float32(kinds())
  whole = LOSSES['bce'].fn(pred, batch['saliency'])
  half = LOSSES['wbce'].fn(pred, batch['saliency'], w=0.5)
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
  fn = lambda p: LOSSES[name].fn(p, s, sum=True, **options).sum()
  if 'sum' not in LOSSES[name].fn.__kwdefaults__:
    fn = lambda p: LOSSES[name].fn(p, s, **options).sum()
  at = np.float32(np.clip(best(s), 0, 1 - 1e-6))
  grad = np.asarray(jax.grad(fn)(at))
  elsewhere = np.asarray(jax.grad(fn)(0.5 * at + 0.2))
  inner = s < 1
  assert np.abs(grad[inner]).max() < 1e-3 * np.abs(elsewhere[inner]).max()


def test_a_focal_minimum_is_nearer_to_a_half():
  p = np.float32(np.linspace(0.001, 0.999, 999))
  for s in (0.1, 0.3, 0.7, 0.9):
    pred = np.stack([p, np.ones_like(p)])[:, None, :].transpose(2, 0, 1)
    target = np.broadcast_to(np.float32([[[s], [1.0]]]), pred.shape)
    least = p[int(np.argmin(LOSSES['focal'].fn(pred, target)))]
    assert min(s, 0.5) < least < max(s, 0.5)


def test_relations():
  pred, batch = map_to_float32(kinds())
  fn = lambda name, **k: np.asarray(
    LOSSES[name].fn(pred, batch[LOSSES[name].target], **k)
  )
  close = dict(rtol=1e-5)
  share = batch['fixations'].mean((1, 2))
  np.testing.assert_allclose(fn('nss_printed'), fn('nss') * share, **close)
  np.testing.assert_allclose(
    fn('hellinger') ** 2, 1 - np.exp(-fn('bhat')), **close
  )
  np.testing.assert_allclose(fn('bce_sum'), fn('bce') * pred[0].size, **close)
  assert (fn('focal', sum=True) < fn('focal_printed')).all()
  assert (fn('focal_printed') < fn('bce_sum')).all()


def test_the_printed_bhattacharyya_is_a_similarity():
  _, batch = map_to_float32(kinds())
  fn, s = SIMILARITIES['bhat_printed_sim'].fn, batch['saliency']
  s = s / s.max((1, 2), keepdims=True)
  np.testing.assert_allclose(fn(s, s), over(s), rtol=1e-5)
  assert (np.asarray(fn(s, s)) > fn(s[:, ::-1], s)).all()
  assert (np.asarray(fn(0 * s, s)) == 0).all()
  for pred in (0 * s, s):
    assert (np.asarray(jax.grad(lambda p: fn(p, s).sum())(pred)) == 0).all()
  with pytest.raises(ValueError, match='must not be minimised'):
    make_loss('bhat_printed_sim')


def test_the_printed_combination_is_little_but_the_divergence():
  # Literal equations: a sum over all pixels beside two means.
  pred, batch = map_to_float32(kinds())
  total, terms = make_loss('lc1_printed')(pred, batch)
  rest = abs(float(total - 10 * terms['kld_printed_raw']))
  assert rest < 0.02 * abs(float(total))
