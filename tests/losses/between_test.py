"""Losses between the sentences of an image: values, limits, what counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax import losses
from salflax.losses import between

RNG = np.random.default_rng(0)
MAPS = RNG.random((4, 6, 8)).astype(np.float32)
INDEX = np.arange(4)


def _cc(a, b):
  return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def _densities(x):
  return x / x.sum((1, 2), keepdims=True)


def test_difference_is_the_correlation_of_differences():
  target = RNG.random(MAPS.shape).astype(np.float32)
  p, s = _densities(MAPS), _densities(target)
  values, rows = between.difference(MAPS, target, rows=2, index=INDEX)
  want = [1 - _cc(p[a] - p[b], s[a] - s[b]) for a, b in ((0, 1), (2, 3))]
  np.testing.assert_allclose(values, np.repeat(want, 2), atol=2e-6)
  assert rows.all()


def test_difference_of_more_rows_is_a_mean():
  target = RNG.random(MAPS.shape).astype(np.float32)
  p, s = _densities(MAPS), _densities(target)
  values, _ = between.difference(MAPS, target, rows=4, index=INDEX)
  want = np.mean([1 - _cc(p[0] - p[b], s[0] - s[b]) for b in (1, 2, 3)])
  np.testing.assert_allclose(values[0], want, atol=2e-6)


@pytest.mark.parametrize('loss', [between.difference, between.sentence])
def test_what_counts(loss):
  # A repeated row, an image with one row that has gaze, and a good pair.
  maps = np.concatenate([MAPS, MAPS])[:6]
  target = maps.copy()
  target[3] = 0
  index = np.array([0, 0, 1, 2, 3, 4])
  values, rows = loss(maps, target, rows=2, index=index)
  assert rows.tolist() == [False] * 4 + [True] * 2
  assert np.isfinite(values).all()


def test_right_maps_are_best_and_flat_maps_are_chance():
  right, _ = between.difference(MAPS, 3 * MAPS, rows=2, index=INDEX)
  np.testing.assert_allclose(right, 0, atol=1e-6)
  swapped, _ = between.difference(MAPS[[1, 0, 3, 2]], MAPS, rows=2, index=INDEX)
  np.testing.assert_allclose(swapped, 2, atol=1e-6)
  flat = np.ones_like(MAPS)
  chance, _ = between.sentence(flat, MAPS, rows=2, index=INDEX)
  np.testing.assert_allclose(chance, 2 * np.log(2), atol=1e-6)
  right, _ = between.sentence(MAPS, MAPS, rows=2, index=INDEX)
  swapped, _ = between.sentence(MAPS[[1, 0, 3, 2]], MAPS, rows=2, index=INDEX)
  assert (right < chance).all() and (swapped > chance).all()


def test_padding_weighs_nothing():
  where = np.zeros(MAPS.shape, bool)
  where[:, 1:5, 2:7] = True
  target = RNG.random(MAPS.shape).astype(np.float32)
  other = np.where(where, MAPS, 7)
  for loss in (between.difference, between.sentence):
    inside, _ = loss(
      MAPS[:, 1:5, 2:7], target[:, 1:5, 2:7], rows=2, index=INDEX
    )
    padded, _ = loss(other, target, where=where, rows=2, index=INDEX)
    np.testing.assert_allclose(padded, inside, atol=2e-6)


@pytest.mark.parametrize('loss', [between.difference, between.sentence])
@pytest.mark.parametrize('pred', [np.zeros_like(MAPS), np.ones_like(MAPS)])
def test_gradient_of_limiting_maps_is_finite(loss, pred):
  fn = lambda p: loss(p, jnp.asarray(MAPS), rows=2, index=INDEX)[0].sum()
  assert np.isfinite(jax.grad(fn)(jnp.asarray(pred))).all()


def test_gradient_leads_to_the_difference():
  target, pred = jnp.asarray(MAPS), jnp.ones_like(MAPS) + 0.1 * MAPS[::-1]
  fn = lambda p: between.difference(p, target, rows=2, index=INDEX)[0].mean()
  step = jax.jit(lambda p: jnp.maximum(p - 0.3 * jax.grad(fn)(p), 0))
  before = float(fn(pred))
  for _ in range(100):
    pred = step(pred)
  assert float(fn(pred)) < before / 2


def test_groups_must_divide():
  with pytest.raises(ValueError, match='4 maps are no groups of 3'):
    between.difference(MAPS, MAPS, rows=3, index=INDEX)
  with pytest.raises(ValueError, match='scale'):
    losses.make_loss('sentence(scale=-1)')
  with pytest.raises(ValueError, match='rows is not written'):
    losses.make_loss('difference(rows=2)')


def test_in_a_sum_rows_come_from_the_batch():
  loss_fn = losses.make_loss('cc + 4*difference')
  batch = {'saliency': MAPS, 'index': INDEX, 'image': np.zeros((2, 6, 8, 3))}
  total, terms = loss_fn(jnp.asarray(MAPS[::-1].copy()), batch)
  values, _ = between.difference(MAPS[::-1], MAPS, rows=2, index=INDEX)
  np.testing.assert_allclose(terms['difference'], values.mean(), atol=1e-6)
  np.testing.assert_allclose(total, terms['cc'] + 4 * terms['difference'])


def test_in_a_sum_rows_without_a_word_do_not_count():
  loss_fn = losses.make_loss('difference')
  words = np.arange(5)[None] < np.array([[5], [3], [0], [2]])
  batch = {'saliency': MAPS, 'index': INDEX, 'image': np.zeros((1, 6, 8, 3))}
  pred = jnp.asarray(MAPS[::-1].copy())
  _, terms = loss_fn(pred, batch | {'token_mask': jnp.asarray(words)})
  values, _ = between.difference(pred[:2], MAPS[:2], rows=2, index=INDEX[:2])
  np.testing.assert_allclose(terms['difference'], values.mean(), atol=1e-6)


def test_smaller_targets_are_compared_in_blocks():
  loss_fn = losses.make_loss('cc + mse')
  small = MAPS.reshape(4, 3, 2, 4, 2).mean((2, 4))
  target = {'saliency': RNG.random(small.shape).astype(np.float32)}
  for key, value in loss_fn(MAPS, target)[1].items():
    np.testing.assert_allclose(value, loss_fn(small, target)[1][key], rtol=1e-6)
