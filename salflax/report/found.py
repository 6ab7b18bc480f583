"""What was found for the rows of a paper, as tables of it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from salflax.report import tables as tables_lib
from salflax.report.paper import Paper, Row, Table, identity_note

Entries = Mapping[str, Mapping[str, Any]]


class Found(NamedTuple):
  """What the runs of one row hold; empty where there is none.

  Attributes:
    row: as declared.
    seeds: that are scored.
    model: mean, low, high, n, n_valid by '<protocol>/<metric>', of scores that
      are averaged over seeds for each picture.
    spread: standard deviation over seeds, where there are two or more.
    references: as `model`, by label of the predictor.
    controls: as `model`, by label of the sentence.
    tests: difference, low, high, p, n by metric, by what is compared.
    protocols: by name, as in summary.json.
    sentences: (picture, sentence, right, wrong) of the largest and smallest
      differences.
    notes: why something is not there, and what makes it.
    made: config, trains, seconds and memory, where known.
    files: by what they show, of the first seed.
  """

  row: Row
  seeds: Sequence[str] = ()
  model: Entries = {}
  spread: Mapping[str, float] = {}
  references: Mapping[str, Entries] = {}
  controls: Mapping[str, Entries] = {}
  tests: Mapping[str, Entries] = {}
  protocols: Mapping[str, Any] = {}
  sentences: Sequence[tuple[str, str, float, float]] = ()
  notes: Sequence[str] = ()
  made: Mapping[str, Any] = {}
  files: Mapping[str, Any] = {}


class Section(NamedTuple):
  """A table of the paper with what belongs to it.

  Attributes:
    table: as declared.
    found: of each of its rows.
    main: ours beside the printed numbers.
    more: other protocols, paired tests, how the runs were made.
    notes: sentences.
  """

  table: Table
  found: Sequence[Found]
  main: tables_lib.Table
  more: Sequence[tables_lib.Table]
  notes: Sequence[str]


class Extra(NamedTuple):
  """What belongs to the whole paper.

  Attributes:
    key: part of its address on the page.
    title: what it shows.
    tables: of it.
    figures: files, by what they show.
    notes: sentences.
  """

  key: str
  title: str
  tables: Sequence[tables_lib.Table] = ()
  figures: Mapping[str, Any] = {}
  notes: Sequence[str] = ()


def _protocols(found: Sequence[Found]) -> dict[str, Any]:
  merged = {}
  for f in found:
    merged.update(f.protocols)
  return merged


def _count(entries: Entries) -> int | None:
  return max((e['n'] for e in entries.values()), default=None)


def _ours(f: Found, key: str) -> str:
  text = tables_lib.score_cell(f.model.get(key), interval=True)
  return text + (f' ±{f.spread[key]:.4f}' if key in f.spread else '')


def _printed(f: Found, key: str, value: float | None) -> str:
  if value is None:
    return tables_lib.DASH
  mean = f.model.get(key, {}).get('mean')
  return f'{value:.4f}' + ('' if mean is None else f' ({mean - value:+.4f})')


def _others(found: Sequence[Found], cells_of) -> tuple[dict, list]:
  """Returns rows of controls by run, and of references, each of them once."""

  def rows_of(part, name):
    rows = []
    for label, entries in part.items():
      cells = cells_of(entries)
      if set(cells) - {'', tables_lib.DASH}:
        rows.append([name.format(label), _count(entries), '', *cells])
    return rows

  controls, references = {}, []
  for k, f in enumerate(found):
    controls[k] = rows_of(f.controls, '· {}')
    for row in rows_of(f.references, f'{{}}: {f.row.condition}'):
      if row not in references:
        references.append(row)
  return controls, references


def _table(title, head, found, own, cells_of) -> tables_lib.Table:
  controls, references = _others(found, cells_of)
  rows = []
  for k, f in enumerate(found):
    rows.append(
      [f.row.label, _count(f.model), len(f.seeds) or None, *own(k, f)]
    )
    rows += controls[k]
  return tables_lib.Table(title, ['', 'n', 'Seeds', *head], rows + references)


def main_table(
  paper: Paper, table: Table, found: Sequence[Found]
) -> tables_lib.Table:
  """Returns ours beside the printed numbers; references and controls below."""
  infos = _protocols(found).get(paper.protocol, {}).get('metrics', {})
  head, printed = [], [paper.printed(table, f.row) for f in found]
  names = {
    n: k for n, k in paper.metrics.items() if any(n in p for p in printed)
  }
  for name, key in names.items():
    info = dict(infos.get(key.split('/')[1], {}), label=name)
    head += [tables_lib.column(paper.protocol, name, info), f'{name} printed']

  def own(k, f):
    pairs = [
      (_ours(f, key), _printed(f, key, printed[k].get(name)))
      for name, key in names.items()
    ]
    return [cell for pair in pairs for cell in pair]

  def cells_of(entries):
    scores = [
      tables_lib.score_cell(entries.get(k), interval=False)
      for k in names.values()
    ]
    return [cell for score in scores for cell in (score, '')]

  title = (
    f'Table {table.key}: {table.title}. Protocol {paper.protocol}, ours with '
    '95 % interval over pictures (± deviation over seeds), and printed (ours '
    '− printed)'
  )
  return _table(title, head, found, own, cells_of)


def standard_tables(
  paper: Paper, table: Table, found: Sequence[Found]
) -> list[tables_lib.Table]:
  """Returns our scores that are not printed, one table for each protocol."""
  made = []
  shown = set(paper.metrics.values())
  for protocol, about in _protocols(found).items():
    infos = {
      k: v
      for k, v in about['metrics'].items()
      if f'{protocol}/{k}' not in shown
    }
    if not infos:
      continue
    keys = [f'{protocol}/{key}' for key in infos]
    head = [
      tables_lib.column(protocol, key, info) for key, info in infos.items()
    ]
    made.append(
      _table(
        f'Table {table.key}, protocol {protocol}: with 95 % interval over '
        'pictures (± deviation over seeds)',
        head,
        found,
        lambda k, f, keys=keys: [_ours(f, key) for key in keys],
        lambda entries, keys=keys: [
          tables_lib.score_cell(entries.get(k), interval=False) for k in keys
        ],
      )
    )
  return made


def paired_tables(
  table: Table, found: Sequence[Found]
) -> list[tables_lib.Table]:
  """Returns the paired tests of all rows, one table for each protocol."""
  tests = {
    name: {f.row.condition: test}
    for f in found
    for name, test in f.tests.items()
  }
  result = {'protocols': _protocols(found), 'tests': tests}
  return [
    made._replace(title=f'Table {table.key}. {made.title}')
    for made in tables_lib.paired_tables(result)
  ]


def runs_table(
  paper: Paper, table: Table, found: Sequence[Found]
) -> tables_lib.Table:
  """Returns how each row was made: config, parameters, cost, command."""
  keys = ('config', 'trains', 'seconds', 'memory')
  rows = [
    [
      f.row.label,
      ', '.join(f.seeds) or None,
      *(f.made.get(key) for key in keys),
      paper.command(f.row.place.folder),
    ]
    for f in found
    if f.row.place
  ]
  head = ['', 'Seeds', 'Config', 'Parameters that train', 'Seconds', 'Peak MB']
  title = f'Table {table.key}: how its rows were made'
  return tables_lib.Table(title, [*head, 'Command'], rows, digits=0)


def reached_note(paper: Paper, table: Table, found: Sequence[Found]) -> str:
  """Returns which printed numbers a predictor reaches that reads no text."""
  reached = []
  for f in found:
    printed = paper.printed(table, f.row)
    for name in [n for n in paper.metrics if n in printed]:
      protocol, _, key = paper.metrics[name].partition('/')
      info = f.protocols.get(protocol, {}).get('metrics', {}).get(key, {})
      sign = 1 if info.get('higher_is_better', True) else -1
      for label, entries in f.references.items():
        mean = entries.get(paper.metrics[name], {}).get('mean')
        if mean is not None and sign * (mean - printed[name]) >= 0:
          who = f'{f.row.label} {name} by {label.lower()}'
          reached.append(f'{who} ({mean:.4f})')
          break
  if not reached:
    return ''
  return (
    'On our test pictures, what reads no sentence reaches these printed '
    f'numbers: {"; ".join(reached)}.'
  )


def _notes(found):
  """What is said of rows, once where it is said of several."""
  said = {}
  for f in found:
    for note in f.notes:
      said.setdefault(note, []).append(f.row.label)
  every = sum(f.row.place is not None for f in found)
  return [
    f'{"Every run" if len(who) == every > 2 else ", ".join(who)}: {note}'
    for note, who in said.items()
  ]


def section(paper: Paper, table: Table, found: Sequence[Found]) -> Section:
  """Returns the tables and sentences of a table of the paper."""
  notes = [
    identity_note(paper, table),
    table.note,
    reached_note(paper, table, found) if paper.told else '',
    *_notes(found),
  ]
  more = [
    *standard_tables(paper, table, found),
    *paired_tables(table, found),
    runs_table(paper, table, found),
  ]
  main = main_table(paper, table, found)
  return Section(table, found, main, more, list(filter(None, notes)))


def markdown(
  paper: Paper, sections: Sequence[Section], extras: Sequence[Extra] = ()
) -> str:
  """Returns every table of the paper with its notes."""
  parts = [f'# {tables_lib.PAPERS[paper.source]}\n', paper.note + '\n']
  for s in sections:
    parts.append(f'## Table {s.table.key}: {s.table.title}\n')
    parts += [f'* {note}' for note in s.notes]
    parts += ['', *(t.markdown() for t in (s.main, *s.more))]
  for extra in extras:
    if extra.tables:
      parts += [f'## {extra.title}\n', *(f'* {note}' for note in extra.notes)]
      parts += ['', *(t.markdown() for t in extra.tables)]
  return '\n'.join(parts)


def latex(sections: Sequence[Section], extras: Sequence[Extra] = ()) -> str:
  """Returns every table, for the package booktabs."""
  made = [t.latex() for s in sections for t in (s.main, *s.more)]
  made += [t.latex() for extra in extras for t in extra.tables]
  return '\n'.join(made)
