"""Maps of any other model, as files in a folder: found, read, checked, written.

A file is named `<image_id>_<condition>`, with SJTU-TIS's number in place of the
condition if you like (`_0` pure, none whole, `_1` all, `_2` non_salient, `_3`
salient), or just `<image_id>` for a model that reads no text. An id with
folders in it, `Action/001`, may be nested, flattened (`Action_001`) or bare
(`001`) where that is unique.
"""

import collections
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from salflax.core import files
from salflax.core.types import Example
from salflax.data import batches
from salflax.evaluate import scorer

# Of two files of one name, the earlier type counts.
SUFFIXES = ('.npy', '.png', '.tif', '.tiff', '.bmp', '.jpg', '.jpeg')
NUMBERS = {'pure': '0', 'all': '1', 'non_salient': '2', 'salient': '3'}
# A small map's sides are whole numbers, so its aspect is off by a little.
ASPECT_TOLERANCE = 0.03


class Matched(NamedTuple):
  """Files of the maps of a source's rows.

  Attributes:
    paths: file by row of the source.
    missing: 'image_id (condition)' of rows without a map.
    extra: names of files that belong to no row.
    shared: whether one map per image serves all its conditions.
  """

  paths: dict[int, pathlib.Path]
  missing: list[str]
  extra: list[str]
  shared: bool


def _row_name(meta: Mapping[str, Any]) -> str:
  condition = meta['condition']
  return f'{meta["image_id"]} ({condition})' if condition else meta['image_id']


def _flat(name: str) -> str:
  return name.replace('/', '_')


class _Names:
  """Finds files by the names that a map may have."""

  def __init__(self, paths: Mapping[str, pathlib.Path], ids: Sequence[str]):
    self._paths = paths
    self._flat = {_flat(name): path for name, path in paths.items()}
    self._ids = {form for i in ids for form in (i, _flat(i))}
    self._bare = collections.defaultdict(list)
    for name, path in paths.items():
      self._bare[name.rpartition('/')[2]].append(path)
    bare = collections.Counter(i.rpartition('/')[2] for i in ids)
    self._unique = {name for name, count in bare.items() if count == 1}

  def find(self, image_id: str, suffix: str = '') -> pathlib.Path | None:
    """Returns the file of an id with a suffix; None where there is none.

    A name that is another image's whole id belongs to that image.
    """
    name = image_id + suffix
    if suffix and name in self._ids:
      return None
    if path := self._paths.get(name) or self._flat.get(_flat(name)):
      return path
    bare = image_id.rpartition('/')[2]
    alike = self._bare[bare + suffix] if bare in self._unique else ()
    return alike[0] if len(alike) == 1 else None


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the maps in a folder by path without suffix, best type first."""
  if not folder.is_dir():
    raise FileNotFoundError(f'No such folder of maps: {folder}')
  paths: dict[str, pathlib.Path] = {}
  for path in sorted(folder.rglob('*')):
    inside = path.relative_to(folder)
    hidden = any(part.startswith('.') for part in inside.parts)
    if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
      continue
    name = inside.with_suffix('').as_posix()
    rank = SUFFIXES.index(path.suffix.lower())
    if name not in paths or rank < SUFFIXES.index(paths[name].suffix.lower()):
      paths[name] = path
  if not paths:
    raise FileNotFoundError(
      f'{folder} holds no map; looked for {", ".join(SUFFIXES)}.'
    )
  return paths


def match(folder: str | os.PathLike, source: Sequence[Example]) -> Matched:
  """Finds the map of every row of a source by the names of the files.

  A map named by the image alone serves all of the image's conditions, but only
  in a folder where no name carries a condition; else it stands for the
  condition `whole`, or for an image's only condition. Of files that differ in
  their type alone, such as a .npy and its .png, the first of `SUFFIXES` counts.

  Args:
    folder: folder with the maps; folders in it are looked into.
    source: rows.

  Raises:
    FileNotFoundError: there is no such folder, or no map in it.
  """
  paths = _files(pathlib.Path(folder))
  metas = [batches.meta(source, index) for index in range(len(source))]
  conditions = collections.defaultdict(set)
  for meta in metas:
    conditions[meta['image_id']].add(meta['condition'])
  names = _Names(paths, list(conditions))

  def by_condition(meta):
    condition = meta['condition']
    for suffix in (condition, NUMBERS.get(condition)):
      if suffix and (path := names.find(meta['image_id'], f'_{suffix}')):
        return path

  shared = not any(by_condition(meta) for meta in metas)
  matched, missing = {}, []
  for index, meta in enumerate(metas):
    alone = len(conditions[meta['image_id']]) == 1
    path = names.find(meta['image_id']) if alone else None
    path = path or by_condition(meta)
    if path is None and (shared or meta['condition'] == 'whole'):
      path = names.find(meta['image_id'])
    if path is None:
      missing.append(_row_name(meta))
    else:
      matched[index] = path
  used = {path.with_suffix('') for path in matched.values()}
  extra = [p.name for p in paths.values() if p.with_suffix('') not in used]
  several = any(len(c) > 1 for c in conditions.values())
  return Matched(matched, missing, extra, shared and several)


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


class MapFolder:
  """A predictor that reads its maps from files.

  Args:
    paths: file by row of the source that is scored.
  """

  reads_text = False

  def __init__(self, paths: Mapping[int, pathlib.Path]):
    self.paths = paths

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map of each of these rows, of the size it has."""
    return (read_map(self.paths[i]) for i in indexes)


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
    wanted = scorer.size_of(batches.truth(source, index))
    ratio = found[1] * wanted[0] / (found[0] * wanted[1])
    rounding = 1 / min(found)
    off = abs(np.log(ratio)) > max(ASPECT_TOLERANCE, rounding)
    note = (
      f'{path.name}: {found[1]}x{found[0]} (width x height) for a picture of '
      f'{wanted[1]}x{wanted[0]}'
    )
    return index, None, note if off else None, found != wanted

  unusable, misshapen, resized = {}, {}, 0
  looked = batches.map_ahead(
    look, matched.paths.items(), threads=scorer.threads_or_all(threads)
  )
  for index, fault, note, other in looked:
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


