"""SAM: sizes, its recurrence, its priors, its gate, and a training run."""

import functools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
import weights_rule

from salflax import models
from salflax.models import base, sam
from salflax.models.layers import TextFeatures

GATES = 'ifco'  # the published letters, in the order of our channels


def _normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _text(b=2, sentence=7, seed=1):
  mask = np.ones((b, 3), bool)
  return TextFeatures(
    _normal(b, 3, 5, seed=seed),
    jnp.asarray(mask),
    _normal(b, sentence, seed=seed + 1),
  )


def _network(**options):
  backbone = models.VGG16(('conv5_3',), width=2, dilated=True)
  # The made-up ReLU may be dead, and a clipped prior has no gradient.
  defaults = dict(size=(32, 48), width=16, priors=3, gate=4)
  defaults |= dict(output='sigmoid', bound='soft')
  return models.SAM(backbone, **(defaults | options))


def _sizes(**options):
  """Counts the parameters of each part of a network of full size."""
  model = models.build(dict(name='sam', **options))
  shapes = jax.eval_shape(
    functools.partial(model.init, train=False),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, *model.size, 3), jnp.float32),
  )
  return {
    name: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
    for name, tree in shapes['params'].items()
  }


def test_sam_vgg_has_the_published_size():
  sizes = _sizes(backbone=dict(name='vgg16', dilated=True))
  assert sizes['convlstm'] == 23_602_688
  assert sizes['conv1'] == sizes['conv2'] == 6_758_912
  assert sizes['priors1'] == sizes['priors2'] == 64
  assert sum(sizes.values()) == 51_835_841


def test_sam_resnet_has_the_published_size():
  backbone = dict(name='resnet50_v1', dilated=True, conv_bias=True)
  sizes = _sizes(backbone=backbone, levels=['layer4'])
  assert sizes['reduce'] == 3 * 3 * 2048 * 512 + 512
  assert sum(sizes.values()) == 70_093_441


# The recurrence.


def _convolved(x, p):
  """Computes the 3x3 convolution in float64, tap by tap."""
  kernel = np.asarray(p['kernel'], np.float64)
  h, w = x.shape[1:3]
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = sum(
    padded[:, i : i + h, j : j + w] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )
  return y + np.asarray(p.get('bias', 0.0), np.float64)


def _softmax(x, axis):
  x = np.exp(x - x.max(axis, keepdims=True))
  return x / x.sum(axis, keepdims=True)


def _gate(p, a, sentence):
  """Computes what the sentence adds to the map a [B, h, w, 1]."""
  p = {k: np.asarray(v['kernel'], np.float64) for k, v in p.items()}
  b, h, w, _ = a.shape
  query = (sentence @ p['query']).reshape(b, h, w, -1)
  key, value = a @ p['key'], a @ p['value']
  scores = (query * key).sum(-1, keepdims=True) / np.sqrt(key.shape[-1])
  return _softmax(scores, 1) * value @ p['out']


