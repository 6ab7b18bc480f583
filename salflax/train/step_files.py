"""Files of saved steps: which there are, which is best, which are damaged."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable

import orbax.checkpoint as ocp
import tensorstore
from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

from salflax.core import files, paths

_LOG = logging.getLogger('salflax')


def _spec(path: str, gs: Callable = gcs_utils.get_kvstore_for_gcs) -> dict:
  """Describes a place in a bucket for TensorStore."""
  if path.startswith('gs:'):
    return gs(path)
  bucket, _, key = path.removeprefix('s3:').lstrip('/').partition('/')
  spec, env = {'driver': 's3', 'bucket': bucket, 'path': key}, os.environ.get
  # TensorStore does not read these, and looks for keys elsewhere first.
  if endpoint := env('AWS_ENDPOINT_URL_S3') or env('AWS_ENDPOINT_URL'):
    spec['endpoint'] = endpoint
  if region := env('AWS_REGION') or env('AWS_DEFAULT_REGION'):
    spec['aws_region'] = region
  if env('AWS_ACCESS_KEY_ID'):
    spec['aws_credentials'] = {'type': 'environment'}
  return spec


# Orbax 0.12 takes s3:// for a path of the disk that is not absolute, where
# TensorStore can read and write it; the second slash it drops.
tensorstore_utils._use_gcs_driver = lambda path: path[:3] in ('gs:', 's3:')
gcs_utils.get_kvstore_for_gcs = _spec


def atomicity(folder: str) -> ocp.options.AtomicityOptions:
  """Chooses how a step is finished: renamed, or in a bucket by a file in it."""
  modes = ocp.options.AtomicityMode
  mode = modes.COMMIT_FILE if paths.is_bucket(folder) else modes.AUTO
  return ocp.options.AtomicityOptions(mode=mode)


def steps(folder: str) -> list[int]:
  """Lists the finished steps in a folder, in order."""
  every = [p for p in paths.path(folder).glob('*') if p.name.isdigit()]
  if paths.is_bucket(folder):
    every = [p for p in every if (p / 'commit_success.txt').exists()]
  return sorted(int(p.name) for p in every)


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
    if (metrics := paths.path(path) / 'metrics' / 'metrics').exists():
      name = 'metrics/metrics'
      files.read_json(metrics)
    name = 'state/manifest.ocdbt'
    if not paths.path(os.path.join(path, name)).exists():
      return f'{name} is missing'
    if not arrays:
      return ''
    name = 'state'
    base = f'file://{os.path.abspath(state)}/'
    if paths.is_bucket(state):
      base = _spec(f'{state}/')
    spec = {'driver': 'ocdbt', 'base': base}
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
    aside = paths.path(folder) / f'damaged-{at}'
    shutil.rmtree(aside, ignore_errors=True)
    (aside.parent / str(at)).rename(aside)
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
