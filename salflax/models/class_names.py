"""What ImageNet's classes are called, and how like them a word is."""

import functools
import os
import pathlib
from typing import NamedTuple

import jax
import numpy as np

# Names: torchvision (BSD 3-Clause). Lemmas: WordNet 3.0 (WordNet License).
# Vectors: all-MiniLM-L6-v2 (Apache 2.0).
NAMES_FILE = pathlib.Path(__file__).parent / 'imagenet_names.npz'
# The same of things that NanoDet detects, colours and places.
SIGHTS_FILE = pathlib.Path(__file__).parent / 'sight_names.npz'
# A likeness to a class's hypernym counts this much, for each step up.
_STEP_UP = 0.95


class ClassNames(NamedTuple):
  """What the classes are called, by themselves and as one kind of a thing.

  Attributes:
    names: K names.
    vectors: f32 [K, D], of length 1.
    lemmas: M names of the classes and of what they are a kind of.
    lemma_vectors: f32 [M, D], of length 1.
    entries: i32 [E, 3], class, lemma and steps up to it, in order of classes;
      every class has one or more.
  """

  names: tuple[str, ...]
  vectors: np.ndarray
  lemmas: tuple[str, ...]
  lemma_vectors: np.ndarray
  entries: np.ndarray


@functools.cache
def load(path: str | os.PathLike = NAMES_FILE) -> ClassNames:
  """Loads the names of classes, in their order.

  Args:
    path: .npz of `names` and `vectors`, and of `lemmas`, `lemma_vectors` and
      `entries`, without which a class has its name alone; ImageNet's 1000
      classes by default.
  """
  with np.load(path, allow_pickle=False) as archive:
    names, vectors = archive['names'], archive['vectors'].astype(np.float32)
    if 'entries' in archive:
      lemmas, lemma_vectors = archive['lemmas'], archive['lemma_vectors']
      entries = archive['entries'].astype(np.int32)
    else:
      lemmas, lemma_vectors = names, vectors
      own = np.arange(len(names))
      entries = np.stack([own, own, np.zeros_like(own)], 1)
  return ClassNames(
    tuple(names.tolist()),
    vectors,
    tuple(lemmas.tolist()),
    lemma_vectors.astype(np.float32),
    entries,
  )


def likeness(words: jax.Array, names: ClassNames) -> jax.Array:
  """Compares words with classes and with what the classes are a kind of.

  'Dog' is like every breed of dog, since WordNet lists it above them: the
  largest cosine over a class's lemmas, times .95 for each step up.

  Args:
    words: f32 [..., D], of length 1.
    names: K classes.

  Returns:
    f32 [..., K].
  """
  classes, lemmas, steps = names.entries.T
  cosine = names.lemma_vectors @ words.reshape(-1, words.shape[-1]).T
  share = np.float32(_STEP_UP**steps)[:, None]
  most = jax.ops.segment_max(
    cosine[lemmas] * share, classes, len(names.names), indices_are_sorted=True
  )
  return most.T.reshape(*words.shape[:-1], -1)
