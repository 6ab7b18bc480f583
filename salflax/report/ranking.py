"""Ranks of the rows of one table, and differences between them.

Everything is of pictures that all rows have scored, averaged over seeds, with
the sign turned so that more is better. Needs no accelerator.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from salflax.evaluate import rows as rows_lib
from salflax.evaluate.rows import Row as Scored
from salflax.report import findings
from salflax.report.paper import Paper, Table


class Scores(NamedTuple):
  """Scores of one metric; more is better.

  Attributes:
    values: f64 [rows, pictures], averaged over seeds.
    seeds: one such array for each seed that every row has.
    pictures: their names, [pictures].
  """

  values: np.ndarray
  seeds: Sequence[np.ndarray]
  pictures: Sequence[str]


def ranks(scores: np.ndarray) -> np.ndarray:
  """Returns f64 [rows]: 1 for the largest score; equal ones share a rank."""
  from scipy import stats

  return stats.rankdata(-np.asarray(scores, np.float64))


def _matrix(rows: Sequence[Sequence[Scored]], key: str, sign: int):
  """Returns scores [rows, pictures] of what all have, and the pictures."""
  each = [
    {p: sign * r[key] for p, r in rows_lib.by_place(of).items() if key in r}
    for of in rows
  ]
  shared = [
    p for p in each[0] if all(np.isfinite(e.get(p, np.nan)) for e in each)
  ]
  return np.array([[e[p] for p in shared] for e in each]), shared


class Ranking:
  """Scores of a table's rows by metric, read once.

  Args:
    paper: as declared.
    table: of it.
    runs: of the paper.
  """

  def __init__(self, paper: Paper, table: Table, runs: findings.Runs):
    self.paper, self.table, self.runs = paper, table, runs
    done = {row: runs.seeds(row.place)[0] for row in table.rows if row.place}
    self.rows = [row for row, seeds in done.items() if seeds]
    named = [{s.path.name for s in done[row]} for row in self.rows]
    self.seeds = sorted(set.intersection(*named)) if named else []
    self._signs = self._directions(done)
    self.scores = functools.cache(self._scores)

  def _directions(self, done):
    signs = {}
    for row in self.rows:
      for name, about in done[row][0].summary['protocols'].items():
        for key, info in about['metrics'].items():
          signs[f'{name}/{key}'] = 1 if info['higher_is_better'] else -1
    return signs

  @functools.cached_property
  def _mean(self):
    return [self.runs.rows(r.place, r.condition) for r in self.rows]

  def metrics(self) -> dict[str, str]:
    """Returns the keys that are scored by their printed names."""
    return {n: k for n, k in self.paper.metrics.items() if k in self._signs}

  def sign(self, name: str) -> int:
    """Returns 1 where more of a metric is better, else -1."""
    return self._signs[self.paper.metrics[name]]

  def folders(self) -> list[str]:
    """Returns the folders of the rows that are scored."""
    return [row.place.folder for row in self.rows]

  def _scores(self, name: str) -> Scores:
    """Returns the scores of all rows under a metric's printed name."""
    key, sign = self.paper.metrics[name], self.sign(name)
    values, shared = _matrix(self._mean, key, sign)
    each = []
    for seed in self.seeds:
      rows = [
        self.runs.rows_of_seed(r.place, r.condition, seed) for r in self.rows
      ]
      found, own = _matrix(rows, key, sign)
      take = {p: k for k, p in enumerate(own)}
      each.append(found[:, [take[p] for p in shared]])
    return Scores(values, each, [p[0] for p in shared])

  def printed(self, name: str) -> np.ndarray:
    """Returns the printed values, f64 [rows], more is better; NaN for none."""
    found = [self.paper.printed(self.table, row).get(name) for row in self.rows]
    return self.sign(name) * np.array(found, np.float64)


def both_ranks(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
  """Returns our and the printed ranks, f64 [rows, metrics]; NaN for none."""
  ours, theirs = [], []
  for name in ranking.metrics():
    printed = ranking.printed(name)
    there, known = np.full(len(printed), np.nan), np.isfinite(printed)
    there[known] = ranks(printed[known])
    ours.append(ranks(ranking.scores(name).values.mean(1)))
    theirs.append(there)
  return np.transpose(ours), np.transpose(theirs)


def spearman(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
  """Returns Spearman's correlation, and its two-sided p; NaN if one is flat."""
  from scipy import stats

  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return float('nan'), float('nan')
  found = stats.spearmanr(a, b)
  return float(found.statistic), float(found.pvalue)


def differences(
  scores: Scores, ours: Sequence[int], theirs: Sequence[int], *, best: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Returns what one side has above the other on each picture.

  Args:
    scores: of all rows.
    ours: rows of the one side.
    theirs: rows of the other.
    best: of each side the row with the best mean, not the mean of its rows. It
      is picked on the other half of the pictures, for picking on the same ones
      favours the side with more rows.

  Returns:
    f64 [pictures] averaged over seeds, and the same of each seed.
  """
  half = np.arange(scores.values.shape[1]) % 2

  def side(values, rows):
    rows = list(rows)
    if not best:
      return values[rows].mean(0)
    out = np.empty(values.shape[1])
    for k in (0, 1):
      pick = rows[int(np.argmax(scores.values[rows][:, half != k].mean(1)))]
      out[half == k] = values[pick, half == k]
    return out

  gaps = [
    side(v, ours) - side(v, theirs) for v in (scores.values, *scores.seeds)
  ]
  return gaps[0], gaps[1:]
