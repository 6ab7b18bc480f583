"""The flag --config: a file with get_config(), --config.key=value beside it."""

import difflib
import importlib.util
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags
from ml_collections.config_flags import config_path

from salflax import cli
from salflax.config import schema
from salflax.core import spec


def define(values: flags.FlagValues, text: str) -> None:
  """Defines --config, described by `text`."""
  text += (
    ' A file with get_config(); file.py:argument hands it an argument, '
    '--config.key=value sets a key.'
  )
  config_flags.DEFINE_config_file('config', None, text, flag_values=values)


def check(argv: Sequence[str]) -> None:
  """Loads the config that arguments name, and looks up the keys they set.

  ml_collections does both again while it parses, and ends in tracebacks.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file does not give a config, or refuses its argument.
    UsageError: the config has no such key.
  """
  name = None
  for arg, following in zip(argv, [*argv[1:], None]):
    if match := re.fullmatch('--?config(?:=(.*))?', arg, re.DOTALL):
      name = following if match[1] is None else match[1]
  if name is None:
    return
  config = _load(name)
  for arg in argv:
    if match := re.match(r'--?(?:no)?config\.([^=]*)', arg):
      _check_key(config, match[1])


def _load(name: str) -> dict[str, Any]:
  """Loads a config as plain dicts and tuples."""
  file, colon, argument = name.partition(':')
  path = pathlib.Path(file)
  if not path.is_file():
    raise FileNotFoundError(_absent(path))
  # As `python -m` has it; and a config of this repository from any folder.
  for folder in ('', str(path.resolve().parent.parent)):
    if folder not in sys.path:
      sys.path.append(folder)
  module_spec = importlib.util.spec_from_file_location('_config', path)
  if module_spec is None:
    raise ValueError(f'--config={file}: a config is a file that ends in .py.')
  module = importlib.util.module_from_spec(module_spec)
  try:
    module_spec.loader.exec_module(module)
    config = schema.plain(module.get_config(*([argument] if colon else ())))
  except SyntaxError as e:
    raise ValueError(f'--config={file}, line {e.lineno}: {e.msg}.') from e
  except Exception as e:
    kind = '' if isinstance(e, ValueError) else f'{type(e).__name__}: '
    raise ValueError(f'--config={name}: {kind}{e}') from e
  if not isinstance(config, dict):
    raise ValueError(
      f'--config={name}: get_config() must return a config as '
      f'configs/common.py does; found {config!r}.'
    )
  return config


def _absent(path: pathlib.Path) -> str:
  """Writes a message that names the nearest of the files around."""
  folders = (path, path.parent, pathlib.Path('configs'))
  files = sorted({str(p) for folder in folders for p in folder.glob('*.py')})
  text = f'--config={path}: there is no such file.'
  near = difflib.get_close_matches(str(path), files, n=1, cutoff=0.5)
  if near:
    return f'{text} Did you mean {near[0]}?'
  configs = [f for f in files if f.startswith('configs/')]
  return f'{text} There are: {", ".join(configs)}.' if configs else text


def _check_key(config: dict[str, Any], key: str) -> None:
  """Raises UsageError where a config lacks a key such as 'sjtu.loss'."""
  node, where = config, 'config'
  try:
    parts = config_path.split(key)
  except ValueError as e:
    raise cli.UsageError(f'--config.{key} is no key of a config.') from e
  for part in filter(lambda part: isinstance(part, str), parts):
    if not isinstance(node, dict):
      raise cli.UsageError(f'--config.{key}: {where} has no keys.')
    if part not in node:
      raise cli.UsageError(
        f'--config.{key}: {spec.unknown(f"key of {where}", part, node)}'
      )
    node, where = node[part], f'{where}.{part}'
