"""The file of class names: what is read of WordNet."""

import numpy as np

from launch import imagenet_names
from salflax.models import class_names

WORDNET = """\
  1 This software and database is being provided to you ...
00000001 03 n 01 entity 0 000 | that which is
00000002 03 n 01 object 0 001 @ 00000001 n 0000 | a thing
00000003 05 n 02 animal 0 beast 0 001 @ 00000002 n 0000 | a living thing
00000004 05 n 02 dog 0 domestic_dog 0 002 @ 00000003 n 0000 ~ 00000005 n 0000 |
00000005 05 n 01 pug 0 001 @ 00000004 n 0000 | a small dog
"""


def test_lemmas_go_up_from_a_class(tmp_path, monkeypatch):
  monkeypatch.setattr(imagenet_names, 'ABSTRACT', 2)
  path = tmp_path / 'data.noun'
  path.write_text(WORDNET)
  synsets = imagenet_names.read_wordnet(path)
  assert synsets['00000004'].lemmas == ['dog', 'domestic dog']
  assert synsets['00000004'].above == ['00000003']
  lemmas, rows = imagenet_names.entries(synsets, ['n00000005', 'n00000003'])
  assert lemmas == ['animal', 'beast', 'dog', 'domestic dog', 'pug']
  assert [(int(n), lemmas[k], int(s)) for n, k, s in rows] == [
    (0, 'animal', 2),
    (0, 'beast', 2),
    (0, 'dog', 1),
    (0, 'domestic dog', 1),
    (0, 'pug', 0),
    (1, 'animal', 0),
    (1, 'beast', 0),
  ]


def test_the_packaged_file_has_the_kinds_of_a_class():
  names = class_names.load()
  tabby = names.names.index('tabby')
  kinds = {
    names.lemmas[lemma]: int(step)
    for number, lemma, step in names.entries
    if number == tabby
  }
  assert kinds['tabby'] == 0 and 0 < kinds['cat'] < kinds['feline']
  assert 'entity' not in names.lemmas
  np.testing.assert_allclose(
    np.linalg.norm(names.lemma_vectors, axis=1), 1, atol=2e-3
  )
