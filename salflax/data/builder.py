"""What all TFDS builders share: features, checks, and writing in parts."""

import collections
import errno
import itertools
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import auto as tqdm

from salflax.data import problems
from salflax.data import raw as raw_lib

FORMAT = 'array_record'
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
    report: problems.Report,
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
    raw: pathlib.Path, report: problems.Report, **options
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
    _check_space(samples, self._data_dir_root)
    bar = tqdm.tqdm(total=len(samples), desc=self.name, mininterval=1)
    parts = {}
    for chunk in _chunks(samples, PART_BYTES):
      rows = self._read(chunk, bar)
      # TFDS fails on an empty split: a part is made once it has a good row.
      if first := next(rows, None):
        name = f'part{len(parts):05d}'
        parts[name] = self._generate_examples(itertools.chain([first], rows))
    if not parts:
      bar.close()
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
