"""Finds the files of a raw folder and pairs images with their gaze."""

import collections
import dataclasses
import os
import pathlib
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from salflax.data.images import IMAGE_TYPES
from salflax.data.problems import Dropped, Report
from salflax.data.raw import Sample

# (image id, condition); '' stands for every condition.
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Dataset:
  """A published data set.

  Attributes:
    name: what `data.load_source` calls it.
    samples: function (raw folder, report, **options) -> list of `Sample`; it
      reads no images, and raises FileNotFoundError for another layout.
    summary: one sentence.
    homepage: where it is published.
    licence: as its publishers have it.
  """

  name: str
  samples: Callable[..., list[Sample]]
  summary: str
  licence: str
  homepage: str = ''


def pair(
  report: Report,
  texts: Mapping[Key, str | Dropped],
  parts: Mapping[str, tuple[Mapping[Key, Any], str]],
  **fields,
) -> list[Sample]:
  """Makes the samples that have all their parts, and names the others.

  Args:
    report: takes what is missing.
    texts: sentence of each sample; `Dropped` where it cannot be used.
    parts: 'image', 'map' and 'fixations', as far as the dataset has them: files
      by image and condition, and where they are looked for: 'maps/{}.*'. What
      stands under condition '' serves all of an image's. A value `Dropped`
      says why it cannot be used.
    **fields: of every `Sample`; a function gets the image id.
  """
  samples = []
  for key in sorted(texts):
    values = {}
    try:
      for kind, (files, where) in parts.items():
        value = files.get(key, files.get((key[0], '')))
        if value is None:
          raise Dropped(f'missing {kind}', f'no {where.format(key[0])}')
        values[kind] = value
      for value in (*values.values(), texts[key]):
        if isinstance(value, Dropped):
          raise value
    except Dropped as e:
      report.drop('/'.join(key), e.reason, e.detail)
      continue
    own = {k: v(key[0]) if callable(v) else v for k, v in fields.items()}
    samples.append(
      Sample(
        *key,
        text=texts[key],
        image=values['image'],
        saliency=values.get('map'),
        fixations=values.get('fixations'),
        **own,
      )
    )
  return samples


def pair_free_viewing(
  report: Report,
  parts: Mapping[str, tuple[Mapping[str, Any], str]],
  **fields,
) -> list[Sample]:
  """Makes a sample 'pure' of each image that has all parts; see `pair`.

  Args:
    report: takes what is missing.
    parts: as in `pair`, by image id alone.
    **fields: as in `pair`.
  """
  ids = set().union(*(files for files, _ in parts.values()))
  keyed = {
    kind: ({(i, ''): f for i, f in files.items()}, where)
    for kind, (files, where) in parts.items()
  }
  return pair(report, {(i, 'pure'): '' for i in ids}, keyed, **fields)


def is_folder(path: pathlib.Path) -> bool:
  """Tells whether a folder is there.

  Raises:
    NotADirectoryError: where something else has its name.
  """
  if path.exists() and not path.is_dir():
    raise NotADirectoryError(f'{path} is a file; a folder is expected.')
  return path.is_dir()


def is_file(path: pathlib.Path) -> bool:
  """Tells whether a file is there.

  Raises:
    ValueError: where a folder or a pipe has its name.
  """
  if path.exists() and not path.is_file():
    raise ValueError(f'{path} is no file; a file is expected.')
  return path.is_file()


def walk(
  folder: pathlib.Path, *, report: Report | None = None, skip: tuple = ()
) -> Iterator[pathlib.Path]:
  """Yields the files of a folder and its subfolders, linked ones too, in order.

  Hidden files and folders are passed over.

  Args:
    folder: where to look; a folder that is absent holds nothing.
    report: takes what cannot be read: folders, names that are not UTF-8, pipes.
    skip: names of subfolders to pass over.

  Raises:
    PermissionError: for a folder that may not be listed.
  """
  drop = report.drop if report else lambda *_: None
  name_of = lambda path: os.fsencode(path.relative_to(folder)).decode(
    'utf-8', 'backslashreplace'
  )

  def refuse(error):
    path = pathlib.Path(error.filename)
    if path == folder:
      if not isinstance(error, FileNotFoundError):
        raise error
    else:
      drop(f'{folder.name}/{name_of(path)}', 'unreadable folder', str(error))

  visited = set()
  for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
    status = os.stat(root)
    if (status.st_dev, status.st_ino) in visited:
      detail = 'a link to a folder that was read before'
      drop(name_of(pathlib.Path(root)), 'unreadable folder', detail)
      folders.clear()
      continue
    visited.add((status.st_dev, status.st_ino))
    hidden = [f for f in folders if f.startswith('.') or f in skip]
    folders[:] = sorted(f for f in folders if f not in hidden)
    for name in sorted(n for n in names if not n.startswith('.')):
      path = pathlib.Path(root, name)
      if '\\x' in name_of(path) and '\\x' not in str(path):
        detail = f'in {folder.name}/; a name must be UTF-8'
        drop(name_of(path), 'unreadable name', detail)
      elif path.exists() and not stat.S_ISREG(path.stat().st_mode):
        drop(name_of(path), 'unknown file', f'in {folder.name}/; it is no file')
      elif name.lower() != 'thumbs.db':
        yield path


def files_by_stem(
  folder: pathlib.Path,
  report: Report,
  *,
  types: tuple[str, ...] = IMAGE_TYPES,
  ranked: bool = False,
  skip: tuple[str, ...] = (),
) -> dict[str, pathlib.Path]:
  """Finds the files of a folder and its subfolders, by path without ending.

  Accents are composed (NFC), as disks differ in how they spell them. Files of
  other types and all files that share a stem are reported and left out.

  Args:
    folder: where to look; a folder that is absent holds nothing.
    report: takes what is left out.
    types: the endings wanted.
    ranked: take the file whose ending comes first in `types`, where several
      share a stem.
    skip: names of subfolders to pass over.

  Raises:
    NotADirectoryError: where a file has the folder's name.
  """
  by_stem = collections.defaultdict(list)
  is_folder(folder)
  for path in walk(folder, report=report, skip=skip):
    relative = path.relative_to(folder)
    if path.suffix.lower() in types:
      by_stem[nfc(relative.with_suffix('').as_posix())].append(path)
    else:
      detail = f'in {folder.name}/; allowed are {", ".join(types)}'
      report.drop(relative.as_posix(), 'unknown file', detail)
  if ranked:
    for paths in by_stem.values():
      paths.sort(key=lambda p: types.index(p.suffix.lower()))
      del paths[1:]
  for stem in [s for s, paths in by_stem.items() if len(paths) > 1]:
    names = ', '.join(p.name for p in by_stem.pop(stem))
    report.drop(f'{folder.name}/{stem}', 'duplicate id', f'files {names}')
  return {stem: paths[0] for stem, paths in by_stem.items()}


def nfc(name: str) -> str:
  """Composes accents, so that one name has one spelling."""
  return unicodedata.normalize('NFC', name)
