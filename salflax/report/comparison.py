"""A comparison of sentences or images: overlays, tables and one page."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from salflax.report import figures, page
from salflax.report.tables import Table

LEAST_SIDE = 640  # pixels of the longer side of an overlay


def outline(
  image: np.ndarray,
  polygons: Mapping[str, Sequence[Sequence[tuple[float, float]]]],
) -> np.ndarray:
  """Draws the outlines of areas over an image, each with its label.

  Args:
    image: u8 [h, w, 3].
    polygons: corners (x, y) of an area's polygons, by its label.

  Returns:
    u8 [k h, k w, 3]; k is above 1 for small images, whose labels would hide
    what they name.
  """
  scale = -(-LEAST_SIDE // max(image.shape))
  image = image.repeat(scale, axis=0).repeat(scale, axis=1)
  drawn = Image.fromarray(image)
  draw, side = ImageDraw.Draw(drawn), max(drawn.size)
  width, height = max(1, side // 320), max(11, side // 34)
  font = ImageFont.load_default(height)
  for label, parts in polygons.items():
    for part in parts:
      # Pillow's coordinates are those of the pixels' centres.
      line = [(scale * x - 0.5, scale * y - 0.5) for x, y in (*part, part[0])]
      # White on black is seen on any colour.
      draw.line(line, 'black', 3 * width, 'curve')
      draw.line(line, 'white', width, 'curve')
    left, top = (scale * min(values) for values in zip(*parts[0]))
    room = drawn.width - draw.textlength(label, font) - 4
    # Above the area, or inside where that would be outside the image.
    top = top - 1.4 * height if top > 1.4 * height else top + 2 * width
    place = (max(2, min(left, room)), min(top, drawn.height - 1.4 * height))
    draw.text(place, label, 'white', font, stroke_width=2, stroke_fill='black')
  return np.asarray(drawn)


def labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
  """Labels areas by name and share; by number where a font may lack letters.

  Args:
    rows: rows of `areas.attention`.
  """
  result = {}
  for place, row in enumerate(rows, start=1):
    name = row['name']
    short = name if name.isascii() and len(name) <= 24 else f'#{place}'
    result[name] = f'{short} {100 * row["share"]:.1f} %'
  return result


def difference(
  image: np.ndarray, before: np.ndarray, after: np.ndarray
) -> np.ndarray:
  """Colours an image red where gaze goes, blue where it leaves: u8 [h, w, 3].

  The greatest change of either sign has full colour.

  Args:
    image: u8 [h, w, 3], of the map after.
    before: [h, w] >= 0, any scale.
    after: [h, w] >= 0, any scale.
  """
  change = figures.density(after) - figures.density(before)
  return figures.diverging(image, change, top=float(np.abs(change).max()))


def _short(text: str, letters: int) -> str:
  return text if len(text) <= letters else text[: letters - 1] + '…'


def _about(view: Mapping[str, Any], letters: int) -> str:
  """Writes image and sentence of a view, at most so many letters of each."""
  text = f'"{_short(view["text"], letters)}"' if view['text'] else 'no sentence'
  return f'{_short(pathlib.PurePath(view["image"]).name, letters)}, {text}'


def tables(comparison: Mapping[str, Any]) -> list[Table]:
  """Makes the tables of a comparison: views, what moved, attention of areas.

  Args:
    comparison: see docs/comparison.schema.json.
  """
  views = comparison['views']
  rows = [[view['name'], _about(view, 48)] for view in views]
  result = [Table('Views', ('view', 'image and sentence'), rows)]
  rows, gains = [], {}
  for change in comparison['changes']:
    shift, emd = change['shift'], change['emd'] or {'pixels': None}
    rows.append(
      [
        f'{change["before"]} to {change["after"]}',
        change['information_gain'],
        change['cc'],
        emd['pixels'],
        f'{shift["dx"]:+.1f}, {shift["dy"]:+.1f}',
        100 * shift['diagonal'],
      ]
    )
    for row in change['areas']:
      gains[change['after'], row['name']] = f'{100 * row["share"]:+.1f}'
  head = (
    *('views', 'gain, bits', 'CC', 'EMD, px'),
    *('centre moved by x, y px', '% of diagonal'),
  )
  result.append(Table('What moved', head, rows, digits=2))
  rows = [
    [
      *(view['name'], row['name'], 100 * row['size'], 100 * row['share']),
      gains.get((view['name'], row['name']), ''),
      *(row['lift'], row['rank'], 100 * row['probability']),
    ]
    for view in views
    for row in view['areas']
  ]
  if rows:
    head = (
      *('view', 'area', 'size, %', 'attention, %', 'change', 'lift', 'rank'),
      f'in first {comparison["fixations"]}, %',
    )
    result.append(Table('Areas', head, rows, digits=1))
  return result


def left_out(comparison: Mapping[str, Any]) -> list[str]:
  """Says which measures were left out, and why."""
  lines = []
  for change in comparison['changes']:
    pair = f'{change["before"]} to {change["after"]}'
    if change['cc'] is None:
      lines.append(
        f'{pair}: the images differ in size. Information gain, CC, EMD and the '
        'difference are left out; areas and the shift of the centre stay.'
      )
    elif change['emd'] is None:
      lines.append(f'{pair}: EMD is left out; it needs POT: pip install pot.')
  return lines


def _summary(view: Mapping[str, Any]) -> str:
  shares = [f'{r["name"]} {100 * r["share"]:.1f} %' for r in view['areas']]
  return '; '.join([f'{view["name"]}: {_about(view, 400)}', *shares])


def html(
  comparison: Mapping[str, Any],
  folder: pathlib.Path,
  *,
  notes: Sequence[str] = (),
) -> str:
  """Writes the page of a comparison, with its images inside.

  Args:
    comparison: see docs/comparison.schema.json.
    folder: folder with the overlays and differences.
    notes: notes on the areas.
  """
  views = {view['name']: view for view in comparison['views']}
  blocks = [
    {
      'change': change,
      'figures': [
        *(
          (
            folder / f'{name}_overlay.png',
            f'Attention on {_summary(views[name])}',
            _summary(views[name]),
          )
          for name in (change['before'], change['after'])
        ),
        *difference_figure(change, folder),
      ],
    }
    for change in comparison['changes']
  ]
  return page.render(
    'comparison.html',
    blocks=blocks,
    tables=tables(comparison)[1:],  # the captions name the views
    notes=[*notes, *left_out(comparison)],
    failures=[failure(f) for f in comparison['failures']],
    model=comparison['model'],
  )


def difference_name(before: str, after: str) -> str:
  """Names the file of the difference of two views."""
  return f'{before}_{after}_difference.png'


def difference_figure(
  change: Mapping[str, Any], folder: pathlib.Path
) -> list[tuple[pathlib.Path, str, str]]:
  """Makes file, alternative text and caption of a difference, if there is one.

  Args:
    change: entry of `changes`.
    folder: folder of the files.
  """
  if change['cc'] is None:
    return []
  gains = [f'{r["name"]} {100 * r["share"]:+.1f}' for r in change['areas']]
  caption = f'{change["after"]} less {change["before"]}: red gains, blue loses'
  caption += f'. Points of share: {", ".join(gains)}' if gains else ''
  path = folder / difference_name(change['before'], change['after'])
  return [(path, f'Difference, {caption}', caption)]


def failure(failure: Mapping[str, Any]) -> str:
  """Writes one failure: 'text2.cta<0.08 (0.0512)'."""
  return '{view}.{area}{operator}{number:.6g} ({share:.4f})'.format(**failure)
