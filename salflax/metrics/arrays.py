"""Checks and scaling of the arrays that metrics take.

Maps are f64 [h, w], fixations i64 [N, 2] of (row, column) with repeats kept.
"""

import functools
from collections.abc import Iterator

import numpy as np

# MATLAB's and Octave's `eps`. pysaliency writes 2.2204e-16, which moves KL and
# IG by 1e-5 where a map is zero: hence an option wherever it is used.
EPS = float(np.finfo(np.float64).eps)
NAN = float('nan')  # the score of a truth that does not define it

# Below this share of its maximum, a map's range is round-off, not structure.
FLAT = 1e-12


# Values that are worked on at a time: they stay in the processor's cache, where
# whole maps between two steps would be written to memory, and the memory asked
# for and given back again.
BLOCK = 1 << 16


def dot(x: np.ndarray, y: np.ndarray) -> float:
  """Sums x * y over two matrices of one shape."""
  # Row by row, since BLAS would start its threads for a longer vector, beneath
  # those that score images.
  return np.vecdot(x, y).sum()


def total(x: np.ndarray) -> float:
  """Sums an array, in half the time of `x.sum()`."""
  return np.einsum('i->', x.ravel())


def split(x: np.ndarray) -> list[np.ndarray]:
  """Splits a matrix into blocks of rows, views of it."""
  rows = -(-BLOCK // x.shape[1])
  return [x[k : k + rows] for k in range(0, len(x), rows)]


def moments(x: np.ndarray) -> tuple[float, float, float, float]:
  """Finds least value, largest, mean, and sum of squares, in one pass."""
  parts = [(b.min(), b.max(), total(b), dot(b, b)) for b in split(x)]
  low, high, sums, squares = np.transpose(parts)
  return low.min(), high.max(), sums.sum() / x.size, squares.sum()


class Map:
  """A map and the numbers that scores derive from it.

  Attributes:
    values: f64 [h, w], not to be written to: may be the caller's own.
    low: least value.
    high: largest value.
    shape: (h, w).
    mean: mean of the values.
    squares: sum of the squared values.
    raised: whether it stands on a floor so high that sums of products would
      leave few digits to what stands on it.
    size: number of pixels.
    resized: the same at other sizes, where a score needs it.
    empty: whether it is zero everywhere.
    flat: whether it is constant up to round-off.
  """

  def __init__(self, values: np.ndarray, low, high, mean, squares):
    self.values, self.low, self.high = values, low, high
    self.mean, self.squares = mean, squares
    self.shape, self.size = values.shape, values.size
    spread = squares - self.size * mean**2
    self.raised = bool(spread < 0.01 * squares)
    self.resized: dict[str, Map] = {}
    self.empty = not low and not high
    self.flat = bool(high - low <= FLAT * max(abs(high), abs(low)))

  def blocks(self, shift: float = 0.0, scale: float | None = None) -> Iterator:
    """Yields (values - shift) * scale, some rows at a time, in order.

    Each f64 [rows, w] is overwritten by the next. Where a scale is given it may
    be written to; else it may be a part of the map itself.
    """
    blocks = split(self.values)
    buffer = np.empty_like(blocks[0])
    for block in blocks:
      out = buffer[: len(block)]
      if shift:
        block = np.subtract(block, shift, out=out)
      yield block if scale is None else np.multiply(block, scale, out=out)

  @functools.cached_property
  def norm(self) -> float:
    """Root of the sum of the squared differences from the mean."""
    return np.sqrt(covariance(self, self))

  @functools.cached_property
  def unit(self) -> np.ndarray:
    """Values scaled to the range [0, 1], f64 [h, w]; zero if it is flat."""
    if self.flat:
      return np.zeros(self.shape)
    return (self.values - self.low) / (self.high - self.low)

  @functools.cached_property
  def upper_fifth(self) -> np.ndarray:
    """Marks values above that of rank floor(0.8 n), without its ties."""
    rank = int(0.8 * self.size)
    return self.values > np.partition(self.values.ravel(), rank)[rank]

  def as_density(self, *, minmax: bool = False) -> tuple[float, float]:
    """Finds (shift, scale), as `blocks` takes them, of a map that sums to 1.

    A flat map, all-zero too, becomes uniform.

    Args:
      minmax: subtract the minimum first, so that a constant floor is worth
        nothing.
    """
    if self.flat:
      return self.low - 1, 1 / self.size
    if not minmax:
      return 0.0, 1 / (self.mean * self.size)
    return self.low, 1 / sum(map(total, self.blocks(self.low)))

  @property
  def density(self) -> np.ndarray:
    """Values scaled to sum 1, f64 [h, w]; uniform if it is flat."""
    shift, scale = self.as_density()
    return (self.values - shift) * scale


def covariance(x: Map, y: Map) -> float:
  """Sums the products of both maps' differences from their means."""
  if x.raised or y.raised:
    pairs = zip(x.blocks(x.mean), y.blocks(y.mean))
    return sum(dot(a, b) for a, b in pairs)
  pairs = zip(x.blocks(), y.blocks())
  products = x.squares if x is y else sum(dot(a, b) for a, b in pairs)
  return products - x.size * x.mean * y.mean


def as_map(
  x: np.ndarray | Map, name: str = 'prediction', *, least: float = -np.inf
) -> Map:
  """Checks a map; scales one that is tiny or huge by a power of two.

  That rounds nothing, but no sum or product of map values can then leave the
  range of float64, nor a value that of float32, whatever the map's scale was.

  Args:
    x: real numbers [h, w]; what is a Map already stays as it is.
    name: name of the map, for the error message.
    least: least value allowed.

  Raises:
    ValueError: where `x` is not a non-empty matrix of finite real numbers from
      `least` on.
  """
  if isinstance(x, Map):
    return x
  x = np.asarray(x)
  if x.ndim != 2 or not x.size:
    raise ValueError(f'A {name} map must be [h, w], found shape {x.shape}.')
  if x.dtype.kind not in 'biuf':
    raise ValueError(f'A {name} map must hold real numbers, found {x.dtype}.')
  with np.errstate(over='ignore', invalid='ignore'):  # named below
    x = x.astype(np.float64, copy=False)
    low, high, mean, squares = moments(x)
  if not np.isfinite(low) or not np.isfinite(high):
    raise ValueError(
      f'The {name} map holds {np.isnan(x).sum()} NaN and '
      f'{np.isinf(x).sum()} infinite values.'
    )
  if low < least:
    raise ValueError(f'The {name} map has negative values, down to {low:g}.')
  _, exponent = np.frexp(max(high, -low))
  if abs(exponent) > 30:
    x = np.ldexp(x, -exponent)
    low, high, mean, squares = moments(x)
  return Map(x, low, high, mean, squares)


def note(x: np.ndarray) -> str:
  """Describes a map that says nothing about where people look.

  Such a map has scores all the same, those of the uniform density.

  Args:
    x: map [h, w].

  Returns:
    'zero everywhere', 'one value everywhere', 'a single pixel', or '' for a
    map with structure.
  """
  x = as_map(x)
  if x.size == 1:
    return 'a single pixel'
  if x.empty:
    return 'zero everywhere'
  return 'one value everywhere' if x.flat else ''


def as_pair(
  pred: np.ndarray | Map, other: np.ndarray | Map, name: str = 'saliency'
) -> tuple[Map, Map]:
  """Scales both maps as `as_map` does.

  Raises:
    ValueError: where they differ in shape or are no maps.
  """
  pred, other = as_map(pred), as_map(other, name)
  if pred.shape != other.shape:
    raise ValueError(
      f'The prediction is {pred.shape} but the {name} map {other.shape}: '
      "resize the prediction to the image's own size first."
    )
  return pred, other


def as_cells(
  fixations: np.ndarray, shape: tuple[int, int], *, unique: bool = False
) -> np.ndarray:
  """Turns fixations into flat pixel indices, i64 [N].

  Args:
    fixations: i64 [N, 2], (row, column).
    shape: (h, w) of the map they lie on.
    unique: count a pixel once however often it was fixated, and sort.

  Raises:
    ValueError: for another shape or type, or a fixation outside the map.
  """
  points = np.asarray(fixations)
  if not points.size:
    return np.zeros(0, np.int64)
  if points.ndim != 2 or points.shape[1] != 2:
    raise ValueError(
      'Fixations must be [N, 2] of (row, column), found shape '
      f'{points.shape}; turn a fixation map into points with np.argwhere.'
    )
  if not np.issubdtype(points.dtype, np.integer):
    raise ValueError(f'Fixations must be integers, found {points.dtype}.')
  rows, columns = points[:, 0], points[:, 1]
  outside = (rows < 0) | (rows >= shape[0])
  outside |= (columns < 0) | (columns >= shape[1])
  if outside.any():
    first = tuple(int(v) for v in points[outside.argmax()])
    raise ValueError(
      f'{int(outside.sum())} of {len(points)} fixations lie outside the '
      f'{shape[0]} x {shape[1]} map; the first is (row, column) = {first}.'
    )
  cells = rows.astype(np.int64) * shape[1] + columns
  return np.unique(cells) if unique else cells


def need_rng(rng: np.random.Generator | None, name: str) -> None:
  """Checks that a metric that draws got a generator."""
  if not isinstance(rng, np.random.Generator):
    raise ValueError(
      f'{name} draws at random and needs a numpy Generator, such as '
      f'image_rng(image_id); found {type(rng).__name__}.'
    )
