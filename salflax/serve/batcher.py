"""One thread that puts the images of concurrent requests in batches."""

import concurrent.futures
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_LOG = logging.getLogger('salflax')


class _Job(NamedTuple):
  image: np.ndarray
  text: str
  answer: concurrent.futures.Future


class Batcher:
  """Predicts in a thread of its own, several requests at once.

  Args:
    predictor: see `predict.predictor.Predictor.predict`.
    batch_size: images at once, at most.
    wait: seconds for which the first image of a batch waits for others.
    observe: called with the number of images of each batch.
  """

  def __init__(
    self,
    predictor: Any,
    *,
    batch_size: int = 8,
    wait: float = 0.005,
    observe: Callable[[int], None] = lambda count: None,
  ):
    self._predictor, self._batch_size = predictor, batch_size
    self._wait, self._observe = wait, observe
    self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
    self._thread = threading.Thread(target=self._run, daemon=True)

  def warm(self) -> None:
    """Compiles the network for each size of batch."""
    image, size = np.full((96, 128, 3), 128, np.uint8), 1
    while size < 2 * self._batch_size:
      pairs = [(image, '')] * size
      list(self._predictor.predict(pairs, batch_size=size, return_errors=True))
      size *= 2

  def start(self) -> None:
    """Starts the thread."""
    self._thread.start()

  def submit(
    self, image: np.ndarray, text: str
  ) -> 'concurrent.futures.Future[np.ndarray]':
    """Asks for a map; one that is cancelled in time is not predicted.

    Args:
      image: u8 [h, w, 3].
      text: sentence, '' for none.
    """
    answer = concurrent.futures.Future()
    self._jobs.put(_Job(image, text, answer))
    return answer

  def close(self) -> None:
    """Finishes what was asked for and ends the thread."""
    self._jobs.put(None)
    self._thread.join()

  @property
  def alive(self) -> bool:
    """Says whether the thread runs."""
    return self._thread.is_alive()

  def _run(self) -> None:
    while jobs := self._gather():
      # Those who asked may have left.
      jobs = [j for j in jobs if j.answer.set_running_or_notify_cancel()]
      if jobs:
        self._predict(jobs)
      del jobs  # the images would be kept until the next batch

  def _gather(self) -> list[_Job]:
    """Waits for a batch; an empty one is the end."""
    jobs, end = [], 0.0
    while len(jobs) < self._batch_size:
      try:
        timeout = max(end - time.monotonic(), 0) if jobs else None
        job = self._jobs.get(timeout=timeout)
      except queue.Empty:
        break
      if job is None:
        if jobs:
          self._jobs.put(None)
        break
      if not jobs:
        end = time.monotonic() + self._wait
      jobs.append(job)
    return jobs

  def _predict(self, jobs: list[_Job]) -> None:
    self._observe(len(jobs))
    # Each size is compiled once: powers of two.
    size = 1 << (len(jobs) - 1).bit_length()
    pairs = [(job.image, job.text) for job in jobs]
    try:
      maps = self._predictor.predict(pairs, batch_size=size, return_errors=True)
      for job, saliency in zip(jobs, maps, strict=True):
        if isinstance(saliency, Exception):
          job.answer.set_exception(saliency)
        else:
          job.answer.set_result(saliency)
    except Exception as e:
      _LOG.exception('The network failed on a batch of %d.', len(jobs))
      for job in jobs:
        if not job.answer.done():
          job.answer.set_exception(RuntimeError(f'The network failed: {e}'))
