"""Plain files of fixed-size arrays, for what is computed once.

No mapping that would count as memory, safe in threads, nothing to unpickle.
"""

import logging
import os
import shutil
from collections.abc import Iterable, Mapping

import numpy as np
import tqdm

from salflax.core import files

_LOG = logging.getLogger('salflax')
Layout = Mapping[str, tuple[tuple[int, ...], str]]


class Store:
  """Files of named arrays, one file a key; each is whole or absent.

  Args:
    folder: folder of the files, new or not.
    layout: name -> (shape, dtype), in the order they have in a file.
  """

  def __init__(self, folder: str, layout: Layout):
    self.folder, self.layout = folder, dict(layout)
    self.size = sum(
      int(np.prod(shape)) * np.dtype(dtype).itemsize
      for shape, dtype in self.layout.values()
    )
    os.makedirs(folder, exist_ok=True)

  def path(self, key: str) -> str:
    """Joins the path of a key's file."""
    return os.path.join(self.folder, f'{key}.bin')

  def missing(self, keys: Iterable[str]) -> list[str]:
    """Lists the keys without a file, each once."""
    return [k for k in dict.fromkeys(keys) if not os.path.exists(self.path(k))]

  def read(self, key: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a key.

    Raises:
      OSError: the file is not of the right size.
    """
    with open(self.path(key), 'rb') as f:
      data = f.read()
    if len(data) != self.size:
      raise OSError(
        f'{self.path(key)} has {len(data)} bytes, not {self.size}: delete it.'
      )
    out, start = {}, 0
    for name, (shape, dtype) in self.layout.items():
      count = int(np.prod(shape))
      out[name] = np.frombuffer(data, dtype, count, start).reshape(shape)
      start += out[name].nbytes
    return out

  def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes the arrays of a key, all or nothing."""
    path = self.path(key)
    with files.replacing(path) as temporary, open(temporary, 'wb') as f:
      for name, (_, dtype) in self.layout.items():
        f.write(np.ascontiguousarray(arrays[name], dtype).tobytes())

  def fill(
    self,
    batches: Iterable[Iterable[tuple[str, Mapping]]],
    total: int,
    what: str,
  ) -> None:
    """Writes (key, arrays) pairs, batch by batch.

    Args:
      batches: batches of pairs.
      total: number of pairs.
      what: noun for the progress bar.

    Raises:
      OSError: the disk has too little room; nothing is written then.
    """
    size, free = total * self.size, shutil.disk_usage(self.folder).free
    _LOG.info('%s: %.2f GB in %s', what, size / 1e9, self.folder)
    if size > 0.95 * free:
      raise OSError(
        f'Not enough room for {what}: {size / 1e9:.2f} GB are needed in '
        f'{self.folder}, {free / 1e9:.2f} GB are free.'
      )
    with tqdm.tqdm(total=total, desc=what, mininterval=2.0) as bar:
      for batch in batches:
        for key, arrays in batch:
          self.write(key, arrays)
          bar.update()
