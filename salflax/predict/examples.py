"""A few pictures with their human and predicted maps, to look at."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from salflax.core.types import Example
from salflax.evaluate import sentences
from salflax.predict.predictor import Predictor


def choose(source: Sequence[Example], count: int) -> list[str]:
  """Returns ids of pictures seen in the most conditions, evenly spaced.

  Args:
    source: with `source.meta(index)`.
    count: how many, or all there are.
  """
  conditions = collections.defaultdict(set)
  for index in range(len(source)):
    meta = source.meta(index)
    conditions[meta['image_id']].add(meta['condition'])
  most = max(map(len, conditions.values()))
  ids = sorted(i for i, c in conditions.items() if len(c) == most)
  places = np.linspace(0, len(ids) - 1, min(count, len(ids)))
  return [ids[round(place)] for place in places]


def predict(
  predictor: Predictor,
  source: Sequence[Example],
  count: int,
  *,
  seed: int = 0,
  batch_size: int = 8,
) -> list[dict[str, Any]]:
  """Returns pictures with what people did and what the model predicts.

  Args:
    predictor: the model.
    source: the pictures in their conditions.
    count: number of pictures.
    seed: of the exchange of sentences.
    batch_size: predictions at once.

  Returns:
    Dicts of image_id, image u8 [h, w, 3] and rows; a row is a dict of
    condition, text, human [h, w] and pred [h, w], and where there is a sentence
    also none [h, w], wrong [h, w] and wrong_text.
  """
  ids = choose(source, count)
  retold, _ = sentences.wrong_sentence(source, seed=seed)
  wrong = {
    (m['image_id'], m['condition']): m['text']
    for m in map(retold.meta, range(len(retold)))
  }
  rows = {image_id: {} for image_id in ids}
  for index in range(len(source)):
    meta = source.meta(index)
    if meta['image_id'] in rows:
      # One row a condition, however many sentences it has.
      rows[meta['image_id']].setdefault(meta['condition'], index)
  found, pairs, places = [], [], []
  for image_id in ids:
    shown = []
    for condition, index in rows[image_id].items():
      example = source[index]
      human = np.asarray(example['saliency'], np.float32)
      row = {'condition': condition, 'text': example['text']}
      row['human'] = human.reshape(human.shape[:2])
      asked = {'pred': example['text']}
      if example['text'].strip():
        asked['none'] = ''
        if other := wrong.get((image_id, condition)):
          asked['wrong'] = row['wrong_text'] = other
      for key, text in asked.items():
        pairs.append((example['image'], text))
        places.append((row, key))
      shown.append(row)
    found.append(
      {'image_id': image_id, 'image': example['image'], 'rows': shown}
    )
  maps = predictor.batch(pairs, batch_size=min(batch_size, max(1, len(pairs))))
  for (row, key), saliency in zip(places, maps):
    row[key] = saliency
  return found


def contrast(
  predictor: Predictor,
  source: Sequence[Example],
  count: int,
  *,
  conditions: tuple[str, str] = ('salient', 'non_salient'),
  batch_size: int = 8,
) -> list[dict[str, Any]]:
  """Returns pictures under two sentences each, of people and of the model.

  Args:
    predictor: the model.
    source: the pictures in all their conditions.
    count: number of pictures.
    conditions: those of the two sentences.
    batch_size: predictions at once.

  Returns:
    Dicts of image_id, image u8 [h, w, 3], conditions and texts, both of two,
    human and pred, both of two maps [h, w]. Pictures without a sentence in
    either condition are left out.
  """
  rows = {}
  for index in range(len(source)):
    meta = source.meta(index)
    if meta['condition'] in conditions and meta['text'].strip():
      both = rows.setdefault(meta['image_id'], {})
      both.setdefault(meta['condition'], index)
  ids = sorted(i for i, both in rows.items() if len(both) == 2)
  places = np.linspace(0, len(ids) - 1, min(count, len(ids)))
  found = []
  for image_id in (ids[round(place)] for place in places):
    two = [source[rows[image_id][condition]] for condition in conditions]
    maps = [np.asarray(e['saliency'], np.float32) for e in two]
    found.append(
      {
        'image_id': image_id,
        'image': two[0]['image'],
        'conditions': conditions,
        'texts': [e['text'] for e in two],
        'human': [m.reshape(m.shape[:2]) for m in maps],
      }
    )
  pairs = [(e['image'], text) for e in found for text in e['texts']]
  preds = list(predictor.batch(pairs, batch_size=batch_size)) if pairs else []
  for k, example in enumerate(found):
    example['pred'] = preds[2 * k : 2 * k + 2]
  return found
