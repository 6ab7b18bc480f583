"""The layers of BERT, with scopes named after the published weights.

Post-norm transformer encoder of Devlin et al. 2019 (arXiv 1810.04805).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.models import layers, transformer


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
    table = functools.partial(
      nn.Embed,
      features=self.hidden_dim,
      dtype=self.dtype,
      embedding_init=nn.initializers.normal(0.02),
    )
    x = table(self.vocab_size, name='word_embeddings')(tokens)
    positions = jnp.arange(tokens.shape[1])[None]  # [1, L]
    x = x + table(self.max_len, name='position_embeddings')(positions)
    if self.type_vocab:
      types = jnp.zeros((1, 1), jnp.int32)  # every sentence is the first one
      x = x + table(self.type_vocab, name='token_type_embeddings')(types)
    return transformer.norm(x, self.eps, 'LayerNorm')


class Output(nn.Module):
  """LayerNorm(residual + dense(x)), which closes both halves of a layer."""

  eps: float

  @nn.compact
  def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
    x = layers.Dense(residual.shape[-1], name='dense')(x)
    return transformer.norm(residual + x, self.eps, 'LayerNorm')


class Attention(nn.Module):
  """Self-attention and its output layer."""

  num_heads: int
  eps: float

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    attend = transformer.SelfAttention(self.num_heads, out='', name='self')
    y = attend(x, mask)
    return Output(self.eps, name='output')(y, x)


class Activated(nn.Module):
  """A linear map, `dense`, and what follows it: a GELU, or the pooler's tanh.

  PyTorch's GELU is the exact one.
  """

  features: int
  activation: Any

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dense = layers.Dense(self.features, name='dense')
    return self.activation(dense(x))


class Layer(nn.Module):
  """One post-norm transformer layer."""

  num_heads: int
  mlp_dim: int
  eps: float

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    attend = Attention(self.num_heads, self.eps, name='attention')
    x = attend(x, mask)
    widen = Activated(self.mlp_dim, transformer.gelu, name='intermediate')
    return Output(self.eps, name='output')(widen(x), x)
