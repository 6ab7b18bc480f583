"""Files that benchmarks take, and pysaliency's models as predictors.

    maps = zip(names, predictor.predict(pairs))
    benchmarks.write_tuebingen('model.hdf5', maps)   # MIT300, CAT2000, ...
    benchmarks.write_salicon('maps', maps)           # one 8-bit PNG an image

`salflax evaluate --maps=model.hdf5` and `--maps=maps` score them.
"""

import functools
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from salflax.core import files
from salflax.data import densities
from salflax.evaluate.map_folder import quantise
from salflax.predict import compare
from salflax.predict.predictor import Predictor, read_image

Maps = Iterable[tuple[str, np.ndarray]]
# pysaliency's own. A density of 0 would cost an infinite information gain where
# a single fixation falls on it.
LEAST = 1e-20


def log_density(saliency: np.ndarray) -> np.ndarray:
  """Computes the log-density f64 [h, w] of a map of any scale.

  Zeros become 1e-20, which moves no other score.

  Raises:
    ValueError: for values that are negative or not finite, and other shapes.
  """
  return np.log(np.maximum(compare.density(saliency), LEAST))


def write_tuebingen(
  path: str | os.PathLike, maps: Maps, *, dtype: str = 'float32'
) -> None:
  """Writes log-densities for the MIT/Tuebingen benchmark, all or nothing.

  Args:
    path: .hdf5.
    maps: file name of each image, with its folders, and its map [h, w] of any
      scale and of the image's size.
    dtype: float32, which keeps densities to one in a million, or float64.

  Raises:
    ValueError: a map is none, or a name is there twice; names the image.
    ImportError: h5py is not installed.
  """
  densities.write(
    path,
    ((name, _named(log_density, name, m).astype(dtype)) for name, m in maps),
  )


def _named(fn, name, saliency):
  try:
    return fn(saliency)
  except ValueError as e:
    raise ValueError(f'{name}: {e}') from e


def write_salicon(folder: str | os.PathLike, maps: Maps) -> None:
  """Writes grey PNG of 8 bits, as the SALICON challenge takes them.

  Each map is scaled to its maximum and rounded: cutting off instead darkens it
  by half a level, which moves KL and IG.

  Args:
    folder: folder of the files, <image>.png.
    maps: file name of each image, perhaps with its folders, and its map [h, w]
      >= 0 of the image's size.

  Raises:
    ValueError: a map is none, a name is there twice or leads out of the folder;
      names the image.
  """
  written = set()
  for name, saliency in maps:
    densities.check_name(name)
    path = pathlib.Path(folder) / f'{densities.stem(name)}.png'
    if path in written:
      raise ValueError(f'{folder}: {path.name} is there twice.')
    written.add(path)
    _named(compare.density, name, saliency)  # as a check
    with files.replacing(path) as temporary:
      Image.fromarray(quantise(saliency, bits=8)).save(temporary)


class PysaliencyPredictor:
  """A predictor that asks a model of pysaliency; it reads no sentence.

  Args:
    model: pysaliency `SaliencyMapModel`, or a probabilistic `Model`, whose
      density is the map. Saliency below 0 is raised to 0 by its minimum.
  """

  reads_text = False

  def __init__(self, model: Any):
    self._model = model

  def predict(
    self, pairs: Iterable[tuple[Any, str]], *, batch_size: int = 1
  ) -> Iterator[np.ndarray]:
    """Yields the map f64 [h, w] >= 0 of each image, in order.

    Args:
      pairs: images as `predictor.read_image` takes them, and sentences.
      batch_size: unused; the model takes one image at a time.
    """
    for image, _ in pairs:
      image = read_image(image)
      if hasattr(self._model, 'log_density'):
        yield np.exp(self._model.log_density(image))
      else:
        saliency = np.asarray(self._model.saliency_map(image), np.float64)
        yield saliency - min(saliency.min(), 0.0)


@functools.cache
def _model_class() -> type:
  import pysaliency

  class SaliencyMapModel(pysaliency.SaliencyMapModel):
    """A predictor under one sentence, as a model of pysaliency."""

    def __init__(self, predictor, text, **kwargs):
      super().__init__(**kwargs)
      self.predictor, self.text = predictor, text

    def _saliency_map(self, stimulus):
      image = np.asarray(stimulus)
      (saliency,) = self.predictor.predict([(image, self.text)], batch_size=1)
      return saliency

  return SaliencyMapModel


def to_pysaliency(predictor: Predictor, text: str = '', **kwargs: Any) -> Any:
  """Makes a pysaliency `SaliencyMapModel` of a predictor.

  Args:
    predictor: the model.
    text: sentence for every image; '' for free viewing.
    **kwargs: of `SaliencyMapModel`: cache_location, caching, ...

  Raises:
    ImportError: pysaliency is not installed.
  """
  return _model_class()(predictor, text, **kwargs)
