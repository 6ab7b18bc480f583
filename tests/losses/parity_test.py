"""A loss in float32 on the device is the metric in float64 on the host."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from salflax import metrics
from salflax.losses import LOSSES, distribution

SIZE = (288, 384)
BOX = (24, 0, 240, 384)

# Loss, metric, and the constants that go with each.
PAIRS = {
  'cc': lambda p, s, f: 1 - metrics.distribution.cc(p, s),
  'sim': lambda p, s, f: 1 - metrics.distribution.sim(p, s, minmax=True),
  'kld': lambda p, s, f: metrics.distribution.kl(p, s, eps=2.2204e-16),
  'nss': lambda p, s, f: -metrics.location.nss(p, f, ddof=1),
  # In nats, and of the uniform density instead of gained over it.
  'nll': lambda p, s, f: (
    np.log(p.size)
    - np.log(2)
    * metrics.location.ig(p, f, np.ones_like(p), eps=2.2204e-16, floor=0)
  ),
}


def smooth(rng, sharpness):
  """Smooth random map in (0, 1) of the network's size, f64 [H, W]."""
  y, x = np.meshgrid(*map(np.fft.fftfreq, SIZE), indexing='ij')
  noise = np.fft.fft2(rng.normal(size=SIZE))
  x = np.fft.ifft2(noise * np.exp(-800 * (x**2 + y**2))).real
  return 1 / (1 + np.exp(-sharpness * x / x.std()))


def predictions(rng):
  ordinary = smooth(rng, 1.0)
  return {
    'ordinary': ordinary,
    'sharp': smooth(rng, 6.0),
    'faint': 1e-5 * ordinary,
    'large': 1e4 * ordinary,
    'low contrast': 0.5 + 1e-3 * ordinary,
    'mostly zero': np.maximum(ordinary - 0.8, 0),
    'flat': np.full(SIZE, 0.3),
    'zero': np.zeros(SIZE),
  }


def truths(rng):
  at = rng.integers(0, SIZE, (170, 2))
  at[:3] = 100  # a cell that was looked at more than once
  y = np.exp(-0.5 * ((np.arange(SIZE[0]) - at[:, :1]) / 19) ** 2)
  x = np.exp(-0.5 * ((np.arange(SIZE[1]) - at[:, 1:]) / 19) ** 2)
  saliency = np.round(255 * (y.T @ x) / (y.T @ x).max())
  fixations = np.zeros(SIZE)
  fixations[tuple(at.T)] = 1
  return saliency, fixations


def cut(x, box):
  top, left, height, width = box
  return x[top : top + height, left : left + width]


@pytest.mark.parametrize('box', [(0, 0, *SIZE), BOX])
@pytest.mark.parametrize('name', PAIRS)
@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16])
def test_loss_is_the_metric(name, box, dtype):
  rng = np.random.default_rng(0)
  saliency, fixations = truths(rng)
  maps = {k: v.astype(dtype) for k, v in predictions(rng).items()}
  where = np.zeros(SIZE, bool)
  cut(where, box)[:] = True
  target = saliency if LOSSES[name].target == 'saliency' else fixations
  stack = lambda x: np.broadcast_to(x, (len(maps), *SIZE))
  computed = jax.jit(LOSSES[name].fn)(
    jnp.stack(list(maps.values())),
    np.float32(stack(target)),
    where=stack(where),
  )
  points = np.argwhere(cut(fixations, box))
  for value, (key, pred) in zip(np.asarray(computed), maps.items()):
    expected = PAIRS[name](
      cut(pred, box).astype(np.float64), cut(saliency, box), points
    )
    np.testing.assert_allclose(
      value, expected, rtol=2e-5, atol=1e-5, err_msg=key
    )


def jit(fn, **options):
  return jax.jit(functools.partial(fn, **options))


def test_options_reach_the_same_conventions():
  rng = np.random.default_rng(1)
  saliency, _ = truths(rng)
  pred = 0.2 + np.maximum(smooth(rng, 2.0) - 0.5, 0)
  pred[:40] = 0
  pred = np.float32(pred)
  lift = lambda x: np.float32(x)[None]
  args = lift(pred), lift(saliency)
  p = pred.astype(np.float64)
  close = dict(rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(
    jit(distribution.sim, minmax=False)(*args)[0],
    1 - metrics.distribution.sim(p, saliency, minmax=False),
    **close,
  )
  for eps in (1e-7, 2.2204e-16):
    np.testing.assert_allclose(
      jit(distribution.kld, eps=eps)(*args)[0],
      metrics.distribution.kl(p, saliency, eps=eps),
      **close,
    )
  # Small maps, on which the two deviations differ visibly.
  points = np.array([[1, 2], [3, 7]])
  few = np.zeros((6, 8))
  few[tuple(points.T)] = 1
  p = smooth(rng, 2.0)[::48, ::48].astype(np.float32)
  for ddof in (0, 1):
    np.testing.assert_allclose(
      jit(LOSSES['nss'].fn, ddof=ddof)(lift(p), lift(few))[0],
      -metrics.location.nss(p.astype(np.float64), points, ddof=ddof),
      **close,
    )
