"""What the rows of one table say together: ranks, claims, and what is chance.

Intervals and tests resample images: they say whether a difference holds on
other images, not whether it holds for another drawing of the parameters. That
is why every difference stands for each seed, too.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from salflax.metrics import statistics
from salflax.report import figures, tables
from salflax.report import ranking as ranking_lib
from salflax.report.papers.paper import Claim, Paper
from salflax.report.ranking import Ranking
from salflax.report.results import Runs
from salflax.report.sections import Extra

RESAMPLES = 2_000
ENOUGH = 3  # rows that make a ranking


def rank_table(ranking: Ranking) -> tables.Table:
  """Ranks every row by metric; printed ranks are in brackets."""
  names = list(ranking.metrics())
  ours, theirs = ranking_lib.both_ranks(ranking)
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
  """Compares our ranking with the printed one, by metric.

  Spearman's correlation over the rows that are printed; its interval is over
  images. Beside it, how far two seeds of ours agree, which bounds what can be
  expected, and how often two rows of ours differ.
  """
  rows = []
  for name in ranking.metrics():
    printed, scores = ranking.printed(name), ranking.scores(name)
    rows_printed = np.flatnonzero(np.isfinite(printed))
    cells = [len(rows_printed)]
    if len(rows_printed) < ENOUGH:
      rows.append([name, *cells, None, None, None])
      continue
    values = scores.values[rows_printed]
    rho, p = ranking_lib.spearman(values.mean(1), printed[rows_printed])
    low, high = _over_images(values, printed[rows_printed])
    cells.append(f'{rho:+.2f} [{low:+.2f}, {high:+.2f}] {tables.p_value(p)}')
    between = None
    if len(scores.seeds) > 1:
      one, two = (s[rows_printed].mean(1) for s in scores.seeds[:2])
      between = f'{ranking_lib.spearman(one, two)[0]:+.2f}'
    rows.append([name, *cells, between, _apart(values, scores.images)])
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


def _over_images(values, printed):
  """95 % interval of Spearman's correlation over resampled images."""
  rng, draws = np.random.default_rng(0), []
  count = values.shape[1]
  for _ in range(RESAMPLES):
    take = np.bincount(rng.integers(0, count, count), minlength=count)
    means = values @ take / count
    draws.append(
      np.corrcoef(ranking_lib.ranks(means), ranking_lib.ranks(printed))[0, 1]
    )
  return np.nanpercentile(draws, [2.5, 97.5])


def _apart(values, images):
  """Share of pairs of rows whose difference has an interval without 0."""
  rng = np.random.default_rng(0)
  _, index = np.unique(images, return_inverse=True)
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
  """Writes the difference under each metric, and the verdict."""
  folders = ranking.folders
  lack = [f for f in (*claim.folders, *claim.than) if f not in folders]
  if lack:
    return [tables.DASH for _ in ranking.metrics()], (
      f'not judged, for want of {", ".join(dict.fromkeys(lack))}'
    )
  ours, theirs = (
    [folders.index(f) for f in side] for side in (claim.folders, claim.than)
  )
  cells = []
  verdicts = {'holds': [], 'the opposite holds': [], 'not told apart': []}
  for name in ranking.metrics():
    scores = ranking.scores(name)
    gaps, each = ranking_lib.differences(scores, ours, theirs, best=claim.best)
    test = statistics.paired(gaps, np.zeros(len(gaps)), scores.images)
    cells.append(
      f'{test.difference:+.4f} [{test.low:+.4f}, {test.high:+.4f}] '
      f'{tables.p_value(test.p)}' + _by_seed(each)
    )
    same = all(np.sign(e.mean()) == np.sign(test.difference) for e in each)
    verdict = 'not told apart'
    if same and test.low > 0:
      verdict = 'holds'
    elif same and test.high < 0:
      verdict = 'the opposite holds'
    verdicts[verdict].append(name)
  return cells, '; '.join(
    f'{what} under {", ".join(names)}'
    for what, names in verdicts.items()
    if names
  )


def _by_seed(each):
  if len(each) < 2:
    return ''
  return f' ({", ".join(f"{e.mean():+.4f}" for e in each)})'


def claims_table(ranking: Ranking, claims: Sequence[Claim]) -> tables.Table:
  """Judges claim by claim: how much better it is, and the verdict."""
  judged = [(claim.text, *judge(ranking, claim)) for claim in claims]
  rows = [[text, *cells, verdict] for text, cells, verdict in judged]
  head = ['Claim', *ranking.metrics(), 'Verdict']
  title = (
    f"Table {ranking.table.key}: the paper's claims; how much better, with 95 "
    '% interval over images and paired p (each seed alone). Positive is '
    'better under every metric; a claim holds where the interval and all '
    'seeds are on one side of 0'
  )
  return tables.Table(title, head, rows)


def chance_table(ranking: Ranking, pair: tuple[str, str]) -> tables.Table:
  """Measures how far apart runs are that differ by chance alone.

  Args:
    ranking: scores of the rows.
    pair: folders of two rows with one function as loss.
  """
  folders, rows = ranking.folders, []
  for name in ranking.metrics():
    scores, printed = ranking.scores(name), ranking.printed(name)
    cells = [None, None, None, None]
    if set(pair) <= set(folders):
      i, j = (folders.index(f) for f in pair)
      if np.isfinite(printed[[i, j]]).all():
        cells[0] = float(abs(printed[i] - printed[j]))
      cells[1] = float(abs(scores.values[i].mean() - scores.values[j].mean()))
    if len(scores.seeds) > 1:
      one, two = (s.mean(1) for s in scores.seeds[:2])
      cells[2] = float(np.median(np.abs(one - two)))
    cells[3] = float(np.std(scores.values.mean(1)))
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
  paper: Paper, runs: Runs, folder: str | os.PathLike
) -> list[Extra]:
  """Reads what the rows of a table say together; [] where that is nothing.

  Args:
    paper: paper as declared.
    runs: its runs.
    folder: folder for the figure.
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
  parts = [
    claims_table(read, study.claims),
    rank_table(read),
    agreement_table(read),
  ]
  if study.chance:
    parts.append(chance_table(read, study.chance))
  path = pathlib.Path(folder) / f'{paper.name}_ranks.png'
  labels = [row.label for row in read.rows]
  figures.rank_figure(labels, names, *ranking_lib.both_ranks(read), path)
  notes = [
    f'Of {len(read.rows)} rows of {len(table.rows)} in table {table.key}, '
    f'{len(read.seeds)} seeds each.',
    'Intervals are over images; that a row could differ if it were trained '
    'anew is in the numbers of each seed, and in the table of what chance '
    f'moves: {study.chance_note}.',
  ]
  ranked = {'Rank of each row by metric, ours and printed': path}
  return [Extra('study', 'What the rows say', parts, ranked, notes)]
