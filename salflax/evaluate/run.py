"""A whole evaluation: a predictor, what it is held to, tests and files."""

import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from salflax.core import files
from salflax.core.types import Example
from salflax.evaluate import references as references_lib
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib
from salflax.evaluate.rows import Row

# What a sentence does to a model: the same pictures, other sentences.
SENTENCES = {'wrong': 'Wrong sentence', 'none': 'No sentence'}


class Outcome(NamedTuple):
  """What one evaluation found.

  Attributes:
    result: what summary.json holds.
    rows: by predictor: 'model', and the names of references and controls.
  """

  result: dict[str, Any]
  rows: dict[str, list[Row]]


def without_baseline(protocols: scorer_lib.Protocols) -> scorer_lib.Protocols:
  """Returns the protocols without the metrics that need training pictures."""
  return {
    name: [m for m in bound if 'baseline' not in m.needs]
    for name, bound in protocols.items()
  }


def _needs(protocols: scorer_lib.Protocols, field: str) -> bool:
  return any(field in m.needs for bound in protocols.values() for m in bound)


def describe(protocols: scorer_lib.Protocols) -> dict[str, Any]:
  """Returns what a table needs to know of each protocol's metrics."""
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
  rows_of: Callable[..., list[Row]],
  source: Sequence[Example],
  protocols: scorer_lib.Protocols,
  *,
  label: str,
  train: Sequence[Example] | None = None,
  whole: Sequence[Example] | None = None,
  references: bool = False,
  sentences: bool = False,
  seed: int = 0,
  threads: int | None = None,
  progress: bool = False,
) -> Outcome:
  """Scores a predictor, and on the same pictures what it must pass.

  Args:
    rows_of: `(source, baseline=, others=, progress=) -> rows`; called on all
      hosts.
    source: the rows to score.
    protocols: bound metrics by protocol.
    label: the predictor's name in tables.
    train: training pictures, for the centre prior; None leaves out the prior
      and every metric that needs it.
    whole: the same pictures in all their conditions, for the references that
      look at them; `source` itself if None.
    references: adds the predictors of `reference.references`.
    sentences: adds the wrong-sentence control and the empty sentence.
    seed: of the exchange of sentences.
    threads: number of scoring threads.
    progress: shows progress bars.

  Returns:
    On the first host everything; on the others the rows of the predictor.
  """
  prior = others = None
  if train is None:
    protocols = without_baseline(protocols)
  elif references or _needs(protocols, 'baseline'):
    prior = references_lib.CentrePrior(train, threads=threads)
  if _needs(protocols, 'other_fixations'):
    others = scorer_lib.OtherFixations(source, threads=threads)
  providers = {'baseline': prior, 'others': others}

  def said(name):
    return name if progress else ''

  rows = {'model': rows_of(source, progress=said(label), **providers)}
  if sentences and len(references_lib.with_text(source)):
    views = {
      'wrong': references_lib.wrong_sentence(source, seed=seed),
      'none': references_lib.no_sentence(source),
    }
    for name, view in views.items():
      rows[name] = rows_of(view, progress=said(SENTENCES[name]), **providers)
  labels = dict(SENTENCES)
  if references and jax.process_index() == 0:
    scorer = scorer_lib.Scorer(source, protocols, **providers)
    known = references_lib.references(prior, source if whole is None else whole)
    for name, ref in known.items():
      found = references_lib.reference_rows(
        ref, scorer, threads=threads, progress=said(ref.label)
      )
      if found:
        rows[name], labels[name] = found, ref.label
  return Outcome(_result(rows, labels, label, protocols), rows)


def _result(rows, labels, label, protocols):
  model, tests = rows['model'], {}
  parts = {'references': {}, 'controls': {}}
  for name, found in rows.items():
    if name == 'model':
      continue
    part = 'controls' if name in SENTENCES else 'references'
    parts[part][name] = {
      'label': labels[name],
      'scores': rows_lib.summarise(found),
    }
    tests[name] = rows_lib.compare(model, found)
  return {
    'model': label,
    'versions': rows_lib.versions(),
    'protocols': describe(protocols),
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
    folder: made if need be.
    outcome: of `run`; the rows of references and controls go to
      per_image_<name>.csv.
    tables: Markdown.
    **about: more keys for the head of summary.json, e.g. data and split.
  """
  folder = pathlib.Path(folder)
  for name, rows in outcome.rows.items():
    suffix = '' if name == 'model' else f'_{name}'
    rows_lib.write_rows(folder / f'per_image{suffix}.csv', rows)
  if tables:
    files.write_text(folder / 'tables.md', '\n'.join(tables))
  # Last, so that a summary stands for a complete folder.
  rows_lib.write_json(folder / 'summary.json', about | outcome.result)
  return folder


def rows_of_model(
  predict_fn: Callable,
  variables: Any,
  batches_of: Callable[[Sequence[Example]], Any],
  protocols: scorer_lib.Protocols,
  *,
  threads: int | None = None,
) -> Callable[..., list[Row]]:
  """Returns the `rows_of` of a model, for `run`.

  Args:
    predict_fn: `(variables, batch) -> [B, H, W]`.
    variables: its first argument.
    batches_of: `(source) -> batches`, padded and masked.
    protocols: bound metrics by protocol.
    threads: number of scoring threads.
  """

  def rows_of(source, *, baseline, others, progress):
    return scorer_lib.evaluate(
      predict_fn,
      variables,
      batches_of(source),
      source,
      protocols if baseline else without_baseline(protocols),
      baseline=baseline,
      others=others,
      threads=threads,
      progress=progress,
    )

  return rows_of


def rows_of_maps(
  paths: Mapping[int, os.PathLike],
  predict: Callable[[os.PathLike, Example], Any],
  protocols: scorer_lib.Protocols,
  *,
  threads: int | None = None,
) -> Callable[..., list[Row]]:
  """Returns the `rows_of` of maps in files, for `run`.

  Args:
    paths: by row of the source.
    predict: `(path, example) -> [h, w]`.
    protocols: bound metrics by protocol.
    threads: number of scoring threads.
  """

  def rows_of(source, *, baseline, others, progress):
    scorer = scorer_lib.Scorer(
      source,
      protocols if baseline else without_baseline(protocols),
      baseline=baseline,
      others=others,
    )
    predictions = (
      (index, lambda example, path=path: predict(path, example))
      for index, path in paths.items()
    )
    found = scorer_lib.score_all(
      scorer,
      predictions,
      total=len(paths),
      threads=threads,
      progress=progress,
    )
    return list(found.values())

  return rows_of
