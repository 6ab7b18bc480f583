"""From an image and a sentence to the map of where people will look."""

import functools
import io
import os
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from salflax.core import hub
from salflax.data import images
from salflax.data.tokenizer import Tokenizer
from salflax.evaluate.map_folder import quantise as quantise
from salflax.predict import released, trained

SUFFIXES = (*images.IMAGE_TYPES, '.gif')
# Word pieces of BERT's English vocabulary, which MiniLM and BLIP share.
_ENGLISH = 30522
_HUB_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[\w.-]+')


def read_image(image: Any) -> np.ndarray:
  """Reads an image as u8 RGB [h, w, 3], as `data.images.read_image` does.

  Args:
    image: path, bytes of a file, binary file, PIL image, or array u8 [h, w] or
      [h, w, 1|3|4] of NumPy or jax.

  Raises:
    FileNotFoundError: for a path without a file.
    ValueError: for what is no image, is cut short or has a wrong shape.
  """
  if isinstance(image, bytes | bytearray | memoryview):
    image = io.BytesIO(image)
  return images.read_image(image)


class SentenceError(ValueError):
  """A sentence that a text encoder cannot read."""


def check_sentence(text: str, tokenizer: Any) -> None:
  """Raises SentenceError for a sentence that a text encoder cannot read.

  Languages in Latin letters are not told apart.

  Args:
    text: sentence.
    tokenizer: tokenizer of the text encoder; None without one.
  """
  if not isinstance(tokenizer, Tokenizer):
    return
  letters = [c for c in text if c.isalpha()]
  others = [c for c in letters if 'LATIN' not in unicodedata.name(c, '')]
  if tokenizer.vocab_size == _ENGLISH and 2 * len(others) > len(letters):
    raise SentenceError(
      f'Most letters of {textwrap.shorten(text, 60)!r} are not Latin, but the '
      'text encoder is English: translate the sentence.'
    )
  if not tokenizer.knows(text):
    raise SentenceError(
      f'The text encoder has no word of {textwrap.shorten(text, 60)!r}. It is '
      'English.'
    )


class Predictor:
  """Predicts saliency maps at the image's own size.

      predictor = Predictor.load('runs/tsn')
      saliency = predictor('street.jpg', 'the red umbrella')   # f32 [h, w]

  A map is the network's own output, unscaled: in [0, 1] for networks that end
  in a sigmoid, at least 0 for all. It is no density; divide by its sum to get
  one. Values of one network are comparable between sentences.

  Args:
    network: predictor of arrays: see `train.predictor.StagePredictor`.
  """

  def __init__(self, network: Any):
    self.network = network

  @classmethod
  def load(
    cls, source: str | os.PathLike = '', *, stage: str = ''
  ) -> 'Predictor':
    """Loads a released model, or the best checkpoint of a run.

    Args:
      source: folder of a run or of a released model, or 'user/name' of a
        released model on the Hugging Face Hub; by default the model that ships
        with the package.
      stage: stage of the run; the last by default.

    Raises:
      FileNotFoundError: there is no such folder and no such model on the Hub,
        or a pip package with weights is not installed.
      ValueError: a file of a released model has another checksum.
    """
    folder = source or released.FOLDER
    if not source and not released.is_folder(folder):
      raise FileNotFoundError(
        'This salflax has no model of its own: name a run or a released folder.'
      )
    if not os.path.isdir(folder) and _HUB_NAME.fullmatch(os.fspath(folder)):
      folder = hub.snapshot(os.fspath(folder), released.PATTERNS)
    return cls(trained.load(folder, stage=stage).predictor(quick=True))

  def __call__(self, image: Any, text: str = '') -> np.ndarray:
    """Predicts f32 [h, w] >= 0 for one image and one sentence.

    Args:
      image: see `read_image`.
      text: sentence that people read before they look; '' for free viewing.
    """
    (saliency,) = self.predict([(image, text)], batch_size=1)
    return saliency

  def predict(
    self,
    pairs: Iterable[tuple[Any, str]],
    *,
    batch_size: int = 8,
    return_errors: bool = False,
  ) -> Iterator[np.ndarray | Exception]:
    """Yields the map f32 [h, w] of each (image, sentence), in order.

    Args:
      pairs: images of any sizes, read ahead in threads, and sentences.
      batch_size: images that go through the network at once.
      return_errors: yield the error of an image that cannot be read or
        predicted in place of its map, and go on. By default it is raised, after
        the maps before it.
    """
    network = self.network.replace(batch_size=batch_size)
    tokenizer = network.stage.tokenizer
    return network.predict(
      pairs,
      read=read_image,
      check=functools.partial(check_sentence, tokenizer=tokenizer),
      return_errors=return_errors,
    )

  batch = predict
