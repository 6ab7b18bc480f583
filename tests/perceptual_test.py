"""Losses through a fixed network, and how a stage comes by it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax import config as config_lib
from salflax import network
from salflax.losses import make_loss, perceptual
from salflax.models import vgg

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


def gram(x):
  psi = np.asarray(x, np.float64).reshape(-1, x.shape[-1]).T
  return psi @ psi.T / psi.size


def test_the_equations():
  pred, target = maps((3, 13, 18))
  found_df = perceptual.df(pred, 255 * target, vgg=see)
  found_gm = perceptual.gm(pred, 255 * target, vgg=see)
  for i in range(3):
    pairs = list(zip(see(pred[i : i + 1]), see(target[i : i + 1])))
    np.testing.assert_allclose(
      found_df[i], sum(np.mean((p - s) ** 2) for p, s in pairs), rtol=1e-5
    )
    np.testing.assert_allclose(
      found_gm[i],
      sum(np.sum((gram(p) - gram(s)) ** 2) for p, s in pairs),
      rtol=1e-4,
    )


def test_cells_of_padding_alone_are_left_out():
  # Seen pixel by pixel, a letterbox that fills whole cells changes nothing.
  pred, target = maps((2, 8, 12))
  border = ((0, 0), (4, 8), (0, 4))
  where = np.pad(np.ones((2, 8, 12), bool), border)
  for fn in (perceptual.df, perceptual.gm):
    padded = fn(
      np.pad(pred, border, constant_values=0.7),
      np.pad(target, border),
      where=where,
      vgg=lambda x: [f + 3 for f in see(x)],
    )
    inside = fn(pred, target, vgg=lambda x: [f + 3 for f in see(x)])
    np.testing.assert_allclose(padded, inside, rtol=1e-4)


def test_too_small_for_the_poolings():
  pred, target = maps((1, 3, 9))
  with pytest.raises(ValueError, match='3 x 9 are too small.*number 2'):
    perceptual.df(pred, target, vgg=see)


def test_the_loss_is_given_its_network():
  pred, target = maps((2, 32, 32))
  total, terms = make_loss('2*df + gm', vgg=see)(pred, {'saliency': target})
  np.testing.assert_allclose(total, 2 * terms['df'] + terms['gm'], rtol=1e-6)
  np.testing.assert_allclose(
    terms['df'], perceptual.df(pred, target, vgg=see).mean(), rtol=1e-6
  )
  for spec in ('df', 'lc2', 'lc2_r'):
    with pytest.raises(ValueError, match="df needs VGG-16's features"):
      make_loss(spec)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
  """A file of a narrow VGG-16, in torchvision's names."""
  rng, state, last = np.random.default_rng(0), {}, 3
  for step, place in vgg.STEPS.items():
    if step.startswith('conv'):
      width = 4 * min(2 ** (int(step[4]) - 1), 8)
      kernel = rng.normal(0, (2 / 9 / last) ** 0.5, (width, last, 3, 3))
      state[f'features.{place}.weight'] = kernel.astype(np.float32)
      state[f'features.{place}.bias'] = np.zeros(width, np.float32)
      last = width
  path = tmp_path_factory.mktemp('vgg') / 'narrow.npz'
  np.savez(path, **state)
  return path


def test_features_of_a_file(weights):
  features = network.make_features(
    {'weights': str(weights), 'normalize': 'imagenet'}
  )
  pred, _ = maps((1, 35, 64))
  found = jax.jit(features)(pred)
  sizes = [(17, 32, 4), (8, 16, 8), (4, 8, 16), (2, 4, 32), (1, 2, 32)]
  assert [f.shape[1:] for f in found] == sizes
  # A grey picture, as the weights expect their pixels.
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
  np.testing.assert_allclose(found[0], x, rtol=1e-4, atol=1e-4)


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
  # Who only reads the run needs no such file.
  config.only.perceptual.weights = str(tmp_path / 'gone.npz')
  config_lib.save(config, str(tmp_path / 'run'))
  (stage,) = config_lib.load_stages(tmp_path / 'run')
  with pytest.raises(ValueError, match='only read'):
    stage.loss_fn(pred, {'saliency': target})


@pytest.mark.slow
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
    print(fn.__name__, same, near, far)
    assert 0 == same < near < far
