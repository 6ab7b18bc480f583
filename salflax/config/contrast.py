"""A contrast record becomes a part of the network and a loss.

The text-guided paper's scheme 3: see `salflax.models.contrast` for what is
compared and `salflax.losses.matching` for what is minimised.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import linen as nn

from salflax.config import network
from salflax.core import spec
from salflax.data import batches, pp
from salflax.losses import matching
from salflax.models import contrast as contrasts
from salflax.train.stage import Stage

# A tower of its own is a measure, not something to train.
FROZEN = 'contrast/vision/.*'


def attach(
  node: Mapping[str, Any],
  model: nn.Module,
  pp_text: str,
  tokenizer: Any,
) -> tuple[nn.Module, tuple, Callable | None, tuple[str, ...]]:
  """Adds to a network what a contrast record describes.

  Args:
    node: the record, as `configs/common.py` lays it out; without keys, or with
      both weights 0, there is none and the network is as it was.
    model: the network.
    pp_text: pp string of its training rows.
    tokenizer: tokenizer of its sentences; None for no text.

  Returns:
    The network; (scope, function that loads variables, patterns to skip) of
    what starts from weights; the loss, see `losses.matching.make`, or None;
    patterns of what must not train.

  Raises:
    ValueError: for a network without sentences, or unknown names.
  """
  if not node:
    return model, (), None, ()
  node = dict(node)
  look, weights = _make_vision(node.pop('vision'), pp_text, model.dtype)
  loss_fn = matching.make(
    node['kind'],
    matching=node['matching'],
    caption=node['caption'],
    margin=node.pop('margin'),
    hardest=node.pop('hardest'),
  )
  spec.lookup('mask of contrast', contrasts.MASKS, node['mask'])
  node['matching'], node['caption'] = node['matching'] > 0, node['caption'] > 0
  if not (node['matching'] or node['caption']):
    return model, (), None, ()
  if tokenizer is None:
    raise ValueError(
      "contrast compares images with sentences, but model.text is 'none': "
      'give it a text encoder.'
    )
  if not hasattr(model, 'contrast'):
    raise ValueError(
      f'contrast: a {type(model).__name__} cannot be trained with it.'
    )
  _, mean, std = pp.normalization(pp_text)
  module = contrasts.Contrast(
    black=tuple((-np.array(mean) / std).tolist()),
    vocab_size=tokenizer.vocab_size,
    dtype=model.dtype,
    **look,
    **node,
  )
  frozen = () if look['vision'] is None else (FROZEN,)
  return model.clone(contrast=module), weights, loss_fn, frozen


def _make_vision(node: Mapping[str, Any], pp_text: str, dtype: Any):
  """Makes (attributes of `Contrast` for what looks at images, its weights)."""
  node = dict(node)
  pool, normalize = node.pop('pool', 'mean'), node.pop('normalize', '')
  spec.lookup('pool of vision', contrasts.POOLS, pool)
  pixels = _pixels(pp_text, normalize) if normalize else None
  tower, weights = network.make_tower(node, dtype)
  if tower is None and pixels:
    raise ValueError("contrast.vision: 'normalize' is for a tower of its own.")
  return dict(vision=tower, pixels=pixels, pool=pool), weights


def without_files(node: Mapping[str, Any]) -> dict[str, Any]:
  """Empties a record of the files it starts from: those may be gone."""
  return node and dict(node, vision=dict(node['vision'], weights=''))


def _pixels(pp_text: str, normalize: str) -> contrasts.Pixels:
  """Maps a pp string's pixels to those that a tower expects."""
  order, mean, std = pp.normalization(pp_text)
  tower_order, tower_mean, tower_std = spec.lookup(
    'normalization of vision', pp.NORMALIZATIONS, normalize
  )
  turned = order != tower_order
  flip = slice(None, None, -1 if turned else 1)
  mean, std = np.array(mean)[flip], np.array(std)[flip]
  scale, shift = std / tower_std, (mean - tower_mean) / tower_std
  return contrasts.Pixels(turned, tuple(scale.tolist()), tuple(shift.tolist()))


def check(stage: Stage) -> None:
  """Raises ValueError where a stage's rows leave nothing to compare.

  Warns, once, of sentences that lose their end; with or without a contrast.

  Args:
    stage: any; without rows only the batch is looked at.
  """
  source, rows, sentences = stage.train_source, [], []
  if source is not None and stage.tokenizer is not None:
    rows = batches.metas(source)
    texts = sorted({row['text'] for row in rows})
    words = stage.tokenizer(texts)[1].any(-1)
    sentences = [text for text, some in zip(texts, words) if some]
  if stage.contrast_fn is None:
    return
  wanted = stage.model.contrast
  if wanted.matching and stage.batch_size < 2:
    raise ValueError(
      'contrast.matching needs other rows in the batch to compare with; '
      f'found batch_size {stage.batch_size}.'
    )
  if source is None:
    return
  readable = set(sentences)
  images = {batches.image_key(row) for row in rows if row['text'] in readable}
  if not sentences:
    conditions = sorted({str(row['condition']) for row in rows})
    raise ValueError(
      f'contrast needs sentences, but none of the {len(rows)} rows has one '
      f'(conditions: {", ".join(conditions)}): choose other data or conditions.'
    )
  if wanted.matching and min(len(images), len(sentences)) < 2:
    raise ValueError(
      f'contrast.matching needs two images with different sentences; found '
      f'{len(images)} images and {len(sentences)} sentences.'
    )
  _check_lengths(stage, sentences if wanted.caption else ())


def _check_lengths(stage, sentences):
  long = [text for text in sentences if not stage.tokenizer.fits(text)]
  if long:
    raise ValueError(
      f'contrast.caption: {len(long)} sentences have more than length='
      f'{stage.tokenizer.length} word pieces and would lose their end, such as '
      f'{max(long, key=len)!r}: set model.text.length, or caption=0.'
    )
