"""Scores a run, or a folder of maps made by any other model.

    python -m salflax.cli.evaluate --run=runs/tsn --controls
    python -m salflax.cli.evaluate --run=runs/tsn --data=osie --split=test
    python -m salflax.cli.evaluate --maps=maps --data=sjtu_tis --split=test \\
        --protocols=mit,tuebingen

Maps are .npy, or grey PNG or JPEG of 8 or 16 bits, named <image_id>_<condition>
(also <image_id>_0 pure, <image_id> whole, _1 all, _2 non_salient, _3 salient),
or <image_id> for a model that reads no text. Any size will do: a map is resized
bilinearly to its picture, and a map of another aspect is named.

Writes per_image.csv, summary.json and tables.md, and prints the table.
"""

import functools
import os
import pathlib
from typing import Any

from absl import flags

from salflax import cli

_TEXT, _LIST, _BOOL = flags.DEFINE_string, flags.DEFINE_list, flags.DEFINE_bool
_WHAT = (
  (_TEXT, 'run', None, 'Folder of a run, to score its model.'),
  (_TEXT, 'stage', '', 'Its stage; the last by default.'),
  (_TEXT, 'maps', None, 'Folder of maps, to score them.'),
  (_TEXT, 'data', '', "Name of a prepared data set; a run's own by default."),
  (_TEXT, 'data_dir', '', 'Where prepared data sets are.'),
  (
    _TEXT,
    'split',
    '',
    "Split to score; a run's own by default, test for --maps.",
  ),
  (
    _TEXT,
    'train_split',
    '',
    "Split whose pictures make the centre prior, which IG needs: a run's "
    'training split by default, train for --maps; none leaves both out.',
  ),
  (_LIST, 'conditions', [], 'Conditions to score, e.g. salient,non_salient.'),
)
_HOW = (
  (
    _LIST,
    'protocols',
    None,
    'Conventions of the metrics: mit, tuebingen, salicon, course; "mit|emd" '
    'adds a metric. By default mit and course, or what the run says.',
  ),
  (
    _BOOL,
    'controls',
    False,
    'Also score what the model must pass (centre prior, human maps of the same '
    "picture) and, for a run, the model with another picture's sentence and "
    'with none; with paired tests.',
  ),
  (
    _BOOL,
    'partial',
    False,
    'Score the usable maps where some are missing or broken.',
  ),
  (
    flags.DEFINE_integer,
    'figures',
    0,
    'Draw so many pictures with their maps, for a run.',
  ),
  (
    _BOOL,
    'keep_maps',
    False,
    'Keep every map of a run as a grey PNG of 8 bits, at the size of the '
    'network, in maps/ beside the scores; --maps can score them again.',
  ),
  (
    _BOOL,
    'store',
    False,
    'Store what is frozen in the cache of the run, for further runs that share '
    'it, and take what is there.',
  ),
  (flags.DEFINE_integer, 'seed', 0, 'Of the exchange of sentences.'),
  (flags.DEFINE_integer, 'threads', None, 'That score; all by default.'),
  (
    _TEXT,
    'out',
    None,
    'Folder for the files; by default in the run, or beside the maps.',
  ),
)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
  """Defines the options; not on import, as commands share their names."""
  for kind, name, default, told in (*_WHAT, *_HOW):
    kind(name, default, told, flag_values=values)


def _train(options, default, load):
  name = options.train_split or default
  return None if name == 'none' else load(name)


def _name(workdir):
  """Returns what a run is called in tables; seeds go by their setting."""
  setting = f'{workdir.parent.name}/' if workdir.name.startswith('seed') else ''
  return setting + workdir.name


def _of_run(options):
  """Returns arguments of `benchmark.run`, and what the summary says of it."""
  from salflax import metrics
  from salflax.config import resolve as config_lib
  from salflax.evaluate import map_folder
  from salflax.evaluate import run as run_lib
  from salflax.predict import trained

  run = trained.load(options.run, stage=options.stage)
  source = run.load_source(
    options.data, options.split, options.conditions, options.data_dir
  )
  data = options.data or run.section['data']
  split = options.split or run.section['test_split']
  if seen := run.trained_on(data, source, options.data_dir):
    cli.say(f'Note: the run was trained on {seen} of the pictures scored here.')
  folder = config_lib.data_dir(options.data_dir or run.config['data_dir'])
  load = functools.partial(config_lib.load_rows, data, folder=folder)
  # The centre bias is that of the pictures scored, wherever the model learnt.
  own = not options.data and not options.train_split
  limit = run.section['limit'] if own else 0
  train = _train(
    options, run.section['split'], functools.partial(load, limit=limit)
  )
  protocols = metrics.bind_protocols(options.protocols or run.protocols)
  where = '-'.join(filter(None, [options.data, options.split])) or 'test'
  scores = pathlib.Path(run.workdir) / 'evaluate' / where
  scores = pathlib.Path(options.out or scores)

  def rows_of(view, **kwargs):
    predict_fn = run.predict_fn
    if options.keep_maps and view is source:
      predict_fn = map_folder.keeping(predict_fn, view, scores / 'maps')
    return run_lib.rows_of_model(
      predict_fn,
      run.variables,
      functools.partial(run.eval_batches, store=options.store),
      protocols,
      threads=options.threads,
    )(view, **kwargs)

  name = _name(pathlib.Path(run.workdir))
  about = {
    'run': name,
    'stage': run.stage.name,
    'step': run.at,
    'data': data,
    'split': split,
    'conditions': options.conditions or run.section['conditions'],
  }
  kwargs = dict(train=train, whole=load(split), sentences=options.controls)
  return (rows_of, source, protocols), dict(kwargs, label=name), about, scores


