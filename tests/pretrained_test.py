"""Weight files: what is read, what is refused, how names and shapes go."""

import json
import os
import pickle
import struct
import time
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch_format
from torch_format import View

from salflax import hub
from salflax.models import pretrained

RNG = np.random.default_rng(0)
LAYOUTS = sorted(torch_format.WRITERS)


def _array(*shape, dtype=np.float32):
  return RNG.normal(size=shape).astype(dtype)


def _resnet_like():
  return {
    'conv1.weight': _array(4, 3, 7, 7),
    'layer1.0.conv1.weight': _array(5, 4, 1, 1),
    'layer1.0.bn1.weight': _array(5),
    'layer1.0.bn1.bias': _array(5),
    'layer1.0.bn1.running_mean': _array(5),
    'layer1.0.bn1.running_var': _array(5),
    'layer1.0.bn1.num_batches_tracked': np.zeros((), np.int64),
    'layer1.0.downsample.0.weight': _array(8, 4, 1, 1),
    'layer1.0.downsample.1.weight': _array(8),
    'fc.weight': _array(2, 8),
    'fc.bias': _array(2),
  }


def _assert_same(got, want):
  assert sorted(got) == sorted(want)
  for name in want:
    np.testing.assert_array_equal(got[name], want[name], err_msg=name)
    assert got[name].shape == np.shape(want[name]), name


# Reading.


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin'])
def test_reads_both_torch_layouts(tmp_path, layout, suffix):
  state = _resnet_like()
  path = tmp_path / f'weights{suffix}'
  torch_format.save(path, state, layout=layout)
  _assert_same(pretrained.read(path), state)


def test_reads_safetensors_and_npz(tmp_path):
  state = _resnet_like()
  safetensors.numpy.save_file(state, tmp_path / 'a.safetensors')
  np.savez(tmp_path / 'a.npz', **state)
  _assert_same(pretrained.read(tmp_path / 'a.safetensors'), state)
  _assert_same(pretrained.read(tmp_path / 'a.npz'), state)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, layout, dtype):
  x = _array(3, 4, dtype=dtype)
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
  _assert_same(
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
  x = _array(2, 3)
  node = {'epoch': 3, 'name': 'best', key: {'a.w': torch_format.whole('0', x)}}
  torch_format.WRITERS[layout](tmp_path / 'a.pth', node, {'0': x})
  _assert_same(pretrained.read(tmp_path / 'a.pth'), {'a.w': x})


# Refusing.


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
  x = _array(2)
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
  torch_format.write_zip(tmp_path / 'a.pth', {'x': view}, {'0': _array(4)})
  with pytest.raises(ValueError, match='size'):
    pretrained.read(tmp_path / 'a.pth')


def _write(path, kind):
  state = _resnet_like()
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


@pytest.mark.parametrize('layout', LAYOUTS)
def test_damaged_files_give_no_other_error(tmp_path, layout):
  path = tmp_path / 'a.pth'
  torch_format.save(path, {'x': _array(3)}, layout=layout)
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


# Converting.


def test_names_and_layouts():
  state = _resnet_like()
  out = pretrained.convert(state)
  params, stats = out['params'], out['batch_stats']
  block = params['layer1_0']
  np.testing.assert_array_equal(
    params['conv1']['kernel'], state['conv1.weight'].transpose(2, 3, 1, 0)
  )
  np.testing.assert_array_equal(params['fc']['kernel'], state['fc.weight'].T)
  assert sorted(block) == ['bn1', 'conv1', 'downsample_0', 'downsample_1']
  assert block['downsample_0']['kernel'].shape == (1, 1, 4, 8)
  assert sorted(block['bn1']) == ['bias', 'scale']
  assert sorted(stats['layer1_0']['bn1']) == ['mean', 'var']


def test_names_of_bert():
  layer = 'encoder.layer.3.attention'
  state = {
    'embeddings.position_ids': np.arange(5)[None],
    'embeddings.word_embeddings.weight': _array(7, 4),
    'embeddings.LayerNorm.gamma': _array(4),
    'embeddings.LayerNorm.beta': _array(4),
    f'{layer}.self.query.weight': _array(4, 4),
  }
  out = pretrained.convert(
    {f'bert.{k}': v for k, v in state.items()}, prefix='bert'
  )
  words = out['params']['embeddings']['word_embeddings']['embedding']
  np.testing.assert_array_equal(
    words, state['embeddings.word_embeddings.weight']
  )
  assert sorted(out['params']['embeddings']) == ['LayerNorm', 'word_embeddings']
  assert sorted(out['params']['embeddings']['LayerNorm']) == ['bias', 'scale']
  query = out['params']['encoder']['layer_3']['attention']['self']['query']
  np.testing.assert_array_equal(
    query['kernel'], state[f'{layer}.self.query.weight'].T
  )
  assert out['batch_stats'] == {}


def test_prefix_keeps_only_what_is_under_it():
  state = {'a.x.weight': _array(2), 'ab.x.weight': _array(2), 'y': _array(1)}
  assert list(pretrained.convert(state, prefix='a')['params']) == ['x']
  with pytest.raises(ValueError, match="'ab'"):
    pretrained.convert(state, prefix='abb')


def test_data_parallel_prefix_is_dropped():
  state = {f'module.{k}': v for k, v in _resnet_like().items()}
  assert 'conv1' in pretrained.convert(state)['params']


# Merging.


def _variables():
  return pretrained.convert(_resnet_like())


def test_merge_takes_every_loaded_tensor_and_keeps_types():
  have = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.bfloat16), _variables())
  loaded = _variables()
  merged = pretrained.merge(have, loaded)
  assert jax.tree.structure(merged) == jax.tree.structure(have)
  for got, want in zip(
    jax.tree.leaves(merged), jax.tree.leaves(loaded), strict=True
  ):
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, want.astype(ml_dtypes.bfloat16))


