"""Draws the embedded scenes: textured grounds and small coloured things.

NumPy and Pillow only. Everything is drawn at a multiple of its size and
reduced, a few milliseconds an image.
"""

import functools
import pathlib
import tomllib

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

_FILE = pathlib.Path(__file__).with_name('scenes.toml')
TABLES = tomllib.loads(_FILE.read_text('utf-8'))
PATTERNS = ('plain', 'striped', 'spotted', 'checked')
_PAINTS = TABLES['colours'] | TABLES['trims']
_SCALE = 4  # drawn this many times as large, then reduced


def _outline(shape: str, *numbers: float) -> np.ndarray:
  """Computes the corners [N, 2] of a shape of scenes.toml."""
  points = lambda angle: np.stack([np.cos(angle), np.sin(angle)], -1)
  if shape == 'oval':
    x, y, rx, ry, start, stop = numbers
    angle = np.radians(np.linspace(start, stop, 41))
    return (x, y) + points(angle) * (rx, ry)
  if shape == 'star':
    step = np.arange(2 * int(numbers[0]))
    angle = np.pi * (step / numbers[0] - 0.5)
    return points(angle) * np.where(step % 2, numbers[1], 1.0)[:, None]
  if shape == 'heart':
    t = np.linspace(0, 2 * np.pi, 49)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3 / 17, -(y + 2.5) / 15.5], -1)
  if shape == 'box':
    numbers = np.take(numbers, (0, 1, 2, 1, 2, 3, 0, 3))
  return np.reshape(numbers, (-1, 2))


# By name: paint and outline of each part, in order.
THINGS = {
  name: [
    (paint, _outline(shape, *map(float, numbers)))
    for paint, shape, *numbers in map(str.split, parts)
  ]
  for name, parts in TABLES['things'].items()
}


def texture(rng: np.random.Generator, size, grain=(1, 1)) -> np.ndarray:
  """Draws smooth noise of several octaves, f32 [h, w] in [0, 1].

  Args:
    rng: source of randomness.
    size: (h, w).
    grain: how many times finer it is down and across.
  """
  h, w = size
  out = np.zeros((h, w), np.float32)
  for octave, weight in ((3, 1.0), (7, 0.7), (16, 0.5), (40, 0.35)):
    rows = min(h, octave * grain[0])
    columns = min(w, max(2, octave * w // h * grain[1]))
    noise = Image.fromarray(rng.random((rows, columns), np.float32))
    out += weight * np.asarray(noise.resize((w, h), Image.Resampling.BICUBIC))
  out -= out.min()
  return out / max(float(out.max()), 1e-6)


@functools.cache
def tones(ground: str) -> np.ndarray:
  """Looks up the light and the dark tone of a ground, f64 [2, 3] in 0..255."""
  light, dark, *_ = TABLES['grounds'][ground]
  return np.array([ImageColor.getrgb(light), ImageColor.getrgb(dark)], float)


def tone(colour: str, ground: str, fade: float) -> np.ndarray:
  """Mixes a colour with the mean tone of a ground, f64 [3] in 0..255."""
  rgb = np.array(ImageColor.getrgb(_PAINTS[colour]), float)
  return (1 - fade) * rgb + fade * tones(ground).mean(0)


def ground(rng: np.random.Generator, name: str, size) -> np.ndarray:
  """Draws the background of a ground, f32 [h, w, 3] in 0..255."""
  mix = texture(rng, size, TABLES['grounds'][name][2:])[..., None]
  light, dark = tones(name).astype(np.float32)
  pixels = dark * (1 - mix) + light * mix
  h, w = size
  if name == 'night':
    stars = rng.random((h, w)) < 0.004
    pixels[stars] += rng.uniform(40, 130, (int(stars.sum()), 1))
  if name == 'wood':
    board = np.arange(h) * 5 // h
    pixels[1:][board[1:] != board[:-1]] *= 0.72
  pixels += rng.normal(0, 3.5, (h, w, 1))
  # Light falls from above on one side, as in a photograph.
  slope = np.linspace(1.07, 0.93, h, dtype=np.float32)[:, None, None]
  side = np.linspace(-0.06, 0.06, w, dtype=np.float32)[None, :, None]
  return pixels * (slope + side * rng.choice((-1, 1)))


@functools.lru_cache(maxsize=256)
def _cut(pattern: str, n: int) -> Image.Image:
  """Draws where a pattern shows its second tone, 0 or 255, [n, n]."""
  y, x = (np.float32(v / n) for v in np.ogrid[:n, :n])
  if pattern == 'striped':
    second = ((x + y) * 4.5) % 1 < 0.42
  elif pattern == 'spotted':
    second = (x * 4.5 % 1 - 0.5) ** 2 + (y * 4.5 % 1 - 0.5) ** 2 < 0.07
  else:  # checked
    second = ((x * 5).astype(int) + (y * 5).astype(int)) % 2 == 0
  return Image.fromarray(second.astype(np.uint8) * 255)


def _tile(thing, ground: str, n: int) -> Image.Image:
  """Draws one thing, RGBA [n, n]."""
  big = n * _SCALE
  fill = lambda rgb: tuple(rgb.astype(int).tolist())
  rgb = tone(thing.colour, ground, thing.fade)
  tile, mask = (
    Image.new('RGB', (big, big), fill(rgb)),
    Image.new('L', (big, big)),
  )
  if thing.pattern != 'plain':
    # The second tone is light on dark colours and dark on light ones.
    to = 250.0 if rgb @ (0.299, 0.587, 0.114) < 150 else 40.0
    tile.paste(fill(0.25 * rgb + 0.75 * to), mask=_cut(thing.pattern, big))
  cos, sin = np.cos(thing.angle), np.sin(thing.angle)
  turn = np.array([[cos, sin], [-sin, cos]])
  is_trim = lambda part: part[0] in TABLES['trims']
  for paint, outline in sorted(THINGS[thing.kind], key=is_trim):
    # The tile leaves a margin for the turned corners.
    corners = ((outline @ turn * 0.7 + 1) * big / 2).ravel().tolist()
    ImageDraw.Draw(mask).polygon(corners, fill=255 * (paint != 'erase'))
    if paint in TABLES['trims']:
      trim = fill(tone(paint, ground, thing.fade))
      ImageDraw.Draw(tile).polygon(corners, fill=trim)
  tile.putalpha(mask)
  pixels = np.array(tile.reduce(_SCALE))
  shade = np.linspace(1.1, 0.88, n)[:, None, None]  # light from above
  pixels[..., :3] = np.clip(pixels[..., :3] * shade, 0, 255)
  return Image.fromarray(pixels)


def paint(page: Image.Image, thing, *, ground: str, unit: int) -> None:
  """Draws `thing` and its shadow onto `page`.

  Args:
    page: RGB, changed in place.
    thing: a `layout.Thing`.
    ground: name of the ground that it lies on.
    unit: pixels a unit of the thing's lengths.
  """
  # Painted parts reach 0.7 of half a tile.
  n = max(8, round(2 * thing.radius * unit / 0.7))
  drop, tile = max(1, n // 18), _tile(thing, ground, n)
  left = round(thing.column * unit - n / 2)
  top = round(thing.row * unit - n / 2)
  alpha, strength = tile.getchannel('A'), 0.45 - 0.3 * thing.fade
  shadow = alpha.filter(ImageFilter.BoxBlur(drop))
  shadow = shadow.point([int(v * strength) for v in range(256)])
  page.paste((18, 16, 24), (left + drop, top + drop), shadow)
  page.paste(tile, (left, top), alpha)
