"""Gradients of a batch in parts, and what the backward pass computes anew."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.core.types import Batch


def _is_product(primitive, *_, **__) -> bool:
  return primitive.name in ('conv_general_dilated', 'dot_general')


# What the backward pass takes from the forward pass; the rest it computes anew.
REMAT = {
  'none': None,  # takes everything
  'products': _is_product,  # of convolutions and matrix products
  'blocks': jax.checkpoint_policies.save_only_these_names('block'),
}


def loss_of(
  forward: Callable,
  compare: Callable,
  loss_fn: Callable,
  contrast_fn: Callable | None,
  remat: str,
) -> Callable:
  """Makes (params, batch_stats, batch, key) -> (loss, (measures, stats)).

  Args:
    forward: (variables, batch, rngs) -> (pred, what has changed).
    compare: (variables, pred, batch, rngs) -> what `contrast_fn` takes.
    loss_fn: (pred, batch) -> (scalar, terms).
    contrast_fn: (output, batch) -> (scalar, terms, measures); None for none.
    remat: name in REMAT.
  """
  policy = spec.lookup('remat', REMAT, remat)

  def compute(params, batch_stats, batch, key):
    rngs = {'dropout': key}
    apply = lambda params: forward(
      {'params': params, 'batch_stats': batch_stats}, batch, rngs=rngs
    )
    if policy is not None:
      apply = jax.checkpoint(apply, policy=policy)
    pred, mutated = apply(params)
    loss, terms = loss_fn(pred, batch)
    measures = {f'loss/{k}': v for k, v in terms.items()}
    if contrast_fn is not None:
      variables = {'params': params, 'batch_stats': batch_stats}
      output = compare(variables, pred, batch, rngs=rngs)
      more, terms, seen = contrast_fn(output, batch)
      loss += more
      measures |= {f'loss/{k}': v for k, v in terms.items()}
      measures |= {f'contrast/{k}': v for k, v in seen.items()}
    return loss, (measures, mutated.get('batch_stats', batch_stats))

  return compute


def parts_of(batch: Batch, count: int) -> Batch:
  """Splits a batch [B, ...] into `count` parts, [count, B / count, ...].

  A part takes every count-th image with all its rows: on each device as many,
  and none moves to another device.
  """
  images = len(jax.tree.leaves(batch.get('taps', batch.get('image')))[0])

  def split(x):
    rest = x.shape[1:]
    x = x.reshape(images // count, count, len(x) // images, *rest)
    return jnp.moveaxis(x, 1, 0).reshape(count, -1, *rest)

  return jax.tree.map(split, batch)


def accumulated(
  grad_fn: Callable,
  params: Any,
  batch_stats: Any,
  batch: Batch,
  key: jax.Array,
  *,
  parts: int,
) -> tuple[jax.Array, dict[str, jax.Array], Any, Any]:
  """Averages (loss, measures, batch_stats, grads) over the parts.

  Args:
    grad_fn: (params, batch_stats, batch, key) -> ((loss, (measures,
      batch_stats)), grads).
    params: parameters.
    batch_stats: running statistics, handed from part to part.
    batch: the whole batch.
    key: key of the step; each part draws for itself.
    parts: number of parts.
  """

  if parts == 1:
    (loss, (measures, batch_stats)), grads = grad_fn(
      params, batch_stats, batch, key
    )
    return loss, measures, batch_stats, grads

  def add(carry, item):
    batch_stats, total = carry
    number, part = item
    (loss, (measures, batch_stats)), grads = grad_fn(
      params, batch_stats, part, jax.random.fold_in(key, number)
    )
    total = jax.tree.map(jnp.add, total, grads)
    return (batch_stats, total), (loss, measures)

  zeros = jax.tree.map(jnp.zeros_like, params)
  (batch_stats, total), measures = jax.lax.scan(
    add, (batch_stats, zeros), (jnp.arange(parts), parts_of(batch, parts))
  )
  loss, measures = jax.tree.map(lambda x: x.mean(0), measures)
  grads = jax.tree.map(lambda x: x / parts, total)
  return loss, measures, batch_stats, grads
