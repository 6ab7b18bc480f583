"""A stage of training, and what it starts from."""

import dataclasses
import functools
import gc
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from salflax import losses
from salflax.core import parallel
from salflax.core.types import Example
from salflax.data import batches, center, kept, pp
from salflax.models.weights import pretrained
from salflax.train import features, optim, step


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage of training, everything bound and checked.

  Attributes:
    name: name of the stage and its folder.
    model: network, of the table MODELS.
    loss: loss as written in the config.
    loss_fn: (pred, batch) -> (scalar, terms).
    contrast_fn: (output of `step.compare`, batch) -> (scalar, terms, measures),
      added to the loss; None for none.
    make_tx: () -> optimiser.
    freeze: path patterns of parameters that keep their bits.
    train_source, eval_source: rows; None for a stage that only predicts.
    pp, eval_pp: pp strings.
    batch_size: rows of the global batch.
    rows_per_image: rows of an image that stand together in a batch, see
      `batches.train_batches`.
    accumulate: parts of a batch that go through the network one after the
      other.
    remat: what the backward pass computes anew, of the table `gradient.REMAT`.
    param_shards: devices that share one copy of the state.
    steps: steps of the stage.
    epoch: steps of one epoch.
    eval_every: steps between evaluations, each followed by a checkpoint.
    log_every: steps between log lines.
    protocols: bound metrics of the evaluations while training, by protocol.
    score: '<protocol>/<metric>' that says which checkpoint is best.
    patience: evaluations without a better score that end the stage; 0 = never.
    init: '@stage' or the folder of a run, whose best checkpoint to start
      from, or ''.
    origin: stage that `init` names; None for none.
    lr_scale: (path pattern, factor) pairs that scale the learning rate.
    weights: (scope, function that loads the variables, patterns of tensors that
      a file may lack or have too many) of everything that starts from a file.
    tokenizer: list of strings -> (ids, mask), or None.
    stored: frozen parts whose features are stored: some of 'backbone', 'text'.
    cache_dir: folder of stored features.
    seed: seed of parameters, order and random draws.
    threads, workers: threads, or processes, that read and preprocess.
  """

  name: str
  model: nn.Module
  loss: str
  loss_fn: Callable
  contrast_fn: Callable | None
  make_tx: Callable
  freeze: tuple[str, ...]
  train_source: Sequence[Example] | None
  eval_source: Sequence[Example] | None
  pp: str
  eval_pp: str
  batch_size: int
  rows_per_image: int
  accumulate: int
  remat: str
  param_shards: int
  steps: int
  epoch: int
  eval_every: int
  log_every: int
  protocols: Mapping[str, Sequence[Any]]
  score: str
  patience: int
  init: str
  origin: 'Stage | None'
  lr_scale: tuple[tuple[str, float], ...]
  weights: tuple[tuple[str, Callable, tuple[str, ...]], ...]
  tokenizer: Callable | None
  stored: frozenset[str]
  cache_dir: str
  seed: int
  threads: int
  workers: int

  def score_metric(self) -> Any:
    """Looks up the bound metric that `score` names."""
    protocol, key = self.score.split('/')
    return next(m for m in self.protocols[protocol] if m.key == key)


def word_pieces(tokenizer: Callable | None) -> list[features.Finish]:
  """Makes the step that adds word pieces to an example, or none."""
  if tokenizer is None:
    return []
  return [functools.partial(features.tokenize, tokenizer=tokenizer)]


def finishers(
  stage: Stage,
  variables: step.Variables,
  source: Sequence[Example],
  pp_text: str,
  *,
  contrast: bool = False,
) -> list[Callable[[Example], Example]]:
  """Makes the steps from a preprocessed example to the network's inputs.

  The one place that decides between pixels and stored backbone features, and
  between word pieces and stored sentences.

  Args:
    stage: the stage.
    variables: variables of its network.
    source: rows to come.
    pp_text: their pp string.
    contrast: whether images and word pieces are needed beside stored features,
      and a number that tells images apart.
  """
  steps = [batches.number_image] if contrast else []
  if 'text' in stage.stored:
    texts = {meta['text'] for meta in batches.metas(source)}
    steps.append(
      features.store_text(
        *(stage.model, variables, texts, stage.tokenizer),
        folder=stage.cache_dir,
      )
    )
  if contrast or 'text' not in stage.stored:
    steps += word_pieces(stage.tokenizer)
  if 'backbone' in stage.stored:
    steps.append(
      features.store_taps(
        *(stage.model, variables, source, pp_text),
        folder=stage.cache_dir,
        batch_size=stage.batch_size,
        keep_image=contrast,
      )
    )
  return steps


def without_contrast(stage: Stage) -> Stage:
  """Leaves a stage the part of its network that predicts.

  Its checkpoints can be read, not gone on from: nothing in it trains.
  """
  if stage.contrast_fn is None:
    return stage
  # Patterns may be of the other part alone.
  return dataclasses.replace(
    stage,
    model=stage.model.clone(contrast=None),
    contrast_fn=None,
    make_tx=optax.identity,
    freeze=(),
    lr_scale=(),
    weights=(),
  )


def example_batch(stage: Stage) -> dict[str, Any]:
  """Makes a batch of one made-up image: the shapes of all in a batch.

  Needs no data, so that a trained network can be read without its data.
  """
  return _example_batch(
    stage.pp,
    stage.tokenizer,
    losses.targets(stage.loss),
    contrast=stage.contrast_fn is not None,
  )


def _example_batch(pp_text, tokenizer, targets, *, contrast):
  example = {
    'image': np.zeros((64, 64, 3), np.uint8),
    'saliency': np.zeros((64, 64, 1), np.uint8),
    'fixations': np.zeros((0, 2), np.int64),
    'text': '',
    'condition': '',
    'image_id': '',
  }
  finish = word_pieces(tokenizer)
  finish += [batches.number_image] if contrast else []
  if 'center' in targets:
    finish.append(center.Center(np.zeros(center.GRID)))
  prepare = batches.Prepare([example], pp.make(pp_text), finish)
  row = prepare(0, np.random.default_rng(0))
  return {k: np.asarray(v)[None] for k, v in row.items()}


def abstract_state(stage: Stage) -> step.TrainState:
  """Traces the shapes and types of a stage's state; computes nothing."""
  return step.abstract_state(stage.model, stage.make_tx(), example_batch(stage))


