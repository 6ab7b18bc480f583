"""Reads eye trackers' tables of fixations or of samples.

Rows without a position (blinks) and positions off the image are left out and
counted; what cannot be read is named.
"""

import collections
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from salflax.core import spec
from salflax.data import (
  detectors,
  gaze_cells,
  gaze_layout,
  maps,
  pairing,
  problems,
  trackers,
)
from salflax.data import raw as raw_lib

_FIXATIONS = re.compile(r'fixation|fix\b|efix|visual intake')
_TRUE = ('true', '1', '1.0', 'yes')
# So many positions do not look like others by chance.
_ENOUGH = 20


def _unit(layout, columns: Mapping[str, str], kind: str) -> str:
  """Chooses the unit of 'units' or 'time': option, column's name, tracker."""
  table = dict(units=gaze_layout.UNITS, time=trackers.MILLISECONDS)[kind]
  column = columns.get('x' if kind == 'units' else 'time', '')
  unit = trackers.split_unit(column)[1]
  usual = getattr(trackers.TRACKERS[layout.tracker], kind)
  if kind == 'units' and unit == 'norm' and usual.startswith('norm'):
    unit = usual
  return getattr(layout, kind) or (unit if unit in table else usual)


def _faults(path, rows, fault) -> np.ndarray:
  """Describes the rows whose positions cannot be read; '' for the others."""
  texts = np.full(len(rows), '', object)
  for i in np.flatnonzero(fault):
    row = rows.iloc[i]
    texts[i] = f'{path.name} line {row["line"]}: x={row["x"]!r}, y={row["y"]!r}'
  return texts


def _times(path, rows, columns, separator, layout) -> tuple[np.ndarray, float]:
  """Reads the times of samples in milliseconds, and their usual interval."""
  times, _ = gaze_cells.numbers(rows['time'], separator)
  if (wrong := np.isnan(times)).any():
    row = rows[wrong].iloc[0]
    raise ValueError(
      f'{path} line {row["line"]}: the time {row["time"]!r} is no number.'
    )
  times = times * trackers.MILLISECONDS[_unit(layout, columns, 'time')]
  try:
    return times, detectors.usual_interval(times)
  except ValueError as e:
    raise ValueError(f'{path}: {e}.') from e


def _left_out(rows, report) -> np.ndarray:
  """Tells which rows are no gaze on an image, bool [N], and counts them."""
  out = np.zeros(len(rows), bool)
  if 'kind' in rows:
    out = ~rows['kind'].str.lower().str.contains(_FIXATIONS).to_numpy(bool)
    for kind, count in rows['kind'][out].value_counts().items():
      _count(report, f'{kind or "of no kind"} (rows)', count)
  if 'image' in rows:
    empty = ~out & rows['image'].str.lower().isin(gaze_cells.BLINKS).to_numpy()
    _count(report, 'no image (rows)', empty.sum())
    out |= empty
  if 'inside' in rows:
    off = ~out & ~rows['inside'].str.lower().isin(_TRUE).to_numpy()
    _count(report, 'off the image (rows)', off.sum())
    out |= off
  return out


def _read(path, layout, images, report):
  """Reads the gaze of a table.

  Returns:
    A row a fixation or a sample, with image, condition, subject and number as
    text, x and y, NaN where the eye was lost, time in milliseconds, and fault;
    the units of x and y; the usual interval of samples in milliseconds.
  """
  rows, columns, separator = gaze_cells.rows_of(path, layout, images)
  rows = rows[~_left_out(rows, report)].reset_index(drop=True)
  gaze = rows[[]].assign(file=str(path), time=0.0)
  for role in ('image', 'condition', 'subject', 'number'):
    gaze[role] = rows[role] if role in rows else ''
  if 'image' not in rows:
    gaze['image'] = gaze_cells.image_of(path, images)
  interval, fault = 0.0, np.zeros(len(rows), bool)
  if layout.detect and len(rows):
    gaze['time'], interval = _times(path, rows, columns, separator, layout)
  for axis in 'xy':
    gaze[axis], wrong = gaze_cells.numbers(rows[axis], separator)
    fault |= wrong
  fault |= (gaze['x'].isna() != gaze['y'].isna()).to_numpy()
  gaze['fault'] = _faults(path, rows, fault)
  units = _unit(layout, columns, 'units')
  if not units.startswith('centre'):  # so some write a lost eye
    gaze.loc[(gaze['x'] == 0) & (gaze['y'] == 0), ['x', 'y']] = np.nan
  _check_units(path, gaze, units)
  lost = gaze['x'].isna() & (gaze['fault'] == '')
  _count(report, 'no position, as in blinks', lost.sum())
  return gaze if layout.detect else gaze[~lost], units, interval


