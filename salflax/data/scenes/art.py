"""Draws the embedded scenes: textured grounds and small coloured things.

NumPy and Pillow only. Everything is drawn at a multiple of its size and
reduced, a few milliseconds a picture.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COLOURS = {
  'red': (214, 40, 40),
  'orange': (245, 132, 20),
  'yellow': (248, 214, 40),
  'green': (44, 154, 66),
  'blue': (38, 92, 214),
  'purple': (128, 56, 172),
  'pink': (250, 140, 190),
  'white': (246, 246, 244),
  'black': (26, 26, 30),
}

# Two tones of each ground; `grain` is (octave sizes across, along) of its
# texture: wood and water have long grain.
GROUNDS = {
  'sand': ((222, 198, 154), (200, 172, 124), (1, 1)),
  'grass': ((132, 160, 84), (96, 128, 62), (2, 1)),
  'wood': ((178, 128, 84), (142, 96, 58), (10, 1)),
  'stone': ((160, 160, 164), (126, 126, 134), (1, 1)),
  'water': ((108, 158, 184), (72, 122, 160), (5, 1)),
  'snow': ((234, 238, 242), (206, 214, 226), (1, 1)),
  'night': ((40, 44, 76), (24, 26, 52), (1, 1)),
}

PATTERNS = ('plain', 'striped', 'spotted', 'checked')

_SCALE = 4  # drawn this many times as large, then reduced
_TRIM = {
  'dark': (44, 40, 44, 255),
  'brown': (110, 72, 44, 255),
  'light': (238, 236, 226, 255),
  'gold': (250, 206, 70, 255),
  'glass': (168, 208, 232, 255),
}


def _oval(x, y, rx, ry=None, start=0.0, stop=360.0):
  """Points of an ellipse's arc, angles in degrees clockwise from the right."""
  angle = np.radians(np.linspace(start, stop, 41))
  ry = rx if ry is None else ry
  return [(x + rx * np.cos(a), y + ry * np.sin(a)) for a in angle]


def _box(left, top, right, bottom):
  return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _star(points, inner):
  angle = np.pi * (np.arange(2 * points) / points - 0.5)
  radius = np.where(np.arange(2 * points) % 2, inner, 1.0)
  return list(zip(radius * np.cos(angle), radius * np.sin(angle)))


def _heart():
  t = np.linspace(0, 2 * np.pi, 49)
  x = 16 * np.sin(t) ** 3
  y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
  return list(zip(x / 17, -(y + 2.5) / 15.5))


def _petals():
  turns = np.pi * np.arange(6) / 3
  return [_oval(0.58 * np.cos(a), 0.58 * np.sin(a), 0.4) for a in turns]


def _umbrella():
  canopy = _oval(0, 0.1, 1.0, 0.95, 180, 360)
  scallops = [_oval(x, 0.12, 0.335, 0.2, 180, 360) for x in (-0.67, 0, 0.67)]
  handle = [_box(-0.05, -0.02, 0.05, 0.8), _box(-0.3, 0.72, 0.05, 0.82)]
  return (
    [('main', canopy)]
    + [('erase', s) for s in scallops]
    + [('dark', h) for h in handle]
    + [('dark', _box(-0.04, -0.98, 0.04, -0.8))]
  )


