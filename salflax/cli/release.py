"""Makes a folder to share of a trained run: weights, config and model card.

    salflax release --run=runs/lite --to=salflax/predict/released
    salflax release --run=runs/a,runs/b,runs/c --to=mine \\
        --card_scores=docs/results/lite.md

Several runs of one network are joined to one that averages their maps. Weights
are written as float16; those of pip packages stay there, by their checksum. The
folder can be pushed to the Hugging Face Hub as it is.
"""

import pathlib
from typing import Any

from absl import flags

from salflax import cli


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  text, several = flags.DEFINE_string, flags.DEFINE_list
  scores = (
    'Scores for the card: folders, summary.json or per_image.csv of salflax '
    'evaluate, or tables as .csv or .md. By default what the first run has in '
    'evaluate/test.'
  )
  cli.define(
    values,
    (several, 'run', [], 'Folders of runs, joined by commas.'),
    (text, 'stage', '', 'Stage of the runs; by default the last.'),
    (text, 'to', None, 'Folder of the released model.'),
    (text, 'name', '', 'Name of the model; by default salflax-<network>.'),
    (several, 'card_scores', [], scores),
  )


def execute(options: Any) -> int:
  """Writes the released model."""
  if not options.run or not options.to:
    raise cli.UsageError('Give --run and --to.')
  from salflax.core import hub
  from salflax.predict import released, trained
  from salflax.report import card

  scores, own = options.card_scores, pathlib.Path(options.run[0])
  if not scores and (path := own / 'evaluate/test/summary.json').is_file():
    scores = [path]
  tables = [text for path in scores for text in card.score_tables(path)]
  runs = [trained.load(run, stage=options.stage) for run in options.run]
  network = runs[0].config['model']['name']
  name = options.name or f'salflax-{network}'
  config, about = released.write(options.to, runs, name=name)
  card.write(
    options.to,
    config,
    tables,
    name=name,
    members=len(runs),
    packages=[hub.package_of(p['name']) for p in about['packages'].values()],
  )
  files = [p for p in pathlib.Path(options.to).rglob('*') if p.is_file()]
  size = sum(p.stat().st_size for p in files) / 1e6
  print(f'{name}: {size:.1f} MB in {options.to}')
  if not tables:
    cli.say('Note: the card has no scores: name some by --card_scores.')
  return cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
