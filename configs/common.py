"""What configs share: their keys with defaults, records of networks, options.

`salflax/config/schema.py` says what each key means.
"""

import re

import ml_collections

from salflax.config import schema
from salflax.core import spec

_SWITCH = {'': True, '1': True, 'true': True, '0': False, 'false': False}


def get_config() -> ml_collections.ConfigDict:
  """Lists the keys of a run; a config fills in stages and model."""
  return ml_collections.ConfigDict(schema.RUN)


def stage(**values) -> ml_collections.ConfigDict:
  """Lists the keys of one stage, with these values.

  Raises:
    ValueError: for a key that no stage has.
  """
  keys = schema.filled('a stage', schema.STAGE, values)
  if keys['contrast']:
    keys['contrast'] = contrast(**keys['contrast'])
  keys['perceptual'] = schema.filled(
    'perceptual', schema.PERCEPTUAL, keys['perceptual']
  )
  return ml_collections.ConfigDict(keys)


def contrast(**values) -> ml_collections.ConfigDict:
  """Lists the keys of a contrastive loss, with these values.

  The paper's scheme 3: the image, dimmed by its predicted map, should match
  its sentence better than other sentences, and suffice to tell it.

  Raises:
    ValueError: for a key that it does not have.
  """
  keys = dict(schema.CONTRAST)
  if values.get('kind') == 'order':
    keys.update(caption=0.0, margin=0.0, hardest=False, mask='released')
  return ml_collections.ConfigDict(schema.filled('a contrast', keys, values))


def text_encoder(weights: str) -> dict:
  """Writes the record of a BERT that takes 35 word pieces, as BLIP's does."""
  record = dict(name='bert', weights=weights, length=35)
  if weights == 'all-MiniLM-L6-v2':
    record.update(pool='mean', normalize=True)
  return record


def transalnet() -> dict:
  """Writes the record of the published network, without a sentence's part."""
  return dict(
    name='transalnet',
    size=(288, 384),
    backbone=dict(name='resnet50', weights='timm/resnet50.tv_in1k', bn='train'),
    levels=('1/8', '1/16', '1/32'),
    widths=(512, 768, 768),
    depth=2,
    head_dim=64,
    mlp_ratio=4,
    decoder_widths=(256, 128, 64, 32),
    out_stride=1,
    bn='train',
  )


def small_backbone(name: str) -> tuple[dict, str]:
  """Writes the record of a frozen backbone, and its pixels' normalisation.

  Args:
    name: 'lite0', EfficientNet-Lite0, which comes with pip; 'resnet50_v1',
      whose weights docs/reproduce.md describes, or 'resnet50', torchvision's,
      which are downloaded, both up to layer3.
  """
  resnet = dict(bn='frozen', depths=(3, 4, 6, 0))
  lite = dict(name='efficientnet_lite', variant='lite0')
  weights = dict(
    lite0=(lite, 'efficientnet-lite0', 'lite'),
    resnet50_v1=(resnet, 'resnet50_v1_to_layer3.safetensors', 'caffe_resnet'),
    resnet50=(resnet, 'timm/resnet50.tv_in1k', 'imagenet'),
  )
  choice('backbone', name, weights)
  record, file, pixels = weights[name]
  return dict(name=name, weights=file) | record, pixels


def choice(key: str, value, allowed) -> None:
  """Raises ValueError where an option's value is not one of those allowed."""
  spec.lookup(key, allowed, value)


def options(arg: str, defaults: dict) -> ml_collections.ConfigDict:
  """Reads the options in a config's argument, `'scheme=token,fold=1'`.

  Args:
    arg: what follows the colon in --config=configs/x.py:arg.
    defaults: every option with its default; values take its type. An option
      that is a bool may be given by its name alone.

  Raises:
    ValueError: for an option that is not in `defaults`.
  """
  out = ml_collections.ConfigDict(defaults)
  # Commas inside parentheses belong to a value: fusion=token(dim=96, heads=4).
  for part in re.split(r',(?![^(]*\))', arg or ''):
    if not part.strip():
      continue
    key, _, value = (p.strip() for p in part.partition('='))
    spec.lookup('option', defaults, key)
    kind = type(defaults[key])
    try:
      out[key] = _SWITCH[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as e:
      raise ValueError(
        f'Option {key} in the config argument {arg!r}: {value!r} is no '
        f'{kind.__name__}.'
      ) from e
  return out
