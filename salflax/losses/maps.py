"""Arithmetic that the losses on saliency maps share.

Every function works on [B, H, W] with `valid` (bool [B, H, W], False in the
padding of a letterbox) and reduces over an image with the axes kept, so that
results broadcast without changing rank. Denominators are replaced *before* a
division or a root: a `where` around the result alone would still let NaN into
the gradient.
"""

import functools
import inspect
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

IMAGE_AXES = (1, 2)
# A sum or a range at or below this is that of an empty or flat map. It is
# compared, never added, so float32 cannot round it away.
TINY = 1e-12


def prepare(
  pred: Array, target: Array, where: Array | None
) -> tuple[Array, Array, Array]:
  """Checks the maps of a loss and lifts them to at least float32.

  Args:
    pred: floating [B, H, W].
    target: real or bool [B, H, W].
    where: None, or [B, H, W], nonzero for the pixels that count.

  Returns:
    `pred` and `target` in float32 (float64 where either comes so), 0 where
    they do not count, and `valid`, bool [B, H, W].

  Raises:
    ValueError: for another rank, another shape or another kind of number.
  """
  pred, target = jnp.asarray(pred), jnp.asarray(target)
  valid = None if where is None else jnp.asarray(where)
  types = f'pred {pred.dtype}{list(pred.shape)}, '
  types += f'target {target.dtype}{list(target.shape)}'
  if valid is not None:
    types += f', where {valid.dtype}{list(valid.shape)}'
  if pred.ndim != 3:
    raise ValueError(f'A loss takes maps [B, H, W]; found {types}.')
  if target.shape != pred.shape:
    raise ValueError(f'pred and target differ in shape: {types}.')
  if valid is not None and valid.shape != pred.shape:
    raise ValueError(f'where must have the shape of pred: {types}.')
  if not jnp.issubdtype(pred.dtype, jnp.floating):
    raise ValueError(f'pred must be floating: {types}.')
  if jnp.issubdtype(target.dtype, jnp.complexfloating):
    raise ValueError(f'target must be real: {types}.')
  if valid is None:
    valid = jnp.ones(pred.shape, bool)
  dtype = jnp.promote_types(pred.dtype, jnp.float32)
  if jnp.issubdtype(target.dtype, jnp.floating):
    dtype = jnp.promote_types(dtype, target.dtype)
  valid = valid.astype(bool)
  # Zeros now, so that not even NaN in the padding reaches value or gradient.
  pred = jnp.where(valid, pred.astype(dtype), 0)
  return pred, jnp.where(valid, target.astype(dtype), 0), valid


def per_image(fn: Callable) -> Callable:
  """Makes a loss of `fn(pred, target, valid, *, **options)`.

  Args:
    fn: takes maps as `prepare` leaves them, and returns [B, 1, 1] or [B].

  Returns:
    `loss(pred, target, *, where=None, **options) -> [B]`.
  """

  @functools.wraps(fn)
  def loss(pred, target, *, where=None, **options):
    return fn(*prepare(pred, target, where), **options).reshape(-1)

  pred, target, valid, *options = inspect.signature(fn).parameters.values()
  where = valid.replace(name='where', kind=valid.KEYWORD_ONLY, default=None)
  loss.__signature__ = inspect.Signature([pred, target, where, *options])
  return loss


def total(x: Array, valid: Array) -> Array:
  """Sums over the valid pixels of each image, [B, 1, 1]."""
  # Row sums first: 100,000 float32 added one by one lose four digits.
  rows = jnp.where(valid, x, 0).sum(2, keepdims=True)
  return rows.sum(1, keepdims=True)


def count(valid: Array, dtype) -> Array:
  """Counts the valid pixels of each image, [B, 1, 1], at least 1."""
  return jnp.maximum(valid.sum(IMAGE_AXES, keepdims=True), 1).astype(dtype)


def mean(x: Array, valid: Array) -> Array:
  """Averages over the valid pixels of each image, [B, 1, 1]."""
  return total(x, valid) / count(valid, x.dtype)


