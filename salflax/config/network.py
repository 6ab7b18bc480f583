"""A model record becomes a network, what it starts from, and its tokenizer."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salflax import models
from salflax.core import hub, spec
from salflax.data import pp
from salflax.data.tokenizer import Tokenizer
from salflax.models.backbones import vgg, vit
from salflax.models.text import bert
from salflax.models.weights import pretrained, published

_BACKBONE_FILES = (
  'model.safetensors',
  'pytorch_model.bin',
  'resnet50-0676ba61.pth',
  'vgg16-397923af.pth',
)
_WHOLE_FILES = ('TranSalNet_Res.safetensors', 'TranSalNet_Res.pth')


def make(node: Mapping, dtype: Any):
  """Returns (model, weights, tokenizer) of a model record.

  Args:
    node: for `models.build`; `weights` of the backbone, the text encoder and
      the whole say what they start from, `skip` which tensors a file may lack
      or have too many; `length` of the text encoder is that of its tokens.
    dtype: what the network computes in.

  Returns:
    The module; (scope, function that loads variables, patterns to skip) for
    everything that has weights; a Tokenizer, or None without text.

  Raises:
    ValueError: for an unknown name, or a sentence's entry without a sentence.
    FileNotFoundError: for weights that are not there.
  """
  node = dict(node, dtype=dtype)
  backbone, text = dict(node['backbone']), dict(node['text'])
  weights, tokenizer = [], None
  if whole := node.pop('weights', ''):
    whole = hub.locate(whole, files=_WHOLE_FILES)
    weights.append(
      (
        '',
        functools.partial(_load_whole, str(whole)),
        (r'[^/]+/(text|contrast|fusion_\d+)/.*',),
      )
    )
  path, skip = backbone.pop('weights', ''), tuple(backbone.pop('skip', ()))
  kind = text.get('name', 'none')
  spec.lookup('text encoder', {'bert': bert.Bert, 'none': None}, kind)
  if kind == 'none':
    for key in ('fuse', 'gate'):
      if node.get(key):
        raise ValueError(
          f'model.{key}={node[key]!r} joins a sentence, but model.text is '
          "'none': give it a text encoder, or leave it out."
        )
    node.pop('text', None)
  else:
    source, length = text.pop('weights'), text.pop('length', 35)
    text.pop('name')
    node['text'], variables, folder = bert.load(source, dtype=dtype, **text)
    tokenizer = Tokenizer(folder, length)
  model = models.build(dict(node, backbone=backbone))
  if path:
    path = hub.locate(path, files=_BACKBONE_FILES)
    load = functools.partial(_load_backbone, str(path))
    # Published files go on to the classifier, whatever the network needs.
    weights.append(('backbone', load, (*model.backbone.unused(), *skip)))
  if tokenizer is not None:
    weights.append(('text', lambda: variables, ()))
  return model, tuple(weights), tokenizer


def make_tower(node: Mapping, dtype: Any):
  """Returns (module, weights) of a record for what looks at masked pictures.

  Args:
    node: {'name': 'backbone'} for the network's own backbone, of which there is
      no second; else a name in `models.VISION_TOWERS` or `models.BACKBONES`,
      `weights` and `skip` as in `make`, and attributes.
    dtype: what it computes in.
  """
  node = dict(node)
  towers = {'backbone': None, **models.BACKBONES, **models.VISION_TOWERS}
  name = node.get('name', '')
  spec.lookup('name of vision', towers, name)
  path, skip = node.pop('weights', ''), tuple(node.pop('skip', ()))
  if name == 'backbone':
    if path or skip or len(node) > 1:
      raise ValueError(
        "vision: 'backbone' is the network's own, with its weights and "
        f'attributes; found {sorted({*node, *(["weights"] if path else [])})}.'
      )
    return None, ()
  if name == 'vit' and path:
    node.pop('name')
    given = spec.attributes(vit.ViT, {'dtype': dtype, **node})
    module, variables = vit.load(path, **given)
    return module, (('contrast/vision', lambda: variables, ()),)
  taps = {} if name in models.VISION_TOWERS else {'taps': ('1/32',)}
  module = spec.build(towers, dict(taps, dtype=dtype, **node), kind='vision')
  if not path:
    return module, ()
  load = functools.partial(
    _load_backbone, str(hub.locate(path, files=_BACKBONE_FILES))
  )
  return module, (('contrast/vision', load, (*module.unused(), *skip)),)


def make_features(
  node: Mapping[str, Any], backbone: Mapping[str, Any] | None = None
) -> Callable | None:
  """Returns the fixed network of perceptual losses; None without weights.

  Args:
    node: {'weights': VGG-16's, 'normalize': how they expect pixels}. An empty
      one is that of a run that is only read: nothing may be asked of it.
    backbone: record of the network's, whose weights '@backbone' stands for.

  Returns:
    (maps [B, H, W] in [0, 1]) -> VGG-16's outputs after each of its five
    poolings, [[B, h, w, C], ...]. A map is a grey picture.

  Raises:
    ValueError: for an unknown normalization, weights that do not fit, or
      '@backbone' where that is no VGG-16.
    FileNotFoundError: for weights that are not there.
  """
  if not node:
    return _without_weights
  _, mean, std = spec.lookup(
    'normalization of perceptual', pp.NORMALIZATIONS, node['normalize']
  )
  weights, own = node['weights'], backbone or {}
  if weights == '@backbone':
    if own.get('name') != 'vgg16':
      raise ValueError(
        "perceptual.weights='@backbone' takes those of the network's own "
        f'VGG-16, but its backbone is {own.get("name")!r}: name a file.'
      )
    weights = own.get('weights', '')
  if not weights:
    return None
  path = hub.locate(weights, files=_BACKBONE_FILES)
  given = _load_backbone(path)
  first = given['params'].get('features_0', {}).get('kernel', np.zeros(64))
  taps = tuple(f'pool{i}' for i in range(1, 6))
  module = vgg.VGG16(taps=taps, width=first.shape[-1])
  abstract = jax.eval_shape(
    module.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))
  )
  loaded = pretrained.merge(
    {'params': {'backbone': abstract['params']}},
    given,
    at='backbone',
    skip=module.unused(),
    source=str(path),
  )
  params = loaded['params']['backbone']

  mean, std = (np.reshape(np.float32(x), (1, 1, 1, 3)) for x in (mean, std))

  def features(maps):
    # The barrier keeps the compiler from computing with the weights for
    # minutes, as it would with other constants.
    variables = {'params': jax.lax.optimization_barrier(params)}
    grey = jnp.repeat(255 * maps[..., None], 3, -1)
    found = module.apply(variables, (grey - mean) / std)
    return [found[tap] for tap in taps]

  return features


def _without_weights(pred):
  raise ValueError('A run that is only read has no weights for its loss.')


def _load_backbone(path):
  return pretrained.convert(pretrained.read(path))


def _load_whole(path):
  state = published.rename(pretrained.read(path))
  return pretrained.convert(state)