def _recurrence(p, x, sentence=None, steps=4):
  x = np.asarray(x, np.float64)
  sigmoid = lambda z: 1 / (1 + np.exp(-z))
  h = c = np.zeros_like(x)
  for _ in range(steps):
    e = _convolved(h, p['attend_h']) + _convolved(x, p['attend_x'])
    e = _convolved(np.tanh(e), p['attend'])
    if sentence is not None:
      e = e + _gate(p['gate'], e, np.asarray(sentence, np.float64))
    a = _softmax(e.reshape(len(x), -1), 1).reshape(e.shape)
    z = _convolved(a * x, p['gates_x']) + _convolved(h, p['gates_h'])
    i, f, g, o = np.split(z, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
  return h


@pytest.mark.parametrize('steps', [1, 4])
@pytest.mark.parametrize('gate', [0, 4])
def test_the_convlstm_is_its_recurrence(steps, gate):
  x, text = 3 * _normal(2, 3, 5, 6), _text()
  module = sam.AttentiveConvLSTM(steps, gate)
  variables = made_up.variables(module, x, text)
  got = module.apply(variables, x, text)
  sentence = text.sentence if gate else None
  want = _recurrence(variables['params'], x, sentence, steps)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_attention_matters():
  x = 3 * _normal(2, 3, 5, 6)
  module = sam.AttentiveConvLSTM()
  variables = made_up.variables(module, x)
  got = module.apply(variables, x)
  variables['params']['attend']['kernel'] *= 0
  assert np.abs(got - module.apply(variables, x)).max() > 1e-3


def test_the_released_form_equals_the_released_code(goldens):
  stored = np.load(goldens / 'sam_gate_released.npz')
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
  sentence = rng.normal(size=(2, 256)).astype(np.float32)

  def conv(name, out=6, bias=True):
    weight = _rule(f'{name}.weight', (out, 6, 3, 3))
    p = {'kernel': np.moveaxis(weight, (0, 1), (-1, -2))}
    return p | ({'bias': _rule(f'{name}.bias', (out,))} if bias else {})

  def gates(letter):
    parts = [conv(f'{letter}_{g}') for g in GATES]
    return {
      k: np.concatenate([p[k] for p in parts], -1) for k in ('kernel', 'bias')
    }

  linear = lambda name, *shape: {'kernel': _rule(f'{name}.weight', shape).T}
  gate = {
    'query': linear('W_Q', 3 * 4 * 5, 256),
    'key': linear('W_K', 5, 1),
    'value': linear('W_V', 5, 1),
    'out': linear('W_sum', 1, 5) | {'bias': _rule('W_sum.bias', (1,))},
  }
  params = {
    'attend_h': conv('W_a'),
    'attend_x': conv('U_a'),
    'attend': conv('V_a', 1, bias=False),
    'gates_x': gates('W'),
    'gates_h': gates('U'),
    'gate': gate,
  }
  text = TextFeatures(None, jnp.ones((2, 1), bool), jnp.asarray(sentence))
  module = sam.AttentiveConvLSTM(gate=5, gate_form='released')
  got = module.apply({'params': params}, jnp.asarray(x), text)
  np.testing.assert_allclose(got, stored['y'], atol=1e-5)


def _rule(name, shape):
  return weights_rule.tensor(name, shape, seed=3)


# The priors.


def test_priors_are_gaussians_with_a_maximum_of_one():
  table = np.array([[0.5, 0.9], [0.5, 0.6], [0.2, 0.01], [0.3, 0.25]])
  params = {'params': {'gaussians': jnp.asarray(table, jnp.float32)}}
  got = np.asarray(sam.GaussianPriors(2).apply(params, 3, 5))
  assert got.shape == (3, 5, 2)
  mu_x, mu_y, sigma_x, sigma_y = 0.75, 0.6, 0.1, 0.25  # held in bounds
  x, y = np.linspace(0, 1, 5)[None], np.linspace(0.2, 0.8, 3)[:, None]
  want = np.exp(
    -((x - mu_x) ** 2) / (2 * sigma_x**2) - (y - mu_y) ** 2 / (2 * sigma_y**2)
  )
  np.testing.assert_allclose(got[..., 1], want / want.max(), atol=1e-6)
  assert got[1, 2, 0] == 1 == got[..., 0].max()


@pytest.mark.parametrize('bound', sam.BOUNDS)
def test_only_the_soft_bound_teaches_what_lies_outside(bound):
  module = sam.GaussianPriors(1, bound)
  table = jnp.array([[0.9], [0.1], [0.01], [0.9]])

  def total(table):
    maps = module.apply({'params': {'gaussians': table}}, 4, 6)
    return (maps * _normal(4, 6, 1)).sum()

  gradient = jax.grad(total)(table)
  assert np.isfinite(gradient).all()
  assert np.all(np.asarray(gradient) != 0) == (bound == 'soft')


def test_the_soft_bound_holds():
  module = sam.GaussianPriors(1, 'soft')
  for value in (-9.0, 9.0):
    params = {'params': {'gaussians': jnp.full((4, 1), value)}}
    edge = {'params': {'gaussians': jnp.full((4, 1), np.sign(value))}}
    np.testing.assert_allclose(
      module.apply(params, 4, 6),
      sam.GaussianPriors(1).apply(edge, 4, 6),
      atol=1e-3,
    )


# The network.


@pytest.fixture(scope='module')
def network():
  model, image, text = _network(), _normal(2, 32, 48, 3), _text()
  variables = made_up.variables(model, image, text, train=False)
  apply = jax.jit(functools.partial(model.apply, train=False))
  return model, variables, apply, image, text


@pytest.mark.parametrize('sign', [1, -1])
def test_the_published_output_is_not_negative(network, sign):
  model, variables, _, image, text = network
  params = dict(variables['params'])
  params['last'] = {
    'kernel': sign * jnp.abs(params['last']['kernel']),
    'bias': jnp.zeros(1),
  }
  relu = model.clone(output='relu')
  apply = jax.jit(functools.partial(relu.apply, train=False))
  y = apply({'params': params}, image, text)
  assert y.shape == (2, 32, 48) and y.dtype == jnp.float32
  assert np.all(np.asarray(y) >= 0) and np.any(np.asarray(y)) == (sign > 0)


@pytest.mark.parametrize('seed', range(4))
def test_the_published_output_starts_alive(seed):
  features = jnp.abs(_normal(2, 3, 4, 16))
  last = base.last_conv('relu', name=None)
  y, _ = last.init_with_output(jax.random.key(seed), features)
  assert np.all(np.asarray(y) > 0)


def test_without_words_the_network_is_the_plain_one(network):
  model, variables, apply, image, text = network
  plain = apply(variables, image)
  guided = apply(variables, image, text)
  assert np.abs(guided - plain).max() > 1e-6
  half = text._replace(mask=text.mask.at[0].set(False))
  some = apply(variables, image, half)
  np.testing.assert_array_equal(some[0], plain[0])
  np.testing.assert_array_equal(some[1], guided[1])
  without = {k: v for k, v in variables['params'].items()}
  without['convlstm'] = {
    k: v for k, v in without['convlstm'].items() if k != 'gate'
  }
  bare = model.clone(gate=0)
  y = jax.jit(functools.partial(bare.apply, train=False))(
    {'params': without}, image, text
  )
  np.testing.assert_array_equal(y, plain)


@pytest.mark.parametrize('released', [False, True])
def test_the_gate_starts_as_its_form_says(released):
  gate = sam.TextGate(4, released)
  y, variables = gate.init_with_output(
    jax.random.key(0), _normal(2, 3, 4, 1), _text()
  )
  assert np.any(np.asarray(y)) == released
  assert ('bias' in variables['params']['out']) == released


def test_stored_features_stand_in_for_the_image(network):
  model, variables, apply, image, text = network
  taps = model.apply(variables, image, method='encode_image')
  assert set(taps) == {'conv5_3'}
  np.testing.assert_array_equal(
    apply(variables, taps, text), apply(variables, image, text)
  )


@pytest.mark.slow
def test_gradients_reach_every_part(network):
  model, variables, _, image, text = network

  @jax.jit
  def gradient(params):
    def total(params):
      y = model.apply({'params': params}, image, text, train=True)
      return (y * _normal(*y.shape)).sum()

    return jax.grad(total)(params)

  got = gradient(variables['params'])
  for path, leaf in jax.tree_util.tree_leaves_with_path(got):
    assert np.isfinite(leaf).all(), path
    assert np.any(np.asarray(leaf)), path


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(gate_form='release'), "Did you mean 'released'"),
    (dict(bound='hard'), 'clip, soft'),
    (dict(output='sigmoud'), "Did you mean 'sigmoid'"),
    (dict(size=(30, 48)), 'multiples of 8'),
    (dict(levels=('1/8', 'conv5_3')), 'one level'),
    (dict(backbone=models.VGG16(('conv5_3',), width=2)), 'dilated=True'),
  ],
)
def test_sam_names_what_is_wrong(options, message):
  model = _network().clone(**options)
  shape = (1, *model.size, 3)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros(shape)
    )


def test_token_ids_need_an_encoder(network):
  _, variables, apply, image, _ = network
  with pytest.raises(ValueError, match='no text encoder'):
    apply(variables, image, jnp.zeros((2, 4), jnp.int32))
