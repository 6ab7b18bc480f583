"""Scores of images and sentences, and the triplet loss on them."""

import types

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax.losses import matching

cosine_scores, order_scores, negatives = (
  jax.jit(fn)
  for fn in (matching.cosine_scores, matching.order_scores, matching.negatives)
)
triplet = jax.jit(matching.triplet, static_argnames=('hardest', 'reduce'))
SCORES = (cosine_scores, order_scores)


@pytest.fixture(scope='module')
def paper(goldens):
  with np.load(goldens / 'text_guided_paper.npz') as f:
    return {k: f[k] for k in f if k.startswith('order_')}


def vectors(rows=5, width=7, seed=0):
  rng = np.random.default_rng(seed)
  return (rng.normal(size=(rows, width)).astype(np.float32) for _ in range(2))


def others(rows):
  return ~np.eye(rows, dtype=bool), np.ones(rows, bool)


def test_order_scores_are_those_of_the_released_code(paper):
  found = order_scores(paper['order_im'], paper['order_text'])
  np.testing.assert_allclose(found, paper['order_scores'], atol=1e-5)


@pytest.mark.parametrize('margin', [0.0, 0.2])
@pytest.mark.parametrize('hardest', [False, True])
def test_the_summed_loss_is_that_of_the_released_code(paper, margin, hardest):
  scores = jnp.asarray(paper['order_scores'])
  options = dict(margin=margin, hardest=hardest)
  total, violated = triplet(*(scores, *others(6)), reduce='sum', **options)
  want = paper[f'order_loss_m{margin}_max{int(hardest)}']
  np.testing.assert_allclose(total, want, rtol=1e-5)
  mean, _ = triplet(scores, *others(6), **options)
  np.testing.assert_allclose(mean, want / 6, rtol=1e-5)
  assert 0 < violated <= 1


def test_cosine_scores():
  v, s = vectors()
  want = (v @ s.T) / np.outer(*(np.linalg.norm(x, axis=1) for x in (v, s)))
  np.testing.assert_allclose(cosine_scores(v, s), want, atol=1e-6)
  scaled = cosine_scores(3 * v, 0.1 * s)
  np.testing.assert_allclose(scaled, want, atol=1e-6)


def plainly(scores, apart, margin, hardest):
  """The loss as loops, a mean over the rows."""
  total, n = 0.0, len(scores)
  for table in (scores, scores.T):
    for i in range(n):
      costs = [
        max(0.0, margin + table[i, j] - scores[i, i])
        for j in range(n)
        if apart[i, j]
      ]
      total += (max if hardest else sum)(costs) if costs else 0.0
  return total / n


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(
  seed=st.integers(0, 999),
  margin=st.sampled_from([0.0, 0.2, 1.0]),
  hardest=st.booleans(),
)
def test_the_loss_is_the_plain_loop(seed, margin, hardest):
  rng = np.random.default_rng(seed)
  scores = rng.uniform(-1, 1, (5, 5)).astype(np.float32)
  apart = np.triu(rng.random((5, 5)) > 0.4, 1)
  apart = apart | apart.T
  found, violated = triplet(
    *(scores, apart, np.ones(5, bool)), margin=margin, hardest=hardest
  )
  want = plainly(scores, apart, margin, hardest)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
  assert (violated > 0) == (want > 0)


def test_matched_pairs_far_above_the_rest_cost_nothing():
  scores = jnp.eye(4)
  options = dict(margin=0.2, hardest=True)
  assert triplet(scores, *others(4), **options) == (0, 0)
  # The wrong way round every hardest negative violates it by 1 + margin.
  total, violated = triplet(1 - scores, *others(4), **options)
  assert float(total) == pytest.approx(2.4) and violated == 1


def test_rows_without_a_sentence_take_no_part():
  v, s = vectors(5)
  valid = np.array([1, 0, 1, 1, 0], bool)
  scores = cosine_scores(v, s)
  apart = negatives(np.arange(5), np.arange(5)[:, None], valid)
  options = dict(margin=0.2, hardest=True)
  found, violated = triplet(scores, apart, valid, **options)
  few = cosine_scores(v[valid], s[valid])
  want, share = triplet(few, *others(3), **options)
  np.testing.assert_allclose((found, violated), (want, share), rtol=1e-6)
  moved = scores.at[1].add(5.0).at[:, 4].add(5.0)
  assert triplet(moved, apart, valid, **options)[0] == found


