"""What a paper declares: which run stands beside which printed number.

The papers themselves are in `text_guided` and `loss_study`; `papers.PAPERS`
lists them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from salflax.report import tables

COMMAND = 'bash launch/paper.sh {paper} --only={folder}'


class Place(NamedTuple):
  """Where scores lie: <runs>/<folder>/seed<k>/evaluate/<test>/.

  Attributes:
    folder: of the run's seeds.
    test: of the evaluation.
  """

  folder: str
  test: str = 'test'


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    label: as printed.
    place: of its scores; None for what was printed alone.
    condition: which of them.
    printed: setting in reference.csv; '' for a row that no paper prints.
    against: what it is tested against, on the pictures that both have scored,
      under the same condition; None takes the table's.
  """

  label: str
  place: Place | None
  condition: str
  printed: str = ''
  against: Place | None = None


class Table(NamedTuple):
  """A table of a paper.

  Attributes:
    key: its number, as in reference.csv.
    title: what it shows.
    rows: those printed, then ours.
    against: what its rows are tested against.
    note: one sentence on what its printed numbers can be.
    data: how the name of the data set begins that its numbers are of.
    elsewhere: pattern of more tests of its rows' folders: each that is there
      gives rows of its own, those of the folders that have it.
  """

  key: str
  title: str
  rows: Sequence[Row]
  against: Place | None = None
  note: str = ''
  data: str = ''
  elsewhere: str = ''


class Figure(NamedTuple):
  """Figures of a paper, shown by the same file of each of some runs.

  Attributes:
    key: their numbers.
    title: what they show.
    folders: of the runs.
    file: inside the run.
  """

  key: str
  title: str
  folders: Sequence[str]
  file: str


class Identity(NamedTuple):
  """What one run of a paper's metric keeps: score = offset + slope * of.

  Attributes:
    score: name of a printed metric.
    of: name of another one.
    offset: of the line.
    slope: of the line.
    within: how far rounding and chance can move it.
  """

  score: str
  of: str
  offset: float
  slope: float
  within: float


class Claim(NamedTuple):
  """What a paper says of its settings: that some are better than others.

  Attributes:
    text: the claim, and where it stands.
    folders: of what is said to be better.
    than: folders of what it is said to be better than.
    best: whether the best of each side is meant, not the mean.
  """

  text: str
  folders: Sequence[str]
  than: Sequence[str]
  best: bool = False


class Study(NamedTuple):
  """What the rows of one table say together.

  Attributes:
    table: its key.
    claims: to be judged.
    chance: two folders that differ by chance alone.
    chance_note: why they do.
  """

  table: str
  claims: Sequence[Claim]
  chance: tuple[str, str] | None = None
  chance_note: str = ''


class Gallery(NamedTuple):
  """Pictures of the data set with what rows of a table predict.

  Attributes:
    key: number of the figure.
    title: what it shows.
    table: key of the table, whose every row is shown for a few pictures that
      are evenly spaced; or
    good, bad: folders: these two alone, for the pictures where `good` is
      furthest above `bad` in the headline.
    count: pictures.
  """

  key: str
  title: str
  table: str
  good: str = ''
  bad: str = ''
  count: int = 4


class Paper(NamedTuple):
  """What a paper prints, and the runs that repeat it.

  Attributes:
    source: its name in reference.csv.
    name: of its configs and folder of runs.
    protocol: of our metrics that repeat its own.
    metrics: our key by printed name.
    tables: its tables.
    figures: its figures.
    note: on all of its numbers.
    identity: that its metric keeps, or None.
    headline: score that tells what a sentence does to one picture.
    curves: measures of training to plot.
    told: whether its models are told a sentence.
    study: what rows say together, or None.
    galleries: figures with pictures of the data set.
    options: more of them for the command of a run.
  """

  source: str
  name: str
  protocol: str
  metrics: Mapping[str, str]
  tables: Sequence[Table]
  figures: Sequence[Figure] = ()
  note: str = ''
  identity: Identity | None = None
  headline: str = 'mit/cc'
  curves: Sequence[str] = ('loss', 'eval/mit/cc', 'eval/mit/nss')
  told: bool = True
  study: Study | None = None
  galleries: Sequence[Gallery] = ()
  options: str = ''

  def command(self, folder: str) -> str:
    """Returns the command that makes a run and scores it."""
    command = COMMAND.format(paper=self.name, folder=folder)
    return command + self.options

  def printed(self, table: Table, row: Row) -> dict[str, float]:
    """Returns the printed numbers of a row by name; none where it has none."""
    return {
      r['metric']: r['value']
      for r in tables.published(self.source)
      if (r['table'], r['setting']) == (table.key, row.printed)
    }

  def label(self, place: Place, condition: str, *, inside: Table) -> str:
    """Returns what a place is called beside the rows of a table."""
    others = [t for t in reversed(self.tables) if t.key != inside.key]
    for table in (inside, *others):
      for row in table.rows:
        if (row.place, row.condition) == (place, condition):
          where = '' if table is inside else f' (Table {table.key})'
          return row.label + where
    return place.folder


def deviations(paper: Paper, table: Table) -> dict[str, float]:
  """Returns by label how far printed rows are from the paper's identity."""
  found, rule = {}, paper.identity
  for row in table.rows if rule else ():
    values = paper.printed(table, row)
    if rule.score in values and rule.of in values:
      want = rule.offset + rule.slope * values[rule.of]
      found[row.label] = values[rule.score] - want
  return found


def identity_note(paper: Paper, table: Table) -> str:
  """Returns one sentence: whether one run of the metric can print the table."""
  found, rule = deviations(paper, table), paper.identity
  if not found:
    return ''
  line = f'{rule.score} = {rule.offset:g} + {rule.slope:g} {rule.of}'
  # Printed with four decimals, so further ones are not there.
  off = {k: d for k, d in found.items() if round(abs(d), 5) > rule.within}
  if off:
    listed = ', '.join(f'{label} ({d:+.4f})' for label, d in off.items())
    return (
      f'The printed {rule.of} and {rule.score} are not from one run of the '
      f'released metric, which keeps {line} within {rule.within:g}; this '
      f'fails in {len(off)} of {len(found)} rows: {listed}.'
    )
  worst = max(map(abs, found.values()))
  return (
    f'The printed {rule.of} and {rule.score} can be from one run of the '
    f'released metric, whose identity {line} they keep within {worst:.5f}: '
    f'{rule.score} says nothing of its own.'
  )
