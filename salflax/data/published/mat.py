"""Reads MATLAB files; what is in them is data and never runs."""

import pathlib
from typing import Any

import numpy as np

from salflax.data import maps
from salflax.data.problems import Dropped

# What a variable says about a file of another kind.
_LOOKS_LIKE = {
  'gaze': "SALICON's fixations, 2015 or 2017",
  'I': 'a matrix of fixations, as SALICON of 2015 is often passed on',
  'fixLocs': "CAT2000's FIXATIONLOCS",
  'allData': "CAT2000's allFixData.mat",
  'fixations': "OSIE's fixations.mat",
}


def load(path: pathlib.Path) -> dict[str, Any]:
  """Reads the variables of a MATLAB file; structs have attributes.

  Raises:
    Dropped: where it is no MATLAB file of version 4 to 7.
  """
  import scipy.io

  try:
    content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
  except Exception as e:  # scipy raises many kinds for a broken file.
    detail = (
      f'{path.name} is no readable MATLAB file: '
      f'{str(e).strip() or type(e).__name__}'
    )
    raise Dropped('unreadable fixations', detail) from e
  return {k: v for k, v in content.items() if not k.startswith('__')}


def variable(content: dict[str, Any], key: str, path: pathlib.Path) -> Any:
  """Looks up a variable.

  Raises:
    Dropped: where there is none, with what the file looks like.
  """
  if key in content:
    return content[key]
  detail = f'{path.name} has no variable {key!r}, only {sorted(content)}'
  if near := [_LOOKS_LIKE[k] for k in content if k in _LOOKS_LIKE]:
    detail += f'; it looks like {near[0]}'
  raise Dropped('unreadable fixations', detail)


def matrix_points(
  matrix: Any, path: pathlib.Path
) -> tuple[np.ndarray, tuple[int, int]]:
  """Finds what is not zero: i32 [N, 2], (row, column), and the size.

  Raises:
    Dropped: where it is not a matrix of numbers, or marks areas.
  """
  matrix = np.asarray(matrix)
  if matrix.ndim != 2 or matrix.dtype.kind not in 'buif':
    detail = f'{path.name}: {matrix.dtype} of shape {list(matrix.shape)}'
    raise Dropped('unreadable fixations', f'{detail}; expected a matrix')
  fixated = np.argwhere(matrix > 0).astype(np.int32)
  maps.check_fixated(fixated, matrix.shape, path.name)
  return fixated, matrix.shape


def positions(values: Any, path: pathlib.Path, what: str) -> np.ndarray:
  """Checks f64 [N, 2 or more], rows of numbers; one row alone is [1, ...].

  Raises:
    Dropped: for other shapes or values that are no numbers.
  """
  array = np.asarray(values)
  if array.size == 0:
    return np.zeros((0, 2))
  # Squeezed, one row is a vector of two; a longer vector was a single column.
  row = array[None] if array.shape == (2,) else array
  if array.dtype.kind not in 'buif' or row.ndim != 2 or row.shape[1] < 2:
    detail = f'{path.name}: {what} is {array.dtype} {list(array.shape)}'
    raise Dropped('unreadable fixations', f'{detail}; expected rows of x and y')
  return row.astype(float)


def points(values: Any, path: pathlib.Path, what: str) -> np.ndarray:
  """Rounds rows x, y that count from 1 to (row, column) [N, 2].

  Raises:
    Dropped: for other shapes or values that are no numbers.
  """
  array = positions(values, path, what)
  return maps.to_points(array[:, 0], array[:, 1], first=1)
