"""A few images with their human and predicted maps, to look at."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from salflax.core.types import Example
from salflax.data import batches
from salflax.evaluate import sentences
from salflax.predict.predictor import Predictor


def _rows(source: Sequence[Example]) -> dict[tuple, dict[str, int]]:
  """Lists a row of each image and condition, however many sentences it has."""
  rows = collections.defaultdict(dict)
  for index in range(len(source)):
    meta = batches.meta(source, index)
    rows[batches.picture(meta)].setdefault(meta['condition'], index)
  return rows


def _spaced(images: Sequence[tuple], count: int) -> list[tuple]:
  """Chooses so many of some images, evenly spaced in the order of names."""
  images = sorted(images)
  places = np.linspace(0, len(images) - 1, min(count, len(images)))
  return [images[round(place)] for place in places]


def choose(source: Sequence[Example], count: int) -> list[tuple]:
  """Chooses images seen in the most conditions, evenly spaced.

  Args:
    source: rows.
    count: number of images; all there are where there are fewer.

  Returns:
    `batches.picture` of each image.
  """
  rows = _rows(source)
  most = max(map(len, rows.values()))
  return _spaced([i for i, c in rows.items() if len(c) == most], count)


def _human(example: Example) -> np.ndarray:
  human = np.asarray(example['saliency'], np.float32)
  return human.reshape(human.shape[:2])


def predict(
  predictor: Predictor,
  source: Sequence[Example],
  count: int,
  *,
  seed: int = 0,
  batch_size: int = 8,
) -> list[dict[str, Any]]:
  """Predicts a few images under the right, a wrong and no sentence.

  Args:
    predictor: the model.
    source: images in their conditions.
    count: number of images.
    seed: seed of the exchange of sentences.
    batch_size: predictions at once.

  Returns:
    Dicts of image_id, image u8 [h, w, 3] and rows; a row is a dict of
    condition, text, human [h, w] and pred [h, w], and where there is a sentence
    also none [h, w], wrong [h, w] and wrong_text.
  """
  exchanged, _ = sentences.wrong_sentence(source, seed=seed)
  metas = [exchanged.meta(k) for k in range(len(exchanged))]
  wrong = {(batches.picture(m), m['condition']): m['text'] for m in metas}
  rows, result, pairs, places = _rows(source), [], [], []
  for image in choose(source, count):
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
        pairs.append((example['image'], text))
        places.append((row, key))
      image_rows.append(row)
    result.append(
      {
        'image_id': example['image_id'],
        'image': example['image'],
        'rows': image_rows,
      }
    )
  batch_size = min(batch_size, max(1, len(pairs)))
  maps = predictor.predict(pairs, batch_size=batch_size)
  for (row, key), saliency in zip(places, maps):
    row[key] = saliency
  return result


def contrast(
  predictor: Predictor,
  source: Sequence[Example],
  count: int,
  *,
  conditions: tuple[str, str] = ('salient', 'non_salient'),
  batch_size: int = 8,
) -> list[dict[str, Any]]:
  """Predicts a few images under the sentences of two conditions.

  Args:
    predictor: the model.
    source: images in all their conditions.
    count: number of images.
    conditions: conditions of the two sentences.
    batch_size: predictions at once.

  Returns:
    Dicts of image_id, image u8 [h, w, 3], conditions and texts, both of two,
    human and pred, both of two maps [h, w]. Images without a sentence in
    either condition are left out.
  """
  rows = {
    image: [row[condition] for condition in conditions]
    for image, row in _rows(source).items()
    if all(
      condition in row
      and sentences.has_text(batches.meta(source, row[condition]))
      for condition in conditions
    )
  }
  result = []
  for image in _spaced(list(rows), count):
    two = [source[index] for index in rows[image]]
    result.append(
      {
        'image_id': two[0]['image_id'],
        'image': two[0]['image'],
        'conditions': conditions,
        'texts': [e['text'] for e in two],
        'human': [_human(e) for e in two],
      }
    )
  pairs = [(e['image'], text) for e in result for text in e['texts']]
  if pairs:
    preds = list(predictor.predict(pairs, batch_size=batch_size))
    for k, example in enumerate(result):
      example['pred'] = preds[2 * k : 2 * k + 2]
  return result
