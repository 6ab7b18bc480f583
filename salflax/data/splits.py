"""Splits by image: an image is in one split, whatever its sentences.

Every image has a place u in [0, 1). Folds cut [0, 1) in five; the test part
is where u is below the dataset's test share. The places of listed images are
spread evenly within their group by the order of a seeded hash, and listed in
`lists/`; an image that is not listed gets its hash itself. So an image keeps
its place whichever others are absent.
"""

import csv
import difflib
import functools
import hashlib
import pathlib
import re
from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction

from salflax.core import spec
from salflax.data import tables

FOLDS = 5
SEED = 'salflax'
LISTS = pathlib.Path(__file__).parent / 'lists'
# What a list of ids may have above its first id.
_HEAD = re.compile(
  r'(.*[ _])?(ids?|images?|pictures?|names?|files?|stem)', re.I
)

# Share of the images in the test part: 120 of SJTU-TIS's 600, 200 of OSIE's
# 700, a fifth of any other folder.
TEST_SHARE = {'sjtu_tis': Fraction(1, 5), 'osie': Fraction(2, 7)}
# Share of `val` in what is not tested on.
VAL_SHARE = Fraction(1, 10)
# Editions of the same images, which are split alike.
EDITION_OF = {'salicon2015': 'salicon', 'salicon2017': 'salicon'}
# Two names of one image.
SAME_IMAGE = {'osie': {'1374': '1279'}}


def split_names() -> list[str]:
  """Lists every name that a split string may hold."""
  folds = [f'fold{i}' for i in range(FOLDS)]
  kinds = ('', 'not_', 'fit_', 'val_')
  return ['all', 'train', 'test', 'fit', 'val'] + [
    f'{kind}{fold}' for kind in kinds for fold in folds
  ]


def seeded_hash(dataset: str, image: str) -> Fraction:
  """Hashes an image to [0, 1), the same on every machine."""
  text = f'{SEED}/{dataset}/{image}'.encode()
  return Fraction(int.from_bytes(hashlib.sha256(text).digest()[:8]), 1 << 64)


def _cut(dataset: str, place: Fraction) -> tuple[int, str]:
  share = TEST_SHARE.get(dataset, Fraction(1, FOLDS))
  return int(place * FOLDS), 'test' if place < share else 'train'


@functools.cache
def listed(dataset: str) -> dict[str, tuple[int, str]]:
  """Reads the packaged fold and part by image; {} if there is no list."""
  path = LISTS / f'{dataset}.csv'
  if not path.is_file():
    return {}
  with path.open(encoding='utf-8', newline='') as f:
    rows = list(csv.DictReader(f))
  return {r['image_id']: (int(r['fold']), r['part']) for r in rows}


def place(dataset: str, image: str) -> tuple[int, str]:
  """Looks up an image's fold, 0 to 4, and part, 'train' or 'test'."""
  return listed(dataset).get(image) or _cut(
    dataset, seeded_hash(dataset, image)
  )


def _holds(name: str, fold: int, part: str, validates: bool) -> bool:
  kind, _, held_out = name.rpartition('_')
  if name in ('fit', 'val'):
    kind, held_out = name, 'test'
  inside = held_out in ('all', part, f'fold{fold}')
  if not kind:
    return inside
  wanted = {'not': True, 'val': validates, 'fit': not validates}[kind]
  return not inside and wanted


def parse(split: str) -> list[str]:
  """Splits a split string such as 'train' or 'fold1+fold2' at '+'.

  Raises:
    ValueError: for a name that does not exist, with the nearest one.
  """
  allowed = split_names()
  names = [s.strip() for s in str(split).split('+')]
  for name in names:
    spec.lookup('split', allowed, name)
  return names


def select(
  dataset: str,
  split: str,
  images: Sequence[str],
  parts: Sequence[str] | None = None,
) -> list[int]:
  """Selects the rows that belong to a split, in order.

  Args:
    dataset: name without edition of the user, e.g. 'osie' or 'folder'.
    split: names joined by '+': see `split_names`.
    images: key of each row that its split goes by.
    parts: part of each row that the dataset itself puts it in: 'fit',
      'val', 'train' or 'test', or '' for none; it decides train and test.
  """
  names = parse(split)
  dataset = EDITION_OF.get(dataset, dataset)
  inside = {}
  for p, own in dict(zip(images, parts or [''] * len(images))).items():
    fold, part = place(dataset, p)
    same = SAME_IMAGE.get(dataset, {}).get(p, p)
    validates = seeded_hash(f'{dataset}/val', same) < VAL_SHARE
    if own:
      part = 'test' if own == 'test' else 'train'
    if own in ('fit', 'val'):
      validates = own == 'val'
    inside[p] = any(_holds(n, fold, part, validates) for n in names)
  return [row for row, p in enumerate(images) if inside[p]]


def read_ids(
  source: str | pathlib.Path, images: Collection[str] = ()
) -> dict[str, int]:
  """Reads the image ids in the first column of a list, with their lines.

  Args:
    source: a file with one id a line or a CSV whose first column is an id, with
      or without a head; or the name of a packaged list, 'sjtu_tis_in_salicon'.
    images: ids; a line that is one of them as a whole, with its commas, is it.

  Raises:
    FileNotFoundError: naming the nearest packaged list.
    ValueError: for a file that is not UTF-8.
  """
  path = pathlib.Path(source).expanduser()
  packaged = LISTS / f'{source}.csv'
  if not path.is_file() and packaged.is_file():
    path = packaged
  if not path.is_file():
    names = [p.stem for p in LISTS.glob('*.csv')]
    error = spec.unknown('list of ids', str(source), names)
    raise FileNotFoundError(f'{error} A path to a file will do, too.')
  ids = {}
  for number, line in enumerate(tables.read_lines(path), start=1):
    row, fault = tables.cells(line)
    whole = fault or line.strip() in images
    if image_id := line.strip() if whole else ''.join(row[:1]):
      ids[image_id] = number
  return ids


def excluded(
  exclude: str | pathlib.Path | Iterable[str],
  dataset: str,
  images: Collection[str],
  label: str,
) -> set[str]:
  """Chooses the images that a list of ids excludes.

  Args:
    exclude: file, name of a packaged list, or ids.
    dataset: name without edition of the user.
    images: ids of the dataset's images.
    label: name of the dataset, for the message.

  Raises:
    ValueError: where no id is an image, or an id of the user's own list is
      none; of a published dataset not all images need to be there.
  """
  is_file = isinstance(exclude, str | pathlib.Path)
  ids = read_ids(exclude, images) if is_file else dict.fromkeys(exclude)
  strays = [i for i in ids if i not in images]
  if len(strays) == len(ids):
    raise ValueError(f'No id of {exclude!r} is an image of {label}.')
  if is_file and not pathlib.Path(exclude).expanduser().is_file():
    return ids.keys() - strays  # packaged, and of more than one dataset
  strays = [
    i
    for i in strays
    if i not in listed(dataset)
    and not (ids[i] == 1 and _HEAD.fullmatch(str(i)))
  ]
  if strays:
    near = difflib.get_close_matches(str(strays[0]), images, n=1)
    names = [f'{i!r} (line {ids[i]})' if ids[i] else f'{i!r}' for i in strays]
    raise ValueError(
      f'{len(strays)} ids to exclude are no image of {label}: '
      f'{", ".join(names[:9])}.'
      + (f' Did you mean {near[0]!r}?' if near else '')
    )
  return ids.keys() & images
