"""Maps as files in a folder: checked, scored, written."""

import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from salflax.core import files, paths, spec, workers
from salflax.core.types import Example
from salflax.data import batches, maps
from salflax.evaluate import scorer
from salflax.evaluate.map_names import Matched, names
from salflax.evaluate.map_names import match as match

# A small map's sides are whole numbers, so its aspect is off by a little.
ASPECT_TOLERANCE = 0.03
# Bytes of a file's name, of the 255 of a disk, beside the marks of a temporary
# file.
MAX_NAME = 241


@dataclasses.dataclass
class MapFolder:
  """A predictor that reads its maps from files.

  Attributes:
    paths: file by row of the source that is scored.
  """

  paths: Mapping[int, pathlib.Path]
  reads_text = False

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map of each of these rows, of the size it has."""
    return (maps.read_map(self.paths[i], allow_flat=True) for i in indexes)


class Checked(NamedTuple):
  """What is wrong with the maps of some rows.

  Attributes:
    unusable: by row, why its map cannot be scored.
    misshapen: by row, a map whose aspect is not the image's.
    flat: names of maps that are the same everywhere.
    resized: number of maps of another size than their image.
  """

  unusable: dict[int, str]
  misshapen: dict[int, str]
  flat: list[str]
  resized: int


def check(
  matched: Matched, source: Sequence[Example], *, threads: int | None = None
) -> Checked:
  """Reads every map once, to name all that is wrong before any scoring."""

  def read(item):
    index, path = item
    try:
      saliency = maps.read_map(path, allow_flat=True)
    except ValueError as e:
      return index, str(e), None
    return index, None, (saliency.shape, np.ptp(saliency) == 0)

  checked = Checked({}, {}, [], 0)
  read_all = workers.map_ahead(read, matched.paths.items(), threads=threads)
  resized = 0
  for index, fault, about in read_all:
    if fault:
      checked.unusable[index] = fault
      continue
    shape, flat = about
    name = matched.paths[index].name
    height, width = scorer.size_of(batches.truth(source, index))
    ratio = shape[1] * height / (shape[0] * width)
    if abs(np.log(ratio)) > max(ASPECT_TOLERANCE, 1 / min(shape)):
      checked.misshapen[index] = (
        f'{name}: {shape[1]}x{shape[0]} (width x height) for an image of '
        f'{width}x{height}'
      )
    if flat:
      checked.flat.append(name)
    resized += shape != (height, width)
  return checked._replace(resized=resized)


def faults(matched: Matched, checked: Checked) -> list[str]:
  """Lists why some rows cannot be scored, naming them; empty if all can."""
  missing = []
  if matched.missing:
    missing = [f'{len(matched.missing)} missing: {spec.some(matched.missing)}']
  return missing + list(checked.unusable.values())


def notes(matched: Matched, checked: Checked) -> list[str]:
  """Lists what a reader of the scores should know about the maps."""
  lines = []
  if matched.extra:
    count = len(matched.extra)
    lines.append(f'{count} of no image, left out: {spec.some(matched.extra)}')
  if matched.shared:
    lines.append('One map per image: it is scored in every condition.')
  if checked.flat:
    lines.append(
      f'{len(checked.flat)} the same everywhere: {spec.some(checked.flat)}'
    )
  if checked.resized:
    lines.append(f'{checked.resized} resized bilinearly to their images.')
  if checked.misshapen:
    misshapen = list(checked.misshapen.values())
    lines.append(
      f'{len(misshapen)} of another aspect than their image, stretched: '
      + spec.some(misshapen)
    )
  return [f'Note: {line}' for line in lines]


def quantise(saliency: np.ndarray, *, bits: int) -> np.ndarray:
  """Scales a map to whole numbers, its maximum to the largest one.

  Values are rounded, not cut off: cutting off darkens every pixel by half a
  level, which alone moves KL and IG visibly for 8 bits.

  Args:
    saliency: [h, w] >= 0, any scale.
    bits: 8 or 16.

  Returns:
    u8 or u16 [h, w]; all zero for a map that is all zero.
  """
  if bits not in (8, 16):
    raise ValueError(f'bits must be 8 or 16, found {bits}.')
  values = np.asarray(saliency, np.float64)
  top = values.max()
  scaled = values / top * (2**bits - 1) if top > 0 else values
  return np.floor(scaled.clip(min=0) + 0.5).astype(f'uint{bits}')


@dataclasses.dataclass
class Keep:
  """A predictor that also writes its maps, 8-bit grey PNG of the image's size.

  Attributes:
    predictor: see `scorer.maps_of`.
    folder: folder of the files: see `names`.
    threads: threads that read images.
  """

  predictor: Any
  folder: str | os.PathLike
  threads: int | None = None

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map of each of these rows.

    Raises:
      ValueError: an image's id is too long for a file's name.
    """
    kept = [
      paths.path(self.folder) / f'{name}.png'
      for name in names(batches.metas(source))
    ]
    for path in kept:
      if len(os.fsencode(path.name)) > MAX_NAME:
        raise ValueError(
          f'{path.name}: a file cannot have so long a name; the maps cannot be '
          'kept.'
        )
    saliency_maps = scorer.maps_of(
      self.predictor, source, indexes, threads=self.threads
    )
    for index, saliency in zip(indexes, saliency_maps):
      grey = Image.fromarray(quantise(saliency, bits=8))
      with files.replacing(kept[index]) as temporary:
        grey.save(temporary)
      yield saliency
