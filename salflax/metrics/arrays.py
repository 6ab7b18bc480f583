"""Checks and scaling of the arrays that metrics take.

Maps are f64 [h, w], fixations i64 [N, 2] of (row, column) with repeats kept.
"""

import numpy as np

# MATLAB's and Octave's `eps`. pysaliency writes 2.2204e-16, which moves KL and
# IG by 1e-5 where a map is zero: hence an option wherever it is used.
EPS = float(np.finfo(np.float64).eps)
NAN = float('nan')  # the score of a truth that does not define it

# Below this share of its maximum, a map's range is round-off, not structure.
FLAT = 1e-12


def as_map(
  x: np.ndarray, name: str = 'prediction', *, least: float = -np.inf
) -> np.ndarray:
  """Scales a map by a power of two, so that its largest value is in [.5, 1).

  That rounds nothing, but no sum or product of map values can then leave the
  range of float64, whatever the scale of the map was.

  Args:
    x: real numbers [h, w]; an all-zero map stays as it is.
    name: name of the map, for the error message.
    least: least value allowed.

  Returns:
    f64 [h, w].

  Raises:
    ValueError: where `x` is not a non-empty matrix of finite real numbers from
      `least` on.
  """
  x = np.asarray(x)
  if x.ndim != 2 or not x.size:
    raise ValueError(f'A {name} map must be [h, w], found shape {x.shape}.')
  if x.dtype.kind not in 'biuf':
    raise ValueError(f'A {name} map must hold real numbers, found {x.dtype}.')
  with np.errstate(over='ignore'):  # long doubles: infinite, so named below
    x = x.astype(np.float64, copy=False)
  low, high = x.min(), x.max()
  if not np.isfinite(low) or not np.isfinite(high):
    raise ValueError(
      f'The {name} map holds {np.isnan(x).sum()} NaN and '
      f'{np.isinf(x).sum()} infinite values.'
    )
  if low < least:
    raise ValueError(f'The {name} map has negative values, down to {low:g}.')
  _, exponent = np.frexp(max(high, -low))
  return np.ldexp(x, -exponent) if exponent else x


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
  if not x.any():
    return 'zero everywhere'
  return 'one value everywhere' if is_flat(x) else ''


def as_pair(
  pred: np.ndarray, other: np.ndarray, name: str = 'saliency'
) -> tuple[np.ndarray, np.ndarray]:
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


def is_flat(x: np.ndarray) -> bool:
  """Tells whether a map is constant up to round-off."""
  high, low = x.max(), x.min()
  return bool(high - low <= FLAT * max(abs(high), abs(low)))


def scale_to_unit(x: np.ndarray) -> np.ndarray:
  """Scales a map to the range [0, 1]; a flat one becomes zero."""
  low, high = x.min(), x.max()
  return np.zeros_like(x) if is_flat(x) else (x - low) / (high - low)


def as_density(x: np.ndarray, *, minmax: bool = False) -> np.ndarray:
  """Scales a map to sum 1; a flat map, all-zero too, becomes uniform.

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
