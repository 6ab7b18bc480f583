"""OSIE: 700 pictures, 15 observers each, free viewing."""

import pathlib

import numpy as np

from salflax.data import builder, maps, problems
from salflax.data import raw as raw_lib

SIGMA = 24.0  # One degree of visual angle on the 800 x 600 pictures.


class Osie(builder.GazeBuilder):
  """Pictures and gaze of OSIE (Xu et al., 2014), in the official layout."""

  SUMMARY = '700 pictures of 800 x 600, free viewing, 15 observers each.'
  HOMEPAGE = 'https://github.com/NUS-VIP/predicting-human-gaze-beyond-pixels'
  LICENSE = 'MIT'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float = SIGMA
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `builder.GazeBuilder.samples`.

    Args:
      raw: folder that holds data/stimuli and data/eye/fixations.mat.
      report: takes what cannot be used.
      sigma: of the maps made of the fixations, in pixels.
    """
    root = raw if (raw / 'stimuli').is_dir() else raw / 'data'
    stimuli, gaze_file = root / 'stimuli', root / 'eye' / 'fixations.mat'
    if not stimuli.is_dir() or not gaze_file.is_file():
      raise FileNotFoundError(
        f'{raw} is not OSIE: expected data/stimuli/*.jpg and '
        'data/eye/fixations.mat in it.'
      )
    types = raw_lib.PICTURE_TYPES
    pictures = raw_lib.files_by_stem(stimuli, report, types=types)
    gaze = read_gaze(gaze_file, report)
    report.found['pictures'] = len(pictures)
    report.found['pictures with gaze'] = len(gaze)
    for image_id in sorted(gaze.keys() - pictures.keys()):
      detail = f'in {gaze_file.name}, not in stimuli/'
      report.drop(f'{image_id}/pure', 'missing picture', detail)
    for image_id in sorted(pictures.keys() - gaze.keys()):
      detail = f'no entry in {gaze_file.name}'
      report.drop(f'{image_id}/pure', 'missing fixations', detail)
    return [
      raw_lib.Sample(
        image_id=image_id,
        condition='pure',
        text='',
        image=pictures[image_id],
        fixations=gaze[image_id],
        sigma=sigma,
      )
      for image_id in sorted(gaze.keys() & pictures.keys())
      if gaze[image_id] is not None
    ]


def read_gaze(
  path: pathlib.Path, report: problems.Report
) -> dict[str, np.ndarray | None]:
  """Returns the fixations i32 [N, 2] of all observers, by picture id.

  The file counts pixels from 1 and has decimals: ours are `round(v) - 1`.
  Gaze that cannot be used is reported and returned as None.

  Raises:
    ValueError: for a file that is not OSIE's fixations.mat.
  """
  import scipy.io

  try:
    content = scipy.io.loadmat(path, squeeze_me=True, struct_as_record=False)
  except Exception as e:  # scipy raises many kinds for a broken file.
    raise ValueError(f'{path} is not a readable MATLAB file: {e}') from e
  if 'fixations' not in content:
    names = [k for k in content if not k.startswith('__')]
    raise ValueError(f"{path} has no variable 'fixations', only {names}.")
  gaze = {}
  for number, entry in enumerate(np.atleast_1d(content['fixations']), start=1):
    name = getattr(entry, 'img', None)
    if not isinstance(name, str):
      detail = f'no picture name in {path.name}'
      report.drop(f'fixations{{{number}}}', 'unreadable fixations', detail)
      continue
    image_id = pathlib.PurePath(name).stem
    if image_id in gaze:
      gaze[image_id] = None
      detail = f'again at {number} of {path.name}'
      report.drop(f'{image_id}/pure', 'duplicate id', detail)
      continue
    try:
      gaze[image_id] = _points(entry)
    except (AttributeError, TypeError, ValueError) as e:
      gaze[image_id] = None
      report.drop(f'{image_id}/pure', 'unreadable fixations', str(e))
  return gaze


def _points(entry) -> np.ndarray:
  points = [np.zeros((0, 2), np.int32)]
  for subject in np.atleast_1d(entry.subjects):
    x = np.atleast_1d(np.asarray(subject.fix_x, float)).ravel()
    y = np.atleast_1d(np.asarray(subject.fix_y, float)).ravel()
    if x.shape != y.shape:
      raise ValueError(f'{x.size} values of fix_x, {y.size} of fix_y')
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
      raise ValueError('a position is not a finite number')
    points.append(maps.to_points(x, y, first=1))
  return np.concatenate(points)
