"""The published TranSalNet's state dict under our names."""

import re
from collections.abc import Mapping
from typing import Any

# The published backbone is a list of ResNet's children.
_CHILDREN = ('conv1', 'bn1', 'relu', 'maxpool')
_CHILDREN += ('layer1', 'layer2', 'layer3', 'layer4')


def rename(state: Mapping[str, Any]) -> dict[str, Any]:
  """Renames the published TranSalNet_Res state dict to our names.

  {'encoder.encoder.4.0.conv1.weight': x} becomes {'backbone.layer1.0…': x}, as
  `pretrained.convert` takes it. Other names stay as they are.
  """
  return {_rename(name): value for name, value in state.items()}


def _rename(name: str) -> str:
  if match := re.fullmatch(r'encoder\.encoder\.([0-7])\.(.+)', name):
    return f'backbone.{_CHILDREN[int(match[1])]}.{match[2]}'
  if match := re.fullmatch(r'decoder\.TransEncoder([123])\.(.+)', name):
    rest = match[2].removeprefix('transformer_encoder.')
    return f'encoder_{64 >> int(match[1])}.{rest}'
  return name
