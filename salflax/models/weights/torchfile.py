"""PyTorch's weight files, read without PyTorch and without unpickling.

Both layouts are read: the zip archive that `torch.save` writes since PyTorch
1.6, and the stream of pickles from before (as in resnet50-0676ba61.pth and
other files of torchvision). `torchpickle` interprets the pickles.
"""

import io
import math
import os
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from salflax.models.weights.torchpickle import Machine, Refused, Tensor

# First pickle of the stream layout.
MAGIC = 0x1950A86A20F9469CFC6C
# Where training scripts put the state dict beside their own bookkeeping.
NESTED = ('state_dict', 'model', 'model_state_dict')
MAX_DEPTH = 8
# Broadcast tensors (stride 0) hold more elements than their storage: a limit,
# so that a few bytes cannot ask for terabytes.
MAX_BROADCAST = 2**24
# Bytes that any entry of an archive may unpack to, however small it is.
MAX_PACKED = 2**26


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Reads the tensors of a PyTorch file by name.

  Nested dicts are joined with dots; a state dict under 'state_dict', 'model'
  or 'model_state_dict' is taken out of its checkpoint; what is not a tensor is
  left out.

  Args:
    path: a .pth, .pt or .bin file, in the zip or in the older layout.

  Raises:
    ValueError: where the file is truncated, corrupt, of another kind, without
      tensors, or holds code; names the opcode or the class.
  """
  path = pathlib.Path(path)
  reader = _read_zip if zipfile.is_zipfile(path) else _read_stream
  try:
    root, memory = reader(path)
    tensors = dict(_tensors(root))
    if not tensors:
      raise Refused(f'it holds no tensors, only {type(root).__name__}')
    return {k: _window(t, memory) for k, t in tensors.items()}
  except Refused as e:
    raise ValueError(f'Cannot read weights from {path}: {e}.') from e
  except Exception as e:  # damage can break either parser anywhere
    raise ValueError(
      f'{path} is truncated, corrupt, or not a PyTorch weight file '
      f'({type(e).__name__}: {e}).'
    ) from e


def _tensors(node: Any, prefix: str = '', depth: int = 0) -> Iterator:
  """Yields name and tensor of every tensor in nested dicts."""
  if isinstance(node, Tensor):
    yield prefix, node
  if not isinstance(node, Mapping):
    return
  if depth > MAX_DEPTH:
    raise Refused(f'its dicts are nested more than {MAX_DEPTH} deep')
  if depth == 0:
    for key in NESTED:
      if isinstance(node.get(key), Mapping):
        node = node[key]
  for key, value in node.items():
    name = f'{prefix}.{key}' if prefix else str(key)
    yield from _tensors(value, name, depth + 1)


def _window(tensor: Tensor, memory: Mapping[str, np.ndarray]) -> np.ndarray:
  """Lays out the tensor's elements in row-major order."""
  storage, offset, size, stride = tensor
  flat = memory[storage.key].view(storage.dtype)
  offset += storage.offset
  if len(size) != len(stride) or min((offset, *size, *stride)) < 0:
    raise Refused(f'a tensor has size {size}, stride {stride}, {offset=}')
  count = math.prod(size)
  if count == 0:
    return np.zeros(size, storage.dtype)
  last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
  if last >= flat.size:
    raise Refused(
      f'a tensor of size {size} needs {last + 1} elements of storage '
      f'{storage.key!r}, which has {flat.size}'
    )
  if count > max(flat.size, MAX_BROADCAST):
    raise Refused(f'a tensor of size {size} repeats {flat.size} elements')
  steps = [s * flat.itemsize for s in stride]
  view = np.lib.stride_tricks.as_strided(flat[offset:], size, steps)
  return np.ascontiguousarray(view).reshape(size)


def _read_zip(path: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
  """Reads the root object and the memory of each storage."""
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
    roots = [n for n in names if n == 'data.pkl' or n.endswith('/data.pkl')]
    if len(roots) != 1:
      raise Refused('it is a zip archive without a data.pkl')
    folder = roots[0].removesuffix('data.pkl')
    if any(n.startswith(f'{folder}code/') for n in names):
      raise Refused('it is a TorchScript program; save its state dict instead')
    big = f'{folder}byteorder' in names and (
      _entry(archive, f'{folder}byteorder').strip() == b'big'
    )
    machine = Machine()
    root = machine.run(io.BytesIO(_entry(archive, roots[0])))
    memory = {}
    for storage in machine.storages.values():
      raw = _entry(archive, f'{folder}data/{storage.key}')
      if len(raw) != storage.numel * storage.dtype.itemsize:
        raise Refused(
          f'storage {storage.key!r} has {len(raw)} bytes instead of '
          f'{storage.numel} elements of {storage.dtype}'
        )
      memory[storage.key] = _flat(raw, storage.dtype, big=big)
  return root, memory


def _entry(archive: zipfile.ZipFile, name: str) -> bytes:
  """Reads the bytes of an entry; refuses a decompression bomb."""
  info = archive.getinfo(name)
  if info.file_size > max(MAX_PACKED, 100 * info.compress_size):
    raise Refused(f'entry {name!r} unpacks to {info.file_size} bytes')
  return archive.read(info)


def _read_stream(path: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
  """Reads the same from the layout from before PyTorch 1.6."""
  with path.open('rb') as f:
    if f.read(1) != b'\x80':
      raise Refused('it is neither a zip archive nor a pickle')
    f.seek(0)
    if (magic := Machine().run(f)) != MAGIC:
      raise Refused(
        f'it is a pickle but not one of torch.save (it begins with a '
        f'{type(magic).__name__})'
      )
    Machine().run(f)  # protocol version
    system = Machine().run(f)
    big = not system.get('little_endian', True)
    machine = Machine()
    root = machine.run(f)
    memory = {}
    for key in Machine().run(f):
      storage = machine.storages[key]
      (numel,) = struct.unpack('>q' if big else '<q', f.read(8))
      raw = f.read(_bounded(numel * storage.dtype.itemsize, f))
      memory[key] = _flat(raw, storage.dtype, big=big)
  return root, memory


def _bounded(count: int, f: BinaryIO) -> int:
  """Checks that the file has `count` bytes left; returns it."""
  left = os.fstat(f.fileno()).st_size - f.tell()
  if not 0 <= count <= left:
    raise Refused(f'it is truncated: {count} bytes wanted, {left} left')
  return count


def _flat(raw: bytes, dtype: np.dtype, *, big: bool) -> np.ndarray:
  """Turns the elements to the machine's byte order."""
  flat = np.frombuffer(raw, np.uint8)
  if big and dtype.itemsize > 1:
    flat = flat.reshape(-1, dtype.itemsize)[:, ::-1].reshape(-1)
  return np.ascontiguousarray(flat).view(dtype)
