"""A few images with their human and predicted maps, to look at."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from salflax.core.types import Example
from salflax.data import batches
from salflax.evaluate import sentences
from salflax.predict.predictor import Predictor

# Whose sentences `contrast` compares.
CONDITIONS = ('salient', 'non_salient')


def _rows(source: Sequence[Example]) -> dict[tuple, dict[str, int]]:
  """Lists a row of each image and condition, however many sentences it has."""
  rows = collections.defaultdict(dict)
  for index, meta in enumerate(batches.metas(source)):
    rows[batches.image_key(meta)].setdefault(meta['condition'], index)
  return rows


def _spaced(images: Sequence[tuple], count: int) -> list[tuple]:
  """Chooses so many of some images, evenly spaced in the order of names."""
  images = sorted(images)
  places = np.linspace(0, len(images) - 1, min(count, len(images)))
  return [images[round(place)] for place in places]


def _human(example: Example) -> np.ndarray:
  human = np.asarray(example['saliency'], np.float32)
  return human.reshape(human.shape[:2])


def _predict(predictor: Predictor, asked: Sequence[tuple]) -> None:
  """Predicts (image, sentence, row, key), and sets row[key] to each map."""
  pairs = [(image, text) for image, text, _, _ in asked]
  maps = predictor.predict(pairs, batch_size=min(8, len(pairs)))
  for (_, _, row, key), saliency in zip(asked, maps):
    row[key] = saliency


def predict(
  predictor: Predictor,
  source: Sequence[Example],
  count: int,
  *,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Predicts a few images under the right, a wrong and no sentence.

  Args:
    predictor: the model.
    source: images in their conditions.
    count: number of images, of those seen in the most conditions; all there
      are where there are fewer.
    seed: seed of the exchange of sentences.

  Returns:
    Dicts of image_id, image u8 [h, w, 3] and rows; a row is a dict of
    condition, text, human [h, w] and pred [h, w], and where there is a sentence
    also none [h, w], wrong [h, w] and wrong_text.
  """
  exchanged, _ = sentences.wrong_sentence(source, seed=seed)
  metas = batches.metas(exchanged)
  wrong = {(batches.image_key(m), m['condition']): m['text'] for m in metas}
  rows, result, asked = _rows(source), [], []
  most = max(map(len, rows.values()))
  for image in _spaced([i for i, c in rows.items() if len(c) == most], count):
    image_rows = []
    for condition, index in rows[image].items():
      example = source[index]
      row = {'condition': condition, 'text': example['text']}
      row['human'] = _human(example)
      texts = {'pred': example['text']}
      if sentences.has_text(example):
        texts['none'] = ''
        if text := wrong.get((image, condition)):
          texts['wrong'] = row['wrong_text'] = text
      for key, text in texts.items():
        asked.append((example['image'], text, row, key))
      image_rows.append(row)
    about = {key: example[key] for key in ('image_id', 'image')}
    result.append(about | {'rows': image_rows})
  _predict(predictor, asked)
  return result


def contrast(
  predictor: Predictor, source: Sequence[Example], count: int
) -> list[dict[str, Any]]:
  """Predicts a few images under the sentences of two conditions.

  Args:
    predictor: the model.
    source: images in all their conditions.
    count: number of images.

  Returns:
    Dicts of image_id, image u8 [h, w, 3], conditions and texts, both of two,
    human and pred, both of two maps [h, w]. Images without a sentence in
    either of `CONDITIONS` are left out.
  """
  rows = _rows(source)
  told = lambda index: sentences.has_text(batches.meta(source, index))
  images = [
    image
    for image, row in rows.items()
    if all(name in row and told(row[name]) for name in CONDITIONS)
  ]
  result, asked = [], []
  for image in _spaced(images, count):
    two = [source[rows[image][name]] for name in CONDITIONS]
    about = {key: two[0][key] for key in ('image_id', 'image')}
    about |= {'conditions': CONDITIONS, 'texts': [e['text'] for e in two]}
    about |= {'human': [_human(e) for e in two], 'pred': [None, None]}
    for k, example in enumerate(two):
      asked.append((about['image'], example['text'], about['pred'], k))
    result.append(about)
  if asked:
    _predict(predictor, asked)
  return result
