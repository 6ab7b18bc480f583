"""Schedules, the optimiser, and freezing by path pattern."""

import functools
import inspect
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from salflax.core import spec


def constant(lr: float, steps: int, epoch: int) -> optax.Schedule:
  """Keeps the learning rate as it is."""
  del steps, epoch
  return optax.constant_schedule(lr)


def staircase(
  lr: float, steps: int, epoch: int, every: int = 3, factor: float = 0.1
) -> optax.Schedule:
  """Multiplies by `factor` after every `every` epochs.

  TranSalNet has it so, and paper 1 with every=5.
  """
  del steps
  return optax.exponential_decay(lr, every * epoch, factor, staircase=True)


def cosine(
  lr: float, steps: int, epoch: int, warmup: float = 0.0, end: float = 0.0
) -> optax.Schedule:
  """Falls along half a cosine to `end * lr`, after a linear rise.

  Args:
    lr: the highest learning rate.
    steps: steps of the whole stage.
    epoch: steps of one epoch; not used.
    warmup: share of the steps in which the rate rises from 0.
    end: share of the rate left at the end.
  """
  del epoch
  rise = int(round(warmup * steps))
  if not rise:
    return optax.cosine_decay_schedule(lr, max(1, steps), alpha=end)
  return optax.warmup_cosine_decay_schedule(
    0.0, lr, rise, max(steps, rise + 1), end_value=end * lr
  )


SCHEDULES = {'constant': constant, 'staircase': staircase, 'cosine': cosine}


def adam(schedule: optax.Schedule, b2: float = 0.999):
  """Adam (Kingma and Ba, 2015), as both papers' code has it."""
  return optax.adam(schedule, b2=b2)


def adamw(schedule: optax.Schedule, decay: float = 1e-2, b2: float = 0.999):
  """Adam with decoupled weight decay, on kernels only."""
  return optax.adamw(schedule, b2=b2, weight_decay=decay, mask=_kernels)


def sgd(
  schedule: optax.Schedule, *, momentum: float = 0.0, nesterov: bool = False
):
  """Stochastic gradient descent."""
  return optax.sgd(schedule, momentum=momentum or None, nesterov=nesterov)


def rmsprop(schedule: optax.Schedule, *, decay: float = 0.9):
  """Gradients by the root of their mean square; epsilon as in Keras."""
  return optax.rmsprop(schedule, decay=decay, eps=1e-8)


OPTIMIZERS = {'adam': adam, 'adamw': adamw, 'sgd': sgd, 'rmsprop': rmsprop}


# Intervals of the numbers that are options of the entries above.
RANGES: dict[str, dict[str, str]] = {
  'constant': {},
  'staircase': {'every': '(0, inf)', 'factor': '(0, 1]'},
  'cosine': {'warmup': '[0, 1)', 'end': '[0, 1]'},
  'adam': {'b2': '[0, 1)'},
  'adamw': {'decay': '[0, inf)', 'b2': '[0, 1)'},
  'sgd': {'momentum': '[0, 1)'},
  'rmsprop': {'decay': '[0, 1)'},
}


def _check_range(name: str, value: Any, wanted: str) -> None:
  """Raises ValueError for what is not a number inside an interval."""
  low, high = map(float, wanted[1:-1].split(','))
  # By type: True is an int, too.
  good = type(value) in (int, float) and math.isfinite(value)
  good = good and (low <= value if wanted[0] == '[' else low < value)
  if not (good and (value <= high if wanted[-1] == ']' else value < high)):
    raise ValueError(f'{name}={value!r} is not a number in {wanted}.')


def _bind(table: dict[str, Callable], text: str, *, takes: int, kind: str):
  """Binds a spec, its options within their ranges."""
  bound, call = spec.bind(table, text, takes=takes, kind=kind), spec.parse(text)
  options = inspect.signature(table[call.name]).bind(
    *[None] * takes, *call.args, **call.kwargs
  )
  for key, value in list(options.arguments.items())[takes:]:
    if wanted := RANGES.get(call.name, {}).get(key):
      _check_range(f'{call.name}: {key}', value, wanted)
  return bound


def _kernels(params: Any) -> Any:
  """Marks kernels: neither biases, scales, tables nor Gaussian priors."""
  return by_name(lambda n: n.rsplit('/', 1)[-1] == 'kernel', params)


def by_name(fn: Callable[[str], Any], tree: Any) -> Any:
  """Computes `fn('backbone/conv1/kernel')` and so on, in a tree as `tree`."""
  name = functools.partial(jax.tree_util.keystr, simple=True, separator='/')
  return jax.tree.map_with_path(lambda path, _: fn(name(path)), tree)


