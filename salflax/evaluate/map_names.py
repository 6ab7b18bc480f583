"""Names of maps in a folder: which file is the map of which row.

A map is named `<image_id>_<condition>`, or with SJTU-TIS's number in place of
the condition (`_0` pure, none whole, `_1` all, `_2` non_salient, `_3` salient),
or `<image_id>` for a model that reads no text. An id with folders in it,
`Action/001`, may be nested, flattened (`Action_001`) or bare (`001`) where that
is unique. The predictions.json of `salflax predict` says itself which map is
which image and sentence.
"""

import collections
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from salflax.core import files
from salflax.core.types import Example
from salflax.data import batches, densities

# Of two files of one name, the earlier type counts.
SUFFIXES = ('.npy', '.png', '.tif', '.tiff', '.bmp', '.jpg', '.jpeg')
NUMBERS = {'pure': '0', 'all': '1', 'non_salient': '2', 'salient': '3'}
LISTING = 'predictions.json'
# Each host of several writes its own.
LISTINGS = 'predictions.*-of-*.json'


def listings(folder: pathlib.Path) -> list[pathlib.Path]:
  """Lists the files of `salflax predict` that say which map is of what."""
  whole = folder / LISTING
  return [whole] * whole.is_file() + sorted(folder.glob(LISTINGS))


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


def names(metas: Iterable[Mapping[str, Any]]) -> list[str]:
  """Names the map of each row: <image_id>_<condition>, a number if there are
  several; in a folder of its data set where data sets are joined.

  Args:
    metas: `meta` of each row of a source.
  """
  counts, result = collections.Counter(), []
  for meta in metas:
    name = '_'.join(filter(None, [_image(meta), meta['condition']]))
    counts[name] += 1
    result.append(name if counts[name] == 1 else f'{name}-{counts[name]}')
  return result


def _image(meta: Mapping[str, Any]) -> str:
  folder = str(meta['joined']).replace(':', '_') if 'joined' in meta else ''
  return '/'.join(filter(None, [folder, meta['image_id']]))


def _flat(name: str) -> str:
  return name.replace('/', '_')


class _Names:
  """Files by the names that a map may have."""

  def __init__(
    self, paths: Mapping[str, pathlib.Path], metas: Sequence[Mapping[str, Any]]
  ):
    self.paths = paths
    ids = {meta['image_id'] for meta in metas}
    self._ids = {form for i in ids for form in (i, _flat(i))}
    self._flat = {_flat(name): path for name, path in paths.items()}
    self._ends = collections.defaultdict(set)
    for name, path in paths.items():
      parts = name.split('/')
      for k in range(len(parts)):
        self._ends['/'.join(parts[k:])].add(path)
    bare = collections.Counter(i.rpartition('/')[2] for i in ids)
    self._unique = {name for name, count in bare.items() if count == 1}

  def find(
    self, meta: Mapping[str, Any], suffix: str = ''
  ) -> pathlib.Path | None:
    """Finds the file of an image with a suffix; None where there is none.

    A name that is another image's whole id belongs to that image.
    """
    name = meta['image_id'] + suffix
    if suffix and name in self._ids:
      return None
    for key in (_image(meta) + suffix, name):
      if path := self.paths.get(key) or self._flat.get(_flat(key)):
        return path
    bare = meta['image_id'].rpartition('/')[2]
    for key in (name, bare + suffix if bare in self._unique else name):
      if len(alike := self._ends.get(key, ())) == 1:
        return next(iter(alike))
    return None


