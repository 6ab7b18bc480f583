"""What all TFDS builders share: features, parts, and a preparation that is
either complete or absent.
"""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import auto as tqdm

from salflax.data import raw as raw_lib

FORMAT = 'array_record'
RECORDS = 'records.jsonl'
# TFDS holds a split in memory until it is written, so a dataset is written as
# several splits of about this many bytes ("parts"). They mean nothing else.
PART_BYTES = 200 << 20


class _Info(tfds.core.DatasetInfo):
  """Metadata that TFDS does not look up in its bucket on the net."""

  def initialize_from_bucket(self) -> None:
    """Does nothing: these datasets are not published there."""


class GazeBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Base of the datasets: a subclass says where the files lie (`samples`)."""

  VERSION = tfds.core.Version('1.0.0')
  SUMMARY = ''
  CITATION = ''
  HOMEPAGE = ''
  LICENSE = ''
  # Nothing is downloaded. TFDS would look for a file of checksums beside the
  # module, by way of a package that it does not install.
  url_infos = {}

  def __init__(
    self,
    *,
    raw: pathlib.Path,
    report: raw_lib.Report,
    options: Mapping[str, Any],
    keep_inside: bool,
    **kwargs,
  ):
    """Builds from the folder `raw`; `options` are those of `samples`."""
    self._raw, self._report = raw, report
    self._options, self._keep_inside = dict(options), keep_inside
    self.records: list[raw_lib.Record] = []
    super().__init__(file_format=FORMAT, **kwargs)

  @staticmethod
  def samples(
    raw: pathlib.Path, report: raw_lib.Report, **options
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies, without reading pictures.

    Args:
      raw: the folder with the published files.
      report: takes what was found and what cannot be used.
      **options: of the dataset.

    Raises:
      FileNotFoundError: where `raw` has not the expected layout.
    """
    raise NotImplementedError

  def _info(self) -> tfds.core.DatasetInfo:
    features = tfds.features.FeaturesDict(
      {
        'image': tfds.features.Image(shape=(None, None, 3)),
        'saliency': tfds.features.Image(shape=(None, None, 1)),
        'fixations': tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
        'text': tfds.features.Text(),
        'condition': tfds.features.Text(),
        'image_id': tfds.features.Text(),
      }
    )
    return _Info(
      builder=self,
      description=self.SUMMARY,
      features=features,
      citation=self.CITATION,
      homepage=self.HOMEPAGE or None,
      license=self.LICENSE,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager
    samples = self.samples(self._raw, self._report, **self._options)
    samples = _unique(samples, self._report)
    bar = tqdm.tqdm(total=len(samples), desc=self.name, mininterval=1)
    parts = {}
    for chunk in _chunks(samples, PART_BYTES):
      rows = self._read(chunk, bar)
      # TFDS fails on an empty split: a part is made once it has a good row.
      if first := next(rows, None):
        name = f'part{len(parts):05d}'
        parts[name] = self._generate_examples(itertools.chain([first], rows))
    if not parts:
      raise ValueError(f'Nothing usable in {self._raw}.\n{self._report.text()}')
    return parts

  def _read(self, samples, bar):
    for sample in samples:
      row = raw_lib.read_sample(
        sample, self._report, keep_inside=self._keep_inside
      )
      bar.update()
      if row:
        yield row

  def _generate_examples(self, rows):
    for example, record in rows:
      self.records.append(record)
      yield len(self.records), example


def _unique(samples, report):
  """Drops every sample whose key occurs twice: neither can be trusted."""
  counts = collections.Counter(s.key for s in samples)
  for key in sorted(k for k, n in counts.items() if n > 1):
    report.drop(key, 'duplicate id', f'{counts[key]} samples of this name')
  return sorted((s for s in samples if counts[s.key] == 1), key=lambda s: s.key)


def _chunks(samples, limit: int) -> Iterator[list]:
  chunk, size = [], 0
  for sample in samples:
    chunk.append(sample)
    size += sample.num_bytes()
    if size >= limit:
      yield chunk
      chunk, size = [], 0
  if chunk:
    yield chunk


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
  builder_class: type[GazeBuilder],
  root: pathlib.Path,
  *,
  raw: pathlib.Path,
  config: Any,
  options: Mapping[str, Any],
  keep_inside: bool,
  asked: dict,
) -> pathlib.Path:
  """Prepares below `root` and returns the folder, complete with report."""
  report = raw_lib.Report()
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
  builder_class: type[GazeBuilder],
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
  raw, data_dir = pathlib.Path(raw).expanduser(), pathlib.Path(data_dir)
  if not raw.is_dir():
    raise FileNotFoundError(f'The raw folder {raw} is absent.')
  data_dir = data_dir.expanduser()
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
    summary = json.loads((final / 'report.json').read_text('utf-8'))
    return Prepared(final, summary, fresh=True)


def _publish(made: pathlib.Path, final: pathlib.Path, scratch: pathlib.Path):
  """Gives a complete folder its final name."""
  for path in sorted(made.iterdir()):
    with path.open('rb') as f:
      os.fsync(f.fileno())
  final.parent.mkdir(parents=True, exist_ok=True)
  if final.exists():
    final.rename(scratch / 'replaced')
  made.rename(final)


def folder_of(
  data_dir: pathlib.Path, dataset: str, name: str = ''
) -> pathlib.Path:
  """Returns where a prepared dataset lies."""
  version = str(GazeBuilder.VERSION)
  return pathlib.Path(data_dir, *filter(None, [dataset, name, version]))


def names_in(data_dir: pathlib.Path) -> Sequence[str]:
  """Returns the prepared datasets below `data_dir`: 'osie', 'folder:mine'."""
  reports = pathlib.Path(data_dir).glob('*/**/report.json')
  folders = [r.parent.parent.relative_to(data_dir) for r in reports]
  return sorted(':'.join(f.parts) for f in folders)
