"""What the runs of a paper hold for each row: scores over seeds, paired tests.

One seed's intervals and tests are those of its summary.json; over several seeds
they are taken again, of each image's mean score.
"""

import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from salflax.evaluate import rows as rows_lib
from salflax.report import runs as runs_lib
from salflax.report.papers.paper import Paper, Place, Row, Table

if TYPE_CHECKING:
  import pandas as pd

_SENTENCES = 3  # at either end

Entries = Mapping[str, Mapping[str, Any]]


class Result(NamedTuple):
  """What the runs of one row hold; empty where there is none.

  Attributes:
    row: row as declared.
    seeds: names of the seeds that are scored.
    model: mean, low, high, n, n_valid by '<protocol>/<metric>', of scores that
      are averaged over seeds for each image; `spread`, the standard deviation
      over seeds, where there are two or more.
    references: mean, n, n_valid, by label of the predictor.
    controls: mean, n, n_valid, by label of the sentence.
    tests: difference, low, high, p, n by metric, by what is compared.
    protocols: protocols by name, as in summary.json.
    sentences: (image, sentence, right, wrong) of the largest and smallest
      differences.
    notes: why something is not there, and what makes it.
    cost: config, trains, seconds and memory, as far as they are written.
    files: paths of figures and logs of the first seed, by their name.
  """

  row: Row
  seeds: Sequence[str] = ()
  model: Entries = {}
  references: Mapping[str, Entries] = {}
  controls: Mapping[str, Entries] = {}
  tests: Mapping[str, Entries] = {}
  protocols: Mapping[str, Any] = {}
  sentences: Sequence[tuple[str, str, float, float]] = ()
  notes: Sequence[str] = ()
  cost: Mapping[str, Any] = {}
  files: Mapping[str, pathlib.Path] = {}


def _cost(seeds: Sequence[runs_lib.Seed]) -> dict[str, Any]:
  def over_stages(key, join):
    each = [[s[key] for s in d.stages if s.get(key) is not None] for d in seeds]
    return [join(numbers) for numbers in each if numbers]

  seconds = over_stages('seconds', sum)
  trains = over_stages('trainable_parameters', lambda numbers: numbers[-1])
  hashes = dict.fromkeys(runs_lib.config_hash(s.config) for s in seeds)
  return {
    'config': ', '.join(hashes),
    'trains': f'{trains[0]:,}' if trains else None,
    'seconds': float(np.mean(seconds)) if seconds else None,
    'memory': max(map(float, over_stages('peak_memory_mb', max)), default=None),
  }


def _files(seed: runs_lib.Seed) -> dict[str, pathlib.Path]:
  """Lists the figures and logs of a run that are there."""
  names = [f'{stage}/curves.png' for stage in seed.config['stages']]
  names += [f'{stage}/metrics.jsonl' for stage in seed.config['stages']]
  folder = seed.scores.relative_to(seed.path).as_posix()
  for name in ('conditions', 'sentences', 'difference', 'centre_bias'):
    names.append(f'{folder}/{name}.png')
  return {n: seed.path / n for n in names if (seed.path / n).is_file()}


def mean_rows(tables: Sequence['pd.DataFrame']) -> 'pd.DataFrame':
  """Averages the scores of several seeds, of what all seeds scored.

  A score that one of them lacks is NaN.
  """
  first, *rest = rows_lib.paired(*tables)
  keys = rows_lib.metric_keys(first)
  each = [t.reindex(columns=keys).to_numpy(float) for t in (first, *rest)]
  return first.assign(**dict(zip(keys, np.mean(each, axis=0).T)))


def _scores(seed: runs_lib.Seed, name: str) -> pathlib.Path:
  """Names the file of the model's scores, or of what stands beside it."""
  return seed.scores / (f'per_image_{name}.csv' if name else 'per_image.csv')


