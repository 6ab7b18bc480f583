"""Tables of scores: Markdown, LaTeX and text from the files of an evaluation.

Every table of scores names its protocol in its head, since the same map scores
differently under each; a value that is not there is a dash.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from salflax.report.papers import PAPERS

DASH = '–'
Cell = str | float | int | None

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
  """A table of text and numbers; None and NaN are dashes.

  Attributes:
    title: what it shows and under which protocol.
    head: names of the columns.
    rows: cells of each row.
    digits: decimals of a float.
  """

  title: str
  head: Sequence[str]
  rows: Sequence[Sequence[Cell]]
  digits: int = 4

  def cells(self) -> list[list[str]]:
    """Writes every cell as text."""
    for row in self.rows:
      if len(row) != len(self.head):
        raise ValueError(
          f'{self.title}: {len(row)} cells under {len(self.head)} columns.'
        )
    return [[_text(cell, self.digits) for cell in row] for row in self.rows]

  def markdown(self) -> str:
    """Writes the title and a Markdown table."""

    def line(cells):
      safe = (c.replace('|', r'\|').replace('\n', ' ') for c in cells)
      return '| ' + ' | '.join(safe) + ' |'

    rule = ['---'] + ['---:'] * (len(self.head) - 1)
    lines = [line(self.head), '|' + '|'.join(rule) + '|']
    lines += [line(row) for row in self.cells()]
    return f'**{self.title}**\n\n' + '\n'.join(lines) + '\n'

  def text(self, *, width: int = 100, names: int = 1) -> str:
    """Writes plain text, in several blocks where one would be too wide.

    Args:
      width: characters of a line.
      names: number of columns that every block begins with.
    """
    columns = []
    for k, column in enumerate(zip(self.head, *self.cells())):
      size = max(map(len, column))
      put = str.ljust if k < names else str.rjust
      columns.append([put(cell, size) for cell in column])
    blocks, size = [], width
    for column in columns[names:]:
      size += 2 + len(column[0])
      if size > width:
        blocks.append(columns[:names])
        size = sum(2 + len(c[0]) for c in (*columns[:names], column)) - 2
      blocks[-1] = [*blocks[-1], column]
    blocks = blocks or [columns]
    parts = ['\n'.join(map('  '.join, zip(*block))) for block in blocks]
    return '\n\n'.join([self.title, *parts]) + '\n'

  def latex(self) -> str:
    """Writes a table environment for the package booktabs."""
    import pandas as pd

    head, *rows = (map(_latex, row) for row in (self.head, *self.cells()))
    table = pd.DataFrame(map(list, rows), columns=[*head])
    return table.style.hide(axis='index').to_latex(
      caption=_latex(self.title),
      column_format='l' + 'r' * (len(self.head) - 1),
      position_float='centering',
      hrules=True,
    )


def _text(cell: Cell, digits: int) -> str:
  if cell is None or (isinstance(cell, float) and not math.isfinite(cell)):
    return DASH
  return f'{cell:.{digits}f}' if isinstance(cell, float) else str(cell)


def _latex(text: str) -> str:
  return ''.join(_LATEX.get(c, c) for c in text)


def column(protocol: str, key: str, info: Mapping[str, Any]) -> str:
  """Names a metric for the head of a table, with its direction."""
  label = info.get('label', key)
  # KL alone moves threefold between protocols, so it never goes without one.
  if label.lower().startswith('kl'):
    label = f'{label} [{protocol}]'
  return f'{label} {"↑" if info.get("higher_is_better", True) else "↓"}'


def _is_finite(value: Any) -> bool:
  return value is not None and math.isfinite(value)


def score_cell(entry: Mapping[str, Any] | None) -> str:
  """Writes a mean, with its 95 % interval and spread over seeds if it has them.

  Args:
    entry: mean, n, n_valid, and maybe low, high, spread; None where nothing was
      measured.
  """
  if not entry or not _is_finite(entry['mean']):
    return DASH
  text = f'{entry["mean"]:.4f}'
  if _is_finite(entry.get('low')) and _is_finite(entry['high']):
    text += f' [{entry["low"]:.3f}, {entry["high"]:.3f}]'
  if entry['n_valid'] < entry['n']:
    text += f' (n={entry["n_valid"]})'
  return text + (f' ±{entry["spread"]:.4f}' if 'spread' in entry else '')


def test_cell(entry: Mapping[str, Any] | None) -> str:
  """Writes a difference, its 95 % interval and p."""
  if not entry or not _is_finite(entry['difference']):
    return DASH
  text = f'{entry["difference"]:+.4f}'
  if _is_finite(entry['low']) and _is_finite(entry['high']):
    text += f' [{entry["low"]:+.3f}, {entry["high"]:+.3f}]'
  return text + (f' {p_value(entry["p"])}' if _is_finite(entry['p']) else '')


def p_value(p: float) -> str:
  """Writes p as it is printed: 'p=0.012', 'p<.001'."""
  return 'p<.001' if p < 0.001 else f'p={p:.3f}'


class Line(NamedTuple):
  """What one row of a table of metrics shows.

  Attributes:
    first: cells before the metrics, except the number of rows.
    entries: scores or tests by '<protocol>/<metric>'.
    kind: '' is always there, 'control' where it has a value, 'reference' there
      and once.
    printed: printed numbers, by '<protocol>/<metric>'.
  """

  first: Sequence[Cell]
  entries: Mapping[str, Mapping[str, Any]]
  kind: str = ''
  printed: Mapping[str, float] = {}


def metric_rows(
  lines: Iterable[Line], head: Sequence[str], keys, cells_of
) -> list:
  """Writes the cells of lines; `cells_of(line, key)` those of one metric."""
  rows: list[list[Cell]] = []
  for line in lines:
    cells = [cell for key in keys for cell in cells_of(line, key)]
    if line.kind and not set(cells) - {'', DASH}:
      continue
    own = [line.entries[k] for k in keys if k in line.entries]
    counts = [e['n'] for e in own or line.entries.values()]
    first = iter(line.first)
    row = [max(counts, default=None) if h == 'n' else next(first) for h in head]
    if line.kind != 'reference' or row + cells not in rows:
      rows.append(row + cells)
  return rows


def metric_tables(
  protocols: Mapping[str, Any],
  title: str,
  head: Sequence[str],
  lines: Sequence[Line],
  cell: Callable[[Mapping[str, Any] | None], str] = score_cell,
  *,
  skip: Sequence[str] = (),
) -> list[Table]:
  """Makes one table for each protocol.

  Args:
    protocols: protocols as in summary.json.
    title: title with {protocol} in it.
    head: names of the columns before the metrics; 'n' is the number of rows.
    lines: rows of the table.
    cell: text of an entry.
    skip: '<protocol>/<metric>' that are left out.
  """
  tables = []
  for protocol, about in protocols.items():
    infos = {f'{protocol}/{k}': (k, i) for k, i in about['metrics'].items()}
    infos = {k: v for k, v in infos.items() if k not in skip}
    if infos and lines:
      columns = [column(protocol, *about) for about in infos.values()]
      cells_of = lambda line, key: [cell(line.entries.get(key))]
      rows = metric_rows(lines, head, infos, cells_of)
      name = title.replace('{protocol}', protocol)
      tables.append(Table(name, [*head, *columns], rows))
  return tables


def _conditions(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  conditions = dict(summary['conditions'])
  if len(conditions) > 1:
    conditions['overall'] = summary['overall']
  return conditions


def score_tables(
  result: Mapping[str, Any], *, interval: bool = True
) -> list[Table]:
  """Makes a table per protocol: conditions and predictors by metric.

  Args:
    result: content of summary.json.
    interval: prints 95 % intervals behind the means.
  """
  predictors = {result.get('model') or 'model': result['scores']}
  for part in ('references', 'controls'):
    for name, other in result.get(part, {}).items():
      predictors[other.get('label', name)] = other['scores']
  lines = []
  for condition in _conditions(result['scores']):
    for label, summary in predictors.items():
      if (entries := _conditions(summary).get(condition)) is not None:
        if not interval:
          entries = {k: dict(e, low=None) for k, e in entries.items()}
        lines.append(Line([condition, label], entries))
  where = f'{result.get("data", "")} {result.get("split", "")}'.strip()
  title = 'Protocol {protocol}' + (f': {where}' if where else '')
  head = ['Condition', 'Predictor', 'n']
  return metric_tables(result['protocols'], title, head, lines)


PAIRED = 'Protocol {protocol}: paired differences with 95 % intervals and p'
PAIRED_HEAD = ('Difference', 'Condition', 'n')


def paired_tables(result: Mapping[str, Any]) -> list[Table]:
  """Makes a table per protocol of the paired tests in summary.json."""
  lines = []
  for name, test in result.get('tests', {}).items():
    for kind, ours in (
      ('references', result.get('model')),
      ('controls', 'Right sentence'),
    ):
      if part := result.get(kind, {}).get(name):
        name = f'{ours} − {part["label"]}'
    lines += [Line([name, condition], e) for condition, e in test.items()]
  protocols = result['protocols']
  return metric_tables(protocols, PAIRED, PAIRED_HEAD, lines, test_cell)


def beside_paper(result: Mapping[str, Any]) -> Table:
  """Sets our scores beside the best that paper 1 prints, by condition.

  Paper 1's numbers come from a metric of its own, which the protocol `course`
  repeats; scores of other protocols are not comparable and are left out.

  Args:
    result: content of summary.json; dashes where it lacks the protocol.
  """
  paper = PAPERS['text_guided']
  printed = [
    row
    for table in paper.tables
    for row in table.rows
    if table.data == 'sjtu_tis' and row.printed
  ]
  rows = []
  for condition in dict.fromkeys(row.condition for row in printed):
    scores = result['scores']['conditions'].get(condition, {})
    cells: list[Cell] = [condition]
    for metric, key in paper.metrics.items():
      each = [r.printed[metric] for r in printed if r.condition == condition]
      cells += [scores.get(key, {}).get('mean'), max(each)]
    rows.append(cells)
  head = [f'{m} ({who})' for m in paper.metrics for who in ('ours', 'paper')]
  title = (
    'Protocol course: ours beside the best value of any row printed in '
    f'{paper.title}'
  )
  return Table(title, ['Condition', *head], rows)