def _of_maps(options):
  """As `_of_run`, of a folder of maps."""
  from salflax import metrics
  from salflax.config import resolve as config_lib
  from salflax.evaluate import map_folder
  from salflax.evaluate import run as run_lib

  if not options.data:
    raise ValueError('--maps needs --data: the data set whose maps they are.')
  split = options.split or 'test'
  load = lambda split, conditions=(): config_lib.load_rows(
    options.data, split, config_lib.data_dir(options.data_dir), conditions
  )
  source = load(split, options.conditions)
  train = _train(options, 'train', load)
  protocols = metrics.bind_protocols(options.protocols or ['mit', 'course'])
  matched = map_folder.match(options.maps, source)
  checked = map_folder.check(matched, source, threads=options.threads)
  cli.say(*map_folder.notes(matched, checked))
  faults = map_folder.faults(matched, checked)
  if faults and not options.partial:
    raise ValueError(
      '\n  '.join([f'{options.maps}: these maps cannot be scored:', *faults])
      + '\nMend them, or give --partial to score the others.'
    )
  cli.say(*faults)
  paths = {
    index: path
    for index, path in matched.paths.items()
    if index not in checked.unusable
  }
  rows_of = run_lib.rows_of_maps(
    paths, map_folder.predict, protocols, threads=options.threads
  )
  folder = pathlib.Path(os.path.abspath(options.maps))
  about = {
    'maps': folder.name,
    'scored': len(paths),
    'rows': len(source),
    'data': options.data,
    'split': split,
    'conditions': options.conditions,
  }
  kwargs = dict(train=train, whole=load(split), label=folder.name)
  out = folder.with_name(f'{folder.name}-scores')
  return (rows_of, source, protocols), kwargs, about, out


def _draw(options, source, whole, folder) -> None:
  from salflax.predict import examples
  from salflax.predict import predictor as predictor_lib
  from salflax.report import figures, plots

  predictor = predictor_lib.Predictor.load(options.run, stage=options.stage)
  shown = examples.predict(
    predictor, source, options.figures, seed=options.seed
  )
  plots.conditions_figure(shown, folder / 'conditions.png')
  if any('none' in row for example in shown for row in example['rows']):
    plots.sentences_figure(shown, folder / 'sentences.png')
    # A model of one condition can be told the sentences of others, too.
    if pairs := examples.contrast(predictor, whole, options.figures):
      figures.difference_figure(pairs, folder / 'difference.png')


def _draw_centre(train, folder, threads) -> None:
  from salflax.data import center
  from salflax.report import figures

  mean = center.mean_map(train, threads=threads)
  figures.centre_figure(mean, folder / 'centre_bias.png')


def options(**given: Any) -> flags.FlagValues:
  """Returns options as the command line has them, `given` ones set.

  Raises:
    AttributeError: for an option that does not exist.
  """
  values = flags.FlagValues()
  define_flags(values)
  values.mark_as_parsed()
  for key, value in given.items():
    setattr(values, key, value)
  return values


def execute(options: Any) -> None:
  """Scores what the options name, writes the files, prints the tables."""
  import jax

  from salflax.evaluate import run as run_lib
  from salflax.report import tables

  if bool(options.run) == bool(options.maps):
    raise ValueError('Give either --run or --maps.')
  args, kwargs, about, folder = (
    _of_run(options) if options.run else _of_maps(options)
  )
  outcome = run_lib.run(
    *args,
    references=options.controls,
    seed=options.seed,
    threads=options.threads,
    progress=jax.process_index() == 0,
    **kwargs,
  )
  if jax.process_index():
    return
  result = about | outcome.result
  shown = tables.score_tables(result) + tables.paired_tables(result)
  if 'course' in result['protocols']:
    shown.append(tables.beside_paper(result))
  folder = pathlib.Path(options.out or folder)
  run_lib.write(folder, outcome, [t.markdown() for t in shown], **about)
  if options.run and options.figures:
    _draw(options, args[1], kwargs['whole'], folder)
  if options.controls and kwargs['train'] is not None:
    _draw_centre(kwargs['train'], folder, options.threads)
  for table in tables.score_tables(result, interval=False):
    print(table.markdown())
  if kwargs['train'] is None:
    cli.say('Without training pictures there is no centre prior, hence no IG.')
  print(f'Written to {folder}: summary.json, per_image.csv, tables.md')


def run() -> None:
  """The command line."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
