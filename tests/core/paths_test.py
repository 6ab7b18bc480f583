"""Buckets, in the memory of the process: fsspec's memory:// as a third kind."""

import logging

import fake_data
import fsspec
import numpy as np
import pytest

from salflax import data
from salflax.core import files, paths
from salflax.data import prepare


@pytest.fixture
def bucket(monkeypatch, tmp_path):
  """Name of an empty bucket; what is on the disk for it has its own folder."""
  monkeypatch.setitem(paths.SCHEMES, 'memory', 'fsspec')
  monkeypatch.setenv('SALFLAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.chdir(tmp_path)
  paths._system.cache_clear()
  memory = fsspec.filesystem('memory')
  memory.store.clear()
  memory.pseudo_dirs[:] = ['']
  yield 'memory://bucket'
  paths._system.cache_clear()
  assert not list(tmp_path.glob('memory*'))


def test_a_name_with_a_scheme_is_in_a_bucket(bucket):
  path = paths.path(f'{bucket}/run/')
  assert str(path) == paths.absolute(path) == f'{bucket}/run'
  assert str(path / 'a' / 'b.json') == f'{bucket}/run/a/b.json'
  assert path.with_name('c').parent == path.parent == paths.path(bucket)
  assert (path / 'a').relative_to(path).as_posix() == 'a'
  assert paths.path('run') == files.on_disk('run')
  assert files.on_disk(path).parts[-3:] == ('memory', 'bucket', 'run')


@pytest.mark.parametrize('name', ['az://bucket/run', 's3://', 'ftp://x/y'])
def test_other_schemes_are_named_with_those_that_there_are(name):
  with pytest.raises(ValueError, match=f'{name}: .*s3://BUCKET/NAME'):
    paths.path(name)


def test_a_package_that_is_missing_is_named_with_its_command(monkeypatch):
  monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
  for name, extra in (('gs://b/run', 'gcs'), ('s3://b/run', 's3')):
    with pytest.raises(ImportError, match=rf"{name} .*'salflax\[{extra}\]'"):
      paths.path(name)


def test_files_of_a_bucket(bucket):
  path = paths.path(f'{bucket}/run/a.json')
  assert not path.exists() and not path.parent.is_dir()
  assert not list(path.parent.glob('*'))
  with pytest.raises(FileNotFoundError, match='run/a.json'):
    files.read_json(path)
  files.write_json(str(path), {'a': float('nan'), 'path': path})
  assert files.read_json(path) == {'a': None, 'path': str(path)}
  assert path.is_file() and not path.is_dir() and path.parent.is_dir()
  assert path.open(newline='').readline() == '{\n'
  files.write_text(path.parent / 'deep' / 'b.txt', 'b')
  assert [p.name for p in path.parent.glob('*/*.txt')] == ['b.txt']
  below = {str(p.relative_to(path.parent)) for p in path.parent.files()}
  assert below == {'a.json', 'deep/b.txt'}
  (path.parent / 'deep').rename(path.parent / 'aside')
  assert {p.name for p in path.parent.glob('*')} == {'a.json', 'aside'}
  path.unlink()
  path.unlink(missing_ok=True)
  with pytest.raises(FileNotFoundError):
    path.unlink()


def test_a_writer_that_fails_leaves_the_earlier_file(bucket):
  path = paths.path(f'{bucket}/a.txt')
  files.write_text(path, 'first')
  with pytest.raises(RuntimeError), files.replacing(path) as temporary:
    temporary.write_text('second')
    raise RuntimeError
  assert path.read_text() == 'first'


def test_a_failure_names_bucket_attempt_and_reason(bucket, monkeypatch):
  path = paths.path(f'{bucket}/run/a.txt')

  class Refusing:
    def find(self, *names):
      raise PermissionError('Access\nDenied.')

    info = put_file = find

  monkeypatch.setattr(fsspec, 'filesystem', lambda scheme: Refusing())
  paths._system.cache_clear()
  says = f'{path}: Access Denied. {bucket} has to be there, .*to allow to list'
  with pytest.raises(OSError, match=f'^Cannot read {says}'):
    path.exists()
  with pytest.raises(OSError, match=f'^Cannot write {says}'):
    files.write_text(path, 'a')

  def absent(self, name):
    raise FileNotFoundError(name)

  monkeypatch.setattr(Refusing, 'find', absent)
  paths._system.cache_clear()
  with pytest.raises(OSError, match=f'read {path}: there is no such bucket'):
    path.exists()


def test_a_folder_is_copied_once(bucket, caplog):
  folder = paths.path(f'{bucket}/data')
  for name in ('a.txt', 'deep/b.txt', 'maps/c.png'):
    files.write_text(folder / name, name)
  local = files.local_copy(folder, skip=['maps'])
  assert 'Copying 2 files, 0.0 MB, of memory://bucket/data to' in caplog.text
  assert {p.name for p in local.rglob('*.*')} == {'a.txt', 'b.txt'}
  caplog.clear()
  assert files.local_copy(folder, skip=['maps']) == local and not caplog.text
  (local / 'a.txt').write_text('cut')
  assert files.local_copy(folder, skip=['maps']) == local
  assert (local / 'a.txt').read_text() == 'a.txt'
  assert not files.local_copy(folder / 'absent').exists()
  assert files.local_copy(local) == local


def test_a_folder_of_a_bucket_is_replaced(bucket, tmp_path):
  new, folder = tmp_path / 'new', paths.path(f'{bucket}/folder')
  files.write_text(folder / 'old.txt', 'old')
  for name in ('b.txt', 'a.txt'):
    files.write_text(new / name, name)
  files.swap(new, folder, tmp_path / 'old')
  assert {p.name for p in folder.files()} == {'a.txt', 'b.txt'}
  with files.locked(folder / '.lock', 'at work'):
    assert not (folder / '.lock').exists()


def test_data_is_prepared_into_a_bucket_and_read_from_it(bucket, tmp_path):
  rows = [(f'p{i}.png', 0, 3.0 + i, 4.0) for i in range(6)]
  raw = fake_data.folder(tmp_path / 'raw', rows, count=6)
  dataset, names = data.DATASETS['folder'](), {'name': 'mine'}
  done = prepare.prepare(dataset, raw, f'{bucket}/data', **names)
  assert done.fresh and str(done.folder) == f'{bucket}/data/folder/mine/1.0.0'
  here = prepare.prepare(dataset, raw, tmp_path / 'here', **names)
  ours, theirs = (
    data.load_source('folder:mine', 'all', where)
    for where in (f'{bucket}/data', tmp_path / 'here')
  )
  assert done.summary['content'] == here.summary['content']
  assert len(ours) == len(theirs) == 6
  np.testing.assert_array_equal(ours[5]['image'], theirs[5]['image'])
  assert not prepare.prepare(dataset, raw, f'{bucket}/data', **names).fresh
  files.write_text(done.folder / 'mine.txt', 'not of prepare')
  with pytest.raises(FileExistsError, match='holds what prepare did not write'):
    prepare.prepare(dataset, raw, f'{bucket}/data', overwrite=True, **names)
  (done.folder / 'mine.txt').unlink()
  again = prepare.prepare(
    dataset, raw, f'{bucket}/data', overwrite=True, **names
  )
  assert again.fresh
  with pytest.raises(FileNotFoundError, match='there: folder:mine'):
    data.load_source('osie', 'all', f'{bucket}/data')


def test_lines_of_a_run_in_a_bucket(bucket, monkeypatch):
  from salflax.report import runs
  from salflax.train import log

  folder, name = f'{bucket}/run/only', 'metrics.jsonl'
  writer = log.Writer(folder)
  for step in (1, 2):
    writer.write(step, {'loss': step})
  assert not paths.path(f'{folder}/{name}').exists()
  writer.sync()
  writer.write(3, {'loss': 3})  # a kill loses this one
  assert runs.read_metrics(f'{folder}/{name}') == {'loss': [(1, 1.0), (2, 2.0)]}
  monkeypatch.setattr(log, 'SYNC_SECONDS', -1)
  writer = log.Writer(folder, start_step=1)
  writer.write(2, {'loss': 5})
  assert runs.read_metrics(f'{folder}/{name}') == {'loss': [(1, 1.0), (2, 5.0)]}
  writer.close()
  assert list(paths.path(folder).glob('tensorboard/events*'))


def test_the_log_of_a_copy_is_shown(caplog, bucket):
  files.write_text(f'{bucket}/a/b.txt', 'b')
  with caplog.at_level(logging.WARNING, logger='salflax'):
    files.local_copy(f'{bucket}/a')
  assert 'Copying 1 files' in caplog.text
