"""The network of the loss-function study: size, filter, shapes, dropout."""

import functools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from salflax import models
from salflax.models import aspp


def _network(**options):
  backbone = models.VGG16(('pool3', 'pool4', 'conv5_3'), width=2)
  return models.AsppNet(backbone, **(dict(size=(30, 40), width=8) | options))


def _picture(b=2, size=(30, 40), seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(b, *size, 3)), jnp.float32)


@pytest.fixture(scope='module')
def network():
  model, image = _network(), _picture()
  return model, made_up.variables(model, image, train=False), image


def test_it_has_the_published_size():
  model = models.build(dict(name='aspp', backbone=dict(name='vgg16')))
  assert model.size == (300, 400)
  image = jax.ShapeDtypeStruct((1, *model.size, 3), jnp.float32)
  init = functools.partial(model.init, jax.random.key(0), train=False)
  params = jax.eval_shape(init, image)['params']
  sizes = {
    name: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
    for name, tree in params.items()
  }
  assert sizes.pop('backbone') == 14_714_688
  assert sizes['reduce'] == 1_474_688 and sizes['last'] == 129
  assert sum(sizes.values()) == 1_622_401  # with VGG-16 frozen


def test_the_gaussian_is_the_products_and_keeps_flat_maps():
  taps = aspp.gaussian(1.0)
  assert taps.shape == (5,) and taps.dtype == np.float32
  np.testing.assert_allclose(taps[2] / taps[3], np.exp(0.5), rtol=1e-6)
  x = np.zeros((1, 9, 9, 1), np.float32)
  x[0, 4, 4] = 1
  got = aspp.smooth(jnp.asarray(x), taps)[0, 2:7, 2:7, 0]
  np.testing.assert_allclose(got, np.outer(taps, taps), atol=1e-6)
  flat = jnp.full((1, 4, 3, 2), 3.0)
  np.testing.assert_allclose(aspp.smooth(flat, taps), flat, rtol=1e-6)


@pytest.mark.parametrize('output', ['relu', 'projected_relu', 'sigmoid'])
def test_saliency_has_the_images_size(network, output):
  model, variables, image = network
  apply = functools.partial(model.clone(output=output).apply, train=False)
  y = jax.jit(apply)(variables, 9 * image)
  assert y.shape == (2, 30, 40) and y.dtype == jnp.float32
  y = np.asarray(y)
  assert y.min() >= 0 and y.std() > 0
  assert (y.max() <= 1) or 'relu' in output


def test_features_may_be_scaled(network):
  model, variables, image = network
  taps = model.apply(variables, image, method='encode_image')
  half = jax.tree.map(lambda x: x / 2, taps)
  np.testing.assert_allclose(
    model.clone(feature_scale=0.5).apply(variables, taps, train=False),
    model.apply(variables, half, train=False),
    rtol=1e-6,
  )
  assert not np.array_equal(
    model.apply(variables, taps, train=False),
    model.apply(variables, half, train=False),
  )


def test_a_projected_relu_lets_a_map_of_zeros_learn():
  x = jnp.float32([-2, -0.5, 0, 0.5, 2])
  relu = models.base.OUTPUTS['projected_relu']
  np.testing.assert_array_equal(relu(x), np.maximum(x, 0))
  backward = jax.vjp(relu, x)[1]
  for direction in (1.0, -1.0):
    (gradient,) = backward(jnp.full(5, direction))
    # What would push a negative value further down is held back.
    negative = min(direction, 0.0)
    want = [negative, negative, negative, direction, direction]
    np.testing.assert_array_equal(gradient, want)


def test_a_dead_map_has_a_gradient_behind_a_projected_relu(network):
  model, variables, image = network
  params = dict(variables['params'])
  dead = dict(params['last'], bias=params['last']['bias'] - 100)
  params['last'] = dead

  def size(output):
    module = model.clone(output=output)
    fn = lambda p: jnp.abs(
      module.apply({'params': p}, image, train=False) - 1
    ).mean()
    value, gradient = jax.jit(jax.value_and_grad(fn))(params)
    assert value == 1  # a map of zeros
    return float(jnp.abs(gradient['last']['bias']).sum())

  assert size('relu') == 0
  assert size('projected_relu') > 0.1


def test_dropout_is_for_training(network):
  model, variables, image = network
  apply = jax.jit(
    lambda key, train: model.apply(
      variables, image, train=train, rngs={'dropout': key}
    ),
    static_argnums=1,
  )
  a, b = jax.random.split(jax.random.key(0))
  np.testing.assert_array_equal(apply(a, False), apply(b, False))
  assert not np.array_equal(apply(a, True), apply(b, True))


def test_text_is_ignored_and_stored_features_will_do(network):
  model, variables, image = network
  apply = functools.partial(model.apply, variables, train=False)
  want = apply(image)
  tokens = jnp.zeros((2, 4), jnp.int32)
  np.testing.assert_array_equal(apply(image, tokens, tokens == 0), want)
  taps = model.apply(variables, image, method='encode_image')
  assert tuple(taps) == model.levels
  np.testing.assert_array_equal(apply(taps), want)


def test_every_rate_sees_its_own_neighbours(network):
  """A kernel that takes one neighbour only moves the image by its rate."""
  model, variables, _ = network
  levels = ('pool3', 'pool4', 'conv5_3')
  params = jax.tree.map(jnp.zeros_like, variables['params'])
  for rate in model.rates:
    kernel = params[f'aspp_{rate}']['kernel']
    params[f'aspp_{rate}']['kernel'] = kernel.at[1, 2].set(1.0)
  reduce = params['reduce']['kernel']
  params['reduce']['kernel'] = reduce.at[1, 1, 0].set(1.0)
  plain = model.clone(sigma=0.0, dropout=0.0, size=(40, 200))
  taps = {k: jnp.zeros((1, 5, 25, 16)) for k in levels}
  taps['pool3'] = jnp.zeros((1, 5, 25, 8)).at[0, 2, 20, 0].set(1.0)
  for i, rate in enumerate(model.rates):
    last = params['last']['kernel'] * 0
    params['last']['kernel'] = last.at[..., 2 * i, 0].set(1.0)
    y = plain.apply({'params': params}, taps, train=False)
    row = np.asarray(y)[0, 20]
    assert row.argmax() // 8 == 20 - rate


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(output='tanh'), 'projected_relu, relu, sigmoid'),
    (dict(width=10), 'width=10'),
    (dict(rates=()), '0 rates'),
    (dict(size=(32, 40)), 'set `size`'),
  ],
)
def test_aspp_names_what_is_wrong(network, options, message):
  model, variables, image = network
  with pytest.raises(ValueError, match=message):
    model.clone(**options).apply(variables, image, train=False)
