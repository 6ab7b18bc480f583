"""Checkpoints of a stage: state and score; the best and the last are kept.

The place in the data is not stored: it follows from the step.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import preservation_policy

from salflax.core import files, parallel, paths
from salflax.train import optim, step, step_files

_LOG = logging.getLogger('salflax')


def _score(metrics: dict[str, float]) -> float:
  return metrics['score']


class Checkpoints:
  """The checkpoints in one folder, to save and to go on from.

  Saving runs in the background and appears under its final name only when it
  is whole: a process killed at any moment leaves the earlier ones intact.
  Damaged steps are set aside at the start, with a warning.

  Args:
    folder: folder of one stage's checkpoints, new or not.
    higher_is_better: whether the best score is the highest.

  Raises:
    ValueError: every step in the folder is damaged.
  """

  def __init__(self, folder: str, *, higher_is_better: bool = True):
    policy = preservation_policy.AnyPreservationPolicy(
      [
        preservation_policy.LatestN(1),
        preservation_policy.BestN(
          get_metric_fn=_score,
          reverse=not higher_is_better,
          n=1,
          keep_checkpoints_without_metrics=False,
        ),
      ]
    )
    self._higher = higher_is_better
    self._folder = paths.absolute(folder)
    paths.path(folder).mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
      step_files.set_aside_damaged(self._folder)
    parallel.barrier('damaged checkpoints are set aside')
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # Without best_fn the scores are not written down.
        best_fn=_score,
        best_mode='max' if higher_is_better else 'min',
        preservation_policy=policy,
        cleanup_tmp_directories=True,
        atomicity_options=step_files.atomicity(folder),
        # Else a folder that a full disk has no room for is waited for, 20
        # minutes at the end of the process.
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
      ),
    )

  def save(
    self,
    state: step.TrainState,
    *,
    score: float | None = None,
    extra: dict[str, Any] | None = None,
  ) -> None:
    """Saves a state; a step saved before is left alone.

    Args:
      state: the state at any step.
      score: score of an evaluation at this step, if there was one.
      extra: JSON values that go along.

    Raises:
      OSError: it, or the one before, could not be written.
    """
    at = int(state.step)
    if at in self._manager.all_steps():
      return
    # From the host: orbax would have every device write a slice of each array,
    # and compile the slicing of each shape.
    state = jax.device_get(state)
    with self._explained():
      self._manager.save(
        at,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          meta=ocp.args.JsonSave({'extra': extra or {}}),
        ),
        metrics=None if score is None else {'score': float(score)},
      )

  def wait(self) -> None:
    """Waits until everything saved so far is on the disk.

    Raises:
      OSError: it could not be written.
    """
    with self._explained():
      self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """Names the last saved step, or None."""
    return self._manager.latest_step()

  def best(self) -> tuple[int, float] | None:
    """Finds (step, score) of the best evaluated one, or None."""
    self.wait()
    return step_files.best(self._folder, higher_is_better=self._higher)

  def restore(
    self, at: int, abstract: step.TrainState, mesh: Mesh
  ) -> tuple[step.TrainState, dict[str, Any]]:
    """Reads (state on the mesh, `extra`) of step `at`.

    Raises:
      ValueError: the checkpoint's parameters are not this model's.
    """
    target = parallel.on_mesh(abstract, parallel.layout(abstract, mesh))
    with _of_this_model(self._folder, at):
      restored = self._manager.restore(
        at,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
        ),
      )
    return restored.state, restored.meta['extra']

  def close(self) -> None:
    """Waits for what is being saved, then lets go of the folder."""
    with self._explained():
      self._manager.close()

  @contextlib.contextmanager
  def _explained(self) -> Iterator[None]:
    try:
      yield
    except (OSError, ValueError) as e:  # TensorStore has no OSError
      full = 'No space left' in str(e)
      reason = 'No space left on device' if full else str(e)[-300:]
      steps = ' and '.join(map(str, step_files.steps(self._folder)))
      rest = f'step {steps} is intact' if steps else 'no earlier one is there'
      raise OSError(
        f'Cannot save a checkpoint in {self._folder}: {reason}; {rest}.'
      ) from e


@contextlib.contextmanager
def _of_this_model(folder: str, at: int) -> Iterator[None]:
  try:
    yield
  except (ValueError, KeyError) as e:
    raise ValueError(
      f'The checkpoint in {folder} (step {at}) is not of this model: '
      f'{str(e)[:500]}'
    ) from e


def load_variables(
  folder: str,
  abstract: step.TrainState,
  mesh: Mesh,
  *,
  higher_is_better: bool = True,
) -> tuple[step.Variables, int]:
  """Reads (variables, step) of the best checkpoint of a stage, else the last.

  Where that one is damaged, the newest whole one is read, with a warning.
  Writes nothing, so that a run can be read while it goes on.

  Args:
    folder: folder of the stage's checkpoints.
    abstract: the shapes and types of the stage's state.
    mesh: the mesh.
    higher_is_better: whether the best score is the highest.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: it is of another model, or every one is damaged.
  """
  if not paths.path(folder).is_dir():
    raise FileNotFoundError(f'No checkpoint: {folder} is not a folder.')
  folder = paths.absolute(folder)
  steps = step_files.steps(folder)[::-1]
  if not steps:
    raise FileNotFoundError(f'No finished checkpoint in {folder}.')
  if best := step_files.best(folder, higher_is_better=higher_is_better):
    steps.sort(key=lambda s: s != best[0])
  # A score that cannot be read may be the best one: all are looked at.
  quick = ((s, step_files.damage(f'{folder}/{s}', arrays=False)) for s in steps)
  damaged = {at: reason for at, reason in quick if reason}
  for at in (s for s in steps if s not in damaged):
    if not (reason := step_files.damage(f'{folder}/{at}')):
      break
    damaged[at] = reason
  else:
    listed = step_files.list_damaged(folder, damaged)
    raise ValueError(f'{listed} No other checkpoint is whole.')
  if damaged:
    listed = step_files.list_damaged(folder, damaged)
    _LOG.warning('%s Step %d is read in its place.', listed, at)
  return _restore_variables(folder, at, abstract, mesh), at


def _restore_variables(folder, at, abstract, mesh):
  """Reads parameters and statistics alone; the optimiser's part is left."""
  variables = abstract.variables
  where = jax.tree.map(lambda _: parallel.replicated(mesh), variables)
  target = parallel.on_mesh(variables, where)
  with _of_this_model(folder, at):
    restored = ocp.PyTreeCheckpointer().restore(
      os.path.join(folder, str(at), 'state'),
      args=ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
      ),
    )
    # A partial restore leaves what the files lack as it was asked for.
    missing = [
      name
      for name, leaf in zip(
        optim.path_names(restored), jax.tree.leaves(restored)
      )
      if isinstance(leaf, jax.ShapeDtypeStruct)
    ]
    if missing:
      more = ' and more' if len(missing) > 6 else ''
      raise ValueError(f'it lacks {", ".join(missing[:6])}{more}.')
  return restored