def test_merge_under_a_scope_leaves_the_rest():
  loaded = _variables()
  head = {'kernel': np.ones((2, 2), np.float32)}
  have = {
    'params': {'backbone': _variables()['params'], 'head': head},
    'batch_stats': {'backbone': _variables()['batch_stats']},
  }
  merged = pretrained.merge(have, loaded, at='backbone')
  got = merged['params']['backbone']['conv1']['kernel']
  np.testing.assert_array_equal(got, loaded['params']['conv1']['kernel'])
  assert merged['params']['head']['kernel'] is head['kernel']
  with pytest.raises(ValueError, match='no scope .*backbone'):
    pretrained.merge(have, loaded, at='backbon')


def test_merge_names_missing_extra_and_reshaped():
  have, loaded = _variables(), _variables()
  loaded['params']['fcc'] = loaded['params'].pop('fc')
  loaded['params']['conv1']['kernel'] = np.zeros((3, 3, 3, 4))
  with pytest.raises(ValueError) as e:
    pretrained.merge(have, loaded, source='some.pth')
  text = str(e.value)
  assert 'some.pth' in text
  assert 'params/fc/kernel (nearest: params/fcc/kernel)' in text
  assert 'params/fcc/bias (nearest: params/fc/bias)' in text
  assert '(3, 3, 3, 4) in the file, (7, 7, 3, 4) in the network' in text


def test_merge_lists_eight_and_counts_the_rest():
  have = {'params': {f'a{i}': {'w': np.zeros(1)} for i in range(20)}}
  with pytest.raises(ValueError, match='and 12 more') as e:
    pretrained.merge(have, {'params': {}})
  assert str(e.value).count('params/a') == 8


