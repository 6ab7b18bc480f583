"""Prepares a dataset once; what is there is complete."""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from salflax.data import builder as builder_lib
from salflax.data import problems

RECORDS = 'records.jsonl'


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A prepared dataset.

  Attributes:
    folder: where it lies.
    summary: what its report.json holds.
    fresh: False where it was there already.
  """

  folder: pathlib.Path
  summary: dict
  fresh: bool


def fingerprint(raw: pathlib.Path) -> str:
  """Returns a digest of the names and sizes of all files below `raw`."""
  digest = hashlib.sha256()
  for root, folders, names in os.walk(raw):
    folders.sort()
    for name in sorted(names):
      path = pathlib.Path(root, name)
      # A dangling link has no size of its own target; the link's will do.
      entry = f'{path.relative_to(raw)}\0{path.lstat().st_size}\n'
      digest.update(entry.encode('utf-8', 'surrogateescape'))
  return digest.hexdigest()[:32]


@contextlib.contextmanager
def _lock(path: pathlib.Path):
  """Holds a lock on a dataset's name, freed with the process at the latest."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('w') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise RuntimeError(
        f'Another process is preparing this dataset (it holds {path}).'
      ) from None
    yield


def _already(folder: pathlib.Path, asked: dict) -> dict | None:
  """Returns the report of a finished preparation, or None.

  Raises:
    ValueError: where it was made of other files or with other options.
  """
  if not (folder / 'report.json').is_file():
    return None
  summary = json.loads((folder / 'report.json').read_text('utf-8'))
  for key, value in asked.items():
    if summary.get(key) != value:
      what = {'fingerprint': 'files'}.get(key, key)
      raise ValueError(
        f'{folder} was prepared of other {what} ({summary.get(key)!r}, now '
        f'{value!r}): pass --overwrite to prepare it anew.'
      )
  return summary


def _write(
  builder_class: type[builder_lib.GazeBuilder],
  root: pathlib.Path,
  *,
  raw: pathlib.Path,
  config: Any,
  options: Mapping[str, Any],
  keep_inside: bool,
  asked: dict,
) -> pathlib.Path:
  """Prepares below `root` and returns the folder, complete with report."""
  report = problems.Report()
  builder = builder_class(
    raw=raw,
    report=report,
    options=options,
    keep_inside=keep_inside,
    data_dir=root,
    config=config,
  )
  tfds.disable_progress_bar()  # Ours counts the samples read.
  download_config = tfds.download.DownloadConfig(
    manual_dir=raw, compute_stats=tfds.download.ComputeStatsMode.SKIP
  )
  # TFDS would print that the data is ready, in a folder yet to be renamed.
  with contextlib.redirect_stdout(io.StringIO()):
    builder.download_and_prepare(download_config=download_config)
  folder = pathlib.Path(builder.data_path)
  lines = [json.dumps(r._asdict(), ensure_ascii=False) for r in builder.records]
  (folder / RECORDS).write_text('\n'.join(lines) + '\n', encoding='utf-8')
  report.save(
    folder,
    dataset=builder.name,
    raw=str(raw.resolve()),
    samples=len(builder.records),
    pictures=len({r.image_id for r in builder.records}),
    conditions=dict(collections.Counter(r.condition for r in builder.records)),
    **asked,
  )
  return folder


def prepare(
  builder_class: type[builder_lib.GazeBuilder],
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
    builder_class: the dataset.
    raw: its published files.
    data_dir: where prepared datasets lie.
    name: of a dataset that is the user's own, '' otherwise.
    overwrite: replace what was prepared before.
    keep_inside: leave out fixations outside the picture, not the sample.
    **options: of the dataset's `samples`.

  Raises:
    FileNotFoundError: for a raw folder that is absent or has another layout.
    ValueError: where nothing is usable, or where the dataset was prepared
      before of other files or with other options.
    OSError: for a disk that is full or cannot be written.
  """
  raw = pathlib.Path(raw).expanduser()
  data_dir = pathlib.Path(data_dir).expanduser()
  if not raw.is_dir():
    raise FileNotFoundError(f'The raw folder {raw} is absent.')
  label = '-'.join(filter(None, [builder_class.name, name]))
  final = folder_of(data_dir, builder_class.name, name)
  options = {k: v for k, v in options.items() if v is not None}
  asked = {
    'options': dict(options, keep_inside=keep_inside),
    'fingerprint': fingerprint(raw),
  }
  with _lock(data_dir / f'.{label}.lock'):
    if not overwrite and (summary := _already(final, asked)):
      return Prepared(final, summary, fresh=False)
    scratch = data_dir / f'.{label}.tmp'
    shutil.rmtree(scratch, ignore_errors=True)
    try:
      made = _write(
        builder_class,
        scratch,
        raw=raw,
        config=tfds.core.BuilderConfig(name=name) if name else None,
        options=options,
        keep_inside=keep_inside,
        asked=asked,
      )
      _publish(made, final, scratch)
    finally:
      shutil.rmtree(scratch, ignore_errors=True)
    return Prepared(final, _already(final, asked), fresh=True)


def _publish(made: pathlib.Path, final: pathlib.Path, scratch: pathlib.Path):
  """Gives a complete folder its final name."""
  for path in sorted(made.iterdir()):
    with path.open('rb') as f:
      os.fsync(f.fileno())
  final.parent.mkdir(parents=True, exist_ok=True)
  replaced = scratch / 'replaced'
  if final.exists():
    final.rename(replaced)
  try:
    made.rename(final)
  except OSError:
    if replaced.exists():
      replaced.rename(final)
    raise


def folder_of(
  data_dir: pathlib.Path, dataset: str, name: str = ''
) -> pathlib.Path:
  """Returns where a prepared dataset lies."""
  version = str(builder_lib.GazeBuilder.VERSION)
  return pathlib.Path(data_dir, *filter(None, [dataset, name, version]))


def names_in(data_dir: pathlib.Path) -> Sequence[str]:
  """Returns the prepared datasets below `data_dir`: 'osie', 'folder:mine'."""
  reports = pathlib.Path(data_dir).glob('*/**/report.json')
  folders = [r.parent.parent.relative_to(data_dir) for r in reports]
  return sorted(':'.join(f.parts) for f in folders)
