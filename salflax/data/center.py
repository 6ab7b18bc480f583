"""The mean training map, laid into each image's frame."""

from collections.abc import Sequence

import numpy as np

from salflax.core import workers
from salflax.core.types import Example
from salflax.data import frames

# Maps are averaged on this grid, whatever the size of the images.
GRID = (288, 384)


def mean_map(
  source: Sequence[Example], *, threads: int | None = None
) -> np.ndarray:
  """Averages the saliency maps, each scaled to a maximum of 1.

  Empty maps are left out.

  Args:
    source: rows with `saliency` of any scale, [h, w] or [h, w, 1].
    threads: number that read.

  Returns:
    f32 `GRID`, in [0, 1].

  Raises:
    ValueError: if no map has any mass.
  """

  def read(index):
    saliency = np.asarray(source[index]['saliency'], np.float32)
    grid = frames.resize(saliency.reshape(saliency.shape[:2]), GRID)
    return grid / grid.max() if grid.max() > 0 else None

  total, count = np.zeros(GRID), 0
  for grid in workers.map_ahead(read, range(len(source)), threads=threads):
    if grid is not None:
      total += grid
      count += 1
  if not count:
    raise ValueError(
      f'A mean map needs saliency maps; none of {len(source)} has any mass.'
    )
  return np.float32(total / count)


class Center:
  """Adds `center` f32 [H, W] to an example: a map resized into its `box`.

  Args:
    mean: f32 [h, w], as `mean_map` returns it.
  """

  def __init__(self, mean: np.ndarray):
    self.mean = np.asarray(mean, np.float32)

  def __call__(self, example: Example) -> Example:
    """Adds `center`, 0 outside of the box."""
    center = np.zeros(np.shape(example['saliency']), np.float32)
    top, left, h, w = (int(v) for v in example['box'])
    center[top : top + h, left : left + w] = frames.resize(self.mean, (h, w))
    return dict(example, center=center)
