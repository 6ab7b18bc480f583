"""VGG-16's features, and the dilated forms of both backbones."""

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from salflax import models
from salflax.config import network
from salflax.data import pp
from salflax.models import layers
from salflax.models.backbones import vgg
from salflax.models.weights import pretrained

FILE = 'vgg16_imagenet_caffe_fp16.safetensors'


def _picture(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _shapes(net, size=(1, 300, 400, 3)):
  return jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct(size, jnp.float32),
  )


def _count(variables):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(variables))


def test_places_are_those_of_the_published_file():
  places = [v for k, v in vgg.STEPS.items() if k.startswith('conv')]
  assert places == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def test_vgg16_has_the_published_size():
  taps = ('pool3', 'pool4', 'conv5_3')
  features, variables = _shapes(models.BACKBONES['vgg16'](taps=taps))
  assert _count(variables) == 14_714_688
  assert {k: v.shape[1:] for k, v in features.items()} == {
    'pool3': (37, 50, 256),
    'pool4': (18, 25, 512),
    'conv5_3': (18, 25, 512),
  }


def test_a_scale_is_a_pooling():
  features, _ = _shapes(vgg.VGG16(width=4), (1, 64, 96, 3))
  assert {k: v.shape[1:] for k, v in features.items()} == {
    '1/8': (8, 12, 16),
    '1/16': (4, 6, 32),
    '1/32': (2, 3, 32),
  }


def _plain(params, x, *, dilated):
  """Computes conv5_3 of x [B, H, W, 3], one operation after another."""
  for block, depth in enumerate((2, 2, 3, 3, 3), 1):
    for j in range(depth):
      place = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
      number = place[sum((2, 2, 3, 3, 3)[: block - 1]) + j]
      p = params[f'features_{number}']
      d = 2 if dilated and block == 5 else 1
      x = jax.lax.conv_general_dilated(
        x,
        p['kernel'],
        (1, 1),
        'SAME',
        rhs_dilation=(d, d),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      x = jnp.maximum(x + p['bias'].reshape(1, 1, 1, -1), 0)
    if block < 5:
      s = 1 if dilated and block == 4 else 2
      x = jax.lax.reduce_window(
        *(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, s, s, 1)),
        padding='SAME' if s == 1 else 'VALID',
      )
  return x


@pytest.mark.parametrize('dilated', [False, True])
def test_vgg_is_convolutions_and_poolings(dilated):
  x = _picture(1, 37, 48, 3)
  net = vgg.VGG16(('conv5_3', 'pool3'), width=4, dilated=dilated)
  variables = made_up.variables(net, x)
  got = jax.jit(net.apply)(variables, x)
  want = _plain(variables['params'], x, dilated=dilated)
  assert got['conv5_3'].shape[1:3] == ((4, 6) if dilated else (2, 3))
  assert got['pool3'].shape == (1, 4, 6, 16)
  np.testing.assert_allclose(got['conv5_3'], want, atol=1e-5)


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(taps=('conv5_4',)), "Did you mean 'conv5_3'"),
    (dict(taps=()), 'needs a tap'),
    (dict(taps=('1/16',), dilated=True), "Unknown tap of VGG-16 '1/16'"),
    (dict(taps=('1/8', 'pool3')), 'twice'),
  ],
)
def test_vgg_names_what_is_wrong(options, message):
  with pytest.raises(ValueError, match=message):
    _shapes(vgg.VGG16(**options))


def test_deeper_tensors_are_left_in_the_file():
  net = vgg.VGG16(('pool3',), width=4)
  x = _picture(1, 16, 16, 3)
  whole = made_up.variables(vgg.VGG16(('conv5_3',), width=4), x)
  whole['params']['classifier_0'] = {'kernel': np.zeros((2, 2))}
  ours = {'params': {'backbone': made_up.variables(net, x)['params']}}
  merged = pretrained.merge(ours, whole, at='backbone', skip=net.unused())
  assert set(merged['params']['backbone']) == {
    f'features_{i}' for i in (0, 2, 5, 7, 10, 12, 14)
  }
  with pytest.raises(ValueError, match='classifier_0'):
    pretrained.merge(ours, whole, at='backbone')


