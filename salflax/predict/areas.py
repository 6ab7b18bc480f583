"""Areas of interest: read from a file, drawn into an image, their attention.

Coordinates are pixels of the image, x to the right and y down, (0, 0) being the
upper left corner of the upper left pixel, whose centre is (0.5, 0.5). Files:

  JSON  {"areas": [{"name": "cta", "box": [x, y, width, height]},
                   {"name": "logo", "polygon": [[x, y], [x, y], [x, y]]}]}
  CSV   a head `name,x,y,width,height`, then a line for each box
  COCO  annotations, named by their category; crowds are left out
"""

import collections
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.core import files, spec
from salflax.data import tables

Polygon = tuple[tuple[float, float], ...]
COLUMNS = ('name', 'x', 'y', 'width', 'height')
_HALVES = re.compile('[\ud800-\udfff]')
MOST = 10**6  # pixels: beyond, drawing would leave 32 bits


class Area(NamedTuple):
  """A named part of an image.

  Attributes:
    name: name, unlike that of any other area.
    polygons: corners (x, y) in pixels of each polygon; their union is the area.
  """

  name: str
  polygons: tuple[Polygon, ...]

  def mask(self, height: int, width: int) -> np.ndarray:
    """Marks the pixels whose centre lies inside, bool [h, w].

    Areas that share an edge share no pixel and miss none between them. Where a
    polygon crosses itself, what it encloses twice is outside.
    """
    none = np.zeros((height, width), bool)
    return sum((_inside(p, height, width) for p in self.polygons), none)


def _inside(polygon: Polygon, height: int, width: int) -> np.ndarray:
  """Counts edges to the left of each pixel's centre: inside where odd.

  Pillow would round the corners to whole pixels and fill the outline, too.
  """
  inside = np.zeros((height, width), bool)
  x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
  for edge in zip(polygon, (*polygon[1:], polygon[0])):
    # From top to bottom, so that a neighbour's edge has the same round-off.
    (x0, y0), (x1, y1) = sorted(edge, key=lambda point: point[::-1])
    first, last = np.searchsorted(y, (y0, y1))
    rows = slice(int(first), int(last))
    if first < last:
      crossing = x0 + (y[rows] - y0) / (y1 - y0) * (x1 - x0)
      inside[rows] ^= crossing[:, None] <= x
  return inside


def _numbers(values: Any, count: int = 0) -> list[float]:
  """Checks for coordinates, `count` of them or an even number from 6 on."""
  good = isinstance(values, Sequence) and not isinstance(values, str)
  # A comparison, which NaN fails, and which any number of digits survives.
  good = good and all(
    isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= MOST
    for v in values
  )
  enough = good and (
    len(values) == count if count else len(values) >= 6 and not len(values) % 2
  )
  if not enough:
    wanted = f'{count} numbers' if count else 'corners [x, y], 3 or more'
    raise ValueError(
      f'expected {wanted}, of at most {MOST:,} pixels, found {values!r:.200}'
    )
  return [float(v) for v in values]


def _box(values: Any) -> Polygon:
  x, y, width, height = _numbers(values, 4)
  if not (width > 0 and height > 0):
    raise ValueError(
      'a box is [x, y, width, height] with width and height above 0, found '
      f'{values!r}'
    )
  right, bottom = x + width, y + height
  return ((x, y), (right, y), (right, bottom), (x, bottom))


def _corners(flat: Any) -> Polygon:
  """Pairs the numbers [x, y, x, y, ...] of a polygon."""
  numbers = _numbers(flat)
  return tuple(zip(numbers[::2], numbers[1::2]))


def _entry(entry: Any) -> tuple[str, list[Polygon]]:
  """Reads name and polygons of an object of the JSON format."""
  if not isinstance(entry, Mapping):
    raise ValueError(f'expected an object, found {entry!r:.200}')
  for key in {*entry} - {'name', 'box', 'polygon'}:
    raise spec.unknown('key', key, ('name', 'box', 'polygon'))
  name = entry.get('name')
  if ('box' in entry) == ('polygon' in entry):
    raise ValueError(f'{name!r} needs either a box or a polygon')
  if 'box' in entry:
    return name, [_box(entry['box'])]
  points = entry['polygon']
  if not isinstance(points, Sequence) or isinstance(points, str):
    raise ValueError(f'expected corners [x, y], found {points!r:.200}')
  return name, [_corners([v for point in points for v in _numbers(point, 2)])]


