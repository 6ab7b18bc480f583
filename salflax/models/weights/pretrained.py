"""Published weights: read a file, convert its names, merge it strictly.

Our submodules are named after the published networks, so one converter serves
them all: dots become scopes, a number joins the word before it, and tensors
take Flax's layout (convolutions HWIO, linear kernels transposed).

  state = pretrained.read('resnet50-0676ba61.pth')
  variables = pretrained.merge(variables, pretrained.convert(state),
                               at='backbone', skip=('params/backbone/fc/.*',))
"""

import difflib
import os
import pathlib
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.core
import jax
import ml_dtypes  # noqa: F401 (safetensors finds bfloat16 through it)
import numpy as np
import safetensors
from flax import traverse_util

from salflax.core import spec
from salflax.models.weights import torchfile

# Hugging Face's names of a network's weights, the best one first.
WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')
TORCH_SUFFIXES = ('.pth', '.pt', '.bin')
SUFFIXES = ('.safetensors', '.npz', *TORCH_SUFFIXES)
# Bookkeeping of PyTorch modules, not weights.
BUFFERS = ('num_batches_tracked', 'position_ids')
STATISTICS = {'running_mean': 'mean', 'running_var': 'var'}
MAX_NAMED = 8
_LARGEST = float(np.finfo(np.float32).max)

# What a state dict is, by the name of a tensor only that network has.
_FAMILIES = (
  ('TranSalNet', r'encoder\.encoder\.\d+\..*'),
  ('BLIP', r'(text_encoder|vision_model|visual_encoder)\..*'),
  ('BERT', r'(.*\.)?encoder\.layer\.0\.attention\.self\.query\.weight'),
  ('ResNet', r'(.*\.)?layer1\.0\.conv1\.weight'),
  ('VGG', r'(.*\.)?features\.\d+\.weight'),
  ('EfficientNet', r'(_conv_stem|stem|_blocks|blocks)\..*'),
)


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a weight file under the names stored in it.

  Half precision (float16, bfloat16) becomes float32; nothing in the file is
  ever executed.

  Args:
    path: a .safetensors, .npz, or PyTorch (.pth, .pt, .bin) file.

  Raises:
    FileNotFoundError: where there is no such file.
    ValueError: for an unknown kind, or a truncated, corrupt or foreign file.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'No weight file {path}.')
  if path.suffix not in SUFFIXES:
    raise ValueError(
      f'Cannot read weights from {path}: {path.suffix or "no ending"!r} is '
      f'not one of {", ".join(SUFFIXES)}.'
    )
  _check_head(path)
  if path.suffix == '.safetensors':
    state = _read_safetensors(path)
  elif path.suffix == '.npz':
    state = _read_npz(path)
  else:
    state = torchfile.read(path)
  return {k: _full_precision(v) for k, v in state.items()}


def _full_precision(x: np.ndarray) -> np.ndarray:
  half = x.dtype == np.float16 or x.dtype.name == 'bfloat16'
  return x.astype(np.float32) if half else x


def _check_head(path: pathlib.Path) -> None:
  """Raises ValueError for what downloads leave behind in place of weights."""
  with path.open('rb') as f:
    head = f.read(64)
  if not head:
    raise ValueError(f'{path} is empty.')
  if head.startswith(b'version https://git-lfs'):
    raise ValueError(f'{path} is a Git LFS pointer: fetch the file itself.')
  if head.lstrip().lower().startswith((b'<!doctype', b'<html')):
    raise ValueError(f'{path} is a web page, not weights: download it again.')


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with safetensors.safe_open(path, framework='numpy') as f:
      for name in f.keys():
        if (kind := f.get_slice(name).get_dtype()).startswith(('F8', 'F4')):
          raise TypeError(f'{name} is of type {kind}: convert it to float32')
      return {name: f.get_tensor(name) for name in f.keys()}
  except (safetensors.SafetensorError, TypeError, ValueError) as e:
    raise ValueError(f'Cannot read the safetensors file {path}: {e}.') from e


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    with np.load(path, allow_pickle=False) as archive:
      return {name: archive[name] for name in archive.files}
  except (zipfile.BadZipFile, ValueError, EOFError, OSError, TypeError) as e:
    raise ValueError(f'{path} is not a whole .npz of plain arrays: {e}.') from e
  except AttributeError as e:  # np.load gave one array: a renamed .npy
    raise ValueError(f'{path} is a single array, not an .npz archive.') from e


