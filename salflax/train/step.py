"""The pure functions of a run: state, one train step, one prediction."""

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from salflax import losses
from salflax.core import parallel
from salflax.core.types import Batch
from salflax.models.layers import TextFeatures
from salflax.train import gradient

Variables = dict[str, Any]


@flax.struct.dataclass
class TrainState:
  """All that changes while training; arrays only.

  Attributes:
    step: i32 [], steps taken.
    params: parameters, frozen ones among them.
    batch_stats: running statistics of the BatchNorm layers.
    opt_state: state of the optimiser, for parameters that train.
  """

  step: jax.Array
  params: Any
  batch_stats: Any
  opt_state: Any

  @property
  def variables(self) -> Variables:
    """Collects what `model.apply` takes."""
    return {'params': self.params, 'batch_stats': self.batch_stats}


def model_inputs(batch: Batch) -> tuple[Any, Any, Any]:
  """Picks (image, tokens, token_mask) as `TranSalNet.__call__` takes them.

  Stored features stand in for their input: `taps` for the image,
  `text_tokens` and `sentence` for the word pieces.
  """
  image = batch['taps'] if 'taps' in batch else batch['image']
  mask = batch.get('token_mask')
  if 'text_tokens' in batch:
    return (
      image,
      TextFeatures(batch['text_tokens'], mask, batch['sentence']),
      mask,
    )
  return image, batch.get('tokens'), mask


def forward(
  model: nn.Module,
  variables: Variables,
  batch: Batch,
  *,
  train: bool,
  round_taps: bool = False,
  **options,
) -> Any:
  """Applies the model to a batch.

  Args:
    model: network, of the table MODELS.
    variables: 'params' and 'batch_stats'.
    batch: with the inputs of `model_inputs`.
    train: whether dropout and batch statistics are on.
    round_taps: rounds the backbone's features to float16, as the stored
      features of a frozen backbone are: so an image gives the same map
      whether or not its features were stored.
    **options: of `model.apply`.
  """
  image, tokens, mask = model_inputs(batch)
  if tokens is None or not getattr(model, 'shares_images', False):
    image = _one_each(image, batch)
  if round_taps and not isinstance(image, dict):
    image = encode_image(model, variables, image)
  return model.apply(variables, image, tokens, mask, train=train, **options)


def _one_each(image: Any, batch: Batch) -> Any:
  """Repeats the images of a batch by image, one for each of its rows."""
  images, rows = len(jax.tree.leaves(image)[0]), len(batch.get('index', ()))
  if rows <= images:
    return image
  return jax.tree.map(lambda x: jnp.repeat(x, rows // images, axis=0), image)


def encode_image(model: nn.Module, variables: Variables, image: Any) -> Any:
  """Computes the backbone's features as they are stored: float16."""
  taps = model.apply(variables, image, train=False, method='encode_image')
  return jax.tree.map(lambda x: x.astype(jnp.float16), taps)


def compare(
  model: nn.Module, variables: Variables, pred: Any, batch: Batch, **options
) -> Any:
  """Computes the output of the model's `contrast` for a batch.

  Args:
    model: with a method `compare`.
    variables: 'params' and 'batch_stats'.
    pred: saliency f32 [B, H, W].
    batch: with `image` and `tokens`, whatever was computed ahead.
    **options: of `model.apply`.
  """
  _, tokens, mask = model_inputs(batch)
  where = losses.box_pixels(batch['box'], pred.shape)
  return model.apply(
    *(variables, batch['image'], pred, tokens, mask),
    ids=batch['tokens'],
    where=where,
    method='compare',
    **options,
  )


def _init(model, key, image, tokens, mask):
  """Draws variables, those of a contrast among them.

  Each is drawn by its path: what else there is does not matter.
  """
  variables = model.init(key, image, tokens, mask, train=False)
  if getattr(model, 'contrast', None) is None:
    return variables
  more = model.init(
    *(key, image, jnp.zeros(image.shape[:3]), tokens, mask),
    ids=tokens,
    train=False,
    method='compare',
  )
  return {
    k: {**more.get(k, {}), **v} for k, v in ({**more} | variables).items()
  }


def _init_fn(model, tx, batch):
  image, tokens, mask = model_inputs(batch)

  def init(key):
    variables = _init(model, key, image, tokens, mask)
    opt_state = tx.init(variables['params'])
    return _state(jnp.zeros((), jnp.int32), variables, opt_state)

  return init


def _state(at, variables, opt_state) -> TrainState:
  batch_stats = variables.get('batch_stats', {})
  return TrainState(at, variables['params'], batch_stats, opt_state)


def create_state(
  model: nn.Module,
  tx: optax.GradientTransformation,
  batch: Batch,
  key: jax.Array,
  mesh: Mesh,
  *,
  start: Variables | None = None,
) -> TrainState:
  """Makes the state at step 0, on the devices where it will live.

  Args:
    model: network, of the table MODELS.
    tx: the optimiser.
    batch: any batch with images of the shape to come.
    key: key of the initial parameters.
    mesh: the mesh.
    start: variables that are not drawn, e.g. published weights: arrays, with
      shapes and types where there are none. The rest is drawn as ever.
  """
  init = _init_fn(model, tx, batch)
  if start is None:
    start = abstract_state(model, tx, batch).variables

  def draw(key):
    # What is not asked for costs nothing: compiling the drawing of a large
    # network takes longer than reading its weights.
    state = init(key)
    drawn = jax.tree.map(
      lambda g, x: x if isinstance(g, jax.ShapeDtypeStruct) else None,
      *(start, state.variables),
    )
    return drawn, state.step, state.opt_state

  # This runs once: optimising the program costs more than it saves.
  options = {'xla_backend_optimization_level': 0}
  make = jax.jit(
    draw,
    out_shardings=parallel.layout(jax.eval_shape(draw, key), mesh),
    compiler_options=options if jax.default_backend() == 'cpu' else None,
  )
  drawn, at, opt_state = make(key)
  variables = jax.tree.map(
    lambda g, x, where: parallel.place(g, where) if x is None else x,
    *(start, drawn, parallel.layout(start, mesh)),
  )
  return _state(at, variables, opt_state)


def abstract_state(
  model: nn.Module, tx: optax.GradientTransformation, batch: Batch
) -> TrainState:
  """Infers the shapes and types of a state; computes nothing."""
  inputs = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype),
    model_inputs(batch),
  )
  leaves, tree = jax.tree.flatten(inputs)
  variables = _abstract_variables(model, tree, tuple(leaves))
  opt_state = jax.eval_shape(tx.init, variables['params'])
  return _state(jax.ShapeDtypeStruct((), jnp.int32), variables, opt_state)


