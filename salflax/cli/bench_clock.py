"""What the benchmarks time with."""

import itertools
import time
from collections.abc import Callable
from typing import Any

from salflax.core import workers


def alone() -> Callable[[], float]:
  """Chooses a clock for work on the CPU alone, in seconds.

  With one core, that core's time: it may have other work, too.
  """
  return time.process_time if workers.cores() == 1 else time.perf_counter


def seconds(
  fn: Callable[[], Any], clock: Callable[[], float], calls: int = 1
) -> list[float]:
  """Times calls one after another by a clock, in seconds."""
  at = [clock()] + [(fn(), clock())[1] for _ in range(calls)]
  return [end - begin for begin, end in itertools.pairwise(at)]
