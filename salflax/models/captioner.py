"""Says a sentence from visual tokens: attention and a GRU, as VSRN has it.

Reference:
  Li et al., Visual Semantic Reasoning for Image-Text Matching, ICCV 2019.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from salflax.models import layers


def _gates(features: int, name: str, *, use_bias: bool = True):
  """Makes a linear map to the three gates r, z, n, one after another."""
  init = layers.torch_bias_init(features)
  return layers.Dense(
    3 * features,
    use_bias,
    kernel_init=init,
    bias_init=init,
    name=name,
  )


def gru(x: jax.Array, y: jax.Array, h: jax.Array) -> jax.Array:
  """Computes the next state of a gated recurrent unit, PyTorch's convention.

  The reset gate acts on the hidden part after its linear map and bias.

  Args:
    x: W_i input + b_i, [B, 3H]: reset, update, new.
    y: W_h h + b_h, [B, 3H], alike.
    h: state, f32 [B, H].
  """
  x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  (xr, xz, xn), (yr, yz, yn) = jnp.split(x, 3, -1), jnp.split(y, 3, -1)
  reset, update = nn.sigmoid(xr + yr), nn.sigmoid(xz + yz)
  return (1 - update) * jnp.tanh(xn + reset * yn) + update * h


class _EncoderCell(nn.Module):
  features: int

  @nn.compact
  def __call__(self, h, x):
    h = gru(x, _gates(self.features, 'hidden')(h.astype(x.dtype)), h)
    return h, h


class _DecoderCell(nn.Module):
  """One word: attention to the tokens by the state, then the state's turn."""

  features: int
  dropout: float
  train: bool

  @nn.compact
  def __call__(self, h, word, tokens, keys):
    query = layers.Dense(
      self.features,
      use_bias=False,
      # The published map is one, of token and state together.
      kernel_init=layers.torch_bias_init(2 * self.features),
      name='query',
    )(h.astype(keys.dtype))
    score = layers.Dense(1, use_bias=False, name='score')
    scores = score(jnp.tanh(keys + query[:, None]))[..., 0]
    share = jax.nn.softmax(scores.astype(jnp.float32)).astype(keys.dtype)
    context = jnp.einsum('bn,bnd->bd', share, tokens)
    context = nn.Dropout(self.dropout, deterministic=not self.train)(context)
    gates = _gates(self.features, 'context', use_bias=False)
    hidden = _gates(self.features, 'hidden')
    h = gru(word + gates(context), hidden(h.astype(keys.dtype)), h)
    return h, h


def _scan(cell, in_axes):
  """Makes a cell that walks along axis 1 with the same weights throughout.

  What a step computes is computed again for the gradient, not kept: attention
  over 300 tokens would take 20 MB an image.
  """
  return nn.scan(
    nn.remat(cell, prevent_cse=False),
    variable_broadcast='params',
    split_rngs={'params': False, 'dropout': True},
    in_axes=in_axes,
    out_axes=1,
  )


class Captioner(nn.Module):
  """How likely a sentence is, from an image's tokens.

  A GRU reads the tokens; its outputs are attended to, and its last state is
  the first of a second GRU, which reads the words so far (teacher forcing)
  and predicts the next.

  Attributes:
    vocab_size: number of word pieces.
    features: width of both GRUs and of the attention.
    word_dim: width of the word embedding.
    dropout: share of the projected tokens, and of the second GRU's input, that
      is left out.
    per_token: mean over the word pieces of a sentence instead of their sum.
    dtype: type of the computation.
  """

  vocab_size: int
  features: int = 512
  word_dim: int = 300
  dropout: float = 0.2
  per_token: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    visual: jax.Array,
    ids: jax.Array,
    mask: jax.Array,
    *,
    train: bool,
  ) -> jax.Array:
    """Computes the negative log-likelihood of each sentence, f32 [B], >= 0.

    Args:
      visual: [B, N, D], visual tokens.
      ids: i32 [B, L], word pieces: the first starts it, the rest are predicted.
      mask: bool [B, L], True for real ones; the rest does not count.
      train: whether dropout is on.

    Raises:
      ValueError: where shapes do not fit together, or L < 2.
    """
    if ids.ndim != 2 or ids.shape != mask.shape or ids.shape[1] < 2:
      raise ValueError(
        f'ids {ids.shape} and mask {mask.shape} must both be [B, L], L >= 2.'
      )
    states, last = self._encode(visual, train)
    states = self._decode(states, last, ids[:, :-1], train)
    # Once for all words, not at every step.
    logits = layers.Dense(self.vocab_size, name='out')(states)
    nll = optax.softmax_cross_entropy_with_integer_labels(
      logits.astype(jnp.float32), ids[:, 1:]
    )
    real = mask[:, 1:].astype(bool)
    total = jnp.where(real, nll, 0.0).sum(-1)
    return total / jnp.maximum(real.sum(-1), 1) if self.per_token else total

  def _encode(self, visual, train):
    """Computes the outputs [B, N, H] and the last state [B, H]."""
    x = layers.Dense(self.features, name='visual')(visual.astype(self.dtype))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = _gates(self.features, 'encoder_input')(x)
    start = jnp.zeros((x.shape[0], self.features), jnp.float32)
    cell = _scan(_EncoderCell, 1)
    last, states = cell(self.features, name='encoder')(start, x)
    return states.astype(self.dtype), last

  def _decode(self, tokens, h, ids, train):
    """Computes the state after each word, [B, L - 1, H]."""
    words = nn.Embed(
      self.vocab_size,
      self.word_dim,
      embedding_init=nn.initializers.normal(1.0),
      dtype=self.dtype,
      name='word_embedding',
    )(ids)
    words = nn.Dropout(self.dropout, deterministic=not train)(words)
    words = _gates(self.features, 'decoder_input')(words)
    keys = layers.Dense(
      self.features,
      kernel_init=layers.torch_bias_init(2 * self.features),
      bias_init=layers.torch_bias_init(2 * self.features),
      name='key',
    )(tokens)
    cell = _scan(_DecoderCell, (1, nn.broadcast, nn.broadcast))(
      self.features, self.dropout, train, name='decoder'
    )
    _, states = cell(h, words, tokens, keys)
    return states.astype(self.dtype)
