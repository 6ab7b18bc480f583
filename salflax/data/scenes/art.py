"""Draws the embedded scenes: textured grounds and small coloured things.

NumPy and Pillow only. Everything is drawn at a multiple of its size and
reduced, a few milliseconds an image.
"""

import functools
import pathlib

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

COLOURS = {
  'red': '#d62828',
  'orange': '#f58414',
  'yellow': '#f8d628',
  'green': '#2c9a42',
  'blue': '#265cd6',
  'purple': '#8038ac',
  'pink': '#fa8cbe',
  'white': '#f6f6f4',
  'black': '#1a1a1e',
}
# Two tones of each ground, and its grain: how many times finer its texture is
# down and across. Wood and water have long grain.
GROUNDS = {
  'sand': ('#dec69a', '#c8ac7c', (1, 1)),
  'grass': ('#84a054', '#60803e', (2, 1)),
  'wood': ('#b28054', '#8e603a', (10, 1)),
  'stone': ('#a0a0a4', '#7e7e86', (1, 1)),
  'water': ('#6c9eb8', '#487aa0', (5, 1)),
  'snow': ('#eaeef2', '#ced6e2', (1, 1)),
  'night': ('#282c4c', '#181a34', (1, 1)),
}
PATTERNS = ('plain', 'striped', 'spotted', 'checked')
_TRIM = dict(dark='#2c282c', brown='#6e482c', light='#eeece2')
_TRIM |= dict(gold='#face46', glass='#a8d0e8')
_SCALE = 4  # drawn this many times as large, then reduced


def read_lines(name: str, separator: str) -> dict[str, list[str]]:
  """Reads the lines 'key: option; option' of a file beside this one."""
  lines = pathlib.Path(__file__).with_name(name).read_text('utf-8').splitlines()
  pairs = (line.split(': ', 1) for line in lines if line[0] != '#')
  return {key: options.split(separator) for key, options in pairs}


def _outline(shape: str, *numbers: float) -> np.ndarray:
  """Computes the corners [N, 2] of a shape of things.txt."""
  if shape == 'oval':
    defaults = (numbers[2], 0, 360)[len(numbers) - 3 :]
    x, y, rx, ry, start, stop = *numbers, *defaults
    angle = np.radians(np.linspace(start, stop, 41))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], -1)
  if shape == 'box':
    left, top, right, bottom = numbers
    corners = [left, top, right, top, right, bottom, left, bottom]
    return np.reshape(corners, (4, 2))
  if shape == 'star':
    step = np.arange(2 * int(numbers[0]))
    angle = np.pi * (step / numbers[0] - 0.5)
    radius = np.where(step % 2, numbers[1], 1.0)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
  if shape == 'heart':
    t = np.linspace(0, 2 * np.pi, 49)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([16 * np.sin(t) ** 3 / 17, -(y + 2.5) / 15.5], -1)
  return np.reshape(numbers, (-1, 2))  # poly


# By name: paint and outline of each part, in order.
THINGS = {
  name: [
    (paint, _outline(shape, *map(float, numbers)))
    for paint, shape, *numbers in map(str.split, parts)
  ]
  for name, parts in read_lines('things.txt', ';').items()
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
    noise = noise.resize((w, h), Image.Resampling.BICUBIC)
    out += weight * np.asarray(noise)
  out -= out.min()
  return out / max(float(out.max()), 1e-6)


def ground(rng: np.random.Generator, name: str, size) -> np.ndarray:
  """Draws the background of one of `GROUNDS`, f32 [h, w, 3] in 0..255."""
  light, dark, grain = GROUNDS[name]
  mix = texture(rng, size, grain)[..., None]
  pixels = np.asarray(ImageColor.getrgb(dark), np.float32) * (1 - mix)
  pixels = pixels + np.asarray(ImageColor.getrgb(light), np.float32) * mix
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


def tone(colour: str, ground_name: str, fade: float) -> np.ndarray:
  """Mixes a colour with the ground's mean tone, f64 [3] in 0..255."""
  rgb = np.asarray(ImageColor.getrgb(COLOURS.get(colour, colour)), float)
  return (1 - fade) * rgb + fade * ground_tone(ground_name)


@functools.cache
def ground_tone(name: str) -> np.ndarray:
  """Computes the mean colour of one of `GROUNDS`, f64 [3] in 0..255."""
  return np.mean([ImageColor.getrgb(c) for c in GROUNDS[name][:2]], axis=0)


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


def _ints(rgb: np.ndarray) -> tuple[int, ...]:
  return tuple(rgb.astype(int).tolist())


def _tile(thing, ground_name: str, n: int) -> Image.Image:
  """Draws one thing, RGBA [n, n]."""
  big = n * _SCALE
  cos, sin = np.cos(thing.angle), np.sin(thing.angle)
  # The tile leaves a margin for the turned corners.
  turn = np.array([[cos, sin], [-sin, cos]])
  parts = [
    (paint, [tuple(p) for p in ((outline @ turn * 0.7 + 1) * big / 2).tolist()])
    for paint, outline in THINGS[thing.kind]
  ]
  rgb = tone(thing.colour, ground_name, thing.fade)
  tile = Image.new('RGB', (big, big), _ints(rgb))
  if thing.pattern != 'plain':
    # The second tone is light on dark colours and dark on light ones.
    to = 250.0 if rgb @ (0.299, 0.587, 0.114) < 150 else 40.0
    tile.paste(_ints(0.25 * rgb + 0.75 * to), mask=_cut(thing.pattern, big))
  mask = Image.new('L', (big, big))
  for paint, outline in parts:
    if paint not in _TRIM:
      ImageDraw.Draw(mask).polygon(outline, fill=255 * (paint == 'main'))
  tile.putalpha(mask)
  for paint, outline in parts:
    if paint in _TRIM:
      fill = (*_ints(tone(_TRIM[paint], ground_name, thing.fade)), 255)
      ImageDraw.Draw(tile).polygon(outline, fill=fill)
  pixels = np.array(tile.reduce(_SCALE))
  shade = np.linspace(1.1, 0.88, n)[:, None, None]  # light from above
  pixels[..., :3] = np.clip(pixels[..., :3] * shade, 0, 255)
  return Image.fromarray(pixels)


def paint(page: Image.Image, thing, *, ground_name: str, unit: int) -> None:
  """Draws `thing` and its shadow onto `page`.

  Args:
    page: RGB, changed in place.
    thing: a `layout.Thing`.
    ground_name: key of `GROUNDS` that it lies on.
    unit: pixels a unit of the thing's lengths.
  """
  # Painted parts reach 0.7 of half a tile.
  n = max(8, round(2 * thing.radius * unit / 0.7))
  drop, tile = max(1, n // 18), _tile(thing, ground_name, n)
  left = round(thing.column * unit - n / 2)
  top = round(thing.row * unit - n / 2)
  alpha = tile.getchannel('A')
  strength = 0.45 - 0.3 * thing.fade
  shadow = alpha.filter(ImageFilter.BoxBlur(drop))
  shadow = shadow.point([int(v * strength) for v in range(256)])
  page.paste((18, 16, 24), (left + drop, top + drop), shadow)
  page.paste(tile, (left, top), alpha)
