"""Weight files: what is read, and what is refused without being run."""

import json
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_format
from torch_format import View, array, resnet_like

from salflax.models.weights import pretrained

LAYOUTS = sorted(torch_format.WRITERS)


def assert_same(got, want):
  assert sorted(got) == sorted(want)
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    assert got[name].shape == np.shape(want[name]), name


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin'])
def test_reads_both_torch_layouts(tmp_path, layout, suffix):
  state = resnet_like()
  path = tmp_path / f'weights{suffix}'
  torch_format.save(path, state, layout=layout)
  assert_same(pretrained.read(path), state)


def test_reads_safetensors_and_npz(tmp_path):
  state = resnet_like()
  safetensors.numpy.save_file(state, tmp_path / 'a.safetensors')
  np.savez(tmp_path / 'a.npz', **state)
  assert_same(pretrained.read(tmp_path / 'a.safetensors'), state)
  assert_same(pretrained.read(tmp_path / 'a.npz'), state)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, layout, dtype):
  x = array(3, 4, dtype=dtype)
  torch_format.save(tmp_path / 'a.pth', {'x': x}, layout=layout)
  got = pretrained.read(tmp_path / 'a.pth')['x']
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, x.astype(np.float32))


@pytest.mark.parametrize('name, dtype', [('F16', '<f2'), ('BF16', '<u2')])
def test_half_precision_safetensors(tmp_path, name, dtype):
  raw = {'F16': np.array([1.5, -2], '<f2'), 'BF16': None}[name]
  if raw is None:
    raw = np.array([1.5, -2], ml_dtypes.bfloat16).view(dtype)
  head = {'x': {'dtype': name, 'shape': [2], 'data_offsets': [0, 4]}}
  head = json.dumps(head).encode()
  path = tmp_path / 'a.safetensors'
  path.write_bytes(struct.pack('<Q', len(head)) + head + raw.tobytes())
  got = pretrained.read(path)['x']
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, [1.5, -2])


@pytest.mark.parametrize('layout', LAYOUTS)
def test_strides_offsets_and_shared_storages(tmp_path, layout):
  flat = np.arange(24, dtype=np.float32)
  node = {
    'rows': View('s', 4, (3, 4), (4, 1)),
    'transposed': View('s', 0, (4, 6), (1, 4)),
    'repeated': View('s', 2, (2, 3), (0, 1), parameter=True),
    'scalar': View('s', 7, (), ()),
    'empty': View('s', 24, (0, 3), (3, 1)),
  }
  torch_format.WRITERS[layout](tmp_path / 'a.pth', node, {'s': flat})
  got = pretrained.read(tmp_path / 'a.pth')
  assert_same(
    got,
    {
      'rows': flat[4:16].reshape(3, 4),
      'transposed': flat.reshape(6, 4).T,
      'repeated': np.tile(flat[2:5], (2, 1)),
      'scalar': np.float32(7),
      'empty': np.zeros((0, 3)),
    },
  )


@pytest.mark.parametrize('dtype', [np.float64, np.int64, np.bool_])
def test_other_types_are_kept(tmp_path, dtype):
  x = np.array([[0, 1], [1, 0]], dtype)
  torch_format.save(tmp_path / 'a.pth', {'x': x})
  assert pretrained.read(tmp_path / 'a.pth')['x'].dtype == dtype


def test_big_endian_archive(tmp_path):
  x = np.array([1.5, 2.5], '<f4')
  node, swapped = {'x': torch_format.whole('0', x)}, x.byteswap()
  extra = [('byteorder', b'big')]
  torch_format.write_zip(tmp_path / 'a.pth', node, {'0': swapped}, extra=extra)
  np.testing.assert_array_equal(pretrained.read(tmp_path / 'a.pth')['x'], x)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('key', ['state_dict', 'model'])
def test_state_dict_inside_a_checkpoint(tmp_path, layout, key):
  x = array(2, 3)
  node = {'epoch': 3, 'name': 'best', key: {'a.w': torch_format.whole('0', x)}}
  torch_format.WRITERS[layout](tmp_path / 'a.pth', node, {'0': x})
  assert_same(pretrained.read(tmp_path / 'a.pth'), {'a.w': x})


class _Payload:
  def __init__(self, command):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('protocol', [2, 4])
def test_malicious_pickle_does_not_run(tmp_path, layout, protocol):
  mark = tmp_path / 'ran'
  code = pickle.dumps(_Payload(f'touch {mark}'), protocol=protocol)
  pickle.loads(code)
  assert mark.exists(), 'the payload must work for the test to mean anything'
  mark.unlink()
  body = code[2:-1]  # without PROTO and STOP
  if protocol == 4:
    body = body[9:]  # without FRAME
  x = array(2)
  node = {'x': torch_format.whole('0', x), 'evil': body}
  path = tmp_path / 'a.pth'
  torch_format.WRITERS[layout](path, node, {'0': x})
  with pytest.raises(ValueError, match=r'a\.pth.*(posix|nt)\.system'):
    pretrained.read(path)
  assert not mark.exists()


