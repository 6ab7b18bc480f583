"""The pickles inside PyTorch files, read by an unpickler that knows tensors.

A pickle is a program, and unpickling runs whatever it says. This unpickler has
the few opcodes that a state dict needs (containers, numbers, strings, tensors)
and a short list of names that stand for functions of our own; it refuses every
other opcode and name, and says which. A file can describe tensors and nothing
else.
"""

import pickle
import pickletools
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes  # noqa: F401 (numpy finds bfloat16 through it)
import numpy as np

# Types of elements, and of their storages, by name.
_STORAGES = {
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
_OPCODES = frozenset(
  'PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT '
  'BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING '
  'SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES '
  'SHORT_BINBYTES BINBYTES8 EMPTY_DICT EMPTY_LIST EMPTY_TUPLE TUPLE TUPLE1 '
  'TUPLE2 TUPLE3 LIST APPEND APPENDS SETITEM SETITEMS PUT BINPUT LONG_BINPUT '
  'MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD '
  'BINPERSID'.split()
)


class Refused(ValueError):
  """The file asks for something that a state dict has no need of."""


class Type(NamedTuple):
  """Type of the elements of a storage, and its name in the file."""

  name: str
  dtype: np.dtype

  def __call__(self, *_):
    raise Refused(f'it calls {self.name}')


class Storage(NamedTuple):
  """Flat memory under `key`; `offset` in elements, for views of the memory."""

  key: str
  dtype: np.dtype
  numel: int
  offset: int


class Tensor(NamedTuple):
  """A strided window on a storage; all in elements."""

  storage: Storage
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]


def _rebuild_tensor(storage, offset, size, stride, *_) -> Tensor:
  return Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_typed(storage, offset, size, stride, grad, hooks, kind, *_):
  """Newer element types: the storage is bytes, `kind` says what they hold."""
  del grad, hooks
  storage = storage._replace(dtype=kind.dtype)
  return Tensor(storage, offset, tuple(size), tuple(stride))


def _rebuild_parameter(tensor, *_) -> Tensor:
  if not isinstance(tensor, Tensor):
    raise Refused(f'a Parameter is made of {type(tensor).__name__}')
  return tensor


_GLOBALS: dict[str, Any] = {
  'collections.OrderedDict': dict,
  'torch._utils._rebuild_tensor': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v2': _rebuild_tensor,
  'torch._utils._rebuild_tensor_v3': _rebuild_typed,
  'torch._utils._rebuild_parameter': _rebuild_parameter,
  'torch._utils._rebuild_parameter_with_state': _rebuild_parameter,
  'torch.Size': tuple,
}
_TYPES = {
  'torch.storage.UntypedStorage': 'uint8',
  'torch.UntypedStorage': 'uint8',
  **{f'torch.{kind}Storage': name for name, kind in _STORAGES.items()},
  **{f'torch.{name}': name for name in _STORAGES},
}
_GLOBALS |= {k: Type(k, np.dtype(name)) for k, name in _TYPES.items()}


class _Dispatch(dict):
  """Methods of the opcodes of a state dict, by their byte."""

  def __missing__(self, byte: int):
    opcode = pickletools.code2op.get(chr(byte))
    name = opcode.name if opcode else byte
    raise Refused(f'opcode {name} is not part of a state dict')


# The pure Python one, whose opcodes can be chosen.
class Machine(pickle._Unpickler):
  """Reads one pickle, from the file's position on."""

  def __init__(self, file: BinaryIO):
    super().__init__(file, encoding='latin-1')
    self.storages: dict[str, Storage] = {}

  def find_class(self, module: str, name: str) -> Any:
    """Finds a global that a state dict may have; refuses every other."""
    full = f'{module}.{name}'
    if full not in _GLOBALS:
      raise Refused(
        f'it uses {full}, which is not part of a state dict; save '
        'model.state_dict() alone'
      )
    return _GLOBALS[full]

  def persistent_load(self, pid: Any) -> Storage:
    """Makes a storage of ('storage', type, key, device, numel[, its view])."""
    kind, type_, key, _, numel, *view = pid
    if kind != 'storage' or not isinstance(type_, Type):
      raise Refused(f'it refers to a {kind!r} of {type_!r}')
    storage = Storage(str(key), type_.dtype, int(numel), 0)
    self.storages.setdefault(storage.key, storage)
    if view and view[0] is not None:
      storage = storage._replace(offset=int(view[0][1]))
    return storage

  def load_build(self) -> None:
    """Drops attributes, such as the _metadata of a state dict: no weights."""
    self.stack.pop()

  dispatch = _Dispatch(
    {
      ord(op.code): pickle._Unpickler.dispatch[ord(op.code)]
      for op in pickletools.opcodes
      if op.name in _OPCODES
    }
    | {pickle.BUILD[0]: load_build}
  )
