"""OSIE: 700 images, 15 observers each, free viewing (Xu et al., 2014)."""

import pathlib

import numpy as np

from salflax.data import maps, pairing, problems
from salflax.data.published import mat

SIGMA = 24.0  # One degree of visual angle on the 800 x 600 images.


def samples(raw, report, *, sigma=SIGMA):
  """Lists the samples.

  Args:
    raw: folder that holds data/stimuli and data/eye/fixations.mat.
    sigma: blur of the maps from the fixations, in pixels.
  """
  root = raw if (raw / 'stimuli').is_dir() else raw / 'data'
  stimuli, gaze_file = root / 'stimuli', root / 'eye' / 'fixations.mat'
  if not pairing.is_folder(stimuli) or not pairing.is_file(gaze_file):
    raise FileNotFoundError(
      f'{raw} is not OSIE: expected data/stimuli/*.jpg and '
      'data/eye/fixations.mat in it.'
    )
  images = pairing.files_by_stem(stimuli, report)
  gaze = read_gaze(gaze_file, report)
  report.counts |= {'images': len(images), 'images with gaze': len(gaze)}
  return pairing.pair_free_viewing(
    report,
    {
      'image': (images, '{}.* in stimuli/'),
      'fixations': (gaze, '{} in ' + gaze_file.name),
    },
    sigma=sigma,
  )


def read_gaze(
  path: pathlib.Path, report: problems.Report
) -> dict[str, np.ndarray | problems.Dropped]:
  """Reads the fixations [N, 2] of all observers, by image id.

  The file counts pixels from 1 and has decimals: ours are `round(v) - 1`.
  Gaze that cannot be used is a `Dropped`, which says why.

  Raises:
    ValueError: for a file that is not OSIE's fixations.mat.
  """
  entries = mat.variable(mat.load(path), 'fixations', path)
  gaze = {}
  for number, entry in enumerate(np.atleast_1d(entries), start=1):
    name = getattr(entry, 'img', None)
    if not isinstance(name, str):
      detail = f'no name of an image in {path.name}'
      report.drop(f'fixations{{{number}}}', 'unreadable fixations', detail)
      continue
    image_id = pairing.nfc(pathlib.PurePath(name).stem)
    try:
      if image_id in gaze:
        detail = f'again at {number} of {path.name}'
        raise problems.Dropped('duplicate id', detail)
      gaze[image_id] = _points(entry)
    except problems.Dropped as e:
      gaze[image_id] = e
    except (AttributeError, TypeError, ValueError) as e:
      gaze[image_id] = problems.Dropped('unreadable fixations', str(e))
  return gaze


def _points(entry) -> np.ndarray:
  points = [np.zeros((0, 2), np.int32)]
  for subject in np.atleast_1d(entry.subjects):
    x = np.atleast_1d(np.asarray(subject.fix_x, float)).ravel()
    y = np.atleast_1d(np.asarray(subject.fix_y, float)).ravel()
    if x.shape != y.shape:
      raise ValueError(f'{x.size} values of fix_x, {y.size} of fix_y')
    points.append(maps.to_points(x, y, first=1))
  return np.concatenate(points)
