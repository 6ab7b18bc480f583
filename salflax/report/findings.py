"""What the runs of a paper found: scores over seeds, paired tests, what lacks.

Everything comes from the files that training and evaluation wrote; needs no
accelerator. One seed's intervals and tests are those of its summary.json; over
several seeds they are taken again, of each picture's mean score.
"""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salflax.evaluate import rows as rows_lib
from salflax.evaluate.rows import Row as Scored
from salflax.report import runs as runs_lib
from salflax.report.found import Found
from salflax.report.paper import Paper, Place, Row, Table
from salflax.report.runs import Seed

_SHOWN = 3  # sentences at either end


def _made(seeds: Sequence[Seed]) -> dict[str, Any]:
  hashes = dict.fromkeys(runs_lib.config_hash(s.config) for s in seeds)

  def numbers(key):
    return [[r[key] for r in s.stages if r.get(key) is not None] for s in seeds]

  spent = [sum(found) for found in numbers('seconds') if found]
  memory = [max(found) for found in numbers('peak_memory_mb') if found]
  trains = [found[-1] for found in numbers('trainable_parameters') if found]
  return {
    'config': ', '.join(hashes) or None,
    'trains': f'{trains[0]:,}' if trains else None,
    'seconds': float(np.mean(spent)) if spent else None,
    'memory': float(max(memory)) if memory else None,
  }


def mean_rows(runs: Sequence[Sequence[Scored]]) -> list[Scored]:
  """Returns rows with the mean score over runs, of what all runs scored.

  Args:
    runs: rows of each seed. A score that one of them lacks is NaN.
  """
  first, *rest = map(rows_lib.by_place, runs)
  keys = rows_lib.metric_keys(runs[0])
  averaged = []
  for place, row in first.items():
    same = [row, *(other[place] for other in rest if place in other)]
    if len(same) == len(runs):
      scores = {
        k: float(np.mean([r.get(k, np.nan) for r in same])) for k in keys
      }
      averaged.append(dict(row, **scores))
  return averaged


