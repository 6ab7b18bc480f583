"""CAT2000: 2,000 images of 20 kinds, free viewing (its training set)."""

import functools
import pathlib

import numpy as np

from salflax.data import pairing
from salflax.data.published import mat

# Blur of maps from fixations, where FIXATIONMAPS is absent: about one degree
# on the 1920 x 1080 images, as the Tuebingen benchmark has it.
SIGMA = 40.0


def samples(raw, report, *, sigma=SIGMA):
  """Lists the samples.

  Args:
    raw: folder that is, or holds, trainSet.
    sigma: blur of the maps from fixations, where FIXATIONMAPS is absent.
  """
  root = raw if (raw / 'Stimuli').is_dir() else raw / 'trainSet'
  if not all(map(pairing.is_folder, (root / 'Stimuli', root / 'FIXATIONLOCS'))):
    raise FileNotFoundError(
      f'{raw} is not the training set of CAT2000: expected Stimuli/'
      '<category>/*.jpg and FIXATIONLOCS/<category>/*.mat in it or in '
      'trainSet/ (the test set has no gaze).'
    )
  # Categories hold a folder Output with images for display: passed over.
  find = functools.partial(
    pairing.files_by_stem, report=report, skip=('Output',)
  )
  images = find(root / 'Stimuli')
  gaze = {
    name: functools.partial(read_locations, path)
    for name, path in find(root / 'FIXATIONLOCS', types=('.mat',)).items()
  }
  report.counts['images'] = len(images)
  parts = {
    'image': (images, '{}.* in Stimuli/'),
    'fixations': (gaze, '{}.mat in FIXATIONLOCS/'),
  }
  if pairing.is_folder(root / 'FIXATIONMAPS'):
    parts['map'] = find(root / 'FIXATIONMAPS'), '{}.* in FIXATIONMAPS/'
  return pairing.pair_free_viewing(report, parts, sigma=sigma)


def read_locations(
  path: pathlib.Path,
) -> tuple[np.ndarray, tuple[int, int]]:
  """Reads the fixated pixels i32 [N, 2] of a `fixLocs`, and its size.

  Raises:
    problems.Dropped: where the file cannot be used.
  """
  content = mat.load(path)
  return mat.matrix_points(mat.variable(content, 'fixLocs', path), path)
