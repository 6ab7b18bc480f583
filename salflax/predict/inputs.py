"""What is predicted: images, folders, patterns, tables; and sentences."""

import collections
import glob
import itertools
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from salflax.core import files
from salflax.data import tables
from salflax.predict.predictor import SUFFIXES

TABLES = ('.csv', '.jsonl', '.ndjson')
# Names of the column of sentences.
TEXT = ('text', 'sentence')
# Bytes of a name that are left beside `_logdensity`, a temporary mark and
# `.npy`, of the 255 that a file may have.
MAX_NAME = 220
# Of the files of a map, behind its name.
ENDINGS = ('', '_overlay', '_logdensity')


class Jobs(NamedTuple):
  """What is predicted.

  Attributes:
    pairs: images and sentences.
    notes: sentences on what was left out of folders.
    faults: what is wrong with rows of tables that cannot be predicted.
  """

  pairs: list[tuple[pathlib.Path, str]]
  notes: list[str]
  faults: list[str]


def is_image(argument: str) -> bool:
  """Tells an argument that names images from a sentence."""
  endings = (*SUFFIXES, *TABLES)
  return bool(
    os.path.exists(argument)
    or argument.lower().endswith(endings)
    or (set(argument) & set('*?[') and glob.glob(argument, recursive=True))
  )


def collect(arguments: Sequence[str], texts: Sequence[str]) -> Jobs:
  """Pairs every image with every sentence, and reads tables of pairs.

  Args:
    arguments: images, folders, patterns such as 'in/*.jpg', tables (`TABLES`),
      also several joined by commas.
    texts: sentences of the images that no table names; none is free viewing.

  Raises:
    FileNotFoundError: a path is not there, or a folder has no images.
    ValueError: a table lacks a column, or has sentences beside `texts`.
  """
  jobs, paths = Jobs([], [], []), []
  for path in _paths(arguments):
    if path.suffix.lower() in TABLES:
      if texts:
        raise ValueError(f'{path} has its own sentences: leave out others.')
      read = _csv if path.suffix.lower() == '.csv' else _json_lines
      if not (rows := [*read(path)]):
        raise ValueError(f'{path}: the table has no rows.')
      for number, image, text, fault in rows:
        if '\0' in image:
          fault = f'no file has the name {image!r}'
        if fault:
          jobs.faults.append(f'{path}, line {number}: {fault}')
        else:
          jobs.pairs.append((_beside(path, image), text))
    elif path.is_dir():
      images, note = _inside(path)
      paths += images
      jobs.notes.extend(filter(None, [note]))
    else:
      paths.append(path)
  # An image that is named twice, or through a link to its folder, is one.
  images = {}
  for path in paths:
    images.setdefault((os.path.realpath(path.parent), path.name), path)
  jobs.pairs.extend(itertools.product(images.values(), texts or ['']))
  return jobs


def _paths(arguments: Sequence[str]) -> Iterator[pathlib.Path]:
  """Yields the files and folders that arguments name."""
  for argument in arguments:
    # A comma may be part of a name.
    parts = [argument] if os.path.exists(argument) else argument.split(',')
    for part in filter(None, map(str.strip, parts)):
      names = [part] if os.path.exists(part) else []
      names = names or sorted(glob.glob(part, recursive=True))
      if not names:
        raise FileNotFoundError(f'No such image: {part}')
      yield from map(pathlib.Path, names)


def _inside(folder: pathlib.Path) -> tuple[list[pathlib.Path], str]:
  """Lists the images of a folder by name; a note says what was left out."""
  entries = sorted(p for p in folder.iterdir() if p.name[0] != '.')
  images = [p for p in entries if p.suffix.lower() in SUFFIXES and p.is_file()]
  others = [p.name + '/' * p.is_dir() for p in entries if p not in images]
  more = f' and {len(others) - 5} more' if len(others) > 5 else ''
  some = ', '.join(others[:5]) + more
  if not images:
    raise FileNotFoundError(
      f'No images in the folder {folder}: looked for {", ".join(SUFFIXES)}'
      + (f', found {some}.' if others else '; it is empty.')
    )
  return images, f'{folder}: {len(others)} left out: {some}.' if others else ''


def _beside(table: pathlib.Path, image: str) -> pathlib.Path:
  """Finds an image of a table: beside it, or from where the command runs."""
  beside = table.parent / image
  return beside if os.path.exists(beside) else pathlib.Path(image)


def _csv(path: pathlib.Path) -> Iterator[tuple[int, str, str, str]]:
  """Yields number, image, sentence and fault of each row of a CSV."""
  line = tables.read_lines(path)[0]
  head, _ = tables.cells(line, tables.separator(line))
  names = [c.lower() for c in head if c.lower() in TEXT] or [TEXT[0]]
  for number, row, fault in tables.read_table(path, ['image', names[0]]):
    if not (fault or row['image']):
      fault = 'no image'
    yield number, row['image'], row[names[0]], fault


def _json_lines(path: pathlib.Path) -> Iterator[tuple[int, str, str, str]]:
  """Yields number, image, sentence and fault of each line."""
  for number, line in enumerate(tables.read_lines(path), start=1):
    if not line.strip():
      continue
    image, text, fault = '', '', ''
    try:
      row = json.loads(line, object_pairs_hook=files.once)
      image = row['image']
      text = next((row[key] for key in TEXT if key in row), '')
      if not (isinstance(image, str) and image and isinstance(text, str)):
        fault = f'image and text are strings, found {line.strip():.80}'
    except (ValueError, TypeError, KeyError, RecursionError):
      fault = f'expected {{"image": ..., "text": ...}}, found {line:.80}'
    yield number, image, text, fault


def names(images: Sequence[pathlib.Path]) -> list[str]:
  """Names the maps of images, each unlike all others.

  The image's own name, cut where a file system would refuse it; with its place
  where two are alike, and with the number of the sentence where an image is
  there several times.
  """
  taken, stems, result = set(), {}, []

  def unique(name):
    candidate, k = name, 2
    while not taken.isdisjoint(own := {candidate + e for e in ENDINGS}):
      candidate, k = f'{name}-{k}', k + 1
    taken.update(own)
    return candidate

  counts = collections.Counter(images)
  numbers = collections.defaultdict(itertools.count)
  for path in images:
    if path not in stems:
      stem = path.stem
      while len(os.fsencode(stem)) > MAX_NAME:
        stem = stem[:-1]
      stems[path] = unique(stem)
    name = stems[path]
    if counts[path] > 1:
      name = unique(f'{name}_text{next(numbers[path])}')
    result.append(name)
  return result