def frozen_parts(
  model: nn.Module,
  freeze: Sequence[str],
  pp_text: str,
  tokenizer: Callable | None,
  *,
  contrast: bool = False,
) -> frozenset[str]:
  """Finds which of 'backbone' and 'text' keep every bit.

  A backbone whose batch statistics still move does not.

  Args:
    model: network of the stage.
    freeze: path patterns of frozen parameters.
    pp_text: pp string of its training rows.
    tokenizer: tokenizer of its sentences; None for no text.
    contrast: whether the network has a part that compares.

  Raises:
    ValueError: a freeze pattern matches nothing.
  """
  if not freeze:
    return frozenset()
  batch = _example_batch(pp_text, tokenizer, (), contrast=contrast)
  params = step.abstract_state(model, optax.identity(), batch).params
  trains = set(optim.path_names(params)) - optim.frozen_names(params, freeze)
  parts = {'backbone', 'text'} & set(params) - {n.split('/')[0] for n in trains}
  # A backbone without batch normalisation has no such mode.
  still = getattr(model.backbone, 'bn', 'frozen') == 'frozen'
  return frozenset(parts if still else parts - {'backbone'})


def initial_state(
  stage: Stage, mesh: Mesh, start: step.Variables | None = None
) -> step.TrainState:
  """Makes the state at step 0: drawn, published weights, then `start`.

  Args:
    stage: the stage.
    mesh: the mesh.
    start: variables of an earlier stage; every one of its tensors is taken.
      What this stage has in addition, such as a text encoder, starts from
      published weights or from its drawn value.
  """
  variables = abstract_state(stage).variables
  loaded = [(scope, load(), skip) for scope, load, skip in stage.weights]
  if start is not None:
    # A later stage may have more than an earlier one, never less.
    loaded.append(('', start, only_in(variables, start)))
  for scope, tree, skip in loaded:
    variables = pretrained.merge(variables, tree, at=scope, skip=skip)
  return step.create_state(
    *(stage.model, stage.make_tx(), example_batch(stage)),
    jax.random.key(stage.seed),
    mesh,
    start=variables,
  )


def only_in(variables: step.Variables, tree: step.Variables) -> list[str]:
  """Lists patterns of the names in `variables` that `tree` lacks."""
  missing = set(optim.path_names(variables)) - set(optim.path_names(tree))
  return [re.escape(name) for name in missing]


def train_step(stage: Stage, mesh: Mesh) -> Callable:
  """Makes the jitted step of a stage, (state, batch, key) -> ...

  Args:
    stage: the stage.
    mesh: mesh that the state of `initial_state` is on.
  """
  return step.make_train_step(
    *(stage.model, stage.loss_fn, stage.make_tx(), mesh),
    contrast_fn=stage.contrast_fn,
    round_taps='backbone' in stage.stored,
    accumulate=stage.accumulate,
    remat=stage.remat,
  )


def train_batches(stage: Stage, variables: step.Variables, *, start: int = 0):
  """Makes the endless batches of a stage, with stored features.

  Args:
    stage: the stage.
    variables: variables of its network.
    start: number of steps that were taken already.
  """
  contrast, text = stage.contrast_fn is not None, stage.pp
  source = stage.train_source
  finish = finishers(stage, variables, source, text, contrast=contrast)
  if 'center' in losses.targets(stage.loss):
    mean = center.mean_map(source, threads=stage.threads)
    finish.append(center.Center(mean))
  images = contrast or 'backbone' not in stage.stored
  if not images:
    text = features.without(text, 'normalize')
  before, after = pp.make(text).split()
  # The iterators of an earlier stage hold its rows in circles.
  gc.collect()
  room = kept.room(stage.workers)
  return batches.train_batches(
    kept.Kept(source, before, room, images=images),
    after,
    batch_size=stage.batch_size,
    seed=stage.seed,
    start=start,
    shard=parallel.shard(),
    finish=finish,
    threads=stage.threads,
    workers=stage.workers,
    rows_per_image=stage.rows_per_image,
  )


def model_keys(batch: Mapping[str, Any]) -> dict[str, Any]:
  """Selects the part of a batch that a model looks at."""
  keys = ('image', 'taps', 'tokens', 'token_mask', 'text_tokens', 'sentence')
  return {k: batch[k] for k in keys if k in batch}
