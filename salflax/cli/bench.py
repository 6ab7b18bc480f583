"""Times parts of the system and prints a Markdown table.

python -m salflax.cli.bench --what=metrics
python -m salflax.cli.bench --what=metrics --height=768 --width=1024
"""

import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

Row = tuple[str, ...]


def _cpu_ms(fn: Callable[[], Any], repeats: int) -> float:
  """Median CPU time of a call in ms, all threads, after one call to warm up."""
  fn()
  times = []
  for _ in range(repeats):
    start = time.process_time()
    fn()
    times.append(1e3 * (time.process_time() - start))
  return statistics.median(times)


def _made_up_picture(height: int, width: int):
  """Returns a prediction and a ground truth like those of real gaze."""
  from scipy import ndimage

  from salflax.types import GroundTruth

  rng = np.random.default_rng(0)
  size = np.array([height, width])
  points = rng.normal(size / 2, size / 6, (170, 2)).astype(np.int64)
  points = np.clip(points, 0, size - 1)
  fixations = np.zeros((height, width))
  np.add.at(fixations, tuple(points.T), 1)
  saliency = ndimage.gaussian_filter(fixations, 32)
  noise = ndimage.gaussian_filter(rng.random((height, width)), 16)
  y, x = (np.linspace(-1, 1, n) for n in (height, width))
  centre = np.exp(-2 * (y[:, None] ** 2 + x**2))
  truth = GroundTruth(
    saliency=saliency,
    fixations=points,
    other_fixations=rng.integers(0, size, (1_700, 2)),
    baseline=centre / centre.sum(),
  )
  return centre * (noise - noise.min()), truth


def bench_metrics(options: Any) -> tuple[Row, list[Row]]:
  """Returns the head and rows of a table: CPU time of each metric.

  The checks of `score` are part of it, once a row.
  """
  from salflax import metrics

  pred, truth = _made_up_picture(options.height, options.width)
  rng = metrics.image_rng('bench')
  rows = []
  for text in [
    *metrics.METRICS,
    'auc_shuffled(exact=True)',
    *metrics.PROTOCOLS,
  ]:
    bound = metrics.bind_metrics(text)
    call = lambda bound=bound: metrics.score(pred, truth, bound, rng)
    kind = 'protocol' if text in metrics.PROTOCOLS else 'metric'
    rows.append((f'`{text}`', kind, f'{_cpu_ms(call, options.repeats):.1f}'))
  size = f'{options.width}x{options.height}'
  return ('what', 'kind', f'ms of CPU, {size}'), rows


BENCHMARKS = {'metrics': bench_metrics}


def define_flags() -> None:
  """Defines the options; not on import, as commands share their names."""
  flags.DEFINE_enum('what', 'metrics', list(BENCHMARKS), 'What to time.')
  flags.DEFINE_integer('repeats', 9, 'Calls to take the median of.', 1)
  flags.DEFINE_integer('height', 480, 'Of the picture, in pixels.', 1)
  flags.DEFINE_integer('width', 640, 'Of the picture, in pixels.', 1)


def execute(options: Any) -> None:
  """Runs what the options name and prints its table."""
  head, rows = BENCHMARKS[options.what](options)
  for row in (head, ('---',) * len(head), *rows):
    print('| ' + ' | '.join(row) + ' |')
  print(
    f'\nPython {platform.python_version()}, NumPy {np.__version__}, '
    f'{platform.machine()}; median of {options.repeats}.'
  )


def _main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  try:
    execute(flags.FLAGS)
  except (ValueError, ImportError) as e:
    if flags.FLAGS.verbosity > 0:
      raise
    print(f'salflax: {e}', file=sys.stderr)
    return 1
  return 0


def run() -> None:
  """The command line."""
  define_flags()
  app.run(_main)


if __name__ == '__main__':
  run()
