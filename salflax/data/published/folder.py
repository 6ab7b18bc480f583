"""Any folder of images and gaze, laid out as docs/data.md says."""

import collections

import numpy as np

from salflax.core import spec
from salflax.data import (
  gaze_cells,
  gaze_layout,
  gaze_tables,
  maps,
  pairing,
  problems,
  tables,
  trackers,
)
from salflax.data import raw as raw_lib


def samples(raw, report, *, gaze=None, sigma=None):
  """Lists the samples.

  Args:
    raw: folder with images/ and one or more of maps/, fixations/ and
      fixations.csv, or tables of an eye tracker; texts.csv is optional.
    gaze: options of `gaze_layout.Layout` for the tables of an eye tracker, in
      place of fixations.csv.
    sigma: blur of maps from fixations, in pixels; `maps.default_sigma` if
      None. Maps that exist are taken as they are.
  """
  has_maps, has_files = (
    pairing.is_folder(raw / n) for n in ('maps', 'fixations')
  )
  has_points, has_texts = (
    pairing.is_file(raw / n) for n in ('fixations.csv', 'texts.csv')
  )
  layout = gaze_layout.Layout(**gaze) if gaze else None
  if not pairing.is_folder(raw / 'images') or not (
    has_maps or has_files or has_points or layout
  ):
    raise FileNotFoundError(
      f'{raw}: expected images/ and at least one of maps/, fixations/ and '
      f'fixations.csv in it; found {sorted(p.name for p in raw.iterdir())[:9]}.'
      ' Tables of an eye tracker are read with --tracker.'
    )
  images = pairing.files_by_stem(raw / 'images', report)
  report.counts['images'] = len(images)
  if has_texts:
    texts = _read_texts(raw / 'texts.csv', images, report)
  else:
    texts = {(stem, 'pure'): '' for stem in images}
  by_image = {(stem, ''): path for stem, path in images.items()}
  parts, fixations = {'image': (by_image, '{}.* in images/')}, {}
  if has_files:
    fixations = _files(raw / 'fixations', images, texts, report)
  if layout:
    fixations |= gaze_tables.read(raw, images, texts, layout, report)
  elif has_points:
    fixations |= _read_points(raw / 'fixations.csv', images, texts, report)
  if has_maps:
    files = _files(raw / 'maps', images, texts, report)
    parts['map'] = files, '{}.* in maps/'
  if has_files or has_points or layout:
    where = 'the tables' if layout else 'fixations.csv'
    parts['fixations'] = fixations, '{} in ' + f'{where} or fixations/'
  return pairing.pair(report, texts, parts, sigma=sigma, split_by='content')


def _read_texts(path, images, report):
  """Reads the sentences by image and condition."""
  by_key, named = collections.defaultdict(list), set()
  for line, row, fault in tables.read_table(
    path, ('image', 'text'), ('condition',)
  ):
    place, text = f'texts.csv line {line}', row['text']
    condition = gaze_tables.condition_of(row.get('condition', '')) or 'whole'
    stem = gaze_cells.stem_of(row['image'], images)
    named.add(stem)
    if fault:
      report.drop(place, 'unreadable row', fault)
    elif stem is None:
      report.drop(place, 'text without image', f'image {row["image"]!r}')
    elif condition not in raw_lib.CONDITIONS:
      error = spec.unknown('condition', condition, raw_lib.CONDITIONS)
      report.drop(place, 'unknown condition', str(error))
    elif condition == 'pure' and text:
      report.drop(place, 'text in a pure condition', f'{text!r}')
    elif condition != 'pure' and not text:
      report.drop(place, 'empty text', f'image {stem}')
    else:
      by_key[stem, condition].append(text)
  for stem in sorted(images.keys() - named):
    report.drop(stem, 'image without text', 'no line in texts.csv')
  texts = {key: sentences[0] for key, sentences in by_key.items()}
  for key, sentences in by_key.items():
    if len(set(sentences)) > 1:
      detail = f'{len(sentences)} different sentences: none is used'
      texts[key] = problems.Dropped('duplicate text', detail)
  report.counts['texts'] = len(texts)
  return texts


def _files(folder, images, texts, report):
  """Finds maps or fixation images by image and condition.

  A file whose whole stem is an image's id belongs to that image, even where it
  ends like a condition.
  """
  files = {}
  for name, path in pairing.files_by_stem(folder, report).items():
    keys = [(name, '')] + [
      (name.removesuffix(f'_{c}'), c)
      for c in raw_lib.CONDITIONS
      if name.endswith(f'_{c}')
    ]
    key = next((k for k in keys if k[0] in images), None)
    place = f'{folder.name}/{name}'
    if key is None:
      report.drop(place, 'missing image', 'no such file in images/')
    elif key[1] and key not in texts:
      detail = f'image {key[0]} has no text of condition {key[1]}'
      report.drop(place, 'condition without text', detail)
    else:
      files[key] = path
  return files


def _check_head(path) -> None:
  """Raises ValueError for a table of an eye tracker, with the option for it."""
  line = tables.read_lines(path)[0]
  head = tables.cells(line, tables.separator(line))[0]
  there = {column.lower() for column in head}
  if missing := {c: (c,) for c in ('image', 'x', 'y') if c not in there}:
    raise ValueError(
      f'{path}: no column {list(missing)}; {trackers.misfit(head, missing)}'
    )


def _read_points(path, images, texts, report):
  """Reads points [N, 2], or what is wrong with them, by image and condition."""
  _check_head(path)
  positions, faults, broken = collections.defaultdict(list), {}, {}
  strays = collections.Counter()
  for line, row, fault in tables.read_table(
    path, ('image', 'x', 'y'), ('condition',), numbers=('x', 'y')
  ):
    place = f'{path.name} line {line}'
    stem = gaze_cells.stem_of(row['image'], images)
    key = stem, gaze_tables.condition_of(row.get('condition', ''))
    x, y = (tables.number(row[axis]) for axis in 'xy')
    if stem is not None and fault:
      broken[stem] = f'{place}: {fault}'
    elif problem := gaze_tables.stray(row['image'], *key, texts):
      strays[problem] += 1
    elif {row['x'].lower(), row['y'].lower()} <= {*gaze_cells.BLINKS}:
      positions[key].append((np.nan, np.nan))
    elif x is None or y is None:
      faults[key] = f'{place}: x={row["x"]!r}, y={row["y"]!r}'
    else:
      positions[key].append((x, y))
  for (name, reason, detail), count in sorted(strays.items()):
    report.drop(name, reason, f'{count} lines of {path.name}: {detail}')
  report.counts['fixations'] = sum(map(len, positions.values()))
  points = {k: maps.to_points(*zip(*v)) for k, v in positions.items()}
  # Whose condition a broken row was is anybody's guess.
  faults |= {k: broken[k[0]] for k in {*points, *texts} if k[0] in broken}
  return points | {
    key: problems.Dropped('unreadable fixations', fault)
    for key, fault in faults.items()
  }
