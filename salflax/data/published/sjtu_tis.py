"""SJTU-TIS: 600 pictures looked at with and without a sentence about them."""

import collections
import contextlib
import pathlib
import re

from salflax.data import builder, problems
from salflax.data import raw as raw_lib

CONDITION_BY_SUFFIX = {
  '_0': 'pure',
  '': 'whole',
  '_1': 'all',
  '_2': 'non_salient',
  '_3': 'salient',
}
SUFFIX_BY_CONDITION = {c: s for s, c in CONDITION_BY_SUFFIX.items()}
# The workbook: one sheet of whole-scene sentences, one of the other three.
WHOLE_SHEET, PARTS_SHEET = '整体', '部分-实验设置'
KIND_COLUMN = '描述种类'
CONDITION_BY_KIND = {'整体': 'all', '非显著': 'non_salient', '显著': 'salient'}
FOLDERS = {
  'image': ('image', 'image_1800'),
  'map': ('map', 'map_1800'),
  'fixation': ('fixation', 'fixation_1800'),
}
_NAME = re.compile(r'(?P<id>\d+)(?P<suffix>_[0-3])?')

# (id as a number, suffix)
Key = tuple[int, str]


def picture_id(number: int) -> str:
  """Returns the published spelling of an id.

  COCO's ids are padded to 12 digits; Flickr's, of 8 digits or more, are not.
  """
  text = str(number)
  return text if len(text) >= 8 else text.zfill(12)


class SjtuTis(builder.GazeBuilder):
  """Pictures, sentences and gaze of SJTU-TIS, as published."""

  SUMMARY = (
    '600 pictures, 1,800 samples: eye movements under free viewing (pure) and '
    'after a sentence on the whole scene (whole, all), on its salient or on '
    'its non-salient part.'
  )
  HOMEPAGE = 'https://github.com/AKTTOYA/SJTU-TIS'
  LICENSE = 'None stated by its publishers; for research, do not redistribute.'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `builder.GazeBuilder.samples`."""
    folders, workbook = _layout(raw)
    texts = read_texts(workbook, report)
    bad_texts = {k for k, t in texts.items() if t is None}
    files = {k: _by_key(f, report) for k, f in folders.items()}
    report.found.update({k: len(f) for k, f in files.items()})
    report.found['text'] = len(texts)
    shown = files['image']
    gaze = files['map'].keys() | files['fixation'].keys()
    # A picture may be stored once, without suffix, for all its conditions.
    keys = gaze | {k for k in shown if k[1]}
    samples = []
    for key in sorted(keys):
      try:
        sample = _sample(key, files, texts)
      except problems.Dropped as e:
        if key not in bad_texts:
          report.drop(_label(key), e.reason, e.detail)
        continue
      samples.append(sample)
    _report_leftovers(files, texts, keys, report)
    return samples


def _label(key: Key) -> str:
  return f'{picture_id(key[0])}/{CONDITION_BY_SUFFIX[key[1]]}'


def _layout(raw: pathlib.Path) -> tuple[dict, pathlib.Path]:
  """Returns the three folders and the workbook, or says what is missing."""
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
      p for p in sorted(folder.glob('*.xlsx')) if not p.name.startswith('~$')
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
) -> dict[Key, str | None]:
  """Returns the sentences of the workbook, stripped, no-break spaces too.

  Sentences that cannot be used are reported and returned as None.

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
  """Yields where a row is and its values in the given columns."""
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


def _collect(rows, report: problems.Report) -> dict[Key, str | None]:
  found = collections.defaultdict(list)
  for place, number, condition, text in rows:
    try:
      number = int(_strip(number).removesuffix('.0'))
    except ValueError:
      report.drop(place, 'unreadable text row', f'id {number!r}')
      continue
    if condition not in SUFFIX_BY_CONDITION:
      detail = f'{condition!r}; expected {", ".join(CONDITION_BY_KIND)}'
      report.drop(place, 'unknown condition', detail)
      continue
    found[number, SUFFIX_BY_CONDITION[condition]].append((place, _strip(text)))
  return {key: _one_text(key, rows, report) for key, rows in found.items()}


def _one_text(key: Key, rows, report: problems.Report) -> str | None:
  """Returns the one sentence of a sample, or None and reports."""
  places = ', '.join(place for place, _ in rows)
  if len({text for _, text in rows}) > 1:
    detail = f'different sentences in {places}: none is used'
    report.drop(_label(key), 'duplicate text', detail)
    return None
  if len(rows) > 1:
    detail = f'the same sentence in {places}: used once'
    report.drop(_label(key), 'duplicate text', detail)
  if not rows[0][1]:
    report.drop(_label(key), 'empty text', places)
    return None
  return rows[0][1]


def _by_key(
  folder: pathlib.Path, report: problems.Report
) -> dict[Key, pathlib.Path]:
  """Returns the files of a folder by number and suffix."""
  found = collections.defaultdict(list)
  files = raw_lib.files_by_stem(folder, report, types=raw_lib.PICTURE_TYPES)
  for stem, path in files.items():
    name = f'{folder.name}/{path.relative_to(folder).as_posix()}'
    if match := _NAME.fullmatch(stem):
      found[int(match['id']), match['suffix'] or ''].append(path)
    elif re.match(r'\d+_', stem):
      allowed = ', '.join(s or '(none)' for s in CONDITION_BY_SUFFIX)
      report.drop(name, 'unknown suffix', f'allowed are {allowed}')
    else:
      report.drop(name, 'unknown file', 'expected <id>[_0 to _3]')
  for key in [k for k, paths in found.items() if len(paths) > 1]:
    names = ', '.join(p.name for p in found.pop(key))
    report.drop(_label(key), 'duplicate id', f'{folder.name}/: {names}')
  return {key: paths[0] for key, paths in found.items()}


def _sample(key: Key, files: dict, texts: dict) -> raw_lib.Sample:
  number, suffix = key
  name = f'{picture_id(number)}{suffix}'
  image = files['image'].get(key) or files['image'].get((number, ''))
  if image is None:
    raise problems.Dropped(
      'missing picture', f'no {name}.* and no {picture_id(number)}.* in image/'
    )
  for kind, reason in (('map', 'map'), ('fixation', 'fixations')):
    if key not in files[kind]:
      raise problems.Dropped(f'missing {reason}', f'no {name}.png in {kind}/')
  text = '' if suffix == '_0' else texts.get(key)
  if text is None:
    raise problems.Dropped('picture without text', 'no row in the workbook')
  return raw_lib.Sample(
    image_id=picture_id(number),
    condition=CONDITION_BY_SUFFIX[suffix],
    text=text,
    image=image,
    saliency=files['map'][key],
    fixations=files['fixation'][key],
  )


def _report_leftovers(files, texts, keys, report: problems.Report) -> None:
  """Names sentences and pictures that no gaze belongs to."""
  with_gaze = {number for number, _ in keys}
  shown = {number for number, _ in files['image']}
  for key in sorted(texts.keys() - keys):
    if key[0] in shown:
      report.drop(
        _label(key), 'missing map', 'a sentence, no map, no fixations'
      )
    else:
      report.drop(_label(key), 'text without picture', f'{texts[key]!r}')
  for number in sorted(shown - with_gaze):
    detail = 'a picture, no map, no fixations'
    report.drop(picture_id(number), 'missing map', detail)
