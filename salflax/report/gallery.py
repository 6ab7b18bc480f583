"""Pictures of a data set under the maps that several runs kept."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from salflax.core.types import Example
from salflax.evaluate import map_folder
from salflax.evaluate import rows as rows_lib
from salflax.report import figures, findings, found
from salflax.report.paper import Gallery, Paper, Row, Table
from salflax.report.plots import Panel

Load = Callable[[str, str], Sequence[Example]]


class NoMaps(Exception):
  """There is nothing to show; says what lacks."""


def _seed(runs, row):
  """Returns the first seed of a row that kept its maps, or None."""
  for seed in runs.seeds(row.place)[0] if row.place else ():
    if (seed.scores / 'maps').is_dir():
      return seed
  return None


def _paths(seed) -> dict[str, pathlib.Path]:
  return {p.stem: p for p in sorted((seed.scores / 'maps').glob('*.png'))}


def _scores(runs, row, seed, key) -> dict[str, float]:
  scored = runs.rows_of_seed(row.place, row.condition, seed.path.name)
  return {
    p[0]: r[key] for p, r in rows_lib.by_place(scored).items() if key in r
  }


def _source(seed, load: Load) -> tuple[Sequence[Example], dict[str, int]]:
  data, split = seed.summary.get('data', ''), seed.summary.get('split', '')
  source = load(data, split)
  first: dict[str, int] = {}
  for index in range(len(source)):
    first.setdefault(source.meta(index)['image_id'], index)
  return source, first


def _panel(example, path, caption):
  return Panel(example['image'], map_folder.predict(path, example), caption)


def _people(example):
  human = np.asarray(example['saliency'], np.float32)
  return [
    Panel(example['image'], caption=example['image_id']),
    Panel(example['image'], human.reshape(human.shape[:2]), 'people'),
  ]


def _named(paths, image_id, condition):
  for name in (f'{image_id}_{condition}', image_id):
    if name in paths:
      return paths[name]
  return None


def blocks(
  paper: Paper, gallery: Gallery, runs: findings.Runs, load: Load
) -> list[list[Panel]]:
  """Returns the panels of each picture of a gallery.

  Args:
    paper: as declared.
    gallery: of it.
    runs: of the paper.
    load: (data set, split) -> rows.

  Raises:
    NoMaps: no run of it kept its maps.
    FileNotFoundError: the data set is not there.
  """
  table = next(t for t in paper.tables if t.key == gallery.table)
  rows = {row: _seed(runs, row) for row in table.rows}
  if gallery.good:
    return _apart(paper, gallery, table, rows, runs, load)
  shown = {row: _paths(seed) for row, seed in rows.items() if seed}
  if not shown:
    raise NoMaps('no run kept its maps')
  source, index = _source(rows[next(iter(shown))], load)
  ids = sorted(index)
  places = np.linspace(0, len(ids) - 1, min(gallery.count, len(ids)))
  made = []
  for image_id in (ids[round(p)] for p in places):
    example = source[index[image_id]]
    panels = _people(example)
    for row, paths in shown.items():
      if path := _named(paths, image_id, row.condition):
        panels.append(_panel(example, path, row.label))
    made.append(panels)
  return made


def _row(table: Table, folder: str) -> Row:
  return next(r for r in table.rows if r.place and r.place.folder == folder)


def _apart(paper, gallery, table, rows, runs, load):
  """Panels of two rows, where the one is furthest above the other."""
  two = [_row(table, folder) for folder in (gallery.good, gallery.bad)]
  if lack := [row.label for row in two if not rows[row]]:
    raise NoMaps(f'no run of {", ".join(lack)} kept its maps')
  scores = [_scores(runs, r, rows[r], paper.headline) for r in two]
  paths = [_paths(rows[r]) for r in two]
  source, index = _source(rows[two[0]], load)
  known = [
    i for i in index if all(np.isfinite(s.get(i, np.nan)) for s in scores)
  ]
  known.sort(key=lambda i: scores[1][i] - scores[0][i])
  name = paper.headline.rpartition('/')[2].upper()
  made = []
  for image_id in known[: gallery.count]:
    example = source[index[image_id]]
    panels = _people(example)
    for row, kept, scored in zip(two, paths, scores):
      if path := _named(kept, image_id, row.condition):
        said = f'{row.label}, {name} {scored[image_id]:.3f}'
        panels.append(_panel(example, path, said))
    made.append(panels)
  return made


def sections(
  paper: Paper, runs: findings.Runs, load: Load, folder: str | os.PathLike
) -> list[found.Extra]:
  """Returns the figures with pictures; why, where one is not drawn.

  Args:
    paper: as declared.
    runs: of it.
    load: (data set, split) -> rows.
    folder: for the figures.
  """
  made = []
  for k, about in enumerate(paper.galleries):
    shown, notes = {}, []
    path = pathlib.Path(folder) / f'{paper.name}_gallery_{k}.png'
    try:
      figures.gallery(blocks(paper, about, runs, load), path)
      shown[about.title] = path
    except (NoMaps, FileNotFoundError, ValueError) as e:
      notes.append(f'Not drawn: {e}')
    title = f'Figure {about.key}: {about.title}'
    made.append(found.Extra(f'gallery-{k}', title, (), shown, notes))
  return made
