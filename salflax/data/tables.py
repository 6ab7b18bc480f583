"""Reads CSV files line by line: a row that does not fit its head is named."""

import csv
import difflib
import pathlib
import re
from collections.abc import Iterator, Sequence

from salflax.core import spec

_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?', re.ASCII)


def read_lines(path: pathlib.Path) -> list[str]:
  """Reads the lines of a UTF-8 file, with or without a byte-order mark.

  Raises:
    ValueError: for other encodings; it names the file.
  """
  try:
    text = path.read_text('utf-8-sig')
  except UnicodeDecodeError as e:
    raise ValueError(f'{path} is not a CSV in UTF-8: {e}') from e
  return re.split('\r\n|\r|\n', text)


def separator(head: str) -> str:
  """Tells what separates the cells of a table by its first line."""
  return next((s for s in '\t;' if s in head), ',')


def cells(line: str, by: str = ',') -> tuple[list[str], str]:
  """Splits a line of a CSV at commas, or another separator.

  Each line is split alone: a quote that is left open cannot swallow the lines
  that follow.

  Returns:
    Cells, stripped, and what is wrong with the line or ''. Of a line that is
    wrong the cells are a guess, to say which image it was about.
  """
  try:
    row, fault = next(csv.reader([line], delimiter=by, strict=True), []), ''
  except csv.Error as e:
    row, fault = line.replace('"', '').split(by), f'quotes do not match: {e}'
  return [cell.strip() for cell in row], fault


def read_table(
  path: pathlib.Path,
  required: Sequence[str],
  optional: Sequence[str] = (),
  *,
  numbers: Sequence[str] = (),
) -> Iterator[tuple[int, dict[str, str], str]]:
  """Yields the rows of a CSV with a head, blank lines left out.

  Commas, semicolons or tabs separate the cells.

  Names of columns are matched without regard to capitals and blanks.

  Args:
    path: UTF-8 file.
    required: columns that must be there.
    optional: columns that may be; a misspelt one is an error.
    numbers: columns whose decimal commas become points, where commas do not
      separate the cells.

  Yields:
    Number of the line, cells by column, and what is wrong with the row or ''.

  Raises:
    ValueError: for another encoding, and for a head without a required column,
      with a column twice or with a column that is nearly an optional one.
  """
  lines = read_lines(path)
  by = separator(lines[0])
  head, fault = cells(lines[0], by)
  head = [column.lower() for column in head]
  if missing := [c for c in required if c not in head]:
    raise ValueError(f'{path}: no column {missing}; the first line is {head}.')
  if twice := sorted({c for c in head if c and head.count(c) > 1}):
    raise ValueError(f'{path}: columns {twice} are there twice.')
  for column in set(optional) - set(head):
    for near in difflib.get_close_matches(column, head, cutoff=0.9):
      raise spec.unknown(f'column of {path}', near, [*required, *optional])
  for number, line in enumerate(lines[1:], start=2):
    row, fault = cells(line, by)
    while len(row) > len(head) and not row[-1]:
      row.pop()
    if not any(row):
      continue
    if not fault and len(row) != len(head):
      fault = f'{len(row)} cells under {len(head)} columns: {line.strip()!r}'
    row += [''] * (len(head) - len(row))
    named = dict(zip(head, row))
    if by != ',':
      named |= {c: named[c].replace(',', '.') for c in numbers}
    yield number, named, fault


def number(cell: str) -> float | None:
  """Reads a decimal number; None for anything else, such as '1_0' or 'inf'."""
  return float(cell) if _NUMBER.fullmatch(cell) else None
