"""The transformer encoder that TranSalNet puts on each of its levels.

Reference:
  Lou et al., TranSalNet: Towards perceptually relevant visual saliency
    prediction, Neurocomputing 2022.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.models import layers, transformer


class TransEncoder(nn.Module):
  """1x1 convolution, learned positions, pre-norm transformer, LayerNorm.

  Attributes:
    width: D.
    depth: number of blocks.
    head_dim: channels per attention head; divides `width`.
    mlp_ratio: width inside the MLP, in widths.
  """

  width: int
  depth: int = 2
  head_dim: int = 64
  mlp_ratio: int = 4

  @nn.compact
  def __call__(
    self, x: jax.Array, at: Mapping[str, Callable] | None = None
  ) -> jax.Array:
    """Encodes features [B, h, w, C] as [B, h, w, D].

    Args:
      x: [B, h, w, C].
      at: functions of [B, h, w, D] by the points of `fusion.FORMS`. 'patches'
        and 'cells' return it changed, before and after positions are added;
        'token' a token [B, 1, D] that goes through the blocks in front of the
        cells, and whether each row may attend to it, bool [B, 1].
    """
    at, same = at or {}, lambda x: x
    x = layers.Conv(self.width, 1, name='patch_embeddings')(x)
    x = at.get('patches', same)(x)
    b, h, w, d = x.shape
    table = self.param(
      'position_embeddings', nn.initializers.zeros, (1, h * w, d)
    )
    x = x + table.astype(x.dtype).reshape(1, h, w, d)
    x, mask = at.get('cells', same)(x), None
    y = x.reshape(b, h * w, d)
    if 'token' in at:
      token, counts = at['token'](x)
      y = jnp.concatenate([token, y], 1)
      mask = jnp.pad(counts, ((0, 0), (0, h * w)), constant_values=True)
    for i in range(self.depth):
      y = transformer.EncoderBlock(
        d // self.head_dim,
        d * self.mlp_ratio,
        name=f'layer_{i}',
      )(y, mask)
    y = nn.LayerNorm(epsilon=1e-6, dtype=y.dtype, name='encoder_norm')(y)
    return y[:, -h * w :].reshape(b, h, w, d)
