"""Trains what a config says, then evaluates it.

    salflax train --config=configs/sjtu_tis.py
    salflax train --config=configs/sjtu_tis.py:fusion=gate --workdir=runs/gate
    salflax train --config=configs/sjtu_tis.py --config.sjtu.lr=1e-4 --check

As `python -m salflax.main`. All that is wrong or missing is named before
anything is built. Started again with the same workdir, a run goes on where it
stopped.
"""

import logging
import os
import re
from typing import Any

from absl import flags

from salflax import cli
from salflax.cli import config_file

_LOG = logging.getLogger('salflax')


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  config_file.define(values, 'What to train.')
  text, number = flags.DEFINE_string, flags.DEFINE_integer
  workdir = (
    'Folder of the run: checkpoints, measures, tables, maps. By default '
    "runs/<the config's name>[-<its argument>]."
  )
  coordinator = (
    "host:port of process 0, for runs over several hosts; 'auto' where the "
    'cluster tells (TPU pods, Slurm).'
  )
  check = 'Only check the config: build nothing, write nothing.'
  cli.define(
    values,
    (text, 'workdir', None, workdir),
    (flags.DEFINE_bool, 'check', False, check),
    (text, 'coordinator', '', coordinator),
    (number, 'processes', 1, 'Number of processes.', 1),
    (number, 'process', 0, 'Index of this process.', 0),
  )


def default_workdir(config: str) -> str:
  """Names the folder of a run whose --workdir is not set.

  Args:
    config: value of --config, 'configs/sjtu_tis.py:small'.
  """
  file, _, argument = config.partition(':')
  name = os.path.splitext(os.path.basename(file))[0]
  argument = re.sub(r'[^\w.,=+-]+', '_', argument).strip('_')
  return os.path.join('runs', f'{name}-{argument}' if argument else name)


def _evaluate(stages, workdir, what) -> None:
  """Scores the last stage's best, as cli.evaluate does; draws the curves."""
  import jax

  from salflax.cli import evaluate
  from salflax.predict import subjects, trained
  from salflax.report import plots, runs

  for stage in stages if jax.process_index() == 0 else ():
    folder = os.path.join(workdir, stage.name)
    series = runs.read_metrics(os.path.join(folder, 'metrics.jsonl'))
    plots.curves(series, os.path.join(folder, 'curves.png'), title=stage.name)
  if what.protocols:
    subject = subjects.of_run(trained.load(workdir), store=what.store)
    evaluate.evaluate(subject, keep_maps=what.keep_maps, figures=what.figures)


def _write_card(workdir) -> None:
  """Writes the model card of a finished run, README.md in its folder."""
  from salflax.config import saved
  from salflax.core import paths
  from salflax.report import card

  summary = os.path.join(workdir, 'evaluate', 'test', 'summary.json')
  scores = card.score_tables(summary) if paths.path(summary).is_file() else ()
  config = saved.with_origins(saved.load(workdir))
  name = os.path.basename(workdir)
  card.write(workdir, config, scores, name=name)


def _stages(config, workdir):
  """Resolves and checks the stages of a config.

  Raises:
    ValueError: something in it is wrong.
    FileNotFoundError: something is missing; all of it is listed.
  """
  from salflax.config import missing, resolve, schema
  from salflax.train import checks

  plain = schema.plain(config)
  schema.check(plain)
  missing.check(plain)
  stages = resolve.resolve(config, workdir)
  for s in stages:
    checks.check(s)
  return stages


def execute(options: Any) -> int:
  """Trains and evaluates; returns the exit code."""
  if options.config is None:
    raise cli.UsageError('Name a config: --config=configs/sjtu_tis.py')
  cli.keep_programs()
  import jax

  from salflax.core import parallel
  from salflax.train import log

  log.to_console(debug=options.debug)
  if options.quiet:
    _LOG.setLevel(logging.WARNING)
  parallel.initialise(options.coordinator, options.processes, options.process)
  try:
    return _train(options)
  except Exception as e:
    if options.debug or jax.process_count() == 1:
      raise
    # An orderly exit would wait for the others, which wait for this one.
    cli.say(f'salflax: {parallel.describe(e)}', *getattr(e, '__notes__', ()))
    return parallel.leave(cli.FAILED)


def _train(options: Any) -> int:
  import jax

  from salflax.config import resolve, saved
  from salflax.core import parallel, paths
  from salflax.train import checkpoint, loop

  config = options.config
  workdir = paths.absolute(
    options.workdir or default_workdir(options['config'].config_filename)
  )
  stages = _stages(config, workdir)
  if options.check:
    print('The config is sound.')
    return cli.DONE
  paths.path(workdir).mkdir(parents=True, exist_ok=True)
  _LOG.info(
    'Run in %s: %d devices of kind %s, %d processes.',
    workdir,
    jax.device_count(),
    jax.devices()[0].device_kind,
    jax.process_count(),
  )
  again = 'Start again with the same --workdir to go on.'
  try:
    with checkpoint.workdir_lock(workdir):
      saved.save(config, workdir)
      if jax.process_index() == 0:
        resolve.save_texts(stages, workdir)
      loop.run(stages, workdir)
      _evaluate(stages, workdir, config.evaluate)
      if jax.process_index() == 0:
        _write_card(workdir)
  except KeyboardInterrupt:
    _LOG.warning('Stopped. %s', again)
    return cli.INTERRUPTED
  except loop.Interrupted as e:
    _LOG.warning('%s %s', e, again)
    return cli.INTERRUPTED
  except loop.Diverged as e:
    if options.debug:
      raise
    cli.say(f'salflax: {e}', *getattr(e, '__notes__', ()))
    return parallel.leave(cli.DIVERGED)
  return cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
