"""PyTorch's weight files, read without PyTorch and without unpickling.

A .pth file is a pickle, and a pickle is a program. This reader interprets the
few opcodes that a state dict needs (containers, numbers, strings, tensors) and
refuses every other one by name, so a file can describe tensors and nothing
else. Both layouts are read: the zip archive that `torch.save` writes since
PyTorch 1.6, and the stream of pickles from before.
"""

import io
import math
import os
import pathlib
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

# First pickle of the stream layout.
MAGIC = 0x1950A86A20F9469CFC6C
# Where training scripts put the state dict beside their own bookkeeping.
NESTED = ('state_dict', 'model', 'model_state_dict')
MAX_DEPTH = 4
# Broadcast tensors (stride 0) hold more elements than their storage: a limit,
# so that a few bytes cannot ask for terabytes.
MAX_BROADCAST = 2**24

_DTYPES = {
  'Double': np.dtype(np.float64),
  'Float': np.dtype(np.float32),
  'Half': np.dtype(np.float16),
  'BFloat16': np.dtype(ml_dtypes.bfloat16),
  'Long': np.dtype(np.int64),
  'Int': np.dtype(np.int32),
  'Short': np.dtype(np.int16),
  'Char': np.dtype(np.int8),
  'Byte': np.dtype(np.uint8),
  'Bool': np.dtype(np.bool_),
}
_TORCH_DTYPES = {
  'float64': 'Double',
  'float32': 'Float',
  'float16': 'Half',
  'bfloat16': 'BFloat16',
  'int64': 'Long',
  'int32': 'Int',
  'int16': 'Short',
  'int8': 'Char',
  'uint8': 'Byte',
  'bool': 'Bool',
}


class Refused(ValueError):
  """The file asks for something that a state dict has no need of."""


class _Global(NamedTuple):
  """A whitelisted name of the pickle; `value` is all it stands for here."""

  name: str
  value: Any


class _Storage(NamedTuple):
  """Flat memory under `key`; `offset` in elements, for views of the memory."""

  key: str
  dtype: np.dtype
  numel: int
  offset: int


class _Tensor(NamedTuple):
  """A strided window on a storage; all in elements."""

  storage: _Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns the tensors of a PyTorch file by name.

  Nested dicts are joined with dots; a state dict under 'state_dict', 'model'
  or 'model_state_dict' is taken out of its checkpoint; what is not a tensor is
  left out.

  Args:
    path: a .pth, .pt or .bin file, in the zip or in the older layout.

  Raises:
    ValueError: where the file is truncated, corrupt, of another kind, without
      tensors, or holds code; the opcode or the name is given.
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
  except (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, struct.error, zipfile.BadZipFile, NotImplementedError),
    *(OverflowError, MemoryError, RuntimeError),
  ) as e:
    raise ValueError(
      f'{path} is truncated, corrupt, or not a PyTorch weight file '
      f'({type(e).__name__}: {e}).'
    ) from e


def _tensors(node: Any, prefix: str = '') -> Iterator[tuple[str, _Tensor]]:
  """Yields name and tensor of every tensor in nested dicts."""
  if isinstance(node, _Tensor):
    yield prefix or 'tensor', node
  if not isinstance(node, Mapping):
    return
  if not prefix:
    for key in NESTED:
      if isinstance(node.get(key), Mapping):
        node = node[key]
  if prefix.count('.') > 64 * MAX_DEPTH:
    raise Refused('its dicts are nested too deeply')
  for key, value in node.items():
    yield from _tensors(value, f'{prefix}.{key}' if prefix else str(key))