def test_skip_excepts_whole_paths():
  have, loaded = _variables(), _variables()
  loaded['params'].pop('fc')
  loaded['params']['other'] = {'bias': np.zeros(3)}
  with pytest.raises(ValueError, match='params/fc/'):
    pretrained.merge(have, loaded, skip=('params/other/.*', 'params/fc'))
  skip = ('params/other/.*', 'params/fc/.*')
  merged = pretrained.merge(have, loaded, skip=skip)
  assert 'other' not in merged['params']
  np.testing.assert_array_equal(
    merged['params']['fc']['bias'], have['params']['fc']['bias']
  )


def test_wrong_network_is_recognised_within_a_second(tmp_path):
  dims = [3, 64, 64, 128, 128, 256, 256, 256]
  vgg = {
    f'features.{2 * i}.weight': np.zeros((o, c, 3, 3), np.float16)
    for i, (c, o) in enumerate(zip(dims, dims[1:], strict=False))
  }
  path = tmp_path / 'vgg.safetensors'
  safetensors.numpy.save_file(vgg, path)
  start = time.monotonic()
  with pytest.raises(ValueError, match='VGG, the network is ResNet') as e:
    pretrained.load(_variables(), path)
  assert time.monotonic() - start < 1
  assert 'vgg.safetensors' in str(e.value)


@pytest.mark.data
def test_real_weights_are_told_apart(shared):
  folder = shared / 'weights'
  vgg = pretrained.read(folder / 'vgg16_imagenet_caffe_fp16.safetensors')
  resnet = pretrained.read(
    folder / 'resnet50_v1_imagenet_caffe_to_layer3_fp16.safetensors'
  )
  assert pretrained.family(vgg) == 'VGG'
  assert pretrained.family(resnet) == 'ResNet'
  assert {x.dtype for x in vgg.values()} == {np.dtype(np.float32)}
  with pytest.raises(ValueError, match='looks like VGG'):
    pretrained.merge(pretrained.convert(resnet), pretrained.convert(vgg))


# Finding.


def test_locate_files_and_folders(tmp_path, monkeypatch):
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path))
  folder = tmp_path / 'org' / 'net'
  folder.mkdir(parents=True)
  (folder / 'model.safetensors').touch()
  (folder / 'other.pth').touch()
  (folder / 'config.json').touch()
  files = ('model.safetensors', 'pytorch_model.bin')
  weights = folder / 'model.safetensors'
  assert hub.locate(folder, files=files) == weights
  assert hub.locate('org/net', files=files) == weights
  assert hub.locate(weights, files=files) == weights
  config = folder / 'config.json'
  assert hub.locate(folder / 'other.pth', files=('config.json',)) == config
  assert hub.locate(config, files=files) == weights
  with pytest.raises(FileNotFoundError, match=r'vocab\.txt.*it holds config'):
    hub.locate(folder, files=('vocab.txt',))
  with pytest.raises(FileNotFoundError, match='Did you mean .*other.pth'):
    hub.locate(folder / 'othr.pth', files=files)


@pytest.mark.parametrize(
  'name', ['timm/resnet50.tv_in1k', 'bert-base-uncased', 'not a name!']
)
def test_absent_weights_fail_soon_and_say_what_to_do(
  tmp_path, monkeypatch, name
):
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path))
  monkeypatch.setattr(hub, '_reachable', lambda _: False)
  with pytest.raises(FileNotFoundError) as e:
    hub.locate(name, files=('model.safetensors',), beside=('config.json',))
  if '!' in name:
    assert 'neither' in str(e.value)
  else:
    assert f'{tmp_path / name}' in str(e.value)
    assert 'model.safetensors, config.json' in str(e.value)


def test_an_unreachable_hub_is_noticed_within_seconds(monkeypatch):
  monkeypatch.delenv('HTTPS_PROXY', raising=False)
  monkeypatch.delenv('https_proxy', raising=False)
  start = time.monotonic()
  assert not hub._reachable('https://salflax.invalid')
  assert time.monotonic() - start < 2 * hub.TIMEOUT
