"""Tables of scores: Markdown, LaTeX and HTML from the files of an evaluation.

Every table of scores names its protocol in its head, since the same map scores
differently under each; a value that is not there is a dash.
"""

import csv
import html
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DASH = '–'
Cell = str | float | int | None

PAPERS = {
  'huang2024': 'Huang, Text-Guided Saliency Prediction Model',
  'bruckert2021': 'Bruckert et al., The Quest For The Loss Function',
}
# Columns of paper 1's tables, in the words of our own scores of its protocol.
_PAPER_METRICS = {
  'AUC': 'course/course_auc',
  'sAUC': 'course/course_sauc',
  'CC': 'course/course_cc',
  'NSS': 'course/course_nss',
}
_PAPER_SETTING = re.compile(
  r'^(?:direct_|finetuned_)?(pure|non_salient|salient|all)(?:_|$)'
)
_LATEX = {
  '\\': r'\textbackslash{}',
  '~': r'\textasciitilde{}',
  '^': r'\textasciicircum{}',
  '↑': r'$\uparrow$',
  '↓': r'$\downarrow$',
  '−': r'$-$',
  '±': r'$\pm$',
  '·': r'$\cdot$',
  DASH: '--',
  **{c: '\\' + c for c in '&%$#_{}'},
}


class Table(NamedTuple):
  """A table whose cells are text, numbers, or None for what is not known.

  Attributes:
    title: what it shows and under which protocol.
    head: names of the columns.
    rows: cells; a number is printed with `digits` decimals.
    digits: decimals of a float.
  """

  title: str
  head: Sequence[str]
  rows: Sequence[Sequence[Cell]]
  digits: int = 4

  def cells(self) -> list[list[str]]:
    """Returns the rows as text."""
    for row in self.rows:
      if len(row) != len(self.head):
        raise ValueError(
          f'{self.title}: {len(row)} cells under {len(self.head)} columns.'
        )
    return [[_text(cell, self.digits) for cell in row] for row in self.rows]

  def markdown(self) -> str:
    """Returns the title and a Markdown table."""

    def line(cells):
      safe = (c.replace('|', r'\|').replace('\n', ' ') for c in cells)
      return '| ' + ' | '.join(safe) + ' |'

    rule = ['---'] + ['---:'] * (len(self.head) - 1)
    lines = [line(self.head), '|' + '|'.join(rule) + '|']
    lines += [line(row) for row in self.cells()]
    return f'**{self.title}**\n\n' + '\n'.join(lines) + '\n'

  def latex(self) -> str:
    """Returns a table environment for the package booktabs."""

    def line(cells):
      return ' & '.join(_latex(c) for c in cells) + r' \\'

    columns = 'l' + 'r' * (len(self.head) - 1)
    return '\n'.join(
      [
        r'\begin{table}',
        r'\centering',
        rf'\caption{{{_latex(self.title)}}}',
        rf'\begin{{tabular}}{{{columns}}}',
        r'\toprule',
        line(self.head),
        r'\midrule',
        *[line(row) for row in self.cells()],
        r'\bottomrule',
        r'\end{tabular}',
        r'\end{table}',
        '',
      ]
    )

  def html(self) -> str:
    """Returns a table element."""

    def line(tag, cells):
      inner = ''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells)
      return f'<tr>{inner}</tr>'

    body = '\n'.join(line('td', row) for row in self.cells())
    return (
      f'<table>\n<caption>{html.escape(self.title)}</caption>\n'
      f'<thead>{line("th", self.head)}</thead>\n<tbody>\n{body}\n</tbody>\n'
      '</table>\n'
    )


def _text(cell: Cell, digits: int) -> str:
  if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
    return DASH
  return f'{cell:.{digits}f}' if isinstance(cell, float) else str(cell)


def _latex(text: str) -> str:
  return ''.join(_LATEX.get(c, c) for c in text)


def column(protocol: str, key: str, info: Mapping[str, Any]) -> str:
  """Returns a metric's name for the head of a table, and its direction."""
  label = info.get('label', key)
  # KL alone moves threefold between protocols, so it never goes without one.
  if label.lower().startswith('kl'):
    label = f'{label} [{protocol}]'
  return f'{label} {"↑" if info.get("higher_is_better", True) else "↓"}'


def _known(value: Any) -> bool:
  return value is not None and math.isfinite(value)


def score_cell(entry: Mapping[str, Any] | None, *, interval: bool) -> str:
  """Returns a mean, a dash if it is not known, with its interval if asked.

  Args:
    entry: mean, low, high, n, n_valid; None where nothing was measured.
    interval: prints the 95 % interval, too.
  """
  if not entry or not _known(entry['mean']):
    return DASH
  text = f'{entry["mean"]:.4f}'
  if interval and _known(entry['low']):
    text += f' [{entry["low"]:.3f}, {entry["high"]:.3f}]'
  if entry['n_valid'] < entry['n']:
    text += f' (n={entry["n_valid"]})'
  return text


