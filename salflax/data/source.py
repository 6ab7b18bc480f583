"""Reads prepared datasets: random access, pictures decoded when asked for."""

import io
import json
import operator
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from salflax.core import spec
from salflax.data import prepare, splits
from salflax.data import raw as raw_lib


class PreparedSource(Sequence):
  """Rows of a prepared dataset; can be pickled for worker processes.

  Attributes:
    records: `raw.Record` of each row: id, condition, text and size, without
      decoding pictures.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    rows: Sequence[int],
    records: Sequence[raw_lib.Record],
  ):
    """Shows the given rows of the dataset in `folder`, in their order."""
    import tensorflow_datasets as tfds

    self.records = list(records)
    self._rows = list(rows)
    prepared = tfds.builder_from_directory(folder)
    names = sorted(prepared.info.splits)
    # Pictures are decoded here, by Pillow: TFDS would take OpenCV where it is
    # installed, whose JPEG decoder gives other values.
    skip = tfds.decode.SkipDecoding()
    self._parts = prepared.as_data_source(
      split=names, decoders={'image': skip, 'saliency': skip}
    )
    self._starts = np.cumsum([0] + [len(p) for p in self._parts])
    if self._rows and max(self._rows) >= self._starts[-1]:
      raise ValueError(
        f'{folder}: {prepare.RECORDS} names more rows than the '
        f'{self._starts[-1]} stored; prepare it anew with --overwrite.'
      )

  def __len__(self) -> int:
    return len(self._rows)

  def meta(self, index: int) -> dict[str, Any]:
    """Returns a row's `raw.Record` as a dict, without decoding pictures."""
    return self.records[operator.index(index)]._asdict()

  def __getitem__(self, index: int) -> dict:
    """Returns the stored example: see `data.load_source`."""
    stored = self._stored(index)
    return {'image': _decode(stored['image'], 'RGB'), **_truth(stored)}

  def truth(self, index: int) -> dict:
    """Returns the stored example without its image, which is not decoded."""
    return _truth(self._stored(index))

  def _stored(self, index: int) -> dict:
    row = self._rows[operator.index(index)]
    part = int(np.searchsorted(self._starts, row, side='right')) - 1
    return self._parts[part][row - int(self._starts[part])]


def _truth(stored) -> dict:
  text = {k: _str(stored[k]) for k in ('text', 'condition', 'image_id')}
  return {
    'saliency': _decode(stored['saliency'], 'L')[..., None],
    'fixations': np.asarray(stored['fixations'], np.int32).reshape(-1, 2),
    **text,
  }


def _str(value) -> str:
  return value.decode('utf-8') if isinstance(value, bytes) else str(value)


def _decode(data: bytes, mode: str) -> np.ndarray:
  with Image.open(io.BytesIO(data)) as image:
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _records(folder: pathlib.Path) -> list[raw_lib.Record]:
  with (folder / prepare.RECORDS).open(encoding='utf-8') as f:
    return [raw_lib.Record(**json.loads(line)) for line in f]


def _check_conditions(conditions, present, where: str) -> tuple[str, ...]:
  if isinstance(conditions, str):
    conditions = (conditions,)
  for condition in conditions:
    if condition not in raw_lib.CONDITIONS:
      raise spec.unknown('condition', condition, raw_lib.CONDITIONS)
    if condition not in present:
      raise spec.unknown(f'condition of {where}', condition, present)
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
    name: of a user's own folder, '' otherwise.
    split: see `splits.split_names`.
    data_dir: where prepared datasets lie.
    conditions: keep these alone.
    exclude: leave out these pictures: a file of ids, a packaged list's name,
      or ids.

  Raises:
    FileNotFoundError: where the dataset is not prepared.
    ValueError: for an unknown split or condition, an exclusion that matches
      nothing, or a split that comes out empty.
  """
  splits.parse(split)
  folder = prepare.folder_of(data_dir, dataset, name)
  label = ':'.join(filter(None, [dataset, name]))
  if not (folder / prepare.RECORDS).is_file():
    raise FileNotFoundError(
      f'{label} is not prepared in {data_dir} (there: '
      f'{", ".join(prepare.names_in(data_dir)) or "nothing"}). Run: python -m '
      f'salflax.cli.prepare --dataset={dataset}'
      + (f' --name={name}' if name else '')
      + f' --raw=<folder> --data_dir={data_dir}'
    )
  records = _records(folder)
  rows = splits.select(
    dataset, split, [r.picture for r in records], [r.part for r in records]
  )
  if conditions is not None:
    present = {r.condition for r in records}
    keep = _check_conditions(conditions, present, label)
    rows = [i for i in rows if records[i].condition in keep]
  if exclude is not None:
    is_list = not isinstance(exclude, str | pathlib.Path)
    ids = set(exclude) if is_list else splits.read_ids(exclude)
    if not ids & {r.image_id for r in records}:
      raise ValueError(f'No id of {exclude!r} is a picture of {label}.')
    rows = [i for i in rows if records[i].image_id not in ids]
  if not rows:
    raise ValueError(
      f'Split {split!r} of {label} is empty with conditions={conditions!r}, '
      f'exclude={exclude!r}.'
    )
  return PreparedSource(folder, rows, [records[i] for i in rows])