def _count(report, what: str, count: int) -> None:
  if count:
    name = f'left out, {what}'
    report.counts[name] = report.counts.get(name, 0) + int(count)


def _check_units(path, gaze, units: str) -> None:
  """Raises ValueError for a table whose positions are in other units."""
  xy = gaze[['x', 'y']].dropna().to_numpy()
  if len(xy) < _ENOUGH:
    return
  low, high = np.quantile(xy, [0.05, 0.95])
  ranges = f'x is {xy[:, 0].min():.4g} to {xy[:, 0].max():.4g} and y '
  ranges += f'{xy[:, 1].min():.4g} to {xy[:, 1].max():.4g}'
  pixels = units in ('px', 'centre_px')
  middle = 'centre_norm says so (centre_height, where y ends at 0.5)'
  if (xy == xy[0]).all():
    raise ValueError(
      f'{path}: all {len(xy)} positions are x={xy[0, 0]:g}, y={xy[0, 1]:g}.'
    )
  if pixels and -1.5 < low and high <= 1.5:
    corner = 'norm says so (norm_up, where y goes up)'
    raise ValueError(
      f'{path}: positions are to be in pixels ({units}), but {ranges}: they '
      f'look normalised. --units={corner if units == "px" else middle}.'
    )
  if not pixels and high > 2:
    raise ValueError(
      f'{path}: positions are to be normalised ({units}), but {ranges}: they '
      'look like pixels. --units=px says so.'
    )
  if not units.startswith('centre') and (xy < 0).mean() > 0.25:
    raise ValueError(
      f'{path}: positions are to count from a corner ({units}), but {ranges}: '
      'they look counted from the middle. '
      f'--units={"centre_px says so" if pixels else middle}.'
    )


def condition_of(cell: str) -> str:
  """Spells a condition as we do: 'Non-salient' is 'non_salient'."""
  return cell.lower().replace('-', '_').replace(' ', '_')


def _fixations(image, recordings, layout, detector, report):
  """Reads the fixations i32 [N, 2] of an image when its size is known."""
  size, places = raw_lib.encode_image(image).size, [np.zeros((0, 2))]
  for xy, times, units, interval in recordings:
    pixels = gaze_layout.to_pixels(
      xy, size, units=units, screen=layout.screen, fit=layout.fit
    )
    if detector:
      pixels = detectors.detect(pixels, times, detector, interval)
    places.append(pixels)
  x, y = np.concatenate(places).T
  points = maps.to_points(x, y)
  off = maps.outside(points, size)
  if off.sum() > len(off) / 2:
    raise problems.Dropped(
      'implausible fixations',
      f'{off.sum()} of {len(off)} lie off the image of {size[1]} x {size[0]}: '
      f'x is {x.min():.4g} to {x.max():.4g} and y {y.min():.4g} to '
      f'{y.max():.4g} in its pixels; --units and --screen say what they mean',
    )
  _count(report, 'off the image', off.sum())
  report.counts['fixations'] = report.counts.get('fixations', 0) + int(
    (~off).sum()
  )
  return points[~off], None


def _subjects(gaze) -> set[str]:
  """Lists who looked: by column, else by sub-<name>, else one a table."""
  subjects = set(gaze['subject']) - {''}
  path = pathlib.Path(gaze['file'].iloc[0])
  label = re.search(r'sub-([^_.]+)', path.name)
  return subjects or {label[1] if label else str(path)}


