"""Fixation points, fixation pictures and the blurred maps made of them."""

import numpy as np


def _kernels(centres: np.ndarray, length: int, sigma: float) -> np.ndarray:
  """Returns f64 [n, length], a unit-sum Gaussian about each centre."""
  distance = np.arange(length)[None, :] - centres[:, None]
  reach = np.arange(-int(10 * sigma) - 1, int(10 * sigma) + 2)
  total = np.exp(-0.5 * (reach / sigma) ** 2).sum()
  return np.exp(-0.5 * (distance / sigma) ** 2) / total


def saliency_from_fixations(
  fixations: np.ndarray, size: tuple[int, int], sigma: float
) -> np.ndarray:
  """Blurs fixations with a Gaussian; outside the picture counts as zero.

  The Gaussian is separable and the points are few, so the blur is a product of
  three small matrices: exact, without truncation, milliseconds a picture.

  Args:
    fixations: integers [N, 2], (row, column); a repeated point counts again.
    size: height and width of the picture, in pixels.
    sigma: standard deviation of the Gaussian in pixels, > 0.

  Returns:
    f64 [h, w] >= 0. Every fixation adds a unit mass, less what falls outside.

  Raises:
    ValueError: for sigma <= 0, a wrong shape or a point outside the picture.
  """
  points = np.asarray(fixations)
  height, width = size
  if not sigma > 0:
    raise ValueError(f'sigma must be above 0 pixels, found {sigma}.')
  if points.size == 0:
    return np.zeros((height, width))
  if points.ndim != 2 or points.shape[1] != 2:
    raise ValueError(f'Fixations must be [N, 2], found {list(points.shape)}.')
  if outside(points, size).any():
    raise ValueError(f'A fixation lies outside the {height} x {width} picture.')
  rows, row = np.unique(points[:, 0], return_inverse=True)
  columns, column = np.unique(points[:, 1], return_inverse=True)
  counts = np.zeros((len(rows), len(columns)))
  np.add.at(counts, (row, column), 1)
  across = counts @ _kernels(columns, width, sigma)
  return _kernels(rows, height, sigma).T @ across


def to_uint8(saliency: np.ndarray) -> np.ndarray:
  """Returns u8 of the same shape: scaled to a maximum of 255 and rounded."""
  peak = saliency.max(initial=0)
  if not peak > 0:
    return np.zeros(saliency.shape, np.uint8)
  return (saliency / peak * 255 + 0.5).astype(np.uint8)


def outside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Returns bool [N], True where a (row, column) is no pixel of the picture."""
  return ((points < 0) | (points >= np.asarray(size)[None])).any(axis=1)


def to_points(x: np.ndarray, y: np.ndarray, *, first: int = 0) -> np.ndarray:
  """Returns i32 [N, 2], the (row, column) nearest to each position.

  Args:
    x: horizontal positions [N] in pixels, with decimals.
    y: vertical positions [N].
    first: the number of the first pixel: 0, or 1 for MATLAB's coordinates.
  """
  positions = np.stack([np.asarray(y, float), np.asarray(x, float)], axis=-1)
  return (np.rint(positions) - first).astype(np.int32)


def sjtu_sigma(size: tuple[int, int]) -> float:
  """Returns the sigma in pixels of SJTU-TIS's published maps.

  Measured on the published maps: 16 px where the longer side is at most 500 px,
  32 px from 575 px on; no picture lies between.
  """
  return 16.0 if max(size) < 575 else 32.0


def default_sigma(size: tuple[int, int]) -> float:
  """Returns 3 % of the longer side: OSIE's 24 px on 800 px, at any size."""
  return 0.03 * max(size)
