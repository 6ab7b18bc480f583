"""Grounding: where a named thing is, what an empty sentence does, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax.models import class_names, grounding, lite
from salflax.models.backbones.efficientnet_lite import EfficientNetLite
from salflax.models.layers import TextFeatures
from salflax.models.text import bert
from salflax.train import features

SIZE = (64, 96)
LEVELS = {
  '1/8': (4, 6, 40),
  '1/16': (4, 6, 112),
  '1/32': (2, 3, 320),
  'classes': (2, 3, 1000),
  'coarse/32': (1, 2, 320),
  'coarse/classes': (1, 2, 1000),
}


def _network(**attributes):
  taps = ('1/8', '1/16', '1/32', 'classes')
  return lite.Lite(EfficientNetLite(taps=taps), size=SIZE, **attributes)


def _features(b=3):
  rng = np.random.default_rng(0)
  return {
    k: jnp.asarray(rng.normal(size=(b, *s)), jnp.float32)
    for k, s in LEVELS.items()
  }


def _unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _text(b=3, length=9):
  rng = np.random.default_rng(1)
  names = class_names.load()
  some = names.vectors[rng.integers(0, 1000, (b, length))]
  alone = _unit(some + rng.normal(size=some.shape).astype(np.float32) / 40)
  alike = class_names.likeness(alone, names)
  context = rng.normal(size=alone.shape).astype(np.float32)
  tokens = np.concatenate([context, alone, np.asarray(alike)], -1)
  mask = np.arange(length)[None] < np.array([9, 0, 3])[:b, None]
  sentence = _unit(rng.normal(size=(b, 384)).astype(np.float32))
  return TextFeatures(*map(jnp.asarray, (tokens, mask, sentence)))


@functools.cache
def _trained():
  """Makes a network of two members and variables, as after some training."""
  network = _network(members=2)
  variables = jax.jit(functools.partial(network.init, train=False))(
    jax.random.key(0), _features(), _text()
  )
  return network, variables


@functools.cache
def _apply():
  network, _ = _trained()
  return jax.jit(functools.partial(network.apply, train=False))


def test_a_member_has_a_third_of_a_million_parameters():
  _, variables = _trained()
  count = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert 200_000 < count / 2 < 500_000


def test_maps_are_positive_and_of_the_images_size():
  _, variables = _trained()
  pred = _apply()(variables, _features(), _text())
  assert pred.shape == (3, *SIZE) and pred.dtype == jnp.float32
  assert float(pred.min()) >= 0
  np.testing.assert_allclose(pred.mean((1, 2)), 1, atol=0.2)


def test_a_row_without_words_takes_the_path_without_text():
  _, variables = _trained()
  with_text = _apply()(variables, _features(), _text())
  without = _apply()(variables, _features())
  np.testing.assert_array_equal(with_text[1], without[1])
  assert np.abs(with_text - without)[[0, 2]].max((1, 2)).min() > 1e-3


def test_padding_and_what_frames_a_sentence_change_nothing():
  _, variables = _trained()
  text = _text()
  words = np.zeros((3, 9), bool)
  words[0, 1:-1] = words[2, 1] = True
  noise = jnp.where(jnp.asarray(words)[..., None], text.tokens, 7.0)
  want = _apply()(variables, _features(), text)
  got = _apply()(variables, _features(), text._replace(tokens=noise))
  np.testing.assert_array_equal(got, want)


def test_a_word_is_where_the_classes_are_that_it_names():
  """Holds untrained: names and words are compared as their vectors are."""
  names = class_names.load()
  assert len(names.names) == len(names.vectors) == 1000
  logits = np.zeros((1, 4, 6, 1000), np.float32)
  place = {'umbrella': (0, 1), 'laptop': (3, 4)}
  for name, cell in place.items():
    logits[(0, *cell, names.names.index(name))] = 12
  posteriors = jax.nn.softmax(jnp.asarray(logits))
  cells = grounding.Cells(
    jnp.zeros((1, 4, 6, 8)),
    ((posteriors, slice(1000)),),
    jnp.zeros((1, 4, 6)),
  )
  head = grounding.SentenceHead()
  key = jax.random.key(0)
  for name, cell in place.items():
    vector = jnp.asarray(names.vectors[names.names.index(name)])[None]
    alike = class_names.likeness(vector[None], names)
    words = grounding.Words(
      vector[None], vector[None], jnp.ones((1, 1), bool), vector, alike
    )
    args = (cells, words)
    variables = head.init(key, *args, train=False)
    x = np.asarray(head.apply(variables, *args, train=False))[0]
    assert np.unravel_index(x.argmax(), x.shape) == cell, name


@pytest.mark.parametrize('word', ['umbrella', 'red', 'left'])
def test_a_word_is_where_the_thing_colour_or_place_is_that_it_names(word):
  names = class_names.load(class_names.SIGHTS_FILE)
  number = names.names.index(word)
  x = np.random.default_rng(0).uniform(0, 0.1, (1, 4, 6, len(names.names)))
  x[0, 1, 2, number] = 1
  cells = grounding.Cells(
    jnp.zeros((1, 4, 6, 8)),
    ((jnp.asarray(x, jnp.float32), slice(1000, None)),),
    jnp.zeros((1, 4, 6)),
  )
  vector = jnp.asarray(names.vectors[number])[None]
  alike = class_names.likeness(vector[None], names)
  alike = jnp.concatenate([jnp.zeros((1, 1, 1000)), alike], -1)
  words = grounding.Words(
    vector[None], vector[None], jnp.ones((1, 1), bool), vector, alike
  )
  head = grounding.SentenceHead()
  variables = head.init(jax.random.key(0), cells, words, train=False)
  y = np.asarray(head.apply(variables, cells, words, train=False))[0]
  assert np.unravel_index(y.argmax(), y.shape) == (1, 2)


def test_things_colours_and_places_are_a_level_of_their_own():
  taps = ('1/8', '1/16', '1/32', 'classes', 'things')
  network = lite.Lite(EfficientNetLite(taps=taps), size=SIZE, levels=taps)
  image = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
  shapes, _ = jax.eval_shape(
    lambda x: network.init_with_output(
      jax.random.key(0), x, method='encode_image'
    ),
    image,
  )
  levels = {k: v.shape[1:] for k, v in shapes.items()}
  assert levels == LEVELS | {'sights': (4, 6, 96)}


def test_training_leaves_channels_out_and_reaches_every_parameter():
  network, variables = _trained()
  text = _text()

  @jax.jit
  def loss(params, key):
    pred = network.apply(
      {**variables, 'params': params},
      _features(),
      text,
      train=True,
      rngs={'dropout': key},
    )
    return (pred**2).mean()

  value, gradient = jax.value_and_grad(loss)(
    variables['params'], jax.random.key(1)
  )
  assert float(value) != float(loss(variables['params'], jax.random.key(2)))
  for path, x in jax.tree.leaves_with_path(gradient):
    assert np.isfinite(x).all() and np.any(x), path


def test_two_sizes_of_an_image_give_the_levels():
  network = _network()
  image = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
  shapes, _ = jax.eval_shape(
    lambda x: network.init_with_output(
      jax.random.key(0), x, method='encode_image'
    ),
    image,
  )
  assert {k: v.shape[1:] for k, v in shapes.items()} == LEVELS


def _tiny_text():
  return bert.Bert(
    vocab_size=50,
    hidden_dim=8,
    num_layers=1,
    num_heads=2,
    mlp_dim=16,
    pool='mean',
    normalize=True,
  )


def _names_file(path, seed):
  vectors = _unit(np.random.default_rng(seed).normal(size=(4, 8)))
  np.savez(path, names=list('abcd'), vectors=vectors)
  return vectors


def test_words_are_encoded_in_their_sentence_and_alone(tmp_path):
  text, names = _tiny_text(), tmp_path / 'names.npz'
  vectors = _names_file(names, 0)
  network = _network(text=text, names=str(names))
  tokens = jnp.asarray([[1, 7, 9, 2, 0], [1, 2, 0, 0, 0], [0, 0, 0, 0, 0]])
  mask = jnp.asarray([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0] * 5], bool)
  features, variables = network.init_with_output(
    jax.random.key(0), tokens, mask, method='encode_text'
  )
  np.testing.assert_array_equal(features.mask, mask)
  params = {'params': variables['params']['text']}
  alone = text.apply(params, jnp.asarray([[1, 9, 2]]), jnp.ones((1, 3), bool))
  np.testing.assert_allclose(
    features.tokens[0, 2, 8:16], alone.sentence[0], atol=1e-6
  )
  np.testing.assert_allclose(
    features.tokens[0, 2, 16:], alone.sentence[0] @ vectors.T, atol=1e-6
  )
  whole = text.apply(params, tokens, mask)
  np.testing.assert_allclose(
    features.tokens[0, :, :8], whole.tokens[0], atol=1e-6
  )


def test_stored_sentences_know_the_names_that_they_were_compared_with(tmp_path):
  tokens = np.array([[1, 7, 9, 2]], np.int32), np.ones((1, 4), bool)
  tokenizer = lambda texts: [np.repeat(x, len(texts), 0) for x in tokens]
  stored, variables = [], None
  for seed in range(2):
    path = tmp_path / f'{seed}.npz'
    vectors = _names_file(path, seed)
    network = _network(text=_tiny_text(), names=str(path))
    if variables is None:
      variables = network.init(
        jax.random.key(0), *map(jnp.asarray, tokens), method='encode_text'
      )
    lookup = features.store_text(
      network, variables, ['a'], tokenizer, folder=str(tmp_path / 'cache')
    )
    stored.append(lookup({'text': 'a'})['text_tokens'][1])
    alone, alike = stored[-1][8:16], stored[-1][16:]
    np.testing.assert_allclose(alike, vectors @ alone, atol=1e-5)
  np.testing.assert_array_equal(stored[0][:16], stored[1][:16])


def test_names_are_the_text_encoders_vectors():
  try:
    module, variables, folder = bert.load(
      'all-MiniLM-L6-v2', pool='mean', normalize=True
    )
  except FileNotFoundError as e:
    pytest.skip(str(e))
  from salflax.data.tokenizer import Tokenizer

  names = class_names.load()
  some = [0, 340, 999]
  texts = [(names.names, names.vectors), (names.lemmas, names.lemma_vectors)]
  for written, vectors in texts:
    ids, mask = Tokenizer(folder, 16)([written[i] for i in some])
    got = module.apply(variables, ids, mask).sentence
    np.testing.assert_allclose(got, vectors[some], atol=1e-3)


def test_a_word_is_like_the_kinds_of_what_it_names():
  names = class_names.load()
  vector = names.lemma_vectors[names.lemmas.index('dog')]
  alike = np.asarray(class_names.likeness(jnp.asarray(vector), names))
  pug, hammer = (names.names.index(x) for x in ('pug', 'hammer'))
  steps = [
    step
    for kind, lemma, step in names.entries
    if kind == pug and names.lemmas[lemma] == 'dog'
  ]
  np.testing.assert_allclose(alike[pug], 0.95 ** steps[0], atol=1e-3)
  assert alike[hammer] < 0.6
  assert set(names.entries[:, 0]) == set(range(1000))


def test_names_alone_are_their_own_lemmas(tmp_path):
  path = tmp_path / 'names.npz'
  vectors = _unit(np.random.default_rng(0).normal(size=(3, 5)))
  np.savez(path, names=['a', 'b', 'c'], vectors=vectors)
  alike = class_names.likeness(jnp.asarray(vectors), class_names.load(path))
  np.testing.assert_allclose(alike, vectors @ vectors.T, atol=1e-6)


def test_what_does_not_fit_is_refused():
  network, variables = _trained()
  bare = {k: v for k, v in _features().items() if k != 'classes'}
  with pytest.raises(ValueError, match='classes'):
    network.apply(variables, bare, train=False)
  text = _text()
  with pytest.raises(ValueError, match='MiniLM'):
    network.apply(
      variables,
      _features(),
      text._replace(sentence=text.sentence[:, :100]),
      train=False,
    )
  with pytest.raises(ValueError, match='no text encoder'):
    network.apply(
      variables, _features(), jnp.zeros((3, 4), jnp.int32), train=False
    )
