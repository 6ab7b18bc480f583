"""The config of a run, in the config.json of its workdir."""

import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
from flax import traverse_util

from salflax.config import schema
from salflax.config.schema import plain
from salflax.core import files, paths
from salflax.evaluate import rows as rows_lib

# Keys that may differ when a run goes on: none of them changes a number.
FREE = (
  *('data_dir', 'cache_dir', 'threads', 'workers', 'log_every', 'evaluate'),
  *('remat', 'param_shards'),
)


def save(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes the config into the workdir, or checks it against the one there.

  A config that stopped before its first checkpoint makes room for another.

  Raises:
    ValueError: the workdir is another config's; names the keys that differ.
  """
  path = paths.path(workdir) / 'config.json'
  ours = plain(config)
  begun = any(p.name.isdigit() for p in path.parent.glob('*/checkpoints/*'))
  if begun and not path.exists():
    raise ValueError(
      f'{workdir} has checkpoints but no config.json that says whose. Put it '
      'back, or take another --workdir.'
    )
  if begun:
    flat = functools.partial(traverse_util.flatten_dict, sep='.')
    there, now = flat(load(workdir)), flat(ours)
    differ = [
      f'{k}: {there.get(k)!r} there, {now.get(k)!r} now'
      for k in sorted({*there, *now})
      if there.get(k) != now.get(k) and k.split('.')[0] not in FREE
    ]
    if differ:
      raise ValueError(
        f'{workdir} is the workdir of another config. It differs in '
        f'{"; ".join(differ[:6])}. Take another --workdir, or empty this one.'
      )
  if jax.process_index() == 0:
    rows_lib.write_json(path, ours)


def load(workdir: str | os.PathLike) -> dict:
  """Loads the config of a run, or of a released model.

  Raises:
    FileNotFoundError: the folder is no run.
  """
  path = paths.path(workdir) / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'{workdir} is not a run: it has no config.json. A run is the --workdir '
      'of salflax train.'
    )
  node = plain(files.read_json(path))
  node.pop('released', None)
  # Keys that are younger than the run have their defaults.
  sections = {k: {**schema.STAGE, **node[k]} for k in schema.sections(node)}
  # What was evaluated changes no weight: keys that are gone are left out.
  written = {k: v for k, v in node['evaluate'].items() if k in schema.EVALUATE}
  evaluate = {**schema.EVALUATE, **written}
  return {**schema.RUN, **node, **sections, 'evaluate': evaluate}


def with_origins(config: Mapping[str, Any]) -> dict[str, Any]:
  """Puts the stages of the runs that a run started from before its own.

  A stage whose name a later one has too is named '<name> of <run>'. Runs that
  are gone are left out.
  """
  result = dict(config)
  origin = config[config['stages'][0]]['init']
  if origin.startswith('@') or not origin:
    return result
  if not paths.path(origin).joinpath('config.json').is_file():
    return result
  before, names = with_origins(load(origin)), []
  for name in before['stages']:
    taken = name in config['stages']
    names.append(f'{name} of {os.path.basename(origin)}' if taken else name)
    result[names[-1]] = before[name]
  return result | {'stages': (*names, *config['stages'])}
