"""Makes `models/sight_names.npz`: words of things, colours, places; vectors.

Reads sight_names.toml beside it.

    python launch/sight_names.py

Vectors are all-MiniLM-L6-v2's, as those of ImageNet's class names.
"""

import tomllib

import imagenet_names
import numpy as np

from salflax.core import files
from salflax.models import class_names


def main() -> None:
  """Writes the file."""
  path = class_names.SIGHTS_FILE.with_suffix('.toml')
  parts = tomllib.loads(path.read_text())
  # An orange is a fruit and a colour.
  names = [name for part in parts.values() for name in part]
  words = [
    [name, *more] for part in parts.values() for name, more in part.items()
  ]
  lemmas = sorted({lemma for group in words for lemma in group})
  places = {lemma: i for i, lemma in enumerate(lemmas)}
  entries = [
    (number, places[lemma], 0)
    for number, group in enumerate(words)
    for lemma in group
  ]
  out = class_names.SIGHTS_FILE
  with files.replacing(out) as temporary, open(temporary, 'wb') as f:
    np.savez_compressed(
      f,
      names=np.array(names),
      vectors=imagenet_names.encode(names),
      lemmas=np.array(lemmas),
      lemma_vectors=imagenet_names.encode(lemmas),
      entries=np.array(entries, np.uint16),
    )


if __name__ == '__main__':
  main()