class Runs:
  """The runs of a paper in a folder.

  Args:
    paper: as declared.
    folder: of all of them.
  """

  def __init__(self, paper: Paper, folder: str | os.PathLike):
    self.paper, self.folder = paper, pathlib.Path(folder)
    self._known: dict[Place, tuple[list[Seed], list[str]]] = {}
    self._rows = functools.cache(runs_lib.read_rows)

  def seeds(self, place: Place) -> tuple[list[Seed], list[str]]:
    """Returns what is scored there, and a sentence on each that is not."""
    if place not in self._known:
      self._known[place] = self._read(place)
    return self._known[place]

  def _read(self, place):
    order = lambda p: (len(p.name), p.name)
    paths = sorted((self.folder / place.folder).glob('seed*'), key=order)
    done, notes = [], []
    mend = f'`{self.paper.command(place.folder)}`'
    if not paths:
      notes.append(f'no run in {self.folder / place.folder}; {mend}')
    for path in paths:
      try:
        seed = runs_lib.read_seed(path, place.test)
        for name in (
          '',
          *(f'_{name}' for _, name in runs_lib.parts(seed.summary)),
        ):
          self._rows(seed.scores / f'per_image{name}.csv')
        done.append(seed)
      except runs_lib.Diverged as e:
        notes.append(f'{path.name}: {e}')
      except runs_lib.NotThere as e:
        notes.append(f'{path.name}: {e}; {mend}')
    return done, notes

  def rows(self, place: Place, condition: str, name: str = '') -> list[Scored]:
    """Returns scores of each picture, meaned over seeds, in one condition.

    Args:
      place: of the scores.
      condition: which of them.
      name: of a reference or control; '' is the model.
    """
    suffix = f'_{name}' if name else ''
    every = [
      self._rows(s.scores / f'per_image{suffix}.csv')
      for s in self.seeds(place)[0]
    ]
    kept = [[r for r in rows if r['condition'] == condition] for rows in every]
    return mean_rows(kept) if kept else []

  def rows_of_seed(
    self, place: Place, condition: str, seed: str
  ) -> list[Scored]:
    """Returns scores of each picture of one seed, in one condition.

    Args:
      place: of the scores.
      condition: which of them.
      seed: name of its folder.
    """
    rows = self._rows(
      self.folder
      / place.folder
      / seed
      / 'evaluate'
      / place.test
      / 'per_image.csv'
    )
    return [r for r in rows if r['condition'] == condition]

  def _entries(self, row, part, name=''):
    """Means with intervals of the model, or of what stands beside it."""
    if len(self.seeds(row.place)[0]) == 1:
      return part['scores']['conditions'].get(row.condition, {})
    rows = self.rows(row.place, row.condition, name)
    # Intervals are shown of the model alone, and take time.
    return _means(rows) if name else rows_lib.entries(rows)

  def _test(self, row, kind, name, label):
    """Paired test of the model against what stands beside it."""
    done, _ = self.seeds(row.place)
    if len(done) > 1:
      return self._compared(row, row.place, name)
    ours = 'Right sentence' if kind == 'controls' else done[0].summary['model']
    tests = done[0].summary['tests'].get(f'{ours} − {label}', {})
    return tests.get(row.condition, {})

  def _compared(self, row, place, name=''):
    ours = self.rows(row.place, row.condition)
    theirs = self.rows(place, row.condition, name)
    return rows_lib.compare(ours, theirs).get(row.condition, {})

  def elsewhere(self, table: Table) -> list[Row]:
    """Returns rows for the data sets that its folders are tested on, too."""
    known = {row.place for row in table.rows}
    folders = dict.fromkeys(r.place.folder for r in table.rows if r.place)
    there, tests = {}, {}
    for folder in folders if table.elsewhere else ():
      for path in self.folder.glob(f'{folder}/seed*/evaluate'):
        for test in sorted(path.glob(table.elsewhere)):
          place = Place(folder, test.name)
          if place not in known:
            there.setdefault(place, None)
            tests.setdefault(test.name, place)
    labels = {
      r.place.folder: r.label.split()[-1] for r in table.rows if r.place
    }
    return [
      Row(
        f'{place.test.rpartition("-")[0]} {labels[place.folder]}',
        place,
        table.rows[0].condition,
        against=tests[place.test],
      )
      for place in sorted(
        there, key=lambda p: (p.test, [*folders].index(p.folder))
      )
    ]

  def find(self, row: Row, table: Table) -> Found:
    """Returns what there is for a row of a table."""
    if row.place is None:
      return Found(row)
    done, notes = self.seeds(row.place)
    if not done:
      return Found(row, notes=notes)
    summary, made = done[0].summary, _made(done)
    for seed in done:
      there = seed.summary['scores']['conditions']
      if row.condition not in there:
        note = f'{seed.scores} has no condition {row.condition!r}: {[*there]}.'
        return Found(row, notes=[*notes, note], made=made)
    beside, tests = {'references': {}, 'controls': {}}, {}
    against = row.against or table.against
    if against not in (None, row.place):
      label = self.paper.label(against, row.condition, inside=table)
      tests[f'{row.label} − {label}'] = self._compared(row, against)
    shared = set.intersection(*(set(runs_lib.parts(s.summary)) for s in done))
    for (kind, name), part in runs_lib.parts(summary).items():
      if (kind, name) in shared:
        label = part['label']
        beside[kind][label] = self._entries(row, part, name)
        said = f'{row.label} − {label}'
        if kind == 'controls':
          said = f'{row.label}: right − {label.lower()}'
        tests[said] = self._test(row, kind, name, label)
    return Found(
      row,
      seeds=[s.path.name.removeprefix('seed') for s in done],
      model=self._entries(row, summary),
      spread=_spread(row, done),
      **{kind: _not_empty(entries) for kind, entries in beside.items()},
      tests=_not_empty(tests),
      protocols=summary['protocols'],
      sentences=self._sentences(row),
      notes=[*notes, *self._unequal(row), *_other_data(table, summary)],
      made=made,
      files=runs_lib.figures_and_logs(done[0]),
    )

  def _unequal(self, row):
    done, _ = self.seeds(row.place)
    entries = [s.summary['scores']['conditions'][row.condition] for s in done]
    counts = {
      max((e['n'] for e in each.values()), default=0) for each in entries
    }
    if len(counts) < 2:
      return []
    return [f'its seeds scored {sorted(counts)} rows; those of all are meaned.']

  def _sentences(self, row):
    done, _ = self.seeds(row.place)
    if 'wrong' not in done[0].summary.get('controls', {}):
      return []
    key = self.paper.headline
    wrong = rows_lib.by_place(self.rows(row.place, row.condition, 'wrong'))
    found = [
      (r['image_id'], r['text'], r[key], wrong[place][key])
      for place, r in rows_lib.by_place(
        self.rows(row.place, row.condition)
      ).items()
      if place in wrong and key in r and np.isfinite(r[key] - wrong[place][key])
    ]
    found.sort(key=lambda f: f[3] - f[2])
    return (
      found if len(found) <= 2 * _SHOWN else found[:_SHOWN] + found[-_SHOWN:]
    )


def _other_data(table: Table, summary: Mapping[str, Any]) -> list[str]:
  data = summary.get('data') or ''
  if not data or data.startswith(table.data):
    return []
  where = f'{data} {summary.get("split", "")}'.strip()
  return [f'ours is of {where}, the printed one of {table.data}.']


def _means(rows: Sequence[Scored]) -> dict[str, dict[str, Any]]:
  """Returns what `results.entries` does, without intervals."""
  found = {}
  for key in rows_lib.metric_keys(rows):
    known = [r[key] for r in rows if not np.isnan(r[key])]
    mean = float(np.mean(known)) if known else None
    counts = {'n': len(rows), 'n_valid': len(known)}
    found[key] = {'mean': mean, 'low': None, 'high': None} | counts
  return found


def _not_empty(found: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in found.items() if v}


def _spread(row: Row, done: Sequence[Seed]) -> dict[str, float]:
  """Returns the deviation over seeds of each metric's mean."""
  if len(done) < 2:
    return {}
  every = [s.summary['scores']['conditions'][row.condition] for s in done]
  means = {k: [e.get(k, {}).get('mean') for e in every] for k in every[0]}
  return {
    k: float(np.std(found, ddof=1))
    for k, found in means.items()
    if None not in found
  }