def test_bare_malicious_pickle(tmp_path):
  path = tmp_path / 'a.pth'
  path.write_bytes(pickle.dumps(_Payload(f'touch {tmp_path / "ran"}')))
  with pytest.raises(ValueError, match=r'system'):
    pretrained.read(path)
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'body, what',
  [
    (b'cbuiltins\neval\n(X\x01\x00\x00\x001tR', 'builtins.eval'),
    (b'ctorchvision.models\nResNet\n)R', 'torchvision.models.ResNet'),
    (b'(iposix\nsystem\n', 'INST'),
    (b'(cposix\nsystem\no', 'posix.system'),
    (b'\x82\x01', 'EXT1'),
    (b'ctorch\nFloatStorage\n)R', 'torch.FloatStorage'),
    (b'}}b)\x81', 'NEWOBJ'),
  ],
)
def test_refusals_name_the_opcode_or_global(tmp_path, body, what):
  torch_format.write_zip(tmp_path / 'a.pth', {'x': body}, {})
  with pytest.raises(ValueError, match=what):
    pretrained.read(tmp_path / 'a.pth')


@pytest.mark.parametrize(
  'view',
  [
    View('0', 0, (5,), (1,)),
    View('0', 3, (2,), (1,)),
    View('0', 0, (2, 2), (3, 1)),
    View('0', -1, (2,), (1,)),
    View('0', 0, (2,), (-1,)),
    View('0', 0, (2, 2), (1,)),
    View('0', 0, (2**15, 2**15), (0, 0)),
  ],
)
def test_windows_stay_inside_their_storage(tmp_path, view):
  torch_format.write_zip(tmp_path / 'a.pth', {'x': view}, {'0': array(4)})
  with pytest.raises(ValueError, match='size'):
    pretrained.read(tmp_path / 'a.pth')


def _write(path, kind):
  state = resnet_like()
  if kind == 'safetensors':
    safetensors.numpy.save_file(state, path)
  elif kind == 'npz':
    np.savez(path, **state)
  else:
    torch_format.save(path, state, layout=kind)


@pytest.mark.parametrize(
  'kind, suffix',
  [
    ('zip', '.pth'),
    ('stream', '.pth'),
    ('safetensors', '.safetensors'),
    ('npz', '.npz'),
  ],
)
def test_truncated_files_are_named(tmp_path, kind, suffix):
  path = tmp_path / f'cut{suffix}'
  _write(path, kind)
  content = path.read_bytes()
  for part in (0, 1, 30, len(content) // 3, len(content) // 2, -1):
    path.write_bytes(content[:part])
    with pytest.raises(ValueError, match='cut'):
      pretrained.read(path)


# Damage may turn a string into one with escapes, of which Python complains.
@pytest.mark.filterwarnings('ignore:.*escape sequence')
@pytest.mark.parametrize('layout', LAYOUTS)
def test_damaged_files_give_no_other_error(tmp_path, layout):
  path = tmp_path / 'a.pth'
  torch_format.save(path, {'x': array(3)}, layout=layout)
  content = path.read_bytes()
  rng = np.random.default_rng(1)
  for _ in range(300):
    damaged = bytearray(content)
    damaged[rng.integers(len(damaged))] = rng.integers(256)
    path.write_bytes(bytes(damaged))
    try:
      pretrained.read(path)
    except ValueError as e:
      assert 'a.pth' in str(e)


@pytest.mark.parametrize(
  'name, content, what',
  [
    ('a.pth', b'version https://git-lfs.github.com/spec/v1\n', 'LFS'),
    ('a.safetensors', b'<!DOCTYPE html><html>', 'web page'),
    ('a.bin', b'\x00\x01\x02\x03', 'neither'),
    ('a.h5', b'\x89HDF', r'\.safetensors, \.npz, \.pth'),
    ('a.pth', pickle.dumps({'x': 1}, 2), 'torch'),
  ],
)
def test_foreign_files(tmp_path, name, content, what):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=what):
    pretrained.read(tmp_path / name)


def test_npz_with_objects_is_refused(tmp_path):
  np.savez(tmp_path / 'a.npz', x=np.array([{}], object))
  with pytest.raises(ValueError, match=r'a\.npz'):
    pretrained.read(tmp_path / 'a.npz')


def test_programs_and_tensorless_files(tmp_path):
  path = tmp_path / 'a.pth'
  torch_format.write_zip(path, {'epoch': 1}, {})
  with pytest.raises(ValueError, match='no tensors'):
    pretrained.read(path)
  torch_format.write_zip(path, {}, {}, extra=[('code/m.py', b'')])
  with pytest.raises(ValueError, match='TorchScript'):
    pretrained.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('readme.txt', b'hello')
  with pytest.raises(ValueError, match=r'data\.pkl'):
    pretrained.read(path)


def test_absent_file(tmp_path):
  with pytest.raises(FileNotFoundError, match='none.pth'):
    pretrained.read(tmp_path / 'none.pth')
