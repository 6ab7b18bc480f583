"""Makes `models/imagenet_names.npz`: what classes are called, by WordNet.

    python launch/imagenet_names.py data.noun names.npz

data.noun is WordNet 3.0's (Debian package wordnet-base, or wordnet.princeton.
edu). Names and synsets of the classes are those of the packaged file; vectors
are computed anew, by all-MiniLM-L6-v2.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from salflax.core import files
from salflax.models import class_names
from salflax.models.text import bert

# Steps above a class that count, and how many of the most abstract do not:
# 'entity', 'physical entity', 'object', 'whole' say nothing.
STEPS, ABSTRACT = 8, 4


class Synset(NamedTuple):
  """One meaning: its lemmas, and offsets of what it is a kind of."""

  lemmas: list[str]
  above: list[str]


def read_wordnet(path: pathlib.Path) -> dict[str, Synset]:
  """Reads the nouns of WordNet, by their offset of eight digits."""
  synsets = {}
  for line in path.read_text('latin1').splitlines():
    if line.startswith('  '):  # the licence
      continue
    offset, _, _, number, *rest = line.partition('|')[0].split()
    end = 2 * int(number, 16)
    lemmas = [word.replace('_', ' ') for word in rest[:end:2]]
    pointers = rest[end + 1 :]
    above = [
      pointers[i + 1]
      for i in range(0, 4 * int(rest[end]), 4)
      if pointers[i] in ('@', '@i') and pointers[i + 2] == 'n'
    ]
    synsets[offset] = Synset(lemmas, above)
  return synsets


def kinds(synsets: Mapping[str, Synset], offset: str) -> list[str]:
  """Lists a synset and what it is a kind of, from the narrowest upwards."""
  chain = [offset]
  while above := synsets[chain[-1]].above:
    chain.append(above[0])
  return chain[: max(1, min(STEPS + 1, len(chain) - ABSTRACT))]


def entries(synsets: Mapping[str, Synset], ids: list[str]):
  """Finds the lemmas above each class, with the fewest steps up to each.

  Returns:
    Lemmas, sorted; rows (class, lemma, steps), sorted.
  """
  steps = {}
  for number, name in enumerate(ids):
    for step, offset in enumerate(kinds(synsets, name.removeprefix('n'))):
      for lemma in synsets[offset].lemmas:
        steps.setdefault((number, lemma), step)
  lemmas = sorted({lemma for _, lemma in steps})
  places = {lemma: i for i, lemma in enumerate(lemmas)}
  rows = sorted((n, places[lemma], step) for (n, lemma), step in steps.items())
  return lemmas, np.array(rows, np.uint16)


def encode(texts: list[str]) -> np.ndarray:
  """Computes sentence vectors f16 [N, D] by all-MiniLM-L6-v2."""
  from salflax.data.tokenizer import Tokenizer

  module, variables, folder = bert.load(
    'all-MiniLM-L6-v2', pool='mean', normalize=True
  )
  ids, mask = Tokenizer(folder, 24)(texts)
  parts = np.array_split(np.arange(len(texts)), max(1, len(texts) // 64))
  vectors = [module.apply(variables, ids[i], mask[i]).sentence for i in parts]
  return np.concatenate(vectors).astype(np.float16)


def main(wordnet: str, out: str) -> None:
  """Writes the file."""
  with np.load(class_names.NAMES_FILE, allow_pickle=False) as archive:
    names, synsets = archive['names'], archive['synsets']
  lemmas, rows = entries(read_wordnet(pathlib.Path(wordnet)), synsets.tolist())
  with files.replacing(out) as path, open(path, 'wb') as f:
    np.savez_compressed(
      f,
      names=names,
      synsets=synsets,
      vectors=encode(names.tolist()),
      lemmas=np.array(lemmas),
      lemma_vectors=encode(lemmas),
      entries=rows,
    )


if __name__ == '__main__':
  main(*sys.argv[1:])
