"""A model record becomes a network, what it starts from, and its tokenizer."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from salflax import models
from salflax.core import files, hub, paths, spec
from salflax.data import pp
from salflax.data.tokenizer import Tokenizer
from salflax.models.backbones import vgg
from salflax.models.weights import pretrained, published

BACKBONE_FILES = (
  *pretrained.WEIGHT_FILES,
  'resnet50-0676ba61.pth',
  'vgg16-397923af.pth',
  'efficientnet-lite0-57934424.pth',
  'efficientnet-lite1-77cc7160.pth',
  'efficientnet-lite2-9656183e.pth',
)
WHOLE_FILES = ('TranSalNet_Res.safetensors', 'TranSalNet_Res.pth')
# Attributes of the text encoder, in the folder of `save_text`.
_TEXT_FILE = 'text.json'


def make(node: Mapping, dtype: Any, *, saved: str | os.PathLike = ''):
  """Builds (model, weights, tokenizer) of a model record.

  Args:
    node: for `models.build`; `weights` of the backbone, the text encoder and
      the whole say what they start from, `skip` which tensors a file may lack
      or have too many; `length` of the text encoder is that of its tokens.
    dtype: type of the computation.
    saved: folder of `save_text`, for a network whose variables come from a
      checkpoint: no weights are read. Where it has no text encoder, the
      original files of that tell its sizes.

  Returns:
    The module; (scope, function that loads variables, patterns to skip) for
    everything that has weights; a Tokenizer, or None without text.

  Raises:
    ValueError: for an unknown name, or a sentence's entry without a sentence.
    FileNotFoundError: for weights that are not there.
  """
  node = dict(node, dtype=dtype)
  backbone, weights = dict(node['backbone']), []
  whole, path = node.pop('weights', ''), backbone.pop('weights', '')
  skip = tuple(backbone.pop('skip', ()))
  text, variables, tokenizer = _make_text(node, dtype, saved)
  # A network that cannot read has no such attribute.
  reading = {k: v for k, v in node.items() if k != 'text'}
  reading |= {'text': text} if text is not None else {}
  model = models.build(dict(reading, backbone=backbone))
  if saved:
    return model, (), tokenizer
  if whole:
    load = functools.partial(_load_whole, hub.locate(whole, files=WHOLE_FILES))
    weights.append(('', load, (r'[^/]+/(text|contrast|fusion_\d+)/.*',)))
  if path:
    weights.append(_backbone_weights('backbone', path, model.backbone, skip))
  if tokenizer is not None:
    weights.append(('text', lambda: variables, ()))
  return model, tuple(weights), tokenizer


def _make_text(node: Mapping, dtype: Any, saved: str | os.PathLike):
  """Builds (text encoder, its variables, its tokenizer), or (None,) * 3."""
  text = dict(node['text'])
  name, source = text.pop('name', 'none'), text.pop('weights', '')
  table = {'none': None, **models.TEXT_ENCODERS}
  encoder = spec.lookup('text encoder', table, name)
  if encoder is None:
    for key in ('fuse', 'gate'):
      if node.get(key):
        raise ValueError(
          f'model.{key}={node[key]!r} joins a sentence, but model.text is '
          "'none': give it a text encoder, or leave it out."
        )
    return None, None, None
  length, variables = text.pop('length', 35), None
  saved = saved and files.local_copy(saved)
  path = pathlib.Path(saved, _TEXT_FILE)
  if saved and path.is_file():
    attributes = dict(files.read_json(path), name=name, dtype=dtype)
    module, folder = spec.build(table, attributes, kind=str(path)), saved
  else:
    module, variables, folder = encoder.load(source, dtype=dtype, **text)
  tokenizer = Tokenizer(folder, length)
  if tokenizer.vocab_size > module.vocab_size:
    raise ValueError(
      f'The tokenizer in {folder} has {tokenizer.vocab_size} word pieces, the '
      f'text encoder {source} only {module.vocab_size}.'
    )
  return module, variables, tokenizer


def save_text(
  model: Any, tokenizer: Tokenizer | None, folder: str | os.PathLike
) -> None:
  """Writes what `make(..., saved=folder)` needs: text.json, tokenizer.json.

  Args:
    model: network of `make`; one without text writes nothing.
    tokenizer: tokenizer of `make`.
    folder: folder of the files, new or not.
  """
  if tokenizer is None:
    return
  names = {f.name for f in dataclasses.fields(model.text)}
  attributes = {
    k: getattr(model.text, k)
    for k in sorted(names - {'parent', 'name', 'dtype'})
  }
  tokenizer.save(folder)
  files.write_text(paths.path(folder) / _TEXT_FILE, json.dumps(attributes))


def make_tower(node: Mapping, dtype: Any):
  """Builds (module, weights) of a record for what looks at masked images.

  Args:
    node: {'name': 'backbone'} for the network's own backbone, of which there is
      no second; else a name in `models.VISION_TOWERS` or `models.BACKBONES`,
      `weights` and `skip` as in `make`, and attributes.
    dtype: type of the computation.
  """
  node = dict(node)
  towers = {'backbone': None, **models.BACKBONES, **models.VISION_TOWERS}
  name = node.get('name', '')
  tower = spec.lookup('name of vision', towers, name)
  path, skip = node.pop('weights', ''), tuple(node.pop('skip', ()))
  if tower is None:
    if path or skip or len(node) > 1:
      raise ValueError(
        "vision: 'backbone' is the network's own, with its weights and "
        f'attributes; found {sorted({*node, *(["weights"] if path else [])})}.'
      )
    return None, ()
  scope = 'contrast/vision'
  if name in models.VISION_TOWERS and path:
    node.pop('name')
    module, variables = tower.load(path, dtype=dtype, **node)
    return module, ((scope, lambda: variables, ()),)
  taps = {} if name in models.VISION_TOWERS else {'taps': ('1/32',)}
  module = spec.build(towers, dict(taps, dtype=dtype, **node), kind='vision')
  weights = (_backbone_weights(scope, path, module, skip),) if path else ()
  return module, weights


def _backbone_weights(scope: str, path: str, module: Any, skip: tuple) -> tuple:
  path = hub.locate(path, files=BACKBONE_FILES)
  # Published files go on to the classifier, whatever the network needs.
  unused = module.unused(scope) if hasattr(module, 'unused') else ()
  load = functools.partial(load_backbone, path, module)
  return scope, load, (*unused, *skip)


def make_features(
  node: Mapping[str, Any], backbone: Mapping[str, Any] | None = None
) -> Callable | None:
  """Makes the fixed network of perceptual losses; None without weights.

  Args:
    node: {'weights': VGG-16's, 'normalize': how they expect pixels}. An empty
      one is that of a run that is only read: it must not be called.
    backbone: record of the network's backbone, whose weights '@backbone'
      stands for.

  Returns:
    (maps [B, H, W] in [0, 1]) -> VGG-16's outputs after each of its five
    poolings, [[B, h, w, C], ...]. A map is a grey image.

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
  path = hub.locate(weights, files=BACKBONE_FILES)
  state = pretrained.read(path)
  width = len(state.get('features.0.weight', np.zeros(64)))
  taps = tuple(f'pool{i}' for i in range(1, 6))
  module = vgg.VGG16(taps=taps, width=width)
  params = pretrained.fill(
    *(module, [jnp.zeros((1, 32, 32, 3))], state),
    skip=[s.replace('/backbone/', '/') for s in module.unused()],
    source=str(path),
  )['params']

  mean, std = (np.reshape(np.float32(x), (1, 1, 1, 3)) for x in (mean, std))

  def fixed(maps):
    # The barrier keeps the compiler from computing with the weights for
    # minutes, as it would with other constants.
    variables = {'params': jax.lax.optimization_barrier(params)}
    grey = jnp.repeat(255 * maps[..., None], 3, -1)
    features = module.apply(variables, (grey - mean) / std)
    return [features[tap] for tap in taps]

  return fixed


def _without_weights(pred):
  raise ValueError('A run that is only read has no weights for its loss.')


def load_backbone(path, module):
  """Loads the variables of a published backbone, and what salflax adds."""
  states = [
    pretrained.read(p) for p in (path, *getattr(module, 'packaged', ()))
  ]
  return pretrained.convert(functools.reduce(dict.__or__, states))


def _load_whole(path):
  state = published.rename(pretrained.read(path))
  return pretrained.convert(state)
