"""Checkpoints of a stage: state and score; the best and the last are kept.

The place in the data is not stored: it follows from the step.
"""

import contextlib
import os
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from orbax.checkpoint.checkpoint_managers import preservation_policy

from salflax.core import parallel
from salflax.train import optim, step


def _score(metrics: dict[str, float]) -> float:
  return metrics['score']


class Checkpoints:
  """The checkpoints in one folder.

  Saving runs in the background and appears under its final name only when it
  is whole: a process killed at any moment leaves the earlier ones intact.
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
    self._sign = 1 if higher_is_better else -1
    self._folder = os.path.abspath(folder)
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        # Without best_fn the scores are not written down.
        best_fn=_score,
        best_mode='max' if higher_is_better else 'min',
        preservation_policy=policy,
        cleanup_tmp_directories=True,
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
      state: of any step.
      score: of an evaluation at this step, if there was one.
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
    with self._errors_told():
      self._manager.save(
        at,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          meta=ocp.args.JsonSave({'extra': extra or {}}),
        ),
        metrics=None if score is None else {'score': float(score)},
      )

  def wait(self) -> None:
    """Returns when everything saved so far is on the disk, or raises."""
    with self._errors_told():
      self._manager.wait_until_finished()

  def latest_step(self) -> int | None:
    """Returns the last saved step, or None."""
    return self._manager.latest_step()

  def best(self) -> tuple[int, float] | None:
    """Returns (step, score) of the best evaluated one, or None.

    Of equal scores the later step counts, as in what is preserved.
    """
    self.wait()
    return _best(self._manager, self._sign)

  def restore(
    self, at: int, abstract: step.TrainState, mesh: Mesh
  ) -> tuple[step.TrainState, dict[str, Any]]:
    """Returns (state on the mesh, `extra`) of step `at`.

    Raises:
      ValueError: the checkpoint's parameters are not this model's.
    """
    sharding = parallel.replicated(mesh)
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      abstract,
    )
    try:
      restored = self._manager.restore(
        at,
        args=ocp.args.Composite(
          state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
        ),
      )
    except ValueError as e:
      raise ValueError(
        f'The checkpoint in {self._folder} (step {at}) is not of this model: '
        f'{str(e)[:500]}'
      ) from e
    return restored.state, restored.meta['extra']

  def close(self) -> None:
    """Waits for what is being saved, then lets go of the folder."""
    with self._errors_told():
      self._manager.close()

  @contextlib.contextmanager
  def _errors_told(self):
    try:
      yield
    except (OSError, ValueError) as e:  # TensorStore knows of no OSError
      full = 'No space left' in str(e)
      reason = 'No space left on device' if full else str(e)[-300:]
      raise OSError(
        f'Cannot save a checkpoint in {self._folder}: {reason}. The earlier '
        'ones are intact.'
      ) from e


def _best(
  manager: ocp.CheckpointManager, sign: int
) -> tuple[int, float] | None:
  scored = []
  for at in manager.all_steps():
    if metrics := manager.metrics(at):
      scored.append((sign * metrics['score'], at))
  if not scored:
    return None
  score, at = max(scored)
  return at, sign * score


def load_variables(
  folder: str,
  abstract: step.TrainState,
  mesh: Mesh,
  *,
  higher_is_better: bool = True,
) -> tuple[step.Variables, int]:
  """Returns (variables, step) of the best checkpoint of a stage, else the last.

  Writes nothing, so that a run can be read while it goes on.

  Args:
    folder: of the checkpoints.
    abstract: the shapes and types of the stage's state.
    mesh: the mesh.
    higher_is_better: whether that is so of the scores.

  Raises:
    FileNotFoundError: there is no finished checkpoint.
    ValueError: it is of another model.
  """
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'No checkpoint: {folder} is not a folder.')
  sharding = parallel.replicated(mesh)
  options = ocp.CheckpointManagerOptions(best_fn=_score, create=False)
  with ocp.CheckpointManager(
    os.path.abspath(folder), options=options
  ) as manager:
    best = _best(manager, 1 if higher_is_better else -1)
    at = best[0] if best else manager.latest_step()
    if at is None:
      raise FileNotFoundError(f'No finished checkpoint in {folder}.')
    wanted = {'params': abstract.params, 'batch_stats': abstract.batch_stats}
    target = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      wanted,
    )
    try:
      # Only parameters and statistics are read; the optimiser's part is left.
      restored = ocp.PyTreeCheckpointer().restore(
        os.path.join(os.path.abspath(folder), str(at), 'state'),
        args=ocp.args.PyTreeRestore(
          item=target,
          restore_args=ocp.checkpoint_utils.construct_restore_args(target),
          partial_restore=True,
        ),
      )
    except (ValueError, KeyError) as e:
      raise ValueError(
        f'The checkpoint in {folder} (step {at}) is not of this model: '
        f'{str(e)[:500]}'
      ) from e
  _check_complete(restored, f'{folder} (step {at})')
  return restored, at


def _check_complete(restored: step.Variables, where: str) -> None:
  # A partial restore leaves what the files lack as it was asked for.
  lacking = [
    name
    for name, leaf in zip(optim.path_names(restored), jax.tree.leaves(restored))
    if isinstance(leaf, jax.ShapeDtypeStruct)
  ]
  if lacking:
    raise ValueError(
      f'The checkpoint in {where} is not of this model: it lacks '
      f'{", ".join(lacking[:6])}{" and more" if len(lacking) > 6 else ""}.'
    )


def check_room(folder: str, num_bytes: int) -> None:
  """Raises OSError where a folder cannot be written or the disk is too full.

  Args:
    folder: where checkpoints will go; made where it is absent.
    num_bytes: of one checkpoint. Three must fit: best, last, the one to come;
      those that are there already need no more room.
  """
  try:
    os.makedirs(folder, exist_ok=True)
    probe = os.path.join(folder, f'.probe{os.getpid()}')
    with open(probe, 'wb') as f:
      f.write(b'0' * 4096)
    os.remove(probe)
  except OSError as e:
    raise OSError(f'Cannot write to {folder}: {e.strerror or e}.') from e
  free = shutil.disk_usage(folder).free
  there = sum(name.isdigit() for name in os.listdir(folder))
  need = max(1, 3 - there) * num_bytes
  if free < need:
    raise OSError(
      f'Not enough room in {folder}: {max(1, 3 - there)} checkpoints to come '
      f'need {need / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.'
    )
