"""What the rows of one table say together: ranks, claims, and what is chance.

Intervals and tests resample pictures: they say whether a difference holds on
other pictures, not whether it holds for another drawing of the parameters.
That is why every difference is shown for each seed, too. Needs no accelerator.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from salflax.metrics import statistics
from salflax.report import figures, findings, found, tables
from salflax.report.paper import Claim, Paper
from salflax.report.ranking import (
  Ranking,
  both_ranks,
  differences,
  ranks,
  spearman,
)

RESAMPLES = 2_000
ENOUGH = 3  # rows that make a ranking


def rank_table(ranking: Ranking) -> tables.Table:
  """Returns the rank of every row by metric, printed ranks in brackets."""
  names = list(ranking.metrics())
  ours, theirs = both_ranks(ranking)
  mean, printed = ours.mean(1), theirs.mean(1)
  rows = [
    [
      ranking.rows[k].label,
      *(_rank(a, b) for a, b in zip(ours[k], theirs[k])),
      _rank(round(mean[k], 1), round(printed[k], 1)),
    ]
    for k in np.argsort(mean, kind='stable')
  ]
  title = (
    f'Table {ranking.table.key}: rank of each row by metric, 1 is the best '
    f'(printed rank), over {len(rows)} rows'
  )
  return tables.Table(title, ['', *names, 'Mean rank'], rows)


def _rank(ours, printed):
  return f'{ours:g}' + (f' ({printed:g})' if np.isfinite(printed) else '')


def agreement_table(ranking: Ranking) -> tables.Table:
  """Returns by metric how far our ranking is the printed one.

  Spearman's correlation over the rows that are printed; its interval is over
  pictures. Beside it, how far two seeds of ours agree, which bounds what can be
  expected, and how often two rows of ours can be told apart.
  """
  rows = []
  for name in ranking.metrics():
    printed, found = ranking.printed(name), ranking.scores(name)
    known = np.flatnonzero(np.isfinite(printed))
    cells = [len(known)]
    if len(known) < ENOUGH:
      rows.append([name, *cells, None, None, None])
      continue
    values = found.values[known]
    rho, p = spearman(values.mean(1), printed[known])
    low, high = _over_pictures(values, printed[known])
    cells.append(f'{rho:+.2f} [{low:+.2f}, {high:+.2f}] {tables.p_value(p)}')
    between = None
    if len(found.seeds) > 1:
      one, two = (s[known].mean(1) for s in found.seeds[:2])
      between = f'{spearman(one, two)[0]:+.2f}'
    rows.append([name, *cells, between, _apart(values, found.pictures)])
  head = [
    'Metric',
    'Rows',
    'Spearman, ours and printed',
    'Spearman, two seeds of ours',
    'Pairs of rows that differ (95 %)',
  ]
  title = (
    f'Table {ranking.table.key}: agreement of our ranking with the printed one'
  )
  return tables.Table(title, head, rows)


def _over_pictures(values, printed):
  """95 % interval of Spearman's correlation over resampled pictures."""
  rng, found = np.random.default_rng(0), []
  count = values.shape[1]
  for _ in range(RESAMPLES):
    take = np.bincount(rng.integers(0, count, count), minlength=count)
    means = values @ take / count
    found.append(np.corrcoef(ranks(means), ranks(printed))[0, 1])
  return np.nanpercentile(found, [2.5, 97.5])


def _apart(values, pictures):
  """Share of pairs of rows whose difference has an interval without 0."""
  rng = np.random.default_rng(0)
  _, index = np.unique(pictures, return_inverse=True)
  count = index.max() + 1
  draws = rng.integers(0, count, (RESAMPLES, count))
  takes = np.stack([np.bincount(d, minlength=count) for d in draws])[:, index]
  means = takes @ values.T / takes.sum(1, keepdims=True)  # [draws, rows]
  apart = []
  for i in range(len(values)):
    low, high = np.percentile(
      means[:, i : i + 1] - means[:, i + 1 :], [2.5, 97.5], axis=0
    )
    apart += list((low > 0) | (high < 0))
  return f'{sum(apart)} of {len(apart)}'