def _row(row: tuple[int, dict[str, str], str]) -> tuple[str, list[Polygon]]:
  """Reads name and box of a line of a CSV."""
  _, cells, fault = row
  if fault:
    raise ValueError(fault)
  values = [tables.number(cells[column]) for column in COLUMNS[1:]]
  if None in values:
    raise ValueError(f'{cells["name"]!r}: not a number among {cells}')
  return cells['name'], [_box(values)]


def _annotation(entry: Any) -> tuple[str, list[Polygon]]:
  """Reads the polygons, or else the box, of a COCO annotation."""
  name, parts = entry['category'], entry.get('segmentation')
  if parts and not isinstance(parts, list):
    raise ValueError(f'{name!r} is a run-length mask; allowed are polygons')
  if parts:
    return name, [_corners(part) for part in parts]
  return name, [_box(entry.get('bbox'))]


def _image(images: Sequence[Mapping], image: str) -> Mapping:
  """Chooses the entry whose path, from its end, agrees most with the image's.

  Of equals, one that agrees as a whole goes before one of another folder.
  """
  if not image and len(images) == 1:
    return images[0]
  path, agree = pathlib.Path(image).absolute().parts[::-1], []
  for entry in images:
    parts = pathlib.PurePath(entry['file_name']).parts[::-1]
    common = len(os.path.commonprefix([path, parts]))
    agree.append((common, common == len(parts)))
  most = max(agree, default=(0, False))
  best = [entry for entry, own in zip(images, agree) if own == most]
  names = [entry['file_name'] for entry in best]
  if not image or not most[0]:
    raise spec.unknown('image', image, names)
  if len(best) > 1:
    raise ValueError(f'{image} may be any of {spec.some(names)}.')
  return best[0]


def _coco(
  tree: Mapping, source: str, image: str, size: tuple[int, int] | None
) -> list[Any]:
  """Lists the annotations of an image, `category` being the category's name."""
  try:
    named = [(c['id'], c['name']) for c in tree.get('categories', ())]
    names = files.once(named, 'id of a category')
    chosen = _image(tree['images'], image)
    files.once([(i['id'], i) for i in tree['images']], 'id of an image')
    theirs = chosen.get('height'), chosen.get('width')
    if size and None not in theirs and theirs != size:
      sizes = '{1}x{0} pixels, the image {3}x{2}'.format(*theirs, *size)
      raise ValueError(f'{chosen["file_name"]} has {sizes} (width x height).')
    return [
      entry | {'category': names.get(entry['category_id'])}
      for entry in tree['annotations']
      if entry['image_id'] == chosen['id'] and not entry.get('iscrowd')
    ]
  except ValueError as e:
    raise ValueError(f'{source}: {e}') from e
  except (KeyError, TypeError, AttributeError) as e:
    raise ValueError(
      f'{source}: COCO needs images (id, file_name), categories (id, name) and '
      f'annotations (image_id, category_id, segmentation or bbox): {e!r}.'
    ) from e


def _plain(name: Any) -> str:
  """Strips a name; halves of characters, which no file takes, are no text."""
  if not isinstance(name or '', str) or _HALVES.search(name or ''):
    raise ValueError(f'a name is text, found {name!r:.200}')
  if not (name := (name or '').strip()):
    raise ValueError('it has no name')
  return name


def _collect(
  entries: Iterable[Any], read: Any, source: str, *, number: bool = False
) -> list[Area]:
  """Makes areas of entries; all that are wrong are named in one error."""
  result, faults, counts = {}, [], collections.Counter()
  for place, entry in enumerate(entries, start=1):
    try:
      name, polygons = read(entry)
      name = _plain(name)
      counts[name] += 1
      if number and counts[name] > 1:
        name += f'-{counts[name]}'
      if name in result:
        raise ValueError(f'the name {name!r} is there twice')
      result[name] = Area(name, tuple(polygons))
    except ValueError as e:
      faults.append(f'area {place}: {e}')
  if faults:
    lines = [f'{source}: these areas are wrong:', *faults]
    raise ValueError('\n  '.join(lines))
  if not result:
    raise ValueError(f'{source}: holds no area.')
  return [*result.values()]


