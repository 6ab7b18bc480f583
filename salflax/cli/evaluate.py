"""Scores a run, or a folder of maps from any other model.

    salflax evaluate --run=runs/tsn --controls
    salflax evaluate --run=runs/tsn --data=osie --split=test
    salflax evaluate --maps=maps --data=sjtu_tis --split=test \\
        --protocols=mit,tuebingen
    salflax evaluate --join=fold0/evaluate/test,fold1/evaluate/test --out=folds

Maps are .npy, or grey PNG or JPEG of 8 or 16 bits, named <image_id>_<condition>
(also <image_id>_0 pure, <image_id> whole, _1 all, _2 non_salient, _3 salient),
or <image_id> for a model that reads no text. Any size will do: a map is resized
bilinearly to its image, and a map of another aspect is named. Maps that
`predict` wrote need no names: its predictions.json is read.

Writes per_image.csv, summary.json and tables.md, and prints the table.
"""

from typing import Any

from absl import flags

from salflax import cli
from salflax.core import paths

_PRIOR = (
  "Split whose images make the centre prior, which IG needs: a run's training "
  'split by default, train for --maps; none leaves both out.'
)
_PROTOCOLS = (
  'Conventions of the metrics: mit, tuebingen, salicon, course; "mit|emd" adds '
  'a metric. By default mit and course, or what the run says.'
)
_CONTROLS = (
  'Also score predictors that the model must pass (centre prior, human maps of '
  "the same image) and, for a run, the model with another image's sentence, "
  "the same image's other sentence and none; with paired tests. By default as "
  'the run says, and not for --maps.'
)
_KEEP = (
  'Keep every map of a run as a grey PNG of 8 bits, of the size of its image, '
  'in maps/ beside the scores; --maps can score them again.'
)
_JOIN = (
  'Folders of evaluations of different images, such as folds, to join to one '
  'in --out.'
)
_STORE = (
  'Store features of frozen parts in the cache of the run, for further runs '
  'that share it, and take those that are there.'
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the options; not on import, as commands share their names."""
  text, many, switch = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_bool
  number, own = flags.DEFINE_integer, "a run's own by default"
  partial = 'Score the usable maps where some are missing or broken.'
  threads = 'Threads that score; by default one per processor.'
  out = 'Folder for the files; by default in the run, or beside the maps.'
  figures = 'Draw so many images with their maps, for a run.'
  conditions = 'Conditions to score, e.g. salient,non_salient.'
  cli.define(
    values,
    (text, 'run', None, 'Folder of a run, to score its model.'),
    (text, 'stage', '', 'Its stage; the last by default.'),
    (many, 'join', [], _JOIN),
    (text, 'maps', None, 'Folder of maps, or an .hdf5 of log-densities.'),
    (text, 'data', '', f'Name of a prepared data set; {own}.'),
    (text, 'data_dir', '', 'Where prepared data sets are.'),
    (text, 'split', '', f'Split to score; {own}, test for --maps.'),
    (text, 'train_split', '', _PRIOR),
    (many, 'conditions', [], conditions),
    (many, 'protocols', None, _PROTOCOLS),
    (switch, 'controls', None, _CONTROLS),
    (switch, 'partial', False, partial),
    (number, 'figures', 0, figures, 0),
    (switch, 'keep_maps', False, _KEEP),
    (switch, 'store', False, _STORE),
    (number, 'seed', 0, 'Seed of the exchange of sentences.', 0),
    (number, 'threads', None, threads, 1),
    (text, 'out', None, out),
  )


def _draw(subject, figures, seed) -> None:
  from salflax.predict import examples
  from salflax.predict.predictor import Predictor
  from salflax.report import figures as figures_lib
  from salflax.report import plots

  predictor = Predictor(subject.predictor)
  rows = examples.predict(predictor, subject.source, figures, seed=seed)
  folder = subject.folder
  plots.conditions_figure(rows, folder / 'conditions.png')
  if any('none' in row for example in rows for row in example['rows']):
    plots.sentences_figure(rows, folder / 'sentences.png')
    # A model of one condition can read the sentences of others, too.
    if pairs := examples.contrast(predictor, subject.whole, figures):
      figures_lib.difference_figure(pairs, folder / 'difference.png')


def _draw_centre(train, folder, threads) -> None:
  from salflax.data import center
  from salflax.report import figures

  mean = center.mean_map(train, threads=threads)
  figures.centre_figure(mean, folder / 'centre_bias.png')


def evaluate(
  subject: Any,
  *,
  keep_maps: bool = False,
  figures: int = 0,
  seed: int = 0,
  threads: int | None = None,
) -> None:
  """Scores a subject, writes the files and prints the tables.

  Args:
    subject: see `predict.subjects`.
    keep_maps: whether every map is kept as a file.
    figures: number of images drawn with their maps, for a run.
    seed: seed of the exchange of sentences.
    threads: threads that score.
  """
  import jax

  from salflax import metrics
  from salflax.evaluate import run as run_lib

  folder, first = subject.folder, jax.process_index() == 0
  outcome = run_lib.run(
    subject.predictor,
    subject.source,
    metrics.bind_protocols(subject.protocols),
    label=subject.label,
    baselines=subject.baselines,
    whole=subject.whole,
    controls=subject.controls,
    keep=folder / 'maps' if keep_maps else None,
    seed=seed,
    threads=threads,
    progress=first,
  )
  if not first:
    return
  _report(folder, outcome, subject.about)
  # One process alone cannot use a network that several share.
  if figures and subject.predictor.reads_text and jax.process_count() == 1:
    _draw(subject, figures, seed)
  if subject.controls and subject.baselines is not None:
    _draw_centre(subject.baselines, folder, threads)
  if seen := subject.about.get('trained_on'):
    cli.say(f'Note: the run was trained on {seen} of the images scored here.')
  if subject.baselines is None:
    cli.say('Note: without training images there is no centre prior and no IG.')


def _report(folder, outcome, about) -> None:
  """Writes the files of an evaluation and prints its tables."""
  from salflax.evaluate import run as run_lib
  from salflax.report import tables

  result = about | outcome.result
  printed = tables.score_tables(result) + tables.paired_tables(result)
  if 'course' in result['protocols']:
    printed.append(tables.beside_paper(result))
  # First: what cannot be written is not lost.
  for table in tables.score_tables(result, interval=False):
    print(table.text(names=2), flush=True)
  run_lib.write(folder, outcome, [t.markdown() for t in printed], **about)
  cli.say(*(f'Note: {note}' for note in outcome.notes))
  print(f'Written to {folder}: summary.json, per_image.csv, tables.md')


def _join(options) -> int:
  """Joins evaluations of folds, as the options name them."""
  from salflax.evaluate import join

  if options.run or options.maps or not options.out:
    raise ValueError('--join goes with --out, and without --run and --maps.')
  folder = paths.path(options.out)
  about, outcome = join.join(options.join, label=folder.name)
  _report(folder, outcome, about)
  return cli.DONE


def execute(options: Any) -> int:
  """Evaluates the run or the maps that the options name; returns the exit code.

  1 where maps were left out.
  """
  if options.join:
    return _join(options)
  if bool(options.run) == bool(options.maps):
    raise ValueError('Give either --run or --maps.')
  cli.keep_programs()
  from salflax import metrics
  from salflax.predict import subjects, trained

  # The flag splits at every comma, those between options too.
  rows = dict(
    protocols=metrics.split_protocols(','.join(options.protocols or ())),
    conditions=options.conditions,
    data=options.data,
    data_dir=options.data_dir,
  )
  if options.run:
    if options.partial:
      raise ValueError('--partial is for --maps: it does nothing for --run.')
    subject = subjects.of_run(
      trained.load(options.run, stage=options.stage),
      **rows,
      split=options.split,
      train_split=options.train_split,
      controls=options.controls,
      store=options.store,
      seed=options.seed,
    )
  else:
    for flag in ('stage', 'keep_maps', 'store', 'figures', 'seed'):
      if getattr(options, flag):
        raise ValueError(f'--{flag} is for --run: it does nothing for --maps.')
    if not options.data:
      raise ValueError('--maps needs --data: the data set whose maps they are.')
    subject, notes = subjects.of_maps(
      options.maps,
      **rows,
      split=options.split or 'test',
      train_split=options.train_split or 'train',
      controls=bool(options.controls),
      partial=options.partial,
      threads=options.threads,
    )
    cli.say(*notes)
  if options.out:
    subject = subject._replace(folder=paths.path(options.out))
  evaluate(
    subject,
    keep_maps=options.keep_maps,
    figures=options.figures,
    seed=options.seed,
    threads=options.threads,
  )
  left_out = subject.about.get('rows', 0) > subject.about.get('scored', 0)
  return cli.FAILED if left_out else cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
