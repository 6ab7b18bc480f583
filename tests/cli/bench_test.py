"""The benchmarks that train: what they print, and what they need."""

import dataclasses
import types

import jax
import pytest
import tiny
import tiny_config

from salflax import cli
from salflax.cli import bench
from salflax.core import parallel
from salflax.train import stage as stages_lib


def _options(what, config):
  return types.SimpleNamespace(
    what=what, config=config, repeats=1, topology='v5e:2x2'
  )


def _cells(line):
  return [cell.strip() for cell in line.strip('|').split('|')]


def _config(tmp_path):
  folder = tiny.bert_folder(tmp_path / 'bert')
  return tiny_config.get_config(f'bert={folder},data=no such data')


@pytest.mark.slow
def test_a_train_step_is_timed_without_data(tmp_path, capsys):
  config = _config(tmp_path)
  config.model.backbone.bn = 'frozen'
  config.only.freeze = ('backbone/.*', 'text/.*')
  bench.execute(_options('train', config))
  head, _, row, *_ = capsys.readouterr().out.splitlines()
  cells = dict(zip(_cells(head), _cells(row)))
  assert cells['batch'] == '4'
  assert float(cells['images/s']) > 0
  assert float(cells['peak memory, MB']) > 50


def test_a_batch_without_stored_features_fits_the_train_step(tmp_path):
  stage = bench.last_stage(_options('train', _config(tmp_path)))
  stage = dataclasses.replace(stage, train_source=bench.example_rows(stage))
  batch = next(iter(stages_lib.train_batches(stage, {})))
  assert batch['image'].shape == (4, 32, 32, 3) and 'taps' not in batch
  step = bench.train_step(stage, parallel.make_mesh())
  key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
  state = stages_lib.abstract_state(stage)
  after, _ = jax.eval_shape(step, state, batch, key)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_config_is_asked_for():
  with pytest.raises(cli.UsageError, match='needs --config'):
    bench.execute(_options('train', None))