# Each thing is polygons in [-1, 1], y downwards, painted in order: 'main' takes
# colour and pattern, 'erase' cuts a hole, the rest are trims.
THINGS = {
  'circle': [('main', _oval(0, 0, 0.95))],
  'square': [('main', _box(-0.82, -0.82, 0.82, 0.82))],
  'triangle': [('main', [(0, -0.95), (0.98, 0.8), (-0.98, 0.8)])],
  'diamond': [('main', [(0, -1), (0.78, 0), (0, 1), (-0.78, 0)])],
  'star': [('main', _star(5, 0.42))],
  'heart': [('main', _heart())],
  'ring': [('main', _oval(0, 0, 0.95)), ('erase', _oval(0, 0, 0.5))],
  'cross': [
    ('main', _box(-0.3, -0.92, 0.3, 0.92)),
    ('main', _box(-0.92, -0.3, 0.92, 0.3)),
  ],
  'moon': [
    ('main', _oval(0.1, 0, 0.95)),
    ('erase', _oval(0.52, -0.12, 0.72)),
  ],
  'flower': [('main', p) for p in _petals()] + [('gold', _oval(0, 0, 0.34))],
  'umbrella': _umbrella(),
  'house': [
    ('main', _box(-0.75, -0.15, 0.75, 0.9)),
    ('dark', [(0, -0.98), (0.98, -0.12), (-0.98, -0.12)]),
    ('light', _box(-0.16, 0.3, 0.2, 0.9)),
  ],
  'tree': [
    ('brown', _box(-0.14, 0.3, 0.14, 0.98)),
    ('main', _oval(0, -0.3, 0.72, 0.66)),
    ('main', _oval(-0.36, 0.08, 0.42)),
    ('main', _oval(0.36, 0.08, 0.42)),
  ],
  'fish': [
    ('main', _oval(-0.15, 0, 0.78, 0.5)),
    ('main', [(0.45, 0), (0.98, -0.5), (0.98, 0.5)]),
    ('light', _oval(-0.55, -0.12, 0.13)),
    ('dark', _oval(-0.57, -0.12, 0.07)),
  ],
  'boat': [
    ('main', [(-0.95, 0.3), (0.95, 0.3), (0.6, 0.85), (-0.6, 0.85)]),
    ('brown', _box(-0.06, -0.95, 0.06, 0.3)),
    ('light', [(0.1, -0.85), (0.75, 0.18), (0.1, 0.18)]),
    ('light', [(-0.1, -0.6), (-0.65, 0.18), (-0.1, 0.18)]),
  ],
  'cup': [
    ('main', _oval(0.52, 0.05, 0.44)),
    ('erase', _oval(0.52, 0.05, 0.24)),
    ('main', [(-0.85, -0.7), (0.55, -0.7), (0.42, 0.85), (-0.72, 0.85)]),
    ('light', _oval(-0.15, -0.7, 0.7, 0.16)),
  ],
  'car': [
    ('main', _box(-0.98, -0.05, 0.98, 0.5)),
    ('main', [(-0.65, 0), (-0.4, -0.55), (0.35, -0.55), (0.65, 0)]),
    ('glass', [(-0.46, -0.03), (-0.3, -0.42), (0.27, -0.42), (0.46, -0.03)]),
    ('dark', _oval(-0.52, 0.5, 0.26)),
    ('dark', _oval(0.52, 0.5, 0.26)),
  ],
}


def texture(rng: np.random.Generator, size, grain=(1, 1)) -> np.ndarray:
  """Smooth random texture of several octaves, f32 [h, w] in [0, 1].

  Args:
    rng: where its randomness comes from.
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
  """Background picture of one of `GROUNDS`, f32 [h, w, 3] in 0..255."""
  light, dark, grain = GROUNDS[name]
  tone = texture(rng, size, grain)[..., None]
  picture = np.asarray(dark, np.float32) * (1 - tone)
  picture = picture + np.asarray(light, np.float32) * tone
  h, w = size
  if name == 'night':
    stars = rng.random((h, w)) < 0.004
    picture[stars] += rng.uniform(40, 130, (int(stars.sum()), 1))
  if name == 'wood':
    seams = (np.arange(h) * 5 // h)[1:] != (np.arange(h) * 5 // h)[:-1]
    picture[1:][seams] *= 0.72
  picture += rng.normal(0, 3.5, (h, w, 1))
  # Light falls from above on one side, as in a photograph.
  slope = np.linspace(1.07, 0.93, h, dtype=np.float32)[:, None, None]
  side = np.linspace(-0.06, 0.06, w, dtype=np.float32)[None, :, None]
  return picture * (slope + side * rng.choice((-1, 1)))


def tone(colour: str, ground_name: str, fade: float) -> np.ndarray:
  """Colour as drawn: mixed with the ground's mean tone, f64 [3] in 0..255."""
  mix = (1 - fade) * np.asarray(COLOURS[colour], float)
  return mix + fade * ground_tone(ground_name)