def judge(ranking: Ranking, claim: Claim) -> tuple[list[str], str]:
  """Returns the difference under each metric, and the verdict as a sentence."""
  folders = ranking.folders()
  lack = [f for f in (*claim.folders, *claim.than) if f not in folders]
  if lack:
    return [tables.DASH for _ in ranking.metrics()], (
      f'not judged, for want of {", ".join(dict.fromkeys(lack))}'
    )
  ours, theirs = (
    [folders.index(f) for f in side] for side in (claim.folders, claim.than)
  )
  cells, holds, against, unknown = [], [], [], []
  for name in ranking.metrics():
    found = ranking.scores(name)
    gaps, each = differences(found, ours, theirs, best=claim.best)
    test = statistics.paired(gaps, np.zeros(len(gaps)), found.pictures)
    cells.append(
      f'{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}] '
      f'{tables.p_value(test.p)}' + _by_seed(each)
    )
    same = all(np.sign(e.mean()) == np.sign(test.difference) for e in each)
    if test.low > 0 and same:
      holds.append(name)
    elif test.high < 0 and same:
      against.append(name)
    else:
      unknown.append(name)
  said = []
  for what, names in (
    ('holds', holds),
    ('the opposite holds', against),
    ('not told apart', unknown),
  ):
    if names:
      said.append(f'{what} under {", ".join(names)}')
  return cells, '; '.join(said)


def _by_seed(each):
  if len(each) < 2:
    return ''
  return f' ({", ".join(f"{e.mean():+.4f}" for e in each)})'


def claims_table(ranking: Ranking, claims: Sequence[Claim]) -> tables.Table:
  """Returns claim by claim how much better it is, and the verdict."""
  rows = []
  for claim in claims:
    cells, verdict = judge(ranking, claim)
    rows.append([claim.text, *cells, verdict])
  head = ['Claim', *ranking.metrics(), 'Verdict']
  title = (
    f"Table {ranking.table.key}: the paper's claims; how much better, with 95 "
    '% interval over pictures and paired p (each seed alone). Positive is '
    'better under every metric; a claim holds where the interval and all '
    'seeds are on one side of 0'
  )
  return tables.Table(title, head, rows)


def chance_table(ranking: Ranking, pair: tuple[str, str]) -> tables.Table:
  """Returns how far apart runs are that differ by chance alone.

  Args:
    ranking: of the rows.
    pair: folders of two rows with one function as loss.
  """
  folders, rows = ranking.folders(), []
  for name in ranking.metrics():
    found, printed = ranking.scores(name), ranking.printed(name)
    cells = [None, None, None, None]
    if set(pair) <= set(folders):
      i, j = (folders.index(f) for f in pair)
      if np.isfinite(printed[[i, j]]).all():
        cells[0] = float(abs(printed[i] - printed[j]))
      cells[1] = float(abs(found.values[i].mean() - found.values[j].mean()))
    if len(found.seeds) > 1:
      one, two = (s.mean(1) for s in found.seeds[:2])
      cells[2] = float(np.median(np.abs(one - two)))
    cells[3] = float(np.std(found.values.mean(1)))
    rows.append([name, *cells])
  head = [
    'Metric',
    'One function, printed',
    'One function, ours',
    'Two seeds of one row, median',
    'Deviation over rows',
  ]
  title = f'Table {ranking.table.key}: what chance moves'
  return tables.Table(title, head, rows)


def sections(
  paper: Paper, runs: findings.Runs, folder: str | os.PathLike
) -> list[found.Extra]:
  """Returns what the rows of a table say together, [] where that is nothing.

  Args:
    paper: as declared.
    runs: of it.
    folder: for the figure.
  """
  study = paper.study
  table = next(
    (t for t in paper.tables if study and t.key == study.table), None
  )
  if table is None:
    return []
  read = Ranking(paper, table, runs)
  if len(read.rows) < ENOUGH:
    return []
  names = list(read.metrics())
  made = [
    claims_table(read, study.claims),
    rank_table(read),
    agreement_table(read),
  ]
  if study.chance:
    made.append(chance_table(read, study.chance))
  path = pathlib.Path(folder) / f'{paper.name}_ranks.png'
  labels = [row.label for row in read.rows]
  figures.rank_figure(labels, names, *both_ranks(read), path)
  notes = [
    f'Of {len(read.rows)} rows of {len(table.rows)} in table {table.key}, '
    f'{len(read.seeds)} seeds each.',
    'Intervals are over pictures; that a row could differ if it were trained '
    'anew is in the numbers of each seed, and in the table of what chance '
    f'moves: {study.chance_note}.',
  ]
  shown = {'Rank of each row by metric, ours and printed': path}
  return [found.Extra('study', 'What the rows say', made, shown, notes)]
