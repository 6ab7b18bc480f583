"""BERT as a text encoder: bert-base, MiniLM and the text tower of BLIP.

One post-norm transformer encoder (Devlin et al. 2019) with sizes from the
checkpoint's config.json. Scopes are named after the published weights, e.g.
encoder/layer_3/attention/self/query. There is no dropout: the encoder is
frozen by default, and fine-tuned gently if at all.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax import spec
from salflax.models.layers import TextFeatures

POOLS = ('cls', 'mean', 'pooler')
# Masked logits: their exponential is 0 beside any real one, yet a row that is
# masked throughout stays finite.
MASKED = -1e9


class Embeddings(nn.Module):
  """Word, position and token-type embeddings, added and normalised."""

  vocab_size: int
  hidden_dim: int
  max_len: int
  type_vocab: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:  # [B, L] -> [B, L, D]
    def table(size, name):
      return nn.Embed(
        size,
        self.hidden_dim,
        dtype=self.dtype,
        embedding_init=nn.initializers.normal(0.02),
        name=name,
      )

    x = table(self.vocab_size, 'word_embeddings')(tokens)
    positions = jnp.arange(tokens.shape[1])[None]  # [1, L]
    x = x + table(self.max_len, 'position_embeddings')(positions)
    if self.type_vocab:
      types = jnp.zeros((1, 1), jnp.int32)  # every sentence is the first one
      x = x + table(self.type_vocab, 'token_type_embeddings')(types)
    return _norm(self.eps, self.dtype)(x)


class SelfAttention(nn.Module):
  """Multi-head attention of a sentence to itself, without output layer."""

  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    batch, length, dim = x.shape
    heads = (batch, length, self.num_heads, dim // self.num_heads)

    def project(name):
      return _dense(dim, self.dtype, name)(x).reshape(heads)

    query, key, value = project('query'), project('key'), project('value')
    logits = jnp.einsum('bqhd,bkhd->bhqk', query, key).astype(jnp.float32)
    logits = logits / heads[-1] ** 0.5
    logits = jnp.where(mask[:, None, None, :], logits, MASKED)
    weights = nn.softmax(logits).astype(value.dtype)
    return jnp.einsum('bhqk,bkhd->bqhd', weights, value).reshape(x.shape)


class Output(nn.Module):
  """LayerNorm(residual + dense(x)), which closes both halves of a layer."""

  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
    x = _dense(residual.shape[-1], self.dtype, 'dense')(x)
    return _norm(self.eps, self.dtype)(residual + x)


class Attention(nn.Module):
  """Self-attention and its output layer."""

  num_heads: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    y = SelfAttention(self.num_heads, self.dtype, name='self')(x, mask)
    return Output(self.eps, self.dtype, name='output')(y, x)


class Intermediate(nn.Module):
  """The widening half of the MLP, with the exact (erf) GELU."""

  mlp_dim: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = _dense(self.mlp_dim, self.dtype, 'dense')(x)
    return nn.gelu(x, approximate=False)


class Layer(nn.Module):
  """One post-norm transformer layer."""

  num_heads: int
  mlp_dim: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    attend = Attention(self.num_heads, self.eps, self.dtype, name='attention')
    x = attend(x, mask)
    y = Intermediate(self.mlp_dim, self.dtype, name='intermediate')(x)
    return Output(self.eps, self.dtype, name='output')(y, x)


class Encoder(nn.Module):
  """The stack of layers."""

  num_layers: int
  num_heads: int
  mlp_dim: int
  eps: float
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    for i in range(self.num_layers):
      x = Layer(
        self.num_heads, self.mlp_dim, self.eps, self.dtype, name=f'layer_{i}'
      )(x, mask)
    return x


class Pooler(nn.Module):
  """BERT's own sentence vector: tanh of a linear map of [CLS]."""

  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:  # [B, D]
    return nn.tanh(_dense(x.shape[-1], self.dtype, 'dense')(x))


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
    eps: of every LayerNorm.
    pool: sentence vector: 'cls' (the first token), 'mean' (over real tokens),
      'pooler' (the trained layer on the first token).
    normalize: scale the sentence vector to length 1.
    proj_dim: S, width of a linear map of the sentence vector (BLIP's
      text_proj, 256); None for no map, S = D.
    dtype: of the computation; parameters stay float32.
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

  @nn.compact
  def __call__(
    self, tokens: jax.Array, token_mask: jax.Array, *, train: bool = False
  ) -> TextFeatures:
    """Returns token vectors f32 [B, L, D] and sentence vectors f32 [B, S].

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
    x = Encoder(
      *(self.num_layers, self.num_heads, self.mlp_dim, self.eps, self.dtype),
      name='encoder',
    )(x, mask)
    sentence = self._pooled(x, mask)
    if self.proj_dim is not None:
      sentence = _dense(self.proj_dim, self.dtype, 'text_proj')(sentence)
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
      return Pooler(self.dtype, name='pooler')(x[:, 0])
    weight = mask[:, :, None].astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight, axis=1), 1)
    return jnp.sum(x * weight, axis=1) / count

  def _check(self, tokens: jax.Array, mask: jax.Array) -> None:
    if self.pool not in POOLS:
      raise spec.unknown('pool', self.pool, POOLS)
    if self.hidden_dim % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must divide hidden_dim={self.hidden_dim}.'
      )
    if tokens.ndim != 2 or tokens.shape != mask.shape:
      raise ValueError(
        f'tokens {tokens.shape} and token_mask {mask.shape} must both be '
        '[B, L].'
      )
    if tokens.shape[1] > self.max_len:
      raise ValueError(
        f'{tokens.shape[1]} tokens are more than max_len={self.max_len}.'
      )


def _dense(features: int, dtype: Any, name: str) -> nn.Dense:
  init = nn.initializers.normal(0.02)
  return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)


def _norm(eps: float, dtype: Any) -> nn.LayerNorm:
  # The fast variance, E[x^2] - E[x]^2, loses digits that eps 1e-12 needs.
  return nn.LayerNorm(
    epsilon=eps, dtype=dtype, use_fast_variance=False, name='LayerNorm'
  )
