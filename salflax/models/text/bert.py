"""BERT as a text encoder: bert-base, MiniLM and the text tower of BLIP.

One network with sizes from the checkpoint's config.json:

  module, variables, folder = bert.load('all-MiniLM-L6-v2')
  ids, mask = tokenizer.Tokenizer(folder)(['a red umbrella'])
  features = module.apply(variables, ids, mask)

There is no dropout: the encoder is frozen by default, and fine-tuned gently if
at all.
"""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salflax.core import files, hub, spec
from salflax.models import layers, transformer
from salflax.models.layers import TextFeatures
from salflax.models.text.bert_layers import Activated, Embeddings, Layer
from salflax.models.weights import pretrained

POOLS = ('cls', 'mean', 'pooler')
TOKENIZER_FILES = ('tokenizer.json', 'vocab.txt')
# BLIP and bert-base share their word pieces with this package.
UNCASED = ('all-MiniLM-L6-v2', 'bert-base-uncased')

# Attribute of Bert -> that of transformers' config classes.
_CONFIG = transformer.CONFIG | {
  'vocab_size': 'vocab_size',
  'max_len': 'max_position_embeddings',
}
# BLIP's text tower, whatever config.json says: some published copies state 8
# heads (huggingface/transformers #22625), and none has token types.
_BLIP = dict(num_heads=12, type_vocab=0, pool='cls', normalize=True)
_BLIP_WORDS = 'text_encoder.embeddings.word_embeddings.weight'


class Bert(nn.Module):
  """Sentences to vectors, one per word piece and one per sentence.

  Attributes:
    vocab_size: number of word pieces.
    hidden_dim: D, width of a token vector.
    num_layers: number of transformer layers.
    num_heads: attention heads; must divide hidden_dim.
    mlp_dim: width of the hidden layer of the MLPs.
    max_len: longest sentence, in word pieces.
    type_vocab: rows of the token-type table, of which the first is used;
      0 for none (BLIP).
    eps: epsilon of every LayerNorm.
    pool: sentence vector: 'cls' (the first token), 'mean' (over real tokens),
      'pooler' (the trained layer on the first token).
    normalize: scale the sentence vector to length 1.
    proj_dim: S, width of a linear map of the sentence vector (BLIP's
      text_proj, 256); None for no map, S = D.
    dtype: type of the computation; parameters stay float32.
  """

  vocab_size: int = 30522
  hidden_dim: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  max_len: int = 512
  type_vocab: int = 2
  eps: float = 1e-12
  pool: str = 'cls'
  normalize: bool = False
  proj_dim: int | None = None
  dtype: Any = jnp.float32

  @classmethod
  def load(cls, name: str | os.PathLike, **overrides):
    """Loads a published encoder; see `load`."""
    return load(name, **overrides)

  @nn.compact
  def __call__(
    self, tokens: jax.Array, token_mask: jax.Array, *, train: bool = False
  ) -> TextFeatures:
    """Computes token vectors f32 [B, L, D] and sentence vectors f32 [B, S].

    Args:
      tokens: i32 [B, L], word pieces.
      token_mask: bool [B, L], True for real ones. A row without any gives
        finite values: its mean is zero.
      train: has no effect, for there is neither dropout nor BatchNorm.
    """
    del train
    self._check(tokens, token_mask)
    mask = token_mask.astype(bool)
    x = Embeddings(
      *(self.vocab_size, self.hidden_dim, self.max_len, self.type_vocab),
      *(self.eps, self.dtype),
      name='embeddings',
    )(tokens)
    layer = functools.partial(Layer, self.num_heads, self.mlp_dim, self.eps)
    encoder = transformer.Stack(self.num_layers, layer, 'layer', name='encoder')
    x = encoder(x, mask)
    sentence = self._pooled(x, mask)
    if self.proj_dim is not None:
      project = layers.Dense(self.proj_dim, name='text_proj')
      sentence = project(sentence.astype(self.dtype))
    sentence = sentence.astype(jnp.float32)
    if self.normalize:
      square = jnp.sum(sentence**2, axis=-1, keepdims=True)
      # Inside the root, so that a zero vector has a finite gradient.
      sentence = sentence * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
    return TextFeatures(x.astype(jnp.float32), mask, sentence)

  def _pooled(self, x: jax.Array, mask: jax.Array) -> jax.Array:  # [B, D]
    if self.pool == 'cls':
      return x[:, 0]
    if self.pool == 'pooler':
      return Activated(self.hidden_dim, nn.tanh, name='pooler')(x[:, 0])
    weight = mask[:, :, None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight, axis=1), 1)
    return jnp.sum(x * weight, axis=1) / count

  def _check(self, tokens: jax.Array, mask: jax.Array) -> None:
    spec.lookup('pool', POOLS, self.pool)
    layers.check_positive(
      **{k: getattr(self, k) for k in _CONFIG if k != 'eps'}
    )
    layers.check_heads(self.num_heads, self.hidden_dim)
    if tokens.ndim != 2 or tokens.shape != mask.shape:
      raise ValueError(
        f'tokens {tokens.shape} and token_mask {mask.shape} must both be '
        '[B, L].'
      )
    if tokens.shape[1] > self.max_len:
      raise ValueError(
        f'{tokens.shape[1]} tokens are more than max_len={self.max_len}.'
      )


