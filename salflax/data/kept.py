"""Rows that stay in memory from one epoch to the next, until ops draw.

What a pp string does before its first random op comes out the same in every
epoch: decoding and resizing, most of the time of a row.
"""

import contextlib
import functools
import operator
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from salflax.core.types import Example
from salflax.data import batches, frames

# At most, and at most this share of the machine's memory.
MOST_BYTES, SHARE = 2 * 2**30, 1 / 8


# What a container may take at most, under both kinds of control groups.
LIMITS = (
  '/sys/fs/cgroup/memory.max',
  '/sys/fs/cgroup/memory/memory.limit_in_bytes',
)


def room(workers: int = 0) -> int:
  """Computes the bytes that kept rows may take, in each of some processes."""
  memory = [MOST_BYTES / SHARE]
  if hasattr(os, 'sysconf'):  # not on Windows
    memory.append(os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE'))
  for path in map(pathlib.Path, LIMITS):
    # A file without a limit says 'max', or a number beyond any memory.
    with contextlib.suppress(OSError, ValueError):
      memory.append(int(path.read_text()))
  return int(SHARE * min(memory)) // max(workers, 1)


class Kept:
  """Rows of a source after some ops, kept as long as there is room.

  Rows of one image share its pixels, which are decoded once. What is kept is
  never dropped for other rows, and a copy for another process starts empty.

  Attributes:
    source: the rows.
    ops: preprocessing that draws nothing.
    room: bytes of arrays that are kept at most.
    images: False for blank images, of the same size, that take no memory and
      are not decoded.
  """

  def __init__(
    self,
    source: Sequence[Example],
    ops: Callable[..., Example],
    room: int,
    *,
    images: bool = True,
  ):
    self.source, self.ops, self.room, self.images = source, ops, room, images
    self._left, self._rows, self._pixels = room, {}, {}
    self._lock = threading.Lock()

  def __reduce__(self):
    make = functools.partial(Kept, images=self.images)
    return make, (self.source, self.ops, self.room)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    """Reads a row after the ops, with `size` i32 [2] that it had before."""
    row = self._rows.get(index)
    return self._read(index) if row is None else dict(row)

  def meta(self, index: int) -> dict[str, Any]:
    """Reads image_id, condition and text of a row."""
    return batches.meta(self.source, index)

  def _read(self, index):
    key = batches.image_key(self.meta(index))
    size, pixels = self._pixels.get(key, (None, None))
    anew = self.images and pixels is None
    read = operator.getitem if anew else batches.truth
    row = dict(read(self.source, index))
    if size is None:
      size = np.shape(row['image' if 'image' in row else 'saliency'])[:2]
    if not anew:
      row['image'] = frames.blank(size)
    row = self.ops(dict(row, size=np.array(size, np.int32)), None)
    if not self.images:
      pixels = frames.blank(row['image'].shape[:2])
    if pixels is not None:
      row['image'] = pixels
    return self._keep(index, key, size, row)

  def _keep(self, index, key, size, row):
    """Keeps a row, and its image where no other row has brought it."""
    need = sum(np.asarray(v).nbytes for k, v in row.items() if k != 'image')
    with self._lock:
      if self.images and key not in self._pixels:
        need += row['image'].nbytes
      if index not in self._rows and need <= self._left:
        self._left -= need
        row['image'] = self._pixels.setdefault(key, (size, row['image']))[1]
        self._rows[index] = row
    return dict(row)