def parse_areas(
  tree: Any,
  source: str = 'areas',
  *,
  image: str = '',
  size: tuple[int, int] | None = None,
) -> list[Area]:
  """Reads areas from parsed JSON: the simple format, its list alone, or COCO.

  Args:
    tree: lists and dicts.
    source: what to call it in errors.
    image: path of the image, looked up in COCO; '' takes the only one there.
    size: height and width of the image, which COCO must not contradict.

  Raises:
    ValueError: names every area that is wrong, and why.
  """
  if isinstance(tree, Mapping) and 'annotations' in tree:
    entries = _coco(tree, source, image, size)
    return _collect(entries, _annotation, source, number=True)
  entries = tree.get('areas') if isinstance(tree, Mapping) else tree
  if not isinstance(entries, list):
    raise ValueError(
      f'{source}: expected {{"areas": [...]}}, a list of areas, or COCO '
      f'annotations; found {tree!r:.200}.'
    )
  return _collect(entries, _entry, source)


def read_areas(
  path: str | os.PathLike,
  *,
  image: str = '',
  size: tuple[int, int] | None = None,
) -> list[Area]:
  """Reads the areas of an image from JSON, CSV or COCO annotations.

  Args:
    path: .csv, or JSON of any other name.
    image: see `parse_areas`.
    size: see `parse_areas`.

  Raises:
    OSError: the file cannot be read.
    ValueError: names the file and every area that is wrong, and why.
  """
  path = pathlib.Path(path)
  if path.suffix.lower() == '.csv':
    return _collect(tables.read_table(path, COLUMNS), _row, str(path))
  # Behind a byte-order mark, perhaps.
  first = path.read_bytes().lstrip(b'\xef\xbb\xbf \t\r\n')[:1]
  tree = files.read_json(path, kind=list if first == b'[' else dict)
  return parse_areas(tree, str(path), image=image, size=size)


def masks(
  areas: Sequence[Area], height: int, width: int
) -> dict[str, np.ndarray]:
  """Draws areas into an image: bool [h, w] by name.

  Raises:
    ValueError: areas that hold no pixel of the image, each named.
  """
  result = {area.name: area.mask(height, width) for area in areas}
  if empty := [name for name, mask in result.items() if not mask.any()]:
    raise ValueError(
      f'No pixel of the {width}x{height} image (width x height) lies in: '
      f'{", ".join(empty)}.'
    )
  return result


def attention(
  density: np.ndarray, areas: Sequence[Area], fixations: int = 3
) -> list[dict[str, Any]]:
  """Measures how much of the gaze each area gets.

  Args:
    density: f64 [h, w] that sums to 1.
    areas: areas; where they overlap, shares add up to more than their union's.
    fixations: number of first fixations, each taken to fall as the density
      says, whatever the others did.

  Returns:
    A dict for each area, in their order: `name`; `size`, its share of the
    image's pixels; `share` of the gaze, in [0, 1]; `lift`, share / size, 1
    being an even spread; `rank` by share, 1 the greatest, equal ones alike;
    `probability` that one or more of the first fixations fall there.

  Raises:
    ValueError: areas that hold no pixel of the image, each named.
  """
  spec.check_number('attention: fixations', fixations, 1, 1000, whole=True)
  rows = []
  for name, mask in masks(areas, *density.shape).items():
    size, share = float(mask.mean()), float(min(density[mask].sum(), 1.0))
    rows.append({'name': name, 'size': size, 'share': share})
  for row in rows:
    row['lift'] = row['share'] / row['size']
    row['rank'] = 1 + sum(other['share'] > row['share'] for other in rows)
    row['probability'] = 1 - (1 - row['share']) ** fixations
  return rows


def notes(areas: Sequence[Area], height: int, width: int) -> list[str]:
  """Lists areas that reach beyond the image, and pairs that overlap.

  Raises:
    ValueError: areas that hold no pixel of the image, each named.
  """
  lines, drawn = [], masks(areas, height, width)
  for area in areas:
    x, y = zip(*(point for polygon in area.polygons for point in polygon))
    if min(x) < 0 or min(y) < 0 or max(x) > width or max(y) > height:
      lines.append(
        f'{area.name} reaches beyond the {width}x{height} image; what lies '
        'outside is left out.'
      )
  names = list(drawn)
  for k, name in enumerate(names):
    for other in names[k + 1 :]:
      if common := int((drawn[name] & drawn[other]).sum()):
        lines.append(f'{name} and {other} share {common} pixels.')
  return lines