@functools.cache  # Asked for often, and tracing a large network takes seconds.
def _abstract_variables(model, tree, leaves):
  inputs = jax.tree.unflatten(tree, leaves)
  init = functools.partial(_init, model)
  return jax.eval_shape(init, jax.random.key(0), *inputs)


def make_train_step(
  model: nn.Module,
  loss_fn: Callable,
  tx: optax.GradientTransformation,
  mesh: Mesh,
  *,
  contrast_fn: Callable | None = None,
  round_taps: bool = False,
  accumulate: int = 1,
  remat: str = 'none',
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict]]:
  """Makes the jitted step (state, batch, key) -> (state, measures).

  The step number is folded into the run's key, so that no random state needs
  storing and a resumed run draws what an uninterrupted one would have.

  Args:
    model: network, of the table MODELS.
    loss_fn: (pred, batch) -> (scalar, terms).
    tx: the optimiser; what it freezes gets no gradient computed.
    mesh: the mesh; one with an axis 'shard' wants a state as `create_state`
      makes it there, and each step gathers the parameters first.
    contrast_fn: (what `compare` finds, batch) -> (scalar, terms, measures),
      added to the loss; None for none.
    round_taps: see `forward`.
    accumulate: parts of the batch, computed one after the other; their mean
      gradient makes the step.
    remat: what the backward pass computes anew, of `gradient.REMAT`.

  Returns:
    A function that donates the state; `key` is u32 key data. Measures are
    scalars: 'loss', 'loss/<term>', 'update_norm', 'contrast/<measure>'.
  """
  whole, rows = parallel.replicated(mesh), parallel.split(mesh)
  bound = functools.partial(
    forward, model, train=True, round_taps=round_taps, mutable=['batch_stats']
  )
  contrasted = functools.partial(compare, model, train=True)
  compute = gradient.loss_of(bound, contrasted, loss_fn, contrast_fn, remat)
  grad_fn = jax.value_and_grad(compute, has_aux=True)
  sharded = 'shard' in mesh.shape

  def step_fn(state, batch, key):
    key = jax.random.fold_in(jax.random.wrap_key_data(key), state.step)
    params = state.params
    if sharded:
      params = jax.lax.with_sharding_constraint(params, whole)
    loss, measures, batch_stats, grads = gradient.accumulated(
      grad_fn, params, state.batch_stats, batch, key, parts=accumulate
    )
    grads = parallel.keep_layout(grads, mesh)
    state, norm = _updated(state, tx, grads, batch_stats)
    measures |= {'loss': loss, 'update_norm': norm}
    return parallel.keep_layout(state, mesh), measures

  place = None if sharded else whole
  shardings = dict(
    in_shardings=(place, rows, whole), out_shardings=(place, whole)
  )
  return jax.jit(step_fn, donate_argnums=0, **shardings)


def _updated(state, tx, grads, batch_stats):
  """Takes a step along gradients; the next state and the step's length."""
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  state = TrainState(state.step + 1, params, batch_stats, opt_state)
  # Of the updates, not of the gradients: frozen ones are then never formed.
  return state, optax.tree.norm(updates)


def make_predict_fn(
  model: nn.Module, mesh: Mesh, *, round_taps: bool = False
) -> Callable[[Variables, Batch], jax.Array]:
  """Makes the jitted (variables, batch) -> saliency maps f32 [B, H, W]."""

  def predict(variables, batch):
    pred = forward(model, variables, batch, train=False, round_taps=round_taps)
    return pred.astype(jnp.float32)

  whole, rows = parallel.replicated(mesh), parallel.split(mesh)
  return jax.jit(predict, in_shardings=(whole, rows), out_shardings=rows)
