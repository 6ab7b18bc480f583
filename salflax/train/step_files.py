"""Files of saved steps: which there are, which is best, which are damaged."""

import contextlib
import logging
import os
import shutil

import tensorstore

from salflax.core import files

_LOG = logging.getLogger('salflax')


def steps(folder: str) -> list[int]:
  """Lists the finished steps in a folder, in order."""
  return sorted(int(n) for n in os.listdir(folder) if n.isdigit())


def best(folder: str, *, higher_is_better: bool) -> tuple[int, float] | None:
  """Finds (step, score) of the best step that has a score.

  Of equal scores the later step counts, as in what is preserved.
  """
  sign, scored = 1 if higher_is_better else -1, []
  for at in steps(folder):
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
      metrics = files.read_json(
        os.path.join(folder, str(at), 'metrics', 'metrics')
      )
      scored.append((sign * float(metrics['score']), at))
  if not scored:
    return None
  score, at = max(scored)
  return at, sign * score


def damage(path: str, *, arrays: bool = True) -> str:
  """Names what is wrong with the files of one step; '' where they are whole.

  Orbax would take some damage for another model, and its threads print
  tracebacks.

  Args:
    path: folder of the step.
    arrays: whether the arrays are read as well, not only what is beside them.
  """
  state = os.path.join(path, 'state')
  try:
    for name in ('state/_METADATA', 'meta/metadata'):
      files.read_json(os.path.join(path, name))
    # A step without an evaluation has no score.
    if os.path.exists(metrics := os.path.join(path, 'metrics', 'metrics')):
      name = 'metrics/metrics'
      files.read_json(metrics)
    name = 'state/manifest.ocdbt'
    os.stat(os.path.join(path, name))
    if not arrays:
      return ''
    name = 'state'
    spec = {'driver': 'ocdbt', 'base': f'file://{os.path.abspath(state)}/'}
    store = tensorstore.KvStore.open(spec).result()
    for key in store.list().result():
      store.read(key).result()
  except FileNotFoundError:
    return f'{name} is missing'
  except (OSError, ValueError) as e:
    return f'{name} cannot be read: {str(e).splitlines()[0][:200]}'
  return ''


def set_aside_damaged(folder: str) -> None:
  """Renames damaged steps, so that a run goes on from the newest whole one.

  Raises:
    ValueError: every step is damaged; nothing is renamed then.
  """
  every = steps(folder)
  damaged = {at: d for at in every if (d := damage(f'{folder}/{at}'))}
  if damaged and len(damaged) == len(every):
    raise ValueError(
      f'{list_damaged(folder, damaged)} No earlier checkpoint is whole: '
      f'remove {folder} to begin this stage anew.'
    )
  for at, reason in damaged.items():
    aside = os.path.join(folder, f'damaged-{at}')
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(os.path.join(folder, str(at)), aside)
    whole = max(set(every) - set(damaged))
    _LOG.warning(
      'The checkpoint %s/%d is damaged (%s): it is now %s, and step %d is the '
      'newest whole one.',
      *(folder, at, reason, aside, whole),
    )


def list_damaged(folder: str, damaged: dict[int, str]) -> str:
  """Writes a sentence for each damaged step, given step -> damage."""
  return ' '.join(
    f'The checkpoint {folder}/{at} is damaged: {reason}.'
    for at, reason in damaged.items()
  )
