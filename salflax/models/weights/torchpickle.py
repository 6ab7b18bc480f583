"""The pickles inside PyTorch files, interpreted without running them.

A pickle is a program, and unpickling runs whatever it says. This machine knows
the few opcodes that a state dict needs (containers, numbers, strings, tensors)
and a short list of names that stand for functions of our own; it refuses every
other opcode and name, and says which. A file can describe tensors and nothing
else.
"""

import pickletools
from collections.abc import Callable
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
_DTYPES = {name: np.dtype(name) for name in _STORAGES}


class Refused(ValueError):
  """The file asks for something that a state dict has no need of."""


class _Global(NamedTuple):
  """A whitelisted name of the pickle; `value` is all it stands for here."""

  name: str
  value: Any


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


def _rebuild_typed(storage, offset, size, stride, grad, hooks, dtype, *_):
  """Newer element types: the storage is bytes, `dtype` says what they hold."""
  del grad, hooks
  return Tensor(
    storage._replace(dtype=dtype), offset, tuple(size), tuple(stride)
  )


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
  'torch.storage.UntypedStorage': _DTYPES['uint8'],
  'torch.UntypedStorage': _DTYPES['uint8'],
  **{f'torch.{_STORAGES[k]}Storage': v for k, v in _DTYPES.items()},
  **{f'torch.{k}': v for k, v in _DTYPES.items()},
}


class Machine:
  """The opcodes of a state dict; one instance for one pickle."""

  def __init__(self):
    self.stack: list[Any] = []
    self.marks: list[list[Any]] = []
    self.memo: dict[int, Any] = {}
    self.storages: dict[str, Storage] = {}

  def run(self, f: BinaryIO) -> Any:
    """Builds the object that the pickle at the file's position describes."""
    for opcode, arg, _ in pickletools.genops(f):
      name = opcode.name
      if name == 'STOP':
        return self.stack.pop()
      if name in _PUSH:
        self.stack.append(arg)
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

  def extend(self, items: list[Any]) -> None:
    self._target(list).extend(items)

  def set_items(self, items: list[Any]) -> None:
    self._target(dict).update(zip(items[::2], items[1::2], strict=True))

  def pop(self, count: int) -> list[Any]:
    """Takes that many items off the stack, in their order."""
    if len(self.stack) < count:
      raise IndexError('stack is too short')
    items, self.stack[-count:] = self.stack[-count:], []
    return items

  def _target(self, kind: type) -> Any:
    if not isinstance(self.stack[-1], kind):
      raise Refused(f'it changes a {type(self.stack[-1]).__name__}')
    return self.stack[-1]

  def find(self, module: str, name: str) -> None:
    """Pushes a global that a state dict may have; refuses every other."""
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
    storage = Storage(str(key), dtype, int(numel), 0)
    self.storages.setdefault(storage.key, storage)
    if view and view[0] is not None:
      storage = storage._replace(offset=int(view[0][1]))
    self.stack.append(storage)


_PUSH = frozenset(
  'INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING '
  'SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES '
  'SHORT_BINBYTES BINBYTES8'.split()
)
_OPCODES: dict[str, Callable[[Machine, Any], Any]] = {
  'PROTO': lambda m, _: None,
  'FRAME': lambda m, _: None,
  'NONE': lambda m, _: m.push(None),
  'NEWTRUE': lambda m, _: m.push(True),
  'NEWFALSE': lambda m, _: m.push(False),
  'EMPTY_DICT': lambda m, _: m.push({}),
  'EMPTY_LIST': lambda m, _: m.push([]),
  'EMPTY_TUPLE': lambda m, _: m.push(()),
  'MARK': Machine.mark,
  'POP_MARK': lambda m, _: m.pop_mark(),
  'POP': lambda m, _: m.pop(1),
  'DUP': lambda m, _: m.push(m.stack[-1]),
  'TUPLE': lambda m, _: m.push(tuple(m.pop_mark())),
  'LIST': lambda m, _: m.push(m.pop_mark()),
  'TUPLE1': lambda m, _: m.push(tuple(m.pop(1))),
  'TUPLE2': lambda m, _: m.push(tuple(m.pop(2))),
  'TUPLE3': lambda m, _: m.push(tuple(m.pop(3))),
  'MEMOIZE': lambda m, _: m.put(len(m.memo)),
  **dict.fromkeys(('PUT', 'BINPUT', 'LONG_BINPUT'), Machine.put),
  **dict.fromkeys(
    ('GET', 'BINGET', 'LONG_BINGET'), lambda m, index: m.push(m.memo[index])
  ),
  'APPEND': lambda m, _: m.extend(m.pop(1)),
  'APPENDS': lambda m, _: m.extend(m.pop_mark()),
  'SETITEM': lambda m, _: m.set_items(m.pop(2)),
  'SETITEMS': lambda m, _: m.set_items(m.pop_mark()),
  'GLOBAL': lambda m, arg: m.find(*arg.split(' ', 1)),
  'STACK_GLOBAL': lambda m, _: m.find(*m.pop(2)),
  'REDUCE': Machine.reduce,
  'BUILD': Machine.build,
  'BINPERSID': Machine.persistent,
}
