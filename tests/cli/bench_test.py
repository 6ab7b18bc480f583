"""The benchmarks that train: what they print, and what they need."""

import types

import pytest
import tiny
import tiny_config

from salflax.cli import bench


def _options(what, config):
  return types.SimpleNamespace(
    what=what, config=config, repeats=1, topology='v5e:2x2'
  )


def _cells(line):
  return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.mark.slow
@pytest.mark.parametrize('stored', [False, True])
def test_a_train_step_is_timed_without_data(stored, tmp_path, capsys):
  folder = tiny.bert_folder(tmp_path / 'bert')
  config = tiny_config.get_config(f'bert={folder},data=no such data')
  if stored:
    config.model.backbone.bn = 'frozen'
    config.only.freeze = ('backbone/.*', 'text/.*')
  bench.execute(_options('train', config))
  head, _, row, *_ = capsys.readouterr().out.splitlines()
  found = dict(zip(_cells(head), _cells(row)))
  assert found['batch'] == '4'
  assert float(found['pictures/s']) > 0
  assert float(found['peak memory, MB']) > 50


def test_a_config_is_asked_for():
  with pytest.raises(ValueError, match='needs --config'):
    bench.execute(_options('train', None))
