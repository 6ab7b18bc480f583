"""What every metric does to its arrays first.

Maps are f64 [h, w], fixations i64 [N, 2] of (row, column) with repeats kept.
"""

import numpy as np

# MATLAB's and Octave's `eps`. pysaliency writes 2.2204e-16, which moves KL and
# IG by 1e-5 where a map is zero: hence an option wherever it is used.
EPS = float(np.finfo(np.float64).eps)

# Below this share of its maximum, a map's range is round-off, not structure.
FLAT = 1e-12


def as_map(x: np.ndarray, name: str = 'prediction') -> np.ndarray:
  """Returns `x` as f64 [h, w].

  Raises:
    ValueError: where `x` is not a non-empty matrix of finite numbers.
  """
  x = np.asarray(x, np.float64)
  if x.ndim != 2 or not x.size:
    raise ValueError(f'A {name} map must be [h, w], found shape {x.shape}.')
  # One pass: a sum is finite only where every term is, barring overflow.
  if not np.isfinite(x.sum()) and not np.isfinite(x).all():
    raise ValueError(
      f'The {name} map holds {np.isnan(x).sum()} NaN and '
      f'{np.isinf(x).sum()} infinite values.'
    )
  return x


def as_pair(
  pred: np.ndarray, other: np.ndarray, name: str = 'saliency'
) -> tuple[np.ndarray, np.ndarray]:
  """Returns both maps as f64 [h, w].

  Raises:
    ValueError: where they differ in shape or are no maps.
  """
  pred, other = as_map(pred), as_map(other, name)
  if pred.shape != other.shape:
    raise ValueError(
      f'The prediction is {pred.shape} but the {name} map {other.shape}: '
      "resize the prediction to the picture's own size first."
    )
  return pred, other


def is_flat(x: np.ndarray) -> bool:
  """True where `x` is constant up to round-off."""
  high, low = x.max(), x.min()
  return bool(high - low <= FLAT * max(abs(high), abs(low)))


def scale_to_unit(x: np.ndarray) -> np.ndarray:
  """Returns `(x - min) / (max - min)`, zeros for a flat map."""
  low, high = x.min(), x.max()
  return np.zeros_like(x) if is_flat(x) else (x - low) / (high - low)


def as_density(x: np.ndarray, *, minmax: bool = False) -> np.ndarray:
  """Returns `x` scaled to sum 1; a flat map, all-zero too, becomes uniform.

  Args:
    x: f64 [h, w].
    minmax: subtract the minimum first, so that a constant floor is worth
      nothing.
  """
  if is_flat(x):
    return np.full_like(x, 1 / x.size)
  if minmax:
    x = x - x.min()
  return x / x.sum()


def as_cells(
  fixations: np.ndarray, shape: tuple[int, int], *, unique: bool = False
) -> np.ndarray:
  """Returns the flat pixel index of each fixation, i64 [N].

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
  """Raises ValueError where a metric that draws got no generator."""
  if not isinstance(rng, np.random.Generator):
    raise ValueError(
      f'{name} draws at random and needs a numpy Generator, such as '
      f'image_rng(image_id); found {type(rng).__name__}.'
    )
