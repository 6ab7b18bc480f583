"""Files of fixed-size arrays: whole or absent."""

import collections
import pathlib
import shutil

import numpy as np
import pytest

from salflax.train import records

Disk = collections.namedtuple('Disk', 'total used free')


def _rows(number=5, batch=2):
  for start in range(0, number, batch):
    n = min(batch, number - start)
    at = np.arange(start, start + n)
    yield {
      'a': np.tile(at[:, None], (1, 3)).astype(np.float16),
      'b/c': at % 2 == 0,
    }


def test_records_read_back_what_was_written(tmp_path):
  folder = str(tmp_path / 'x')
  stored = records.write(folder, _rows(), 5, what='numbers')
  for index in (4, 0, 2):
    np.testing.assert_array_equal(stored['a'][index], [index] * 3)
    assert stored['a'][index].dtype == np.float16
    assert stored['b/c'][index] == (index % 2 == 0)
  untouched = records.write(folder, iter(()), 5, what='numbers')
  np.testing.assert_array_equal(untouched['a'][3], [3] * 3)


def test_records_cut_short_are_named(tmp_path):
  stored = records.write(str(tmp_path / 'x'), _rows(), 5, what='numbers')
  path = pathlib.Path(stored['a'].path)
  path.write_bytes(path.read_bytes()[:-1])
  np.testing.assert_array_equal(stored['a'][3], [3] * 3)
  with pytest.raises(OSError, match=f'{path.name} is cut short at record 4'):
    stored['a'][4]


def _fails():
  yield next(_rows())
  raise ValueError('the third picture')


def test_records_that_fail_leave_nothing_behind(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match='third picture'):
    records.write(str(tmp_path / 'x'), _fails(), 5, what='numbers')
  assert not list(tmp_path.iterdir())
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: Disk(10, 9, 10))
  with pytest.raises(OSError, match='Not enough room for numbers'):
    records.write(str(tmp_path / 'x'), _rows(), 5, what='numbers')
  assert not list(tmp_path.iterdir())


def _killed():
  yield next(_rows())
  raise KeyboardInterrupt


def test_rows_that_are_missing_are_noticed(tmp_path):
  with pytest.raises(ValueError, match='5 rows.* found 4'):
    records.write(str(tmp_path / 'x'), _rows(4), 5, what='numbers')
  with pytest.raises(ValueError, match='5 rows.* found 0'):
    records.write(str(tmp_path / 'x'), iter(()), 5, what='numbers')
  assert not list(tmp_path.iterdir())


def test_a_folder_left_by_a_killed_run_is_no_hindrance(tmp_path, monkeypatch):
  folder = tmp_path / 'x'
  with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
    m.setattr(shutil, 'rmtree', lambda *a, **k: None)
    records.write(str(folder), _killed(), 5, what='numbers')
  assert [p.suffix for p in tmp_path.iterdir()] == ['.tmp']
  stored = records.write(str(folder), _rows(), 5, what='numbers')
  np.testing.assert_array_equal(stored['a'][1], [1] * 3)


def test_two_processes_may_write_the_same(tmp_path):
  folder = tmp_path / 'x'

  def rows():
    yield from _rows()
    # Meanwhile, somebody else has finished.
    records.write(str(folder), _rows(), 5, what='numbers')

  stored = records.write(str(folder), rows(), 5, what='numbers')
  np.testing.assert_array_equal(stored['a'][1], [1] * 3)
  assert [p.name for p in tmp_path.iterdir()] == ['x']
