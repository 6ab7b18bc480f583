"""Log-densities in one HDF5 file, as the MIT/Tuebingen benchmark takes them.

A data set [h, w] for each image, named by the image's file in its folders, as
pysaliency writes and reads it: the natural logarithm of a density whose sum
over the pixels is 1.
"""

import os
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from salflax.core import files
from salflax.data import images

TYPES = ('.hdf5', '.h5')
TOLERANCE = 1e-3  # of log sum exp: beyond, the benchmark refuses a file


def check(log_density: np.ndarray, name: str) -> None:
  """Raises ValueError unless the densities sum to 1: |log sum exp| < 0.001.

  Args:
    log_density: [h, w]; -inf is a density of zero.
    name: image, for the message.
  """
  if log_density.ndim != 2 or 0 in log_density.shape:
    raise ValueError(f'{name}: expected [h, w], found {log_density.shape}.')
  values = log_density.astype(np.float64)
  top = values.max()
  if not np.isfinite(top) or np.isnan(values).any():
    raise ValueError(f'{name}: a log-density holds NaN, +inf or -inf alone.')
  total = float(top + np.log(np.exp(values - top).sum()))
  if not abs(total) < TOLERANCE:
    raise ValueError(
      f'{name}: the log of the sum of its densities is {total:.4g}; '
      f'allowed is less than {TOLERANCE} from 0.'
    )


def holder(path: pathlib.Path) -> pathlib.Path | None:
  """Finds the HDF5 file that a path leads into; None where there is none."""
  for parent in path.parents:
    if parent.suffix.lower() in TYPES and parent.is_file():
      return parent
  return None


def _open(path: str | os.PathLike) -> Any:
  import h5py

  try:
    return h5py.File(path, 'r')
  except FileNotFoundError:
    raise
  except OSError as e:
    raise ValueError(f'{path}: is no HDF5 file: {e}') from e


def names(path: str | os.PathLike) -> list[str]:
  """Lists the images of a file, in order; links out of it are not followed.

  Raises:
    FileNotFoundError, ValueError: the file is not there, or no HDF5.
    ImportError: h5py is not installed.
  """
  import h5py

  keys = []

  def visit(name, item):
    if isinstance(item, h5py.Dataset):
      keys.append(name)

  with _open(path) as file:
    file.visititems(visit)
  return sorted(keys)


def read(path: str | os.PathLike, name: str) -> np.ndarray:
  """Reads the density f64 [h, w] of an image, which sums to 1.

  Raises:
    ValueError: there is none, or it is no log-density: see `check`.
  """
  with _open(path) as file:
    data = file.get(name)
    if data is None or not hasattr(data, 'dtype') or data.dtype.kind != 'f':
      raise ValueError(f'{path}: holds no numbers for {name}.')
    if data.size > (Image.MAX_IMAGE_PIXELS or np.inf):
      raise ValueError(f'{path}: {name} is too large: {data.shape}.')
    log_density = data[()]
  check(log_density, name)
  return np.exp(log_density.astype(np.float64))


def write(
  path: str | os.PathLike,
  log_densities: Iterable[tuple[str, np.ndarray]],
) -> None:
  """Writes log-densities, all or nothing.

  Args:
    path: .hdf5.
    log_densities: names of image files, which may have folders, and floats
      [h, w], each checked as they are written.

  Raises:
    ValueError: a name is there twice or is no name; see also `check`.
    ImportError: h5py is not installed.
  """
  import h5py

  with files.replacing(path) as temporary, h5py.File(temporary, 'w') as file:
    for name, values in log_densities:
      check_name(name)
      if name in file:
        raise ValueError(f'{path}: {name} is there twice.')
      check(values, name)
      # Without times of writing: the same maps make the same file.
      file.create_dataset(
        name, data=values, compression='gzip', shuffle=True, track_times=False
      )


def check_name(name: str) -> None:
  """Raises ValueError for a name that leads out of the folder of images."""
  if not {'', '.', '..'}.isdisjoint(name.split('/')):
    raise ValueError(
      f'{name!r} is no name of an image file in its folders: allowed are '
      "relative ones, without '.' and '..'."
    )


def stem(name: str) -> str:
  """Leaves out the suffix of an image's file name."""
  suffix = pathlib.PurePath(name).suffix
  fits = suffix.lower() in (*images.IMAGE_TYPES, '.gif')
  return name.removesuffix(suffix) if fits else name