def convert(state: Mapping[str, np.ndarray]) -> dict[str, dict]:
  """Converts a PyTorch state dict to Flax variables.

  'layer1.0.conv1.weight' becomes params/layer1_0/conv1/kernel. Convolutions go
  from OIHW to HWIO, linear weights are transposed, embeddings are kept;
  one-dimensional weights (and the older spelling gamma, beta) are the scale
  (and bias) of a normalisation; running statistics go to 'batch_stats'.
  Transposed convolutions cannot be told from plain ones and are not supported.

  Args:
    state: tensors by their PyTorch names.

  Returns:
    {'params': nested dict, 'batch_stats': nested dict}, either may be empty.

  Raises:
    ValueError: where two tensors get one name.
  """
  # Saved from inside DataParallel.
  wrapped = all(n.startswith('module.') for n in state)
  flat = {'params': {}, 'batch_stats': {}}
  for name, tensor in state.items():
    if name.split('.')[-1] in BUFFERS:
      continue
    short = name.removeprefix('module.') if wrapped else name
    collection, path, value = _convert_one(short, tensor)
    if path in flat[collection]:
      raise ValueError(f'Two tensors become {"/".join(path)}; one is {name}.')
    flat[collection][path] = value
  return {k: traverse_util.unflatten_dict(v) for k, v in flat.items()}


def _convert_one(
  name: str, x: np.ndarray
) -> tuple[str, tuple[str, ...], np.ndarray]:
  """Converts one tensor to collection, path and value in Flax's layout."""
  scopes: list[str] = []
  *modules, leaf = name.split('.')
  for part in modules:
    if part.isdigit() and scopes:
      scopes[-1] += f'_{part}'
    else:
      scopes.append(part)
  if leaf in STATISTICS:
    return 'batch_stats', (*scopes, STATISTICS[leaf]), x
  if leaf == 'weight' and x.ndim == 2:
    if modules and modules[-1].endswith(('embedding', 'embeddings')):
      leaf = 'embedding'
    else:
      leaf, x = 'kernel', x.T
  elif leaf == 'weight' and x.ndim >= 3:
    leaf, x = 'kernel', np.moveaxis(x, (0, 1), (-1, -2))
  elif leaf in ('weight', 'gamma'):
    leaf = 'scale'
  elif leaf == 'beta':
    leaf = 'bias'
  return 'params', (*scopes, leaf), x


def family(names: Iterable[str]) -> str:
  """Names the published network that has tensors of these names, or ''.

  Args:
    names: PyTorch names, or paths of converted variables.
  """
  dotted = [re.sub(r'_(?=\d)', '.', n).replace('/', '.') for n in names]
  dotted = [
    re.sub(r'^(params|batch_stats)\.', '', n).replace('kernel', 'weight')
    for n in dotted
  ]
  for label, pattern in _FAMILIES:
    if any(re.fullmatch(pattern, n) for n in dotted):
      return label
  return ''


