"""How a sentence joins an image's features, and where.

Every form is a module called as `form(x, text)`: features x [B, h, w, C] and
`TextFeatures` in, features of the same shape out (`te_prepend`: a token). With
t the sentence vector, at the backbone's output (the paper's scheme 1):

  gate      the paper's released code: a query for every cell from the text,
            softmax over the rows of each column
  gate_hw   the same with one softmax over all cells
  full      the paper's equation 4: the query map attends to all cells

there, or in a transformer encoder in front of the first block:

  lowrank   learned cell queries shifted by t attend to all cells, narrow
  token     the cells attend to the words, narrow
  bilinear  each cell times t, channel by channel, narrow

in a transformer encoder only (scheme 2):

  te_cross     `token` by another name: standard cross-attention
  te_bilinear  the released code's unused lines: softmax of cells times a
               matrix of t
  te_prepend   t as a token more, which all blocks see

lowrank, token, bilinear and te_cross have a zero-initialised last layer and
start as the identity. The others change the features from the first step on,
also for an empty sentence unless `fuse` sees to it. Which form suits which
amount of data: C = 2048 at 9x12 costs gate, gate_hw and full 65 M parameters,
te_bilinear of width 768 costs 151 M, and the narrow ones 1 to 2 M.

References:
  Huang, Text-Guided Saliency Prediction Model, 2024 (gate, full, te_bilinear).
  Kim et al., Hadamard Product for Low-rank Bilinear Pooling, 2017 (bilinear).
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models.layers import Conv, Dense, TextFeatures, check_positive
from salflax.models.transformer import Mlp, attention


def _flat(x: jax.Array) -> jax.Array:
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _norm(x: jax.Array, name: str, dtype: Any) -> jax.Array:
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, name=name)(x)


def text_query(x: jax.Array, text: TextFeatures, dim: int):
  """Maps a sentence to queries of all cells, and cells to keys and values.

  Without bias; called inside a compact method, whose `query`, `key` and `value`
  the linear maps are.

  From cells x [B, h, w, C] and B sentences: query, key and value, of shape
  [B, h, w, dim] each.
  """
  b, h, w, _ = x.shape
  linear = functools.partial(Dense, use_bias=False)
  # The released code flattens the query as (row, column, channel).
  query = linear(h * w * dim, name='query')(text.sentence.astype(x.dtype))
  query = query.reshape(b, h, w, dim)
  return query, linear(dim, name='key')(x), linear(dim, name='value')(x)


class _TextQuery(nn.Module):
  """Queries W_Q t reshaped to cells, keys and values of the image.

  A form has a method `attend`, which makes the addend [B, h, w, C] of query,
  key and value alike. Not the identity at the start, unless `value/kernel` is
  set to zero.
  """

  @nn.compact
  def __call__(self, x: jax.Array, text: TextFeatures) -> jax.Array:
    parts = text_query(x, text, x.shape[-1])
    return x + self.attend(*parts)


class Gate(_TextQuery):
  """The released code's gate: x + a V, a softmax over each column's rows.

  a = softmax_h(sum_c Q K / sqrt(C)): a cell's own key meets a query for
  that cell, and the cells of one column share a weight of 1.
  """

  def attend(self, query, key, value):
    return gate_share(query, key, axis=1) * value


class GateHw(_TextQuery):
  """As `Gate` with one softmax over all cells, times their number."""

  def attend(self, query, key, value):
    cells = query.shape[1] * query.shape[2]
    return gate_share(query, key, axis=(1, 2)) * (cells * value)


def gate_share(query, key, *, axis):
  """Computes each cell's share [B, h, w, 1], which sums to 1 along `axis`."""
  # Sum and softmax in float32: thousands of channels under bfloat16.
  product = query.astype(jnp.float32) * key.astype(jnp.float32)
  scores = product.sum(-1, keepdims=True) * query.shape[-1] ** -0.5
  return jax.nn.softmax(scores, axis).astype(query.dtype)


class Full(_TextQuery):
  """Equation 4 as printed: x + softmax(Q K' / sqrt(C)) V, one head."""

  def attend(self, query, key, value):
    y = attention(_flat(query), _flat(key), _flat(value), heads=1)
    return y.reshape(query.shape)


class Lowrank(nn.Module):
  """Learned cell queries, shifted by the sentence, attend to all cells.

  Q = P + MLP(t) with P [hw, dim]; keys and values are the normalised cells.
  Starts as the identity.

  Attributes:
    dim: width of the attention.
    heads: number of heads.
  """

  dim: int = 256
  heads: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, text: TextFeatures) -> jax.Array:
    cells = _norm(_flat(x), 'norm', x.dtype)
    table = self.param(
      'positions', nn.initializers.normal(1.0), (1, cells.shape[1], self.dim)
    )
    shift = Mlp(self.dim, self.dim, name='sentence')(
      _norm(text.sentence, 'sentence_norm', x.dtype)
    )
    query = table.astype(x.dtype) + shift[:, None]
    key = Dense(self.dim, name='key')(cells)
    value = Dense(self.dim, name='value')(cells)
    y = attention(query, key, value, heads=self.heads)
    return x + _zero_out(x, y)


class Token(nn.Module):
  """The cells attend to the words of the sentence.

  Words beyond the mask are ignored. Starts as the identity.

  Attributes:
    dim: width of the attention.
    heads: number of heads.
  """

  dim: int = 256
  heads: int = 4

  @nn.compact
  def __call__(self, x: jax.Array, text: TextFeatures) -> jax.Array:
    cells = _norm(_flat(x), 'norm', x.dtype)
    words = _norm(text.tokens, 'word_norm', x.dtype)
    query = Dense(self.dim, name='query')(cells)
    key = Dense(self.dim, name='key')(words)
    value = Dense(self.dim, name='value')(words)
    y = attention(query, key, value, heads=self.heads, mask=text.mask)
    return x + _zero_out(x, y)


