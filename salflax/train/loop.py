"""The loop: stages of training, each with its own folder and checkpoints."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from salflax.core import files, parallel, paths
from salflax.data import batches as batches_lib
from salflax.evaluate import references, scorer
from salflax.evaluate import rows as rows_lib
from salflax.train import checkpoint, log, optim, step
from salflax.train import stage as stages_lib
from salflax.train.interrupt import Interrupted, Stop
from salflax.train.predictor import StagePredictor
from salflax.train.stage import Stage

_LOG = logging.getLogger('salflax')


class Diverged(FloatingPointError):
  """A measure of a step is not finite.

  Attributes:
    step: its number.
  """

  def __init__(self, message: str, step: int):
    super().__init__(message)
    self.step = step


class _Progress:
  """Measures since the last line: checks, writes and logs them.

  Attributes:
    rows: measures of each step since the last line, checked.
    clock: rate and time left.
  """

  def __init__(
    self,
    stage: Stage,
    writer: log.Writer,
    start: int,
    rows: Sequence[dict[str, float]] = (),
  ):
    self._stage, self._writer = stage, writer
    self._pending = []
    self.rows = list(rows)
    self.clock = log.Clock(start, stage.steps)

  def add(self, at: int, batch: Mapping[str, Any], measures: Mapping) -> None:
    """Notes the measures of one step; does not wait for the device."""
    self._pending.append((at, np.asarray(batch['index']), measures))

  def check(self) -> None:
    """Waits for the noted steps; stops at a NaN."""
    measures = jax.device_get([m for _, _, m in self._pending])
    for (at, index, _), row in zip(self._pending, measures):
      row = {k: float(v) for k, v in row.items()}
      if not all(map(math.isfinite, row.values())):
        source = self._stage.train_source
        ids = ', '.join(batches_lib.describe(source, int(i)) for i in index)
        terms = ', '.join(f'{k} {v:.5g}' for k, v in row.items())
        raise Diverged(
          f'Stage {self._stage.name}, step {at}: not finite ({terms}). '
          f'Images of that batch: {ids}. The last checkpoint is intact.',
          at,
        )
      self.rows.append(row)
    self._pending = []

  def flush(self, at: int) -> None:
    """Checks the noted steps, writes and logs the means up to step `at`."""
    self.check()
    if not self.rows:
      return
    mean = {k: math.fsum(r[k] for r in self.rows) for k in self.rows[0]}
    mean = {k: v / len(self.rows) for k, v in mean.items()}
    rate, wait, left = self.clock.tick(at)
    mean['images_per_second'] = rate * self._stage.batch_size
    mean['data_wait'] = wait
    self._writer.write(at, mean)
    terms = ' '.join(
      f'{k.removeprefix("loss/")} {v:.4f}'
      for k, v in mean.items()
      if k.startswith('loss')
    )
    _LOG.info(
      '%s %d/%d | %s | %.1f images/s, %.0f %% waiting for data | %s left',
      self._stage.name,
      at,
      self._stage.steps,
      terms,
      mean['images_per_second'],
      100 * wait,
      log.duration(left),
    )
    self.rows = []


class _Evaluation:
  """Scores the evaluation split while training."""

  def __init__(self, stage: Stage, mesh: Mesh, variables: step.Variables):
    self._predictor = StagePredictor(stage, variables, mesh, store=True)
    self._threads, prior = stage.threads, None
    if any(
      'baseline' in m.needs for ms in stage.protocols.values() for m in ms
    ):
      rows, _ = references.without_scored(stage.train_source, stage.eval_source)
      prior = references.CentrePrior(rows, threads=stage.threads)
    self._scorer = scorer.Scorer(
      stage.eval_source, stage.protocols, baseline=prior
    )

  def __call__(self, variables: step.Variables) -> dict[str, float]:
    """Computes each metric's mean over conditions, and per condition."""
    predictor = self._predictor.replace(
      variables=parallel.gather(variables, self._predictor.mesh)
    )
    rows = scorer.score(predictor, self._scorer, threads=self._threads)
    return rows_lib.means(rows)