class Runs:
  """The runs of a paper in a folder.

  Args:
    paper: paper as declared.
    folder: parent of all runs.
  """

  def __init__(self, paper: Paper, folder: str | os.PathLike):
    self.paper, self.folder = paper, pathlib.Path(folder)
    self.seeds = functools.cache(self._seeds)
    self._table = functools.cache(runs_lib.read_table)

  def _seeds(self, place: Place) -> tuple[list[runs_lib.Seed], list[str]]:
    """Reads what is scored there, and a sentence on each run that is not."""
    order = lambda p: (len(p.name), p.name)
    paths = sorted((self.folder / place.folder).glob('seed*'), key=order)
    done, notes = [], []
    mend = f'`{self.paper.command(place.folder)}`'
    if not paths:
      notes.append(f'no run in {self.folder / place.folder}; {mend}')
    for path in paths:
      try:
        seed = runs_lib.read_seed(path, place.test)
        for name in ('', *(name for _, name in runs_lib.parts(seed.summary))):
          self._table(_scores(seed, name))
        done.append(seed)
      except runs_lib.Diverged as e:
        notes.append(f'{path.name}: {e}')
      except runs_lib.NotThere as e:
        notes.append(f'{path.name}: {e}; {mend}')
    return done, notes

  def rows(
    self, place: Place, condition: str, name: str = '', *, seed: str = ''
  ) -> 'pd.DataFrame':
    """Reads scores of each image in one condition, averaged over seeds.

    Args:
      place: place of the scores.
      condition: condition of the rows.
      name: name of a reference or control; '' is the model.
      seed: folder of one seed; '' averages over all.
    """
    tables = [
      self._table(_scores(s, name))
      for s in self.seeds(place)[0]
      if seed in ('', s.path.name)
    ]
    tables = [t[t['condition'] == condition] for t in tables]
    return mean_rows(tables) if tables else rows_lib.table([])

  def elsewhere(self, table: Table) -> list[Row]:
    """Lists rows for the data sets that its folders are tested on, too."""
    if not table.elsewhere:
      return []
    declared = {row.place for row in table.rows}
    labels = {
      r.place.folder: r.label.split()[-1] for r in table.rows if r.place
    }
    tests: dict[str, dict[Place, None]] = {}
    for folder in labels:
      for path in sorted(
        self.folder.glob(f'{folder}/seed*/evaluate/{table.elsewhere}')
      ):
        if (place := Place(folder, path.name)) not in declared:
          tests.setdefault(path.name, {})[place] = None
    return [
      Row(
        f'{test.rpartition("-")[0]} {labels[place.folder]}',
        place,
        table.rows[0].condition,
        against=next(iter(places)),
      )
      for test, places in sorted(tests.items())
      for place in places
    ]

  def find(self, row: Row, table: Table) -> Result:
    """Reads what there is for a row of a table."""
    if row.place is None:
      return Result(row)
    done, notes = self.seeds(row.place)
    if not done:
      return Result(row, notes=notes)
    cost = _cost(done)
    for seed in done:
      conditions = [*seed.summary['scores']['conditions']]
      if row.condition not in conditions:
        note = (
          f'{seed.scores} has no condition {row.condition!r}: {conditions}.'
        )
        return Result(row, notes=[*notes, note], cost=cost)
    summary = done[0].summary
    beside, tests = {'references': {}, 'controls': {}}, {}
    against = row.against or table.against
    if against not in (None, row.place):
      label = self.paper.label(against, row.condition, inside=table)
      tests[f'{row.label} − {label}'] = self._compare(row, against)
    shared = set.intersection(*(set(runs_lib.parts(s.summary)) for s in done))
    for kind, name in [key for key in runs_lib.parts(summary) if key in shared]:
      part = summary[kind][name]
      label = str(part['label'])
      beside[kind][label] = self._means(row, part, name)
      compared = f'{row.label} − {label}'
      if kind == 'controls':
        compared = f'{row.label}: right − {label.lower()}'
      tests[compared] = (
        self._compare(row, row.place, name)
        if len(done) > 1
        else summary['tests'].get(name, {}).get(row.condition, {})
      )
    return Result(
      row,
      seeds=[s.path.name.removeprefix('seed') for s in done],
      model=self._model(row, done),
      **{k: {n: e for n, e in v.items() if e} for k, v in beside.items()},
      tests={name: test for name, test in tests.items() if test},
      protocols=summary['protocols'],
      sentences=self._extremes(row) if ('controls', 'wrong') in shared else [],
      notes=[*notes, *_differences(row, table, done)],
      cost=cost,
      files=_files(done[0]),
    )

  def _model(self, row, done):
    """Means with intervals of the model, and their spread over seeds."""
    each = [s.summary['scores']['conditions'][row.condition] for s in done]
    if len(done) == 1:
      return each[0]
    entries = rows_lib.entries(self.rows(row.place, row.condition))
    for key, entry in entries.items():
      means = [e.get(key, {}).get('mean') for e in each]
      if None not in means:
        entry['spread'] = float(np.std(means, ddof=1))
    return entries

  def _means(self, row, part, name):
    """Means of a reference or control."""
    if len(self.seeds(row.place)[0]) == 1:
      entries = part['scores']['conditions'].get(row.condition, {})
      keys = ('mean', 'n', 'n_valid')
      return {k: {key: e[key] for key in keys} for k, e in entries.items()}
    rows = self.rows(row.place, row.condition, name)
    return {
      key: {
        'mean': float(rows[key].mean()),
        'n': len(rows),
        'n_valid': int(rows[key].notna().sum()),
      }
      for key in (rows_lib.metric_keys(rows) if len(rows) else ())
    }

  def _compare(self, row, place, name=''):
    ours = self.rows(row.place, row.condition)
    theirs = self.rows(place, row.condition, name)
    return rows_lib.compare(ours, theirs).get(row.condition, {})

  def _extremes(self, row):
    """Sentences that change the headline most, and least."""
    key = self.paper.headline
    right, wrong = rows_lib.paired(
      self.rows(row.place, row.condition),
      self.rows(row.place, row.condition, 'wrong'),
    )
    if key not in right or key not in wrong:
      return []
    both = right.assign(wrong=wrong[key], gain=right[key] - wrong[key])
    both = both[np.isfinite(both['gain'])]
    both = both.sort_values('gain', ascending=False, kind='stable')
    if len(both) > 2 * _SENTENCES:
      both = both.iloc[[*range(_SENTENCES), *range(-_SENTENCES, 0)]]
    columns = ['image_id', 'text', key, 'wrong']
    return list(both[columns].itertuples(index=False, name=None))


def _differences(
  row: Row, table: Table, done: Sequence[runs_lib.Seed]
) -> list[str]:
  """Says what makes seeds, or ours and the printed numbers, unlike."""
  notes = []
  each = [s.summary['scores']['conditions'][row.condition] for s in done]
  counts = {max((e['n'] for e in es.values()), default=0) for es in each}
  if len(counts) > 1:
    notes.append(
      f'its seeds scored {sorted(counts)} rows; those of all are averaged.'
    )
  data, split = (done[0].summary[key] for key in ('data', 'split'))
  if data and not data.startswith(table.data):
    where = f'{data} {split}'.strip()
    notes.append(f'ours is of {where}, the printed one of {table.data}.')
  return notes
