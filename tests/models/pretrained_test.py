"""Published weights: how names and shapes go, and what must fit."""

import json
import struct
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_format import array, resnet_like

from salflax.models.weights import pretrained


def test_names_and_layouts():
  state = resnet_like()
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
    'embeddings.word_embeddings.weight': array(7, 4),
    'embeddings.LayerNorm.gamma': array(4),
    'embeddings.LayerNorm.beta': array(4),
    f'{layer}.self.query.weight': array(4, 4),
  }
  out = pretrained.convert(state)
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


def test_data_parallel_prefix_is_dropped():
  state = {f'module.{k}': v for k, v in resnet_like().items()}
  assert 'layer1_0' in pretrained.convert(state)['params']


def _variables():
  return pretrained.convert(resnet_like())


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
    pretrained.merge(
      _variables(), pretrained.convert(pretrained.read(path)), source=str(path)
    )
  assert time.monotonic() - start < 1
  assert 'vgg.safetensors' in str(e.value)


@pytest.mark.data
def test_real_weights_are_recognised(shared):
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


@pytest.mark.parametrize(
  'values, fault',
  [
    (np.array(['0.0123', '1']), 'type str'),
    (np.array([1, 2j], np.complex64), 'type complex64'),
    (np.array([1, 2]), 'type int64'),
    (np.array([1, 0], bool), 'type bool'),
    (np.array([1, np.nan], np.float32), 'NaN'),
    (np.array([1, -np.inf], np.float16), 'NaN or infinite'),
    (np.array([1, 1e300]), 'beyond 3.4e.38'),
    (np.array([b'a', b'b']), 'type bytes'),
  ],
)
def test_what_is_no_weights_is_refused_by_name(tmp_path, values, fault):
  np.savez(tmp_path / 'w.npz', **{'fc.bias': values})
  loaded = pretrained.convert(pretrained.read(tmp_path / 'w.npz'))
  shape = jax.ShapeDtypeStruct((2,), jnp.float32)
  have = {'params': {'fc': {'bias': shape}}, 'batch_stats': {}}
  with pytest.raises(ValueError, match=f'params/fc/bias: .*{fault}'):
    pretrained.merge(have, loaded)
  # What is not taken may be anything.
  pretrained.merge(have, loaded, skip=('.*/fc/.*',))


def test_wide_floats_become_narrow(tmp_path):
  np.savez(tmp_path / 'w.npz', bias=np.array([1e38, 1e-300]))
  have = {'params': {'bias': np.zeros(2, np.float32)}}
  loaded = pretrained.convert(pretrained.read(tmp_path / 'w.npz'))
  got = pretrained.merge(have, loaded)['params']['bias']
  assert got.dtype == np.float32
  np.testing.assert_array_equal(got, np.float32([1e38, 0]))


@pytest.mark.parametrize('kind', ['F8_E4M3', 'F8_E5M2'])
def test_types_of_eight_bits_are_named(tmp_path, kind):
  entry = {'dtype': kind, 'shape': [8], 'data_offsets': [0, 8]}
  head = json.dumps({'fc.weight': entry}).encode()
  head += b' ' * (-len(head) % 8)
  path = tmp_path / 'w.safetensors'
  path.write_bytes(struct.pack('<Q', len(head)) + head + bytes(8))
  with pytest.raises(ValueError, match=f'w.safetensors: fc.weight .*{kind}'):
    pretrained.read(path)
