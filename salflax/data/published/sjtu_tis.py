"""SJTU-TIS: 600 images looked at with and without a sentence about them."""

import collections
import contextlib
import pathlib
import re

from salflax.data import pairing, problems

CONDITION_BY_SUFFIX = {
  '_0': 'pure',
  '': 'whole',
  '_1': 'all',
  '_2': 'non_salient',
  '_3': 'salient',
}
# The workbook: one sheet of whole-scene sentences, one of the other three.
WHOLE_SHEET, PARTS_SHEET = '整体', '部分-实验设置'
KIND_COLUMN = '描述种类'
CONDITION_BY_KIND = {'整体': 'all', '非显著': 'non_salient', '显著': 'salient'}
FOLDERS = {
  'image': ('image', 'image_1800'),
  'map': ('map', 'map_1800'),
  'fixations': ('fixation', 'fixation_1800'),
}
_NAME = re.compile(r'(?P<id>\d+)(?P<suffix>_[0-3])?')

# (image id, condition)
Key = pairing.Key


def image_id(number: int) -> str:
  """Spells an id as published.

  COCO's ids are padded to 12 digits; Flickr's, of 8 digits or more, are not.
  """
  text = str(number)
  return text if len(text) >= 8 else text.zfill(12)


def samples(raw, report):
  """Lists the samples."""
  folders, workbook = _layout(raw)
  texts = read_texts(workbook, report)
  parts = {k: _by_key(f, report) for k, f in folders.items()}
  report.counts |= {k: len(f) for k, f in parts.items()}
  report.counts['text'] = len(texts)
  images = parts['image']
  gaze = parts['map'].keys() | parts['fixations'].keys()
  # An image may be stored once, without suffix, for all its conditions.
  shared = {(i, ''): path for (i, c), path in images.items() if c == 'whole'}
  keys = gaze | {k for k in images if k[1] != 'whole'}
  absent = problems.Dropped('image without text', 'no row in the workbook')
  sentences = {k: '' if k[1] == 'pure' else texts.get(k, absent) for k in keys}
  _report_leftovers(images, texts, keys, report)
  places = {
    'image': ({**shared, **images}, '{0}<suffix>.* and no {0}.* in image/'),
    'map': (parts['map'], '{}<suffix>.png in map/'),
    'fixations': (parts['fixations'], '{}<suffix>.png in fixation/'),
  }
  return pairing.pair(report, sentences, places)


def _layout(raw: pathlib.Path) -> tuple[dict, pathlib.Path]:
  """Finds the three folders and the workbook, or says what is missing."""
  for root in (raw, raw / 'saliency'):
    folders = {
      kind: next((root / n for n in names if (root / n).is_dir()), None)
      for kind, names in FOLDERS.items()
    }
    if all(folders.values()):
      break
  else:
    raise FileNotFoundError(
      f'{raw} is not SJTU-TIS: expected the folders image, map and fixation '
      '(or image_1800, map_1800, fixation_1800) in it or in its saliency/; '
      f'found {sorted(p.name for p in raw.iterdir())[:10]}.'
    )
  near = (root, raw) if root != raw else (raw, raw.parent)
  for folder in near:
    books = [
      p
      for p in sorted(folder.glob('*.xlsx'))
      if not p.name.startswith('~$') and p.is_file()
    ]
    if len(books) == 1:
      return folders, books[0]
    if books:
      raise FileNotFoundError(
        f'{folder} holds several workbooks, one is expected: '
        f'{[p.name for p in books]}.'
      )
  raise FileNotFoundError(
    f'The sentences are absent: no text最终版本.xlsx (or other .xlsx) in {raw}.'
  )


def read_texts(
  path: pathlib.Path, report: problems.Report
) -> dict[Key, str | problems.Dropped]:
  """Reads the sentences of the workbook, stripped, no-break spaces too.

  A sentence that cannot be used is a `Dropped`, which says why.

  Raises:
    ValueError: for a file that is no such workbook.
  """
  import openpyxl

  try:
    book = openpyxl.load_workbook(path, read_only=True, data_only=True)
  except Exception as e:  # openpyxl raises what zipfile and its parsers raise.
    raise ValueError(f'{path} is not a readable workbook: {e}') from e
  with contextlib.closing(book):
    missing = {WHOLE_SHEET, PARTS_SHEET} - set(book.sheetnames)
    if missing:
      raise ValueError(
        f'{path} lacks the sheets {sorted(missing)}; it has {book.sheetnames}.'
      )
    rows = _rows(book[WHOLE_SHEET], path, ('image', 'text'))
    rows = [(place, i, 'whole', text) for place, i, text in rows]
    for place, i, kind, text in _rows(
      book[PARTS_SHEET], path, ('image', KIND_COLUMN, 'text')
    ):
      rows.append((place, i, CONDITION_BY_KIND.get(_strip(kind), kind), text))
  return _collect(rows, report)


