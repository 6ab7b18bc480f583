"""Which things an embedded scene holds, where, and how conspicuous they are."""

from typing import NamedTuple

import numpy as np

from salflax.data.scenes import art


class Thing(NamedTuple):
  """One object of a scene; lengths in units of the picture's shorter side.

  Attributes:
    kind: a key of `scene_art.THINGS`.
    colour: a key of `scene_art.COLOURS`.
    pattern: one of `scene_art.PATTERNS`.
    row: of the centre.
    column: of the centre.
    radius: half its extent.
    angle: in radians.
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
  """What a picture holds, before it is drawn.

  Attributes:
    ground: a key of `scene_art.GROUNDS`.
    things: three to six, most conspicuous first.
    extent: height and width in units of the shorter side.
  """

  ground: str
  things: tuple[Thing, ...]
  extent: tuple[float, float]


def compose(rng: np.random.Generator, extent: tuple[float, float]) -> Scene:
  """Returns a random scene for a picture of `extent` (height, width)."""
  ground = str(rng.choice(list(art.GROUNDS)))
  back = art.ground_tone(ground)
  colours = [
    name
    for name, rgb in art.COLOURS.items()
    if np.abs(np.subtract(rgb, back)).max() > 75
  ]
  number = int(rng.integers(3, 7))
  pairs = _pairs(rng, number, colours)
  things = []
  for rank, (kind, colour) in enumerate(pairs):
    big, faded = (0.2, 0.0) if rank == 0 else (0.125, 0.2)
    radius = big * rng.uniform(0.85, 1.15) * (0.9 if number > 4 else 1.0)
    if rank == number - 1:
      radius, faded = 0.09 * rng.uniform(0.95, 1.15), 0.35
    row, column, radius = _spot(rng, things, radius, extent)
    things.append(
      Thing(
        kind,
        colour,
        str(rng.choice(art.PATTERNS, p=(0.55, 0.15, 0.15, 0.15))),
        row,
        column,
        radius,
        float(rng.uniform(-0.3, 0.3)),
        float(faded * rng.uniform(0.6, 1.0)),
      )
    )
  weights = np.array([_conspicuity(t, ground, back) for t in things])
  weights /= weights.sum()
  things = [t._replace(weight=float(w)) for t, w in zip(things, weights)]
  things.sort(key=lambda t: -t.weight)
  return Scene(ground, tuple(things), extent)


def _pairs(rng, number, colours) -> list[tuple[str, str]]:
  """Kinds and colours, all pairs different; the last shares one half."""
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
  """A free place for a thing, which shrinks where there is none."""
  for attempt in range(200):
    if attempt % 40 == 39:
      radius *= 0.93
    row = rng.uniform(radius, extent[0] - radius)
    column = rng.uniform(radius, extent[1] - radius)
    if all(
      np.hypot(row - t.row, column - t.column) > 1.1 * (radius + t.radius)
      for t in things
    ):
      break
  return float(row), float(column), float(radius)


def _conspicuity(thing, ground, back) -> float:
  """Large and unlike the ground attracts gaze; unnormalised."""
  rgb = art.tone(thing.colour, ground, thing.fade)
  contrast = np.linalg.norm(rgb - back) / 255
  patterned = 1.15 if thing.pattern != 'plain' else 1.0
  return float((thing.radius * (0.35 + contrast) * patterned) ** 2.5)
