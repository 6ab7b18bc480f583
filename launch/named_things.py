"""Makes sentences for images of free viewing, and where people look with them.

    python launch/named_things.py raw/named folder:freeview osie
    salflax prepare --dataset=folder --name=named --raw=raw/named

A detector names what an image shows: *the man on the right*, *a red bus*, *some
birds in the square*. Nobody looked with these sentences; their map is where
people looked in free viewing, within the boxes of what is named. The folder has
a sentence in each of the four conditions with text, which mean nothing here.
"""

import csv
import pathlib
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import tqdm
from PIL import Image

from salflax import data
from salflax.config import resolve
from salflax.data import batches, pp
from salflax.models import class_names, sights
from salflax.models.backbones import efficientnet_lite, nanodet
from salflax.models.weights import pretrained

SIZE, CELL = (480, 640), 8
SLOTS = ('whole', 'all', 'non_salient', 'salient')
# A box that others of its kind cover by half is the same thing.
LEAST, OVERLAP, MOST = 0.38, 0.5, 60
PERSON = (
  *('man', 'woman', 'person', 'boy', 'girl', 'guy', 'lady', 'child', 'kid'),
  *('young man', 'little girl', 'player', 'pedestrian', 'tourist'),
)
PEOPLE = (
  *('people', 'men', 'women', 'kids', 'children', 'pedestrians', 'boys'),
  *('girls', 'spectators', 'friends'),
)
VEHICLES = {
  *('car', 'bus', 'truck', 'motorcycle', 'bicycle', 'train', 'airplane'),
  'boat',
}
PLACES = (
  *('on the street', 'in the room', 'on the grass', 'by the water'),
  *('in the square', 'on the road', 'in the park', 'on the table'),
  *('in front of the building', 'near the wall', 'under the tree'),
  *('on the beach', 'in the kitchen', 'in the picture', 'outside'),
  *('on the sidewalk', 'in the city', 'near the window', 'at the corner'),
)
DOES = {
  'person': ('is walking', 'is standing', 'is sitting', 'is waiting'),
  'vehicle': ('is parked', 'drives by', 'is moving', 'stops'),
  'thing': ('can be seen', 'is lying'),
}


class Thing(NamedTuple):
  """One thing: its kind, its box (top, left, bottom, right), its colour."""

  kind: str
  box: np.ndarray
  colour: str

  @property
  def x(self) -> float:
    """Column of its middle, in pixels."""
    return (self.box[1] + self.box[3]) / 2

  @property
  def area(self) -> float:
    """Area of its box."""
    return float(np.prod(self.box[2:] - self.box[:2]))


# Words, and the things they name with their weights.
Said = tuple[str, list[tuple[Thing, float]]]


def a(noun: str) -> str:
  """Puts 'a' or 'an' before a noun."""
  return f'{"an" if noun[0] in "aeiou" else "a"} {noun}'


def read_names() -> dict[str, dict[str, list[str]]]:
  """Reads the names of things, colours and places, and other words for each."""
  path = class_names.SIGHTS_FILE.with_suffix('.toml')
  return tomllib.loads(path.read_text())


