"""The captioner: a plain recurrence in NumPy, PyTorch's numbers, its limits."""

import functools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
from weights_rule import tensor

from salflax.models.captioner import Captioner, gru

V, H, W, D = 23, 8, 6, 10


def make(**options):
  return Captioner(V, features=H, word_dim=W, **options)


@pytest.fixture(scope='module')
def golden(goldens):
  with np.load(goldens / 'vsrn_captioner.npz') as f:
    return dict(f)


@pytest.fixture(scope='module')
def inputs(golden):
  return golden['visual'], golden['ids'], golden['mask']


@pytest.fixture(scope='module')
def variables(inputs):
  return made_up.variables(make(), *inputs, train=False)


def linear(kernel, bias=None):
  out = {'kernel': np.asarray(kernel).T}
  return out if bias is None else out | {'bias': bias}


def from_torch():
  """Makes our parameters of a PyTorch state dict that the rule fills."""
  t = lambda name, *shape: 3 * tensor(name, shape)
  e, d = 'encoder.rnn', 'decoder.rnn'
  words = t(f'{d}.weight_ih_l0', 3 * H, W + H)
  attention = t('decoder.attention.linear1.weight', H, 2 * H)
  hidden = lambda name: linear(
    t(f'{name}.weight_hh_l0', 3 * H, H), t(f'{name}.bias_hh_l0', 3 * H)
  )
  return {
    'visual': linear(
      t('encoder.vid2hid.weight', H, D), t('encoder.vid2hid.bias', H)
    ),
    'encoder_input': linear(
      t(f'{e}.weight_ih_l0', 3 * H, H), t(f'{e}.bias_ih_l0', 3 * H)
    ),
    'encoder': {'hidden': hidden(e)},
    'word_embedding': {'embedding': t('decoder.embedding.weight', V, W)},
    'decoder_input': linear(words[:, :W], t(f'{d}.bias_ih_l0', 3 * H)),
    'key': linear(attention[:, :H], t('decoder.attention.linear1.bias', H)),
    'decoder': {
      'query': linear(attention[:, H:]),
      'score': linear(t('decoder.attention.linear2.weight', 1, H)),
      'context': linear(words[:, W:]),
      'hidden': hidden(d),
    },
    'out': linear(t('decoder.out.weight', V, H), t('decoder.out.bias', V)),
  }


def test_it_gives_the_numbers_of_pytorch(golden, inputs):
  actual = make().apply({'params': from_torch()}, *inputs, train=False)
  np.testing.assert_allclose(actual, golden['nll'], rtol=1e-5)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def plain_gru(x, h, p_in, p_hidden):
  x = x @ p_in['kernel'] + p_in['bias']
  y = h @ p_hidden['kernel'] + p_hidden['bias']
  r, z = (sigmoid(x[k : k + H] + y[k : k + H]) for k in (0, H))
  new = np.tanh(x[2 * H :] + r * y[2 * H :])
  return (1 - z) * new + z * h


