"""The train step is understood by accelerators that are not here."""

import jax
import pytest
import tiny
from jax import export

from salflax.train import stage as stages_lib
from salflax.train import step

pytestmark = pytest.mark.slow


@pytest.mark.parametrize('dtype, devices', [('float32', 1), ('bfloat16', 4)])
def test_the_train_step_lowers_for_gpus_and_tpus(
  tmp_path, monkeypatch, dtype, devices
):
  # As there: attention has a form of its own on accelerators.
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  config = tiny.get_config(f'bert={tiny.bert_folder(tmp_path / "bert")}')
  config.dtype = dtype
  (stage,) = tiny.stages(config, tmp_path)
  mesh = tiny.mesh(devices)
  rows = stages_lib.train_batches(stage, stages_lib.abstract_state(stage))
  batch = next(iter(rows))
  train_step = step.make_train_step(
    stage.model, stage.loss_fn, stage.make_tx(), mesh
  )
  exported = export.export(train_step, platforms=('cuda', 'tpu'))(
    stages_lib.abstract_state(stage),
    jax.eval_shape(lambda: batch),
    jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))),
  )
  assert exported.nr_devices == devices
  assert exported.platforms == ('cuda', 'tpu')
  text = exported.mlir_module()
  assert 'stablehlo.convolution' in text
  assert ('bf16' in text) == (dtype == 'bfloat16')
