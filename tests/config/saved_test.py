"""The config of a run, with those of the runs that it started from."""

import os

from salflax.config import saved, schema
from salflax.core import files


def _run(folder, init, *stages):
  config = {'stages': stages, 'evaluate': {}}
  for name in stages:
    config[name] = dict(schema.STAGE, data=f'{name} data', init='')
  config[stages[0]]['init'] = str(init)
  files.write_json(folder / 'config.json', config)
  return saved.load(folder)


def test_stages_of_earlier_runs_come_first(tmp_path):
  _run(tmp_path / 'a', '', 'free')
  _run(tmp_path / 'b', tmp_path / 'a', 'free', 'more')
  config = _run(tmp_path / 'c', tmp_path / 'b', 'last')
  merged = saved.with_origins(config)
  assert merged['stages'] == ('free of a', 'free', 'more', 'last')
  assert merged['free of a']['init'] == '' and config['stages'] == ('last',)
  assert merged['last'] == config['last']
  # A run that is gone, and a stage of the same run.
  os.remove(tmp_path / 'a' / 'config.json')
  assert saved.with_origins(config)['stages'] == ('free', 'more', 'last')
  config['last']['init'] = '@other'
  assert saved.with_origins(config) == config


def test_sections_of_an_older_run_have_the_defaults(tmp_path):
  """Those of stages that were never trained, too."""
  config = {'stages': ('free',), 'evaluate': {}}
  for name in ('free', 'later'):
    config[name] = dict(schema.STAGE, data='scenes')
    del config[name]['rows_per_image']
  files.write_json(tmp_path / 'config.json', config)
  node = saved.load(tmp_path)
  assert node['later']['rows_per_image'] == schema.STAGE['rows_per_image']
  schema.check(node)
