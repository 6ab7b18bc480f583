"""One table of scores, and its means, intervals and paired tests.

A row is one image under one condition: `image_id`, `condition`, `text` and one
column '<protocol>/<metric>' for each score; NaN where a score is not defined.
`source` names the data set of a row where several are joined, since their ids
may be equal; `predictor` what was scored. Every function takes a pandas table
or a list of dicts. Needs no jax.
"""

import csv
import importlib.metadata
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import salflax
from salflax.core import files, paths
from salflax.core.files import write_json as write_json
from salflax.metrics import statistics

if TYPE_CHECKING:
  import pandas as pd

Row = Mapping[str, Any]
Rows = 'pd.DataFrame | Sequence[Row]'

IDENTITY = ('image_id', 'condition', 'text')
IMAGE = ('source', 'image_id')  # what is resampled
TEXT = ('source', *IDENTITY, 'predictor')  # all columns that are no scores


def table(rows: Rows) -> 'pd.DataFrame':
  """Makes a table of rows; one that is a table already stays as it is."""
  import pandas as pd

  if isinstance(rows, pd.DataFrame):
    return rows
  return pd.DataFrame(list(rows), columns=None if rows else [*IDENTITY])


def metric_keys(rows: Rows) -> list[str]:
  """Lists the '<protocol>/<metric>' columns in their order."""
  return [key for key in table(rows) if key not in TEXT]


def images(rows: 'pd.DataFrame') -> np.ndarray:
  """Numbers the images of rows, in the order of their names."""
  return rows.groupby([k for k in IMAGE if k in rows]).ngroup().to_numpy()


def _mean(values: Sequence[float]) -> float:
  """Averages what is not NaN, exactly rounded; nothing has the mean NaN."""
  valid = [v for v in values if not math.isnan(v)]
  return math.fsum(valid) / len(valid) if valid else math.nan


def means(rows: Rows) -> dict[str, float]:
  """Averages each score over rows, then over conditions.

  Returns:
    '<metric>' -> mean over conditions of the mean over rows; also
    '<condition>/<metric>' where there are several conditions. NaN is left out
    of a mean; a mean of nothing is NaN.
  """
  rows, result = table(rows), {}
  groups = dict(list(rows.groupby('condition', sort=False)))
  for key in metric_keys(rows):
    each = {name: _mean(group[key]) for name, group in groups.items()}
    if len(each) > 1:
      result |= {f'{name}/{key}': mean for name, mean in each.items()}
    result[key] = _mean(each.values())
  return result


def entries(rows: Rows) -> dict[str, dict[str, float]]:
  """Finds mean, low, high, n rows and n_valid rows with a value per metric."""
  rows, result = table(rows), {}
  groups = images(rows)
  for key in metric_keys(rows):
    low, high = statistics.interval(rows[key], groups)
    result[key] = {
      'mean': _mean(rows[key]),
      'low': low,
      'high': high,
      'n': len(rows),
      'n_valid': int(rows[key].notna().sum()),
    }
  return result


def summarise(rows: Rows) -> dict[str, Any]:
  """Averages rows, with 95 % bootstrap intervals over images.

  Returns:
    `overall` (all rows alike) and `conditions` (by name): `entries` of each.
    `mean_of_conditions`: per metric the mean over conditions. `n` rows,
    `images` different ones.
  """
  rows = table(rows)
  per_metric = means(rows)
  return {
    'n': len(rows),
    'images': len(set(images(rows))),
    'overall': entries(rows),
    'mean_of_conditions': {k: per_metric[k] for k in metric_keys(rows)},
    'conditions': {
      name: entries(group)
      for name, group in rows.groupby('condition', sort=False)
    },
  }


def placed(rows: Rows, *columns: str) -> 'pd.DataFrame':
  """Indexes rows by their place: image, condition and number among equals.

  Args:
    rows: table or list of dicts.
    *columns: further columns that tell images apart, of `IMAGE`.
  """
  rows = table(rows)
  place = [*columns, 'image_id', 'condition']
  number = rows.groupby(place).cumcount().rename('number')
  rows = rows.set_index([*place, number], drop=False)
  return rows.rename_axis([None] * (len(place) + 1))  # names stay columns


def paired(*tables: Rows) -> list['pd.DataFrame']:
  """Cuts several tables to the places that all of them have, in one order."""
  tables = [table(rows) for rows in tables]
  # Rows that were written before data sets had names go by their ids alone.
  columns = ['source'] * all('source' in rows for rows in tables)
  first, *rest = (placed(rows, *columns) for rows in tables)
  for other in rest:
    first = first[first.index.isin(other.index)]
  return [first, *(other.loc[first.index] for other in rest)]


def compare(ours: Rows, theirs: Rows) -> dict[str, dict[str, dict[str, float]]]:
  """Tests two predictors on the images that both have scored.

  Args:
    ours: rows of the one.
    theirs: rows of the other; rows without a partner are left out.

  Returns:
    By condition, and by metric: difference (ours minus theirs, positive means
    that ours is larger), its 95 % interval low and high, p (two-sided), n
    pairs. All clustered by image. Also 'overall', where there are several
    conditions.
  """
  ours, theirs = (t.reset_index(drop=True) for t in paired(ours, theirs))
  keys = [k for k in metric_keys(ours) if k in theirs]
  groups = dict(list(ours.groupby('condition', sort=False)))
  if len(groups) > 1:
    groups['overall'] = ours
  return {
    condition: {
      key: _test(group[key], theirs[key][group.index], images(group))
      for key in keys
    }
    for condition, group in groups.items()
  }


def _test(ours, theirs, groups) -> dict[str, float]:
  test = statistics.paired(ours, theirs, groups)
  return test._asdict() | {'n': int((ours - theirs).notna().sum())}


def versions() -> dict[str, str]:
  """Lists the versions of what the numbers rest on."""
  names = ('jax', 'flax', 'numpy', 'scipy', 'pillow')
  return {
    'salflax': salflax.__version__,
    **{name: importlib.metadata.version(name) for name in names},
  }


def write_rows(path: str | os.PathLike, rows: Rows) -> None:
  """Writes rows as CSV; numbers keep all 17 significant digits."""
  rows = table(rows)
  text = rows.to_csv(
    columns=[*(k for k in TEXT if k in rows), *metric_keys(rows)],
    index=False,
    float_format='%.17g',
    na_rep='nan',
    lineterminator='\n',
  )
  files.write_text(path, text)


def read_table(path: str | os.PathLike) -> 'pd.DataFrame':
  """Reads the table that `write_rows` wrote.

  Raises:
    ValueError: with the file's name, where it holds something else.
  """
  import pandas as pd

  with paths.path(path).open(encoding='utf-8', newline='') as f:
    try:
      head, *lines = csv.reader(f)
      if wrong := [n for n, x in enumerate(lines, 2) if len(x) != len(head)]:
        raise ValueError(f'rows {wrong[:5]} have not {len(head)} cells')
      rows = pd.DataFrame(lines, columns=head)
      if missing := sorted({*IDENTITY} - {*head}):
        raise ValueError(f'{missing} missing')
      return rows.astype(dict.fromkeys(metric_keys(rows), float))
    except (ValueError, TypeError, csv.Error) as e:
      raise ValueError(f'{path}: not a file of rows, {e}.') from e
