"""What the numbers and names of a config may be, beyond their types."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

# Key: least and greatest value. `schema` has refused what is negative.
RUN = {
  'seed': (0, 2**32 - 1),
  'threads': (1, 4096),
  'workers': (0, 4096),
  'log_every': (1, 10**9),
  'param_shards': (1, 10**6),
}
STAGE = {
  'limit': (0, 10**9),
  'eval_limit': (0, 10**9),
  'test_limit': (0, 10**9),
  'lr': (0, 1e3),
  'clip': (0, 1e9),
  'batch_size': (1, 10**6),
  'rows_per_image': (1, 1000),
  'accumulate': (1, 10**6),
  'epochs': (0, 1e5),
  'steps': (0, 10**9),
  'eval_epochs': (0, 1e5),
  'patience': (0, 10**9),
}
FACTOR = (0, 1e4)
# Folders and files of a run that are no stage's.
RESERVED = ('cache', 'evaluate', 'report')
# Keys of a model record that 0 would leave without a layer or a channel.
_POSITIVE = (
  *('size', 'width', 'widths', 'head_dim', 'mlp_ratio', 'out_stride'),
  *('decoder_widths', 'length', 'depth', 'priors', 'dim', 'hidden'),
)


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError that lists every value out of its range.

  Args:
    config: plain dicts and tuples that `schema.check` has passed.
  """
  if faults := [*_faults(config)]:
    raise ValueError('\n'.join(faults))


def check_rows(node: Mapping[str, Any], rows: int) -> None:
  """Raises ValueError where a stage has fewer training rows than a batch."""
  if node['batch_size'] > rows:
    raise ValueError(
      f'batch_size is {node["batch_size"]}, but {node["data"]} has only {rows} '
      f'rows in split {node["split"]!r}.'
    )


def _faults(config) -> Iterator[str]:
  yield from _stage_names(config['stages'])
  yield from _numbers('config', config, RUN)
  yield from _model('config.model', config['model'])
  for name in dict.fromkeys(config['stages']):
    node, where = config[name], f'config.{name}'
    yield from _numbers(where, node, STAGE)
    yield from _model(f'{where}.model', node['model'])
    for pattern, factor in node['lr_scale']:
      yield from _number(f'{where}.lr_scale of {pattern!r}', factor, FACTOR)


def _stage_names(names) -> Iterator[str]:
  for name in names:
    if not re.fullmatch(r'\w[\w.-]*', name):
      yield (
        f'config.stages: {name!r} names a folder of the run: letters, digits, '
        '_ and - alone.'
      )
    elif name.lower() in RESERVED:
      yield (
        f'config.stages: {name!r} is a folder that every run has; reserved '
        f'are {", ".join(RESERVED)}.'
      )
  folded = [name.lower() for name in names]
  if twice := sorted({n for n in names if folded.count(n.lower()) > 1}):
    yield f'config.stages names a stage twice: {", ".join(twice)}.'


def _numbers(where, node, ranges) -> Iterator[str]:
  for key, (low, high) in ranges.items():
    yield from _number(f'{where}.{key}', node[key], (low, high))


def _number(where, value, allowed) -> Iterator[str]:
  low, high = allowed
  if isinstance(value, bool) or not isinstance(value, int | float):
    yield f'{where} must be a number, found {value!r}.'
  elif not low <= value <= high:
    yield f'{where} must be from {low:g} to {high:g}, found {value!r}.'


def _model(where, node) -> Iterator[str]:
  """Yields the numbers of a model record that no network can have."""
  for key, value in node.items():
    if isinstance(value, Mapping):
      yield from _model(f'{where}.{key}', value)
      continue
    for number in value if isinstance(value, tuple) else (value,):
      if not isinstance(number, int | float) or isinstance(number, bool):
        continue
      if number < 0 or not math.isfinite(number):
        yield f'{where}.{key} must be at least 0, found {value!r}.'
      elif not number and key in _POSITIVE:
        yield f'{where}.{key} must be at least 1, found {value!r}.'
