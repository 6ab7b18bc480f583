"""Losses through a fixed network, and how a stage comes by it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax.config import network, saved
from salflax.config import resolve as config_lib
from salflax.losses import make_loss, perceptual

LEVELS = ('pool1', 'pool2', 'pool3', 'pool4', 'pool5')
WEIGHTS = (
  np.random.default_rng(5).normal(size=(2, 1, 1, 1, 3)).astype(np.float32)
)


def see(x):
  """Two poolings of what is seen pixel by pixel."""
  x, out = x[..., None] * WEIGHTS[0], []
  for k in range(2):
    b, h, w, c = x.shape
    x = x[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, c)
    x = jnp.tanh(x.max((2, 4)) * WEIGHTS[k])
    out.append(x)
  return out


def maps(shape, seed=0):
  rng = np.random.default_rng(seed)
  pred = rng.random(shape, np.float32)
  target = rng.random(shape, np.float32)
  return pred, target / target.max((1, 2), keepdims=True)


def louder(x):
  return [1000 * f for f in see(x)]


def lifted(x):
  return [f + 3 for f in see(x)]


def empty_is_nothing(x):
  return [f * (x.max((1, 2)) > 0)[:, None, None, None] for f in see(x)]


@functools.cache
def compiled(fn, vgg=see, **options):
  return jax.jit(functools.partial(fn, vgg=vgg, **options))


see_fast = jax.jit(see)


def gram(x):
  psi = np.asarray(x, np.float64).reshape(-1, x.shape[-1]).T
  return psi @ psi.T / psi.size


def test_the_equations():
  pred, target = maps((3, 13, 18))
  df = compiled(perceptual.df)(pred, 255 * target)
  gm = compiled(perceptual.gm)(pred, 255 * target)
  for i in range(3):
    pairs = list(zip(see_fast(pred[i : i + 1]), see_fast(target[i : i + 1])))
    np.testing.assert_allclose(
      df[i], sum(np.mean((p - s) ** 2) for p, s in pairs), rtol=1e-5
    )
    np.testing.assert_allclose(
      gm[i],
      sum(np.sum((gram(p) - gram(s)) ** 2) for p, s in pairs),
      rtol=1e-4,
    )


def test_cells_of_padding_alone_are_left_out():
  # Seen pixel by pixel, a letterbox that fills whole cells changes nothing.
  pred, target = maps((2, 8, 12))
  border = ((0, 0), (4, 8), (0, 4))
  where = np.pad(np.ones((2, 8, 12), bool), border)
  for fn in (perceptual.df, perceptual.gm):
    loss = compiled(fn, lifted)
    padded = loss(
      np.pad(pred, border, constant_values=0.7),
      np.pad(target, border),
      where=where,
    )
    inside = loss(pred, target)
    np.testing.assert_allclose(padded, inside, rtol=1e-4)


def test_shrunk_maps_are_means_of_pixels():
  pred, target = maps((2, 13, 18))
  small = [
    x[:, :12].reshape(2, 4, 3, 6, 3).mean((2, 4)) for x in (pred, target)
  ]
  for fn in (perceptual.df, perceptual.gm):
    # The target is scaled to a maximum of 1 before, not after.
    pair = small[0], small[1] / small[1].max((1, 2), keepdims=True)
    expected = [
      sum(
        np.mean((p - s) ** 2)
        if fn is perceptual.df
        else np.sum((gram(p) - gram(s)) ** 2)
        for p, s in zip(
          see_fast(small[0][i : i + 1]), see_fast(small[1][i : i + 1])
        )
      )
      for i in range(2)
    ]
    value = compiled(fn, shrink=3)(pred, target)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert not np.allclose(value, compiled(fn)(*pair), rtol=1e-2)
    np.testing.assert_array_equal(
      compiled(fn)(pred, target), compiled(fn, shrink=1)(pred, target)
    )


def test_relative_losses_do_not_hang_on_the_size_of_features():
  pred, target = maps((3, 16, 16))
  for fn in (perceptual.df, perceptual.gm):
    relative = compiled(fn, relative=True)
    loud = compiled(fn, louder, relative=True)(pred, target)
    np.testing.assert_allclose(relative(pred, target), loud, rtol=1e-4)
    assert not np.allclose(
      compiled(fn)(pred, target), compiled(fn, louder)(pred, target), rtol=0.5
    )
    # A map without features is worth one a pooling.
    nothing = compiled(fn, empty_is_nothing, relative=True)
    flat = nothing(np.zeros_like(pred), target)
    np.testing.assert_allclose(flat, [2, 2, 2], rtol=1e-5)
    same = relative(target, target)
    np.testing.assert_array_equal(same, np.zeros(3))


@pytest.mark.parametrize('shrink', [0, -1, 1.5, True, '2', 65, np.nan])
def test_shrink_is_a_whole_number(shrink):
  pred, target = maps((1, 8, 8))
  with pytest.raises(ValueError, match='shrink must be a whole number'):
    perceptual.gm(pred, target, vgg=see, shrink=shrink)


def test_shrink_leaves_a_map():
  pred, target = maps((1, 8, 30))
  with pytest.raises(ValueError, match='shrink=9 leaves nothing of.* 8 x'):
    perceptual.gm(pred, target, vgg=see, shrink=9)


def test_options_are_checked_before_the_network_is_used():
  def unused(x):
    raise AssertionError

  with pytest.raises(ValueError, match='shrink must be a whole number'):
    make_loss('kld + df(shrink=0)', vgg=unused)
  with pytest.raises(ValueError, match="'shrunk'"):
    make_loss('kld + df(shrunk=2)', vgg=unused)
  assert make_loss('kld + df(shrink=2)', vgg=unused)


def test_too_small_for_the_poolings():
  with pytest.raises(ValueError, match='3 x 9 are too small.*number 2'):
    jax.eval_shape(compiled(perceptual.df), *maps((1, 3, 9)))


def test_the_loss_takes_its_network():
  pred, target = maps((2, 32, 32))
  loss_fn = jax.jit(make_loss('2*df + gm', vgg=see))
  total, terms = loss_fn(pred, {'saliency': target})
  np.testing.assert_allclose(total, 2 * terms['df'] + terms['gm'], rtol=1e-6)
  np.testing.assert_allclose(
    terms['df'], compiled(perceptual.df)(pred, target).mean(), rtol=1e-6
  )
  for spec in ('df', 'lc2', 'lc2_r'):
    with pytest.raises(ValueError, match="df needs VGG-16's features"):
      make_loss(spec)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  return tiny.vgg_file(tmp_path_factory.mktemp('vgg') / 'narrow.npz')


def test_features_of_a_file(weights):
  features = network.make_features(
    {'weights': str(weights), 'normalize': 'imagenet'}
  )
  pred, _ = maps((1, 35, 64))
  levels = jax.jit(features)(pred)
  sizes = [(17, 32, 4), (8, 16, 8), (4, 8, 16), (2, 4, 32), (1, 2, 32)]
  assert [f.shape[1:] for f in levels] == sizes
  # A grey image, as the weights expect their pixels.
  state = np.load(weights)
  mean, std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
  x = (255 * pred[..., None] - np.float32(mean)) / np.float32(std)
  for place in (0, 2):
    x = jax.lax.conv_general_dilated(
      x,
      state[f'features.{place}.weight'].transpose(2, 3, 1, 0),
      *((1, 1), 'SAME'),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    x = jax.nn.relu(x)
  x = x[:, :34].reshape(1, 17, 2, 32, 2, 4).max((2, 4))
  np.testing.assert_allclose(levels[0], x, rtol=1e-4, atol=1e-4)


def test_features_that_cannot_be(weights, tmp_path):
  make = network.make_features
  assert make({'weights': '', 'normalize': 'imagenet'}) is None
  with pytest.raises(ValueError, match="'imagenet'"):
    make({'weights': str(weights), 'normalize': 'imagnet'})
  with pytest.raises(FileNotFoundError, match='narow'):
    make({'weights': str(tmp_path / 'narow.npz'), 'normalize': 'imagenet'})
  np.savez(tmp_path / 'other.npz', fc=np.zeros((3, 4)))
  with pytest.raises(ValueError, match=r'other\.npz does not fit'):
    make({'weights': str(tmp_path / 'other.npz'), 'normalize': 'imagenet'})


def test_a_stage_asks_for_weights(weights, tmp_path):
  config = tiny.get_config()
  config.only.loss = 'mse + 0.1*df'
  source = Toy(4, conditions=('pure',))
  with pytest.raises(ValueError, match=r"perceptual=dict\(weights='...'\)"):
    tiny.stages(config, tmp_path, train=source)
  config.only.perceptual.weights = str(weights)
  (stage,) = tiny.stages(config, tmp_path, train=source)
  pred, target = maps((2, 32, 32))
  assert stage.loss_fn(pred, {'saliency': target})[0] > 0
  # The network's own weights will do where it is a VGG-16, too.
  config.only.perceptual.weights = '@backbone'
  with pytest.raises(
    ValueError, match="'@backbone' takes.*backbone is 'resnet"
  ):
    tiny.stages(config, tmp_path, train=source)
  own = {'name': 'vgg16', 'weights': str(weights)}
  record = {'weights': '@backbone', 'normalize': 'imagenet'}
  assert network.make_features(record, dict(own, weights='')) is None
  found = network.make_features(record, own)(target)
  named = network.make_features(dict(record, weights=str(weights)))(target)
  np.testing.assert_array_equal(found[-1], named[-1])
  config.only.perceptual.weights = str(weights)
  # Who only reads the run needs no such file.
  config.only.perceptual.weights = str(tmp_path / 'gone.npz')
  saved.save(config, str(tmp_path / 'run'))
  (stage,) = config_lib.load_stages(tmp_path / 'run')
  with pytest.raises(ValueError, match='only read'):
    stage.loss_fn(pred, {'saliency': target})


@pytest.mark.nightly
@pytest.mark.data
def test_real_weights(shared):
  path = shared / 'weights' / 'vgg16_imagenet_caffe_fp16.safetensors'
  features = network.make_features(
    {'weights': str(path), 'normalize': 'caffe_vgg'}
  )
  y, x = np.mgrid[:64, :64]
  blob = lambda at: np.exp(-((y - at) ** 2 + (x - at) ** 2) / 128.0)
  target = np.float32([blob(24)] * 3)
  pred = np.float32([blob(24), blob(28), blob(44)])
  assert sum(f.shape[-1] for f in features(target[:1])) == 1472
  for fn in (perceptual.df, perceptual.gm):
    same, near, far = np.asarray(fn(pred, target, vgg=features))
    assert 0 == same < near < far
