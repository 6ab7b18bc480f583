"""Reads the cells of an eye tracker's table as text, as they are written."""

import fnmatch
import gzip
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from salflax.data import pairing, tables, trackers

TYPES = ('.csv', '.tsv', '.txt', '.csv.gz', '.tsv.gz', '.txt.gz')
# Tables that belong to a folder and hold no gaze.
_OTHERS = ('texts.csv', 'participants.tsv', 'readme.txt', 'sections.csv')
_FOLDERS = ('images', 'maps', 'fixations')
# How trackers write that they lost the eye.
BLINKS = ('', '.', '-', 'na', 'n/a', 'nan', 'none', 'null')
_SURPLUS = '_surplus'
_ROWS = 200_000  # read at a time: wide exports do not fit in memory as text


def files(raw: pathlib.Path, pattern: str, report: Any) -> list[pathlib.Path]:
  """Finds the tables below a folder.

  Args:
    raw: the folder.
    pattern: pattern of paths below it; '' for all tables.
    report: `raw.Report`, which takes folders that cannot be read.

  Raises:
    FileNotFoundError: where there is none.
  """
  paths = [
    path
    for path in pairing.walk(raw, report=report, skip=_FOLDERS)
    if path.name.lower().endswith(TYPES)
    and path.name.lower() not in _OTHERS
    and (
      not pattern or fnmatch.fnmatch(path.relative_to(raw).as_posix(), pattern)
    )
  ]
  if not paths:
    which = f'fits --tables={pattern}' if pattern else 'is there'
    raise FileNotFoundError(
      f'{raw}: no table of gaze {which}; tables end in {", ".join(TYPES)} and '
      f'do not lie in {", ".join(_FOLDERS)}.'
    )
  return paths


def _head(path: pathlib.Path) -> tuple[list[str], dict[str, Any]]:
  """Reads the columns of a table, and how pandas should read the rest."""
  import pandas as pd

  opener = gzip.open if path.suffix.lower() == '.gz' else open
  skipped, line = 0, ''
  try:
    with opener(path, 'rb') as f:
      wide = f.read(2) in (b'\xff\xfe', b'\xfe\xff')
    encoding = 'utf-16' if wide else 'utf-8-sig'
    with opener(path, 'rt', encoding=encoding) as f:
      for line in f:
        if line.strip() and not line.startswith('##'):  # SMI's notes
          break
        skipped += 1
    line = line.strip('\r\n')
    separator = tables.separator(line)
    if not line.strip() or line.startswith('##'):
      raise ValueError(f'{path}: is empty.')
    options = dict(sep=separator, encoding=encoding, dtype=str, header=None)
    head = pd.read_csv(
      path, skiprows=skipped, nrows=1, keep_default_na=False, **options
    )
  except (UnicodeError, pd.errors.ParserError) as e:
    raise ValueError(f'{path} is not a table in UTF-8: {e}') from e
  except (OSError, EOFError, zlib.error) as e:
    raise ValueError(f'{path}: cannot be read: {e}') from e
  columns = [str(c).strip() for c in head.iloc[0]]
  while len(columns) > 1 and not columns[-1]:
    columns.pop()
  return columns, dict(options, skiprows=skipped + 1)


def _columns(path, head, layout, images) -> dict[str, str]:
  """Finds the column of each role.

  Raises:
    ValueError: one is missing, or several fit.
  """
  needed = {*'xy', *layout.columns, *(['time'] if layout.detect else [])}
  if image_of(path, images) is None:
    needed.add('image')
  columns, missing = {}, {}
  for role, names in layout.names().items():
    fits = trackers.find(head, names)
    if len(fits) > 1:
      raise ValueError(
        f'{path}: columns {fits} may all be {role}; --columns={role}=NAME '
        'says which is.'
      )
    if fits:
      columns[role] = fits[0]
    elif role in needed:
      missing[role] = names
  if missing:
    raise ValueError(f'{path}: {trackers.misfit(head, missing)}')
  return columns


def rows_of(path, layout, images):
  """Reads the cells in use as text, by role and line.

  Returns:
    Rows, names of the columns by role, and the separator.
  """
  import pandas as pd

  head, options = _head(path)
  columns = _columns(path, head, layout, images)
  # One more column takes the separator that ends the lines of some exports.
  names = [*map(str, range(len(head))), _SURPLUS]
  chunks = []
  try:
    for chunk in pd.read_csv(
      path,
      names=names,
      keep_default_na=False,
      skip_blank_lines=False,
      index_col=False,
      chunksize=_ROWS,
      **options,
    ):
      if (surplus := chunk[_SURPLUS].fillna('').str.strip() != '').any():
        line = int(np.flatnonzero(surplus)[0]) + chunk.index[0]
        raise ValueError(
          f'{path} line {line + options["skiprows"] + 1}: more cells than the '
          f'{len(head)} columns of the head; with decimal commas, columns are '
          'separated by semicolons or tabs.'
        )
      cells = {r: chunk[str(head.index(c))] for r, c in columns.items()}
      cells = pd.DataFrame(cells).fillna('')
      chunks.append(cells.apply(lambda column: column.str.strip()))
  except pd.errors.ParserError as e:
    detail = str(e).rpartition('C error: ')[2].strip()
    raise ValueError(f'{path}: rows do not fit the head: {detail}') from e
  except (UnicodeError, EOFError, OSError, zlib.error) as e:
    raise ValueError(f'{path}: cannot be read: {e}') from e
  rows = pd.concat(chunks) if chunks else pd.DataFrame(columns=list(columns))
  rows['line'] = np.arange(len(rows)) + options['skiprows'] + 1
  rows = rows[(rows[list(columns)] != '').any(axis=1)]
  if rows.empty:
    raise ValueError(f'{path}: holds no row below its head.')
  return rows, columns, options['sep']


def numbers(cells, separator: str) -> tuple[np.ndarray, np.ndarray]:
  """Reads numbers f64 [N], and which cells are neither number nor blank."""
  import pandas as pd

  if separator != ',':
    cells = cells.str.replace(',', '.', regex=False)
  values = np.array(pd.to_numeric(cells, errors='coerce'), float)
  values[~np.isfinite(values)] = np.nan
  wrong = np.isnan(values) & ~cells.str.lower().isin(BLINKS).to_numpy()
  return values, wrong


def image_of(path: pathlib.Path, images: Mapping) -> str | None:
  """Finds the image that a table without such a column is of, or None.

  It is named by BIDS's entity stim-<image>, by the table's own name, after
  'on_surface_', or by its folder.
  """
  stem = pairing.nfc(path.name.partition('.')[0])
  names = re.findall(r'(?:^|_)stim-([^_]+)', stem)
  names += [
    stem,
    stem.partition('on_surface_')[2],
    pairing.nfc(path.parent.name),
  ]
  return next((stem_of(n, images) for n in names if stem_of(n, images)), None)


def stem_of(name: str, images: Mapping) -> str | None:
  """Finds the image of a name with or without ending or folder, or None."""
  path = pathlib.PurePosixPath(pairing.nfc(name.strip().replace('\\', '/')))
  if str(path) in images:
    return str(path)
  is_file = path.suffix.lower() in pairing.IMAGE_TYPES
  stem = path.with_suffix('').as_posix() if is_file else None
  return stem if stem in images else None


def trailing_stem_of(name: str, images: Mapping) -> str | None:
  """Finds the image of a path as on another computer, or None."""
  parts = name.replace('\\', '/').split('/')
  stems = (stem_of('/'.join(parts[i:]), images) for i in range(len(parts)))
  return next(filter(None, stems), None)
