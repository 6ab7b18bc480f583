"""The vision tower of BLIP, a ViT-B/16: an image becomes tokens.

  module, variables = vit.load('Salesforce/blip-itm-base-coco')
  tokens = module.apply(variables, image)  # [B, 1 + N, 768]

References:
  Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
  Li et al., BLIP, ICML 2022.
"""

import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import hub, spec
from salflax.models import layers, transformer
from salflax.models.backbones.vit_layers import Embeddings
from salflax.models.weights import pretrained

# Attribute of ViT -> that of transformers' config class.
_CONFIG = transformer.CONFIG | {'size': 'image_size', 'patch': 'patch_size'}
_NAMES = transformer.BlockNames(
  *('layer_norm1', 'self_attn', 'layer_norm2', 'mlp', 'qkv', 'projection')
)
_ORIGINAL = 'visual_encoder.'
_HUGGING_FACE = 'vision_model.'
# The original names (timm's), and those of Hugging Face.
_RENAMED = (
  (r'cls_token', 'embeddings.class_embedding'),
  (r'pos_embed', 'embeddings.position_embedding'),
  (r'patch_embed\.proj\.', 'embeddings.patch_embedding.'),
  (r'blocks\.(\d+)\.norm([12])\.', r'encoder.layers.\1.layer_norm\2.'),
  (r'blocks\.(\d+)\.attn\.qkv\.', r'encoder.layers.\1.self_attn.qkv.'),
  (r'blocks\.(\d+)\.attn\.proj\.', r'encoder.layers.\1.self_attn.projection.'),
  (r'blocks\.(\d+)\.mlp\.', r'encoder.layers.\1.mlp.'),
  (r'norm\.', 'post_layernorm.'),
)


class ViT(nn.Module):
  """An image's tokens: one for the whole, then one for each patch.

  The defaults are BLIP's tower. BLIP was trained on RGB pixels in [0, 1],
  minus (.4815, .4578, .4082), over (.2686, .2613, .2758).

  Attributes:
    hidden_dim: D, width of a token.
    num_layers: number of transformer layers.
    num_heads: attention heads; must divide hidden_dim.
    mlp_dim: width inside the MLPs.
    size: side of the square image that its positions belong to, pixels.
      Images may have another size, in whole patches.
    patch: side of a patch, pixels.
    eps: epsilon of every LayerNorm: 1e-6 in the original code, 1e-5 in the
      published config of Hugging Face.
    dtype: type of the computation; parameters stay float32.
  """

  hidden_dim: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  size: int = 384
  patch: int = 16
  eps: float = 1e-6
  dtype: Any = jnp.float32

  @classmethod
  def load(cls, name: str | os.PathLike, **overrides):
    """Loads the published tower; see `load`."""
    return load(name, **overrides)

  @nn.compact
  def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
    """Computes tokens after the last LayerNorm, f32 [B, 1 + N, D].

    Args:
      image: normalised, [B, H, W, 3].
      train: has no effect, for there is neither dropout nor BatchNorm.

    Raises:
      ValueError: for an image whose sides are not whole patches.
    """
    del train
    self._check(image)
    x = Embeddings(
      *(self.hidden_dim, self.size, self.patch), name='embeddings'
    )(image.astype(self.dtype))
    block = functools.partial(
      transformer.EncoderBlock,
      *(self.num_heads, self.mlp_dim, self.eps, _NAMES),
    )
    x = transformer.Stack(self.num_layers, block, 'layers', name='encoder')(x)
    x = transformer.norm(x, self.eps, 'post_layernorm')
    return x.astype(jnp.float32)

  def _check(self, image: jax.Array) -> None:
    layers.check_positive(
      **{k: getattr(self, k) for k in _CONFIG if k != 'eps'}
    )
    layers.check_heads(self.num_heads, self.hidden_dim)
    if image.ndim != 4 or any(s % self.patch for s in image.shape[1:3]):
      raise ValueError(
        f'An image [B, H, W, 3] with sides in whole patches of {self.patch} '
        f'is needed, found {image.shape}.'
      )


def from_config(
  folder_or_json: str | os.PathLike, **overrides
) -> dict[str, Any]:
  """Reads the attributes of `ViT` that BLIP's config.json stands for.

  Args:
    folder_or_json: the file, its folder, or a name `hub.locate` knows.
    **overrides: attributes of `ViT` that replace the file's.

  Raises:
    FileNotFoundError: where there is no config.json.
    ValueError: for a network that is not BLIP's, or an unknown attribute.
  """
  config = hub.read_config(
    folder_or_json,
    ('blip', 'blip_vision_model'),
    part='vision_config',
    what="vision towers are 'blip'",
    hidden_act='gelu',
  )
  sizes = {name: getattr(config.part, key) for name, key in _CONFIG.items()}
  return sizes | spec.attributes(ViT, overrides)


def load(name: str | os.PathLike, **overrides) -> tuple[ViT, dict[str, Any]]:
  """Loads the vision tower of BLIP with its published weights.

  Takes the files of Hugging Face and the original .pth, whose sizes are in its
  tensors.

  Args:
    name: a weight file, its folder, or a name `hub.locate` knows, such as
      'Salesforce/blip-itm-base-coco'.
    **overrides: attributes of `ViT`, e.g. dtype.

  Returns:
    The module and its variables {'params': ...}.

  Raises:
    FileNotFoundError: where weights are absent, or config.json beside those in
      Hugging Face's names.
    ValueError: where a tensor is missing, left over or of another shape.
  """
  path = hub.locate(
    name, files=pretrained.WEIGHT_FILES, beside=('config.json',)
  )
  state = pretrained.read(path)
  original = any(k.startswith(_ORIGINAL) for k in state)
  state = rename(state)
  if original:
    sizes = _sizes(state, path) | spec.attributes(ViT, overrides)
  else:
    sizes = from_config(name, **overrides)
  module = ViT(**sizes)
  image = jnp.zeros((1, module.patch, module.patch, 3))
  return module, pretrained.fill(module, [image], state, source=str(path))


def rename(state: Mapping[str, Any]) -> dict[str, Any]:
  """Selects the vision tower's tensors of a BLIP file, without their prefix.

  The text side, momentum copies (*_m), queues and heads are left out.

  Args:
    state: Hugging Face's names ('vision_model.') or the original ones
      ('visual_encoder.').
  """
  kept = {}
  for name, tensor in state.items():
    if name.startswith(_HUGGING_FACE):
      kept[name.removeprefix(_HUGGING_FACE)] = tensor
    elif name.startswith(_ORIGINAL):
      name = name.removeprefix(_ORIGINAL)
      for pattern, ours in _RENAMED:
        if re.match(pattern, name):
          name = re.sub(rf'^{pattern}', ours, name)
          break
      kept[name] = tensor
  return kept


def _sizes(state: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """Reads the sizes of the original tower off its tensors."""
  kernel = state.get('embeddings.patch_embedding.weight')
  table = state.get('embeddings.position_embedding')
  mlp = state.get('encoder.layers.0.mlp.fc1.bias')
  if kernel is None or table is None or mlp is None:
    raise ValueError(f'{path} lacks the patches, positions or MLPs of a ViT.')
  dim, patch = kernel.shape[0], kernel.shape[-1]
  return {
    'hidden_dim': dim,
    'num_layers': pretrained.count(state, r'encoder\.layers\.(\d+)\.'),
    'num_heads': max(1, dim // 64),
    'mlp_dim': len(mlp),
    'size': patch * round((table.shape[1] - 1) ** 0.5),
    'patch': patch,
    'eps': 1e-6,
  }
