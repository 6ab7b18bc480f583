"""Prepares a dataset once; what is there is complete."""

import collections
import contextlib
import dataclasses
import fnmatch
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

from salflax.core import files, paths
from salflax.data import pairing, problems

VERSION = '1.0.0'
RECORDS = 'records.jsonl'
# The files of a prepared dataset: nothing else is ever removed.
FILES = ('*.array_record*', 'features.json', 'dataset_info.json', 'LICENSE')
FILES += (RECORDS, 'report.json', 'report.csv')
MAX_SIGMA = 1000.0


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared dataset.

  Attributes:
    folder: where it lies.
    summary: content of its report.json.
    fresh: False where it was there already.
  """

  folder: pathlib.Path
  summary: dict
  fresh: bool


def fingerprint(raw: pathlib.Path) -> str:
  """Digests the names and contents of all files below `raw`."""
  digest = hashlib.sha256()
  for path in pairing.walk(raw):
    try:
      with path.open('rb') as f:
        content = hashlib.file_digest(f, 'sha256').hexdigest()
    except OSError as e:  # a link to nothing, or a file that may not be read
      content = type(e).__name__
    digest.update(
      os.fsencode(path.relative_to(raw)) + f'\0{content}\n'.encode()
    )
  return digest.hexdigest()[:32]


def damaged(folder: pathlib.Path, detail: object) -> ValueError:
  """Makes the error for a prepared dataset that cannot be read."""
  return ValueError(
    f'{folder} is damaged ({detail}); prepare it anew with --overwrite.'
  )


def _already(folder: pathlib.Path, request: dict) -> dict | None:
  """Reads the report of a finished preparation; None where there is none.

  Raises:
    ValueError: where it was prepared of other files or with other options.
  """
  if not (folder / 'report.json').is_file():
    return None
  try:
    summary = files.read_json(folder / 'report.json')
  except ValueError as e:
    raise damaged(folder, e) from e
  for key, value in request.items():
    if key not in summary:
      raise ValueError(
        f'{folder} is of an earlier version, which did not compare contents: '
        'it can be read, or pass --overwrite to prepare it anew.'
      )
    if summary[key] != value:
      what = {'content': 'files'}.get(key, key)
      raise ValueError(
        f'{folder} was prepared of other {what} ({summary[key]!r}, now '
        f'{value!r}): pass --overwrite to prepare it anew.'
      )
  return summary


def _check_own(folder: pathlib.Path, data_dir: pathlib.Path) -> None:
  """Raises FileExistsError for what is not `prepare`'s in its place."""
  for parent in folder.parents:
    if parent != data_dir.parent and parent.exists() and not parent.is_dir():
      raise FileExistsError(f'{parent} is in the way: it is no folder.')
  if not folder.exists():
    return
  paths = folder.glob('**/*') if folder.is_dir() else [folder]
  foreign = [
    p.relative_to(data_dir).as_posix()
    for p in paths
    if not p.is_dir() and not any(fnmatch.fnmatch(p.name, k) for k in FILES)
  ]
  if foreign:
    raise FileExistsError(
      f'{folder} holds what prepare did not write and will not remove: '
      f'{", ".join(sorted(foreign)[:5])}. Move it away first.'
    )


def _recover(final: pathlib.Path, scratch: pathlib.Path) -> None:
  """Tidies up after a preparation that was killed; the old dataset comes back.

  Raises:
    FileExistsError: where the scratch folder holds what is not `prepare`'s.
  """
  replaced = scratch / 'replaced'
  if replaced.exists() and not final.exists():
    final.parent.mkdir(parents=True, exist_ok=True)
    replaced.rename(final)
  _check_own(scratch, scratch.parent)
  if scratch.exists():
    shutil.rmtree(scratch)


