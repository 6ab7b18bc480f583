"""Says what is in an embedded scene, in many ways.

Every noun phrase fits exactly one thing of its scene. Words vary (synonyms,
order, sentence patterns), so that a text encoder has something to do; which
pattern is used tells nothing about how conspicuous the thing is. The words
left and right are used for sides only, so that mirroring may swap them.
"""

import numpy as np

from salflax.data.scenes import art

WORDS = art.TABLES['words']
_FACTS = art.TABLES['phrases']['facts']
_NUMBERS = {3: 'Three', 4: 'Four', 5: 'Five', 6: 'Six'}


def _pick(rng: np.random.Generator, options):
  return options[int(rng.integers(len(options)))]


def place(thing, extent) -> str:
  """Says where a thing is, as one adds it to a noun: 'on the left'.

  Args:
    thing: has row and column.
    extent: greatest (row, column), in the same unit.
  """
  y, x = thing.row / extent[0], thing.column / extent[1]
  side = 'left' if x < 0.36 else 'right' if x > 0.64 else ''
  level = 'top' if y < 0.36 else 'bottom' if y > 0.64 else ''
  if side and level:
    return f'in the {level} {side} corner'
  if side:
    return f'on the {side}'
  return f'at the {level}' if level else 'in the middle'


def phrase(rng: np.random.Generator, thing, things, extent) -> str:
  """Writes a noun phrase without article that fits `thing` alone.

  Args:
    rng: chooses facts and words.
    thing: one of `things`; has kind, colour, pattern, row, column.
    things: all of the scene; no two share both kind and colour.
    extent: greatest (row, column).
  """
  told = lambda t: t._asdict() | {'place': place(t, extent)}
  own, every = told(thing), [told(t) for t in things]
  alike = lambda other, facts: all(other[f] == own[f] for f in facts)
  alone = lambda facts: sum(alike(t, facts) for t in every) == 1
  order = [_FACTS[i] for i in rng.permutation(len(_FACTS))]
  facts = next(filter(alone, [*order, _FACTS[1]]))
  words = [
    _pick(rng, WORDS[getattr(thing, fact)])
    for fact in ('pattern', 'colour', 'kind')
    if fact in facts
  ]
  words += [] if 'kind' in facts else ['object']
  return ' '.join(words + [place(thing, extent)] * ('place' in facts))


def an(noun: str) -> str:
  """Adds the indefinite article."""
  return f'an {noun}' if noun[0] in 'aeiou' else f'a {noun}'


def name_one(rng: np.random.Generator, thing, scene) -> str:
  """Writes a sentence that names one thing of a scene."""
  noun = phrase(rng, thing, scene.things, scene.extent)
  where = place(thing, scene.extent)
  options = art.TABLES['sentences']['one']
  if noun.endswith(where):
    options = [p for p in options if '{at}' not in p]
  words = {'a': an(noun), 'the': f'the {noun}'}
  words |= {k.capitalize(): text.capitalize() for k, text in words.items()}
  return _pick(rng, options).format(
    **words, at=where, ground=_pick(rng, WORDS[scene.ground])
  )


def describe(rng: np.random.Generator, mentioned, scene) -> str:
  """Writes a sentence about the whole scene that names some of its things."""
  nouns = [an(phrase(rng, t, scene.things, scene.extent)) for t in mentioned]
  listed = ', '.join(nouns[:-1]) + f' and {nouns[-1]}'
  return _pick(rng, art.TABLES['sentences']['many']).format(
    Number=_NUMBERS[len(scene.things)],
    list=listed,
    List=listed.capitalize(),
    ground=_pick(rng, WORDS[scene.ground]),
  )
