"""From an image and a sentence to the map of where people will look."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from salflax.evaluate.map_folder import quantise as quantise
from salflax.predict import trained
from salflax.predict.image_io import SUFFIXES as SUFFIXES
from salflax.predict.image_io import Picture
from salflax.predict.image_io import read_picture as read_picture


class Predictor:
  """Predicts saliency maps at the image's own size.

      predictor = Predictor.load('runs/tsn')
      saliency = predictor('street.jpg', 'the red umbrella')   # f32 [h, w]

  A map is the network's own output, unscaled: in [0, 1] for networks that end
  in a sigmoid, at least 0 for all. It is no density; divide by its sum to get
  one. Values of one network are comparable between sentences.

  Args:
    network: predictor of arrays, `predict(pairs) -> maps`, with a `batch_size`
      and `replace(batch_size=...)`.
  """

  def __init__(self, network: Any):
    self.network = network

  @classmethod
  def load(cls, workdir: str | os.PathLike, *, stage: str = '') -> 'Predictor':
    """Returns a predictor with the best checkpoint of a run.

    Args:
      workdir: folder of the run.
      stage: stage whose checkpoint it is; the last by default.
    """
    return cls(trained.load(workdir, stage=stage).predictor())

  def __call__(self, image: Picture, text: str = '') -> np.ndarray:
    """Returns f32 [h, w] >= 0 for one image and one sentence.

    Args:
      image: see `read_picture`.
      text: sentence that people read before they look; '' for free viewing.
    """
    (saliency,) = self.predict([(image, text)], batch_size=1)
    return saliency

  def predict(
    self, pairs: Iterable[tuple[Picture, str]], *, batch_size: int = 8
  ) -> Iterator[np.ndarray]:
    """Yields the map f32 [h, w] of each (image, sentence), in order.

    Args:
      pairs: images of any sizes; read as they are needed.
      batch_size: images that go through the network at once.
    """
    network = self.network.replace(batch_size=batch_size)
    return network.predict((read_picture(image), text) for image, text in pairs)

  batch = predict