def path_names(tree: Any) -> list[str]:
  """Lists names such as 'backbone/conv1/kernel', in the order of the leaves."""
  return jax.tree.leaves(by_name(str, tree))


def matches(params: Any, pattern: str) -> set[str]:
  """Lists the parameters whose whole names a pattern matches.

  Raises:
    ValueError: the pattern is not a regular expression, or matches nothing.
  """
  names = path_names(params)
  try:
    hits = {n for n in names if re.fullmatch(pattern, n)}
  except re.error as e:
    raise ValueError(f'Pattern {pattern!r}: {e}.') from e
  if not hits:
    scopes = {n.rsplit('/', k)[0] for n in names for k in (1, 2)}
    scopes = sorted(
      f'{s}/.*'
      for s in scopes | {n.split('/')[0] for n in names}
      if s.count('/') < 2
    )
    raise spec.unknown(
      'parameter pattern (it matches nothing)', pattern, scopes
    )
  return hits


def frozen_names(params: Any, patterns: Sequence[str]) -> set[str]:
  """Lists the parameters that the patterns freeze.

  Raises:
    ValueError: a pattern is not a regular expression, or matches nothing, or
      all of them together leave nothing to train.
  """
  frozen = set().union(*(matches(params, p) for p in patterns))
  if len(frozen) == len(path_names(params)):
    raise ValueError(
      f'Freeze patterns {tuple(patterns)} leave nothing to train.'
    )
  return frozen


def labels(params: Any, patterns: Sequence[str]) -> Any:
  """Labels each parameter 'train' or 'freeze', in a tree as theirs."""
  frozen = frozen_names(params, patterns)
  return by_name(lambda n: 'freeze' if n in frozen else 'train', params)


def count(params: Any, patterns: Sequence[str] = ()) -> tuple[int, int]:
  """Counts (parameters that train, all parameters)."""
  frozen = frozen_names(params, patterns) if patterns else set()
  sizes = [int(np.prod(x.shape)) for x in jax.tree.leaves(params)]
  names = path_names(params)
  train = sum(s for n, s in zip(names, sizes) if n not in frozen)
  return train, sum(sizes)


def bind_schedule(text: str) -> Callable[[float, int, int], optax.Schedule]:
  """Binds a schedule maker (lr, steps, steps per epoch) -> schedule."""
  return _bind(SCHEDULES, text, takes=3, kind='schedule')


def bind_optimizer(
  text: str,
) -> Callable[[optax.Schedule], optax.GradientTransformation]:
  """Binds an optimiser maker, schedule -> transformation."""
  return _bind(OPTIMIZERS, text, takes=1, kind='optimizer')


def make(
  optimizer: str,
  *,
  schedule: optax.Schedule,
  clip: float = 0.0,
  freeze: Sequence[str] = (),
  lr_scale: Sequence[tuple[str, float]] = (),
) -> optax.GradientTransformation:
  """Builds the transformation of a stage's gradients.

  Args:
    optimizer: e.g. 'adam' or 'adamw(decay=0.05)'.
    schedule: step -> learning rate.
    clip: largest norm of the gradient of what trains; 0 = no limit.
    freeze: path patterns of parameters that keep their bits.
    lr_scale: (path pattern, factor) pairs: first match scales the updates.

  Raises:
    ValueError: an option or a factor is out of its range.
  """
  for pattern, factor in lr_scale:
    _check_range(f'lr_scale of {pattern!r}: factor', factor, '[0, inf)')
  inner = bind_optimizer(optimizer)(schedule)
  if clip:
    inner = optax.chain(optax.clip_by_global_norm(clip), inner)
  if lr_scale:
    inner = optax.chain(inner, _scale_by_path(lr_scale))
  if not freeze:
    return inner
  # optax.masked alone would hand the gradients of the rest through.
  return optax.multi_transform(
    {'train': inner, 'freeze': optax.set_to_zero()},
    lambda params: labels(params, freeze),
  )


def _scale_by_path(pairs: Sequence[tuple[str, float]]):
  def factor(name):
    return next((f for p, f in pairs if re.fullmatch(p, name)), 1.0)

  def update(updates, state, params=None):
    del params
    scales = by_name(factor, updates)
    return jax.tree.map(lambda u, s: u * s, updates, scales), state

  def init(params):
    for pattern, _ in pairs:
      matches(params, pattern)
    return optax.EmptyState()

  return optax.GradientTransformation(init, update)
