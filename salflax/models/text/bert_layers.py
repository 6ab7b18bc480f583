"""The layers of BERT, with scopes named after the published weights.

Post-norm transformer encoder of Devlin et al. 2019 (arXiv 1810.04805).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# Masked logits: their exponential is 0 beside any real one, yet a row that is
# masked throughout stays finite.
MASKED = -1e9


def dense(features: int, dtype: Any, name: str) -> nn.Dense:
  """Returns a linear layer with BERT's initialisation."""
  init = nn.initializers.normal(0.02)
  return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)


def norm(eps: float, dtype: Any) -> nn.LayerNorm:
  """Returns the normalisation of the last axis."""
  # The fast variance, E[x^2] - E[x]^2, loses digits that eps 1e-12 needs.
  return nn.LayerNorm(
    epsilon=eps, dtype=dtype, use_fast_variance=False, name='LayerNorm'
  )


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
    return norm(self.eps, self.dtype)(x)


class SelfAttention(nn.Module):
  """Multi-head attention of a sentence to itself, without output layer."""

  num_heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    batch, length, dim = x.shape
    heads = (batch, length, self.num_heads, dim // self.num_heads)

    def project(name):
      return dense(dim, self.dtype, name)(x).reshape(heads)

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
    x = dense(residual.shape[-1], self.dtype, 'dense')(x)
    return norm(self.eps, self.dtype)(residual + x)


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
    x = dense(self.mlp_dim, self.dtype, 'dense')(x)
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
    return nn.tanh(dense(x.shape[-1], self.dtype, 'dense')(x))
