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
  image = image[:, ::2, ::2] / 255
  most, least = image.max(-1), image.min(-1)
  spread = most - least
  pale = spread / jnp.maximum(most, 1e-6)  # 0 for a grey
  red, green, blue = jnp.moveaxis(image, -1, 0)
  safe = jnp.maximum(spread, 1e-6)
  hue = jnp.where(
    most == red,
    (green - blue) / safe,
    jnp.where(most == green, (blue - red) / safe + 2, (red - green) / safe + 4),
  )
  hue = 60 * jnp.where(hue < 0, hue + 6, hue)
  between = lambda low, high: (hue >= low) & (hue < high)
  dark, grey = most < 0.2, pale < 0.15
  hued, reddish = ~dark & (pale > 0.3), ~between(14, 345)
  orange = between(14, 42)
  brown = orange & (most < 0.6)
  marked = [
    dark,
    ~dark & grey & (most > 0.75),
    ~dark & grey & (most <= 0.75),
    hued & reddish & (pale >= 0.65),
    hued & orange & ~brown & (pale > 0.5),
    hued & brown,
    hued & between(42, 70),
    hued & between(70, 165),
    hued & between(165, 262),
    hued & between(262, 300),
    hued & ((reddish & (pale < 0.65)) | between(300, 345)),
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