def _conditions(summary: Mapping[str, Any]) -> list[tuple[str, Mapping]]:
  found = list(summary['conditions'].items())
  return found + [('overall', summary['overall'])] if len(found) > 1 else found


def _predictors(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Returns summaries by label: the model first, then what it is held to."""
  found = {result.get('model') or 'model': result['scores']}
  for part in ('references', 'controls'):
    for name, other in result.get(part, {}).items():
      found[other.get('label', name)] = other['scores']
  return found


def score_tables(
  result: Mapping[str, Any], *, interval: bool = True
) -> list[Table]:
  """Returns one table per protocol: conditions and predictors by metric.

  Args:
    result: what summary.json holds.
    interval: prints 95 % intervals behind the means.
  """
  predictors = _predictors(result)
  where = f'{result.get("data", "")} {result.get("split", "")}'.strip()
  tables = []
  for protocol, about in result['protocols'].items():
    infos = about['metrics']
    head = ['Condition', 'Predictor', 'n']
    head += [column(protocol, key, info) for key, info in infos.items()]
    rows = []
    for condition, _ in _conditions(result['scores']):
      for label, summary in predictors.items():
        scores = dict(_conditions(summary)).get(condition)
        if scores is None:
          continue
        cells = [
          score_cell(scores.get(f'{protocol}/{k}'), interval=interval)
          for k in infos
        ]
        n = max((entry['n'] for entry in scores.values()), default=0)
        rows.append([condition, label, n, *cells])
    title = f'Protocol {protocol}' + (f': {where}' if where else '')
    tables.append(Table(title, head, rows))
  return tables


def paired_tables(result: Mapping[str, Any]) -> list[Table]:
  """Returns one table per protocol of the paired tests in summary.json."""
  tables = []
  for protocol, about in result['protocols'].items():
    infos = about['metrics']
    head = ['Difference', 'Condition', 'n']
    head += [column(protocol, key, info) for key, info in infos.items()]
    rows = []
    for name, test in result.get('tests', {}).items():
      for condition, scores in test.items():
        entries = [scores.get(f'{protocol}/{key}') for key in infos]
        n = max((e['n'] for e in entries if e), default=0)
        rows.append([name, condition, n, *map(_difference, entries)])
    if rows:
      title = (
        f'Protocol {protocol}: paired differences with 95 % intervals and p'
      )
      tables.append(Table(title, head, rows))
  return tables


def _difference(entry: Mapping[str, Any] | None) -> str:
  if not entry or not _known(entry['difference']):
    return DASH
  text = f'{entry["difference"]:+.4f}'
  if _known(entry['low']):
    text += f' [{entry["low"]:+.3f}, {entry["high"]:+.3f}]'
  if _known(p := entry['p']):
    text += f' {p_value(p)}'
  return text


def p_value(p: float) -> str:
  """Returns p as it is printed: 'p=0.012', 'p<.001'."""
  return 'p<.001' if p < 0.001 else f'p={p:.3f}'


def published(paper: str | None = None) -> list[dict[str, Any]]:
  """Returns printed numbers: dicts of paper, table, setting, metric, value.

  Args:
    paper: a key of `PAPERS`; None for all.
  """
  path = pathlib.Path(__file__).parent / 'papers' / 'reference.csv'
  with open(path, encoding='utf-8', newline='') as f:
    rows = [dict(r, value=float(r['value'])) for r in csv.DictReader(f)]
  return [r for r in rows if paper in (None, r['paper'])]


def best_published(condition: str, metric: str) -> dict[str, Any] | None:
  """Returns paper 1's highest printed value for a condition, or None.

  Args:
    condition: pure, non_salient, salient or all.
    metric: AUC, sAUC, CC or NSS, as printed.
  """
  rows = [
    row
    for row in published('huang2024')
    if row['metric'] == metric
    and (match := _PAPER_SETTING.match(row['setting']))
    and match[1] == condition
  ]
  return max(rows, key=lambda row: row['value'], default=None)


def beside_paper(result: Mapping[str, Any]) -> Table:
  """Returns our scores beside the best that paper 1 prints, by condition.

  Paper 1's numbers come from a metric of its own, which the protocol `course`
  repeats; scores of other protocols are not comparable and are not shown.

  Args:
    result: what summary.json holds; dashes where it lacks the protocol.
  """
  head = ['Condition']
  for metric in _PAPER_METRICS:
    head += [f'{metric} (ours)', f'{metric} (paper)']
  rows = []
  for condition in ('pure', 'non_salient', 'salient', 'all'):
    scores = result['scores']['conditions'].get(condition, {})
    row = [condition]
    for metric, key in _PAPER_METRICS.items():
      best = best_published(condition, metric)
      row.append(scores.get(key, {}).get('mean'))
      row.append(best and best['value'])
    rows.append(row)
  title = (
    'Protocol course: ours beside the best value of any row printed in '
    f'{PAPERS["huang2024"]}'
  )
  return Table(title, head, rows)
