"""Matching of images and sentences: scores, and the triplet loss on them.

A score matrix is f32 [B, B], image i against sentence j, higher where they
fit better. Images and sentences of one row belong together; every other pair
is a negative, unless `negatives` says otherwise.

References:
  Faghri et al., VSE++: Improving Visual-Semantic Embeddings with Hard
    Negatives, BMVC 2018.
  Vendrov et al., Order-Embeddings of Images and Language, ICLR 2016.
  Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019.
  Huang, Text-Guided Saliency Prediction Model, 2024, section IV.A.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from salflax.core import spec
from salflax.core.types import Batch

# A vector shorter than this has no direction.
SHORT = 1e-6


def cosine_scores(images: Array, sentences: Array) -> Array:
  """Computes the cosine of every image and sentence, in [-1, 1], [B, B].

  Args:
    images: [B, D].
    sentences: [B, D]. A vector of zeros has score 0 and gradient 0.
  """
  return _unit(images) @ _unit(sentences).T


def _unit(x):
  x = x.astype(jnp.float32)
  square = jnp.square(x).sum(-1, keepdims=True)
  long = square > SHORT**2
  # Inside the root as well: where() hands on the NaN of the branch not taken.
  return jnp.where(long, x * jax.lax.rsqrt(jnp.where(long, square, 1.0)), 0.0)


@jax.checkpoint  # [B, B, D] is not kept: D is that of all visual tokens.
def order_scores(images: Array, sentences: Array) -> Array:
  """Computes -||max(0, s_j - v_i)||, <= 0, f32 [B, B]: the released form.

  A sentence lies below its image where no coordinate exceeds the image's.

  Args:
    images: v, [B, D].
    sentences: s, [B, D].
  """
  v, s = images.astype(jnp.float32), sentences.astype(jnp.float32)
  square = jnp.square(jax.nn.relu(s[None] - v[:, None])).sum(-1)
  apart = square > 0
  return -jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1.0)), 0.0)


def negatives(image: Array, tokens: Array, valid: Array) -> Array:
  """Marks the pairs that are negatives, bool [B, B], symmetric.

  Rows of one image are not: the sentences of an image all describe it. Nor
  are rows with the same sentence, nor those without any.

  Args:
    image: i32 [B], equal for rows of one image.
    tokens: i32 [B, L], word pieces.
    valid: bool [B], rows that have a sentence.
  """
  same = image[:, None] == image[None]
  same = same | (tokens[:, None] == tokens[None]).all(-1)
  return valid[:, None] & valid[None] & ~same


def triplet(
  scores: Array,
  apart: Array,
  valid: Array,
  *,
  margin: float,
  hardest: bool,
  reduce: str = 'mean',
) -> tuple[Array, Array]:
  """Computes the hinge loss in both directions, and how often it is not zero.

  For row i with score s_ii: max(0, margin + s_ij - s_ii) over the sentences j
  that are negatives, plus max(0, margin + s_ji - s_ii) over such images.

  Args:
    scores: f32 [B, B].
    apart: bool [B, B], the negatives.
    valid: bool [B], rows that take part. One without any negative counts 0.
    margin: by which a pair should score above its negatives.
    hardest: whether the worst negative of each direction counts, or their sum.
    reduce: 'mean' over the valid rows, or 'sum'.

  Returns:
    The loss, and the share of rows with a negative, in both directions, whose
    hardest negative comes within the margin. Both are 0 where there is none.
  """
  right = jnp.diagonal(scores)
  worse = (
    jax.nn.relu(margin + scores - right[:, None]),
    jax.nn.relu(margin + scores.T - right[:, None]),
  )
  worse = [jnp.where(apart & valid[:, None], w, 0.0) for w in worse]
  rows = [w.max(-1) if hardest else w.sum(-1) for w in worse]
  total = sum(rows).sum()
  if reduce == 'mean':
    total = total / jnp.maximum(valid.sum(), 1)
  has = (apart & valid[:, None]).any(-1).sum()
  violated = sum((w > 0).any(-1).sum() for w in worse)
  return total, violated / jnp.maximum(2 * has, 1)


# kind -> (scores, reduction). VSRN's own code sums over the batch, too; with a
# mean its weight does not grow with the batch.
KINDS = {'vsrn': (cosine_scores, 'mean'), 'order': (order_scores, 'sum')}


def with_sentence(batch: Batch) -> Array:
  """Marks the rows that have a sentence, bool [B].

  An empty one still has two word pieces, its start and its end.
  """
  valid = batch['token_mask'].sum(-1) > 2
  return valid & batch['mask'] if 'mask' in batch else valid


def make(
  kind: str, *, matching: float, caption: float, margin: float, hardest: bool
) -> Callable[[Any, Batch], tuple[Array, dict[str, Array], dict[str, Array]]]:
  """Makes the contrastive loss of a batch.

  Args:
    kind: 'vsrn' or 'order', see `KINDS`.
    matching: weight of the triplet loss; 0 leaves it out.
    caption: weight of the caption's negative log-likelihood, whose mean over
      the rows with a sentence is taken; 0 leaves it out.
    margin: see `triplet`.
    hardest: see `triplet`.

  Returns:
    `loss_fn(outputs, batch) -> (scalar, terms, measures)`. `outputs` has
    `images` and `sentences` [B, D], and `nll` [B]; the batch `tokens`,
    `token_mask` and `image_number`. Terms are unweighted: 'matching',
    'caption'. Measures: 'violated', see `triplet`.

  Raises:
    ValueError: for an unknown kind.
  """
  scores_fn, reduce = spec.lookup('kind of contrast', KINDS, kind)

  def loss_fn(outputs, batch):
    valid, total, terms, measures = with_sentence(batch), 0.0, {}, {}
    if matching:
      apart = negatives(batch['image_number'], batch['tokens'], valid)
      terms['matching'], measures['violated'] = triplet(
        *(scores_fn(outputs.images, outputs.sentences), apart, valid),
        **dict(margin=margin, hardest=hardest, reduce=reduce),
      )
      total += matching * terms['matching']
    if caption:
      nll = jnp.where(valid, outputs.nll, 0.0).sum()
      terms['caption'] = nll / jnp.maximum(valid.sum(), 1)
      total += caption * terms['caption']
    return total, terms, measures

  return loss_fn
