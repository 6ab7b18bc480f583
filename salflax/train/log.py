"""Console lines, metrics.jsonl, TensorBoard and memory of a run."""

import contextlib
import json
import logging
import math
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Mapping

import tqdm
from absl import logging as absl_logging

from salflax.core import files, paths


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
    # Orbax logs tracebacks there of every error that it raises as well, and
    # leaves tasks behind whose errors nobody has asked for.
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger('asyncio').setLevel(logging.CRITICAL)


def peak_memory_mb() -> float:
  """Measures the largest resident size of this process so far, in MB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak / (1 << 20 if sys.platform == 'darwin' else 1 << 10)


duration = tqdm.tqdm.format_interval  # seconds -> '1:02:03' or '02:03'


# Seconds between two copies of the lines to a bucket, which takes whole files.
SYNC_SECONDS = 30


class Writer:
  """Writes the measures of one stage; only process 0's writes a thing.

  Args:
    folder: folder of the stage. Lines of one in a bucket are written on the
      disk, and copied every half minute and by `sync`.
    start_step: lines of later steps, from a run that was cut off, go away.
    active: False on every process but the first.
  """

  def __init__(self, folder: str, *, start_step: int = 0, active: bool = True):
    self.active = active
    if not active:
      return
    self._home, self._synced = paths.path(folder), time.monotonic()
    if isinstance(self._home, paths.BucketPath):
      self._disk = tempfile.TemporaryDirectory()
      folder = self._disk.name
    board = os.path.join(folder, 'tensorboard')
    os.makedirs(board, exist_ok=True)
    self._path = os.path.join(folder, 'metrics.jsonl')
    _drop_after(self._home / 'metrics.jsonl', self._path, start_step)
    # Unbuffered: what a full disk refuses must not come up again at close.
    self._file = open(self._path, 'ab', buffering=0)
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    # Not SummaryWriter, whose thread dies of a full disk and then blocks.
    self._board = event_file_writer.EventsWriter(os.path.join(board, 'events'))
    self._event, self._scalar = event_pb2.Event, summary.scalar
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._board.write_event(
      event_pb2.Event(step=start_step + 1, session_log=start)
    )

  def write(self, step: int, measures: Mapping[str, float]) -> None:
    """Appends one line of scalars; what is not finite becomes null.

    Raises:
      OSError: the disk is full; names the file.
    """
    if not self.active:
      return
    values = {k: float(v) for k, v in measures.items()}
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    try:
      self._file.write((json.dumps({'step': step} | row) + '\n').encode())
      for k, v in values.items():
        event = self._event(step=step, summary=self._scalar(k, v))
        event.wall_time = time.time()
        self._board.write_event(event)
      self._board.flush()
    except OSError as e:
      raise OSError(f'Cannot write {self._path}: {e.strerror or e}.') from e
    if time.monotonic() > self._synced + SYNC_SECONDS:
      self.sync()

  def sync(self) -> None:
    """Copies what is written so far to the bucket, if the folder is in one."""
    if self.active and isinstance(self._home, paths.BucketPath):
      files.upload(pathlib.Path(self._disk.name), self._home)
      self._synced = time.monotonic()

  def close(self) -> None:
    """Flushes and closes the files."""
    if self.active:
      self._file.close()
      # `write` has reported a full disk; this is a copy of those lines.
      with contextlib.suppress(OSError):
        self._board.close()
      self.sync()


def _drop_after(old, path: str, step: int) -> None:
  """Writes the lines of `old` up to a step; not what a kill has cut short."""
  if not old.is_file():
    return
  text = old.read_text(encoding='utf-8', errors='replace')
  kept = []
  for line in text.splitlines():
    with contextlib.suppress(ValueError, KeyError, TypeError):
      if json.loads(line)['step'] <= step:
        kept.append(line + '\n')
  if ''.join(kept) != text or os.fspath(old) != path:
    files.write_text(path, ''.join(kept))


class Clock:
  """Rate, time left and waits of a loop from step `start` to step `end`.

  Attributes:
    waited: seconds of steps so far that were waits for data.
  """

  def __init__(self, start: int, end: int):
    self._first = self._last = time.perf_counter()
    self._start, self._end, self._step = start, end, start
    self.waited = self._noted = 0.0

  def skip(self, seconds: float) -> None:
    """Leaves out time that was not spent on steps."""
    self._first += seconds
    self._last += seconds

  def tick(self, step: int) -> tuple[float, float, float]:
    """Computes what a line says of the time since the last tick.

    Returns:
      (steps a second, share of the time that was a wait, seconds left).
    """
    now = time.perf_counter()
    spent = max(now - self._last, 1e-9)
    rate = (step - self._step) / spent
    share = (self.waited - self._noted) / spent
    mean = (step - self._start) / max(now - self._first, 1e-9)
    self._last, self._step, self._noted = now, step, self.waited
    return rate, share, (self._end - step) / max(mean, 1e-9)
