"""Threads that compute ahead of what is asked for."""

import collections
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any


def cores() -> int:
  """Counts the processors that this process may use."""
  if hasattr(os, 'sched_getaffinity'):  # Linux
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def map_ahead(
  function: Callable[[Any], Any],
  items: Iterable[Any],
  *,
  threads: int | None = None,
) -> Iterator[Any]:
  """Yields function(item) in order, computed ahead in threads.

  Items are taken no faster than results: four a thread wait at most.
  """
  waiting, threads = collections.deque(), threads or cores()
  with futures.ThreadPoolExecutor(threads) as pool:
    try:
      for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 4 * threads:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
