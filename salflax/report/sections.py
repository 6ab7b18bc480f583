"""Parts of a report: tables of a paper beside ours, with their notes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from salflax.report import tables as tables_lib
from salflax.report.papers.paper import Paper, Table
from salflax.report.results import Result


class Section(NamedTuple):
  """A table of the paper with what belongs to it.

  Attributes:
    table: table as declared.
    results: results of each of its rows.
    main: ours beside the printed numbers.
    more: other protocols, paired tests, costs of the runs.
    notes: sentences.
  """

  table: Table
  results: Sequence[Result]
  main: tables_lib.Table
  more: Sequence[tables_lib.Table]
  notes: Sequence[str]


class Extra(NamedTuple):
  """What belongs to the whole paper.

  Attributes:
    key: part of its address on the page.
    title: what it shows.
    tables: its tables.
    figures: files, by what they show.
    notes: sentences.
  """

  key: str
  title: str
  tables: Sequence[tables_lib.Table] = ()
  figures: Mapping[str, Any] = {}
  notes: Sequence[str] = ()


def _lines(paper: Paper, results: Sequence[Result]) -> list[tables_lib.Line]:
  """Lists ours, its controls below it, and all references at the end."""
  lines, references = [], []
  for r in results:
    printed = {paper.metrics[k]: v for k, v in r.row.printed.items()}
    first = [r.row.label, len(r.seeds) or None]
    lines.append(tables_lib.Line(first, r.model, printed=printed))
    for label, entries in r.controls.items():
      lines.append(tables_lib.Line([f'· {label}', ''], entries, 'control'))
    for label, entries in r.references.items():
      first = [f'{label}: {r.row.condition}', '']
      references.append(tables_lib.Line(first, entries, 'reference'))
  return lines + references


_LINE_HEAD = ('', 'n', 'Seeds')


def _beside_printed(line: tables_lib.Line, key: str) -> list[str]:
  ours, printed = line.entries.get(key), line.printed.get(key)
  if printed is None:
    return [tables_lib.score_cell(ours), '' if line.kind else tables_lib.DASH]
  score = tables_lib.score_cell(ours)
  if score == tables_lib.DASH:
    return [score, f'{printed:.4f}']
  return [score, f'{printed:.4f} ({ours["mean"] - printed:+.4f})']


def main_table(
  paper: Paper, table: Table, results: Sequence[Result]
) -> tables_lib.Table:
  """Sets ours beside the printed numbers; references and controls below."""
  about = protocols_of(results).get(paper.protocol, {}).get('metrics', {})
  head, keys = [*_LINE_HEAD], []
  for name, key in paper.metrics.items():
    if any(name in r.row.printed for r in results):
      info = dict(about.get(key.rpartition('/')[2], {}), label=name)
      head += [tables_lib.column(paper.protocol, name, info), f'{name} printed']
      keys.append(key)
  title = (
    f'Table {table.key}: {table.title}. Protocol {paper.protocol}, ours with '
    '95 % interval over images (± deviation over seeds), and printed (ours '
    '− printed)'
  )
  lines = _lines(paper, results)
  return tables_lib.Table(
    title,
    head,
    tables_lib.metric_rows(lines, _LINE_HEAD, keys, _beside_printed),
  )


def more_tables(
  paper: Paper, table: Table, results: Sequence[Result]
) -> list[tables_lib.Table]:
  """Tabulates scores that are not printed, paired tests, and costs of runs."""
  protocols = protocols_of(results)
  scores = tables_lib.metric_tables(
    protocols,
    f'Table {table.key}, protocol {{protocol}}: with 95 % interval over images '
    '(± deviation over seeds)',
    _LINE_HEAD,
    _lines(paper, results),
    skip=[*paper.metrics.values()],
  )
  tests = tables_lib.metric_tables(
    protocols,
    f'Table {table.key}. {tables_lib.PAIRED}',
    tables_lib.PAIRED_HEAD,
    [
      tables_lib.Line([name, r.row.condition], test)
      for r in results
      for name, test in r.tests.items()
    ],
    tables_lib.test_cell,
  )
  rows = [
    [
      r.row.label,
      ', '.join(r.seeds) or None,
      *(r.cost.get(k) for k in ('config', 'trains', 'seconds', 'memory')),
      paper.command(r.row.place.folder),
    ]
    for r in results
    if r.row.place
  ]
  head = ['', 'Seeds', 'Config', 'Parameters that train', 'Seconds', 'Peak MB']
  title = f'Table {table.key}: how its rows were made'
  return [
    *scores,
    *tests,
    tables_lib.Table(title, [*head, 'Command'], rows, digits=0),
  ]


def protocols_of(results: Sequence[Result]) -> dict[str, Any]:
  """Joins the protocols of all rows."""
  return {k: v for r in results for k, v in r.protocols.items()}


def reached_note(paper: Paper, results: Sequence[Result]) -> str:
  """Names the printed numbers that a predictor reaches that reads no text."""
  reached = []
  for r in results:
    for name, printed in r.row.printed.items():
      protocol, _, key = paper.metrics[name].partition('/')
      info = r.protocols.get(protocol, {}).get('metrics', {}).get(key, {})
      sign = 1 if info.get('higher_is_better', True) else -1
      for label, entries in r.references.items():
        mean = entries.get(paper.metrics[name], {}).get('mean')
        if mean is not None and sign * (mean - printed) >= 0:
          who = f'{r.row.label} {name} by {label.lower()}'
          reached.append(f'{who} ({mean:.4f})')
          break
  if not reached:
    return ''
  return (
    'On our test images, what reads no sentence reaches these printed '
    f'numbers: {"; ".join(reached)}.'
  )


def _notes(results):
  """Notes of rows, once where several rows share one."""
  labels = {}
  for r in results:
    for note in r.notes:
      labels.setdefault(note, []).append(r.row.label)
  every = sum(r.row.place is not None for r in results)
  return [
    f'{"Every run" if len(who) == every > 2 else ", ".join(who)}: {note}'
    for note, who in labels.items()
  ]


def section(paper: Paper, table: Table, results: Sequence[Result]) -> Section:
  """Makes the tables and sentences of a table of the paper."""
  reached = reached_note(paper, results) if paper.reads_text else ''
  return Section(
    table,
    results,
    main_table(paper, table, results),
    more_tables(paper, table, results),
    [*table.notes, *filter(None, [reached]), *_notes(results)],
  )


def markdown(
  paper: Paper, sections: Sequence[Section], extras: Sequence[Extra] = ()
) -> str:
  """Writes every table of the paper with its notes."""
  parts = [f'# {paper.title}\n', paper.note + '\n']
  for s in (*sections, *(e for e in extras if e.tables)):
    parts += [f'## {_title(s)}\n', *(f'* {note}' for note in s.notes)]
    parts += ['', *(t.markdown() for t in _tables(s))]
  return '\n'.join(parts)


def latex(sections: Sequence[Section], extras: Sequence[Extra] = ()) -> str:
  """Writes every table, for the package booktabs."""
  return '\n'.join(t.latex() for s in (*sections, *extras) for t in _tables(s))


def _title(s: Section | Extra) -> str:
  if isinstance(s, Extra):
    return s.title
  return f'Table {s.table.key}: {s.table.title}'


def _tables(s: Section | Extra) -> Sequence[tables_lib.Table]:
  return s.tables if isinstance(s, Extra) else (s.main, *s.more)