def plainly(params, visual, ids, mask):
  """The negative log-likelihood of one sentence, word by word in float64."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  h, tokens = np.zeros(H), []
  for x in visual @ p['visual']['kernel'] + p['visual']['bias']:
    h = plain_gru(x, h, p['encoder_input'], p['encoder']['hidden'])
    tokens.append(h)
  tokens, d, total = np.stack(tokens), p['decoder'], 0.0
  both = np.concatenate([p['decoder_input']['kernel'], d['context']['kernel']])
  p_in = {'kernel': both, 'bias': p['decoder_input']['bias']}
  keys = tokens @ p['key']['kernel'] + p['key']['bias']
  for word, following, real in zip(ids[:-1], ids[1:], mask[1:]):
    score = np.tanh(keys + h @ d['query']['kernel']) @ d['score']['kernel']
    share = np.exp(score[:, 0]) / np.exp(score).sum()
    x = np.concatenate([p['word_embedding']['embedding'][word], share @ tokens])
    h = plain_gru(x, h, p_in, d['hidden'])
    logits = h @ p['out']['kernel'] + p['out']['bias']
    total -= real * (logits[following] - np.log(np.exp(logits).sum()))
  return total


def test_it_is_the_plain_recurrence(inputs, variables):
  actual = make().apply(variables, *inputs, train=False)
  want = [plainly(variables['params'], *row) for row in zip(*inputs)]
  np.testing.assert_allclose(actual, want, rtol=1e-5)


def test_gates():
  h = jnp.ones((1, 2))
  zero, big = jnp.zeros((1, 6)), jnp.array([[0, 0, 90, 90, 0, 0]], jnp.float32)
  np.testing.assert_allclose(gru(zero, zero, h), 0.5 * h)  # half is kept
  np.testing.assert_allclose(gru(big, zero, h), h)  # all of it
  shut = jnp.array([[-90, -90, -90, -90, 0, 0]], jnp.float32)
  # The reset gate shuts the hidden part out, its bias too, but not the input.
  np.testing.assert_allclose(gru(shut, zero + 1, h), 0 * h, atol=1e-30)


def test_padding_does_not_count(inputs, variables):
  visual, ids, mask = inputs
  other = np.where(mask, ids, 5).astype(np.int32)
  actual = make().apply(variables, visual, other, mask, train=False)
  want = make().apply(variables, *inputs, train=False)
  np.testing.assert_array_equal(actual, want)
  none = make().apply(variables, visual, ids, 0 * mask, train=False)
  assert not none.any()


def test_per_token_is_the_mean(inputs, variables):
  actual = make(per_token=True).apply(variables, *inputs, train=False)
  want = make().apply(variables, *inputs, train=False)
  np.testing.assert_allclose(actual * (inputs[2].sum(1) - 1), want, rtol=1e-6)


def test_flat_logits_are_the_uniform_guess(inputs, variables):
  params = dict(variables['params'])
  params['out'] = jax.tree.map(jnp.zeros_like, params['out'])
  actual = make().apply({'params': params}, *inputs, train=False)
  want = (inputs[2].sum(1) - 1) * np.log(V)
  np.testing.assert_allclose(actual, want, rtol=1e-5)


def test_dropout_only_in_training(inputs, variables):
  @functools.partial(jax.jit, static_argnums=0)
  def apply(train, seeds):
    one = lambda seed: make().apply(
      *(variables, *inputs), train=train, rngs={'dropout': jax.random.key(seed)}
    )
    return jax.lax.map(one, seeds)

  seeds = jnp.array([0, 0, 1])
  still, moving = (np.asarray(apply(t, seeds)) for t in (False, True))
  assert (still == still[0]).all()
  assert (moving[0] == moving[1]).all() and (moving[0] != moving[2]).any()


def test_gradients_reach_every_parameter_and_the_image(inputs, variables):
  visual, ids, mask = inputs
  loss = lambda v, x: make().apply(v, x, ids, mask, train=False).sum()
  gradients = jax.jit(jax.grad(loss, (0, 1)))(variables, jnp.asarray(visual))
  for path, g in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    assert np.isfinite(g).all() and np.abs(g).max() > 0, path


@pytest.mark.slow
def test_it_learns_a_sentence(inputs):
  visual, ids, mask = inputs
  params = make().init(jax.random.key(0), *inputs, train=False)
  loss = lambda p: make().apply(p, visual, ids, mask, train=False).mean()
  step = jax.jit(
    lambda p: jax.tree.map(lambda x, g: x - 0.3 * g, p, jax.grad(loss)(p))
  )
  first = loss(params)
  for _ in range(30):
    params = step(params)
  assert loss(params) < 0.5 * first


def test_bfloat16_is_near(inputs, variables):
  actual = make(dtype=jnp.bfloat16).apply(variables, *inputs, train=False)
  want = make().apply(variables, *inputs, train=False)
  assert actual.dtype == jnp.float32
  np.testing.assert_allclose(actual, want, rtol=0.05)


def test_shapes_that_do_not_fit_are_named(inputs, variables):
  visual, ids, mask = inputs
  for bad in ((ids, mask[:, 1:]), (ids[:, :1], mask[:, :1])):
    with pytest.raises(ValueError, match='L >= 2'):
      make().apply(variables, visual, *bad, train=False)


def test_the_size_of_the_published_one():
  shapes = jax.eval_shape(
    lambda key: Captioner(10006).init(
      *(key, jnp.zeros((1, 36, 2048)), jnp.zeros((1, 9), jnp.int32)),
      jnp.ones((1, 9), bool),
      train=False,
    ),
    jax.random.key(0),
  )
  count = sum(x.size for x in jax.tree.leaves(shapes))
  linear = lambda i, o: i * o + o
  gates = lambda i: linear(i, 1536) + linear(512, 1536)
  want = linear(2048, 512) + gates(512) + 10006 * 300 + linear(1024, 512) + 512
  assert count == want + gates(812) + linear(512, 10006)
