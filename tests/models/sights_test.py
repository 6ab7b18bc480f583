"""Colours and places that words can name."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from salflax.models import class_names, sights

NAMES = class_names.load(class_names.SIGHTS_FILE).names
COLOURS, PLACES = NAMES[80:91], NAMES[91:]
PIXELS = {
  'black': (10, 12, 9),
  'white': (250, 248, 251),
  'gray': (120, 122, 119),
  'red': (200, 20, 25),
  'orange': (250, 130, 10),
  'brown': (110, 65, 30),
  'yellow': (240, 220, 40),
  'green': (30, 150, 50),
  'blue': (30, 70, 200),
  'purple': (110, 40, 180),
  'pink': (255, 105, 180),
}


@pytest.mark.parametrize('name', COLOURS)
def test_a_colour_has_its_name(name):
  image = jnp.full((1, 32, 48, 3), jnp.asarray(PIXELS[name], jnp.float32))
  x = np.asarray(sights.colours(image, 16))
  assert x.shape == (1, 2, 3, 11)
  np.testing.assert_array_equal(x[..., COLOURS.index(name)], 1)
  assert x.sum(-1).max() == 1


def test_a_cell_has_a_share_of_each_colour():
  image = np.zeros((1, 16, 16, 3), np.float32)
  image[:, :, :4] = PIXELS['red']
  x = sights.colours(jnp.asarray(image), 16)[0, 0, 0]
  assert x[COLOURS.index('red')] == 0.25 and x[COLOURS.index('black')] == 0.75


def test_every_pixel_has_one_colour_at_most():
  image = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3))
  x = np.asarray(sights.colours(jnp.asarray(image, jnp.float32), 2))
  assert set(np.unique(x)) == {0, 1} and x.sum(-1).max() == 1


def test_places_are_where_their_names_say():
  x = sights.places((3, 5))
  assert x.shape == (3, 5, len(PLACES))
  at = {name: x[..., PLACES.index(name)] for name in PLACES}
  assert (at['left'][:, 0] == 1).all() and (at['right'][:, -1] == 1).all()
  assert (at['top'][0] == 1).all() and (at['bottom'][-1] == 1).all()
  assert (at['middle'].argmax(1) == 2).all()


def _exact(pixel):
  """Names a pixel's colour by exact quotients; '' for none."""
  red, green, blue = map(Fraction, map(int, pixel))
  most, spread = max(pixel), max(pixel) - min(pixel)
  pale = spread / Fraction(int(most) or 1)
  dark = most < 51
  if dark or pale < Fraction(15, 100):
    light = 'white' if most > 191.25 else 'gray'
    return 'black' if dark else light
  if pale <= Fraction(3, 10):
    return ''
  if most == red:
    hue = 60 * (green - blue) / spread % 360
  else:
    part, turn = (blue - red, 120) if most == green else (red - green, 240)
    hue = 60 * part / spread + turn
  if hue < 14 or hue >= 345:
    return 'red' if pale >= Fraction(65, 100) else 'pink'
  if hue < 42:
    return 'brown' if most < 153 else 'orange' * (pale > Fraction(1, 2))
  ends = {70: 'yellow', 165: 'green', 262: 'blue', 300: 'purple', 345: 'pink'}
  return next(name for end, name in ends.items() if hue < end)


def test_a_colour_at_a_limit_is_exact():
  # Steps of 5 and 51 are often exactly at a limit.
  grid = np.stack(np.meshgrid(*[np.arange(0, 256, 17)] * 3), -1).reshape(-1, 3)
  fine = np.random.default_rng(0).integers(0, 52, (2000, 3)) * 5
  pixels = np.concatenate([grid, np.minimum(fine, 255)])
  image = np.repeat(np.repeat(pixels[None, None], 2, 1), 2, 2)
  image = jnp.asarray(image, jnp.float32)
  for colours in (sights.colours, jax.jit(sights.colours, static_argnums=1)):
    x = np.asarray(colours(image, 2))[0, 0]
    actual = [
      COLOURS[k] if row.any() else '' for k, row in zip(x.argmax(-1), x)
    ]
    assert actual == [_exact(pixel) for pixel in pixels]
