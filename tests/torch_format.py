"""Writes PyTorch's two file layouts by hand, opcode by opcode.

So the reader is tested without PyTorch, and with files that no PyTorch would
write.
"""

import dataclasses
import io
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np

RNG = np.random.default_rng(0)
MAGIC = 0x1950A86A20F9469CFC6C
TYPES = {
  np.dtype(np.float32): 'FloatStorage',
  np.dtype(np.float64): 'DoubleStorage',
  np.dtype(np.float16): 'HalfStorage',
  np.dtype(ml_dtypes.bfloat16): 'BFloat16Storage',
  np.dtype(np.int64): 'LongStorage',
  np.dtype(np.bool_): 'BoolStorage',
}


@dataclasses.dataclass
class View:
  """A tensor as a window on a storage: strides and offset in elements."""

  key: str
  offset: int
  size: tuple[int, ...]
  stride: tuple[int, ...]
  parameter: bool = False


def whole(key: str, array: np.ndarray, **kwargs) -> View:
  """Makes the view of a whole C-contiguous array."""
  stride = tuple(s // array.itemsize for s in np.empty_like(array).strides)
  return View(key, 0, array.shape, stride, **kwargs)


def _global(module: str, name: str) -> bytes:
  return f'c{module}\n{name}\n'.encode()


def _int(x: int) -> bytes:
  return b'J' + struct.pack('<i', x)


def _str(x: str) -> bytes:
  return b'X' + struct.pack('<I', len(x.encode())) + x.encode()


def _tuple(items) -> bytes:
  return b'(' + b''.join(items) + b't'


EMPTY = _global('collections', 'OrderedDict') + b')R'


def _tensor(view: View, storages, *, legacy: bool) -> bytes:
  storage = storages[view.key]
  pid = [
    _str('storage'),
    _global('torch', TYPES[storage.dtype]),
    _str(view.key),
    _str('cpu'),
    _int(storage.size),
  ]
  body = (
    _global('torch._utils', '_rebuild_tensor_v2')
    + b'('
    + _tuple(pid + [b'N'] * legacy)
    + b'Q'
    + _int(view.offset)
    + _tuple(map(_int, view.size))
    + _tuple(map(_int, view.stride))
    + b'\x89'
    + EMPTY
    + b'tR'
  )
  if view.parameter:
    body = (
      _global('torch._utils', '_rebuild_parameter')
      + _tuple([body, b'\x88', EMPTY])
      + b'R'
    )
  return body


def program(node, storages, *, legacy: bool = False) -> bytes:
  """Writes the opcodes of nested dicts, tensors, raw bytes, ints, strings."""

  def emit(x):
    if isinstance(x, bytes):
      return x
    if isinstance(x, View):
      return _tensor(x, storages, legacy=legacy)
    if isinstance(x, dict):
      items = b''.join(_str(k) + emit(v) for k, v in x.items())
      return EMPTY + b'(' + items + b'u'
    return _str(x) if isinstance(x, str) else _int(x)

  return b'\x80\x02' + emit(node) + b'.'


def write_zip(path, node, storages, *, folder='archive', extra=()) -> None:
  """Writes the layout of PyTorch 1.6 and later."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr(f'{folder}/data.pkl', program(node, storages))
    for key, storage in storages.items():
      archive.writestr(f'{folder}/data/{key}', storage.tobytes())
    archive.writestr(f'{folder}/version', b'3\n')
    for name, content in extra:
      archive.writestr(f'{folder}/{name}', content)


def write_stream(path, node, storages) -> None:
  """Writes the layout from before PyTorch 1.6."""
  f = io.BytesIO()
  system = {'protocol_version': 1001, 'little_endian': True}
  for header in (MAGIC, 1001, system):
    pickle.dump(header, f, protocol=2)
  f.write(program(node, storages, legacy=True))
  pickle.dump(sorted(storages), f, protocol=2)
  for key in sorted(storages):
    f.write(struct.pack('<q', storages[key].size) + storages[key].tobytes())
  path.write_bytes(f.getvalue())


WRITERS = {'zip': write_zip, 'stream': write_stream}


def save(path, state, *, layout='zip') -> None:
  """Writes a plain state dict, one storage for each tensor."""
  storages = {str(i): np.ravel(x) for i, x in enumerate(state.values())}
  node = {
    name: whole(str(i), np.asarray(x))
    for i, (name, x) in enumerate(state.items())
  }
  WRITERS[layout](path, node, storages)


def array(*shape, dtype=np.float32):
  """Draws random numbers."""
  return RNG.normal(size=shape).astype(dtype)


def resnet_like():
  """Makes a small state dict with every kind of tensor."""
  return {
    'conv1.weight': array(4, 3, 7, 7),
    'layer1.0.conv1.weight': array(5, 4, 1, 1),
    'layer1.0.bn1.weight': array(5),
    'layer1.0.bn1.bias': array(5),
    'layer1.0.bn1.running_mean': array(5),
    'layer1.0.bn1.running_var': array(5),
    'layer1.0.bn1.num_batches_tracked': np.zeros((), np.int64),
    'layer1.0.downsample.0.weight': array(8, 4, 1, 1),
    'layer1.0.downsample.1.weight': array(8),
    'fc.weight': array(2, 8),
    'fc.bias': array(2),
  }
