"""What a paper declares: which run stands beside which printed number.

reference.csv holds every row of every table once: its label, where our scores
of it lie, and the numbers that are printed of it, if any.
"""

import collections
import csv
import itertools
import pathlib
import tomllib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COMMAND = 'bash launch/paper.sh {paper} --only={folder}'


class Place(NamedTuple):
  """Where scores lie: <runs>/<folder>/seed<k>/evaluate/<test>/.

  Attributes:
    folder: parent of the run's seeds.
    test: name of the evaluation.
  """

  folder: str
  test: str = 'test'


class Row(NamedTuple):
  """A row of a table.

  Attributes:
    label: name in the table.
    place: place of its scores; None for what was printed alone.
    condition: condition of its scores.
    printed: printed numbers by metric; empty for a row that no paper prints.
    against: what it is tested against, on the images that both have scored,
      under the same condition; None takes the table's.
  """

  label: str
  place: Place | None
  condition: str
  printed: Mapping[str, float] = {}
  against: Place | None = None


class Table(NamedTuple):
  """A table of a paper.

  Attributes:
    key: its number, as in reference.csv.
    title: what it shows.
    rows: those printed, then ours.
    against: what its rows are tested against.
    notes: sentences on what its printed numbers can be.
    data: beginning of the name of the data set that its numbers are of.
    elsewhere: pattern of more tests of its rows' folders: each that is there
      gives rows of its own, those of the folders that have it.
  """

  key: str
  title: str
  rows: Sequence[Row]
  against: Place | None = None
  notes: Sequence[str] = ()
  data: str = ''
  elsewhere: str = ''


class Figure(NamedTuple):
  """Figures of a paper, drawn in the same file of each of some runs.

  Attributes:
    key: their numbers.
    title: what they show.
    folders: folders of the runs.
    file: path inside the run.
  """

  key: str
  title: str
  folders: Sequence[str]
  file: str


class Claim(NamedTuple):
  """What a paper says of its settings: that some are better than others.

  Attributes:
    text: the claim, and where it stands.
    folders: folders of what is claimed to be better.
    than: folders of what it is claimed to be better than.
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
    claims: claims to be judged.
    chance: two folders that differ by chance alone.
    chance_note: why they do.
  """

  table: str
  claims: Sequence[Claim]
  chance: tuple[str, str] | None = None
  chance_note: str = ''


class Gallery(NamedTuple):
  """Images of the data set with what rows of a table predict.

  Attributes:
    key: number of the figure.
    title: what it shows.
    table: key of the table, whose every row is drawn for a few images that
      are evenly spaced; or
    good, bad: folders: these two alone, for the images where `good` is
      furthest above `bad` in the headline.
    count: number of images.
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
    title: authors and title.
    name: name of its configs and folder of runs.
    protocol: protocol of our metrics that repeats its own.
    metrics: our key by printed name.
    tables: its tables.
    figures: its figures.
    note: sentence on all of its numbers.
    headline: score that tells what a sentence does to one image.
    curves: measures of training to plot.
    reads_text: whether its models read a sentence.
    study: what rows say together, or None.
    galleries: figures with images of the data set.
    options: further options for the command of a run.
  """

  title: str
  name: str
  protocol: str
  metrics: Mapping[str, str]
  tables: Sequence[Table]
  figures: Sequence[Figure] = ()
  note: str = ''
  headline: str = 'mit/cc'
  curves: Sequence[str] = ('loss', 'eval/mit/cc', 'eval/mit/nss')
  reads_text: bool = True
  study: Study | None = None
  galleries: Sequence[Gallery] = ()
  options: str = ''

  def command(self, folder: str) -> str:
    """Writes the command that makes a run and scores it."""
    return COMMAND.format(paper=self.name, folder=folder) + self.options

  def label(self, place: Place, condition: str, *, inside: Table) -> str:
    """Names a place beside the rows of a table."""
    for table in (inside, *reversed(self.tables)):
      for row in table.rows:
        if (row.place, row.condition) == (place, condition):
          same = table.key == inside.key
          return row.label + ('' if same else f' (Table {table.key})')
    return place.folder


def _rows() -> dict[tuple[str, str], list[Row]]:
  """Reads the rows of all tables, by paper and number of the table."""
  rows = collections.defaultdict(list)
  path = pathlib.Path(__file__).with_name('reference.csv')
  with open(path, encoding='utf-8', newline='') as f:
    for line in csv.DictReader(f):
      keys, cells = [*line], [*line.values()]
      paper, table, label, folder, test, condition, against = cells[:7]
      numbers = {k: float(v) for k, v in zip(keys[7:], cells[7:]) if v}
      place = Place(folder, test) if folder else None
      # On the same evaluation as the row itself.
      other = Place(against, test) if against else None
      row = Row(label, place, condition, numbers, other)
      rows[paper, table].append(row)
  return rows


def read(name: str) -> Paper:
  """Reads a paper as declared in <name>.toml.

  Its groups are names of several folders for the sides of claims, its phrases
  what notes have in common.
  """
  path = pathlib.Path(__file__).with_name(f'{name}.toml')
  tree = tomllib.loads(path.read_text(encoding='utf-8'))
  phrases, groups = tree.pop('phrases', {}), tree.pop('groups', {})
  rows, tables = _rows(), []
  for table in tree.pop('tables'):
    if 'against' in table:
      table['against'] = Place(*table['against'])
    notes = [note.format(**phrases) for note in table.pop('notes', ())]
    tables.append(Table(**table, rows=rows[name, table['key']], notes=notes))
  figures = [Figure(**figure) for figure in tree.pop('figures')]
  galleries = [Gallery(**gallery) for gallery in tree.pop('galleries', ())]
  if study := tree.pop('study', None):
    for claim in study['claims']:
      for side in ('folders', 'than'):
        each = (groups.get(entry, [entry]) for entry in claim[side])
        claim[side] = [*itertools.chain(*each)]
    study = Study(**study | {'claims': [Claim(**c) for c in study['claims']]})
  return Paper(
    name=name,
    tables=tables,
    figures=figures,
    galleries=galleries,
    study=study,
    **tree,
  )