@pytest.mark.data
@pytest.mark.slow
def test_published_weights_see_edges_and_colours(shared):
  record = {
    'name': 'aspp',
    'size': (96, 128),
    'backbone': {'name': 'vgg16', 'weights': str(shared / 'weights' / FILE)},
    'text': {'name': 'none'},
  }
  model, ((scope, load, skip),), _ = network.make(record, jnp.float32)
  x = jnp.zeros((1, 96, 128, 3))
  shapes = jax.eval_shape(
    lambda x: model.init(jax.random.key(0), x, train=False), x
  )
  params = pretrained.merge(shapes, load(), at=scope, skip=skip)['params']
  flat = np.full((96, 128, 3), (200, 30, 30), np.uint8)
  edge = flat.copy()
  edge[:, 64:] = (30, 30, 200)
  values = [
    pp.make('normalize("caffe_vgg")')({'image': x}, None)['image']
    for x in (flat, edge)
  ]
  taps = jax.jit(model.backbone.clone(parent=None).apply)(
    {'params': params['backbone']}, np.stack(values)
  )
  conv = np.asarray(taps['pool3'])
  # Away from the border a flat image is alike everywhere, an edge is not.
  inside = conv[:, 5:-5, 5:-5]
  np.testing.assert_allclose(inside[0].std((0, 1)), 0, atol=1e-2)
  columns = inside[1].std(0).mean(), inside[1].std(1).mean()
  assert columns[1] > 10 * columns[0]


# The dilated residual network.


def _resnet(**options):
  options = dict(depths=(1, 1, 2, 2), width=4, variant='v1') | options
  return models.ResNet(**options)


def test_a_dilated_resnet_stays_at_an_eighth():
  net = _resnet(taps=('1/8', 'layer3', 'layer4'), dilated=True)
  features, variables = _shapes(net, (1, 64, 96, 3))
  assert {k: v.shape[1:] for k, v in features.items()} == {
    '1/8': (8, 12, 32),
    'layer3': (8, 12, 64),
    'layer4': (8, 12, 128),
  }
  plain = _shapes(_resnet(taps=('layer4',)), (1, 64, 96, 3))[1]
  same = jax.tree.map(lambda a, b: a.shape == b.shape, variables, plain)
  assert all(jax.tree.leaves(same))


def test_dilation_sees_what_stride_saw():
  """Without stride, dilation gives the strided network's values, denser."""
  x = _picture(1, 64, 64, 3)
  net = _resnet(taps=('layer4',), depths=(0, 0, 1, 1))
  variables = made_up.variables(net, x, train=False)
  coarse, dense = (
    jax.jit(lambda v, x, n=n: n.apply(v, x, train=False)['layer4'])(
      variables, x
    )
    for n in (net, net.clone(dilated=True))
  )
  # In v1 a stage strides in front of its first 3x3, so that one too has its
  # taps at the stage's rate.
  np.testing.assert_allclose(dense[:, ::4, ::4], coarse, atol=1e-4)


def test_biases_are_counted():
  plain = _shapes(models.ResNet(), (1, 64, 64, 3))[1]['params']
  biased = _shapes(models.ResNet(conv_bias=True), (1, 64, 64, 3))[1]['params']
  assert _count(biased) - _count(plain) == 26_560


def test_a_dilated_resnet_has_no_coarse_scale():
  with pytest.raises(ValueError, match="Unknown tap '1/32'"):
    _shapes(_resnet(taps=('1/32',), dilated=True), (1, 64, 64, 3))


def test_unused_stages_are_named():
  skip = _resnet(taps=('1/8',)).unused()[0]
  assert 'layer3' in skip and 'layer4' in skip and 'layer2' not in skip
  assert 'layer4' not in _resnet(taps=('layer4',)).unused()[0]
  assert 'layer4' in _resnet(depths=(1, 1, 1, 0)).unused()[0]


def test_pooling_of_the_dilated_form_pads_behind():
  """The maximum of a cell, its right, lower and diagonal neighbours."""
  x = jnp.abs(_picture(1, 3, 4, 2))
  padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  got = layers.max_pool(padded, window=2, stride=1, padding=0)
  np.testing.assert_array_equal(got[0, 2, 3], x[0, 2, 3])
  np.testing.assert_array_equal(got[0, 0, 0], x[0, :2, :2].max((0, 1)))