def quantise(saliency: np.ndarray, *, bits: int) -> np.ndarray:
  """Returns a map as whole numbers, its maximum becoming the largest one.

  Values are rounded, not cut off: cutting off darkens every pixel by half a
  level, which alone moves KL and IG visibly for 8 bits.

  Args:
    saliency: [h, w] >= 0, any scale.
    bits: 8 or 16.

  Returns:
    u8 or u16 [h, w]; all zero for a map that is all zero.
  """
  if bits not in (8, 16):
    raise ValueError(f'bits must be 8 or 16, found {bits}.')
  values = np.asarray(saliency, np.float64)
  top = values.max()
  scaled = values / top * (2**bits - 1) if top > 0 else values
  return np.floor(scaled.clip(min=0) + 0.5).astype(f'uint{bits}')


class Keep:
  """A predictor that also writes its maps, 8-bit grey PNG of the image's size.

  Args:
    predictor: see `scorer.maps_of`.
    folder: folder of the files, <image_id>_<condition>.png.
    threads: threads that read images.
  """

  def __init__(
    self,
    predictor: Any,
    folder: str | os.PathLike,
    *,
    threads: int | None = None,
  ):
    self._predictor, self._folder = predictor, pathlib.Path(folder)
    self._threads = threads

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map of each of these rows."""
    maps = scorer.maps_of(
      self._predictor, source, indexes, threads=self._threads
    )
    for index, saliency in zip(indexes, maps):
      meta = batches.meta(source, index)
      name = '_'.join(filter(None, [meta['image_id'], meta['condition']]))
      grey = Image.fromarray(quantise(saliency, bits=8))
      with files.replacing(self._folder / f'{name}.png') as temporary:
        grey.save(temporary)
      yield saliency
