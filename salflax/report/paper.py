"""Papers' tables and figures, declared: which run stands beside which number.

A new table is a `Table` in a `Paper`, a new paper an entry of `PAPERS`.
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
    place: of its scores.
    condition: which of them.
    printed: setting in reference.csv; '' for a row that no paper prints.
    against: what it is tested against, on the pictures that both have scored,
      under the same condition; None takes the table's.
  """

  label: str
  place: Place
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
  """

  key: str
  title: str
  rows: Sequence[Row]
  against: Place | None = None
  note: str = ''
  data: str = ''


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


_FREE = 'SALICON_pretrained'
_BASE = 'non_salient_1att_last2conv'
_CONDITIONS = ('pure', 'non_salient', 'salient', 'all')
_DIRECT = Place(_FREE, 'sjtu_tis-test')


def _spaced(name: str) -> str:
  return name.replace('_', ' ')


def _finetuned(condition):
  # Table III's row is the run of Table IV's first row.
  apart = condition == 'non_salient'
  folder = _BASE if apart else f'finetuned_{condition}'
  printed = f'finetuned_{condition}'
  return Row(_spaced(condition), Place(folder), condition, printed)


def _non_salient(setting, label, *, ours=False):
  printed = '' if ours else setting
  return Row(label, Place(setting), 'non_salient', printed)


_TEXT_GUIDED = Paper(
  source='huang2024',
  name='text_guided',
  protocol='course',
  metrics={
    'AUC': 'course/course_auc',
    'sAUC': 'course/course_sauc',
    'CC': 'course/course_cc',
    'NSS': 'course/course_nss',
  },
  identity=Identity('sAUC', 'AUC', 0.25, 0.5, 2e-4),
  note=(
    'The released code prints running averages of training as validation, '
    'scores the first batch of it alone, and splits anew at every start: '
    'printed numbers may not be of pictures that were held out.'
  ),
  tables=(
    Table(
      'I',
      'Pretrained on SALICON, free viewing',
      (Row('SALICON', Place(_FREE), 'pure', _FREE),),
      data='salicon',
      note=(
        'The released data class opens the training folders whatever it is '
        'told, so the printed row may be of training pictures.'
      ),
    ),
    Table(
      'II',
      'The pretrained model on SJTU-TIS, not fine-tuned',
      tuple(Row(_spaced(c), _DIRECT, c, f'direct_{c}') for c in _CONDITIONS),
      data='sjtu_tis',
    ),
    Table(
      'III',
      'Fine-tuned on SJTU-TIS',
      (
        *map(_finetuned, _CONDITIONS),
        *(
          Row(
            f'{_spaced(c)}, one model for all conditions',
            Place('all_conditions'),
            c,
            against=_finetuned(c).place,
          )
          for c in _CONDITIONS
        ),
      ),
      against=_DIRECT,
      data='sjtu_tis',
    ),
    Table(
      'IV',
      'Non-salient: where attention stands, and what trains',
      (
        _non_salient(_BASE, '1 attention + the last 2 conv'),
        _non_salient('non_salient_3att_none', '3 attention + none'),
        _non_salient(
          'non_salient_3att_last2conv', '3 attention + the last 2 conv'
        ),
        _non_salient(
          'non_salient_3att_last4conv', '3 attention + the last 4 conv'
        ),
        _non_salient(
          'non_salient_3att_all_decoder', '3 attention + all decoder'
        ),
        _non_salient('non_salient_gate', 'gate, as released', ours=True),
        _non_salient('non_salient_full', 'equation 4 as printed', ours=True),
        _non_salient('non_salient_lowrank', 'low rank', ours=True),
        _non_salient('non_salient_bilinear', 'bilinear', ours=True),
      ),
      against=Place(_BASE),
      data='sjtu_tis',
    ),
    Table(
      'V',
      'Non-salient: text inside the transformer encoders',
      (
        _non_salient(
          'non_salient_scheme2_transencoder', 'cross-attention in TransEncoder'
        ),
        _non_salient('non_salient_te_bilinear', 'bilinear', ours=True),
        _non_salient('non_salient_te_prepend', 'prepended', ours=True),
        _non_salient('non_salient_sam_text', 'gate in SAM', ours=True),
      ),
      against=Place(_BASE),
      data='sjtu_tis',
    ),
    Table(
      'VI',
      'Non-salient: with a contrastive loss',
      (
        _non_salient('non_salient_scheme3_contrastive', 'contrastive loss'),
        _non_salient(
          'non_salient_contrastive_order', 'order loss, as released', ours=True
        ),
        _non_salient('non_salient_contrastive_only', 'no attention', ours=True),
      ),
      against=Place(_BASE),
      data='sjtu_tis',
    ),
  ),
  figures=(
    Figure(
      '2 to 6',
      'What another sentence changes: people, and the model',
      ('all_conditions', _BASE, 'finetuned_salient'),
      'evaluate/test/difference.png',
    ),
  ),
)

PAPERS = {paper.name: paper for paper in (_TEXT_GUIDED,)}
