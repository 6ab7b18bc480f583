"""How much faster several cores score the same maps, by the clock."""

import multiprocessing
import time
import types
from concurrent import futures
from typing import Any

from salflax.cli.bench_metrics import SPEC, examples

_READY = []  # in a worker: the barrier at which all of them begin


def _enter(barrier: Any) -> None:
  _READY.append(barrier)


def _share(options: Any, index: int, count: int, threads: int):
  """Scores every `count`-th map from the `index`-th.

  Returns:
    When it began and ended, in s, and the scores in order.
  """
  from salflax import metrics
  from salflax.core import workers

  bound = metrics.bind_metrics(SPEC)
  score = lambda pair: metrics.score(*pair, bound)
  try:
    pairs = list(examples(options))[index::count]
    for pair in pairs[:1]:  # what a first call loads is not timed
      score(pair)
    _READY[0].wait()
  except BaseException:
    _READY[0].abort()  # else the others would wait for ever
    raise
  start = time.monotonic()
  scores = list(workers.map_ahead(score, pairs, threads=threads))
  return start, time.monotonic(), scores


def _clock(options: Any, processes: int, threads: int):
  """Returns the s that all shares took together, and the scores in order."""
  context = multiprocessing.get_context('spawn')
  with futures.ProcessPoolExecutor(
    processes, context, _enter, (context.Barrier(processes),)
  ) as pool:
    shares = [
      pool.submit(_share, options, k, processes, threads)
      for k in range(processes)
    ]
    starts, ends, scores = zip(*(share.result() for share in shares))
  total = sum(map(len, scores))
  rows = [scores[k % processes][k // processes] for k in range(total)]
  return max(ends) - min(starts), rows


def measure(options: Any) -> list[dict[str, Any]]:
  """Scores with one core, with several threads, with several processes.

  Raises:
    ValueError: a score is not that of one core, bit for bit.
  """
  names = ('data', 'data_dir', 'maps', 'height', 'width')
  plain = types.SimpleNamespace(**{k: getattr(options, k) for k in names})
  cores = options.processes
  runs = [(1, 1), (1, cores), (cores, 1)]
  clocked = [_clock(plain, *run) for run in runs]
  alone, expected = clocked[0]
  if any(str(scores) != str(expected) for _, scores in clocked):
    raise ValueError(f'{cores} cores give other scores than one.')
  return [
    {
      'processes': processes,
      'threads of each': threads,
      'images': len(scores),
      'ms an image, by the clock': 1e3 * seconds / len(scores),
      'times as fast': alone / seconds,
    }
    for (processes, threads), (seconds, scores) in zip(runs, clocked)
  ]
