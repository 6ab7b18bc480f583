"""Fixed-size arrays in plain files, read with `os.pread`.

No mapping that would count as memory, safe in threads, nothing to unpickle.
"""

import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence

import numpy as np
import tqdm

_LOG = logging.getLogger('salflax')


class Records:
  """Fixed-size arrays in one file.

  Args:
    path: of the file.
    shape: of one record.
    dtype: of its values.
  """

  def __init__(self, path: str, shape: Sequence[int], dtype: str):
    self.path, self.shape, self.dtype = path, tuple(shape), np.dtype(dtype)
    self.size = int(np.prod(self.shape)) * self.dtype.itemsize
    self._fd = None

  def __getitem__(self, index: int) -> np.ndarray:
    if self._fd is None:
      self._fd = os.open(self.path, os.O_RDONLY)
    data = os.pread(self._fd, self.size, index * self.size)
    if len(data) != self.size:
      raise OSError(f'{self.path} is cut short at record {index}.')
    return np.frombuffer(data, self.dtype).reshape(self.shape)

  def __reduce__(self):
    return Records, (self.path, self.shape, self.dtype.str)

  def __del__(self):
    if getattr(self, '_fd', None) is not None:
      os.close(self._fd)


def check_room(folder: str, size: int, what: str) -> None:
  """Says how much will be written; raises OSError where it has no room."""
  free = shutil.disk_usage(folder).free
  _LOG.info('%s: %.2f GB in %s', what, size / 1e9, folder)
  if size > 0.95 * free:
    raise OSError(
      f'Not enough room for {what}: {size / 1e9:.2f} GB are needed in '
      f'{folder}, {free / 1e9:.2f} GB are free.'
    )


def write(
  folder: str,
  rows: Iterable[dict[str, np.ndarray]],
  total: int,
  *,
  what: str,
) -> dict[str, Records]:
  """Writes batches of named arrays, one file a name; returns the records.

  Args:
    folder: made whole or not at all; read if it is there.
    rows: batches, name -> [b, ...]; not touched if the folder is there.
    total: number of rows.
    what: for the progress bar.

  Raises:
    OSError: the disk has too little room; nothing is left behind.
    ValueError: the batches do not have `total` rows.
  """
  if not os.path.isdir(folder):
    os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
    # Not by process number: containers that share a disk may share those.
    temporary = f'{folder}.{uuid.uuid4().hex[:8]}.tmp'
    os.mkdir(temporary)
    try:
      _write(temporary, rows, total, what)
      os.rename(temporary, folder)
    except OSError:
      if not os.path.isdir(folder):  # else another process was first
        raise
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
  with open(os.path.join(folder, 'index.json'), encoding='utf-8') as f:
    index = json.load(f)
  return {
    name: Records(os.path.join(folder, f'{i}.bin'), v['shape'], v['dtype'])
    for i, (name, v) in enumerate(index.items())
  }


def _write(folder, rows, total, what):
  index, files, written = {}, [], 0
  with (
    tqdm.tqdm(total=total, desc=what, unit='row', mininterval=1.0) as bar,
    contextlib.ExitStack() as stack,
  ):
    for batch in rows:
      if not files:
        size = total * sum(v[0].nbytes for v in batch.values())
        check_room(os.path.dirname(folder), size, what)
        for i, (name, v) in enumerate(batch.items()):
          index[name] = {'shape': v.shape[1:], 'dtype': v.dtype.str}
          path = os.path.join(folder, f'{i}.bin')
          files.append(stack.enter_context(open(path, 'wb')))
      for file, v in zip(files, batch.values(), strict=True):
        file.write(np.ascontiguousarray(v).tobytes())
      number = len(next(iter(batch.values())))
      written += number
      bar.update(number)
    for file in files:
      file.flush()
      os.fsync(file.fileno())
  if written != total:
    raise ValueError(f'Expected {total} rows of {what}, found {written}.')
  with open(os.path.join(folder, 'index.json'), 'w', encoding='utf-8') as f:
    json.dump(index, f)
