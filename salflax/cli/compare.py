"""Compares where people look: by two sentences, or in two images.

    salflax compare street.jpg --text='the red umbrella' --text='the dog'
    salflax compare before.png after.png --text='buy a ticket' \\
        --areas=areas.json --fail-if='cta<0.08'

One sentence is compared with none, further ones with the first; further images
with the first image, sentence by sentence. Prints what moved and each area's
attention; writes comparison.json (docs/comparison.schema.json), comparison.html
(one file, which needs no network), and overlays and differences as PNG.

Views are called text1, text2, ..., image1, image2, ..., or image1.text2 where
both differ; `none` is free viewing beside a single sentence. --fail-if says
what the share of an area must not be, in one view ('text2.cta<0.08') or in all
that were asked for ('cta<0.08'): the exit code is then 4.
"""

import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import flags

from salflax import cli

IMPLIED = 'none'


class Seen(NamedTuple):
  """A view before it is predicted: its name, image (by place) and sentence."""

  name: str
  image: int
  text: str


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  text, several = flags.DEFINE_string, flags.DEFINE_multi_string
  areas = (
    'File of areas of interest, .json (boxes, polygons, COCO) or .csv; once, '
    'or once for each image.'
  )
  condition = (
    "Ends with exit code 4 where it holds: <area><operator><number>, 'cta<0.08'"
    " or 'text2.cta<0.08'; operators are <, <=, >, >=; may repeat."
  )
  first = 'Number of first fixations for the chance that one falls in an area.'
  cli.define(
    values,
    (several, 'image', None, 'Images; --image= may be left out.'),
    (several, 'text', None, "Sentence; may repeat. '' is free viewing."),
    (text, 'run', '', 'Folder of a run; the released model by default.'),
    (text, 'stage', '', 'Stage of the run; by default the last.'),
    (several, 'areas', None, areas),
    (several, 'fail_if', None, condition),
    (flags.DEFINE_integer, 'fixations', 3, first, 1, 1000),
    (text, 'out', 'comparison', 'Folder for the files.'),
  )


def plan(
  count: int, texts: Sequence[str]
) -> tuple[list[Seen], list[tuple[int, int]]]:
  """Lists the views of so many images and sentences, and pairs to compare.

  Raises:
    UsageError: there is nothing to compare.
  """
  if count == 1 and not texts:
    raise cli.UsageError('Give two images, or a --text.')
  if count == 1:
    seen = [Seen(f'text{k}', 0, t) for k, t in enumerate(texts, start=1)]
    if len(seen) == 1:
      seen.insert(0, Seen(IMPLIED, 0, ''))
    return seen, [(0, k) for k in range(1, len(seen))]
  texts = texts or ['']
  seen = [
    Seen(f'image{k + 1}' + (f'.text{n}' if len(texts) > 1 else ''), k, text)
    for k in range(count)
    for n, text in enumerate(texts, start=1)
  ]
  pairs = [(k % len(texts), k) for k in range(len(texts), len(seen))]
  return seen, pairs


def _read_areas(options, paths, images) -> tuple[list[list], list[str]]:
  """Reads the areas of each image, and what is to note about them."""
  from salflax.predict import areas as areas_lib

  names = options.areas or ()
  if len(names) > 1 and len(names) != len(paths):
    raise cli.UsageError(
      f'Give --areas once or once for each image: found {len(names)} for '
      f'{len(paths)} images.'
    )
  names = [*names] * (len(paths) if len(names) == 1 else 1)
  areas, notes = [[] for _ in paths], []
  for k, (name, path, image) in enumerate(zip(names, paths, images)):
    size = image.shape[:2]
    areas[k] = areas_lib.read_areas(name, image=str(path), size=size)
    try:
      lines = areas_lib.notes(areas[k], *size)
    except ValueError as e:
      raise ValueError(f'{name}, {path}: {e}') from e
    notes += [f'{cli.utf8(str(path))}: {line}' for line in lines]
  return areas, notes


def _conditions(options, seen, areas) -> list:
  """Reads the conditions before anything is predicted."""
  from salflax.predict import conditions

  if options.fail_if and not any(areas):
    raise cli.UsageError('--fail-if needs --areas.')
  names = {view.name: [a.name for a in areas[view.image]] for view in seen}
  try:
    return [
      conditions.parse(text, names, implied=(IMPLIED,))
      for text in options.fail_if or ()
    ]
  except ValueError as e:
    raise cli.UsageError(f'--fail-if: {e}') from e


