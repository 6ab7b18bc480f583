"""MIT1003: 1,003 pictures, 15 observers each, free viewing for 3 seconds."""

import functools
import pathlib
from collections.abc import Iterable, Mapping

import numpy as np

from salflax.data import builder, problems, splits
from salflax.data import raw as raw_lib
from salflax.data.published import mat

# Of maps made of fixations: the cut-off of the MIT benchmark's blur, 8 cycles
# a picture, on pictures of 1024 pixels.
SIGMA = 24.0
# Pictures to fit, to validate and to test on (Bruckert et al., 2021); which
# ones these were is not published.
PARTS = {'test': 303, 'val': 200, 'fit': 500}
HERTZ = 240.0
PIXELS_PER_DEGREE = 35.0


class Mit1003(builder.GazeBuilder):
  """Pictures and gaze of Judd et al., ICCV 2009."""

  SUMMARY = '1,003 pictures of at most 1024 pixels, free viewing, 15 observers.'
  HOMEPAGE = 'http://people.csail.mit.edu/tjudd/WherePeopleLook/'
  LICENSE = 'None stated.'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float = SIGMA
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `builder.GazeBuilder.samples`.

    Args:
      raw: folder with ALLSTIMULI and ALLFIXATIONMAPS, or with ALLSTIMULI and
        DATA, the eye tracker's recordings. With both, ALLFIXATIONMAPS counts.
      report: takes what cannot be used.
      sigma: of the maps made of recordings, in pixels.
    """
    has_maps = (raw / 'ALLFIXATIONMAPS').is_dir()
    if not (raw / 'ALLSTIMULI').is_dir() or not (
      has_maps or (raw / 'DATA').is_dir()
    ):
      raise FileNotFoundError(
        f'{raw} is not MIT1003: expected ALLSTIMULI/*.jpeg and '
        'ALLFIXATIONMAPS/*_fixMap.jpg, *_fixPts.jpg in it, or DATA/<observer>/'
        '*.mat in place of the latter.'
      )
    types = raw_lib.PICTURE_TYPES
    pictures = raw_lib.files_by_stem(raw / 'ALLSTIMULI', report, types=types)
    report.found['pictures'] = len(pictures)
    find = _published if has_maps else _recorded
    gaze = find(raw, pictures, report)
    parts = assign(pictures)
    return [
      raw_lib.Sample(
        image_id=name,
        condition='pure',
        text='',
        image=pictures[name],
        saliency=saliency,
        fixations=fixations,
        sigma=sigma,
        part=parts[name],
      )
      for name, (saliency, fixations) in sorted(gaze.items())
    ]


def assign(names: Iterable[str]) -> dict[str, str]:
  """Returns the part of each picture: 500 'fit', 200 'val' and 303 'test'.

  By the order of a seeded hash of the names, as there is no published list.
  Of fewer pictures than 1,003 it is the same shares.
  """
  order = sorted(names, key=lambda n: (splits.seeded_hash('mit1003', n), n))
  total = sum(PARTS.values())
  result = {}
  for number, name in enumerate(order):
    place = number * total // len(order)
    is_val = place < PARTS['test'] + PARTS['val']
    part = 'val' if is_val else 'fit'
    result[name] = 'test' if place < PARTS['test'] else part
  return result


def _published(
  raw: pathlib.Path, pictures: Mapping, report: problems.Report
) -> dict[str, tuple]:
  """Returns map and fixation picture of ALLFIXATIONMAPS by picture."""
  folder = raw / 'ALLFIXATIONMAPS'
  files = raw_lib.files_by_stem(folder, report, types=raw_lib.PICTURE_TYPES)
  kinds = {'_fixMap': {}, '_fixPts': {}}
  for stem, path in files.items():
    name, kind = stem[:-7], stem[-7:]
    if kind not in kinds:
      detail = 'expected <picture>_fixMap or <picture>_fixPts'
      report.drop(f'{folder.name}/{stem}', 'unknown file', detail)
    else:
      kinds[kind][name] = path
  saliency, points = kinds.values()
  gaze = {}
  for name in sorted({*pictures, *saliency, *points}):
    key = f'{name}/pure'
    if name not in pictures:
      report.drop(key, 'missing picture', f'no {name}.* in ALLSTIMULI/')
    elif name not in saliency:
      report.drop(key, 'missing map', f'no {name}_fixMap.jpg')
    elif name not in points:
      report.drop(key, 'missing fixations', f'no {name}_fixPts.jpg')
    else:
      read = functools.partial(
        raw_lib.read_fixation_picture, points[name], lossy=True
      )
      gaze[name] = saliency[name], read
  return gaze


def _recorded(
  raw: pathlib.Path, pictures: Mapping, report: problems.Report
) -> dict[str, tuple]:
  """Returns None and how to read the recordings in DATA by picture."""
  observers = sorted(p for p in (raw / 'DATA').iterdir() if p.is_dir())
  report.found['observers'] = len(observers)
  gaze = {}
  for name in sorted(pictures):
    files = [p for o in observers if (p := o / f'{name}.mat').is_file()]
    if files:
      gaze[name] = None, functools.partial(read_recordings, files)
    else:
      detail = f'no DATA/<observer>/{name}.mat'
      report.drop(f'{name}/pure', 'missing fixations', detail)
  return gaze


def read_recordings(files: list[pathlib.Path]) -> tuple[np.ndarray, None]:
  """Returns the fixations i32 [N, 2] in the recordings of one picture.

  Each file is one observer's; the first fixation is left out, as it is on the
  cross that was shown before the picture (Judd et al., 2009).

  Raises:
    problems.Dropped: where a file cannot be used.
  """
  points = []
  for path in files:
    found = detect_fixations(_track(path))[1:]
    name = f'{path.parent.name}: eyeData'
    points.append(mat.points(found, path, name))
  return np.concatenate(points), None


def _track(path: pathlib.Path) -> np.ndarray:
  """Returns the gaze f64 [N, 2], (x, y), of a recording, one row a sample."""
  # The variable has the picture's name, which MATLAB cuts at 63 letters.
  for trial in mat.load(path).values():
    recordings = np.atleast_1d(getattr(trial, 'DATA', ()))
    if recordings.size and hasattr(recordings.flat[0], 'eyeData'):
      eye_data = recordings.flat[0].eyeData
      return mat.positions(eye_data, path, 'eyeData')[:, :2]
  where = f'{path.parent.name}/{path.name}'
  detail = f'{where} has no struct with DATA.eyeData'
  raise problems.Dropped('unreadable fixations', detail)


def detect_fixations(
  track: np.ndarray, *, max_speed: float = 30.0, min_duration: float = 0.1
) -> np.ndarray:
  """Returns the fixations f64 [N, 2], (x, y), of a recording at 240 Hz.

  A fixation is a stretch without blinks in which the eye is slower than a
  threshold, and lies at the median of its samples (velocity-threshold
  identification: Salvucci and Goldberg, ETRA 2000). The database's own
  MATLAB code detects them otherwise, so that counts differ from its.

  Args:
    track: f64 [T, 2] in pixels; negative or not finite where the eye is shut.
    max_speed: in degrees a second, over 5 samples.
    min_duration: in seconds.
  """
  if not len(track):
    return np.zeros((0, 2))
  seen = np.isfinite(track).all(axis=1) & (track >= 0).all(axis=1)
  index = np.arange(len(track))
  before = np.maximum(index - 2, 0)
  after = np.minimum(index + 2, len(track) - 1)
  path = np.linalg.norm(track[after] - track[before], axis=1)
  seconds = np.maximum(after - before, 1) / HERTZ
  still = seen & (path / PIXELS_PER_DEGREE / seconds < max_speed)
  edges = np.diff(np.concatenate([[0], still, [0]]))
  starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
  long = ends - starts >= min_duration * HERTZ
  medians = [np.median(track[a:b], axis=0) for a, b in zip(starts, ends)]
  return np.reshape(medians, (-1, 2))[long]
