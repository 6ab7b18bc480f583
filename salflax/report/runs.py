"""The files of one run, as training and evaluation wrote them.

Everything is checked where it is read: a damaged file is a note on its run.
Needs neither jax nor a checkpoint.
"""

import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from salflax.core import files, paths
from salflax.evaluate import rows as rows_lib

if TYPE_CHECKING:
  import pandas as pd

# Keys of a config that say where and how fast, and the seed, which says which.
_NOT_HASHED = (
  *('data_dir', 'cache_dir', 'threads', 'workers', 'log_every', 'workdir'),
  'seed',
)
# Keys that may hold a path of this machine.
_PATHS = ('weights', 'init', 'exclude')
_PATH = re.compile(r'^[/~.]|^[^@].*/.*/|\.(safetensors|pth|npz|csv|txt)$')

_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError)
_DAMAGE += (ArithmeticError,)


class Seed(NamedTuple):
  """One run of a row, trained and scored.

  Attributes:
    path: folder of the run.
    config: the config as plain dicts.
    stages: result.json of each of them.
    scores: folder of the evaluation.
    summary: summary.json; its tests by name of reference or control.
  """

  path: pathlib.Path
  config: Mapping[str, Any]
  stages: Sequence[Mapping[str, Any]]
  scores: pathlib.Path
  summary: Mapping[str, Any]


class NotThere(Exception):
  """A run that has no scores; the message says how far it got."""


class Diverged(NotThere):
  """A run whose loss became no number: a result, not a run to be trained."""


def read_metrics(path: str | os.PathLike) -> dict[str, list[tuple[int, float]]]:
  """Reads the (step, value) pairs of every name in a metrics.jsonl.

  A line that is cut short or damaged is left out, and so is a value of null; a
  file that cannot be read has no pairs.
  """
  series: dict[str, list[tuple[int, float]]] = {}
  try:
    text = paths.path(path).read_text(encoding='utf-8', errors='replace')
  except OSError:
    return series
  for line in text.splitlines():
    try:
      row = json.loads(line)
      step = int(row.pop('step'))
      pairs = {k: float(v) for k, v in row.items() if type(v) in (int, float)}
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError):
      continue
    for name, value in pairs.items():
      if math.isfinite(value):
        series.setdefault(name, []).append((step, value))
  return series


def _numbers(node: Any, where: str, keys: Sequence[str]) -> None:
  """Raises ValueError if a value is neither a number nor null."""
  for key in keys:
    value = node[key]
    if value is not None and type(value) not in (int, float):
      raise ValueError(f'{where}/{key} is no number but {value!r:.40}')
    float(value or 0)  # an error for what is beyond the range of numbers


def _checked(summary: Mapping[str, Any]) -> dict[str, Any]:
  """Checks that every part of a summary is as evaluation writes it."""
  for name, about in summary['protocols'].items():
    for key, info in about['metrics'].items():
      if type(info['higher_is_better']) is not bool:
        raise ValueError(f'{name}/{key}/higher_is_better is no truth value')
      if type(info.get('label', key)) is not str:
        raise ValueError(f'{name}/{key}/label is no text')
  labels = {}
  for where, part in {('', 'model'): summary, **parts(summary)}.items():
    for condition, entries in part['scores']['conditions'].items():
      for key, entry in entries.items():
        path = '/'.join([*filter(None, where), condition, key])
        _numbers(entry, path, ('mean', 'low', 'high', 'n', 'n_valid'))
        for count in ('n', 'n_valid'):
          if type(entry[count]) is not int:
            raise ValueError(f'{path}/{count} is no whole number')
    if where[0]:
      labels[str(part['label'])] = where[1]
  tests = {}
  for name, test in summary['tests'].items():
    # Earlier summaries have a sentence, 'model − reference', as key.
    tests[labels.get(name.rpartition(' − ')[2], name)] = test
    for condition, entries in test.items():
      for key, entry in entries.items():
        path = f'tests/{name}/{condition}/{key}'
        _numbers(entry, path, ('difference', 'low', 'high', 'p', 'n'))
  texts = {k: str(summary.get(k) or '') for k in ('data', 'split')}
  return dict(summary, tests=tests, **texts)


def parts(summary: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
  """Lists what stands beside the model, by (kind, name)."""
  return {
    (kind, name): part
    for kind in ('references', 'controls')
    for name, part in summary.get(kind, {}).items()
  }


def broken(file: pathlib.Path, error: Exception) -> NotThere:
  """Says what is wrong with a file that cannot be used."""
  if isinstance(error, OSError):
    return NotThere(f'{file} cannot be read ({error.strerror})')
  cause = str(error).removeprefix(f'{file}: ').rstrip('.')
  if not isinstance(error, ValueError):
    cause += ' is missing or not as written'
  return NotThere(f'{file} is broken ({cause}): remove it')


def read_table(file: pathlib.Path) -> 'pd.DataFrame':
  """Reads a per_image*.csv; NotThere says what is wrong with it."""
  try:
    return rows_lib.read_table(file)
  except (OSError, ValueError) as e:
    raise broken(file, e) from e


def read_seed(path: pathlib.Path, test: str) -> Seed:
  """Reads one run with its scores.

  Args:
    path: folder of the run.
    test: name of the evaluation.

  Raises:
    NotThere: it is unfinished, not scored, or a file of it is broken.
  """
  scores = path / 'evaluate' / test
  file = path / 'config.json'
  try:
    if not file.is_file():
      raise NotThere('not begun, no config.json')
    config, stages = files.read_json(file), []
    names = dict(config).get('stages')
    named = isinstance(names, list) and all(type(n) is str for n in names)
    if not names or not named:
      raise ValueError('it has no stages')
    for name in names:
      file = path / name / 'diverged.json'
      if file.is_file():
        message = files.read_json(file).get('message', '')
        raise Diverged(f'diverged. {message}'.strip())
      file = path / name / 'result.json'
      if not file.is_file():
        series = read_metrics(path / name / 'metrics.jsonl').values()
        last = max((pairs[-1][0] for pairs in series), default=0)
        raise NotThere(f'unfinished, stage {name} at step {last}')
      stages.append(files.read_json(file))
      costs = ('seconds', 'peak_memory_mb', 'trainable_parameters')
      _numbers(stages[-1], name, [k for k in costs if k in stages[-1]])
    file = scores / 'summary.json'
    if not file.is_file():
      raise NotThere(f'trained, but not scored: no {file.relative_to(path)}')
    return Seed(path, config, stages, scores, _checked(files.read_json(file)))
  except _DAMAGE as e:
    raise broken(file, e) from e


def config_hash(config: Mapping[str, Any]) -> str:
  """Names a config by ten digits, wherever and with whatever seed."""

  def bare(node, key=''):
    if isinstance(node, Mapping):
      return {k: bare(v, k) for k, v in node.items() if k not in _NOT_HASHED}
    if isinstance(node, list | tuple):
      return [bare(v) for v in node]
    if key in _PATHS and isinstance(node, str) and _PATH.search(node):
      return os.path.basename(node) if key != 'init' else ''
    return node

  text = json.dumps(bare(config), sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()[:10]
