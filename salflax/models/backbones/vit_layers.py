"""The layers of BLIP's vision tower, named after its published weights."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salflax.models import layers


def norm(eps: float, dtype: Any, **kwargs) -> nn.LayerNorm:
  """Returns the normalisation of the last axis."""
  return nn.LayerNorm(
    epsilon=eps, dtype=dtype, use_fast_variance=False, **kwargs
  )


def bicubic_matrix(old: int, new: int) -> np.ndarray:
  """Returns f32 [new, old], PyTorch's bicubic interpolation of one axis.

  Cubic convolution with a = -0.75, pixel centres at the halves
  (align_corners=False), the border repeated, no smoothing when it shrinks.
  """
  at = (np.arange(new) + 0.5) * old / new - 0.5
  first = np.floor(at).astype(int) - 1
  a, matrix = -0.75, np.zeros((new, old))
  for k in range(4):
    d = np.abs(at - (first + k))
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((d - 5) * d + 8) * d * a - 4 * a
    rows, columns = np.arange(new), np.clip(first + k, 0, old - 1)
    np.add.at(matrix, (rows, columns), np.where(d <= 1, near, far))
  return matrix.astype(np.float32)


class Embeddings(nn.Module):
  """Patches as tokens behind a learned first one, with positions.

  The table of positions belongs to a square of `size` pixels. For other
  pictures its grid is resized bicubically, as DeiT and BLIP do.

  Attributes:
    hidden_dim: width of a token.
    size: side of the picture that the table was trained for, pixels.
    patch: side of a patch, pixels.
    dtype: what it computes in.
  """

  hidden_dim: int
  size: int
  patch: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Returns [B, 1 + N, D] of image [B, H, W, 3]."""
    p, d = self.patch, self.hidden_dim
    b, height, width, _ = image.shape
    h, w = height // p, width // p
    # A convolution whose stride is its size is one matrix product.
    x = image.astype(self.dtype).reshape(b, h, p, w, p, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * w, -1)
    kernel = _PatchKernel(d, p, name='patch_embedding')
    x = kernel(x, dtype=self.dtype)
    init, grid = nn.initializers.normal(0.02), self.size // p
    first = self.param('class_embedding', init, (1, 1, d))
    table = self.param('position_embedding', init, (1, 1 + grid * grid, d))
    cells = table[0, 1:]
    if (h, w) != (grid, grid):
      cells = jnp.einsum(
        'hi,wj,ijd->hwd',
        bicubic_matrix(grid, h),
        bicubic_matrix(grid, w),
        cells.reshape(grid, grid, d),
      ).reshape(h * w, d)
    x = x + cells[None].astype(self.dtype)
    first = (first + table[:, :1]).astype(self.dtype)
    return jnp.concatenate([jnp.broadcast_to(first, (b, 1, d)), x], axis=1)


class _PatchKernel(nn.Module):
  """The kernel [p, p, 3, D] of the patches' convolution, on flat patches."""

  features: int
  patch: int

  @nn.compact
  def __call__(self, x: jax.Array, *, dtype: Any) -> jax.Array:
    p, d = self.patch, self.features
    shape = (p, p, x.shape[-1] // (p * p), d)
    kernel = self.param('kernel', nn.initializers.normal(0.02), shape)
    bias = self.param('bias', nn.initializers.zeros, (d,))
    y = x @ kernel.reshape(-1, d).astype(dtype)
    return y + layers.channels(bias.astype(dtype), y)


class SelfAttention(nn.Module):
  """Multi-head self-attention; one linear map makes q, k and v.

  Attributes:
    heads: number of heads.
    dtype: what it computes in.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    d = x.shape[-1]
    qkv = layers.Dense(3 * d, dtype=self.dtype, name='qkv')(x)
    y = layers.attention(*jnp.split(qkv, 3, axis=-1), heads=self.heads)
    return layers.Dense(d, dtype=self.dtype, name='projection')(y)


class Layer(nn.Module):
  """Pre-norm transformer layer: x + Attn(LN(x)), then x + MLP(LN(x)).

  Attributes:
    heads: number of attention heads.
    mlp_dim: width inside the MLP.
    eps: of the LayerNorms.
    dtype: what it computes in.
  """

  heads: int
  mlp_dim: int
  eps: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    y = norm(self.eps, self.dtype, name='layer_norm1')(x)
    x = x + SelfAttention(self.heads, self.dtype, name='self_attn')(y)
    y = norm(self.eps, self.dtype, name='layer_norm2')(x)
    return x + layers.Mlp(self.mlp_dim, dtype=self.dtype, name='mlp')(y)


class Encoder(nn.Module):
  """The stack of layers."""

  num_layers: int
  heads: int
  mlp_dim: int
  eps: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for i in range(self.num_layers):
      layer = (self.heads, self.mlp_dim, self.eps, self.dtype)
      x = Layer(*layer, name=f'layers_{i}')(x)
    return x