def test_neither_the_same_image_nor_the_same_sentence_is_a_negative():
  image = np.array([7, 7, 3, 4])
  tokens = np.array([[1, 2], [1, 3], [1, 4], [1, 2]])
  found = negatives(image, tokens, np.ones(4, bool))
  want = ~np.eye(4, dtype=bool)
  for i, j in ((0, 1), (0, 3)):
    want[i, j] = want[j, i] = False
  np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize('hardest', [False, True])
def test_without_negatives_there_is_no_loss(hardest):
  alike = negatives(np.full(3, 5), np.arange(3)[:, None], np.ones(3, bool))
  loss = lambda x, valid: triplet(x, alike, valid, margin=0.5, hardest=hardest)[
    0
  ]
  for valid in (np.ones(3, bool), np.zeros(3, bool)):
    value, gradient = jax.value_and_grad(loss)(jnp.ones((3, 3)), valid)
    assert value == 0 and not gradient.any()


@pytest.mark.parametrize('fn', SCORES)
def test_values_and_gradients_are_finite_at_the_limits(fn):
  v, s = vectors(3)
  v[0], s[1], s[2] = 0, 0, v[2]  # zero vectors, and an order distance of 0
  for a, b in ((v, s), (v * 0, s * 0), (v * 1e-30, s * 1e-30), (v * 1e6, s)):
    loss = lambda x, y: triplet(
      *(fn(x, y), *others(3)), margin=0.2, hardest=False
    )[0]
    value, gradients = jax.value_and_grad(loss, (0, 1))(
      *map(jnp.asarray, (a, b))
    )
    assert np.isfinite(value)
    assert all(
      np.isfinite(g).all() and np.abs(g).max() < 1e5 for g in gradients
    )


@pytest.mark.parametrize('fn', SCORES)
def test_a_step_down_the_gradient_lowers_the_loss(fn):
  v, s = map(jnp.asarray, vectors(6))
  loss = lambda x: triplet(*(fn(x, s), *others(6)), margin=0.2, hardest=True)[0]
  value, gradient = jax.jit(jax.value_and_grad(loss))(v)
  assert loss(v - 0.05 * gradient) < value


def made_up(rows=4):
  v, s = vectors(rows)
  mask = np.arange(6) < np.array([5, 2, 4, 6])[:, None]
  batch = {
    'image_number': np.arange(rows),
    'tokens': np.random.default_rng(1).integers(1, 9, (rows, 6)),
    'token_mask': mask,
  }
  nll = np.array([2.0, 100.0, 3.0, 4.0], np.float32)
  found = types.SimpleNamespace(images=v, sentences=s, nll=nll)
  return found, batch


def test_the_parts_are_weighed_and_reported():
  found, batch = made_up()
  both = matching.make(
    'vsrn', matching=2.0, caption=0.5, margin=0.2, hardest=True
  )
  total, terms, measures = both(found, batch)
  # The second row has a start and an end, but no word.
  assert float(terms['caption']) == 3.0
  want = 2 * terms['matching'] + 0.5 * terms['caption']
  np.testing.assert_allclose(total, want, rtol=1e-6)
  assert set(terms) == {'matching', 'caption'} and set(measures) == {'violated'}
  found.nll = None
  alone = matching.make(
    'order', matching=1.0, caption=0.0, margin=0.0, hardest=False
  )
  total, terms, _ = alone(found, batch)
  assert set(terms) == {'matching'} and total == terms['matching']


def test_rows_that_only_fill_do_not_count():
  found, batch = made_up()
  fn = matching.make(
    'vsrn', matching=1.0, caption=1.0, margin=0.2, hardest=False
  )
  filled = dict(batch, mask=np.array([1, 1, 1, 0], bool))
  assert float(fn(found, filled)[1]['caption']) == 2.5


def test_an_unknown_kind_is_named():
  with pytest.raises(ValueError, match="'vsnr'. Did you mean 'vsrn'"):
    matching.make('vsnr', matching=1.0, caption=0.0, margin=0.0, hardest=True)
