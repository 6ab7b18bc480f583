"""A whole evaluation: a predictor, references, controls, tests and files."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from salflax.core import files, paths
from salflax.core.types import Example
from salflax.evaluate import map_folder, sentences
from salflax.evaluate import references as references_lib
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib
from salflax.evaluate.rows import Row

# Controls: the same images, other sentences.
SENTENCES = {
  'wrong': 'Wrong sentence',
  'other': "Same image's other sentence",
  'none': 'No sentence',
}


class Outcome(NamedTuple):
  """Results of one evaluation.

  Attributes:
    result: content of summary.json.
    rows: scores of each image by predictor: 'model', and the names of
      references and controls.
    notes: sentences on what was left out, and why.
  """

  result: dict[str, Any]
  rows: dict[str, list[Row]]
  notes: list[str]


def without_baseline(protocols: scorer_lib.Protocols) -> scorer_lib.Protocols:
  """Leaves out the metrics that need training images."""
  return {
    name: [m for m in bound if 'baseline' not in m.needs]
    for name, bound in protocols.items()
  }


def _needs(protocols: scorer_lib.Protocols, field: str) -> bool:
  return any(field in m.needs for bound in protocols.values() for m in bound)


def describe(protocols: scorer_lib.Protocols) -> dict[str, Any]:
  """Describes each protocol's metrics, for tables."""
  return {
    name: {
      'num_others': scorer_lib.NUM_OTHERS.get(name),
      'metrics': {
        m.key: {
          'label': m.label,
          'higher_is_better': m.higher_is_better,
          'spec': m.text,
        }
        for m in bound
      },
    }
    for name, bound in protocols.items()
  }


def run(
  predictor: Any,
  source: Sequence[Example],
  protocols: scorer_lib.Protocols,
  *,
  label: str = 'model',
  baselines: Sequence[Example] | None = None,
  whole: Sequence[Example] | None = None,
  controls: bool = False,
  keep: str | os.PathLike | None = None,
  seed: int = 0,
  threads: int | None = None,
  progress: bool = False,
) -> Outcome:
  """Scores a predictor, and what it must pass; every host has the outcome.

  Args:
    predictor: anything with `predict(pairs) -> maps`: see `scorer.maps_of`.
      Where its `reads_text` is False, there are no other sentences.
    source: rows to score.
    protocols: bound metrics by protocol.
    label: name of the predictor in tables.
    baselines: training rows of the same data set, for the centre prior, but for
      images that are scored. None leaves it out, and metrics that need it.
    whole: the rows' split in all conditions, for references that look at them
      and for other images' fixations; `source` itself if None.
    controls: adds the predictors of `references.references`, and the predictor
      with other sentences: `SENTENCES`.
    keep: folder for the predictor's maps; None keeps none.
    seed: seed of the exchange of sentences.
    threads: threads that score, by default one per processor.
    progress: shows progress bars.
  """
  prior = others = None
  whole = source if whole is None else whole
  baselines, notes = references_lib.without_scored(baselines, source)
  if baselines is None:
    protocols = without_baseline(protocols)
  elif controls or _needs(protocols, 'baseline'):
    prior = references_lib.CentrePrior(baselines, threads=threads)
  if _needs(protocols, 'other_fixations'):
    others = scorer_lib.OtherFixations(whole, threads=threads)

  def score(predictor, view, name):
    scorer = scorer_lib.Scorer(view, protocols, baseline=prior, others=others)
    return scorer_lib.score(
      predictor, scorer, threads=threads, progress=name if progress else ''
    )

  scored = predictor
  if keep:
    scored = map_folder.Keep(predictor, keep, threads=threads)
  rows, labels = {'model': score(scored, source, label)}, dict(SENTENCES)
  if controls:
    others_too, too_few = _controls(predictor, source, whole, prior, seed)
    notes += too_few
    for name, (one, view, title) in others_too.items():
      if len(view):
        rows[name], labels[name] = score(one, view, title), title
  result = summarise(rows, labels, label, describe(protocols))
  return Outcome(result, rows, notes)


def _controls(predictor, source, whole, prior, seed):
  """Lists name -> (predictor, its rows, its title) beside the model; notes."""
  controls, notes = {}, []
  if getattr(predictor, 'reads_text', True):
    views, notes = sentences.controls(source, whole, seed=seed)
    for name, view in views.items():
      controls[name] = predictor, view, SENTENCES[name]
  for name, reference in references_lib.references(prior, whole).items():
    controls[name] = reference, reference.covered(source), reference.label
  return controls, notes


def folder_name(data: str = '', **settings: Any) -> str:
  """Names the folder of an evaluation by all that is not the run's own.

  Args:
    data: data sets.
    **settings: split, conditions, protocols and so on: text, lists of text or
      numbers; empty ones are left out. Nothing at all: 'test'.
  """
  words = [data] * bool(data)
  for key, value in settings.items():
    text = '+'.join(value) if isinstance(value, list | tuple) else value
    if text not in ('', None):
      words.append(f'{key}={text}')
  name = '-'.join(words) or 'test'
  return ''.join(c if c.isalnum() or c in '-_+.,=:' else '_' for c in name)


def labels_of(result: Mapping[str, Any]) -> dict[str, str]:
  """Lists the labels of references and controls in summary.json, by name."""
  parts = (result.get(part, {}) for part in ('controls', 'references'))
  return {k: v['label'] for part in parts for k, v in part.items()}


def summarise(
  rows: Mapping[str, rows_lib.Rows],
  labels: Mapping[str, str],
  label: str,
  protocols: Mapping[str, Any],
) -> dict[str, Any]:
  """Makes the content of summary.json: means, intervals and paired tests.

  Args:
    rows: by predictor, as in `Outcome`.
    labels: labels of references and controls, by name.
    label: label of the predictor itself.
    protocols: as of `describe`.
  """
  model, tests = rows['model'], {}
  parts = {'references': {}, 'controls': {}}
  for name, scored in rows.items():
    if name == 'model':
      continue
    part = 'controls' if name in SENTENCES else 'references'
    parts[part][name] = {
      'label': labels[name],
      'scores': rows_lib.summarise(scored),
    }
    tests[name] = rows_lib.compare(model, scored)
  return {
    'model': label,
    'versions': rows_lib.versions(),
    'protocols': protocols,
    'scores': rows_lib.summarise(model),
    **parts,
    'tests': tests,
  }


def write(
  folder: str | os.PathLike,
  outcome: Outcome,
  tables: Sequence[str] = (),
  **about: Any,
) -> pathlib.Path:
  """Writes per_image.csv, summary.json and tables.md; returns the folder.

  Args:
    folder: folder of the files, new or not.
    outcome: result of `run`; the rows of references and controls go to
      per_image_<name>.csv.
    tables: Markdown.
    **about: more keys for the head of summary.json, e.g. data and split.
  """
  folder = paths.path(folder)
  for name, rows in outcome.rows.items():
    suffix = '' if name == 'model' else f'_{name}'
    rows_lib.write_rows(folder / f'per_image{suffix}.csv', rows)
  if tables:
    files.write_text(folder / 'tables.md', '\n'.join(tables))
  for name in {*SENTENCES, *references_lib.NAMES} - {*outcome.rows}:
    # Left by an earlier evaluation of the same name.
    (folder / f'per_image_{name}.csv').unlink(missing_ok=True)
  # Last, so that a summary stands for a complete folder.
  rows_lib.write_json(folder / 'summary.json', about | outcome.result)
  return folder
