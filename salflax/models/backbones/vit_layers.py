"""The layers of BLIP's vision tower, named after its published weights."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from salflax.models import layers


def bicubic_matrix(old: int, new: int) -> np.ndarray:
  """Computes PyTorch's bicubic interpolation of one axis, f32 [new, old].

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
  images its grid is resized bicubically, as DeiT and BLIP do.

  Attributes:
    hidden_dim: width of a token.
    size: side of the image that the table was trained for, pixels.
    patch: side of a patch, pixels.
  """

  hidden_dim: int
  size: int
  patch: int

  @nn.compact
  def __call__(self, image: jax.Array) -> jax.Array:
    """Embeds image [B, H, W, 3] as [B, 1 + N, D]."""
    p, d = self.patch, self.hidden_dim
    b, height, width, _ = image.shape
    h, w = height // p, width // p
    init, grid = nn.initializers.normal(0.02), self.size // p
    x = layers.Conv(
      *(d, p, p, 0),
      kernel_init=init,
      bias_init=nn.initializers.zeros,
      name='patch_embedding',
    )(image).reshape(b, h * w, d)
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
    x = x + cells[None].astype(x.dtype)
    first = (first + table[:, :1]).astype(x.dtype)
    return jnp.concatenate([jnp.broadcast_to(first, (b, 1, d)), x], axis=1)
