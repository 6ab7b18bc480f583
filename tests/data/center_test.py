"""The mean training map and how a stage hands it to a loss."""

import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax.data import center, frames, pp
from salflax.train import stage as stages_lib


def rows(*tops):
  """Images of two shapes whose maps have one lit row each, any scale."""
  out = []
  for k, top in enumerate(tops):
    size = (40, 60) if k % 2 else (60, 40)
    saliency = np.zeros((*size, 1), np.uint8)
    if top is not None:
      saliency[top * size[0] // 20 : (top + 1) * size[0] // 20] = 50 * (k + 1)
    image = np.zeros((*size, 3), np.uint8)
    out.append({'image': image, 'saliency': saliency})
  return out


def test_mean_of_maps_scaled_to_one():
  mean = center.mean_map(rows(2, 2, 10, None), threads=2)
  assert mean.shape == center.GRID and mean.dtype == np.float32
  h = center.GRID[0]
  np.testing.assert_allclose(mean[int(0.125 * h)], 2 / 3, atol=1e-5)
  np.testing.assert_allclose(mean[int(0.525 * h)], 1 / 3, atol=1e-5)
  np.testing.assert_array_equal(mean[int(0.8 * h)], 0)


def test_nothing_to_average():
  with pytest.raises(ValueError, match='none of 2 has any mass'):
    center.mean_map(rows(None, None))


def test_it_lies_in_the_box():
  source = rows(2, 2)
  mean = center.mean_map(source)
  prepare, add = pp.make('resize_pad(30, 40)'), center.Center(mean)
  for row in source:
    out = add(prepare(dict(row), None))
    top, left, h, w = out['box']
    actual = out['center']
    assert actual.shape == (30, 40) and actual.dtype == np.float32
    inside = actual[top : top + h, left : left + w]
    np.testing.assert_array_equal(inside, frames.resize(mean, (h, w)))
    assert inside.any() and np.count_nonzero(actual) == np.count_nonzero(inside)


def test_a_stage_computes_it_for_a_loss_that_asks(tmp_path):
  source = Toy(4, conditions=('pure',))
  config = tiny.get_config()
  for loss, asks in (('mse + center_bias', True), ('mse', False)):
    config.only.loss = loss
    (stage,) = tiny.stages(config, tmp_path, train=source)
    batch = next(iter(stages_lib.train_batches(stage, {})))
    assert ('center' in batch) == asks
    if asks:
      assert batch['center'].shape == batch['saliency'].shape
      assert 0 < batch['center'].max() <= 1
      total, terms = stage.loss_fn(
        np.zeros(batch['saliency'].shape, 'f'), batch
      )
      assert float(total) > float(terms['mse']) > 0
