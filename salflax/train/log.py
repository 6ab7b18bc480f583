"""What a run says: console lines, metrics.jsonl, TensorBoard, memory."""

import contextlib
import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Mapping

from absl import logging as absl_logging

from salflax.core import files


def to_console(*, debug: bool = False) -> None:
  """Sends what salflax logs to standard error, and of libraries the warnings.

  Args:
    debug: libraries' own notes too, and the tracebacks of their threads.
  """
  handler = logging.StreamHandler()
  handler.setFormatter(logging.Formatter('%(asctime)s %(message)s', '%H:%M:%S'))
  ours = logging.getLogger('salflax')
  ours.handlers, ours.propagate = [handler], False
  ours.setLevel(logging.INFO)
  if not debug:
    for name in ('orbax', 'jax', 'grain'):
      logging.getLogger(name).setLevel(logging.WARNING)
    # Orbax logs tracebacks there of every error that it raises as well.
    absl_logging.set_verbosity(absl_logging.FATAL)


def peak_memory_mb() -> float:
  """Returns the largest resident size of this process so far, in MB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (1 << 20 if sys.platform == 'darwin' else 1 << 10)


def duration(seconds: float) -> str:
  """Returns '1:02:03' or '2:03'."""
  minutes, s = divmod(int(round(max(0.0, seconds))), 60)
  hours, m = divmod(minutes, 60)
  return f'{hours}:{m:02d}:{s:02d}' if hours else f'{m}:{s:02d}'


class Writer:
  """Writes measures of one stage; only the first process's writes a thing.

  Args:
    folder: of the stage.
    start_step: lines of later steps, from a run that was cut off, go away.
    active: False on every process but the first.
  """

  def __init__(self, folder: str, *, start_step: int = 0, active: bool = True):
    self.active = active
    if not active:
      return
    os.makedirs(folder, exist_ok=True)
    self._path = os.path.join(folder, 'metrics.jsonl')
    _drop_after(self._path, start_step)
    # Unbuffered: what a full disk refuses must not come up again at close.
    self._file = open(self._path, 'ab', buffering=0)
    from tensorboardX import SummaryWriter

    self._board = SummaryWriter(
      os.path.join(folder, 'tensorboard'), purge_step=start_step + 1
    )

  def write(self, step: int, measures: Mapping[str, float]) -> None:
    """Appends one line of scalars; not a number becomes null.

    Raises:
      OSError: naming the file, where the disk is full.
    """
    if not self.active:
      return
    row = {'step': step}
    for k, v in measures.items():
      row[k] = float(v) if math.isfinite(v) else None
      self._board.add_scalar(k, float(v), step)
    try:
      self._file.write((json.dumps(row) + '\n').encode())
    except OSError as e:
      raise OSError(f'Cannot write {self._path}: {e.strerror or e}.') from e

  def close(self) -> None:
    """Flushes and closes the files."""
    if self.active:
      self._file.close()
      # A full disk has been told of where the lines go; this is their copy.
      with contextlib.suppress(OSError):
        self._board.close()


def _drop_after(path: str, step: int) -> None:
  """Removes lines of later steps, and what a kill has cut short."""
  if not os.path.exists(path):
    return
  with open(path, encoding='utf-8', errors='replace') as f:
    text = f.read()
  kept = []
  for line in text.splitlines():
    try:
      if json.loads(line)['step'] <= step:
        kept.append(line + '\n')
    except (ValueError, KeyError, TypeError):
      continue
  if ''.join(kept) != text:
    files.write_text(path, ''.join(kept))


class Clock:
  """Rate and time left of a loop of known length."""

  def __init__(self, start: int, end: int):
    self._first = self._last = time.perf_counter()
    self._start, self._end, self._step = start, end, start
    self._skipped = 0.0

  def skip(self, seconds: float) -> None:
    """Leaves out time that was not spent on steps."""
    self._last += seconds
    self._skipped += seconds

  def tick(self, step: int) -> tuple[float, float]:
    """Returns (steps a second since the last tick, seconds left)."""
    now = time.perf_counter()
    rate = (step - self._step) / max(now - self._last, 1e-9)
    mean = (step - self._start) / max(now - self._first - self._skipped, 1e-9)
    self._last, self._step = now, step
    return rate, (self._end - step) / max(mean, 1e-9)
