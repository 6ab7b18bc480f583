"""Splits by picture: a picture is in one split, whatever its sentences.

Every picture has a place u in [0, 1). Folds cut [0, 1) in five; the test part
is where u is below the dataset's test share. The places of known pictures are
spread evenly within their group by the order of a seeded hash, and listed in
`lists/`; a picture that is not listed gets its hash itself. So a picture keeps
its place whichever others are absent.
"""

import csv
import functools
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from salflax.core import spec

FOLDS = 5
SEED = 'salflax'
LISTS = pathlib.Path(__file__).parent / 'lists'
COLUMNS = ('image_id', 'group', 'fold', 'part')

# Share of the pictures in the test part: 120 of SJTU-TIS's 600, 200 of OSIE's
# 700, a fifth of any other folder.
TEST_SHARE = {'sjtu_tis': Fraction(1, 5), 'osie': Fraction(2, 7)}
# Share of `val` in what is not tested on.
VAL_SHARE = Fraction(1, 10)
# Editions of the same pictures, which are split alike.
EDITION_OF = {'salicon2015': 'salicon', 'salicon2017': 'salicon'}
# Two names of one picture.
SAME_PICTURE = {'osie': {'1374': '1279'}}


def split_names() -> list[str]:
  """Returns every name that a split string may hold."""
  folds = [f'fold{i}' for i in range(FOLDS)]
  kinds = ('', 'not_', 'fit_', 'val_')
  return ['all', 'train', 'test', 'fit', 'val'] + [
    f'{kind}{fold}' for kind in kinds for fold in folds
  ]


def seeded_hash(dataset: str, picture: str) -> Fraction:
  """Returns a number in [0, 1), the same on every machine."""
  text = f'{SEED}/{dataset}/{picture}'.encode()
  return Fraction(int.from_bytes(hashlib.sha256(text).digest()[:8]), 1 << 64)


def _same(dataset: str, picture: str) -> str:
  """Returns the one name under which a picture is split."""
  return SAME_PICTURE.get(dataset, {}).get(picture, picture)


def _cut(dataset: str, place: Fraction) -> tuple[int, str]:
  share = TEST_SHARE.get(dataset, Fraction(1, FOLDS))
  return int(place * FOLDS), 'test' if place < share else 'train'


def assign(
  dataset: str, groups: Mapping[str, str]
) -> dict[str, tuple[int, str]]:
  """Returns the fold and the part of each picture, balanced within groups.

  Args:
    dataset: name, which seeds the hash.
    groups: picture -> group.
  """
  same = SAME_PICTURE.get(dataset, {})
  result = {}
  for group in sorted(set(groups.values())):
    ids = [i for i, g in groups.items() if g == group]
    # Copies come right after their original and get its place.
    ids.sort(key=lambda i: (seeded_hash(dataset, same.get(i, i)), i))
    for rank, i in enumerate(ids):
      if i in same and same[i] in result:
        result[i] = result[same[i]]
      else:
        result[i] = _cut(dataset, Fraction(rank, len(ids)))
  return result


@functools.cache
def listed(dataset: str) -> dict[str, tuple[int, str]]:
  """Returns the packaged fold and part by picture; {} if there is none."""
  path = LISTS / f'{dataset}.csv'
  if not path.is_file():
    return {}
  with path.open(encoding='utf-8', newline='') as f:
    rows = list(csv.DictReader(f))
  return {r['image_id']: (int(r['fold']), r['part']) for r in rows}


def place(dataset: str, picture: str) -> tuple[int, str]:
  """Returns the fold, 0 to 4, and the part, 'train' or 'test', of a picture."""
  known = listed(dataset).get(picture)
  return known or _cut(dataset, seeded_hash(dataset, picture))


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
  """Returns the names in a split string such as 'train' or 'fold1+fold2'.

  Raises:
    ValueError: for a name that does not exist, with the nearest one.
  """
  allowed = split_names()
  names = [s.strip() for s in str(split).split('+')]
  for name in names:
    if name not in allowed:
      raise spec.unknown('split', name, allowed)
  return names


def select(
  dataset: str,
  split: str,
  pictures: Sequence[str],
  parts: Sequence[str] | None = None,
) -> list[int]:
  """Returns the rows that belong to a split, in order.

  Args:
    dataset: name without edition of the user, e.g. 'osie' or 'folder'.
    split: names joined by '+': see `split_names`.
    pictures: for each row, what its split goes by.
    parts: for each row, the part that the dataset itself puts it in: 'fit',
      'val', 'train' or 'test', or '' for none; it decides train and test.
  """
  names = parse(split)
  dataset = EDITION_OF.get(dataset, dataset)
  inside = {}
  for p, own in dict(zip(pictures, parts or [''] * len(pictures))).items():
    fold, part = place(dataset, p)
    validates = seeded_hash(f'{dataset}/val', _same(dataset, p)) < VAL_SHARE
    if own:
      part = 'test' if own == 'test' else 'train'
    if own in ('fit', 'val'):
      validates = own == 'val'
    inside[p] = any(_holds(n, fold, part, validates) for n in names)
  return [row for row, p in enumerate(pictures) if inside[p]]


def read_ids(source: str | pathlib.Path) -> set[str]:
  """Returns the picture ids in the first column of a list.

  Args:
    source: a file with one id a line or a CSV whose first column is an id, with
      or without a head; or the name of a packaged list, 'sjtu_tis_in_salicon'.

  Raises:
    FileNotFoundError: naming the nearest packaged list.
  """
  path = pathlib.Path(source).expanduser()
  packaged = LISTS / f'{source}.csv'
  if not path.is_file() and packaged.is_file():
    path = packaged
  if not path.is_file():
    known = [p.stem for p in LISTS.glob('*.csv')]
    error = spec.unknown('list of ids', str(source), known)
    raise FileNotFoundError(f'{error} A path to a file will do, too.')
  with path.open(encoding='utf-8-sig', newline='') as f:
    return {row[0].strip() for row in csv.reader(f) if row and row[0].strip()}


def write_list(
  path: pathlib.Path, dataset: str, groups: Mapping[str, str]
) -> None:
  """Writes the list that is packaged for a dataset (see `assign`)."""
  places = assign(dataset, groups)
  rows: Iterable = [(i, groups[i], *places[i]) for i in sorted(places)]
  with path.open('w', encoding='utf-8', newline='') as f:
    writer = csv.writer(f, lineterminator='\n')
    writer.writerow(COLUMNS)
    writer.writerows(rows)
