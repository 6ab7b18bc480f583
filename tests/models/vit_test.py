"""BLIP's vision tower: against PyTorch, its names, its positions, errors."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_format
import weights_rule

from salflax import models
from salflax.models.backbones import vit, vit_layers

DIM, PATCH, SIZE = 32, 16, 64
CONFIG = {
  'model_type': 'blip',
  'vision_config': {
    'hidden_size': DIM,
    'num_hidden_layers': 2,
    'num_attention_heads': 2,
    'intermediate_size': 64,
    'image_size': SIZE,
    'patch_size': PATCH,
  },
}


def _shapes():
  shapes = {
    'embeddings.class_embedding': (1, 1, DIM),
    'embeddings.position_embedding': (1, 17, DIM),
    'embeddings.patch_embedding.weight': (DIM, 3, PATCH, PATCH),
    'embeddings.patch_embedding.bias': (DIM,),
    'post_layernorm.weight': (DIM,),
    'post_layernorm.bias': (DIM,),
  }
  for i in range(2):
    layer = f'encoder.layers.{i}'
    for name, out, into in (
      ('self_attn.qkv', 3 * DIM, DIM),
      ('self_attn.projection', DIM, DIM),
      ('mlp.fc1', 64, DIM),
      ('mlp.fc2', DIM, 64),
    ):
      shapes[f'{layer}.{name}.weight'] = (out, into)
      shapes[f'{layer}.{name}.bias'] = (out,)
    for name in ('layer_norm1', 'layer_norm2'):
      shapes[f'{layer}.{name}.weight'] = (DIM,)
      shapes[f'{layer}.{name}.bias'] = (DIM,)
  return {f'vision_model.{name}': shape for name, shape in shapes.items()}


def _state(seed=7):
  shapes = _shapes() | {
    'vision_proj.weight': (6, DIM),
    'vision_proj.bias': (6,),
  }

  def fill(name, shape):
    # The rule gives tables of positions their usual scale by this name.
    name = name + 's' if name.endswith('position_embedding') else name
    return weights_rule.tensor(name, shape, seed=seed)

  state = {name: fill(name, shape) for name, shape in shapes.items()}
  # Parts of the file that the tower is not made of.
  state['text_encoder.embeddings.LayerNorm.weight'] = np.ones(4, np.float32)
  state['itm_head.bias'] = np.ones(2, np.float32)
  return state


def _original(state):
  """Puts the tensors under the names of the original .pth."""
  for pattern, name in (
    (r'embeddings\.class_embedding', 'cls_token'),
    (r'embeddings\.position_embedding', 'pos_embed'),
    (r'embeddings\.patch_embedding', 'patch_embed.proj'),
    (r'encoder\.layers\.(\d+)\.layer_norm', r'blocks.\1.norm'),
    (r'encoder\.layers\.(\d+)\.self_attn\.qkv', r'blocks.\1.attn.qkv'),
    (r'encoder\.layers\.(\d+)\.self_attn\.projection', r'blocks.\1.attn.proj'),
    (r'encoder\.layers', 'blocks'),
    (r'post_layernorm', 'norm'),
    (r'vision_model', 'visual_encoder'),
  ):
    state = {re.sub(pattern, name, k): v for k, v in state.items()}
  momentum = {
    k.replace('visual_encoder.', 'visual_encoder_m.'): v + 1
    for k, v in state.items()
    if 'visual_encoder.' in k
  }
  queue = {'image_queue': np.ones((6, 3), np.float32)}
  return state | momentum | queue


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = tmp_path_factory.mktemp('blip')
  safetensors.numpy.save_file(_state(), path / 'model.safetensors')
  (path / 'config.json').write_text(json.dumps(CONFIG))
  return path


@pytest.fixture(scope='module')
def loaded(folder):
  return vit.load(folder)


def _images():
  rng = np.random.default_rng(0)
  return (
    rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32),
    rng.uniform(-1, 1, (1, 96, 48, 3)).astype(np.float32),
  )


def test_tokens_equal_pytorchs(loaded, goldens):
  module, variables = loaded
  golden = np.load(goldens / 'blip_vision_rule.npz')
  square, oblong = _images()
  apply = jax.jit(module.apply)
  tokens = apply(variables, square)
  assert tokens.shape == (2, 17, DIM)
  np.testing.assert_allclose(tokens, golden['tokens'], atol=1e-5)
  # Six by three patches: the positions are interpolated.
  np.testing.assert_allclose(
    apply(variables, oblong), golden['oblong'], atol=1e-5
  )


def test_the_original_names_give_the_same_tower(loaded, tmp_path):
  path = tmp_path / 'model_base_retrieval_coco.pth'
  torch_format.save(path, _original(_state()))
  # Heads are 64 wide in every published tower, not in this one.
  module, variables = vit.load(path, num_heads=2)
  assert (module.eps, module.size) == (1e-6, SIZE)
  jax.tree.map(np.testing.assert_array_equal, variables, loaded[1])


def test_epsilon_is_the_files(folder, tmp_path):
  assert vit.from_config(folder)['eps'] == 1e-5
  config = CONFIG | {'vision_config': {'layer_norm_eps': 1e-6}}
  (tmp_path / 'config.json').write_text(json.dumps(config))
  assert vit.from_config(tmp_path)['eps'] == 1e-6
  assert vit.from_config(tmp_path, eps=1e-3)['eps'] == 1e-3


def test_blip_has_the_published_size():
  module = models.VISION_TOWERS['vit']()
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 288, 384, 3))
  )
  count = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))
  assert count == 86_090_496  # of transformers' BlipVisionModel at 384
  tokens = jax.eval_shape(module.apply, shapes, jnp.zeros((1, 288, 384, 3)))
  assert tokens.shape == (1, 1 + 18 * 24, 768)


@pytest.mark.parametrize('new', [1, 3, 4, 7])
def test_interpolated_positions_keep_level_and_symmetry(new):
  matrix = vit_layers.bicubic_matrix(4, new)
  np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
  np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)
  if new == 4:
    np.testing.assert_array_equal(matrix, np.eye(4))


def test_bfloat16_computes_in_half_and_answers_in_float32(loaded):
  module, variables = loaded
  square, _ = _images()
  full = jax.jit(module.apply)(variables, square)
  half = jax.jit(module.clone(dtype='bfloat16').apply)(variables, square)
  assert half.dtype == jnp.float32
  assert 0 < np.abs(half - full).max() < 0.1


def test_missing_tensors_are_named(tmp_path, folder):
  state = _state()
  state.pop('vision_model.encoder.layers.1.mlp.fc2.bias')
  safetensors.numpy.save_file(state, tmp_path / 'model.safetensors')
  config = (folder / 'config.json').read_text()
  (tmp_path / 'config.json').write_text(config)
  with pytest.raises(ValueError, match='layers_1/mlp/fc2/bias'):
    vit.load(tmp_path)


def test_what_is_wrong_is_named(loaded, tmp_path):
  module, variables = loaded
  with pytest.raises(ValueError, match='whole patches of 16'):
    module.apply(variables, jnp.zeros((1, 64, 60, 3)))
  with pytest.raises(ValueError, match='num_heads=5'):
    module.clone(num_heads=5).apply(variables, jnp.zeros((1, 64, 64, 3)))
  with pytest.raises(ValueError, match='patch=0: a size'):
    module.clone(patch=0).apply(variables, jnp.zeros((1, 64, 64, 3)))
  path = tmp_path / 'config.json'
  path.write_text(json.dumps({'model_type': 'bert'}))
  with pytest.raises(ValueError, match="'bert'"):
    vit.from_config(path)
  path.write_text(json.dumps(CONFIG))
  with pytest.raises(ValueError, match="Did you mean 'num_layers'"):
    vit.from_config(path, num_layer=3)