def _predict(options, images, seen) -> list:
  """Predicts the density of each view."""
  from salflax.predict import compare
  from salflax.predict.predictor import Predictor

  predictor = Predictor.load(options.run, stage=options.stage)
  pairs = [(images[view.image], view.text) for view in seen]
  maps = predictor.predict(pairs, batch_size=min(8, len(pairs)))
  densities = []
  for saliency, view in zip(maps, seen):
    try:
      densities.append(compare.density(saliency))
    except ValueError as e:
      raise ValueError(f'{view.name}: {e} The weights are broken.') from e
  return densities


def _write(folder, comparison, views, images, pairs, notes) -> None:
  """Writes overlays, differences, comparison.json and the page, or nothing."""
  folder.mkdir(parents=True, exist_ok=True)
  # Inside, where there is room and a right to write if anywhere.
  with tempfile.TemporaryDirectory(prefix='.', dir=folder) as scratch:
    scratch = pathlib.Path(scratch)
    _write_files(scratch, comparison, views, images, pairs, notes)
    for path in scratch.iterdir():
      path.replace(folder / path.name)


def _write_files(folder, comparison, views, images, pairs, notes) -> None:
  from PIL import Image

  from salflax.core import files
  from salflax.report import comparison as report
  from salflax.report import plots

  def save(name, image):
    Image.fromarray(image).save(folder / name)

  for view, image, row in zip(views, images, comparison['views']):
    labels = report.labels(row['areas'])
    polygons = {labels[a.name]: a.polygons for a in view.areas}
    overlay = plots.overlay(image, view.density)
    save(f'{view.name}_overlay.png', report.outline(overlay, polygons))
  for (first, second), change in zip(pairs, comparison['changes']):
    if change['cc'] is None:
      continue
    polygons = {a.name: a.polygons for a in views[second].areas}
    image = report.difference(
      images[second], views[first].density, views[second].density
    )
    save(
      report.difference_name(change['before'], change['after']),
      report.outline(image, polygons),
    )
  page = report.html(comparison, folder, notes=notes)
  files.write_text(folder / 'comparison.html', page)
  files.write_json(folder / 'comparison.json', comparison)


def _check_folder(folder, inputs, seen, pairs) -> None:
  """Raises where there can be no folder, or a file would replace an input."""
  from salflax.report import comparison as report

  parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  if not parent.is_dir():
    raise NotADirectoryError(f'--out={folder}: {parent} is a file.')
  names = [
    *('comparison.html', 'comparison.json'),
    *(f'{view.name}_overlay.png' for view in seen),
    *(report.difference_name(seen[a].name, seen[b].name) for a, b in pairs),
  ]
  outputs = [path for name in names if (path := folder / name).exists()]
  for path in inputs:
    if any(output.samefile(path) for output in outputs):
      raise ValueError(
        f'{path} would be overwritten: name another folder by --out.'
      )


def execute(options: Any) -> int:
  """Compares what the options name; 4 where a condition holds."""
  cli.need_disk('--out', options.out)
  cli.keep_programs()
  from salflax.predict import compare, conditions, predictor
  from salflax.report import comparison as report

  paths = [pathlib.Path(name) for name in options.image or ()]
  if not paths:
    raise cli.UsageError('Give an image, or two.')
  seen, pairs = plan(len(paths), options.text or ())
  images = [predictor.read_image(path) for path in paths]
  areas, notes = _read_areas(options, paths, images)
  asked = _conditions(options, seen, areas)
  folder = pathlib.Path(options.out)
  _check_folder(folder, [*paths, *(options.areas or ())], seen, pairs)
  densities = _predict(options, images, seen)
  views = [
    compare.View(
      view.name,
      cli.utf8(str(paths[view.image])),
      cli.utf8(view.text),
      density,
      areas[view.image],
    )
    for view, density in zip(seen, densities)
  ]
  comparison = {
    'model': cli.utf8(options.run),
    **compare.compare(views, pairs, fixations=options.fixations),
  }
  failed = conditions.failures(asked, comparison)
  comparison['failures'] = failed
  of_views = [images[view.image] for view in seen]
  _write(folder, comparison, views, of_views, pairs, notes)
  for table in report.tables(comparison):
    print(table.markdown())
  print(f'Written to {folder}: comparison.html, comparison.json, overlays')
  cli.say(*(f'Note: {n}' for n in [*notes, *report.left_out(comparison)]))
  if failed:
    cli.say(f'Failed: {"; ".join(map(report.failure, failed))}')
  return cli.GATE if failed else cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
