"""The keys of a config: that all are there, and no other, of the right kind.

`configs/common.py` says what they mean and has their defaults.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

from salflax.core import spec

RUN = {
  'stages': tuple,
  'model': dict,
  'seed': int,
  'dtype': str,
  'data_dir': str,
  'cache_dir': str,
  'threads': int,
  'workers': int,
  'log_every': int,
  'evaluate': dict,
}
EVALUATE = {
  'protocols': str,
  'controls': bool,
  'pictures': int,
  'keep_maps': bool,
  'store': bool,
}
STAGE = {
  'data': str,
  'split': str,
  'eval_split': str,
  'test_split': str,
  'conditions': tuple,
  'limit': int,
  'eval_limit': int,
  'test_limit': int,
  'exclude': str,
  'pp': str,
  'eval_pp': str,
  'loss': str,
  'contrast': dict,
  'perceptual': dict,
  'optimizer': str,
  'lr': float,
  'schedule': str,
  'clip': float,
  'lr_scale': tuple,
  'batch_size': int,
  'epochs': float,
  'steps': int,
  'eval_epochs': float,
  'score': str,
  'patience': int,
  'init': str,
  'freeze': tuple,
  'model': dict,
  'store': bool,
}
CONTRAST = {
  'kind': str,
  'matching': float,
  'caption': float,
  'margin': float,
  'hardest': bool,
  'mask': str,
  'stride': int,
  'dim': int,
  'hidden': int,
  'per_token': bool,
  'vision': dict,
}
# Keys of a stage that runs made earlier lack, and what they stand for there.
LATER = {
  'contrast': {},
  'perceptual': {'weights': '', 'normalize': 'imagenet'},
}
LATER_EVALUATE = {'keep_maps': False, 'store': False}
PERCEPTUAL = {'weights': str, 'normalize': str}
_POSITIVE = (
  *('lr', 'batch_size', 'eval_epochs', 'threads', 'log_every'),
  *('stride', 'dim', 'hidden'),
)
_STRINGS = ('stages', 'conditions', 'freeze')


def plain(node: Any) -> Any:
  """Returns a config as dicts and tuples, alike from a file or from JSON."""
  if isinstance(node, Mapping | ml_collections.ConfigDict):
    return {k: plain(v) for k, v in node.items()}
  return tuple(map(plain, node)) if isinstance(node, list | tuple) else node


def merged(base: Mapping, override: Mapping) -> dict:
  """Returns `base` with the values of `override`, records merged."""
  out = dict(base)
  for key, value in override.items():
    deeper = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
    out[key] = merged(out[key], value) if deeper else value
  return out


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError for a key that is unknown, missing or of another kind.

  Args:
    config: as plain dicts and tuples.
  """
  stages = config['stages'] if 'stages' in config else ()
  sections = {
    k: v
    for k, v in config.items()
    if k not in RUN and _is_section(v, named=k in stages)
  }
  rest = {k: v for k, v in config.items() if k not in sections}
  _check_keys('config', rest, RUN)
  _check_keys('config.evaluate', config['evaluate'], EVALUATE)
  if not config['stages']:
    raise ValueError('config.stages is empty: name at least one stage.')
  for name in config['stages']:
    if name not in sections:
      raise spec.unknown('stage in config.stages', name, sections)
  for name, section in sections.items():
    _check_keys(f'config.{name}', section, STAGE)
    _check_pairs(f'config.{name}.lr_scale', section['lr_scale'])
    if section['contrast']:
      _check_keys(f'config.{name}.contrast', section['contrast'], CONTRAST)
    if section['perceptual']:
      where = f'config.{name}.perceptual'
      _check_keys(where, section['perceptual'], PERCEPTUAL)


def _is_section(value: Any, *, named: bool) -> bool:
  """Tells a stage's section from a misspelt key of the run."""
  if not isinstance(value, Mapping):
    return False
  return named or len(set(value) & set(STAGE)) > len(STAGE) / 2


def _check_keys(where: str, node: Any, kinds: Mapping[str, type]) -> None:
  for key in node:
    if key not in kinds:
      raise spec.unknown(f'key of {where}', key, kinds)
  for key, kind in kinds.items():
    if key not in node:
      raise ValueError(
        f'{where} lacks {key!r}: begin with the functions of configs/common.py.'
      )
    _check_value(f'{where}.{key}', key, node[key], kind)


def _check_value(where: str, key: str, value: Any, kind: type) -> None:
  fits = isinstance(value, (int, float) if kind is float else kind)
  if not fits or (isinstance(value, bool) and kind is not bool):
    hint = f' Write ({value!r},).' if kind is tuple else ''
    raise ValueError(
      f'{where} must be of type {kind.__name__}, found {value!r}.{hint}'
    )
  if key in ('matching', 'caption', 'margin') and value == float('inf'):
    raise ValueError(f'{where} must be finite, found {value!r}.')
  if kind in (int, float) and not value >= 0:
    raise ValueError(f'{where} must not be negative, found {value!r}.')
  if key in _POSITIVE and not 0 < value < float('inf'):
    raise ValueError(f'{where} must be positive, found {value!r}.')
  if key in _STRINGS and not all(isinstance(v, str) for v in value):
    raise ValueError(f'{where} must hold strings, found {value!r}.')


def _check_pairs(where: str, pairs: Sequence[Any]) -> None:
  for pair in pairs:
    good = isinstance(pair, tuple) and len(pair) == 2
    if not good or not isinstance(pair[0], str) or isinstance(pair[1], str):
      raise ValueError(
        f"{where} must hold pairs such as ('backbone/.*', 0.1), found {pair!r}."
      )


def check_model(node: Mapping[str, Any]) -> None:
  """Raises ValueError where a model record lacks what every one has."""
  for key in ('backbone', 'text'):
    if not isinstance(node.get(key), Mapping):
      raise ValueError(
        f'model.{key} must be a record such as dict(name=...), found '
        f'{node.get(key)!r}; its keys are {", ".join(sorted(node))}.'
      )
  text = node['text']
  if text.get('name', 'none') != 'none' and not text.get('weights'):
    raise ValueError(
      "model.text lacks 'weights': a name such as 'all-MiniLM-L6-v2', or a "
      'folder.'
    )
