"""The same images with other sentences: what a sentence does to a model.

With a wrong sentence, a model that reads must score worse.
"""

import collections
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from salflax.core.types import Example
from salflax.data import batches

# Two conditions whose sentences name different things of one image.
OPPOSITE = {'salient': 'non_salient', 'non_salient': 'salient'}


class OtherTexts(batches.Rows):
  """Some rows of a source, with other sentences.

  Args:
    source: rows.
    texts: sentence by row of the source.
  """

  def __init__(self, source: Sequence[Example], texts: Mapping[int, str]):
    super().__init__(source, list(texts))
    self._texts = list(texts.values())

  def read(self, index: int, reader: Callable) -> dict[str, Any]:
    """Reads a row by `reader(source, index)`, with its other sentence."""
    return dict(super().read(index, reader), text=self._texts[index])


def has_text(meta: Mapping[str, Any]) -> bool:
  """Tells whether a row has a sentence."""
  return bool(meta['text'].strip())


def _with_text(
  source: Sequence[Example],
) -> Iterator[tuple[int, Mapping[str, Any]]]:
  rows = enumerate(batches.metas(source))
  return ((index, meta) for index, meta in rows if has_text(meta))


def no_sentence(source: Sequence[Example]) -> OtherTexts:
  """Selects the rows that have a sentence, with the empty one instead."""
  return OtherTexts(source, {index: '' for index, _ in _with_text(source)})


def other_sentence(
  source: Sequence[Example], whole: Sequence[Example]
) -> OtherTexts:
  """Exchanges sentences between opposite conditions of the same image.

  Args:
    source: rows; those of conditions without an opposite are left out.
    whole: rows of the same images in all conditions.
  """
  texts = {
    (batches.image_key(meta), meta['condition']): meta['text']
    for _, meta in _with_text(whole)
  }
  texts_of_rows = {}
  for index, meta in _with_text(source):
    opposite = OPPOSITE.get(meta['condition'])
    text = texts.get((batches.image_key(meta), opposite))
    if text and text != meta['text']:
      texts_of_rows[index] = text
  return OtherTexts(source, texts_of_rows)


def _deranged(
  metas: Sequence[Mapping[str, Any]], seed: int
) -> list[int] | None:
  """Assigns each row another row, always of another image.

  Images are shuffled and the rows, in blocks by image, rotated by the largest
  block: no row can meet its own image. None where there are too few images.
  """
  blocks = collections.defaultdict(list)
  for k, meta in enumerate(metas):
    blocks[batches.image_key(meta)].append(k)
  shift = max(len(block) for block in blocks.values())
  if 2 * shift > len(metas):
    return None
  ids = sorted(blocks)
  rng = np.random.default_rng(
    [seed, zlib.crc32(metas[0]['condition'].encode())]
  )
  order = [k for p in rng.permutation(len(ids)) for k in blocks[ids[p]]]
  giver = [0] * len(order)
  for place, k in enumerate(order):
    giver[k] = order[(place + shift) % len(order)]
  return giver


def wrong_sentence(
  source: Sequence[Example], *, seed: int = 0
) -> tuple[OtherTexts, list[str]]:
  """Exchanges the sentences of different images.

  Sentences are exchanged within a condition, so that only the content is
  wrong, not the kind. Every sentence is used once. Where two images share a
  sentence, the drawing with the fewest such pairs among 20 is taken.

  Args:
    source: rows.
    seed: seed of the exchange.

  Returns:
    The rows, and the conditions with too few images for an exchange, whose
    rows are left out.
  """
  by_condition = collections.defaultdict(list)
  for index, meta in _with_text(source):
    by_condition[meta['condition']].append((index, meta))
  texts, too_few = {}, []
  for condition, rows in by_condition.items():
    metas = [meta for _, meta in rows]
    if _deranged(metas, 0) is None:
      too_few.append(condition)
      continue

    def unchanged(giver, metas=metas):
      return sum(metas[k]['text'] == m['text'] for k, m in zip(giver, metas))

    drawings = (_deranged(metas, 20 * seed + trial) for trial in range(20))
    giver = min(drawings, key=unchanged)
    texts |= {index: metas[k]['text'] for (index, _), k in zip(rows, giver)}
  return OtherTexts(source, dict(sorted(texts.items()))), too_few


def controls(
  source: Sequence[Example], whole: Sequence[Example], *, seed: int = 0
) -> tuple[dict[str, OtherTexts], list[str]]:
  """Makes the rows with a wrong, another and no sentence, by name; and notes.

  Args:
    source: rows.
    whole: rows of the same images in all conditions.
    seed: seed of the exchange of sentences.
  """
  wrong, too_few = wrong_sentence(source, seed=seed)
  views = {
    'wrong': wrong,
    'other': other_sentence(source, whole),
    'none': no_sentence(source),
  }
  return views, [
    f'Condition {condition!r} has too few images to exchange sentences.'
    for condition in too_few
  ]
