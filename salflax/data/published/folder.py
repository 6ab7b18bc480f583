"""Any folder of pictures and gaze, laid out as docs/data.md says."""

import collections
import csv
import pathlib

import numpy as np

from salflax.data import builder, maps, problems
from salflax.data import raw as raw_lib

# (picture stem, condition)
Key = tuple[str, str]


class Folder(builder.GazeBuilder):
  """A user's own pictures, with maps, fixation pictures or fixations.csv."""

  SUMMARY = 'Pictures and gaze of a folder.'
  LICENSE = 'As the owner of the pictures says.'
  BUILDER_CONFIGS = []

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float | None = None
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `builder.GazeBuilder.samples`.

    Args:
      raw: folder with images/ and one or more of maps/, fixations/ and
        fixations.csv; texts.csv is optional.
      report: takes what cannot be used.
      sigma: of maps made of fixations, in pixels; `maps.default_sigma` if
        None. Maps that exist are taken as they are.
    """
    _check_layout(raw)
    types = raw_lib.PICTURE_TYPES
    pictures = raw_lib.files_by_stem(raw / 'images', report, types=types)
    report.found['pictures'] = len(pictures)
    texts = _read_texts(raw / 'texts.csv', pictures, report)
    gaze = _Gaze(raw, pictures, report, by_condition=texts is not None)
    if texts is None:
      texts = {(p, 'pure'): '' for p in pictures}
    samples = []
    for (stem, condition), text in sorted(texts.items()):
      try:
        saliency, fixations = gaze.find(stem, condition)
      except problems.Dropped as e:
        report.drop(f'{stem}/{condition}', e.reason, e.detail)
        continue
      samples.append(
        raw_lib.Sample(
          image_id=stem,
          condition=condition,
          text=text,
          image=pictures[stem],
          saliency=saliency,
          fixations=fixations,
          sigma=sigma,
          split_by='content',
        )
      )
    return samples


def _check_layout(raw: pathlib.Path) -> None:
  gaze = [raw / n for n in ('maps', 'fixations', 'fixations.csv')]
  if not (raw / 'images').is_dir() or not any(p.exists() for p in gaze):
    raise FileNotFoundError(
      f'{raw}: expected images/ and at least one of maps/, fixations/ and '
      f'fixations.csv in it; found {sorted(p.name for p in raw.iterdir())[:9]}.'
    )


def _read_csv(path: pathlib.Path, required: tuple[str, ...]):
  """Yields the line number and the row, a dict, of a CSV with a head."""
  try:
    with path.open(encoding='utf-8-sig', newline='') as f:
      reader = csv.DictReader(f)
      head = reader.fieldnames or []
      if missing := [c for c in required if c not in head]:
        raise ValueError(
          f'{path}: no column {missing}; the first line is {head}.'
        )
      for row in reader:
        yield reader.line_num, row
  except (UnicodeDecodeError, csv.Error) as e:
    raise ValueError(f'{path} is not a CSV in UTF-8: {e}') from e


def _stem(name: str | None, pictures) -> str | None:
  """Returns the picture that a CSV names with or without ending, or None."""
  path = pathlib.PurePosixPath((name or '').strip().replace('\\', '/'))
  if str(path) in pictures:
    return str(path)
  is_file = path.suffix.lower() in raw_lib.PICTURE_TYPES
  stem = path.with_suffix('').as_posix() if is_file else None
  return stem if stem in pictures else None


def _read_texts(
  path: pathlib.Path, pictures: dict, report: problems.Report
) -> dict[Key, str] | None:
  """Returns the sentences by picture and condition; None without texts.csv."""
  if not path.is_file():
    return None
  found, named = collections.defaultdict(list), set()
  for line, row in _read_csv(path, ('image', 'text')):
    place, text = f'texts.csv line {line}', (row['text'] or '').strip()
    condition = (row.get('condition') or '').strip() or 'whole'
    stem = _stem(row['image'], pictures)
    named.add(stem)
    if stem is None:
      report.drop(place, 'text without picture', f'picture {row["image"]!r}')
    elif condition not in raw_lib.CONDITIONS:
      allowed = ', '.join(raw_lib.CONDITIONS)
      detail = f'{condition!r}; allowed are {allowed}'
      report.drop(place, 'unknown condition', detail)
    elif condition == 'pure' and text:
      report.drop(place, 'text in a pure condition', f'{text!r}')
    elif condition != 'pure' and not text:
      report.drop(place, 'empty text', f'picture {stem}')
    else:
      found[stem, condition].append(text)
  for stem in sorted(pictures.keys() - named):
    report.drop(stem, 'picture without text', 'no line in texts.csv')
  for key in [k for k, texts in found.items() if len(set(texts)) > 1]:
    detail = f'{len(found.pop(key))} different sentences: none is used'
    report.drop('/'.join(key), 'duplicate text', detail)
  report.found['texts'] = len(found)
  return {key: texts[0] for key, texts in found.items()}


class _Gaze:
  """Finds the map and the fixations of a picture and condition."""

  def __init__(self, raw, pictures, report, *, by_condition: bool):
    self._maps = self._points = self._files = None
    find = raw_lib.files_by_stem
    if (raw / 'maps').is_dir():
      self._maps = find(raw / 'maps', report, types=raw_lib.PICTURE_TYPES)
      _report_strays(self._maps, pictures, 'maps', report)
    if (raw / 'fixations').is_dir():
      types = raw_lib.PICTURE_TYPES
      self._files = find(raw / 'fixations', report, types=types)
      _report_strays(self._files, pictures, 'fixations', report)
    if (raw / 'fixations.csv').is_file():
      path = raw / 'fixations.csv'
      self._points = _read_points(path, pictures, report, by_condition)

  def find(self, stem: str, condition: str):
    """Returns a map's file or None, and fixations: points, a file or None.

    Raises:
      Dropped: where the folder has maps or fixations, but not this one's.
    """
    names = (f'{stem}_{condition}', stem)
    saliency = fixations = None
    if self._maps is not None:
      saliency = next((self._maps[n] for n in names if n in self._maps), None)
      if saliency is None:
        raise problems.Dropped('missing map', f'no {stem}.* in maps/')
    if self._points is not None:
      keys = ((stem, condition), (stem, ''))
      fixations = next(
        (self._points[k] for k in keys if k in self._points), None
      )
    if fixations is None and self._files is not None:
      fixations = next(
        (self._files[n] for n in names if n in self._files), None
      )
    has_gaze = self._points is not None or self._files is not None
    if fixations is None and has_gaze:
      detail = f'no {stem} in fixations.csv or fixations/'
      raise problems.Dropped('missing fixations', detail)
    if isinstance(fixations, str):
      raise problems.Dropped('unreadable fixations', fixations)
    return saliency, fixations


def _report_strays(files, pictures, kind: str, report: problems.Report) -> None:
  for name in sorted(files):
    stems = [name.removesuffix(f'_{c}') for c in ('', *raw_lib.CONDITIONS)]
    if name not in pictures and not any(s in pictures for s in stems):
      report.drop(
        f'{kind}/{name}', 'missing picture', 'no such file in images/'
      )


def _read_points(
  path: pathlib.Path, pictures, report: problems.Report, by_condition: bool
) -> dict[Key, np.ndarray | str]:
  """Returns points i32 [N, 2], or what is wrong, by picture and condition."""
  positions = collections.defaultdict(list)
  wrong, strays = {}, collections.Counter()
  for line, row in _read_csv(path, ('image', 'x', 'y')):
    stem = _stem(row['image'], pictures)
    if stem is None:
      strays[str(row['image'])] += 1
      continue
    condition = (row.get('condition') or '').strip() if by_condition else ''
    try:
      x, y = float(row['x']), float(row['y'])
      if not np.isfinite([x, y]).all():
        raise ValueError
    except (TypeError, ValueError):
      wrong[stem, condition] = (
        f'{path.name} line {line}: x={row["x"]!r}, y={row["y"]!r}'
      )
      continue
    positions[stem, condition].append((x, y))
  for name, count in sorted(strays.items()):
    detail = f'{count} lines of {path.name}, no such file in images/'
    report.drop(name, 'missing picture', detail)
  report.found['fixations'] = sum(map(len, positions.values()))
  points = {k: maps.to_points(*zip(*v)) for k, v in positions.items()}
  return {**points, **wrong}