def _strip(value) -> str:
  return '' if value is None else str(value).strip()


def _rows(sheet, path: pathlib.Path, columns: tuple[str, ...]):
  """Yields the place of a row and its values in the columns."""
  rows = sheet.iter_rows(values_only=True)
  head = [_strip(v) for v in next(rows, ())]
  if missing := [c for c in columns if c not in head]:
    raise ValueError(
      f'{path}, sheet {sheet.title}: no column {missing}; the first row is '
      f'{[h for h in head if h]}.'
    )
  places = [head.index(c) for c in columns]
  for number, row in enumerate(rows, start=2):
    values = [row[p] if p < len(row) else None for p in places]
    if any(_strip(v) for v in values):
      yield f'{sheet.title} row {number}', *values


def _collect(rows, report):
  by_key = collections.defaultdict(list)
  for place, number, condition, text in rows:
    # int() would take '1_0', too.
    if not (match := re.fullmatch(r'(\d+)(\.0)?', _strip(number), re.ASCII)):
      report.drop(place, 'unreadable row', f'id {number!r}')
    elif condition not in CONDITION_BY_SUFFIX.values():
      detail = f'{condition!r}; expected {", ".join(CONDITION_BY_KIND)}'
      report.drop(place, 'unknown condition', detail)
    else:
      key = image_id(int(match[1])), condition
      by_key[key].append((place, _strip(text)))
  return {key: _one_text(key, rows, report) for key, rows in by_key.items()}


def _one_text(key, rows, report):
  """Chooses the one sentence of a sample, or says why there is none."""
  places = ', '.join(place for place, _ in rows)
  if len({text for _, text in rows}) > 1:
    detail = f'different sentences in {places}: none is used'
    return problems.Dropped('duplicate text', detail)
  if len(rows) > 1:
    detail = f'the same sentence in {places}: used once'
    report.drop('/'.join(key), 'duplicate text', detail)
  return rows[0][1] or problems.Dropped('empty text', places)


def _by_key(folder, report):
  """Finds the files of a folder by image and condition."""
  by_key = collections.defaultdict(list)
  for stem, path in pairing.files_by_stem(folder, report).items():
    name = f'{folder.name}/{path.relative_to(folder).as_posix()}'
    if match := _NAME.fullmatch(stem):
      condition = CONDITION_BY_SUFFIX[match['suffix'] or '']
      by_key[image_id(int(match['id'])), condition].append(path)
    elif re.match(r'\d+_', stem):
      allowed = ', '.join(s or '(none)' for s in CONDITION_BY_SUFFIX)
      report.drop(name, 'unknown suffix', f'allowed are {allowed}')
    else:
      report.drop(name, 'unknown file', 'expected <id>[_0 to _3]')
  for key in [k for k, paths in by_key.items() if len(paths) > 1]:
    names = ', '.join(p.name for p in by_key.pop(key))
    report.drop('/'.join(key), 'duplicate id', f'{folder.name}/: {names}')
  return {key: paths[0] for key, paths in by_key.items()}


def _report_leftovers(images, texts, keys, report: problems.Report) -> None:
  """Names sentences and images that no gaze belongs to."""
  ids = {i for i, _ in images}
  for key in sorted(texts.keys() - keys):
    reason, detail = 'missing map', 'a sentence, no map, no fixations'
    if isinstance(texts[key], problems.Dropped):
      reason, detail = texts[key].reason, texts[key].detail
    elif key[0] not in ids:
      reason, detail = 'text without image', f'{texts[key]!r}'
    report.drop('/'.join(key), reason, detail)
  for name in sorted(ids - {i for i, _ in keys}):
    report.drop(name, 'missing map', 'an image, no map, no fixations')
