"""From maps to the body of an answer: JSON, .npy or PNG."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from salflax.predict import areas as areas_lib
from salflax.predict import compare
from salflax.predict.predictor import quantise
from salflax.serve.uploads import Order

FIXATIONS = 3  # first fixations, of which one or more may fall on an area
TYPES = {
  'json': 'application/json',
  'npy': 'application/octet-stream',
  'png': 'image/png',
}


def reduced(density: np.ndarray, side: int) -> np.ndarray:
  """Averages a density to a longer side of at most `side`; it sums to 1."""
  height, width = density.shape
  scale = min(1, side / max(height, width))
  size = max(1, round(width * scale)), max(1, round(height * scale))
  image = Image.fromarray(density.astype(np.float32))
  small = np.asarray(image.resize(size, Image.Resampling.BOX), np.float64)
  return (small / small.sum()).astype('<f4')


def _map(density: np.ndarray, side: int) -> dict[str, Any]:
  small = reduced(density, side)
  return {
    'height': small.shape[0],
    'width': small.shape[1],
    'data': base64.b64encode(small.tobytes()).decode(),
  }


def _comparison(
  order: Order,
  areas: Sequence[areas_lib.Area],
  maps: Sequence[np.ndarray],
  model: str,
) -> dict[str, Any]:
  """Makes the JSON answer: shares of areas, differences, small maps."""
  densities = [compare.density(saliency) for saliency in maps]
  height, width = densities[0].shape
  sentences = []
  for text, density in zip(order.texts, densities):
    sentence = {'text': text}
    sentence['areas'] = areas_lib.attention(density, areas, FIXATIONS)
    if order.map_side:
      sentence['map'] = _map(density, order.map_side)
    sentences.append(sentence)
  differences = [
    {'before': 0, 'after': k, **compare.moved(densities[0], densities[k])}
    for k in range(1, len(densities))
  ]
  return {
    'model': model,
    'image': {'height': height, 'width': width},
    'fixations': FIXATIONS,
    'sentences': sentences,
    'differences': differences,
    'notes': areas_lib.notes(areas, height, width),
  }


def body(
  order: Order,
  areas: Sequence[areas_lib.Area],
  maps: Sequence[np.ndarray],
  model: str,
) -> bytes:
  """Makes the body of an answer.

  Args:
    order: the request.
    areas: areas of interest.
    maps: f32 [h, w] of each sentence.
    model: name of the model.
  """
  if order.format == 'json':
    return json.dumps(_comparison(order, areas, maps, model)).encode()
  stream = io.BytesIO()
  if order.format == 'npy':
    np.save(stream, maps[0])
  else:
    Image.fromarray(quantise(maps[0], bits=16)).save(stream, 'PNG')
  return stream.getvalue()