class Bilinear(nn.Module):
  """x + W_o(tanh(W_x x) tanh(W_t t)): each cell is asked whether it is meant.

  The one narrow form in which a cell's own content meets the sentence without
  a softmax over others. Starts as the identity.

  Attributes:
    dim: width of the product.
  """

  dim: int = 256

  @nn.compact
  def __call__(self, x: jax.Array, text: TextFeatures) -> jax.Array:
    cells = _norm(_flat(x), 'norm', x.dtype)
    sentence = _norm(text.sentence, 'sentence_norm', x.dtype)
    cells = Dense(self.dim, name='cell')(cells)
    sentence = Dense(self.dim, name='sentence')(sentence)
    y = jnp.tanh(cells) * jnp.tanh(sentence)[:, None]
    return x + _zero_out(x, y)


class TeBilinear(nn.Module):
  """Scheme 2 to the letter: X + softmax(X T'), T = W t reshaped to [C, C].

  The softmax runs over the channels. X is what the patch embedding gives,
  before positions are added: so in the lines that the released code keeps as a
  comment, which compute the softmax and then add positions to X. How the two
  are merged is not there; added, as in the released gate. Not the identity at
  the start. W has no bias and S C^2 parameters.
  """

  @nn.compact
  def __call__(self, x: jax.Array, text: TextFeatures) -> jax.Array:
    b, _, _, c = x.shape
    linear = Dense(c * c, use_bias=False, name='matrix')
    matrix = linear(text.sentence.astype(x.dtype)).reshape(b, c, c)
    scores = jnp.einsum(
      'bhwc,bdc->bhwd', x, matrix, preferred_element_type=jnp.float32
    )
    return x + jax.nn.softmax(scores).astype(x.dtype)


class TePrepend(nn.Module):
  """The sentence as a token: W t + b, [B, 1, C] for x [B, h, w, C].

  Not the identity at the start: every block attends to it.
  """

  @nn.compact
  def __call__(self, x: jax.Array, text: TextFeatures) -> jax.Array:
    linear = Dense(x.shape[-1], name='sentence')
    return linear(text.sentence.astype(x.dtype))[:, None]


def _zero_out(x, y):
  """Maps y [B, hw, dim] to [B, h, w, C] like `x`, zero at the start."""
  out = Conv(
    x.shape[-1],
    1,
    use_bias=False,
    kernel_init=nn.initializers.zeros,
    name='out',
  )
  return out(y.reshape(*x.shape[:3], -1))


# The module of each form, and the points where it may stand: the backbone's
# features, or in the encoder the patch embedding's, those with positions added,
# or a token beside them. The first one is taken where no place is named.
FORMS = {
  'gate': (Gate, ('backbone',)),
  'gate_hw': (GateHw, ('backbone',)),
  'full': (Full, ('backbone',)),
  'lowrank': (Lowrank, ('backbone', 'cells')),
  'token': (Token, ('backbone', 'cells')),
  'bilinear': (Bilinear, ('backbone', 'cells')),
  'te_cross': (Token, ('cells',)),
  'te_bilinear': (TeBilinear, ('patches',)),
  'te_prepend': (TePrepend, ('token',)),
}
PLACES = ('backbone', 'encoder')


def _places(points):
  """Sorts points by place: {place: point}."""
  return {'backbone' if p == 'backbone' else 'encoder': p for p in points}


def point(text: str, place: str = '') -> str:
  """Looks up the point in `FORMS` of the form written as `text`.

  Args:
    text: as for `make`.
    place: out of `PLACES`, or '' for the form's own.

  Raises:
    ValueError: for an unknown form or place, or two that do not go together.
  """
  name = spec.parse(text).name
  _, points = spec.lookup('form of fusion', FORMS, name)
  spec.lookup('place', ('', *PLACES), place)
  allowed = _places(points)
  if place and place not in allowed:
    fit = [k for k, (_, p) in FORMS.items() if place in _places(p)]
    raise ValueError(
      f'fusion {name!r} goes with place {" or ".join(map(repr, allowed))}, '
      f'found place {place!r}. There go: {", ".join(fit)}.'
    )
  return allowed[place] if place else points[0]


def make(text: str, *, name: str) -> nn.Module:
  """Makes the form written as `'lowrank(dim=128)'`.

  Args:
    text: name in `FORMS`, with options.
    name: the module's name.

  Raises:
    ValueError: for an unknown form or option, naming the nearest one.
  """
  call = spec.parse(text)
  form, _ = spec.lookup('form of fusion', FORMS, call.name)
  spec.check_call(form, call, takes=0)
  check_positive(**call.kwargs)
  return form(*call.args, **call.kwargs, name=name)


def fuse(form: nn.Module, x: jax.Array, text: TextFeatures) -> jax.Array:
  """Computes `form(x, text)`; rows without any real word stay `x`.

  Args:
    form: a module out of `FORMS`, but `te_prepend`.
    x: [B, h, w, C].
    text: features of the same B sentences.
  """
  has_text = text.mask.any(-1)[:, None, None, None]
  return jnp.where(has_text, form(x, text), x)


def prepend(form: nn.Module, x: jax.Array, text: TextFeatures):
  """Computes the token of `te_prepend`, and whether it counts, bool [B, 1].

  It counts in rows with a real word; arguments as for `fuse`.
  """
  return form(x, text), text.mask.any(-1, keepdims=True)
