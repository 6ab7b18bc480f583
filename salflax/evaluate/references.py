"""Predictors that are no models, which a text-guided model has to pass.

A centre prior knows neither image nor sentence. The human map of the same image
seen without text, and the mean of the other conditions' maps, know the image
perfectly and the sentence not at all: a model that does not pass them gives no
evidence that it uses the text.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.core import workers
from salflax.core.types import Example
from salflax.data import batches, frames
from salflax.data.center import GRID
from salflax.evaluate.scorer import size_of

# The condition in which people saw the image without a sentence.
UNGUIDED = 'pure'
# All that `references` may return.
NAMES = ('centre', 'pure', 'others')


def _density(example: Example, size: tuple[int, int]) -> np.ndarray | None:
  """Reads the human map f64 at `size`, summing to 1; None if empty."""
  saliency = np.asarray(example['saliency'], np.float32)
  grid = frames.resize(saliency.reshape(size_of(example)), size)
  total = grid.sum(dtype=np.float64)
  return grid.astype(np.float64) / total if total > 0 else None


def without_scored(
  baselines: Sequence[Example] | None, source: Sequence[Example]
) -> tuple[Sequence[Example] | None, list[str]]:
  """Leaves out training rows of images that are scored; None for none left.

  Args:
    baselines: training rows; None for none.
    source: rows that are scored.

  Returns:
    The other rows, and notes.
  """
  if baselines is None:
    return None, []
  scored = {batches.image_key(meta) for meta in batches.metas(source)}
  images = [batches.image_key(meta) for meta in batches.metas(baselines)]
  kept = [i for i, image in enumerate(images) if image not in scored]
  if len(kept) == len(images):
    return baselines, []
  left_out = len(set(images) & scored)
  if kept:
    note = (
      f'{left_out} of {len(set(images))} training images are scored here: the '
      'centre prior and the baseline of IG are of the others.'
    )
    return batches.Rows(baselines, kept), [note]
  note = (
    'All training images are scored here: there is no centre prior, and no IG.'
  )
  return None, [note]


class CentrePrior:
  """Where people look on any image: `prior(condition, (h, w)) -> [h, w]`.

  The mean density of a source's human maps, each image counting alike, for
  each condition apart. A condition that the source lacks gets the mean over
  all its rows. Build it from training images only.

  Raises:
    ValueError: if the source holds no map with any mass.
  """

  def __init__(self, source: Sequence[Example], *, threads: int | None = None):
    def read(index):
      example = batches.truth(source, index)
      return example['condition'], _density(example, GRID)

    sums = collections.defaultdict(lambda: np.zeros(GRID))
    densities = workers.map_ahead(read, range(len(source)), threads=threads)
    for condition, density in densities:
      if density is not None:
        sums[condition] += density
    if not sums:
      raise ValueError(
        f'A centre prior needs human maps; none of {len(source)} has any mass.'
      )
    self._sums = {c: s.astype(np.float32) for c, s in sums.items()}
    self._all = sum(sums.values()).astype(np.float32)
    self._resized = functools.lru_cache(maxsize=64)(self._resize)

  def _resize(self, condition: str, size: tuple[int, int]) -> np.ndarray:
    grid = self._sums.get(condition, self._all)
    density = frames.resize(grid, size).astype(np.float64)
    density /= density.sum()
    density.flags.writeable = False
    return density

  def __call__(self, condition: str, size: tuple[int, int]) -> np.ndarray:
    """Resizes the density f64 [h, w], summing to 1; read-only."""
    return self._resized(condition, tuple(size))


class SameImage:
  """The human maps of one image, over the conditions it was seen in.

  Args:
    source: all conditions of the images.
  """

  def __init__(self, source: Sequence[Example]):
    self._source = source
    self._rows = collections.defaultdict(dict)
    for index, meta in enumerate(batches.metas(source)):
      rows = self._rows[batches.image_key(meta)]
      rows.setdefault(meta['condition'], []).append(index)

  def others(self, meta: Mapping[str, Any]) -> list[str]:
    """Lists the other conditions of this row's image."""
    conditions = self._rows.get(batches.image_key(meta), {})
    return sorted(c for c in conditions if c != meta['condition'])

  def mean(self, example: Example, conditions: Sequence[str]) -> np.ndarray:
    """Averages the image's densities f64 [h, w] over `conditions`.

    Maps are brought to a sum of 1 first: each comes scaled to its own maximum,
    which would let the most scattered gaze weigh most.
    """
    rows = self._rows[batches.image_key(example)]
    size = size_of(example)
    total = np.zeros(size)
    for condition in conditions:
      for index in rows[condition]:
        density = _density(batches.truth(self._source, index), size)
        if density is not None:
          total += density / len(rows[condition])
    return total / len(conditions)


class Reference(NamedTuple):
  """A predictor that is no model.

  Attributes:
    label: name in tables.
    covers: tells from the `meta` of a row whether it has an answer.
    saliency: function (example without its image) -> [h, w].
  """

  label: str
  covers: Callable[[Mapping[str, Any]], bool]
  saliency: Callable[[Example], np.ndarray]

  def covered(self, source: Sequence[Example]) -> batches.Rows:
    """Selects the rows of a source that it has an answer to."""
    rows = enumerate(batches.metas(source))
    return batches.Rows(source, [i for i, row in rows if self.covers(row)])

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map of each of these rows."""
    return (self.saliency(batches.truth(source, i)) for i in indexes)


def references(
  prior: CentrePrior | None, source: Sequence[Example]
) -> dict[str, Reference]:
  """Makes the reference predictors, by name.

  Args:
    prior: centre prior of the training images; left out if None.
    source: the evaluated images in all their conditions.

  Returns:
    `centre`; `pure`, the same image seen without text (not for the condition
    `pure` itself); `others`, the mean of the image's other conditions where
    there are at least two.
  """
  images, references_by_name = SameImage(source), {}
  if prior is not None:
    references_by_name['centre'] = Reference(
      'Centre prior',
      lambda meta: True,
      lambda e: prior(e['condition'], size_of(e)),
    )
  references_by_name['pure'] = Reference(
    'Same image, no text (human)',
    lambda meta: UNGUIDED in images.others(meta),
    lambda e: images.mean(e, [UNGUIDED]),
  )
  references_by_name['others'] = Reference(
    'Same image, other conditions (human)',
    lambda meta: len(images.others(meta)) > 1,
    lambda e: images.mean(e, images.others(e)),
  )
  return references_by_name