def _write(
  dataset: pairing.Dataset,
  root: pathlib.Path,
  raw: pathlib.Path,
  *,
  name: str,
  request: dict,
) -> pathlib.Path:
  """Prepares below `root` and returns the folder, complete with report."""
  from salflax.data import builder

  report, options = problems.Report(), dict(request['options'])
  keep_inside = options.pop('keep_inside')
  samples = dataset.samples(raw, report, **options)
  # TFDS would print that the data is ready, in a folder yet to be renamed.
  with contextlib.redirect_stdout(io.StringIO()):
    try:
      folder, records = builder.store(
        dataset, samples, report, root, name=name, keep_inside=keep_inside
      )
    except ValueError as e:
      raise ValueError(f'{raw}: {e}') from e
  lines = [json.dumps(r._asdict(), ensure_ascii=False) for r in records]
  (folder / RECORDS).write_text('\n'.join(lines) + '\n', encoding='utf-8')
  report.save(
    folder,
    dataset=dataset.name,
    raw=problems.printable(str(raw.resolve())),
    samples=len(records),
    images=len({r.image_id for r in records}),
    conditions=dict(collections.Counter(r.condition for r in records)),
    **request,
  )
  return folder


def _check(raw: pathlib.Path, data_dir: pathlib.Path, options: dict) -> None:
  if not raw.is_dir():
    what = 'no folder' if raw.exists() else 'absent'
    raise FileNotFoundError(f'The raw folder {raw} is {what}.')
  if files.on_disk(data_dir).resolve().is_relative_to(raw.resolve()):
    raise ValueError(
      f'--data_dir={data_dir} lies in --raw={raw}: what is prepared would '
      'count as raw files. Choose a folder elsewhere.'
    )
  sigma = options.get('sigma', 1.0)
  if not 0 < sigma <= MAX_SIGMA:
    raise ValueError(
      f'--sigma is above 0 and at most {MAX_SIGMA:g} pixels, found {sigma:g}.'
    )


def prepare(
  dataset: pairing.Dataset,
  raw: str | os.PathLike,
  data_dir: str | os.PathLike,
  *,
  name: str = '',
  overwrite: bool = False,
  keep_inside: bool = False,
  **options,
) -> Prepared:
  """Reads a raw folder once and stores what is sound in it.

  All is written to a hidden folder which takes its final name as the last
  step, so a preparation that was cut off leaves nothing that looks finished.

  Args:
    dataset: what `data.DATASETS[...]()` returns.
    raw: folder with the published files.
    data_dir: where prepared datasets lie, not within `raw`.
    name: name of a dataset that is the user's own, '' otherwise.
    overwrite: replace what was prepared before.
    keep_inside: leave out fixations outside the image or without a position,
      not the sample.
    **options: arguments of the dataset's `samples`; None for the default.

  Raises:
    FileNotFoundError: for a raw folder that is absent or has another layout.
    FileExistsError: where something that `prepare` did not write is in the way.
    ValueError: where nothing is usable, for a wrong option, or where the
      dataset was prepared before of other files or with other options.
    OSError: for a disk that is full or cannot be written.
  """
  raw = pathlib.Path(raw).expanduser()
  data_dir = paths.path(os.path.expanduser(data_dir))
  options = {k: v for k, v in options.items() if v is not None}
  _check(raw, data_dir, options)
  label = '-'.join(filter(None, [dataset.name, name]))
  final = folder_of(data_dir, dataset.name, name)
  scratch = files.on_disk(data_dir) / f'.{label}.tmp'
  request = {
    'options': dict(options, keep_inside=keep_inside),
    'content': fingerprint(raw),
  }
  with files.locked(data_dir / f'.{label}.lock', 'preparing this dataset'):
    _recover(final, scratch)
    if not overwrite and (summary := _already(final, request)):
      return Prepared(final, summary, fresh=False)
    _check_own(final, data_dir)
    try:
      written = _write(dataset, scratch, raw, name=name, request=request)
      final.parent.mkdir(parents=True, exist_ok=True)
      files.swap(written, final, scratch / 'replaced')
    finally:
      with contextlib.suppress(OSError):  # not in place of an earlier error
        _recover(final, scratch)
    return Prepared(final, _already(final, request), fresh=True)


def folder_of(
  data_dir: pathlib.Path, dataset: str, name: str = ''
) -> pathlib.Path:
  """Names the folder of a prepared dataset."""
  return paths.path(data_dir).joinpath(*filter(None, [dataset, name, VERSION]))


def names_in(data_dir: pathlib.Path) -> Sequence[str]:
  """Lists the prepared datasets below `data_dir`: 'osie', 'folder:mine'."""
  reports = paths.path(data_dir).glob('*/**/report.json')
  folders = [r.parent.parent.relative_to(data_dir) for r in reports]
  return sorted(':'.join(f.parts) for f in folders if f.parts[0][0] != '.')
