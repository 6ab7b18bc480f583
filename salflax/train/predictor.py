"""A network with its weights as a predictor: images and sentences to maps."""

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from salflax.core import parallel
from salflax.core.types import Batch, Example
from salflax.data import batches, pp
from salflax.train import features, step
from salflax.train import stage as stages_lib
from salflax.train.stage import Stage

Pair = tuple[np.ndarray, str]


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
    """Returns a predictor with other variables or another batch size."""
    other = copy.copy(self)
    vars(other).update(attributes)
    return other

  def predict(self, pairs: Iterable[Pair]) -> Iterator[np.ndarray]:
    """Yields the map f32 [h, w] >= 0 of each image and sentence, in order.

    Args:
      pairs: images u8 [h, w, 3] of any sizes, and sentences; '' for none.

    Raises:
      ValueError: a map is not finite.
    """
    finish = stages_lib.word_pieces(self.stage)

    def prepare(pair):
      image, text = pair
      row = {'image': image, 'text': text, 'condition': '', 'image_id': ''}
      return batches.Prepare([row], self._ops, finish)(0, None)

    return self._maps(self._ahead(prepare, pairs))

  def predict_rows(
    self, source: Sequence[Example], indexes: Sequence[int]
  ) -> Iterator[np.ndarray]:
    """Yields the map f32 [h, w] of each of these rows of a source."""
    prepare = self._prepare(source)
    return self._maps(self._ahead(lambda i: prepare(i, None), indexes))

  def _prepare(self, source: Sequence[Example]) -> batches.Prepare:
    # While training, the same rows are scored again and again.
    if self._last and self._last[0] is source:
      return self._last[1]
    finish, rows = stages_lib.word_pieces(self.stage), source
    if self.store:
      finish = stages_lib.finishers(
        self.stage, self.variables, source, self.stage.eval_pp
      )
      if 'backbone' in self.stage.stored:
        rows = features.WithoutImages(source)
    self._last[:] = source, batches.Prepare(rows, self._ops, finish)
    return self._last[1]

  def _ahead(self, prepare, items):
    return batches.map_ahead(prepare, items, threads=self.stage.threads)

  def _maps(self, rows: Iterator[Batch]) -> Iterator[np.ndarray]:
    size = -(-self.batch_size // self.mesh.size) * self.mesh.size
    local = size // jax.process_count()
    while chunk := list(itertools.islice(rows, local)):
      # A batch is filled up: each size would be compiled anew.
      filled = chunk + [chunk[-1]] * (local - len(chunk))
      batch = jax.tree.map(
        lambda *x: np.stack(x), *map(stages_lib.model_keys, filled)
      )
      preds = parallel.local_rows(
        self._predict(self.variables, parallel.to_global(batch, self.mesh))
      )
      for pred, row in zip(preds, chunk):
        # Bilinear resizing stays within the range of the network's output.
        yield _finite(pp.unletterbox(pred, row['box'], tuple(row['size'])))


def _finite(saliency: np.ndarray) -> np.ndarray:
  if not np.isfinite(saliency).all():
    count = np.count_nonzero(~np.isfinite(saliency))
    raise ValueError(
      f'The network gives {count} values that are not finite, of '
      f'{saliency.size}: its weights are broken, or the run diverged.'
    )
  return saliency
