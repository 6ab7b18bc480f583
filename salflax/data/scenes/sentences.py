"""Says what is in an embedded scene, in many ways.

Every noun phrase fits exactly one thing of its scene. Words vary (synonyms,
order, sentence patterns), so that a text encoder has something to do; which
pattern is used tells nothing about how conspicuous the thing is. The words
left and right are used for sides only, so that mirroring may swap them.
"""

import itertools

import numpy as np

WORDS = {
  'red': ('red', 'red', 'scarlet', 'crimson'),
  'orange': ('orange', 'orange', 'tangerine'),
  'yellow': ('yellow', 'yellow', 'lemon-yellow'),
  'green': ('green', 'green', 'emerald green'),
  'blue': ('blue', 'blue', 'cobalt blue'),
  'purple': ('purple', 'purple', 'violet'),
  'pink': ('pink', 'pink', 'rose-coloured'),
  'white': ('white', 'white', 'snow-white'),
  'black': ('black', 'black', 'jet-black'),
  'plain': ('plain', 'single-coloured'),
  'striped': ('striped', 'stripy'),
  'spotted': ('spotted', 'dotted', 'polka-dot'),
  'checked': ('checked', 'chequered'),
  'circle': ('circle', 'disc', 'round shape'),
  'square': ('square', 'box'),
  'triangle': ('triangle', 'triangular shape'),
  'diamond': ('diamond', 'rhombus'),
  'star': ('star', 'five-pointed star'),
  'heart': ('heart', 'heart shape'),
  'ring': ('ring', 'hoop'),
  'cross': ('cross', 'plus sign'),
  'moon': ('moon', 'crescent', 'half moon'),
  'flower': ('flower', 'blossom'),
  'umbrella': ('umbrella', 'parasol'),
  'house': ('house', 'cottage', 'hut'),
  'tree': ('tree', 'leafy tree'),
  'fish': ('fish', 'swimming fish'),
  'boat': ('boat', 'sailing boat', 'ship'),
  'cup': ('cup', 'mug', 'coffee cup'),
  'car': ('car', 'automobile', 'little car'),
  'sand': ('sand', 'a sandy beach', 'the desert sand'),
  'grass': ('grass', 'a green lawn', 'a meadow'),
  'wood': ('wooden boards', 'a wooden table', 'a brown wooden floor'),
  'stone': ('grey stone', 'a stone floor', 'a grey wall'),
  'water': ('blue water', 'a calm lake', 'the sea'),
  'snow': ('snow', 'a snowy field', 'white snow'),
  'night': ('a dark night sky', 'the night sky', 'a starry sky'),
}

_ONE = (
  '{A}.',
  '{A} {at}.',
  'There is {a} {at}.',
  'There is {a}.',
  '{A} can be seen {at}.',
  'Look at {the}.',
  'Look for {the} {at}.',
  'Somebody has put {a} {at}.',
  'The picture shows {a} {at}.',
  '{The} is {at}.',
  '{The} lies on {ground}.',
  'Where is {the}?',
)

_MANY = (
  '{Number} things lie on {ground}: {list}.',
  '{List} on {ground}.',
  'On {ground} there are {list}.',
  'A picture of {ground} with {list}.',
  'The scene shows {list}, all on {ground}.',
  '{Number} objects are scattered over {ground}, among them {list}.',
)

_NUMBERS = {3: 'three', 4: 'four', 5: 'five', 6: 'six'}


def _pick(rng: np.random.Generator, options):
  return options[int(rng.integers(len(options)))]


def capital(text: str) -> str:
  """`text` with its first letter in upper case."""
  return text[:1].upper() + text[1:]


def place(thing, extent) -> str:
  """Where a thing is, as one adds it to a noun: 'on the left'.

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
  if level:
    return f'at the {level}'
  return 'in the middle'


def _matches(thing, other, facts, extent) -> bool:
  return all(
    place(thing, extent) == place(other, extent)
    if fact == 'place'
    else getattr(thing, fact) == getattr(other, fact)
    for fact in facts
  )


def phrase(rng: np.random.Generator, thing, things, extent) -> str:
  """A noun phrase without article that fits `thing` alone.

  Args:
    rng: chooses facts and words.
    thing: one of `things`; has kind, colour, pattern, row, column.
    things: all of the scene; no two share both kind and colour.
    extent: greatest (row, column).
  """
  choices = [
    ('kind',),
    ('colour', 'kind'),
    ('colour', 'kind'),
    ('pattern', 'colour', 'kind'),
    ('kind', 'place'),
    ('colour', 'place'),
  ]
  order = rng.permutation(len(choices))
  for facts in itertools.chain((choices[i] for i in order), [choices[1]]):
    if not any(
      other is not thing and _matches(thing, other, facts, extent)
      for other in things
    ):
      break
  words = [
    _pick(rng, WORDS[getattr(thing, fact)])
    for fact in ('pattern', 'colour')
    if fact in facts
  ]
  words.append(_pick(rng, WORDS[thing.kind]) if 'kind' in facts else 'object')
  if 'place' in facts:
    words.append(place(thing, extent))
  return ' '.join(words)


def an(noun: str) -> str:
  """`noun` with its indefinite article."""
  return f'an {noun}' if noun[0] in 'aeiou' else f'a {noun}'


def name_one(rng: np.random.Generator, thing, scene) -> str:
  """A sentence that names one thing of a scene."""
  noun = phrase(rng, thing, scene.things, scene.extent)
  where = place(thing, scene.extent)
  said = noun.endswith(where)
  patterns = [p for p in _ONE if not (said and '{at}' in p)]
  return _pick(rng, patterns).format(
    a=an(noun),
    A=capital(an(noun)),
    the=f'the {noun}',
    The=f'The {noun}',
    at=where,
    ground=_pick(rng, WORDS[scene.ground]),
  )


def describe(rng: np.random.Generator, mentioned, scene) -> str:
  """A sentence about the whole scene that names some of its things."""
  nouns = [an(phrase(rng, t, scene.things, scene.extent)) for t in mentioned]
  listed = ', '.join(nouns[:-1]) + f' and {nouns[-1]}'
  return _pick(rng, _MANY).format(
    Number=capital(_NUMBERS[len(scene.things)]),
    list=listed,
    List=capital(listed),
    ground=_pick(rng, WORDS[scene.ground]),
  )
