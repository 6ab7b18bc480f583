"""Several evaluations as one: folds, each image scored by another network."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from salflax.core import files, paths
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import run as run_lib

_ABOUT = ('run', 'data', 'split')


def join(
  folders: Sequence[str | os.PathLike], *, label: str = 'model'
) -> tuple[dict[str, Any], run_lib.Outcome]:
  """Joins the rows of evaluations, with intervals and tests over all of them.

  Args:
    folders: folders that `run.write` wrote, of different images.
    label: name of the predictor in tables.

  Returns:
    What the evaluations are of: run, data and split, joined by '+'; and what
    `run.run` would have returned. A reference or control that not all have is
    left out, with a note.

  Raises:
    FileNotFoundError: a folder has no evaluation.
    ValueError: a file is broken, protocols differ, or an image is in two.
  """
  folders = [paths.path(folder) for folder in folders]
  results = [_summary(folder) for folder in folders]
  first = results[0]
  for folder, result in zip(folders, results):
    if result['protocols'] != first['protocols']:
      raise ValueError(
        f'{folder} has other protocols than {folders[0]}: '
        f'{[*result["protocols"]]} there, {[*first["protocols"]]} here, or '
        'other options of them.'
      )
  labels = run_lib.labels_of(first)
  rows, notes = {'model': _rows(folders, 'model')}, []
  for name in labels:
    if all(name in run_lib.labels_of(result) for result in results):
      rows[name] = _rows(folders, name)
    else:
      notes.append(f'{labels[name]}: not in all of them, left out.')
  about = {
    key: '+'.join(dict.fromkeys(str(r.get(key, '')) for r in results))
    for key in _ABOUT
  }
  result = run_lib.summarise(rows, labels, label, first['protocols'])
  return about, run_lib.Outcome(result, rows, notes)


def _summary(folder: pathlib.Path) -> Mapping[str, Any]:
  path = folder / 'summary.json'
  if not path.is_file():
    raise FileNotFoundError(f'{folder} has no evaluation: no summary.json.')
  result = files.read_json(path)
  if not {'scores', 'protocols', 'model'} <= set(result):
    raise ValueError(f'{path} is no summary of salflax evaluate.')
  return result


def _rows(folders, name):
  import pandas as pd

  suffix = '' if name == 'model' else f'_{name}'
  tables = [
    rows_lib.read_table(folder / f'per_image{suffix}.csv') for folder in folders
  ]
  seen = {}
  for folder, table in zip(folders, tables):
    columns = [column for column in rows_lib.IMAGE if column in table]
    for image in table[columns].drop_duplicates().itertuples(index=False):
      if image in seen:
        raise ValueError(
          f'Image {image[-1]} is in {seen[image]} and in {folder}: evaluations '
          'that are joined have different images.'
        )
      seen[image] = folder
  # A table of one data set alone does not say which it is.
  return pd.concat(tables, ignore_index=True).fillna({'source': ''})