def merge(
  initialised: Mapping[str, Any],
  loaded: Mapping[str, Any],
  *,
  at: str = '',
  skip: Sequence[str] = (),
  source: str = 'the loaded weights',
) -> dict[str, Any]:
  """Puts the loaded tensors in their places in `initialised`.

  Args:
    initialised: variables of the network, {'params': ..., 'batch_stats': ...};
      arrays, or shapes and types where everything is loaded.
    loaded: variables as `convert` returns them.
    at: scope the loaded tree belongs under, e.g. 'backbone' or 'a/b'. Other
      scopes are left as they are.
    skip: patterns for whole paths such as 'params/backbone/fc/kernel': what
      they match is neither loaded nor required.
    source: the file the tensors came from, for the error message.

  Raises:
    ValueError: naming every tensor that is missing, left over or of another
      shape, with the nearest name, or not of finite float32 values.
  """
  have = traverse_util.flatten_dict(
    flax.core.unfreeze(initialised), sep='/', keep_empty_nodes=True
  )
  at = at.strip('/')
  got = {
    '/'.join(filter(None, (collection, at, path))): value
    for collection, tree in loaded.items()
    for path, value in traverse_util.flatten_dict(tree, sep='/').items()
  }
  under = re.compile(rf'[^/]+/{re.escape(at)}/.*' if at else r'.*')
  leaves = [k for k, v in have.items() if hasattr(v, 'shape')]
  want = set(filter(under.fullmatch, leaves))
  if at and not want:
    tops = sorted({k.split('/')[1] for k in have if '/' in k})
    raise ValueError(
      f'The network has no scope {at!r}; it has {spec.some(tops)}.'
    )
  skips = [re.compile(s) for s in skip]
  skipped = {k for k in want | set(got) if any(s.fullmatch(k) for s in skips)}
  _check(have, got, want - skipped, set(got) - skipped, source)
  result = dict(have)
  for path in want - skipped:
    result[path] = np.asarray(got[path]).astype(have[path].dtype, copy=False)
  return traverse_util.unflatten_dict(result, sep='/')


def fill(
  module: Any, inputs: Sequence[Any], state: Mapping[str, np.ndarray], **options
) -> dict[str, Any]:
  """Makes the variables of a network of the tensors of a file.

  Args:
    module: Flax module.
    inputs: inputs of some size, to trace it with.
    state: tensors by their PyTorch names.
    **options: of `merge`.
  """
  shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
  return merge(shapes, convert(state), **options)


def count(state: Iterable[str], pattern: str) -> int:
  """Counts the numbers that stand in names, at the group of a pattern."""
  return len({m[1] for name in state if (m := re.match(pattern, name))})


def _check(have, got, want: set[str], offered: set[str], source: str) -> None:
  """Raises ValueError unless both sets of paths and all shapes agree."""
  missing, extra = want - offered, offered - want
  shapes = [
    f'{k}: {np.shape(got[k])} in the file, {have[k].shape} in the network'
    for k in sorted(want & offered)
    if np.shape(got[k]) != have[k].shape
  ]
  unfit = [
    f'{k}: {fault}'
    for k in sorted(want & offered)
    if (fault := _fault(np.asarray(got[k])))
  ]
  if not (missing or extra or shapes or unfit):
    return
  lines = [f'{source} does not fit the network.']
  offer, asked = family(offered), family(want)
  if offer != asked and offer:
    lines.append(
      f'The file looks like {offer}'
      + (f', the network is {asked}.' if asked else '.')
    )
  if missing:
    lines.append(_listed('Missing from the file', sorted(missing), extra))
  if extra:
    lines.append(_listed('Unknown to the network', sorted(extra), missing))
  if shapes:
    lines.append(_listed('Of another shape', shapes, ()))
  if unfit:
    lines.append(_listed('Not weights', unfit, ()))
  raise ValueError('\n'.join(lines))


def _fault(x: np.ndarray) -> str:
  """Tells why a tensor cannot be weights in float32; '' where it can."""
  if x.dtype not in (np.float32, np.float64):
    return f'values of type {x.dtype.name}, not floats'
  if not np.isfinite(x).all():
    return 'NaN or infinite values'
  if x.dtype == np.float64 and np.abs(x).max(initial=0) > _LARGEST:
    return f'values beyond {_LARGEST:.3g}, the largest float32'
  return ''


def _listed(title: str, names: Sequence[str], others: Iterable[str]) -> str:
  lines = [f'{title} ({len(names)}):']
  others = list(others)
  for name in names[:MAX_NAMED]:
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
    lines.append(f'  {name}' + (f' (nearest: {near[0]})' if near else ''))
  if len(names) > MAX_NAMED:
    lines.append(f'  and {len(names) - MAX_NAMED} more')
  return '\n'.join(lines)
