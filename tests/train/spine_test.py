"""Networks other than TranSalNet train along the same spine."""

import jax
import numpy as np
import pytest
import tiny
from flax import traverse_util
from toy_gaze import Toy

from salflax.train import checks, loop
from salflax.train import stage as stages_lib

BACKBONES = {
  'sam': dict(name='vgg16', width=2, dilated=True),
  'aspp': dict(name='vgg16', width=2),
}


def _stage(name, folder):
  config = tiny.get_config()
  record = dict(name=name, size=(32, 32), backbone=BACKBONES[name], width=8)
  record |= dict(output='sigmoid', text=dict(name='none'))
  config.only.update(steps=4, freeze=('backbone/.*',))
  if name == 'sam':
    bert = str(tiny.bert_folder(folder / 'bert'))
    record.update(text=dict(name='bert', weights=bert, length=8))
    record.update(gate=2, steps=2, priors=2)
    config.only.update(freeze=('backbone/.*', 'text/.*'))
  config.model = record
  (stage,) = tiny.stages(config, folder, train=Toy(5))
  return stage


@pytest.mark.parametrize('name', BACKBONES)
def test_a_config_becomes_a_sound_stage(name, tmp_path):
  stage = _stage(name, tmp_path)
  checks.check(stage)
  assert stage.stored == {
    'backbone',
    'text' if name == 'sam' else 'backbone',
  }
  taps = stage.model.backbone.taps
  assert taps == stage.model.levels
  if name == 'sam':
    params = stages_lib.abstract_state(stage).params
    assert 'gate' in params['convlstm']


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_it_trains_on_stored_features(name, tmp_path):
  stage = _stage(name, tmp_path)
  before = stages_lib.initial_state(stage, tiny.mesh()).params
  before = traverse_util.flatten_dict(jax.device_get(before), sep='/')
  loop.train_stage(stage, str(tmp_path / 'only'), tiny.mesh())
  after = tiny.last_state(stage, tmp_path).params
  after = traverse_util.flatten_dict(after, sep='/')
  assert set(after) == set(before)
  same = {k for k in before if np.array_equal(before[k], after[k])}
  frozen = {k for k in before if k.split('/')[0] in ('backbone', 'text')}
  assert frozen <= same
  assert not same - frozen
  assert list(tmp_path.glob('cache/taps-*/*.bin'))
