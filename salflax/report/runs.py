"""The files of one run, as training and evaluation wrote them.

Needs no accelerator, and no checkpoint: what a report is made of.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from salflax.evaluate import rows
from salflax.report import plots

# Keys of a config that say where and how fast, and the seed, which says which.
_NOT_HASHED = (
  *('data_dir', 'cache_dir', 'threads', 'workers', 'log_every', 'workdir'),
  'seed',
)
# Keys that may hold a path of this machine.
_PATHS = ('weights', 'init', 'exclude')
_PATH = re.compile(r'^[/~.]|^[^@].*/.*/|\.(safetensors|pth|npz|csv|txt)$')


class Seed(NamedTuple):
  """One run of a row, trained and scored.

  Attributes:
    path: folder of the run.
    config: as plain dicts.
    stages: result.json of each of them.
    scores: folder of the evaluation.
    summary: summary.json.
  """

  path: pathlib.Path
  config: Mapping[str, Any]
  stages: Sequence[Mapping[str, Any]]
  scores: pathlib.Path
  summary: Mapping[str, Any]


class NotThere(Exception):
  """A run that has no scores; the message says how far it got."""


class Diverged(NotThere):
  """A run whose loss became no number: a result, not a run to be made."""


def _json(path: pathlib.Path) -> Any:
  try:
    with open(path, encoding='utf-8') as f:
      found = json.load(f)
  except ValueError as e:
    raise NotThere(f'{path} is broken ({e}): remove it') from e
  except OSError as e:
    raise NotThere(f'{path} cannot be read ({e.strerror})') from e
  if not isinstance(found, dict):
    raise NotThere(f'{path} is broken (it holds no keys): remove it')
  return found


def read_rows(path: pathlib.Path) -> list[rows.Row]:
  """Returns the rows of a per_image*.csv, or raises NotThere."""
  try:
    return rows.read_rows(path)
  except (ValueError, TypeError) as e:
    raise NotThere(f'{path} is broken ({e}): remove it') from e
  except OSError as e:
    raise NotThere(f'{path} cannot be read ({e.strerror})') from e


def _progress(path: pathlib.Path, name: str) -> str:
  log = path / name / 'metrics.jsonl'
  series = plots.read_metrics(log) if log.is_file() else {}
  last = max((pairs[-1][0] for pairs in series.values()), default=0)
  return f'unfinished, stage {name} at step {last}'


def read_seed(path: pathlib.Path, test: str) -> Seed:
  """Returns one run with its scores.

  Args:
    path: folder of the run.
    test: of the evaluation.

  Raises:
    NotThere: it is unfinished, not scored, or a file of it is broken.
  """
  if not (path / 'config.json').is_file():
    raise NotThere('not begun, no config.json')
  config, stages = _json(path / 'config.json'), []
  names = dict(config).get('stages')
  if not names or not isinstance(names, list):
    raise NotThere(
      f'{path / "config.json"} is broken (it has no stages): remove it'
    )
  for name in names:
    if (path / name / 'diverged.json').is_file():
      found = _json(path / name / 'diverged.json')
      raise Diverged(f'diverged. {found.get("message", "")}'.strip())
    if not (path / name / 'result.json').is_file():
      raise NotThere(_progress(path, name))
    stages.append(_json(path / name / 'result.json'))
  scores = path / 'evaluate' / test
  if not (scores / 'summary.json').is_file():
    raise NotThere(f'trained, but not scored: no evaluate/{test}/summary.json')
  summary = _json(scores / 'summary.json')
  try:
    for key in ('protocols', 'tests'):
      summary[key].items()
    for part in (summary, *parts(summary).values()):
      part['scores']['conditions'].items()
  except (KeyError, TypeError, AttributeError) as e:
    broken = scores / 'summary.json'
    raise NotThere(
      f'{broken} is broken ({e} is missing or not as written): remove it'
    ) from e
  return Seed(path, config, stages, scores, summary)


def parts(summary: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
  """Returns what stands beside the model, by (kind, name)."""
  return {
    (kind, name): part
    for kind in ('references', 'controls')
    for name, part in summary.get(kind, {}).items()
  }


def config_hash(config: Mapping[str, Any]) -> str:
  """Returns ten digits that name a config, wherever and with whatever seed."""

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


def figures_and_logs(seed: Seed) -> dict[str, pathlib.Path]:
  """Returns the figures of a run and its logs that are there."""
  names = [f'{stage}/curves.png' for stage in seed.config['stages']]
  names += [f'{stage}/metrics.jsonl' for stage in seed.config['stages']]
  folder = seed.scores.relative_to(seed.path).as_posix()
  for name in ('conditions', 'sentences', 'difference', 'centre_bias'):
    names.append(f'{folder}/{name}.png')
  return {n: seed.path / n for n in names if (seed.path / n).is_file()}
