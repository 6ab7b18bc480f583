"""Stores samples with TFDS: features, and writing in parts."""

import collections
import errno
import itertools
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from tqdm import auto as tqdm

from salflax.data import pairing, prepare, problems
from salflax.data import raw as raw_lib

FORMAT = 'array_record'

# TFDS holds a split in memory until it is written, so a dataset is written as
# several splits of about this many bytes ("parts"). They mean nothing else.
PART_BYTES = 200 << 20


class _Info(tfds.core.DatasetInfo):
  """Metadata that TFDS does not look up in its bucket on the net."""

  def initialize_from_bucket(self) -> None:
    """Does nothing: these datasets are not published there."""


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Reads the samples of a dataset and stores what is sound.

  Attributes:
    records: `raw.Record` of each stored row, in order.
  """

  VERSION = tfds.core.Version(prepare.VERSION)
  BUILDER_CONFIGS = []
  # Nothing is downloaded. TFDS would look for a file of checksums beside the
  # module, by way of a package that it does not install.
  url_infos = {}

  def __init__(
    self,
    dataset: pairing.Dataset,
    samples: list[raw_lib.Sample],
    report: problems.Report,
    *,
    keep_inside: bool,
    **kwargs,
  ):
    """Builds `dataset` of `samples`; `report` takes what cannot be used."""
    self.name, self._dataset = dataset.name, dataset
    self._samples, self._report = samples, report
    self._keep_inside = keep_inside
    self.records: list[raw_lib.Record] = []
    super().__init__(file_format=FORMAT, **kwargs)

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
      description=self._dataset.summary,
      features=features,
      homepage=self._dataset.homepage or None,
      license=self._dataset.licence,
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager) -> dict[str, Iterator]:
    del dl_manager
    samples = _unique(self._samples, self._report)
    _check_space(samples, self._data_dir_root)
    bar = tqdm.tqdm(total=len(samples), desc=self.name, mininterval=1)
    parts = {}
    for chunk in _chunks(samples, PART_BYTES):
      rows = self._read(chunk, bar)
      # TFDS fails on an empty split: a part begins once it has a good row.
      if first := next(rows, None):
        name = f'part{len(parts):05d}'
        parts[name] = self._generate_examples(itertools.chain([first], rows))
    if not parts:
      bar.close()
      raise ValueError(f'Nothing usable.\n{self._report.text()}')
    return parts

  def _read(self, samples, bar):
    for sample in samples:
      row = raw_lib.read_sample(
        sample, self._report, keep_inside=self._keep_inside
      )
      bar.update()
      if bar.n == bar.total:
        bar.close()
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


def _check_space(samples, data_dir: str) -> None:
  needed = sum(s.num_bytes() for s in samples)
  free = shutil.disk_usage(data_dir).free
  if free < needed:
    raise OSError(
      errno.ENOSPC,
      f'about {needed >> 20} MB are needed and {free >> 20} MB are free',
      str(data_dir),
    )


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


def store(
  dataset: pairing.Dataset,
  samples: list[raw_lib.Sample],
  report: problems.Report,
  root: pathlib.Path,
  *,
  name: str,
  keep_inside: bool,
) -> tuple[pathlib.Path, list[raw_lib.Record]]:
  """Writes a dataset below `root`; returns its folder and its records."""
  builder = Builder(
    dataset,
    samples,
    report,
    keep_inside=keep_inside,
    data_dir=root,
    config=tfds.core.BuilderConfig(name=name) if name else None,
  )
  tfds.disable_progress_bar()  # Ours counts the samples read.
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(
      compute_stats=tfds.download.ComputeStatsMode.SKIP
    )
  )
  return pathlib.Path(builder.data_path), builder.records