def stray(
  name: str, stem: str | None, condition: str, texts: Mapping[pairing.Key, Any]
) -> tuple[str, str, str] | None:
  """Says why gaze belongs to no sample; None where it belongs to one.

  Args:
    name: name of the image as written.
    stem: id of the image, or None.
    condition: condition as we spell it, '' for every one.
    texts: sentences by image id and condition.

  Returns:
    Fields of a `problems.Problem`.
  """
  if stem is None:
    return name, 'missing image', 'no such file in images/'
  if condition and condition not in raw_lib.CONDITIONS:
    error = spec.unknown('condition', condition, raw_lib.CONDITIONS)
    return stem, 'unknown condition', str(error)
  if condition and (stem, condition) not in texts:
    return stem, 'condition without text', f'condition {condition}'
  return None


def _keys(gaze, images, texts, strays) -> None:
  """Adds the image id and spells the condition; counts rows of neither.

  Rows of an image or a condition that is not there get no id.
  """
  names = gaze['image'].unique()
  stems = {name: gaze_cells.trailing_stem_of(name, images) for name in names}
  gaze['stem'] = gaze['image'].map(stems)
  spelt = {c: condition_of(c) for c in gaze['condition'].unique()}
  gaze['condition'] = gaze['condition'].map(spelt)
  for (name, condition), rows in gaze.groupby(['image', 'condition']):
    if problem := stray(name, stems[name], condition, texts):
      strays[problem] += len(rows)
      gaze.loc[rows.index, 'stem'] = None


def read(
  raw: pathlib.Path,
  images: Mapping[str, pathlib.Path],
  texts: Mapping[pairing.Key, Any],
  layout: gaze_layout.Layout,
  report: problems.Report,
) -> dict[pairing.Key, Any]:
  """Reads all tables of a folder.

  Args:
    raw: the folder.
    images: files by image id.
    texts: sentences by image id and condition.
    layout: how to read the tables.
    report: takes counts, and what cannot be used.

  Returns:
    `raw.ReadGaze` by image id and condition ('' for every one), or `Dropped`.

  Raises:
    FileNotFoundError: where there is no table.
    ImportError: for samples, where the library of detectors is missing.
    ValueError: names a table that cannot be read as `layout` says, and why.
  """
  detector = detectors.build(layout.detect) if layout.detect else None
  recordings, faults = collections.defaultdict(list), {}
  strays, subjects = collections.Counter(), set()
  for path in gaze_cells.files(raw, layout.tables, report):
    gaze, units, interval = _read(path, layout, images, report)
    if gaze.empty:
      continue
    subjects |= _subjects(gaze)
    _keys(gaze, images, texts, strays)
    gaze = gaze[gaze['stem'].notna()]
    for key, row in gaze[gaze['fault'] != ''].groupby(['stem', 'condition']):
      faults.setdefault(key, row['fault'].iloc[0])
    if not detector and (gaze['number'] != '').any():
      same = ['stem', 'condition', 'subject', 'number']
      gaze = gaze.groupby(same, sort=False)[['x', 'y']].mean().reset_index()
      gaze['time'] = 0.0
    views = ['stem', 'condition', *(['subject'] if detector else [])]
    for key, rows in gaze.groupby(views, sort=False):
      xy, times = rows[['x', 'y']].to_numpy(), rows['time'].to_numpy()
      recordings[key[:2]].append((xy, times, units, interval))
  for (name, reason, detail), count in sorted(strays.items()):
    report.drop(name, reason, f'{count} rows: {detail}')
  report.counts['subjects'] = len(subjects)
  return {
    key: functools.partial(
      _fixations, images[key[0]], parts, layout, detector, report
    )
    for key, parts in recordings.items()
  } | {
    key: problems.Dropped('unreadable fixations', fault)
    for key, fault in faults.items()
  }
