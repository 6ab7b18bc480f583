"""What is wrong with a stage, before anything is computed."""

import jax
import numpy as np
from jax.sharding import Mesh

from salflax import losses
from salflax.core import parallel, spec
from salflax.data import batches
from salflax.evaluate import references
from salflax.models.weights import pretrained
from salflax.train import features, gradient, optim
from salflax.train import stage as stages


def _check_score(stage: stages.Stage) -> None:
  """Raises ValueError where no evaluation row can have the stage's score."""
  needs, source = stage.score_metric().needs, stage.eval_source
  if 'baseline' in needs:
    rest, _ = references.without_scored(stage.train_source, source)
    if rest is None:
      raise ValueError(
        f'score {stage.score!r} needs training images that are not evaluated: '
        'the splits are the same. Choose another score or eval_split.'
      )
  if 'other_fixations' in needs:
    metas = batches.metas(source)
    images = {(m['condition'], batches.image_key(m)) for m in metas}
    if len(images) == len({condition for condition, _ in images}):
      raise ValueError(
        f'score {stage.score!r} needs fixations of other images: eval_split '
        'has one image in each condition. Choose another score or split.'
      )


def check_batch(stage: stages.Stage, mesh: Mesh) -> None:
  """Raises ValueError where a batch does not divide, or lacks whole images."""
  rows = stage.rows_per_image
  parallel.check_batch_size(stage.batch_size, mesh)
  if stage.batch_size % rows:
    raise ValueError(
      f'batch_size {stage.batch_size} is no multiple of rows_per_image {rows}.'
    )
  images = stage.batch_size // rows
  parallel.check_batch_size(images, mesh)
  if images % (stage.accumulate * mesh.size):
    raise ValueError(
      f'accumulate {stage.accumulate} does not divide the '
      f'{images // mesh.size} images of a batch on each of {mesh.size} devices.'
    )
  if stage.accumulate > 1 and stage.contrast_fn is not None:
    raise ValueError(
      'A contrast compares all rows of a batch: set accumulate to 1.'
    )
  spec.lookup('remat', gradient.REMAT, stage.remat)
  names = losses.between_sentences(stage.loss)
  if names and rows < 2:
    raise ValueError(
      f'The loss {names[0]!r} compares the sentences of an image: set '
      'rows_per_image to 2 or more.'
    )
  if rows > 1 and stage.contrast_fn is not None:
    raise ValueError(
      'A contrast needs each row with its own image: set rows_per_image to 1.'
    )


def check(stage: stages.Stage) -> None:
  """Raises ValueError where batch, score, freeze patterns or weights misfit.

  Takes a second or two: shapes are compared, nothing is computed.
  """
  check_batch(stage, parallel.make_mesh(shards=stage.param_shards))
  if stage.eval_source is not None:
    _check_score(stage)
  abstract = stages.abstract_state(stage)
  if stage.freeze:
    optim.frozen_names(abstract.params, stage.freeze)
  for pattern, _ in stage.lr_scale:
    optim.matches(abstract.params, pattern)
  if 'backbone' in stage.stored:
    features.variants(stage.pp)
  for scope, load, skip in stage.weights:
    pretrained.merge(abstract.variables, load(), at=scope, skip=skip)
  if stage.origin is not None:
    ours = abstract.variables
    theirs = jax.tree.map(
      lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape),
      stages.abstract_state(stage.origin).variables,
    )
    skip, source = stages.only_in(ours, theirs), f'init {stage.init!r}'
    pretrained.merge(ours, theirs, skip=skip, source=source)
