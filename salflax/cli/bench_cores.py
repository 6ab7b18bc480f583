"""How much faster several cores score the same maps, by the clock."""

import contextlib
import functools
import time
from typing import Any

from salflax.cli.bench_metrics import SPEC, examples


def _score(truths: Any, bound: Any, index: int, pred: Any) -> dict[str, float]:
  from salflax import metrics

  return metrics.score(pred, truths[index], bound)


def _clock(scorer: Any, preds: Any, *, processes: int, threads: int):
  """Scores maps as `salflax evaluate` does; returns the s, and the scores."""
  from salflax.evaluate import scorer as scorer_lib

  pool = processes > 1 and scorer_lib.start({'': scorer}, processes)
  with pool or contextlib.nullcontext():
    score = lambda maps: list(
      scorer_lib.score_maps(
        scorer, enumerate(maps), max(processes, threads), pool and (pool, '')
      )
    )
    # What a first call loads is not timed.
    score(preds[: 8 * processes])
    start = time.monotonic()
    scores = score(preds)
    return time.monotonic() - start, scores


def measure(options: Any) -> list[dict[str, Any]]:
  """Scores with one core, with several threads, with several processes.

  Raises:
    ValueError: a score is not that of one core, bit for bit.
  """
  from salflax import metrics

  preds, truths = zip(*examples(options))
  scorer = functools.partial(_score, truths, metrics.bind_metrics(SPEC))
  cores = options.processes
  runs = [(1, 1), (1, cores), (cores, 1)]
  clocked = [_clock(scorer, preds, processes=p, threads=t) for p, t in runs]
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