def bounds(x: Array, valid: Array) -> tuple[Array, Array]:
  """Finds the least and greatest valid value of each image, [B, 1, 1] each.

  Both are 0 where an image has no valid pixel.
  """
  some = valid.any(IMAGE_AXES, keepdims=True)
  low = jnp.where(valid, x, jnp.inf).min(IMAGE_AXES, keepdims=True)
  high = jnp.where(valid, x, -jnp.inf).max(IMAGE_AXES, keepdims=True)
  return jnp.where(some, low, 0), jnp.where(some, high, 0)


def density(x: Array, valid: Array, *, minmax: bool = False) -> Array:
  """Scales maps to sum 1 over the valid pixels, 0 elsewhere, [B, H, W].

  An all-zero map becomes uniform, and under `minmax` any flat map does, as in
  the metrics: the gradient then is that of an offset to the uniform density,
  not of a division by next to nothing.

  Args:
    x: maps >= 0, [B, H, W].
    valid: bool [B, H, W].
    minmax: subtract each map's minimum first.
  """
  if minmax:
    x = x - bounds(x, valid)[0]
  mass = total(x, valid)
  empty = mass <= TINY
  x = (x + empty) / jnp.where(empty, count(valid, x.dtype), mass)
  return jnp.where(valid, x, 0)


def truth_density(x: Array, valid: Array, *, minmax: bool = False) -> Array:
  """Scales maps as `density` does, but all-zero ones, without gaze, stay."""
  return density(x, valid, minmax=minmax) * has_truth(x, valid)


def shrunk(x: Array, shape: tuple[int, ...]) -> Array:
  """Averages blocks of maps [B, H, W], so that they have `shape`.

  Maps that have it already, or no whole number of blocks, stay as they are.
  """
  if len(shape) != 3 or x.ndim != 3 or x.shape == shape:
    return x
  (_, height, width), (rows, columns) = x.shape, shape[1:]
  if not rows or not columns or height % rows or width % columns:
    return x
  x = x.reshape(len(x), rows, height // rows, columns, width // columns)
  return x.mean((2, 4))


def has_truth(target: Array, valid: Array) -> Array:
  """Marks the images with any ground truth inside `valid`, [B, 1, 1]."""
  return (valid & (target > 0)).any(IMAGE_AXES, keepdims=True)


def max_to_one(x: Array, valid: Array) -> Array:
  """Divides maps by their greatest valid value; 0 elsewhere, [B, H, W].

  An all-zero map stays zero.
  """
  _, high = bounds(x, valid)
  return jnp.where(valid, x, 0) / jnp.where(high > TINY, high, 1)


def centre(x: Array, valid: Array) -> Array:
  """Scales maps to a range of 1 and mean 0; 0 elsewhere, [B, H, W].

  For measures that no affine change of `x` alters: the offset and the scale
  are therefore constants to the gradient. The range comes first so that a flat
  map is 0 exactly, whatever the rounding of its mean.
  """
  low, high = jax.lax.stop_gradient(bounds(x, valid))
  span = high - low
  x = (x - low) / jnp.where(span > TINY, span, 1)
  return jnp.where(valid, x - mean(x, valid), 0)


def root(x: Array) -> Array:
  """Takes the root for use as a denominator: 1 where `x` is not positive."""
  positive = x > 0
  return jnp.sqrt(jnp.where(positive, x, 1))


def bounded_log(x: Array, eps: float) -> Array:
  """Takes the natural logarithm, which goes on as its tangent below `eps`.

  So it is finite everywhere, exact from `eps` on, and still rises at 0, where a
  clipped one would have no gradient.
  """
  # Not (x - eps) / eps: compiled, (1 - p) - eps is (1 - eps) - p, which in
  # float32 is off by a fifth of eps.
  low = x < eps
  tangent = x / eps + (math.log(eps) - 1)
  return jnp.where(low, tangent, jnp.log(jnp.where(low, 1, x)))


def reduced(x: Array, valid: Array, *, sum: bool) -> Array:
  """Sums or averages over the valid pixels of each image, [B, 1, 1]."""
  return (total if sum else mean)(x, valid)


def detached(fn: Callable) -> Callable:
  """Makes a function with the value of `fn` but no gradient."""

  @functools.wraps(fn)
  def value_only(*args, **kwargs):
    return jax.lax.stop_gradient(fn(*args, **kwargs))

  return value_only