class Speaker:
  """Says what there is, in other words each time.

  Args:
    rng: draws the words.
  """

  def __init__(self, rng: np.random.Generator):
    self.words = read_names()['things']
    self.rng = rng

  def pick(self, *options: str) -> str:
    """Draws one of several."""
    return str(self.rng.choice(options))

  def one(self, kind: str) -> str:
    """Names one thing of a kind."""
    if kind == 'person':
      return self.pick(*PERSON)
    others = [w for w in self.words[kind] if not w.endswith('s')]
    return self.pick(kind, kind, *others)

  def several(self, kind: str) -> str:
    """Names several things of a kind."""
    if kind == 'person':
      return self.pick(*PEOPLE)
    noun = self.one(kind)
    if noun in ('skis', 'scissors', 'sheep', 'aircraft'):
      return noun
    return noun + ('es' if noun.endswith(('s', 'sh', 'ch', 'x')) else 's')

  def place(self) -> str:
    """Names a place half of the time: words that lead nowhere."""
    return f' {self.pick(*PLACES)}' if self.rng.random() < 0.5 else ''

  def alone(self, thing: Thing) -> Iterator[Said]:
    """Says that there is one thing of its kind, and on which side."""
    noun, place, named = self.one(thing.kind), self.place(), [(thing, 1.0)]
    role = 'vehicle' if thing.kind in VEHICLES else 'thing'
    does = self.pick(*DOES.get(thing.kind, DOES[role]))
    yield (
      self.pick(
        f'There is {a(noun)}{place}',
        f'{a(noun)} {does}{place}',
        f'The {noun}{place}',
        f'{a(noun)}{place}',
      ),
      named,
    )
    if abs(thing.x - SIZE[1] / 2) > 120 and self.rng.random() < 0.4:
      side = 'left' if thing.x < SIZE[1] / 2 else 'right'
      yield f'{a(noun)} on the {side}', named

  def many(self, things: list[Thing]) -> Iterator[Said]:
    """Says that there are several, and tells some of them from the others."""
    kind, place = things[0].kind, self.place()
    nouns, noun = self.several(kind), self.one(kind)
    yield (
      self.pick(
        f'There are some {nouns}{place}',
        f'Several {nouns}{place}',
        f'A group of {nouns}{place}',
        f'There are many {nouns}{place}',
      ),
      [(t, 1.0) for t in things],
    )
    left, right = (f(things, key=lambda t: t.x) for f in (min, max))
    if right.x - left.x > SIZE[1] / 4:
      side, thing = [('left', left), ('right', right)][self.rng.integers(2)]
      yield (
        self.pick(
          f'{a(noun)} on the {side}',
          f'The {noun} on the {side}{place}',
          f'The {noun} on the far {side}',
          f'The {noun} to the {side} of the picture',
        ),
        [(thing, 1.0)],
      )
    yield from self._by_size(things)

  def _by_size(self, things: list[Thing]) -> Iterator[Said]:
    largest = max(things, key=lambda t: t.area)
    small = [t for t in things if t.area < 0.4 * largest.area]
    if min(t.area for t in things) >= 0.3 * largest.area:
      return
    kind = largest.kind
    noun = self.one(kind) if len(small) == 1 else self.several(kind)
    if self.rng.random() < 0.6:
      far = self.pick('in the distance', 'in the background', 'far away')
      yield f'The {noun} {far}', [(t, 1.0) for t in small]
    else:
      near = self.pick('in the foreground', 'close to the camera', 'in front')
      yield f'The {self.one(kind)} {near}', [(largest, 1.0)]

  def coloured(self, things: list[Thing]) -> Iterator[Said]:
    """Says what colour one has; all that have it are meant."""
    known = [t for t in things if t.colour]
    if not known:
      return
    thing = known[self.rng.integers(len(known))]
    noun, colour, place = self.one(thing.kind), thing.colour, self.place()
    if thing.kind == 'person':
      wears = self.pick(
        *(f'a {colour} shirt', f'a {colour} coat', f'a {colour} dress'),
        *(f'{colour} clothes', colour),
      )
      text = f'{a(noun)} in {wears}{place}'
    else:
      text = f'{a(colour)} {noun}{place}'
    yield text, [(t, 1.0) for t in known if t.colour == colour]

  def together(self, things: list[Thing]) -> Iterator[Said]:
    """Says what people have with them: boxes that overlap."""
    people = [t for t in things if t.kind == 'person'][:4]
    for person in people:
      for thing in things:
        low = np.maximum(person.box[:2], thing.box[:2])
        high = np.minimum(person.box[2:], thing.box[2:])
        meet = thing.kind != 'person' and (high > low).all()
        if meet and self.rng.random() < 0.5:
          one, other = self.one('person'), self.one(thing.kind)
          yield (
            self.pick(
              f'{a(one)} with {a(other)}',
              f'{a(one)} next to {a(other)}',
              f'The {one} near the {other}',
            ),
            [(person, 1.0), (thing, 0.5)],
          )
          break

  def sentences(self, things: list[Thing]) -> list[Said]:
    """Lists sentences about what is seen, in a random order, each once."""
    said = list(self.together(things))
    for kind in dict.fromkeys(t.kind for t in things):
      same = [t for t in things if t.kind == kind]
      said += self.many(same) if len(same) > 1 else self.alone(same[0])
      said += self.coloured(same)
    said = {text[0].upper() + text[1:]: named for text, named in said}
    return [
      [*said.items()][i] for i in self.rng.permutation(len(said)).tolist()
    ]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
  """Computes the share of two boxes' union that both cover."""
  sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
  both = np.prod(np.maximum(sides, 0))
  areas = sum(np.prod(b[2:] - b[:2]) for b in (one, other))
  return float(both / (areas - both))


def _colour(cells, thing: str, box: np.ndarray, names: list[str]) -> str:
  """Names the colour of more than half of a box's middle, or of a torso."""
  top, left, bottom, right = box / 16
  height, width = bottom - top, right - left
  low, high = (0.2, 0.5) if thing == 'person' else (0.25, 0.75)
  rows = slice(int(top + low * height), int(top + high * height) + 1)
  columns = slice(int(left + width / 4), int(right - width / 4) + 1)
  shares = cells[rows, columns].reshape(-1, len(names))
  if not len(shares) or shares.mean(0).max() < 0.5:
    return ''
  return names[shares.mean(0).argmax()]


