"""Everything a config lacks is collected, with what brings it."""

import importlib.util
import sys

import pytest
import tiny_config

from configs import loss_study, sjtu_tis
from salflax.config import missing, resolve, schema


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
  config = sjtu_tis.get_config(
    'small,backbone=resnet50_v1,free=osie+folder:mine'
  )
  config.sjtu.init = 'runs/other'
  lines = _collect(config)
  starts = [line.partition(':')[0] for line in lines]
  assert starts == [
    'data set osie',
    'data set folder',
    'model.backbone.weights=resnet50_v1_to_layer3.safetensors',
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
  for key in (
    'contrast.vision.weights=a/vit',
    'perceptual.weights=b/vgg',
    'model.weights=c/whole',
  ):
    assert f'{key}:' in lines


@pytest.fixture
def no_pot(monkeypatch):
  monkeypatch.setitem(sys.modules, 'ot', None)
  real = importlib.util.find_spec
  without = lambda name, *a: None if name == 'ot' else real(name, *a)
  monkeypatch.setattr(importlib.util, 'find_spec', without)


def test_predicting_needs_no_package_of_a_metric(no_pot):
  config = tiny_config.get_config()
  config.evaluate.protocols = 'mit|emd'
  assert len(resolve.resolve(config, with_data=False)) == 1


def test_a_package_is_named_before_anything_is_built(no_pot):
  config = loss_study.get_config('data=scenes')
  config.model.backbone.weights = ''
  config.evaluate.protocols = 'mit|emd'
  (line,) = _collect(config)
  assert 'emd' in line and 'pip install' in line


def test_small_configs_have_weights_that_a_user_can_fetch():
  config = sjtu_tis.get_config('small,backbone=resnet50,free=scenes')
  lines = _collect(config)
  assert any('https://huggingface.co/timm/resnet50.tv_in1k' in x for x in lines)
  assert config.free.pp.endswith('normalize("imagenet")')