def _start(stage, mesh, checkpoints, start):
  """Restores (state, extra) to go on from, or begins."""
  at = checkpoints.latest_step()
  extra = {'best': None, 'stale': 0, 'seconds': 0.0, 'waited': 0.0, 'rows': []}
  if at is None:
    return stages_lib.initial_state(stage, mesh, start), extra
  abstract = stages_lib.abstract_state(stage)
  state, stored = checkpoints.restore(at, abstract, mesh)
  _LOG.info('%s: going on from step %d.', stage.name, at)
  return state, extra | stored


def _judge(stage, extra, score):
  """Updates the best score so far and evaluations since in `extra`."""
  if not math.isfinite(score):
    raise ValueError(
      f'Stage {stage.name}: no row of the evaluation split gives a finite '
      f'{stage.score}, so that no checkpoint can be called the best. Choose '
      'another score or split.'
    )
  best = extra['best']
  sign = 1 if stage.score_metric().higher_is_better else -1
  if best is None or sign * score >= sign * best:
    return dict(extra, best=score, stale=0)
  return dict(extra, stale=extra['stale'] + 1)


def train_stage(
  stage: Stage,
  folder: str,
  mesh: Mesh,
  start: step.Variables | None = None,
) -> str:
  """Trains a stage, going on where an earlier run of it stopped.

  Args:
    stage: the stage.
    folder: for its checkpoints, measures and result; one that is finished is
      left as it is.
    mesh: the mesh.
    start: variables of an earlier stage.

  Returns:
    The folder of the checkpoints.

  Raises:
    Diverged: a measure is not finite; names step and images, and leaves
      diverged.json in the folder.
    ValueError: the score cannot be measured on the evaluation split.
    Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    OSError: the folder cannot be written or the disk is too full.
  """
  where = os.path.join(folder, 'checkpoints')
  if (paths.path(folder) / 'result.json').exists():
    _LOG.info('%s is finished already.', stage.name)
    return where
  parallel.check_batch_size(stage.batch_size, mesh)
  abstract = stages_lib.abstract_state(stage)
  sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)]
  checkpoint.check_room(where, sum(sizes))
  checkpoints = checkpoint.Checkpoints(
    where, higher_is_better=stage.score_metric().higher_is_better
  )
  try:
    with Stop() as stop, contextlib.ExitStack() as stack:
      extra = _loop(stage, folder, mesh, start, checkpoints, stop, stack)
    best = checkpoints.best()
    result = _finish(stage, folder, best, extra, abstract.params)
  except Diverged as e:
    if jax.process_index() == 0:
      report = {'step': e.step, 'message': str(e)}
      rows_lib.write_json(os.path.join(folder, 'diverged.json'), report)
    raise
  finally:
    checkpoints.close()
  _LOG.info(
    '%s: best %s %.4f at step %d, %s, %.0f %% of it waiting for data, peak '
    'memory %.0f MB.',
    *(stage.name, stage.score, best[1], best[0]),
    *(log.duration(extra['seconds']), 100 * result['data_wait']),
    result['peak_memory_mb'],
  )
  return where


def _finish(stage, folder, best, extra, params):
  """Writes result.json, by which a stage is finished; returns what it holds."""
  trains, parameters = optim.count(params, stage.freeze)
  result = {
    'best_step': best[0],
    'best_score': best[1],
    'score': stage.score,
    'seconds': round(extra['seconds'], 1),
    'data_wait': round(extra['waited'] / extra['seconds'], 4),
    'peak_memory_mb': round(log.peak_memory_mb()),
    'trainable_parameters': trains,
    'parameters': parameters,
  }
  if jax.process_index() == 0:
    rows_lib.write_json(os.path.join(folder, 'result.json'), result)
    # What diverged once, and not again.
    (paths.path(folder) / 'diverged.json').unlink(missing_ok=True)
  parallel.barrier(f'{stage.name} is finished')
  return result


