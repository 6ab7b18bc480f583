"""The loop: stages of training, each with its own folder and checkpoints."""

import json
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from salflax import (
  checkpoint,
  evaluate,
  log,
  optim,
  parallel,
  results,
  step,
)
from salflax import stage as stages_lib
from salflax.data import loader, pp
from salflax.stage import Stage

_LOG = logging.getLogger('salflax')


class Interrupted(Exception):
  """The run was asked to stop, and has saved its state."""


class _Stop:
  """Notes the first Ctrl-C or SIGTERM; the second one acts as always."""

  def __init__(self):
    self.asked = False
    self._old = {}

  def __enter__(self):
    for s in (signal.SIGINT, signal.SIGTERM):
      try:
        self._old[s] = signal.signal(s, self._note)
      except ValueError:  # not in the main thread: somebody else decides
        pass
    return self

  def _note(self, number, frame):
    del frame
    self.asked = True
    signal.signal(number, self._old[number])
    _LOG.warning('Asked to stop: saving after this step.')

  def __exit__(self, *unused):
    for s, handler in self._old.items():
      signal.signal(s, handler)

  def __call__(self) -> bool:
    if jax.process_count() == 1:
      return self.asked
    from jax.experimental import multihost_utils

    asked = multihost_utils.process_allgather(np.int32(self.asked))
    return bool(np.max(asked))


class _Progress:
  """Measures since the last line: checks them, writes them, says them."""

  def __init__(self, stage: Stage, writer: log.Writer, start: int):
    self._stage, self._writer = stage, writer
    self._pending = []
    self.clock = log.Clock(start, stage.steps)

  def add(self, at: int, batch: Mapping[str, Any], measures: Mapping) -> None:
    """Notes the measures of one step; does not wait for the device."""
    self._pending.append((at, np.asarray(batch['index']), measures))

  def flush(self) -> None:
    """Waits for the noted steps, stops at a NaN, writes their means."""
    if not self._pending:
      return
    rows = jax.device_get([m for _, _, m in self._pending])
    for (at, index, _), row in zip(self._pending, rows):
      if not all(np.isfinite(v) for v in row.values()):
        source = self._stage.train_source
        ids = ', '.join(loader.describe(source, int(i)) for i in index)
        terms = ', '.join(f'{k} {float(v):.5g}' for k, v in row.items())
        raise FloatingPointError(
          f'Stage {self._stage.name}, step {at}: not finite ({terms}). '
          f'Pictures of that batch: {ids}. The last checkpoint is intact.'
        )
    at = self._pending[-1][0]
    mean = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
    rate, left = self.clock.tick(at)
    mean['images_per_second'] = rate * self._stage.batch_size
    self._writer.write(at, mean)
    terms = ' '.join(
      f'{k.removeprefix("loss/")} {v:.4f}'
      for k, v in mean.items()
      if k.startswith('loss')
    )
    _LOG.info(
      '%s %d/%d | %s | %.1f images/s | %s left',
      self._stage.name,
      at,
      self._stage.steps,
      terms,
      mean['images_per_second'],
      log.duration(left),
    )
    self._pending = []


class _Evaluation:
  """Scores the evaluation split while training."""

  def __init__(self, stage: Stage, mesh: Mesh, variables: step.Variables):
    self._stage, self._mesh = stage, mesh
    self._predict = step.make_predict_fn(
      stage.model, mesh, round_taps=stage.store_taps
    )
    self._finish = stages_lib.finishers(
      stage, variables, stage.eval_source, stage.eval_pp
    )

  def __call__(self, variables: step.Variables) -> dict[str, float]:
    """Returns each metric's mean over conditions, and per condition."""
    stage = self._stage
    batches = loader.eval_batches(
      stage.eval_source,
      pp.make(stage.eval_pp),
      batch_size=stage.batch_size,
      shard=parallel.shard(),
      finish=self._finish,
      threads=stage.threads,
    )
    predict_fn = lambda v, b: self._predict(
      v, parallel.to_global(stages_lib.model_keys(b), self._mesh)
    )
    rows = evaluate.evaluate(
      predict_fn,
      variables,
      batches,
      stage.eval_source,
      stage.protocols,
      threads=stage.threads,
    )
    return results.means(rows)


def _start(stage, mesh, checkpoints, start):
  """Returns (state, iterator state or None, extra) to go on from."""
  at = checkpoints.latest_step()
  if at is None:
    extra = {'best': None, 'stale': 0, 'seconds': 0.0}
    return stages_lib.initial_state(stage, mesh, start), None, extra
  abstract = step.abstract_state(
    stage.model,
    stage.make_tx(),
    stages_lib.example_batch(stage),
    jax.random.key(0),
  )
  state, meta = checkpoints.restore(at, abstract, mesh)
  _LOG.info('%s: going on from step %d.', stage.name, at)
  return state, meta['iterator'], meta['extra']


