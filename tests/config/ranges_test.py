"""Numbers and names that no run can have are refused, all at once."""

import math

import pytest
import tiny_config

from salflax.config import ranges, schema


def _check(change):
  config = schema.plain(tiny_config.get_config())
  change(config)
  ranges.check(config)


def test_a_sound_config_passes():
  _check(lambda config: None)


@pytest.mark.parametrize(
  'key, value',
  [
    ('epochs', math.inf),
    ('epochs', 1e300),
    ('epochs', math.nan),
    ('steps', 10**12),
    ('batch_size', 10**7),
    ('lr', 1e4),
    ('clip', math.inf),
    ('patience', 10**12),
    ('eval_epochs', 1e9),
    ('limit', 10**12),
  ],
)
def test_numbers_of_a_stage(key, value):
  with pytest.raises(ValueError, match=rf'config\.only\.{key} must be from'):
    _check(lambda config: config['only'].update({key: value}))


@pytest.mark.parametrize(
  'key, value', [('seed', 2**32), ('threads', 10**6), ('workers', 10**6)]
)
def test_numbers_of_a_run(key, value):
  with pytest.raises(ValueError, match=rf'config\.{key} must be from'):
    _check(lambda config: config.update({key: value}))


@pytest.mark.parametrize('factor', [-1, math.inf, math.nan, True, None])
def test_factors_of_the_learning_rate(factor):
  with pytest.raises(ValueError, match="lr_scale of 'text/.*' must be"):
    _check(lambda c: c['only'].update(lr_scale=(('text/.*', factor),)))


@pytest.mark.parametrize(
  'names, message',
  [
    (('only', 'only'), 'twice: only'),
    (('only', 'Only'), 'twice: Only, only'),
    (('cache',), 'every run has'),
    (('Evaluate',), 'every run has'),
    (('a/b',), 'names a folder'),
    (('..',), 'names a folder'),
    (('',), 'names a folder'),
    (('a\n',), 'names a folder'),
  ],
)
def test_names_of_stages(names, message):
  def change(config):
    stage = config.pop('only')
    config.update({name: stage for name in names}, stages=names)

  with pytest.raises(ValueError, match=message):
    _check(change)


@pytest.mark.parametrize(
  'key, value',
  [
    ('head_dim', 0),
    ('widths', (16, -32)),
    ('widths', (16, 0)),
    ('depth', math.inf),
    ('size', (0, 32)),
    ('dropout', -0.1),
    ('backbone', dict(name='resnet', width=-4)),
  ],
)
def test_numbers_of_a_model(key, value):
  with pytest.raises(
    ValueError, match=f'config.model.{key}.* must be at least'
  ):
    _check(lambda config: config['model'].update({key: value}))


def test_all_faults_are_listed():
  with pytest.raises(ValueError, match='(?s)seed.*epochs'):
    _check(lambda c: (c.update(seed=-1), c['only'].update(epochs=math.inf)))


def test_a_batch_has_at_least_its_rows():
  node = dict(batch_size=17, data='scenes', split='fit')
  with pytest.raises(ValueError, match='only 16 rows in split'):
    ranges.check_rows(node, 16)
  ranges.check_rows(node, 17)
