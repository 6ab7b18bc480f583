"""The vision tower of BLIP, a ViT-B/16: a picture becomes tokens.

  module, variables = vit.load('Salesforce/blip-itm-base-coco')
  tokens = module.apply(variables, image)  # [B, 1 + N, 768]

References:
  Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021.
  Li et al., BLIP, ICML 2022.
"""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import hub, spec
from salflax.models import layers
from salflax.models.backbones.vit_layers import Embeddings, Encoder, norm
from salflax.models.weights import pretrained

WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')

# Attribute of ViT, key of config.json's vision_config, the value of Hugging
# Face's class where the file is silent.
_CONFIG = (
  ('hidden_dim', 'hidden_size', 768),
  ('num_layers', 'num_hidden_layers', 12),
  ('num_heads', 'num_attention_heads', 12),
  ('mlp_dim', 'intermediate_size', 3072),
  ('size', 'image_size', 384),
  ('patch', 'patch_size', 16),
  ('eps', 'layer_norm_eps', 1e-5),
)
_ORIGINAL = 'visual_encoder.'
_HUGGING_FACE = 'vision_model.'
# The original names (timm's), and what Hugging Face made of them.
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
  """A picture's tokens: one for the whole, then one for each patch.

  The defaults are BLIP's tower. BLIP was trained on RGB pixels in [0, 1],
  minus (.4815, .4578, .4082), over (.2686, .2613, .2758).

  Attributes:
    hidden_dim: D, width of a token.
    num_layers: number of transformer layers.
    num_heads: attention heads; must divide hidden_dim.
    mlp_dim: width inside the MLPs.
    size: side of the square picture that its positions belong to, pixels.
      Pictures may have another size, in whole patches.
    patch: side of a patch, pixels.
    eps: of every LayerNorm: 1e-6 in the original code, 1e-5 in the published
      config of Hugging Face.
    proj_dim: width of `embed` (BLIP's vision_proj, 256); None for none.
    dtype: of the computation; parameters stay float32.
  """

  hidden_dim: int = 768
  num_layers: int = 12
  num_heads: int = 12
  mlp_dim: int = 3072
  size: int = 384
  patch: int = 16
  eps: float = 1e-6
  proj_dim: int | None = None
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts, which both methods share."""
    self.embeddings = Embeddings(
      self.hidden_dim, self.size, self.patch, self.dtype
    )
    self.encoder = Encoder(
      *(self.num_layers, self.num_heads, self.mlp_dim, self.eps, self.dtype)
    )
    self.post_layernorm = norm(self.eps, self.dtype)
    if self.proj_dim is not None:
      self.vision_proj = layers.Dense(self.proj_dim, dtype=self.dtype)

  def __call__(self, image: jax.Array, *, train: bool = False) -> jax.Array:
    """Returns tokens after the last LayerNorm, f32 [B, 1 + N, D].

    Args:
      image: normalised, [B, H, W, 3].
      train: has no effect, for there is neither dropout nor BatchNorm.

    Raises:
      ValueError: for a picture that is not made of whole patches.
    """
    del train
    self._check(image)
    x = self.post_layernorm(self.encoder(self.embeddings(image)))
    x = x.astype(jnp.float32)
    if self.proj_dim is not None and self.is_initializing():
      self.embed(x)
    return x

  def embed(self, tokens: jax.Array) -> jax.Array:
    """Returns f32 [B, proj_dim] of length 1, to compare with a sentence's.

    Args:
      tokens: as `__call__` returns them; the first is read.
    """
    if self.proj_dim is None:
      raise ValueError('A vision tower without proj_dim has no embedding.')
    x = self.vision_proj(tokens[:, 0]).astype(jnp.float32)
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))

  def _check(self, image: jax.Array) -> None:
    if self.hidden_dim % self.num_heads:
      raise ValueError(
        f'num_heads={self.num_heads} must divide hidden_dim={self.hidden_dim}.'
      )
    if image.ndim != 4 or any(s % self.patch for s in image.shape[1:3]):
      raise ValueError(
        f'A picture [B, H, W, 3] with sides in whole patches of {self.patch} '
        f'is needed, found {image.shape}.'
      )


def from_config(
  folder_or_json: str | os.PathLike, **overrides
) -> dict[str, Any]:
  """Returns the attributes of `ViT` that BLIP's config.json stands for.

  Args:
    folder_or_json: the file, its folder, or a name `hub.locate` knows.
    **overrides: attributes of `ViT` that replace the file's.

  Raises:
    FileNotFoundError: where there is no config.json.
    ValueError: for a network that is not BLIP's, or an unknown attribute.
  """
  path = hub.locate(folder_or_json, files=('config.json',))
  config = hub.read_json(path)
  kind = str(config.get('model_type', ''))
  if kind not in ('blip', 'blip_vision_model'):
    raise ValueError(f"{path} describes a {kind!r}; vision towers are 'blip'.")
  vision = config.get('vision_config') or config
  if vision.get('hidden_act', 'gelu') != 'gelu':
    raise ValueError(f"{path}: hidden_act {vision['hidden_act']!r} isn't gelu.")
  sizes = {name: vision.get(key, default) for name, key, default in _CONFIG}
  return sizes | spec.attributes(ViT, overrides)


def load(
  name: str | os.PathLike, *, proj: bool = False, **overrides
) -> tuple[ViT, dict[str, Any]]:
  """Returns the vision tower of BLIP with its published weights.

  Takes the files of Hugging Face and the original .pth, whose sizes are in its
  tensors.

  Args:
    name: a weight file, its folder, or a name `hub.locate` knows, such as
      'Salesforce/blip-itm-base-coco'.
    proj: whether `vision_proj` is loaded too.
    **overrides: attributes of `ViT`, e.g. dtype.

  Returns:
    The module and its variables {'params': ...}.

  Raises:
    FileNotFoundError: where weights are absent, or config.json beside those in
      Hugging Face's names.
    ValueError: where a tensor is missing, left over or of another shape.
  """
  path = hub.locate(name, files=WEIGHT_FILES, beside=('config.json',))
  state = pretrained.read(path)
  original = any(k.startswith(_ORIGINAL) for k in state)
  state = rename(state)
  if original:
    sizes = _sizes(state, path) | spec.attributes(ViT, overrides)
  else:
    sizes = from_config(name, **overrides)
  if proj:
    width = state.get('vision_proj.bias')
    sizes['proj_dim'] = 256 if width is None else len(width)
  if sizes.get('proj_dim') is None:
    state = {k: v for k, v in state.items() if 'vision_proj.' not in k}
  module = ViT(**sizes)
  side = module.patch
  shapes = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, side, side, 3))
  )
  loaded = pretrained.convert(state)
  return module, pretrained.merge(shapes, loaded, source=str(path))


def rename(state: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the vision tower's tensors of a BLIP file, without their prefix.

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
    elif name.startswith('vision_proj.'):
      kept[name] = tensor
  return kept


def _sizes(state: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """Returns the sizes of the original tower, from its tensors."""
  kernel = state.get('embeddings.patch_embedding.weight')
  table = state.get('embeddings.position_embedding')
  mlp = state.get('encoder.layers.0.mlp.fc1.bias')
  if kernel is None or table is None or mlp is None:
    raise ValueError(f'{path} lacks the patches, positions or MLPs of a ViT.')
  dim, patch = kernel.shape[0], kernel.shape[-1]
  layer = re.compile(r'encoder\.layers\.(\d+)\.')
  return {
    'hidden_dim': dim,
    'num_layers': len({m[1] for m in map(layer.match, state) if m}),
    'num_heads': max(1, dim // 64),
    'mlp_dim': len(mlp),
    'size': patch * round((table.shape[1] - 1) ** 0.5),
    'patch': patch,
    'eps': 1e-6,
  }
