"""Networks: tables of what there is, and how a config record becomes one.

Every network is called as `model(image, tokens, token_mask, train=...)` and
returns saliency [B, H, W]; those without text ignore the sentence. Their
attributes are the config's keys.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from salflax.core import spec
from salflax.models.aspp import AsppNet
from salflax.models.backbones.efficientnet_lite import EfficientNetLite
from salflax.models.backbones.resnet import ResNet
from salflax.models.backbones.vgg import VGG16
from salflax.models.backbones.vit import ViT
from salflax.models.lite import Lite
from salflax.models.sam import SAM
from salflax.models.text.bert import Bert
from salflax.models.transalnet import TranSalNet

# Maps an image to {level: features}; `unused(scope)` names the tensors of a
# published file that it does without.
BACKBONES = {
  'resnet': ResNet,
  'resnet50': ResNet,
  'resnet50_v1': functools.partial(ResNet, variant='v1'),
  'vgg16': VGG16,
  'efficientnet_lite': EfficientNetLite,
}

# Maps token ids and mask to TextFeatures; `load(name, **attributes)` returns a
# published one: (module, variables, folder of its tokenizer).
TEXT_ENCODERS = {
  'bert': Bert,
}

# Maps a normalised image [B, H, W, 3] to tokens [B, 1 + N, D];
# `load(name, **attributes)` returns a published one: (module, variables).
VISION_TOWERS = {
  'vit': ViT,
}

MODELS = {
  'transalnet': TranSalNet,
  'sam': SAM,
  'aspp': AsppNet,
  'lite': Lite,
}


def build(node: Mapping[str, Any]) -> nn.Module:
  """Builds the network that a config record describes.

  Args:
    node: {'name': name in MODELS, **attributes}. `backbone` and `text` may be
      records of their own; they inherit `dtype`, and the backbone taps the
      network's `levels`, unless they say otherwise.

  Raises:
    ValueError: for an unknown name or attribute, naming the nearest one.
  """
  node = spec.plain(node)  # tuples are hashable
  inherited = {k: node[k] for k in ('dtype',) if k in node}
  if isinstance(backbone := node.get('backbone'), Mapping):
    network = spec.lookup('model', MODELS, node.get('name'))
    taps = {'taps': node.get('levels', network.levels)}
    node['backbone'] = spec.build(
      BACKBONES, {**inherited, **taps, **backbone}, kind='backbone'
    )
  if isinstance(text := node.get('text'), Mapping):
    node['text'] = spec.build(
      TEXT_ENCODERS, {**inherited, **text}, kind='text encoder'
    )
  return spec.build(MODELS, node, kind='model')
