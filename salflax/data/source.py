"""Reads prepared datasets: random access, images decoded when asked for."""

import io
import json
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from salflax.core import files, spec
from salflax.data import prepare, splits
from salflax.data import raw as raw_lib


class PreparedSource(Sequence):
  """Rows of a prepared dataset; can be pickled for worker processes.

  Attributes:
    records: `raw.Record` of each row: id, condition, text and size, without
      decoding images.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    rows: Sequence[int],
    records: Sequence[raw_lib.Record],
  ):
    """Opens some rows of the dataset in `folder`, in their order.

    Args:
      folder: prepared dataset.
      rows: numbers of the rows.
      records: `raw.Record` of every stored row, in order.

    Raises:
      ValueError: where the dataset is damaged.
    """
    import tensorflow_datasets as tfds

    self.records = [records[i] for i in rows]
    self._rows, self._folder = list(rows), folder
    # Images are decoded here, by Pillow: TFDS would take OpenCV where it is
    # installed, whose JPEG decoder gives other values.
    skip = tfds.decode.SkipDecoding()
    try:
      prepared = tfds.builder_from_directory(folder)
      self._parts = prepared.as_data_source(
        split=sorted(prepared.info.splits),
        decoders={'image': skip, 'saliency': skip},
      )
      self._starts = np.cumsum([0] + [len(p) for p in self._parts])
    except Exception as e:  # TFDS raises many kinds for a damaged dataset.
      raise prepare.damaged(folder, e) from e
    if self._starts[-1] != len(records):
      detail = f'{len(records)} records of {self._starts[-1]} rows'
      raise prepare.damaged(folder, detail)

  def __len__(self) -> int:
    return len(self._rows)

  def meta(self, index: int) -> dict[str, Any]:
    """Lists a row's `raw.Record` as a dict, without decoding images."""
    return self.records[operator.index(index)]._asdict()

  def __getitem__(self, index: int) -> dict:
    """Reads the stored example: see `data.load_source`."""
    return self._read(index, image='RGB')

  def truth(self, index: int) -> dict:
    """Reads the stored example without its image, which is not decoded."""
    return self._read(index)

  def stored(self, index: int) -> dict:
    """Reads a row as it is stored: image and map are the bytes of files."""
    row = self._rows[operator.index(index)]
    part = int(np.searchsorted(self._starts, row, side='right')) - 1
    return self._parts[part][row - int(self._starts[part])]

  def _read(self, index: int, **images: str) -> dict:
    record = self.records[operator.index(index)]
    row = self._rows[operator.index(index)]
    try:
      stored = self.stored(index)
      example = {k: decode(stored[k], mode) for k, mode in images.items()}
      example['saliency'] = decode(stored['saliency'], 'L')[..., None]
      points = np.asarray(stored['fixations'], np.int32).reshape(-1, 2)
    except Exception as e:  # so do array_record and Pillow
      raise prepare.damaged(self._folder, f'row {row}: {e}') from e
    text = {k: _str(stored[k]) for k in ('text', 'condition', 'image_id')}
    if text != {k: getattr(record, k) for k in text}:
      raise prepare.damaged(
        self._folder, f'row {row} is not that of its record'
      )
    return {**example, 'fixations': points, **text}


def _str(value) -> str:
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)


def decode(data: bytes, mode: str) -> np.ndarray:
  """Decodes the bytes of an image file as u8 [h, w] ('L') or [h, w, 3]."""
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _record(picture: str = '', **fields: Any) -> raw_lib.Record:
  # As `split_key` was called in data prepared before.
  return raw_lib.Record(**{'split_key': picture, **fields})


def _records(folder: pathlib.Path) -> list[raw_lib.Record]:
  path = folder / prepare.RECORDS
  try:
    if not (text := path.read_text('utf-8')):
      raise ValueError('it holds nothing')
    # Not splitlines: a sentence may hold what other programs end lines with.
    lines = text.removesuffix('\n').split('\n')
    return [_record(**json.loads(line)) for line in lines]
  except (ValueError, TypeError) as e:
    raise prepare.damaged(folder, f'{path.name}: {e}') from e


def _check_conditions(conditions, present, where: str) -> tuple[str, ...]:
  if isinstance(conditions, str):
    conditions = (conditions,)
  for condition in conditions:
    spec.lookup('condition', raw_lib.CONDITIONS, condition)
    spec.lookup(f'condition of {where}', present, condition)
  return tuple(conditions)


def load(
  dataset: str,
  name: str,
  split: str,
  data_dir: pathlib.Path,
  *,
  conditions: str | Sequence[str] | None = None,
  exclude: str | pathlib.Path | Sequence[str] | None = None,
) -> PreparedSource:
  """Opens a prepared dataset; arguments as in `data.load_source`.

  Args:
    dataset: name in `data.DATASETS`.
    name: name of a user's own folder, '' otherwise.
    split: see `splits.split_names`.
    data_dir: where prepared datasets lie.
    conditions: keep these alone.
    exclude: leave out these images: a file of ids, a packaged list's name,
      or ids.

  Raises:
    FileNotFoundError: where the dataset is not prepared.
    ValueError: for an unknown split or condition, an excluded id that is no
      image, a damaged dataset, or a split that comes out empty.
  """
  splits.parse(split)
  folder = prepare.folder_of(data_dir, dataset, name)
  label = ':'.join(filter(None, [dataset, name]))
  if not (folder / prepare.RECORDS).is_file():
    raise FileNotFoundError(
      f'{label} is not prepared in {data_dir} (there: '
      f'{", ".join(prepare.names_in(data_dir)) or "nothing"}). Run: '
      f'salflax prepare --dataset={dataset}'
      + (f' --name={name}' if name else '')
      + f' --raw=<folder> --data_dir={data_dir}'
    )
  folder = files.local_copy(folder)  # array_record reads no s3
  records = _records(folder)
  rows = splits.select(
    dataset, split, [r.split_key for r in records], [r.part for r in records]
  )
  if conditions is not None:
    present = {r.condition for r in records}
    keep = _check_conditions(conditions, present, label)
    rows = [i for i in rows if records[i].condition in keep]
  if exclude is not None:
    ids = splits.excluded(
      exclude, dataset, {r.image_id for r in records}, label
    )
    rows = [i for i in rows if records[i].image_id not in ids]
  if not rows:
    raise ValueError(
      f'Split {split!r} of {label} is empty with conditions={conditions!r}, '
      f'exclude={exclude!r}.'
    )
  return PreparedSource(folder, rows, records)
