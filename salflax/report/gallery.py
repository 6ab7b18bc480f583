"""Images of a data set under the maps that several runs kept."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from salflax.core.types import Example
from salflax.report import plots
from salflax.report.papers.paper import Gallery, Paper
from salflax.report.results import Runs
from salflax.report.sections import Extra

Load = Callable[[str, str], Sequence[Example]]
COLUMNS = 8


class NoMaps(Exception):
  """There is nothing to show; says what is missing."""


def _seed(runs, row):
  """The first seed of a row that kept its maps, or None."""
  seeds = runs.seeds(row.place)[0] if row.place else ()
  return next((s for s in seeds if (s.scores / 'maps').is_dir()), None)


def _scores(runs, row, seed, key):
  """The first finite score of each image."""
  rows = runs.rows(row.place, row.condition, seed=seed.path.name)
  rows = rows.drop_duplicates('image_id').set_index('image_id')
  return rows.reindex(columns=[key])[key].replace([np.inf, -np.inf], np.nan)


def _kept(paper, gallery, runs):
  """Lists the gallery's rows with the seed that kept its maps."""
  table = next(t for t in paper.tables if t.key == gallery.table)
  rows = table.rows
  if two := [f for f in (gallery.good, gallery.bad) if f]:
    by_folder = {row.place.folder: row for row in rows if row.place}
    rows = [by_folder[folder] for folder in two]
  kept = [(row, _seed(runs, row)) for row in rows]
  missing = [row.label for row, seed in kept if not seed]
  if two and missing:
    raise NoMaps(f'no run of {", ".join(missing)} kept its maps')
  if len(missing) == len(kept):
    raise NoMaps('no run kept its maps')
  return [(row, seed) for row, seed in kept if seed]


def _choose(ids, scores, count):
  """Chooses the images with the largest gaps, or evenly spaced ones."""
  if scores:
    good, bad = scores
    gaps = (good - bad).reindex([*ids]).dropna()
    return gaps.sort_values(ascending=False, kind='stable').index[:count]
  ids = sorted(ids)
  steps = np.linspace(0, len(ids) - 1, min(count, len(ids)))
  return [ids[round(step)] for step in steps]


def blocks(
  paper: Paper, gallery: Gallery, runs: Runs, load: Load
) -> list[list[plots.Panel]]:
  """Makes the panels of each image of a gallery.

  Args:
    paper: paper as declared.
    gallery: one of its galleries.
    runs: runs of the paper.
    load: (data set, split) -> rows.

  Raises:
    NoMaps: no run of it kept its maps.
    FileNotFoundError: the data set is not there.
  """
  from salflax.data import batches, frames
  from salflax.data.maps import read_map
  from salflax.evaluate import map_folder

  kept = _kept(paper, gallery, runs)
  summary = kept[0][1].summary
  source = load(summary['data'], summary['split'])
  index: dict[str, int] = {}
  places: dict[tuple[str, str], int] = {}
  for k, meta in enumerate(batches.metas(source)):
    index.setdefault(meta['image_id'], k)
    places.setdefault((meta['image_id'], meta['condition']), k)
  maps = [map_folder.match(s.scores / 'maps', source).paths for _, s in kept]
  scores = []
  if gallery.good:
    scores = [_scores(runs, *pair, paper.headline) for pair in kept]
  name = paper.headline.rpartition('/')[2].upper()
  result = []
  for image_id in _choose(index, scores, gallery.count):
    example = source[index[image_id]]
    image = example['image']
    human = np.asarray(example['saliency'], np.float32)
    panels = [plots.Panel(image, caption=image_id)]
    panels.append(plots.Panel(image, human.reshape(human.shape[:2]), 'people'))
    for k, (row, _) in enumerate(kept):
      caption = row.label
      if scores:
        caption += f', {name} {scores[k][image_id]:.3f}'
      if path := maps[k].get(places.get((image_id, row.condition))):
        saliency = frames.resize(
          read_map(path, allow_flat=True), human.shape[:2]
        )
        panels.append(plots.Panel(image, saliency, caption))
    result.append(panels)
  return result


def extras(
  paper: Paper, runs: Runs, load: Load, folder: str | os.PathLike
) -> list[Extra]:
  """Draws the figures with images; says why, where one is not drawn.

  Args:
    paper: paper as declared.
    runs: its runs.
    load: (data set, split) -> rows.
    folder: folder for the figures.
  """
  result = []
  for k, gallery in enumerate(paper.galleries):
    drawn, notes = {}, []
    path = pathlib.Path(folder) / f'{paper.name}_gallery_{k}.png'
    try:
      lines = [
        dict(enumerate(panels[start : start + COLUMNS]))
        for panels in blocks(paper, gallery, runs, load)
        for start in range(0, len(panels), COLUMNS)
      ]
      plots.montage(lines, path, panel=(1.6, 1.5))
      drawn[gallery.title] = path
    except (NoMaps, OSError, ValueError) as e:
      notes.append(f'Not drawn: {e}')
    title = f'Figure {gallery.key}: {gallery.title}'
    result.append(Extra(f'gallery-{k}', title, (), drawn, notes))
  return result
