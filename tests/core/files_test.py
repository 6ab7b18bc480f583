"""Files that are whole or absent, and locks that end with their process."""

import errno
import os
import subprocess
import sys

import pytest

from salflax.core import files

HOLD = """
import sys, time
from salflax.core import files
with files.locked(sys.argv[1], 'training in runs/a'):
  print('ready', flush=True)
  time.sleep(600)
"""


def _hold(path):
  process = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(path)], stdout=subprocess.PIPE
  )
  assert process.stdout.readline() == b'ready\n'
  return process


def test_a_lock_names_its_holder_and_ends_when_that_is_killed(tmp_path):
  path = tmp_path / 'runs' / '.lock'
  process = _hold(path)
  try:
    with pytest.raises(BlockingIOError) as e, files.locked(path, 'training'):
      raise AssertionError('two processes hold one lock')
    holder = f'Process {process.pid} on {os.uname().nodename} is training'
    assert str(e.value).startswith(holder)
    assert str(path) in str(e.value)
  finally:
    process.kill()
    process.wait()
  with files.locked(path, 'training'):
    assert path.read_text() == f'Process {os.getpid()} on {os.uname().nodename}'


def test_one_process_may_take_its_lock_again(tmp_path):
  path = tmp_path / '.lock'
  for _ in range(2):
    with files.locked(path, 'x'), files.locked(path, 'x'):
      pass
  # Let go of, it is free to others.
  process = _hold(path)
  process.kill()
  process.wait()


def test_a_disk_without_locks_only_warns(tmp_path, monkeypatch, caplog):
  def no_lock(*args):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(files.fcntl, 'flock', no_lock)
  with files.locked(tmp_path / '.lock', 'x'):
    pass
  assert 'No locks available' in caplog.text


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
  path = tmp_path / 'a' / 'b.json'
  files.write_text(path, 'old')
  with pytest.raises(ZeroDivisionError), files.replacing(path) as temporary:
    temporary.write_text('new')
    raise ZeroDivisionError
  assert path.read_text() == 'old'
  assert os.listdir(path.parent) == ['b.json']


@pytest.mark.parametrize('name', [None, 'the temporary one'])
def test_a_full_disk_is_an_error_with_the_path(tmp_path, name):
  path = tmp_path / 'b.json'
  with pytest.raises(OSError, match='No space left') as e:
    with files.replacing(path) as temporary:
      raise OSError(
        errno.ENOSPC, 'No space left on device', name and str(temporary)
      )
  assert e.value.filename == str(path) and e.value.errno == errno.ENOSPC
  # Other files that a writer reads keep their names.
  with pytest.raises(FileNotFoundError) as e, files.replacing(path):
    open(tmp_path / 'absent')
  assert e.value.filename == str(tmp_path / 'absent')


def test_a_target_that_is_a_folder_is_named(tmp_path):
  (tmp_path / 'b.json').mkdir()
  with pytest.raises(OSError) as e:
    files.write_text(tmp_path / 'b.json', 'x')
  assert e.value.filename == str(tmp_path / 'b.json')


def test_a_key_that_stands_twice_is_named(tmp_path):
  path = tmp_path / 'a.json'
  path.write_text('{"areas": [{"box": [1], "box": [2]}]}')
  with pytest.raises(ValueError, match="a.json: .*'box' stands twice"):
    files.read_json(path)
