"""Maps of any other model, as files in a folder: found, read and checked.

A file is named `<image_id>_<condition>`, with SJTU-TIS's number in place of
the condition if you like (`_0` pure, none whole, `_1` all, `_2` non_salient,
`_3` salient), or just `<image_id>` for a model that reads no text.
"""

import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from salflax.core import files, parallel
from salflax.core.types import Example
from salflax.data import pp
from salflax.evaluate import scorer

SUFFIXES = ('.npy', '.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp')
NUMBERS = {'pure': '0', 'all': '1', 'non_salient': '2', 'salient': '3'}
# A small map's sides are whole numbers, so its aspect is off by a little.
ASPECT_TOLERANCE = 0.03


class Matched(NamedTuple):
  """Which file holds the map of which row.

  Attributes:
    paths: by row of the source.
    missing: 'image_id (condition)' of rows without a map.
    extra: names of files that belong to no row.
    shared: whether one map per picture serves all its conditions.
  """

  paths: dict[int, pathlib.Path]
  missing: list[str]
  extra: list[str]
  shared: bool


def _row_name(meta: Mapping[str, Any]) -> str:
  condition = meta['condition']
  return f'{meta["image_id"]} ({condition})' if condition else meta['image_id']


def match(folder: str | os.PathLike, source: Sequence[Example]) -> Matched:
  """Finds the map of every row of a source by the names of the files.

  A map named by the picture alone serves all of the picture's conditions, but
  only in a folder where no name carries a condition; else it stands for the
  condition `whole`, or for a picture's only condition.

  Args:
    folder: with the maps.
    source: with `source.meta(index)`.

  Raises:
    FileNotFoundError: if there is no such folder, or no map in it.
    ValueError: if two files have the same name but for the type.
  """
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise FileNotFoundError(f'No such folder of maps: {folder}')
  files = {}
  for path in sorted(folder.iterdir()):
    if path.suffix.lower() not in SUFFIXES or path.name.startswith('.'):
      continue
    if path.stem in files:
      raise ValueError(
        f'Two maps of one name: {files[path.stem].name} and {path.name}.'
      )
    files[path.stem] = path
  if not files:
    raise FileNotFoundError(
      f'{folder} holds no map; looked for {", ".join(SUFFIXES)}.'
    )
  metas = [source.meta(index) for index in range(len(source))]
  conditions: dict[str, set[str]] = {}
  for meta in metas:
    conditions.setdefault(meta['image_id'], set()).add(meta['condition'])

  def named(meta):
    condition = meta['condition']
    for suffix in (condition, NUMBERS.get(condition)):
      if suffix and (path := files.get(f'{meta["image_id"]}_{suffix}')):
        return path

  shared = not any(named(meta) for meta in metas)
  paths, missing = {}, []
  for index, meta in enumerate(metas):
    alone = len(conditions[meta['image_id']]) == 1
    path = named(meta)
    if path is None and (shared or alone or meta['condition'] == 'whole'):
      path = files.get(meta['image_id'])
    if path is None:
      missing.append(_row_name(meta))
    else:
      paths[index] = path
  used = set(paths.values())
  extra = [path.name for path in files.values() if path not in used]
  several = any(len(c) > 1 for c in conditions.values())
  return Matched(paths, missing, extra, shared and several)


def read_map(path: str | os.PathLike) -> np.ndarray:
  """Returns a saliency map f32 [h, w] >= 0, of any scale.

  Args:
    path: .npy of [h, w] or [h, w, 1]; or a grey picture of 8 or 16 bits.

  Raises:
    ValueError: names the file, if it cannot be read, is in colour, or holds
      negative values or values that are not finite.
  """
  path = pathlib.Path(path)
  try:
    if path.suffix.lower() == '.npy':
      values = np.load(path, allow_pickle=False)
    else:
      with Image.open(path) as image:
        if image.mode in ('P', 'CMYK', 'YCbCr'):
          image = image.convert('RGB')
        values = np.asarray(image)
  except (OSError, ValueError, SyntaxError, EOFError) as e:
    raise ValueError(f'{path.name}: cannot be read as a map: {e}') from e
  if values.dtype.kind not in 'buif':
    raise ValueError(f'{path.name}: holds {values.dtype}, not numbers.')
  values = values.astype(np.float32)
  if values.ndim == 3 and path.suffix.lower() != '.npy':
    # A grey picture may be stored with three equal channels and an alpha.
    grey = values[..., : 1 if values.shape[2] == 2 else 3]
    if np.ptp(grey, axis=2).max() > 8:
      raise ValueError(
        f'{path.name}: is in colour; a map must be grey, not a heat overlay.'
      )
    values = grey.mean(axis=2)
  values = values.squeeze() if values.ndim == 3 else values
  if values.ndim != 2 or 0 in values.shape:
    raise ValueError(f'{path.name}: expected [h, w], found {values.shape}.')
  if not np.isfinite(values).all():
    count = np.count_nonzero(~np.isfinite(values))
    raise ValueError(
      f'{path.name}: {count} values are not finite (NaN or inf).'
    )
  if values.min() < 0:
    raise ValueError(
      f'{path.name}: has negative values, down to {values.min():.4g}; a map is '
      'at least 0 (take the exponential of log densities).'
    )
  return values