def _window(tensor: _Tensor, memory: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the tensor's elements, in row-major order."""
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
  """Returns the root object and the memory of each storage."""
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
    roots = [n for n in names if n == 'data.pkl' or n.endswith('/data.pkl')]
    if len(roots) != 1:
      raise Refused('it is a zip archive without a data.pkl')
    folder = roots[0].removesuffix('data.pkl')
    if any(n.startswith(f'{folder}code/') for n in names):
      raise Refused('it is a TorchScript program; save its state dict instead')
    big = f'{folder}byteorder' in names and (
      archive.read(f'{folder}byteorder').strip() == b'big'
    )
    machine = _Machine()
    root = machine.run(io.BytesIO(archive.read(roots[0])))
    memory = {}
    for storage in machine.storages.values():
      # Compared before it is read: a compressed entry could be a bomb.
      info = archive.getinfo(f'{folder}data/{storage.key}')
      if info.file_size != storage.numel * storage.dtype.itemsize:
        raise Refused(
          f'storage {storage.key!r} has {info.file_size} bytes instead of '
          f'{storage.numel} elements of {storage.dtype}'
        )
      memory[storage.key] = _flat(archive.read(info), storage.dtype, big=big)
  return root, memory


def _read_stream(path: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
  """Returns the same for the layout from before PyTorch 1.6."""
  with path.open('rb') as f:
    if f.read(1) != b'\x80':
      raise Refused('it is neither a zip archive nor a pickle')
    f.seek(0)
    if (magic := _Machine().run(f)) != MAGIC:
      raise Refused(
        f'it is a pickle but not one of torch.save (it begins with a '
        f'{type(magic).__name__})'
      )
    _Machine().run(f)  # protocol version
    system = _Machine().run(f)
    big = not system.get('little_endian', True)
    machine = _Machine()
    root = machine.run(f)
    memory = {}
    for key in _Machine().run(f):
      storage = machine.storages[key]
      (numel,) = struct.unpack('>q' if big else '<q', f.read(8))
      raw = f.read(_bounded(numel * storage.dtype.itemsize, f))
      memory[key] = _flat(raw, storage.dtype, big=big)
  return root, memory


def _bounded(count: int, f: BinaryIO) -> int:
  """Returns `count` if the file has so many bytes left."""
  left = os.fstat(f.fileno()).st_size - f.tell()
  if not 0 <= count <= left:
    raise Refused(f'it is truncated: {count} bytes wanted, {left} left')
  return count


def _flat(raw: bytes, dtype: np.dtype, *, big: bool) -> np.ndarray:
  """Returns the elements in the machine's byte order."""
  flat = np.frombuffer(raw, np.uint8)
  if big and dtype.itemsize > 1:
    flat = flat.reshape(-1, dtype.itemsize)[:, ::-1].reshape(-1)
  return np.ascontiguousarray(flat).view(dtype)


def _rebuild_tensor(storage, offset, size, stride, *_) -> _Tensor:
  return _Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_typed(storage, offset, size, stride, grad, hooks, dtype, *_):
  """Newer element types: the storage is bytes, `dtype` says what they hold."""
  del grad, hooks
  return _Tensor(
    storage._replace(dtype=dtype), offset, tuple(size), tuple(stride)
  )


def _rebuild_parameter(tensor, *_) -> _Tensor:
  if not isinstance(tensor, _Tensor):
    raise Refused(f'a Parameter is made of {type(tensor).__name__}')
  return tensor


def _ordered_dict(pairs=()) -> dict:
  return dict(pairs)


_GLOBALS: dict[str, Any] = {
  'collections.OrderedDict': _ordered_dict,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v3': _rebuild_typed,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
  'torch._utils._rebuild_parameter_with_state': _rebuild_parameter,
  'torch.Size': tuple,
  'torch.storage.UntypedStorage': _DTYPES['Byte'],
  'torch.UntypedStorage': _DTYPES['Byte'],
  **{f'torch.{k}Storage': v for k, v in _DTYPES.items()},
  **{f'torch.{k}': _DTYPES[v] for k, v in _TORCH_DTYPES.items()},
}


class _Machine:
  """The opcodes of a state dict; one instance for one pickle."""

  def __init__(self):
    self.stack: list[Any] = []
    self.marks: list[list[Any]] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, _Storage] = {}

  def run(self, f: BinaryIO) -> Any:
    """Returns the object that the pickle at the file's position describes."""
    for opcode, arg, _ in pickletools.genops(f):
      name = opcode.name
      if name == 'STOP':
        return self.stack.pop()
      if name in _PUSH:
        self.stack.append(arg)
      elif name in _CONSTANTS:
        self.stack.append(_CONSTANTS[name]())
      elif name in _OPCODES:
        _OPCODES[name](self, arg)
      else:
        raise Refused(f'opcode {name} is not part of a state dict')
    raise EOFError('no STOP')

  def push(self, item: Any) -> None:
    self.stack.append(item)

  def pop_mark(self) -> list[Any]:
    items, self.stack = self.stack, self.marks.pop()
    return items

  def mark(self, _) -> None:
    self.marks.append(self.stack)
    self.stack = []

  def put(self, index: int) -> None:
    self.memo[index] = self.stack[-1]

  def memoize(self, _) -> None:
    self.memo[len(self.memo)] = self.stack[-1]

  def get(self, index: int) -> None:
    self.stack.append(self.memo[index])

  def tuple_of(self, count: int) -> None:
    items = tuple(self.stack[-count:])
    if len(items) < count:
      raise IndexError('stack is too short')
    self.stack[-count:] = [items]

  def append(self, _) -> None:
    item = self.stack.pop()
    self._target(list).append(item)

  def appends(self, _) -> None:
    items = self.pop_mark()
    self._target(list).extend(items)

  def set_item(self, _) -> None:
    value, key = self.stack.pop(), self.stack.pop()
    self._target(dict)[key] = value

  def set_items(self, _) -> None:
    items = self.pop_mark()
    self._target(dict).update(zip(items[::2], items[1::2], strict=True))

  def _target(self, kind: type) -> Any:
    if not isinstance(self.stack[-1], kind):
      raise Refused(f'it changes a {type(self.stack[-1]).__name__}')
    return self.stack[-1]

  def push_global(self, arg: str) -> None:
    """GLOBAL: module and name in one string."""
    self.find(*arg.split(' ', 1))

  def stack_global(self, _) -> None:
    name, module = self.stack.pop(), self.stack.pop()
    self.find(module, name)

  def find(self, module: str, name: str) -> None:
    full = f'{module}.{name}'
    if full not in _GLOBALS:
      raise Refused(
        f'it uses {full}, which is not part of a state dict; save '
        'model.state_dict() alone'
      )
    self.stack.append(_Global(full, _GLOBALS[full]))

  def reduce(self, _) -> None:
    """Calls one of our own functions above, never one of the file's."""
    args, fn = self.stack.pop(), self.stack.pop()
    if not isinstance(fn, _Global) or isinstance(fn.value, np.dtype):
      raise Refused(f'it calls {getattr(fn, "name", type(fn).__name__)}')
    args = [a.value if isinstance(a, _Global) else a for a in args]
    self.stack.append(fn.value(*args))

  def build(self, _) -> None:
    """Attributes, such as the _metadata of a state dict: not weights."""
    self.stack.pop()
    self._target(dict)

  def persistent(self, _) -> None:
    """A storage: ('storage', type, key, device, numel[, view of another])."""
    kind, type_, key, _, numel, *view = self.stack.pop()
    dtype = getattr(type_, 'value', None)
    if kind != 'storage' or not isinstance(dtype, np.dtype):
      raise Refused(f'it refers to a {kind!r} of {type_!r}')
    storage = _Storage(str(key), dtype, int(numel), 0)
    self.storages.setdefault(storage.key, storage)
    if view and view[0] is not None:
      storage = storage._replace(offset=int(view[0][1]))
    self.stack.append(storage)


_PUSH = frozenset(
  'INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING '
  'SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES '
  'SHORT_BINBYTES BINBYTES8'.split()
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
  'NONE': lambda: None,
  'NEWTRUE': lambda: True,
  'NEWFALSE': lambda: False,
  'EMPTY_DICT': dict,
  'EMPTY_LIST': list,
  'EMPTY_TUPLE': tuple,
}
_OPCODES: dict[str, Callable[[_Machine, Any], Any]] = {
  'PROTO': lambda m, _: None,
  'FRAME': lambda m, _: None,
  'MARK': _Machine.mark,
  'POP_MARK': lambda m, _: m.pop_mark(),
  'POP': lambda m, _: m.stack.pop(),
  'DUP': lambda m, _: m.push(m.stack[-1]),
  'TUPLE': lambda m, _: m.push(tuple(m.pop_mark())),
  'LIST': lambda m, _: m.push(m.pop_mark()),
  'TUPLE1': lambda m, _: m.tuple_of(1),
  'TUPLE2': lambda m, _: m.tuple_of(2),
  'TUPLE3': lambda m, _: m.tuple_of(3),
  'PUT': _Machine.put,
  'BINPUT': _Machine.put,
  'LONG_BINPUT': _Machine.put,
  'MEMOIZE': _Machine.memoize,
  'GET': _Machine.get,
  'BINGET': _Machine.get,
  'LONG_BINGET': _Machine.get,
  'APPEND': _Machine.append,
  'APPENDS': _Machine.appends,
  'SETITEM': _Machine.set_item,
  'SETITEMS': _Machine.set_items,
  'GLOBAL': _Machine.push_global,
  'STACK_GLOBAL': _Machine.stack_global,
  'REDUCE': _Machine.reduce,
  'BUILD': _Machine.build,
  'BINPERSID': _Machine.persistent,
}