@functools.cache
def ground_tone(name: str) -> np.ndarray:
  """Mean colour of one of `GROUNDS`, f64 [3] in 0..255."""
  return np.mean(GROUNDS[name][:2], axis=0)


@functools.lru_cache(maxsize=256)
def _cut(pattern: str, n: int) -> Image.Image:
  """Where a pattern shows its second tone, 0 or 255, [n, n]."""
  y, x = np.ogrid[:n, :n]
  y, x = np.float32(y / n), np.float32(x / n)
  if pattern == 'striped':
    second = ((x + y) * 4.5) % 1 < 0.42
  elif pattern == 'spotted':
    second = (x * 4.5 % 1 - 0.5) ** 2 + (y * 4.5 % 1 - 0.5) ** 2 < 0.07
  else:  # checked
    second = ((x * 5).astype(int) + (y * 5).astype(int)) % 2 == 0
  return Image.fromarray(second.astype(np.uint8) * 255)


def _cloth(rgb: np.ndarray, pattern: str, n: int) -> Image.Image:
  """What a thing is cut from, RGB [n, n]."""
  cloth = Image.new('RGB', (n, n), tuple(rgb.astype(int).tolist()))
  if pattern != 'plain':
    # The second tone is light on dark colours and dark on light ones.
    to = 250.0 if rgb @ (0.299, 0.587, 0.114) < 150 else 40.0
    other = (0.25 * rgb + 0.75 * to).astype(int)
    cloth.paste(tuple(other.tolist()), mask=_cut(pattern, n))
  return cloth


def _tile(thing: str, rgb, pattern, angle, n, fade, back) -> Image.Image:
  """One thing, RGBA [n, n]."""
  big = n * _SCALE
  turn = np.array(
    [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
  )

  def points(polygon):
    # The tile leaves a margin for the turned corners.
    at = (np.asarray(polygon) @ turn * 0.7 + 1) * big / 2
    return [tuple(p) for p in at.tolist()]

  mask = Image.new('L', (big, big))
  draw = ImageDraw.Draw(mask)
  parts = THINGS[thing]
  for paint, polygon in parts:
    if paint in ('main', 'erase'):
      draw.polygon(points(polygon), fill=255 if paint == 'main' else 0)
  tile = _cloth(rgb, pattern, big)
  tile.putalpha(mask)
  draw = ImageDraw.Draw(tile)
  for paint, polygon in parts:
    if paint in _TRIM:
      trim = (1 - fade) * np.asarray(_TRIM[paint][:3]) + fade * back
      draw.polygon(points(polygon), fill=(*trim.astype(int).tolist(), 255))
  tile = np.array(tile.reduce(_SCALE))
  # Light from above.
  shade = np.linspace(1.1, 0.88, n)[:, None, None]
  tile[..., :3] = np.clip(tile[..., :3] * shade, 0, 255)
  return Image.fromarray(tile)


def paint(picture: Image.Image, thing, *, ground_name: str, unit: int) -> None:
  """Draws `thing` and its shadow onto `picture`.

  Args:
    picture: RGB, changed in place.
    thing: has kind, colour, pattern, fade, angle (radians), and row, column,
      radius in units of `unit`.
    ground_name: what it lies on.
    unit: pixels a unit.
  """
  # Painted parts reach 0.7 of half a tile.
  n = max(8, round(2 * thing.radius * unit / 0.7))
  back = ground_tone(ground_name)
  rgb = tone(thing.colour, ground_name, thing.fade)
  tile = _tile(thing.kind, rgb, thing.pattern, thing.angle, n, thing.fade, back)
  left = round(thing.column * unit - n / 2)
  top = round(thing.row * unit - n / 2)
  alpha = tile.getchannel('A')
  drop = max(1, n // 18)
  shadow = alpha.filter(ImageFilter.BoxBlur(drop))
  strength = 0.45 - 0.3 * thing.fade
  shadow = shadow.point([int(v * strength) for v in range(256)])
  picture.paste((18, 16, 24), (left + drop, top + drop), shadow)
  picture.paste(tile, (left, top), alpha)
