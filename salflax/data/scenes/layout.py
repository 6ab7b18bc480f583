"""Which things an embedded scene holds, where, and how conspicuous they are."""

import functools
from typing import NamedTuple

import numpy as np

from salflax.data.scenes import art


class Thing(NamedTuple):
  """One object of a scene; lengths in units of the image's shorter side.

  Attributes:
    kind: key of `art.THINGS`.
    colour: colour of scenes.toml.
    pattern: one of `art.PATTERNS`.
    row: row of the centre.
    column: column of the centre.
    radius: half its extent.
    angle: turn in radians.
    fade: share of the ground's colour mixed in, 0 to 1.
    weight: share of the scene's conspicuity; those of a scene sum to 1.
  """

  kind: str
  colour: str
  pattern: str
  row: float
  column: float
  radius: float
  angle: float
  fade: float
  weight: float = 0.0


class Scene(NamedTuple):
  """What an image holds, before it is drawn.

  Attributes:
    ground: ground of scenes.toml.
    things: three to six, most conspicuous first.
    extent: height and width in units of the shorter side.
  """

  ground: str
  things: tuple[Thing, ...]
  extent: tuple[float, float]


# The conditions of an image are read one after the other.
@functools.lru_cache(maxsize=256)
def compose(seeds: tuple[int, ...], extent: tuple[float, float]) -> Scene:
  """Composes a random scene for an image of `extent` (height, width)."""
  rng = np.random.default_rng(seeds)
  ground = str(rng.choice(list(art.TABLES['grounds'])))
  number = int(rng.integers(3, 7))
  things = []
  for rank, look in enumerate(_pairs(rng, number, ground)):
    big, faded = (0.2, 0.0) if rank == 0 else (0.125, 0.2)
    radius = big * rng.uniform(0.85, 1.15) * (0.9 if number > 4 else 1.0)
    if rank == number - 1:
      radius, faded = 0.09 * rng.uniform(0.95, 1.15), 0.35
    spot = _spot(rng, things, radius, extent)
    pattern = str(rng.choice(art.PATTERNS, p=(0.55, 0.15, 0.15, 0.15)))
    angle = float(rng.uniform(-0.3, 0.3))
    fade = float(faded * rng.uniform(0.6, 1.0))
    things.append(Thing(*look, pattern, *spot, angle, fade))
  weights = np.array([_conspicuity(t, ground) for t in things])
  weights /= weights.sum()
  things = [t._replace(weight=float(w)) for t, w in zip(things, weights)]
  things.sort(key=lambda t: -t.weight)
  return Scene(ground, tuple(things), extent)


def _pairs(rng, number, ground) -> list[tuple[str, str]]:
  """Draws kinds and colours, all pairs different; the last shares one half."""
  far = lambda c: art.tone(c, ground, 0) - art.tones(ground).mean(0)
  colours = [c for c in art.TABLES['colours'] if np.abs(far(c)).max() > 75]
  kinds = rng.permutation(list(art.THINGS))[:number].tolist()
  paints = rng.choice(colours, number).tolist()
  # A thing of the same kind in another colour, or the other way round: a word
  # alone does not find the inconspicuous thing.
  twin = rng.random()
  if twin < 0.35:
    kinds[-1] = kinds[-2]
    paints[-1] = str(rng.choice([c for c in colours if c != paints[-2]]))
  elif twin < 0.7:
    paints[-1] = paints[-2]
  return list(zip(kinds, paints))


def _spot(rng, things, radius, extent) -> tuple[float, float, float]:
  """Finds a free place for a thing, which shrinks where there is none."""
  for attempt in range(200):
    radius *= 0.93 if attempt % 40 == 39 else 1.0
    row = rng.uniform(radius, extent[0] - radius)
    column = rng.uniform(radius, extent[1] - radius)
    if all(
      np.hypot(row - t.row, column - t.column) > 1.1 * (radius + t.radius)
      for t in things
    ):
      break
  return float(row), float(column), float(radius)


def _conspicuity(thing, ground) -> float:
  """Weighs a thing: large and unlike the ground attracts gaze; unnormalised."""
  rgb = art.tone(thing.colour, ground, thing.fade)
  contrast = np.linalg.norm(rgb - art.tones(ground).mean(0)) / 255
  patterned = 1.15 if thing.pattern != 'plain' else 1.0
  return float((thing.radius * (0.35 + contrast) * patterned) ** 2.5)