def _judge(extra, score, higher_is_better):
  """Returns `extra` with the best score so far and evaluations since."""
  best = extra['best']
  sign = 1 if higher_is_better else -1
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
    FloatingPointError: a measure is not finite; names step and pictures.
    Interrupted: after Ctrl-C or SIGTERM, with everything saved.
    OSError: the folder cannot be written or the disk is too full.
  """
  where = os.path.join(folder, 'checkpoints')
  if os.path.exists(os.path.join(folder, 'result.json')):
    _LOG.info('%s is finished already.', stage.name)
    return where
  parallel.check_batch_size(stage.batch_size, mesh)
  abstract = step.abstract_state(
    stage.model,
    stage.make_tx(),
    stages_lib.example_batch(stage),
    jax.random.key(0),
  )
  sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract)]
  checkpoint.check_room(folder, sum(sizes))
  metric = stage.score_metric()
  checkpoints = checkpoint.Checkpoints(
    where, higher_is_better=metric.higher_is_better
  )
  try:
    with _Stop() as stop:
      extra = _loop(stage, folder, mesh, start, checkpoints, metric, stop)
    best = checkpoints.best()
    result = {
      'best_step': best[0],
      'best_score': best[1],
      'score': stage.score,
      'seconds': round(extra['seconds'], 1),
      'peak_memory_mb': round(log.peak_memory_mb()),
    }
    if jax.process_index() == 0:
      results.write_json(os.path.join(folder, 'result.json'), result)
    parallel.barrier(f'{stage.name} is finished')
  finally:
    checkpoints.close()
  _LOG.info(
    '%s: best %s %.4f at step %d, %s, peak memory %.0f MB.',
    stage.name,
    stage.score,
    best[1],
    best[0],
    log.duration(result['seconds']),
    result['peak_memory_mb'],
  )
  return where


def _loop(stage, folder, mesh, start, checkpoints, metric, stop):
  """Runs the steps; returns what went along with the last checkpoint."""
  state, position, extra = _start(stage, mesh, checkpoints, start)
  _announce(stage, state)
  judge = _Evaluation(stage, mesh, state.variables)
  batches = iter(stages_lib.train_batches(stage, state.variables))
  if position is not None:
    batches.set_state(position)
  train_step = step.make_train_step(
    stage.model,
    stage.loss_fn,
    stage.make_tx(),
    mesh,
    round_taps=stage.store_taps,
  )
  key = parallel.to_everywhere(
    jax.random.key_data(jax.random.key(stage.seed + 1)), mesh
  )
  at, since = int(state.step), time.perf_counter()
  writer = log.Writer(folder, start_step=at, active=jax.process_index() == 0)
  progress = _Progress(stage, writer, at)

  def save(score=None):
    spent = extra['seconds'] + time.perf_counter() - since
    checkpoints.save(
      state,
      batches.get_state(),
      score=score,
      extra=dict(extra, seconds=spent),
    )

  ended = stage.patience and extra['stale'] >= stage.patience
  while at < stage.steps and not ended:
    batch = next(batches)
    state, measures = train_step(state, parallel.to_global(batch, mesh), key)
    at += 1
    progress.add(at, batch, measures)
    judging = at % stage.eval_every == 0 or at == stage.steps
    if at % stage.log_every == 0 or judging:
      progress.flush()
    if judging:
      before = time.perf_counter()
      scores = judge(state.variables)
      extra = _judge(extra, scores[stage.score], metric.higher_is_better)
      writer.write(at, {f'eval/{k}': v for k, v in scores.items()})
      _say(stage, at, scores)
      progress.clock.skip(time.perf_counter() - before)
      save(scores[stage.score])
      ended = stage.patience and extra['stale'] >= stage.patience
    if stop.asked or (jax.process_count() > 1 and judging and stop()):
      progress.flush()
      save()
      checkpoints.wait()
      writer.close()
      raise Interrupted(f'{stage.name}: stopped and saved at step {at}.')
  writer.close()
  checkpoints.wait()
  return dict(extra, seconds=extra['seconds'] + time.perf_counter() - since)


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
  """
  mesh = parallel.make_mesh()
  done = {}
  for stage in stages:
    start = None
    if stage.init:
      earlier = next(s for s in stages if f'@{s.name}' == stage.init)
      abstract = stages_lib.abstract_state(earlier)
      start, at = checkpoint.load_variables(done[earlier.name], abstract, mesh)
      _LOG.info('%s: from %s, step %d.', stage.name, stage.init, at)
      start = jax.device_get(start)
    folder = os.path.join(workdir, stage.name)
    done[stage.name] = train_stage(stage, folder, mesh, start)
  with open(os.path.join(folder, 'result.json'), encoding='utf-8') as f:
    return json.load(f)
