"""Preparing: all is written or nothing, and a second run says so."""

import collections
import fcntl
import io
import json
import os
import pathlib
import signal
import subprocess
import sys

import fake_data
import numpy as np
import pytest

from salflax import cli as commands
from salflax import data
from salflax.cli import prepare as cli
from salflax.data import maps, prepare, raw

POINTS = [('p0.png', 0, 3, 2), ('p1.png', 0, 5, 6), ('p2.png', 0, 7, 8)]


def _prepare(dataset, root, data_dir, **kwargs):
  return prepare.prepare(data.DATASETS[dataset](), root, data_dir, **kwargs)


def _command(dataset, raw, data_dir, **options):
  """Runs the command in this process; returns its exit code."""
  options = dict(options, dataset=dataset, raw=raw, data_dir=data_dir)
  argv = ['prepare', *(f'--{k}={v}' for k, v in options.items())]
  return commands.call(cli.define_flags, cli.execute, argv)


def _finished(data_dir):
  """Lists all but the locks."""
  names = [p.relative_to(data_dir).as_posix() for p in data_dir.rglob('*')]
  return sorted(n for n in names if not n.endswith('.lock'))


def test_nothing_usable_is_an_error(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', [('p0.png', 0, 99, 99)], count=1)
  with pytest.raises(ValueError, match='Nothing usable') as error:
    _prepare('folder', root, tmp_path / 'out', name='mine')
  assert 'fixation outside the image' in str(error.value)
  assert _finished(tmp_path / 'out') == []


@pytest.mark.parametrize(
  'dataset, files, error, message',
  [
    ('sjtu_tis', ['image/x', 'map/x'], FileNotFoundError, 'image_1800'),
    (
      'sjtu_tis',
      ['image/x', 'map/x', 'fixation/x'],
      FileNotFoundError,
      'sentences are absent',
    ),
    (
      'sjtu_tis',
      ['image/x', 'map/x', 'fixation/x', 'text.xlsx'],
      ValueError,
      'not a readable workbook',
    ),
    ('osie', ['stimuli/x'], FileNotFoundError, 'fixations.mat'),
    (
      'osie',
      ['data/stimuli/x', 'data/eye/fixations.mat'],
      ValueError,
      'MATLAB',
    ),
    ('folder', ['images/x'], FileNotFoundError, 'fixations.csv'),
    ('folder', ['images/x', 'fixations.csv'], ValueError, 'no column'),
  ],
)
def test_another_layout_is_an_error(tmp_path, dataset, files, error, message):
  for name in files:
    (tmp_path / 'raw' / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / 'raw' / name).write_text('x')
  name = 'mine' if dataset == 'folder' else ''
  with pytest.raises(error, match=message):
    _prepare(dataset, tmp_path / 'raw', tmp_path / 'out', name=name)
  assert _finished(tmp_path / 'out') == []


def test_a_second_run_does_nothing_unless_asked(tmp_path, capsys):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  args = ('folder', str(root), str(tmp_path / 'out'))
  assert _command(*args, name='mine') == 0
  assert 'Prepared: 3 samples' in capsys.readouterr().out
  report = tmp_path / 'out' / 'folder' / 'mine' / '1.0.0' / 'report.json'
  stamp = report.stat().st_mtime_ns
  assert _command(*args, name='mine') == 0
  assert 'Already prepared' in capsys.readouterr().out
  assert report.stat().st_mtime_ns == stamp
  assert _command(*args, name='mine', sigma=9.0) == 1
  assert 'other options' in capsys.readouterr().err
  assert report.stat().st_mtime_ns == stamp
  (root / 'images' / 'p2.png').unlink()
  assert _command(*args, name='mine') == 1
  assert 'other files' in capsys.readouterr().err
  assert _command(*args, name='mine', sigma=9.0, overwrite=True) == 0
  assert json.loads(report.read_text())['samples'] == 2
  example = data.load_source('folder:mine', 'all', tmp_path / 'out')[0]
  blurred = maps.saliency_from_fixations(example['fixations'], (24, 32), 9.0)
  np.testing.assert_array_equal(
    example['saliency'][..., 0], maps.to_uint8(blurred)
  )


def test_a_failed_overwrite_leaves_what_was_there(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  _prepare('folder', root, tmp_path / 'out', name='mine')
  before = _finished(tmp_path / 'out')
  for path in (root / 'images').iterdir():
    path.write_bytes(b'')
  with pytest.raises(ValueError, match='Nothing usable'):
    _prepare('folder', root, tmp_path / 'out', name='mine', overwrite=True)
  assert _finished(tmp_path / 'out') == before
  assert len(data.load_source('folder:mine', 'all', tmp_path / 'out')) == 3


def _mine(tmp_path, **kwargs):
  """Prepares three images; a second time with the same arguments."""
  root = tmp_path / 'raw'
  if not root.exists():
    fake_data.folder(root, POINTS)
  return _prepare('folder', root, tmp_path / 'out', name='mine', **kwargs)


def _mtime(path):
  return path.stat().st_mtime_ns, path.stat().st_size


def test_content_counts_not_names_and_sizes(tmp_path):
  _mine(tmp_path)
  (tmp_path / 'raw' / '.DS_Store').write_text('passed over')
  assert not _mine(tmp_path).fresh
  path = tmp_path / 'raw' / 'fixations.csv'
  before = _mtime(path)
  content = path.read_bytes()
  path.write_bytes(content.replace(b'5,6', b'6,5'))
  os.utime(path, ns=(before[0], before[0]))
  assert _mtime(path) == before and path.read_bytes() != content
  with pytest.raises(ValueError, match='other files'):
    _mine(tmp_path)
  assert _mine(tmp_path, overwrite=True).fresh
  example = data.load_source('folder:mine', 'all', tmp_path / 'out')[1]
  assert example['fixations'].tolist() == [[5, 6]]


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize(
  'name',
  [
    'folder/mine/1.0.0/thesis.txt',
    'folder/mine/1.0.0/notes/thesis.txt',
    'folder/mine/1.0.0',
    'folder/mine',
    'folder',
    '.folder-mine.tmp/thesis.txt',
    '.folder-mine.tmp',
  ],
)
def test_what_prepare_did_not_write_stays(tmp_path, name, overwrite):
  thesis = tmp_path / 'out' / name
  thesis.parent.mkdir(parents=True)
  thesis.write_text('years of work')
  with pytest.raises(FileExistsError, match=thesis.name):
    _mine(tmp_path, overwrite=overwrite)
  assert thesis.read_text() == 'years of work'


def test_notes_beside_a_prepared_dataset_stay(tmp_path):
  note = _mine(tmp_path).folder / 'note.txt'
  note.write_text('mine')
  assert not _mine(tmp_path).fresh
  with pytest.raises(FileExistsError, match='note.txt'):
    _mine(tmp_path, overwrite=True)
  assert note.read_text() == 'mine'
  assert len(data.load_source('folder:mine', 'all', tmp_path / 'out')) == 3


@pytest.mark.parametrize('fails', [False, True])
def test_a_killed_overwrite_loses_nothing(tmp_path, fails):
  final = _mine(tmp_path).folder
  before = _finished(tmp_path / 'out')
  # As it is between the two renames: the old dataset and the new one.
  scratch = tmp_path / 'out' / '.folder-mine.tmp'
  scratch.mkdir()
  final.rename(scratch / 'replaced')
  (scratch / 'folder' / 'mine').mkdir(parents=True)
  (scratch / 'folder' / 'mine' / 'features.json').write_text('{}')
  if fails:
    (tmp_path / 'raw' / 'fixations.csv').write_text('image\n')
    with pytest.raises(ValueError, match='no column'):
      _mine(tmp_path, overwrite=True)
  else:
    assert not _mine(tmp_path).fresh
  assert _finished(tmp_path / 'out') == before
  assert len(data.load_source('folder:mine', 'all', tmp_path / 'out')) == 3


def test_a_rename_that_fails_brings_the_old_dataset_back(tmp_path, monkeypatch):
  final = _mine(tmp_path).folder
  before = _finished(tmp_path / 'out')
  rename = pathlib.Path.rename

  def refuse(path, target):
    if target == final and path.name != 'replaced':
      raise OSError('no')
    return rename(path, target)

  monkeypatch.setattr(pathlib.Path, 'rename', refuse)
  with pytest.raises(OSError, match='no'):
    _mine(tmp_path, overwrite=True)
  assert _finished(tmp_path / 'out') == before


def test_a_dataset_of_an_earlier_version_can_be_read(tmp_path):
  report = _mine(tmp_path).folder / 'report.json'
  summary = json.loads(report.read_text())
  del summary['content']
  report.write_text(json.dumps(summary | {'fingerprint': 'x'}))
  with pytest.raises(ValueError, match='earlier version.*--overwrite'):
    _mine(tmp_path)
  assert len(data.load_source('folder:mine', 'all', tmp_path / 'out')) == 3


@pytest.mark.parametrize('content', ['[]', '{', '', '\xff'])
def test_a_damaged_report_is_named(tmp_path, content):
  report = _mine(tmp_path).folder / 'report.json'
  report.write_bytes(content.encode('latin-1'))
  with pytest.raises(ValueError, match='is damaged .*report.json'):
    _mine(tmp_path)
  assert _mine(tmp_path, overwrite=True).fresh


@pytest.mark.parametrize('place', ['.', 'out', 'images/out'])
def test_data_within_the_raw_folder_is_refused(tmp_path, place):
  fake_data.folder(tmp_path / 'raw', POINTS)
  before = _finished(tmp_path)
  with pytest.raises(ValueError, match='--data_dir.*lies in --raw'):
    _prepare('folder', tmp_path / 'raw', tmp_path / 'raw' / place, name='mine')
  assert _finished(tmp_path) == before


@pytest.mark.parametrize('sigma', [0.0, -1.0, 1e9, float('inf'), float('nan')])
def test_a_sigma_out_of_range_is_refused(tmp_path, sigma):
  with pytest.raises(ValueError, match='--sigma'):
    _mine(tmp_path, sigma=sigma)


def test_pipes_and_links_to_nothing_do_not_stop(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  os.mkfifo(root / 'images' / 'p7.png')
  os.mkfifo(root / 'pipe')
  (root / 'images' / 'p8.png').symlink_to(tmp_path / 'absent')
  done = _mine(tmp_path)
  assert {(p['name'], p['reason']) for p in done.summary['problems']} == {
    ('p7.png', 'unknown file'),
    ('p8/pure', 'missing fixations'),
  }
  assert not _mine(tmp_path).fresh


def test_a_console_that_is_not_utf8_does_not_undo_the_work(
  tmp_path, monkeypatch
):
  root = fake_data.folder(tmp_path / '\u56fe\udcff', POINTS)
  options = ['--dataset=folder', '--name=mine', f'--raw={root}']
  options.append(f'--data_dir={tmp_path / chr(0x4E00)}')
  texts = {'stdout': io.BytesIO(), 'stderr': io.BytesIO()}
  for name, buffer in texts.items():
    stream = io.TextIOWrapper(buffer, 'latin-1', write_through=True)
    monkeypatch.setattr(sys, name, stream)

  def run(*more):
    argv = ['prepare', *options, *more]
    return commands.call(cli.define_flags, cli.execute, argv)

  assert run() == 0
  assert b'Prepared: 3 samples' in texts['stdout'].getvalue()
  assert b'\\u4e00' in texts['stdout'].getvalue()
  assert run('--sigma=5') == 1
  assert b'other options' in texts['stderr'].getvalue()


_CHILD = """
import os, resource, signal, sys
from salflax import cli
from salflax.cli import prepare
from salflax.data import raw
read, seen = raw.read_sample, []
def spy(*args, **kwargs):
  seen.append(1)
  if len(seen) == 2: {act}
  return read(*args, **kwargs)
raw.read_sample = spy
cli.run(prepare.define_flags, prepare.execute)
"""


def _child(tmp_path, act):
  root = tmp_path / 'raw'
  if not root.exists():
    fake_data.folder(root, POINTS)
  code = [sys.executable, '-c', _CHILD.format(act=act)]
  return subprocess.run(
    [
      *(*code, '--dataset=folder', '--name=mine'),
      *(f'--raw={root}', f'--data_dir={tmp_path / "out"}'),
    ],
    capture_output=True,
    text=True,
    timeout=100,
  )


def test_killed_midway_leaves_nothing_that_looks_finished(tmp_path):
  done = _child(tmp_path, 'os.kill(os.getpid(), signal.SIGKILL)')
  assert done.returncode == -signal.SIGKILL
  assert not (tmp_path / 'out' / 'folder').exists()
  with pytest.raises(FileNotFoundError, match='not prepared'):
    data.load_source('folder:mine', 'all', tmp_path / 'out')
  assert _finished(tmp_path / 'out')  # Hidden leftovers, which the next clears.
  done = _child(tmp_path, 'pass')
  assert done.returncode == 0, done.stderr
  assert {n.split('/')[0] for n in _finished(tmp_path / 'out')} == {'folder'}
  assert len(data.load_source('folder:mine', 'all', tmp_path / 'out')) == 3


def test_a_full_disk_while_writing_leaves_nothing(tmp_path):
  done = _child(
    tmp_path, 'resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))'
  )
  assert done.returncode != 0
  assert 'too large' in done.stderr
  assert _finished(tmp_path / 'out') == []


def test_interrupted_while_writing_leaves_nothing(tmp_path, monkeypatch):
  read, seen = raw.read_sample, []

  def interrupt(*args, **kwargs):
    seen.append(1)
    if len(seen) == 2:
      raise KeyboardInterrupt
    return read(*args, **kwargs)

  monkeypatch.setattr(raw, 'read_sample', interrupt)
  with pytest.raises(KeyboardInterrupt):
    _mine(tmp_path)
  assert _finished(tmp_path / 'out') == []


def test_too_little_space_is_named_before_anything_is_written(
  tmp_path, monkeypatch, capsys
):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  usage = collections.namedtuple('usage', 'total used free')(10, 9, 1)
  monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
  args = ('folder', str(root), str(tmp_path / 'out'))
  assert _command(*args, name='mine') == 1
  assert 'MB are needed and 0 MB are free' in capsys.readouterr().err
  assert _finished(tmp_path / 'out') == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  (tmp_path / 'file').write_text('')
  out = tmp_path / 'file' / 'out'
  assert _command('folder', str(root), str(out), name='mine') == 1
  assert str(out) in capsys.readouterr().err


def test_two_at_once_do_not_mix(tmp_path, capsys):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  with (tmp_path / '.folder-mine.lock').open('w') as f:
    fcntl.flock(f, fcntl.LOCK_EX)
    assert _command('folder', str(root), str(tmp_path), name='mine') == 1
  assert 'Another process' in capsys.readouterr().err


@pytest.mark.parametrize(
  'kwargs, message',
  [
    ({'dataset': 'sjtu'}, "Did you mean 'sjtu_tis'"),
    ({'dataset': 'folder'}, 'needs a --name'),
    ({'dataset': 'folder', 'name': '../x'}, 'needs a --name'),
    ({'dataset': 'osie', 'name': 'x'}, '--name is for'),
    ({'dataset': 'sjtu_tis', 'sigma': 3.0}, 'maps of its own'),
    ({'dataset': 'osie', 'raw': '/absent'}, '/absent is absent'),
  ],
)
def test_wrong_arguments_are_named(tmp_path, capsys, kwargs, message):
  kwargs = {'raw': str(tmp_path), 'data_dir': str(tmp_path / 'out'), **kwargs}
  assert _command(**kwargs) == (1 if kwargs['raw'] == '/absent' else 2)
  assert message in capsys.readouterr().err
  assert not (tmp_path / 'out' / 'osie').exists()


def test_command_line(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', [*POINTS, ('p1.png', 0, 99, 0)])
  command = [sys.executable, '-m', 'salflax.cli.prepare']
  help_text = subprocess.run(
    [*command, '--help'], capture_output=True, text=True
  )
  assert '--raw' in help_text.stdout and 'report.csv' in help_text.stdout
  done = subprocess.run(
    [*command, '--dataset=folder', '--name=mine', f'--raw={root}'],
    capture_output=True,
    text=True,
    env={**os.environ, 'SALFLAX_DATA': str(tmp_path / 'out')},
  )
  assert done.returncode == 0, done.stderr
  assert 'Prepared: 2 samples' in done.stdout
  assert 'p1/pure: 1 of 2, first at x=99, y=0 of 32 x 24' in done.stdout
  assert '3/3' in done.stderr  # The progress bar.
  assert len(data.load_source('folder:mine', 'all', tmp_path / 'out')) == 2
