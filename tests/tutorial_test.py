"""The tutorial: what is stored in it, and that it runs."""

import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / 'docs' / 'tutorial.ipynb'


def _code(notebook):
  return [c for c in notebook['cells'] if c['cell_type'] == 'code']


def _figures(notebook):
  """Counts the images among the outputs."""
  outputs = [o for c in _code(notebook) for o in c['outputs']]
  return sum('image/jpeg' in o.get('data', {}) for o in outputs)


def _errors(notebook):
  """Lists what went wrong in the cells."""
  texts = [
    ''.join(o.get('text', '')) + o.get('ename', '')
    for c in _code(notebook)
    for o in c['outputs']
  ]
  return [t for t in texts if 'salflax: ' in t or 'Error' in t]


def test_its_outputs_are_stored():
  notebook = json.loads(TUTORIAL.read_text(encoding='utf-8'))
  assert _figures(notebook) >= 3 and not _errors(notebook)
  counts = [c['execution_count'] for c in _code(notebook)]
  assert counts == [*range(1, len(counts) + 1)]  # run once, from the top
  assert TUTORIAL.stat().st_size < 1 << 20
  assert not any(
    str(p) in TUTORIAL.read_text() for p in (ROOT, pathlib.Path.home())
  )


@pytest.mark.nightly
def test_it_runs(tmp_path):
  nbformat = pytest.importorskip('nbformat')
  nbclient = pytest.importorskip('nbclient')
  pytest.importorskip('ipykernel')
  # A copy, so that its runs/ do not lie in the repository.
  (tmp_path / 'docs').mkdir()
  (tmp_path / 'configs').symlink_to(ROOT / 'configs')
  (tmp_path / 'salflax').symlink_to(ROOT / 'salflax')
  notebook = nbformat.read(TUTORIAL, as_version=4)
  nbclient.NotebookClient(
    notebook,
    timeout=1800,
    kernel_name='python3',
    resources={'metadata': {'path': str(tmp_path / 'docs')}},
  ).execute()
  assert _figures(notebook) >= 3 and not _errors(notebook)
  assert (tmp_path / 'runs' / 'tutorial' / 'run').is_dir()
