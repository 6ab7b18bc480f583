"""What an evaluation leaves behind: rows, their summary, and the files.

A row is a dict with image_id, condition, text and '<protocol>/<metric>': one
per picture and condition. Needs no accelerator.
"""

import csv
import importlib.metadata
import io
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import salflax
from salflax.core import files
from salflax.metrics import statistics

Row = dict[str, Any]

IDENTITY = ('image_id', 'condition', 'text')


def metric_keys(rows: Sequence[Row]) -> list[str]:
  """Returns the '<protocol>/<metric>' keys, in the order of the rows."""
  return [key for key in (rows[0] if rows else ()) if key not in IDENTITY]


def conditions_of(rows: Sequence[Row]) -> list[str]:
  """Returns the conditions, in the order in which they first occur."""
  return list(dict.fromkeys(row['condition'] for row in rows))


def means(rows: Sequence[Row]) -> dict[str, float]:
  """Returns '<metric>' -> mean over conditions of the mean over rows.

  Also '<condition>/<metric>' where there are several conditions. What cannot
  be measured (NaN) is left out of a mean; a mean of nothing is NaN.
  """
  result, conditions = {}, conditions_of(rows)
  for key in metric_keys(rows):
    each = []
    for condition in conditions:
      values = [r[key] for r in rows if r['condition'] == condition]
      valid = [v for v in values if not math.isnan(v)]
      each.append(math.fsum(valid) / len(valid) if valid else math.nan)
      if len(conditions) > 1:
        result[f'{condition}/{key}'] = each[-1]
    known = [v for v in each if not math.isnan(v)]
    result[key] = math.fsum(known) / len(known) if known else math.nan
  return result


def entries(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
  """Returns per metric mean, low, high, n rows and n_valid with a value."""
  result = {}
  for key in metric_keys(rows):
    valid = [r for r in rows if not math.isnan(r[key])]
    values = np.array([r[key] for r in valid])
    entry = {'mean': math.nan, 'low': math.nan, 'high': math.nan}
    if valid:
      groups = [r['image_id'] for r in valid]
      low, high = statistics.interval(values, groups)
      mean = math.fsum(values) / len(values)
      entry = {'mean': mean, 'low': float(low), 'high': float(high)}
    result[key] = entry | {'n': len(rows), 'n_valid': len(valid)}
  return result


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
  """Returns means with 95 % bootstrap intervals, clustered by picture.

  Returns:
    `overall` (all rows alike) and `conditions` (by name): per metric a dict of
    mean, low, high, n rows, n_valid rows with a value. `mean_of_conditions`:
    per metric the mean over conditions. `n` rows, `pictures` different ones.
  """
  conditions = {
    c: entries([r for r in rows if r['condition'] == c])
    for c in conditions_of(rows)
  }
  per_metric = means(rows)
  return {
    'n': len(rows),
    'pictures': len({r['image_id'] for r in rows}),
    'overall': entries(rows),
    'mean_of_conditions': {k: per_metric[k] for k in metric_keys(rows)},
    'conditions': conditions,
  }


def versions() -> dict[str, str]:
  """Returns the versions of what the numbers rest on."""
  names = ('jax', 'flax', 'numpy', 'scipy', 'pillow')
  found = {'salflax': salflax.__version__}
  for name in names:
    found[name] = importlib.metadata.version(name)
  return found


def write_rows(path: str | os.PathLike, rows: Sequence[Row]) -> None:
  """Writes rows as CSV; numbers keep all 17 significant digits."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  keys = [*IDENTITY, *metric_keys(rows)]
  writer.writerow(keys)
  for row in rows:
    writer.writerow(
      f'{row[k]:.17g}' if isinstance(row[k], float) else row[k] for k in keys
    )
  files.write_text(path, out.getvalue())


def write_json(path: str | os.PathLike, tree: Any) -> None:
  """Writes a tree of dicts, lists, text and numbers; NaN becomes null."""

  def plain(node):
    if isinstance(node, Mapping):
      return {str(k): plain(v) for k, v in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
      return [plain(v) for v in node]
    if isinstance(node, np.generic):
      return plain(node.item())
    if isinstance(node, os.PathLike):
      return str(pathlib.Path(node))
    if isinstance(node, float) and not math.isfinite(node):
      return None
    return node

  text = json.dumps(plain(tree), indent=1, ensure_ascii=False, allow_nan=False)
  files.write_text(path, text + '\n')


def read_rows(path: str | os.PathLike) -> list[Row]:
  """Returns the rows of a CSV file that `write_rows` wrote."""
  with open(path, encoding='utf-8', newline='') as f:
    reader = csv.DictReader(f)
    if missing := set(IDENTITY) - set(reader.fieldnames or ()):
      raise ValueError(
        f'{path}: not a file of rows, {sorted(missing)} missing.'
      )
    return [
      {k: v if k in IDENTITY else float(v) for k, v in row.items()}
      for row in reader
    ]


def by_place(rows: Sequence[Row]) -> dict[tuple[str, str, int], Row]:
  """Returns rows by picture, condition and which of several such rows it is."""
  found = {}
  for row in rows:
    place = row['image_id'], row['condition']
    count = 0
    while (*place, count) in found:
      count += 1
    found[*place, count] = row
  return found


def compare(
  ours: Sequence[Row], theirs: Sequence[Row]
) -> dict[str, dict[str, dict[str, float]]]:
  """Returns paired tests of two predictors on the pictures both have scored.

  Args:
    ours: rows of the one.
    theirs: rows of the other; rows without a partner are left out.

  Returns:
    By condition, and by metric: difference (ours minus theirs, positive means
    that ours is larger), its 95 % interval low and high, p (two-sided), n
    pairs. All clustered by picture. Also 'overall', where there are several
    conditions.
  """
  left, right = by_place(ours), by_place(theirs)
  pairs = [(left[k], right[k]) for k in left if k in right]
  keys = [k for k in metric_keys(ours) if k in metric_keys(theirs)]
  groups = {
    c: [(a, b) for a, b in pairs if a['condition'] == c]
    for c in conditions_of([a for a, _ in pairs])
  }
  if len(groups) > 1:
    groups['overall'] = pairs
  return {
    condition: {key: _paired(group, key) for key in keys}
    for condition, group in groups.items()
  }


def _paired(pairs: Sequence[tuple[Row, Row]], key: str) -> dict[str, float]:
  valid = [
    (a, b)
    for a, b in pairs
    if not math.isnan(a[key]) and not math.isnan(b[key])
  ]
  if not valid:
    nothing = dict.fromkeys(('difference', 'low', 'high', 'p'), math.nan)
    return nothing | {'n': 0}
  test = statistics.paired(
    np.array([a[key] for a, _ in valid]),
    np.array([b[key] for _, b in valid]),
    [a['image_id'] for a, _ in valid],
  )
  found = {k: float(getattr(test, k)) for k in ('difference', 'low', 'high')}
  return found | {'p': float(test.p), 'n': len(valid)}
