"""One step however it is computed: sharded, in parts, with less kept."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny

from salflax.core import parallel
from salflax.train import stage as stages_lib


@pytest.fixture(scope='module')
def stage(tmp_path_factory):
  """A stage whose step is that of the same rows in any grouping.

  Batch normalisation is still, and the optimiser is not Adam, which turns the
  rounding of a gradient of nothing into whole steps.
  """
  folder = tmp_path_factory.mktemp('scale')
  config = tiny.get_config(f'bert={tiny.bert_folder(folder / "bert")}')
  config.model.bn = config.model.backbone.bn = 'frozen'
  config.only.update(
    optimizer='sgd(momentum=0.9)', lr=1e-2, batch_size=8, freeze=('text/.*',)
  )
  config.only.store = False
  (stage,) = tiny.stages(config, folder)
  return stage


def _step(stage, *, devices=1, shards=1, **options):
  """Takes two steps; returns (losses, state, the state's bytes on a device)."""
  stage = dataclasses.replace(stage, param_shards=shards, **options)
  mesh = parallel.make_mesh(jax.devices()[:devices], shards=shards)
  state = stages_lib.initial_state(stage, mesh)
  batches = iter(stages_lib.train_batches(stage, state.variables))
  key = parallel.to_everywhere(jax.random.key_data(jax.random.key(1)), mesh)
  take_step, losses = stages_lib.train_step(stage, mesh), []
  for _ in range(2):
    batch = parallel.to_global(next(batches), mesh)
    state, measures = take_step(state, batch, key)
    losses.append(float(measures['loss']))
  batches.close()
  held = sum(
    x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state)
  )
  return losses, jax.device_get(state), held


def _vector(tree):
  leaves = [x for x in jax.tree.leaves(tree) if x.dtype == np.float32]
  return np.concatenate([np.ravel(x) for x in leaves]).astype(np.float64)


@pytest.fixture(scope='module')
def whole(stage):
  return _step(stage)


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    dict(devices=jax.device_count(), shards=jax.device_count() // 2),
    dict(accumulate=2, devices=4, shards=2),
    dict(remat='products'),
    dict(remat='blocks'),
  ],
  ids=str,
)
def test_the_step_is_the_same(stage, whole, options):
  losses, state, held = _step(stage, **options)
  np.testing.assert_allclose(losses, whole[0], rtol=1e-5)
  # The momentum is the sum of the gradients.
  for part in ('params', 'opt_state'):
    ours, theirs = (_vector(getattr(x, part)) for x in (state, whole[1]))
    error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert error < 1e-5, part
  shards = options.get('shards', 1)
  assert whole[2] / shards <= held <= whole[2] * (1 / shards + 0.2)
