"""The transformer's layers, for all networks that have one.

Published networks give the parts of a block names of their own, so blocks take
names. Parameters are float32 and laid out as in `layers`.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from salflax.models.layers import Dense

# Our names of a transformer's sizes, and those in the configs of transformers.
CONFIG = {
  'hidden_dim': 'hidden_size',
  'num_layers': 'num_hidden_layers',
  'num_heads': 'num_attention_heads',
  'mlp_dim': 'intermediate_size',
  'eps': 'layer_norm_eps',
}


def attention(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  heads: int,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Attends by scaled dot products, with a float32 softmax.

  Args:
    query: [B, N, D].
    key: [B, M, D].
    value: [B, M, D].
    heads: number of heads; divides D.
    mask: bool [B, M], False for keys that must not count. A row without any
      True attends to all alike.

  Returns:
    [B, N, D].

  Raises:
    ValueError: if `heads` does not divide D.
  """
  d = query.shape[-1]
  if heads < 1 or d % heads:
    raise ValueError(f'{heads} heads do not divide a width of {d}.')
  query, key, value = (
    x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value)
  )
  if jax.default_backend() == 'cpu':
    y = _head_by_head(query, key, value, mask)
  else:
    where = None if mask is None else mask[:, None, None]
    y = jax.nn.dot_product_attention(query, key, value, mask=where)
  return y.reshape(*y.shape[:2], d)


def _head_by_head(query, key, value, mask):
  """Attends as `attention`, for [B, N, heads, D / heads].

  Every head of every image comes by itself, and its weights are computed again
  for the gradient, not kept: 1,728 image tokens take 12 MB instead of 95 MB an
  image and layer. On a CPU it is also faster (docs/performance.md).
  """
  b, n, heads, d = query.shape
  if mask is None:
    mask = jnp.ones(key.shape[:2], bool)
  parts = [jnp.moveaxis(x, 2, 1) for x in (query * d**-0.5, key, value)]
  if isinstance(b, int):
    parts.append(jnp.broadcast_to(mask[:, None], (b, heads, mask.shape[1])))
    parts = [x.reshape(b * heads, *x.shape[2:]) for x in parts]
    y = jax.lax.map(lambda head: jax.checkpoint(_attend)(*head), parts)
    y = y.reshape(b, heads, n, d)
  else:
    # An export for any number of images: a loop needs its own number, and the
    # converter to ONNX no gradient.
    parts = [jnp.moveaxis(x, 1, 0) for x in parts]
    y = jax.lax.map(lambda head: _attend(*head, mask), parts)
    y = jnp.moveaxis(y, 0, 1)
  return jnp.moveaxis(y, 1, 2)


def _attend(query, key, value, mask):
  """Attends with one head: [..., N, d], [..., M, d] twice, bool [..., M]."""
  turned = jnp.swapaxes(key, -1, -2)
  scores = jnp.matmul(query, turned, preferred_element_type=jnp.float32)
  # Finite, so that a row without any key stays free of NaN.
  scores = jnp.where(mask[..., None, :], scores, -1e30)
  return jax.nn.softmax(scores).astype(value.dtype) @ value


class SelfAttention(nn.Module):
  """Multi-head self-attention, [B, N, D] -> [B, N, D], `mask` as `attention`.

  Attributes:
    heads: number of heads.
    qkv: name of the one linear map that makes query, key and value; '' for
      three of those names.
    out: name of the linear map at the end; '' for none.
  """

  heads: int
  qkv: str = ''
  out: str = 'out'

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    d = x.shape[-1]
    dense = lambda name, width=d: Dense(width, name=name)
    if self.qkv:
      parts = jnp.split(dense(self.qkv, 3 * d)(x), 3, axis=-1)
    else:
      parts = [dense(name)(x) for name in ('query', 'key', 'value')]
    y = attention(*parts, heads=self.heads, mask=mask)
    return dense(self.out)(y) if self.out else y


def gelu(x: jax.Array) -> jax.Array:
  """Computes PyTorch's GELU, the exact one; Flax defaults to the tanh form."""
  return nn.gelu(x, approximate=False)


class Mlp(nn.Module):
  """Two linear maps with a GELU between, [..., D] -> [..., features].

  Attributes:
    hidden_dim: width between the two.
    features: output width; None is the input's.
  """

  hidden_dim: int
  features: int | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    options = dict(
      kernel_init=nn.initializers.xavier_uniform(),
      bias_init=nn.initializers.normal(1e-6),
    )
    features = self.features or x.shape[-1]
    x = Dense(self.hidden_dim, **options, name='fc1')(x)
    return Dense(features, **options, name='fc2')(gelu(x))


def norm(x: jax.Array, eps: float, name: str) -> jax.Array:
  """Normalises the last axis."""
  # The fast variance, E[x^2] - E[x]^2, loses digits that eps 1e-12 needs.
  layer = nn.LayerNorm(
    epsilon=eps, dtype=x.dtype, use_fast_variance=False, name=name
  )
  return layer(x)


class BlockNames(NamedTuple):
  """Names of an `EncoderBlock`'s parts in published weights; TranSalNet's."""

  norm1: str = 'attention_norm'
  attention: str = 'attn'
  norm2: str = 'ffn_norm'
  mlp: str = 'ffn'
  qkv: str = ''
  out: str = 'out'


class EncoderBlock(nn.Module):
  """Pre-norm transformer block: x + Attn(LN(x)), then x + MLP(LN(x)).

  Tokens [B, N, D], and `mask` bool [B, N] for keys that count, None for all.

  Attributes:
    heads: number of attention heads.
    mlp_dim: width inside the MLP.
    eps: epsilon of the LayerNorms.
    names: names of the parts.
  """

  heads: int
  mlp_dim: int
  eps: float = 1e-6
  names: BlockNames = BlockNames()

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    names = self.names
    attend = SelfAttention(
      self.heads, names.qkv, names.out, name=names.attention
    )
    x = x + attend(norm(x, self.eps, names.norm1), mask)
    y = norm(x, self.eps, names.norm2)
    x = x + Mlp(self.mlp_dim, name=names.mlp)(y)
    return checkpoint_name(x, 'block')


class Stack(nn.Module):
  """Blocks one after another, each called with the one before's tokens.

  Attributes:
    number: number of blocks.
    block: function that makes a block of a name.
    prefix: name of a block, before its number.
  """

  number: int
  block: Any
  prefix: str

  @nn.compact
  def __call__(self, x: jax.Array, *args) -> jax.Array:
    for i in range(self.number):
      x = self.block(name=f'{self.prefix}_{i}')(x, *args)
    return x
