"""Scores of the rows of one table, their ranks, and differences between them.

Scores are of images that all rows have scored, averaged over seeds, with the
sign turned so that more is better.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from salflax.evaluate import rows as rows_lib
from salflax.report.papers.paper import Paper, Table
from salflax.report.results import Runs


class Scores(NamedTuple):
  """Scores of one metric; more is better.

  Attributes:
    values: f64 [rows, images], averaged over seeds.
    seeds: one such array for each seed that every row has.
    images: number of each image, i64 [images].
  """

  values: np.ndarray
  seeds: Sequence[np.ndarray]
  images: np.ndarray


def ranks(scores: np.ndarray) -> np.ndarray:
  """Ranks scores, f64 [rows]: 1 for the largest; equal ones share a rank."""
  from scipy import stats

  return stats.rankdata(-np.asarray(scores, np.float64))


class Ranking:
  """Scores of a table's rows by metric, read once.

  Args:
    paper: paper as declared.
    table: one of its tables.
    runs: runs of the paper.
  """

  def __init__(self, paper: Paper, table: Table, runs: Runs):
    self.paper, self.table, self.runs = paper, table, runs
    self.rows, done = [], []
    for row in table.rows:
      if row.place and (seeds := runs.seeds(row.place)[0]):
        self.rows.append(row)
        done.append(seeds)
    self.folders = [row.place.folder for row in self.rows]
    named = [{s.path.name for s in seeds} for seeds in done]
    self.seeds = sorted(set.intersection(*named)) if named else []
    self._signs = {
      f'{name}/{key}': 1 if info['higher_is_better'] else -1
      for seeds in done
      for name, about in seeds[0].summary['protocols'].items()
      for key, info in about['metrics'].items()
    }
    self._tables = functools.cache(self._read)
    self.scores = functools.cache(self._scores)

  def _read(self, seed):
    """Scores of the rows on what all of them have, of one seed or of all."""
    return rows_lib.paired(
      *(self.runs.rows(r.place, r.condition, seed=seed) for r in self.rows)
    )

  def metrics(self) -> dict[str, str]:
    """Lists the keys that are scored by their printed names."""
    return {n: k for n, k in self.paper.metrics.items() if k in self._signs}

  def _sign(self, name):
    return self._signs[self.paper.metrics[name]]

  def _scores(self, name: str) -> Scores:
    """Reads the scores of all rows under a metric's printed name."""
    key = self.paper.metrics[name]

    def values_of(tables):
      columns = [t.reindex(columns=[key]).to_numpy(float) for t in tables]
      return self._sign(name) * np.hstack(columns)

    tables = self._tables('')
    values = values_of(tables)
    kept = tables[0].index[np.isfinite(values).all(1)]
    cut = lambda tables: values_of([t.loc[kept] for t in tables]).T
    return Scores(
      cut(tables),
      [cut(self._tables(seed)) for seed in self.seeds],
      rows_lib.images(tables[0].loc[kept].reset_index(drop=True)),
    )

  def printed(self, name: str) -> np.ndarray:
    """Reads the printed values, f64 [rows], more is better; NaN for none."""
    values = [row.printed.get(name, np.nan) for row in self.rows]
    return self._sign(name) * np.array(values, np.float64)


def both_ranks(ranking: Ranking) -> tuple[np.ndarray, np.ndarray]:
  """Ranks our and the printed scores, f64 [rows, metrics]; NaN for none."""
  from scipy import stats

  ours, printed = [], []
  for name in ranking.metrics():
    ours.append(ranks(ranking.scores(name).values.mean(1)))
    printed.append(stats.rankdata(-ranking.printed(name), nan_policy='omit'))
  return np.transpose(ours), np.transpose(printed)


def spearman(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
  """Finds Spearman's correlation and its two-sided p; NaN if one is flat."""
  from scipy import stats

  if np.ptp(a) == 0 or np.ptp(b) == 0:
    return float('nan'), float('nan')
  test = stats.spearmanr(a, b)
  return float(test.statistic), float(test.pvalue)


def differences(
  scores: Scores, ours: Sequence[int], theirs: Sequence[int], *, best: bool
) -> tuple[np.ndarray, list[np.ndarray]]:
  """Subtracts one side's scores from the other's on each image.

  Args:
    scores: scores of all rows.
    ours: rows of the one side.
    theirs: rows of the other.
    best: takes of each side the row with the best mean, not the mean of its
      rows. It is picked on the other half of the images, for picking on the
      same ones favours the side with more rows.

  Returns:
    f64 [images] averaged over seeds, and the same of each seed.
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