def from_config(
  folder_or_json: str | os.PathLike, **overrides
) -> dict[str, Any]:
  """Reads the attributes of `Bert` that a config.json stands for.

  A folder of sentence-transformers also says how its sentence vector is pooled
  (1_Pooling/config.json, modules.json).

  Args:
    folder_or_json: the file, its folder, or a name `hub.locate` knows.
    **overrides: attributes of `Bert` that replace the file's.

  Raises:
    FileNotFoundError: where there is no config.json.
    ValueError: for a network that is not BERT's, or an unknown attribute.
  """
  config = hub.read_config(
    folder_or_json,
    ('bert', 'blip', 'blip_text_model'),
    part='text_config',
    what="text encoders are 'bert' and 'blip'",
    default='bert',
    hidden_act='gelu',
    position_embedding_type='absolute',
  )
  text = config.part
  sizes = {name: getattr(text, key) for name, key in _CONFIG.items()}
  if config.kind == 'bert':
    sizes['type_vocab'] = text.type_vocab_size
    sizes |= _pooling(config.path.parent)
  else:
    whole = config.whole
    proj = getattr(whole, 'image_text_hidden_size', text.projection_dim)
    sizes |= {**_BLIP, 'proj_dim': proj}
  return sizes | spec.attributes(Bert, overrides)


def _pooling(folder: pathlib.Path) -> dict[str, Any]:
  """Reads how sentence-transformers pools a sentence vector, if it does."""
  path = folder / '1_Pooling' / 'config.json'
  if not path.is_file():
    return {}
  mean = files.read_json(path).get('pooling_mode_mean_tokens')
  modules = folder / 'modules.json'
  steps = files.read_json(modules, kind=list) if modules.is_file() else []
  normalize = any(str(m.get('type')).endswith('Normalize') for m in steps)
  return {'pool': 'mean' if mean else 'cls', 'normalize': normalize}


def load(
  name: str | os.PathLike, **overrides
) -> tuple[Bert, dict[str, Any], pathlib.Path]:
  """Loads a text encoder with its published weights.

  Takes BERT (with and without the prefix 'bert.', LayerNorm as weight and bias
  or gamma and beta), MiniLM, and the text tower of BLIP (Hugging Face's files
  and the original .pth, whose config never differs).

  Args:
    name: a weight file, its folder, or a name `hub.locate` knows, such as
      'all-MiniLM-L6-v2'.
    **overrides: attributes of `Bert`, e.g. pool='mean'.

  Returns:
    The module, its variables {'params': ...}, and the folder for `Tokenizer`.

  Raises:
    FileNotFoundError: where weights or config.json are absent.
    ValueError: where a tensor is missing, left over or of another shape.
  """
  beside = ('config.json', TOKENIZER_FILES[0])
  path = hub.locate(name, files=pretrained.WEIGHT_FILES, beside=beside)
  state = pretrained.read(path)
  blip = _BLIP_WORDS in state
  try:
    attributes = from_config(name, **overrides)
  except FileNotFoundError:
    if not blip:
      raise
    attributes = _blip_sizes(state) | spec.attributes(Bert, overrides)
  if blip != (attributes['type_vocab'] == 0):
    raise ValueError(
      f'{path} holds {"BLIP" if blip else "BERT"}, but its config.json '
      'describes the other.'
    )
  module = Bert(**attributes)
  inputs = jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), bool)
  state = _text_only(state, module)
  variables = pretrained.fill(module, inputs, state, source=str(path))
  return module, variables, _tokenizer_folder(name, path)


def _blip_sizes(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """Reads the sizes of BLIP's text tower off its tensors."""
  vocab, dim = state[_BLIP_WORDS].shape
  wide = state.get('text_encoder.encoder.layer.0.intermediate.dense.bias')
  proj = state.get('text_proj.bias')
  places = state.get('text_encoder.embeddings.position_embeddings.weight')
  # What the file lacks keeps the usual size, and `merge` names it.
  return _BLIP | {
    'vocab_size': vocab,
    'hidden_dim': dim,
    'num_layers': pretrained.count(
      state, r'text_encoder\.encoder\.layer\.(\d+)\.'
    ),
    'mlp_dim': 4 * dim if wide is None else len(wide),
    'max_len': 512 if places is None else len(places),
    'proj_dim': None if proj is None else len(proj),
  }


def variables_of(
  state: Mapping[str, np.ndarray], module: Bert
) -> dict[str, Any]:
  """Converts the tensors of a published file; none is compared or missed."""
  return pretrained.convert(_text_only(state, module))


def _text_only(
  state: Mapping[str, np.ndarray], module: Bert
) -> dict[str, np.ndarray]:
  """Selects the tensors that the module has, without their prefix.

  Left out are heads ('cls.'), an unused pooler, and of BLIP the image side,
  the momentum copies (*_m), the queues, and the cross-attention that reads
  images. Everything else stays, so that `merge` can name it.
  """
  blip = module.type_vocab == 0
  prefix = 'text_encoder.' if blip else 'bert.'
  kept = {}
  for name, tensor in state.items():
    if name.startswith(prefix):
      name = name.removeprefix(prefix)
    elif blip and not name.startswith('text_proj.'):
      continue
    if name.startswith('cls.') or '.crossattention.' in name:
      continue
    if name.startswith('pooler.') and module.pool != 'pooler':
      continue
    if name.startswith('text_proj.') and module.proj_dim is None:
      continue
    kept[name] = tensor
  return kept


def _tokenizer_folder(
  name: str | os.PathLike, weights: pathlib.Path
) -> pathlib.Path:
  """Looks up the folder of the vocabulary.

  The original BLIP is one .pth, with bert-base's word pieces; beside a
  config.json another network's vocabulary would give wrong words.
  """
  places = [name]
  if not weights.with_name('config.json').is_file():
    places += UNCASED
  for place in places:
    try:
      return hub.locate(place, files=TOKENIZER_FILES).parent
    except FileNotFoundError:
      continue
  raise FileNotFoundError(
    f'The text encoder {name} has no vocabulary: put its '
    f'{" or ".join(TOKENIZER_FILES)} beside {weights}.'
  )