def predict(path: str | os.PathLike, example: Example) -> np.ndarray:
  """Returns the map in a file, resized bilinearly to the picture's size."""
  return pp.resize(read_map(path), scorer.size_of(example))


class Checked(NamedTuple):
  """What is wrong with maps that were found.

  Attributes:
    unusable: by row, why its map cannot be scored.
    misshapen: by row, a map whose aspect is not the picture's.
    resized: number of maps of another size than their picture.
  """

  unusable: dict[int, str]
  misshapen: dict[int, str]
  resized: int


def check(
  matched: Matched, source: Sequence[Example], *, threads: int | None = None
) -> Checked:
  """Reads every map once, to name all that is wrong before any scoring."""

  def look(item):
    index, path = item
    try:
      found = read_map(path).shape
    except ValueError as e:
      return index, str(e), None, False
    wanted = scorer.size_of(source[index])
    ratio = found[1] * wanted[0] / (found[0] * wanted[1])
    rounding = 1 / min(found)
    off = abs(np.log(ratio)) > max(ASPECT_TOLERANCE, rounding)
    note = (
      f'{path.name}: {found[1]}x{found[0]} (width x height) for a picture of '
      f'{wanted[1]}x{wanted[0]}'
    )
    return index, None, note if off else None, found != wanted

  unusable, misshapen, resized = {}, {}, 0
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for index, fault, note, other in pool.map(look, matched.paths.items()):
      if fault:
        unusable[index] = fault
      if note:
        misshapen[index] = note
      resized += other
  return Checked(unusable, misshapen, resized)


def _some(names: Sequence[str], limit: int = 10) -> str:
  more = f' and {len(names) - limit} more' if len(names) > limit else ''
  return ', '.join(names[:limit]) + more


def faults(matched: Matched, checked: Checked) -> list[str]:
  """Returns why some rows cannot be scored, naming them; empty if all can."""
  found = []
  if matched.missing:
    found.append(f'{len(matched.missing)} missing: {_some(matched.missing)}')
  return found + list(checked.unusable.values())


def notes(matched: Matched, checked: Checked) -> list[str]:
  """Returns what a reader of the scores should know about the maps."""
  found = []
  if matched.extra:
    count = len(matched.extra)
    found.append(f'{count} of no picture, left out: {_some(matched.extra)}')
  if matched.shared:
    found.append('One map per picture: it is scored in every condition.')
  if checked.resized:
    found.append(f'{checked.resized} resized bilinearly to their pictures.')
  if checked.misshapen:
    names = list(checked.misshapen.values())
    found.append(
      f'{len(names)} of another aspect than their picture, stretched: '
      + _some(names)
    )
  return [f'Note: {note}' for note in found]


def keeping(
  predict_fn: Callable, source: Sequence[Example], folder: str | os.PathLike
) -> Callable:
  """Returns a predict_fn that also writes what it predicts.

  A map is <image_id>_<condition>.png, 8 bits, scaled to its maximum, without
  the letterbox.

  Args:
    predict_fn: (variables, batch) -> [B, H, W]; the batch has index, mask and
      box.
    source: the rows that the index points into.
    folder: for the maps.
  """
  folder = pathlib.Path(folder)

  def predict(variables, batch):
    preds = predict_fn(variables, batch)
    if not isinstance(preds, np.ndarray):
      preds = parallel.local_rows(preds)
    for k in np.flatnonzero(batch['mask']):
      meta = source.meta(int(batch['index'][k]))
      top, left, h, w = (int(v) for v in batch['box'][k])
      inside = preds[k, top : top + h, left : left + w]
      scale = 255 / inside.max() if inside.max() > 0 else 0
      grey = np.floor(np.clip(inside * scale, 0, 255) + 0.5).astype(np.uint8)
      name = '_'.join(filter(None, [meta['image_id'], meta['condition']]))
      with files.replacing(folder / f'{name}.png') as temporary:
        Image.fromarray(grey).save(temporary)
    return preds

  return predict