def workdir_lock(workdir: str) -> contextlib.AbstractContextManager[None]:
  """Keeps a workdir for one training; process 0 of a run takes the lock.

  Raises:
    BlockingIOError: another training has it; names its process and host.
  """
  if jax.process_index():
    return contextlib.nullcontext()
  path = os.path.join(workdir, '.lock')
  return files.locked(path, f'training in {workdir}')


def check_room(folder: str, num_bytes: int) -> None:
  """Raises OSError where a folder cannot be written or the disk is too full.

  Args:
    folder: where checkpoints will go, new or not.
    num_bytes: bytes of one checkpoint. Three must fit: best, last, the one to
      come; those that are there already need no more room.
  """
  try:
    probe = paths.path(folder) / f'.probe{os.getpid()}'
    with files.replacing(probe) as temporary:
      temporary.write_bytes(b'0' * 4096)
    probe.unlink()
  except OSError as e:
    if paths.is_bucket(folder):
      raise
    raise OSError(f'Cannot write to {folder}: {e.strerror or e}.') from e
  if paths.is_bucket(folder):
    return
  free = shutil.disk_usage(folder).free
  coming = max(1, 3 - len(step_files.steps(folder)))
  if free < coming * num_bytes:
    raise OSError(
      f'Not enough room in {folder}: {coming} checkpoints to come need '
      f'{coming * num_bytes / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.'
    )
