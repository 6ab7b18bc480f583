"""Layers that every network shares."""

from typing import NamedTuple

import jax


class TextFeatures(NamedTuple):
  """What a text encoder says about a sentence.

  Attributes:
    tokens: f32 [B, L, D], one vector per word piece.
    mask: bool [B, L], True for real word pieces.
    sentence: f32 [B, S], one vector per sentence.
  """

  tokens: jax.Array
  mask: jax.Array
  sentence: jax.Array