def make_detector() -> Callable[[np.ndarray], list[Thing]]:
  """Makes a function from a frame u8 [480, 640, 3] to the things in it."""
  names = read_names()
  kinds, colours = [*names['things']], [*names['colours']]
  state = pretrained.read(efficientnet_lite.DETECTOR_FILE)
  params = pretrained.convert(state)['params']['detector']

  @jax.jit
  def look(frame):
    detections = nanodet.NanoDet().apply({'params': params}, frame)
    return *detections, sights.colours(frame, 16)

  def detect(frame):
    frame = frame[None].astype(np.float32)
    scores, boxes, cells = (np.asarray(x)[0] for x in look(frame))
    cell, kind = np.nonzero(scores > LEAST)
    things = []
    for i in np.argsort(-scores[cell, kind], kind='stable'):
      name, box = kinds[kind[i]], boxes[cell[i]]
      same = (t.box for t in things if t.kind == name)
      if len(things) < MOST and all(overlap(box, b) < OVERLAP for b in same):
        things.append(Thing(name, box, _colour(cells, name, box, colours)))
    return things

  return detect


def looked_at(named: list[tuple[Thing, float]], free: np.ndarray) -> np.ndarray:
  """Computes where people look: in free viewing, within what is named.

  Args:
    named: things and their weights.
    free: map of free viewing [60, 80].

  Returns:
    [60, 80], of sum 1: four fifths of it are on what is named, and larger
    things take more of it, by the root of their area.
  """
  y, x = (np.arange(0.5, n) * CELL for n in free.shape)
  out = np.zeros_like(free)
  for thing, weight in named:
    top, left, bottom, right = thing.box
    height, width = max(bottom - top, 24), max(right - left, 24)
    down = (y - (top + bottom) / 2) / (0.33 * height + 8)
    across = (x - (left + right) / 2) / (0.33 * width + 8)
    near = np.exp(-(down[:, None] ** 2 + across**2) / 2)
    part = near * (free / free.mean() + 0.3)
    out += weight * np.sqrt(height * width) * part / part.sum()
  return 0.8 * out / out.sum() + 0.2 * free / free.sum()


def write(out: pathlib.Path, names: list[str]) -> int:
  """Writes a folder for `salflax prepare`; returns the number of sentences."""
  frame = pp.make(f'resize_pad({SIZE[0]}, {SIZE[1]})|rasterize|shrink({CELL})')
  speaker = Speaker(np.random.default_rng(0))
  detect, rows = make_detector(), []
  for part in ('images', 'maps'):
    (out / part).mkdir(parents=True)
  for name in names:
    source = data.load_source(name, 'all', resolve.data_dir(''))
    for i in tqdm.trange(len(source), desc=name):
      example = frame(dict(source[i]), None)
      free = np.asarray(example['saliency'], np.float64)
      said = speaker.sentences(detect(example['image']))[: len(SLOTS)]
      if not said or not free.any():
        continue
      meta = batches.meta(source, i)
      stem = re.sub(r'\W', '_', f'{name}_{meta["image_id"]}')
      (out / 'images' / f'{stem}.jpg').write_bytes(source.stored(i)['image'])
      top, left, height, width = example['box']
      maps = {'pure': ('', free)} | {
        slot: (text, looked_at(named, free))
        for slot, (text, named) in zip(SLOTS, said)
      }
      for slot, (text, saliency) in maps.items():
        inside = saliency[top : top + height, left : left + width]
        pixels = np.uint8(255 * inside / inside.max() + 0.5)
        Image.fromarray(pixels).resize(
          (meta['width'], meta['height']), Image.Resampling.BICUBIC
        ).save(out / 'maps' / f'{stem}_{slot}.png')
        rows.append((stem, slot, text))
  with (out / 'texts.csv').open('w', newline='') as f:
    csv.writer(f).writerows([('image', 'condition', 'text'), *rows])
  return sum(bool(text) for *_, text in rows)


def main(folder: str = '', *names: str) -> None:
  """Writes the folder whole, or not at all."""
  out = pathlib.Path(folder)
  if not names:
    sys.exit(__doc__)
  if out.exists():
    sys.exit(f'{out} is there already: delete it, or name another folder.')
  part = out.with_name(f'.{out.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  try:
    number = write(part, list(names))
  except (OSError, ValueError) as e:
    sys.exit(str(e))
  part.rename(out)
  print(f'{number} sentences in {out}')


if __name__ == '__main__':
  main(*sys.argv[1:])
