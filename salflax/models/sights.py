"""What words say beside the names of things: colours, and where in the image.

Each is a map that a word can name, as a kind of thing is: `sight_names.npz` has
the words of NanoDet's things, of these colours and these places, in order.
"""

import jax
import jax.numpy as jnp
import numpy as np


def colours(image: jax.Array, cell: int) -> jax.Array:
  """Computes the share of each colour in square cells of an image.

  A pixel has one colour or none: it is black, white or grey where it is dark
  or pale, else named by its hue (Berlin and Kay's eleven basic colours).

  Args:
    image: RGB f32 [B, H, W, 3] in 0..255.
    cell: side of a cell in pixels; every second pixel is looked at.

  Returns:
    f32 [B, H / cell, W / cell, 11], in [0, 1]: black, white, grey, red, orange,
    brown, yellow, green, blue, purple, pink.
  """
  image = image[:, ::2, ::2]
  most, spread = image.max(-1), image.max(-1) - image.min(-1)
  red, green, blue = jnp.moveaxis(image, -1, 0)
  # All is compared as products, which are exact for whole pixels: a quotient at
  # a limit would fall to either side from one program to the next.
  pale = 100 * spread
  hue = 60 * jnp.where(
    most == red,
    green - blue,
    jnp.where(most == green, blue - red, red - green),
  )
  turn = jnp.where(most == red, 0, jnp.where(most == green, 120, 240))
  hue = hue + turn * spread
  hue = jnp.where(hue < 0, hue + 360 * spread, hue)
  between = lambda low, high: (hue >= low * spread) & (hue < high * spread)
  dark, grey = most < 51, pale < 15 * most
  hued, reddish = ~dark & (pale > 30 * most), ~between(14, 345)
  orange = between(14, 42)
  brown = orange & (most < 153)
  marked = [
    dark,
    ~dark & grey & (most > 191.25),
    ~dark & grey & (most <= 191.25),
    hued & reddish & (pale >= 65 * most),
    hued & orange & ~brown & (pale > 50 * most),
    hued & brown,
    hued & between(42, 70),
    hued & between(70, 165),
    hued & between(165, 262),
    hued & between(262, 300),
    hued & ((reddish & (pale < 65 * most)) | between(300, 345)),
  ]
  x = jnp.stack(marked, -1).astype(jnp.float32)
  batch, height, width, count = x.shape
  side = cell // 2
  x = x.reshape(batch, height // side, side, width // side, side, count)
  return x.mean((2, 4))


def places(grid: tuple[int, int]) -> np.ndarray:
  """Computes how far left, right, up, down and central cells are, [h, w, 5]."""
  y, x = (np.linspace(0, 1, n, dtype=np.float32) for n in grid)
  y, x = np.meshgrid(y, x, indexing='ij')
  return np.stack([1 - x, x, 1 - y, y, 1 - 2 * abs(x - 0.5)], -1)
