"""The published TranSalNet's state dict under our names."""

import re
from collections.abc import Mapping
from typing import Any

# The published backbone is a list of ResNet's children.
_CHILDREN = {
  '0': 'conv1',
  '1': 'bn1',
  '4': 'layer1',
  '5': 'layer2',
  '6': 'layer3',
  '7': 'layer4',
}
_ENCODERS = {'1': 'encoder_32', '2': 'encoder_16', '3': 'encoder_8'}


def rename(state: Mapping[str, Any]) -> dict[str, Any]:
  """Renames the published TranSalNet_Res state dict to our names.

  {'encoder.encoder.4.0.conv1.weight': x} becomes {'backbone.layer1.0…': x}, as
  `pretrained.convert` takes it. Other names stay as they are.
  """
  return {_rename(name): value for name, value in state.items()}


def _rename(name: str) -> str:
  if match := re.fullmatch(r'encoder\.encoder\.(\d)\.(.+)', name):
    child, rest = match.groups()
    if child in _CHILDREN:
      return f'backbone.{_CHILDREN[child]}.{rest}'
  if match := re.fullmatch(r'decoder\.TransEncoder([123])\.(.+)', name):
    encoder, rest = match.groups()
    return f'{_ENCODERS[encoder]}.{rest.removeprefix("transformer_encoder.")}'
  return name
