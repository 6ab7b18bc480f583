"""The example of docs/own_data.md: its program and its commands."""

import pathlib
import re
import shlex

from salflax import __main__ as program
from salflax import data
from salflax.data import trackers

TEXT = (
  pathlib.Path(__file__).resolve().parent.parent / 'docs' / 'own_data.md'
).read_text(encoding='utf-8')


def test_the_example_is_prepared(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SALFLAX_DATA', str(tmp_path / 'data'))
  example = TEXT.partition('## An example')[2]
  code = re.search(r'```python\n(.*?)```', example, re.S)[1]
  exec(compile(code.replace('num=60', 'num=10'), 'study.py', 'exec'), {})
  command = re.search(r'```bash\nsalflax (prepare .*?)```', example, re.S)[1]
  argv = shlex.split(command.replace('\\\n', ' '))
  assert program.main(['salflax', *argv]) == 0
  assert 'left out, EyesNotFound (rows)' in capsys.readouterr().out
  source = data.load_source('folder:study', 'all')
  scenes = data.load_source(
    'scenes', 'train', num=10, conditions=('pure', 'salient', 'non_salient')
  )
  ours = {(r['image_id'], r['condition']): r for r in source}
  assert len(ours) == len(scenes) == 30
  for scene in scenes:
    row = ours[scene['image_id'], scene['condition']]
    assert row['text'] == scene['text']
    assert row['fixations'].tolist() == scene['fixations'].tolist()


def test_every_tracker_is_described():
  for name in trackers.TRACKERS:
    assert f'| `{name}`' in TEXT
