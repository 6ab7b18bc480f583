"""Everything a config lacks is collected, with what brings it."""

import sys

import pytest
import tiny_config

from configs import loss_study, sjtu_tis
from salflax.config import missing, schema


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SALFLAX_DATA', str(tmp_path / 'data'))
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path / 'weights'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')


def _collect(config):
  return missing.collect(schema.plain(config))


def test_nothing_is_missing_for_embedded_scenes():
  assert _collect(tiny_config.get_config()) == []


def test_a_line_for_each():
  config = sjtu_tis.get_config('small,free=osie+folder:mine')
  config.sjtu.init = 'runs/other'
  lines = _collect(config)
  starts = [line.partition(':')[0] for line in lines]
  assert starts == [
    'data set osie',
    'data set folder',
    'weights resnet50_v1_to_layer3.safetensors',
    'data set sjtu_tis',
    'run runs/other',
  ]
  assert '--dataset=folder --name=mine --raw=' in lines[1]
  assert '--workdir=runs/other' in lines[-1]


def test_weights_of_towers_and_losses_count():
  config = sjtu_tis.get_config('free=scenes')
  config.stages = ('free',)
  config.free.contrast = dict(vision=dict(name='vit', weights='a/vit'))
  config.free.perceptual = dict(weights='b/vgg')
  config.model.weights = 'c/whole'
  lines = ' '.join(_collect(config))
  assert all(
    f'weights {name}:' in lines for name in ('a/vit', 'b/vgg', 'c/whole')
  )


def test_a_package_is_named_before_anything_is_built(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ot', None)
  monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
  config = loss_study.get_config('data=scenes')
  config.model.backbone.weights = ''
  config.evaluate.protocols = 'mit|emd'
  (line,) = _collect(config)
  assert 'emd' in line and 'pip install' in line