def _files(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Lists the maps in a folder or an HDF5 file by path without suffix.

  Of several types the best one counts.
  """
  if folder.suffix.lower() in densities.TYPES and folder.is_file():
    keys = densities.names(folder)
    if not keys:
      raise FileNotFoundError(f'{folder} holds no map.')
    return {densities.stem(key): folder / key for key in keys}
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


def _listed(folder, paths, metas):
  """Finds maps by the list that `salflax predict` writes: (by row, shared)."""
  by_text = collections.defaultdict(dict)
  entries = (
    (path, entry)
    for path in listings(folder)
    for entry in files.read_json(path, kind=list)
  )
  for listing, entry in entries:
    try:
      name, image, text = (entry[k] for k in ('name', 'image', 'text'))
      stem = pathlib.PurePath(image).with_suffix('').as_posix()
      text = text.strip()
      # A file of another type may be of an earlier model.
      types = [t for t in SUFFIXES if t in entry.get('endings', ())]
    except (TypeError, KeyError, ValueError, AttributeError) as e:
      raise ValueError(
        f'{listing}: expected name, image and text, found {entry!r}.'
      ) from e
    for part in ('overlay', 'logdensity'):
      paths.pop(f'{name}_{part}', None)
    if name in paths:
      path = folder / f'{name}{types[0]}' if types else paths[name]
      by_text[text][stem.lstrip('/')] = path
  lists = {text: _Names(part, metas) for text, part in by_text.items()}
  shared = len(lists) == 1
  matched = {}
  for index, meta in enumerate(metas):
    text = next(iter(lists)) if shared else meta['text'].strip()
    if text in lists and (path := lists[text].find(meta)):
      matched[index] = path
  return matched, shared


def _guessed(paths, metas, conditions):
  """Finds maps by their names: (by row, shared)."""
  by_name = _Names(paths, metas)
  several = any(len(c) > 1 for c in conditions.values())
  own, ids = names(metas), [meta['image_id'] for meta in metas]
  for exact in (own,) if several else (ids, own):
    if all(name in paths for name in exact):
      return {k: paths[name] for k, name in enumerate(exact)}, False

  def by_condition(meta):
    condition = meta['condition']
    for suffix in (condition, NUMBERS.get(condition)):
      if suffix and (path := by_name.find(meta, f'_{suffix}')):
        return path

  shared, first = not any(map(by_condition, metas)), {}
  for name, meta in zip(own, metas):
    first.setdefault((batches.image_key(meta), meta['condition']), name)
  numbered = any(name in paths for name in {*own} - {*first.values()})
  matched = {}
  for index, meta in enumerate(metas):
    if numbered and own[index] not in first.values():
      if own[index] in paths:
        matched[index] = paths[own[index]]
      continue
    alone = len(conditions[batches.image_key(meta)]) == 1
    path = by_name.find(meta) if alone else None
    path = path or by_condition(meta)
    if path is None and (shared or meta['condition'] == 'whole'):
      path = by_name.find(meta)
    if path is not None:
      matched[index] = path
  return matched, shared and several


def match(folder: str | os.PathLike, source: Sequence[Example]) -> Matched:
  """Finds the map of every row of a source.

  A map named by the image alone serves all of the image's conditions, but only
  in a folder where no name carries a condition; else it stands for the
  condition `whole`, or for an image's only condition. Of files that differ in
  their type alone, such as a .npy and its .png, the first of `SUFFIXES` counts.
  A file that could be of two images is taken for neither.

  Args:
    folder: folder with the maps, folders in it are looked into; or an HDF5
      file of log-densities.
    source: rows.

  Raises:
    FileNotFoundError: there is no such folder, or no map in it.
    ValueError: its predictions.json cannot be read.
  """
  folder = pathlib.Path(folder)
  paths = _files(folder)
  metas = batches.metas(source)
  conditions = collections.defaultdict(set)
  for meta in metas:
    conditions[batches.image_key(meta)].add(meta['condition'])
  matched, shared = {}, False
  if listings(folder):
    matched, shared = _listed(folder, paths, metas)
  if not matched:
    matched, shared = _guessed(paths, metas, conditions)
  users = collections.defaultdict(set)
  for index, path in matched.items():
    users[path].add(batches.image_key(metas[index]))
  clear = {k: path for k, path in matched.items() if len(users[path]) == 1}
  missing = []
  for index, meta in enumerate(metas):
    if index not in clear:
      rival = matched.get(index)
      note = f', {rival.name} may be of another image' if rival else ''
      missing.append(f'{meta["image_id"]} ({meta["condition"]}{note})')
  used = {path.with_suffix('') for path in clear.values()}
  extra = [p.name for p in paths.values() if p.with_suffix('') not in used]
  return Matched(clear, missing, extra, shared)