def _loop(stage, folder, mesh, start, checkpoints, stop, stack):
  """Runs the steps; returns the `extra` of the last checkpoint."""
  state, extra = _start(stage, mesh, checkpoints, start)
  at = int(state.step)
  _announce(stage, state)
  judge = _Evaluation(stage, mesh, state.variables)
  batches = iter(stages_lib.train_batches(stage, state.variables, start=at))
  stack.callback(batches.close)
  train_step = stages_lib.train_step(stage, mesh)
  key = parallel.to_everywhere(
    jax.random.key_data(jax.random.key(stage.seed + 1)), mesh
  )
  since = time.perf_counter()
  writer = log.Writer(folder, start_step=at, active=jax.process_index() == 0)
  stack.callback(writer.close)
  progress = _Progress(stage, writer, at, extra['rows'])

  def totals():
    return dict(
      extra,
      seconds=extra['seconds'] + time.perf_counter() - since,
      waited=extra['waited'] + progress.clock.waited,
    )

  def save(score=None):
    whole = parallel.gather(state, mesh)
    stored = dict(totals(), rows=progress.rows)
    writer.sync()  # a run that goes on from here has the lines up to it
    checkpoints.save(whole, score=score, extra=stored)

  measures, ended = {}, stage.patience and extra['stale'] >= stage.patience
  while at < stage.steps and not ended:
    before = time.perf_counter()
    batch = next(batches)
    # Else the device was at work all the time.
    if all(x.is_ready() for x in jax.tree.leaves(measures)):
      progress.clock.waited += time.perf_counter() - before
    state, measures = train_step(state, parallel.to_global(batch, mesh), key)
    at += 1
    progress.add(at, batch, measures)
    judging = at % stage.eval_every == 0 or at == stage.steps
    due = at % stage.log_every == 0 or judging
    if due:
      progress.flush(at)
    if judging:
      before = time.perf_counter()
      scores = judge(state.variables)
      extra = _judge(stage, extra, scores[stage.score])
      writer.write(at, {f'eval/{k}': v for k, v in scores.items()})
      _say(stage, at, scores)
      progress.clock.skip(time.perf_counter() - before)
      save(scores[stage.score])
      ended = stage.patience and extra['stale'] >= stage.patience
    if stop(together=due):
      progress.check()
      save()
      checkpoints.wait()
      raise Interrupted(f'{stage.name}: stopped and saved at step {at}.')
  checkpoints.wait()
  return totals()


def _announce(stage, state):
  train, total = optim.count(state.params, stage.freeze)
  _LOG.info(
    '%s: %d rows, %d steps of %d, loss %s; %s of %s parameters train.',
    stage.name,
    len(stage.train_source),
    stage.steps,
    stage.batch_size,
    stage.loss,
    f'{train:,}',
    f'{total:,}',
  )


def _say(stage, at, scores):
  text = ' '.join(f'{k} {v:.4f}' for k, v in sorted(scores.items()))
  _LOG.info('%s %d/%d | eval | %s', stage.name, at, stage.steps, text)


def run(stages: Sequence[Stage], workdir: str) -> dict[str, Any]:
  """Trains the stages one after another, each from the best before it.

  Returns:
    The last stage's result: best step, best score, seconds.

  Raises:
    BlockingIOError: another process is training in the workdir.
  """
  with checkpoint.workdir_lock(workdir):
    return _run(stages, workdir)


def _run(stages, workdir):
  for stage in stages:
    mesh = parallel.make_mesh(shards=stage.param_shards)
    start, folder = None, os.path.join(workdir, stage.name)
    if stage.init and not (paths.path(folder) / 'result.json').exists():
      earlier = stage.origin
      above = workdir if stage.init.startswith('@') else stage.init
      start, at = checkpoint.load_variables(
        os.path.join(above, earlier.name, 'checkpoints'),
        stages_lib.abstract_state(earlier),
        mesh,
        higher_is_better=earlier.score_metric().higher_is_better,
      )
      _LOG.info('%s: from %s, step %d.', stage.name, stage.init, at)
      start = jax.device_get(start)
    train_stage(stage, folder, mesh, start)
  return files.read_json(os.path.join(folder, 'result.json'))
