"""NanoDet against TensorFlow.js, and the painting of its boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from launch import nanodet_weights
from salflax.models.backbones import efficientnet_lite, nanodet
from salflax.models.backbones.efficientnet_lite import EfficientNetLite
from salflax.models.weights import pretrained

SIZE = (96, 128)


@pytest.fixture(scope='module')
def params():
  state = pretrained.read(efficientnet_lite.DETECTOR_FILE)
  return pretrained.convert(state)['params']['detector']


def test_the_file_is_the_whole_network(params):
  shapes = jax.eval_shape(
    nanodet.NanoDet().init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )['params']
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)
  assert sum(x.size for x in jax.tree.leaves(params)) == 3_786_068


@pytest.mark.data
def test_the_file_is_what_was_published(shared, params):
  path = shared / 'weights' / 'nanodet' / 'nanodet.json'
  theirs = pretrained.convert(nanodet_weights.convert(path))['params']
  jax.tree.map(np.testing.assert_array_equal, theirs['detector'], params)


@pytest.mark.data
def test_scores_and_boxes_are_those_of_tensorflow_js(shared, params):
  """The golden's grids are [row, column, channel], every third cell of 52."""
  with np.load(shared / 'goldens' / 'nanodet_416.npz') as archive:
    golden = dict(archive)
  image = np.random.default_rng(0).normal(0, 1, (1, 3, 416, 416))
  image = image.astype(np.float32).transpose(0, 2, 3, 1)
  image = (image * nanodet._DEVIATION + nanodet._MEAN)[..., ::-1]
  found = jax.jit(nanodet.NanoDet().apply)({'params': params}, image)
  start = 0
  for cells, stride in ((52, 8), (26, 16), (13, 32)):
    part = slice(start, start + cells**2)
    start += cells**2
    each = 3 if cells == 52 else 1
    scores, boxes = (
      np.asarray(x[0, part]).reshape(cells, cells, -1)[::each, ::each]
      for x in found
    )
    np.testing.assert_allclose(scores, golden[f'scores_{cells}'], atol=1e-6)
    logits = golden[f'boxes_{cells}']
    logits = logits.reshape(*logits.shape[:2], 4, 11)
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    left, top, right, bottom = np.moveaxis(shares @ np.arange(11.0), -1, 0)
    y, x = np.mgrid[:cells:each, :cells:each] + 0.5
    sides = np.stack([y - top, x - left, y + bottom, x + right], -1)
    np.testing.assert_allclose(boxes, stride * sides, atol=1e-3)


def _found(*things):
  """Makes detections of (kind, score, box), and cells without any."""
  scores, boxes = np.zeros((1, 8, 80)), np.zeros((1, 8, 4))
  for i, (kind, score, box) in enumerate(things):
    scores[0, i, kind], boxes[0, i] = score, box
  return nanodet.Detections(*(jnp.asarray(x, 'f4') for x in (scores, boxes)))


def test_a_box_is_painted_where_it_lies():
  found = _found((3, 0.5, (0, 0, 32, 16)), (7, 0.9, (40, 16, 48, 200)))
  x = np.asarray(nanodet.painted(found, (64, 64), (4, 4), boxes=4))[0]
  np.testing.assert_allclose(x[..., 3], [[0.5, 0, 0, 0]] * 2 + [[0] * 4] * 2)
  # Half a cell high, and beyond the image on the right.
  np.testing.assert_allclose(x[2, :, 7], [0, 0.45, 0.45, 0.45], atol=1e-6)
  assert not x[[0, 1, 3], :, 7].any() and not x[..., 0].any()


def test_of_two_boxes_the_higher_score_counts():
  low, high = (1, 0.3, (0, 0, 64, 64)), (1, 0.8, (0, 0, 16, 16))
  for things in ((low, high), (high, low)):
    x = nanodet.painted(_found(*things), (64, 64), (4, 4), boxes=8)
    expected = np.full((4, 4), 0.3)
    expected[0, 0] = 0.8
    np.testing.assert_allclose(x[0, ..., 1], expected, atol=1e-6)


def test_things_are_a_tap_beside_the_others(params):
  network = EfficientNetLite(taps=('1/16', 'things'))
  image = np.random.default_rng(0).uniform(0, 255, (1, *SIZE, 3))
  image = jnp.asarray(image, jnp.float32)
  small = (image - 127) / 128
  drawn = jax.jit(network.init)(jax.random.key(0), small)
  variables = pretrained.merge(
    drawn, {'params': params}, at='detector', skip=()
  )
  taps = jax.jit(network.apply)(variables, small)
  assert taps['1/16'].shape == (1, 6, 8, 112)
  found = nanodet.NanoDet().apply({'params': params}, image)
  expected = nanodet.painted(found, SIZE, (6, 8))
  np.testing.assert_allclose(taps['things'], expected, atol=1e-5)
  without = jax.eval_shape(
    lambda x: network.apply(variables, x, things=False), small
  )
  assert set(without) == {'1/16'}
