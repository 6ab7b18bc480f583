"""A network with its weights as a predictor: images and sentences to maps."""

import copy
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from salflax.core import parallel, workers
from salflax.core.types import Batch, Example
from salflax.data import batches, frames, pp
from salflax.train import features, step
from salflax.train import stage as stages_lib
from salflax.train.stage import Stage


class StagePredictor:
  """Predicts maps with the network of a stage.

  Images become batches by the path that training and evaluation take: the
  stage's `eval_pp`, then its tokenizer or stored features.

  Args:
    stage: stage whose network, preprocessing and tokenizer are used.
    variables: 'params' and 'batch_stats' of its network.
    mesh: mesh of all devices.
    store: whether rows of a source take stored features of frozen parts, which
      are computed where they are missing.
    batch_size: images at once, over all processes; rounded up to fill all
      devices; the stage's by default.
  """

  reads_text = True

  def __init__(
    self,
    stage: Stage,
    variables: step.Variables,
    mesh: Mesh,
    *,
    store: bool = False,
    batch_size: int | None = None,
  ):
    self.stage, self.variables, self.store = stage, variables, store
    self.mesh = mesh
    self.batch_size = batch_size or stage.batch_size
    self._ops, self._last = pp.make(stage.eval_pp), []
    self._predict = step.make_predict_fn(
      stage.model, mesh, round_taps='backbone' in stage.stored
    )

  def replace(self, **attributes: Any) -> 'StagePredictor':
    """Makes a predictor with other variables or another batch size."""
    other = copy.copy(self)
    vars(other).update(attributes)
    return other

  def predict(
    self,
    pairs: Iterable[tuple[Any, str]],
    *,
    read: Callable[[Any], np.ndarray] | None = None,
    check: Callable[[str], None] | None = None,
    return_errors: bool = False,
  ) -> Iterator[np.ndarray | Exception]:
    """Yields the map f32 [h, w] >= 0 of each image and sentence, in order.

    Args:
      pairs: images u8 [h, w, 3] of any sizes, and sentences; '' for none.
      read: function that makes u8 [h, w, 3] of an image, called in threads.
      check: function that raises ValueError for a sentence.
      return_errors: yield the error of an image in place of its map. By default
        it is raised, after the maps before it.

    Raises:
      TypeError: a sentence is no str.
      ValueError: a map is not finite; names the image.
    """
    finish = stages_lib.word_pieces(self.stage.tokenizer)

    def prepare(pair):
      image, text = pair
      if not isinstance(text, str):
        raise TypeError(f'A sentence is a str, found {type(text).__name__}.')
      if check:
        check(text)
      row = {'image': read(image) if read else image, 'text': text}
      row |= {'condition': '', 'image_id': ''}
      return batches.Prepare([row], self._ops, finish)(0, None)

    def name(place, pair):
      is_path = isinstance(pair[0], str | os.PathLike)
      return os.fspath(pair[0]) if is_path else f'Image {place}'

    return self._maps(prepare, pairs, name, return_errors=return_errors)

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map f32 [h, w] of each of these rows of a source."""
    prepare = self._prepare(source)
    return self._maps(
      lambda index: prepare(index, None),
      indexes,
      lambda _, index: f'Image {batches.describe(source, index)}',
    )

  def _prepare(self, source: Sequence[Example]) -> batches.Prepare:
    # While training, the same rows are scored again and again.
    if self._last and self._last[0] is source:
      return self._last[1]
    finish, rows = stages_lib.word_pieces(self.stage.tokenizer), source
    if self.store:
      finish = stages_lib.finishers(
        self.stage, self.variables, source, self.stage.eval_pp
      )
      if 'backbone' in self.stage.stored:
        rows = features.WithoutImages(source)
    self._last[:] = source, batches.Prepare(rows, self._ops, finish)
    return self._last[1]

  def _maps(self, prepare, items, name, *, return_errors=False):
    """Yields the map, or the error, of each item that `prepare` makes a row."""

    def attempt(numbered):
      try:
        return name(*numbered), prepare(numbered[1])
      except Exception as e:
        return name(*numbered), e

    rows = workers.map_ahead(
      attempt, enumerate(items, 1), threads=self.stage.threads
    )
    size = -(-self.batch_size // self.mesh.size) * self.mesh.size
    local = size // jax.process_count()
    while chunk := list(itertools.islice(rows, local)):
      preds = self._batch([r for _, r in chunk if not _failed(r)], local)
      for label, row in chunk:
        result = row if _failed(row) else _map(next(preds), row, label)
        if _failed(result) and not return_errors:
          raise result
        yield result

  def _batch(self, rows: Sequence[Batch], size: int) -> Iterator[np.ndarray]:
    """Yields what the network gives for some rows."""
    if rows:
      # A batch is filled up: each size would be compiled anew.
      filled = [*rows, *[rows[-1]] * (size - len(rows))]
      batch = jax.tree.map(
        lambda *x: np.stack(x), *map(stages_lib.model_keys, filled)
      )
      yield from parallel.local_rows(
        self._predict(self.variables, parallel.to_global(batch, self.mesh))
      )


def _failed(row: Any) -> bool:
  return isinstance(row, Exception)


def _map(pred: np.ndarray, row: Batch, label: str) -> np.ndarray | ValueError:
  """Brings a map to its image's size; an error where it is not finite."""
  # Bilinear resizing stays within the range of the network's output.
  saliency = frames.unletterbox(pred, row['box'], tuple(row['size']))
  if count := np.count_nonzero(~np.isfinite(saliency)):
    return ValueError(
      f'{label}: {count} of {saliency.size} values of its map are not finite: '
      'the weights are broken, or the run diverged.'
    )
  return saliency
