"""Trains what a config says, then evaluates it.

    python -m salflax.main --config=configs/sjtu_tis.py --workdir=runs/tsn

Started again with the same workdir, a run goes on where it stopped.
"""

import logging
import os
import sys

import jax
from absl import app, flags
from ml_collections import config_flags

_LOG = logging.getLogger('salflax')
_CONFIG = config_flags.DEFINE_config_file(
  'config',
  None,
  'File with get_config(); file.py:arg hands it an argument.',
  lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Folder of the run: checkpoints, measures, tables, maps.'
)
_CHECK = flags.DEFINE_bool(
  'check', False, 'Only check the config: build nothing, write nothing.'
)
_DEBUG = flags.DEFINE_bool(
  'debug', False, 'Show tracebacks and what the libraries log.'
)
_COORDINATOR = flags.DEFINE_string(
  'coordinator',
  '',
  'host:port of process 0, for runs over several hosts; '
  "'auto' where the cluster tells (TPU pods, Slurm).",
)
_PROCESSES = flags.DEFINE_integer('processes', 1, 'Number of processes.')
_PROCESS = flags.DEFINE_integer('process', 0, 'Index of this process.')


def _initialise() -> None:
  if _COORDINATOR.value == 'auto':
    jax.distributed.initialize()
  elif _COORDINATOR.value:
    jax.distributed.initialize(
      _COORDINATOR.value, _PROCESSES.value, _PROCESS.value
    )


def _evaluate(stages, workdir, what) -> None:
  """Scores the last stage's best, as cli.evaluate does; draws the curves."""
  from salflax.cli import evaluate
  from salflax.predict import subjects, trained
  from salflax.report import plots

  for stage in stages if jax.process_index() == 0 else ():
    folder = os.path.join(workdir, stage.name)
    series = plots.read_metrics(os.path.join(folder, 'metrics.jsonl'))
    plots.curves(series, os.path.join(folder, 'curves.png'), title=stage.name)
  if what.protocols:
    subject = subjects.of_run(trained.load(workdir), store=what.store)
    evaluate.evaluate(subject, keep_maps=what.keep_maps, figures=what.pictures)


def _main(argv: list[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
  from salflax.config import resolve, saved
  from salflax.train import log, loop, stage

  log.to_console(debug=_DEBUG.value)
  _initialise()

  config, workdir = _CONFIG.value, os.path.abspath(_WORKDIR.value or '.')
  try:
    stages = resolve.resolve(config, workdir)
    for s in stages:
      stage.check(s)
    if _CHECK.value:
      print('The config is sound.')
      return 0
    os.makedirs(workdir, exist_ok=True)
    saved.save(config, workdir)
    _LOG.info(
      '%d devices of kind %s, %d processes.',
      jax.device_count(),
      jax.devices()[0].device_kind,
      jax.process_count(),
    )
    loop.run(stages, workdir)
    _evaluate(stages, workdir, config.evaluate)
  except KeyboardInterrupt:
    _LOG.warning('Stopped. Start again with the same --workdir to go on.')
    return 130
  except loop.Interrupted as e:
    _LOG.warning('%s Start again with the same --workdir to go on.', e)
    return 130
  except (ValueError, OSError, FloatingPointError) as e:
    if _DEBUG.value:
      raise
    print(f'salflax: {e}', file=sys.stderr)
    for note in getattr(e, '__notes__', ()):
      print(f'  {note}', file=sys.stderr)
    return 1
  _LOG.info('Peak memory %.0f MB.', log.peak_memory_mb())
  return 0


def run() -> None:
  """The command line."""
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(_main)


if __name__ == '__main__':
  run()
