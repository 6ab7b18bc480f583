"""MIT1003: 1,003 images, 15 observers each, free viewing for 3 seconds.

Judd et al., ICCV 2009."""

import functools
import pathlib
from collections.abc import Iterable

import numpy as np

from salflax.data import maps, pairing, problems, splits
from salflax.data.published import mat

# Blur of maps from fixations: the cut-off of the MIT benchmark's blur, 8
# cycles an image, on images of 1024 pixels.
SIGMA = 24.0
# Images to fit, to validate and to test on (Bruckert et al., 2021); which
# ones these were is not published.
PARTS = {'test': 303, 'val': 200, 'fit': 500}
HERTZ = 240.0
PIXELS_PER_DEGREE = 35.0


def samples(raw, report, *, sigma=SIGMA):
  """Lists the samples.

  Args:
    raw: folder with ALLSTIMULI and ALLFIXATIONMAPS, or with ALLSTIMULI and
      DATA, the eye tracker's recordings. With both, ALLFIXATIONMAPS counts.
    sigma: blur of the maps from recordings, in pixels.
  """
  has_images, has_maps, has_tracks = (
    pairing.is_folder(raw / n)
    for n in ('ALLSTIMULI', 'ALLFIXATIONMAPS', 'DATA')
  )
  if not has_images or not (has_maps or has_tracks):
    raise FileNotFoundError(
      f'{raw} is not MIT1003: expected ALLSTIMULI/*.jpeg and '
      'ALLFIXATIONMAPS/*_fixMap.jpg, *_fixPts.jpg in it, or DATA/<observer>/'
      '*.mat in place of the latter.'
    )
  images = pairing.files_by_stem(raw / 'ALLSTIMULI', report)
  report.counts['images'] = len(images)
  gaze = _published(raw, report) if has_maps else _recorded(raw, images, report)
  parts = {'image': (images, '{}.* in ALLSTIMULI/'), **gaze}
  return pairing.pair_free_viewing(
    report, parts, sigma=sigma, part=assign(images).get
  )


def assign(names: Iterable[str]) -> dict[str, str]:
  """Assigns a part to each image: 500 'fit', 200 'val' and 303 'test'.

  By the order of a seeded hash of the names, as there is no published list.
  Of fewer images than 1,003 it is the same shares.
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


def _published(raw: pathlib.Path, report: problems.Report) -> dict[str, dict]:
  """Finds the maps and the fixation images of ALLFIXATIONMAPS by image."""
  folder = raw / 'ALLFIXATIONMAPS'
  kinds = {'_fixMap': {}, '_fixPts': {}}
  for stem, path in pairing.files_by_stem(folder, report).items():
    name, kind = stem[:-7], stem[-7:]
    if kind not in kinds:
      detail = 'expected <image>_fixMap or <image>_fixPts'
      report.drop(f'{folder.name}/{stem}', 'unknown file', detail)
    else:
      kinds[kind][name] = path
  saliency, points = kinds.values()
  read = functools.partial(functools.partial, maps.read_fixations, lossy=True)
  points = {name: read(path) for name, path in points.items()}
  return {
    'map': (saliency, '{}_fixMap.jpg'),
    'fixations': (points, '{}_fixPts.jpg'),
  }


def _recorded(raw, images, report):
  """Finds the recordings in DATA by image."""
  observers = sorted(p for p in (raw / 'DATA').iterdir() if p.is_dir())
  report.counts['observers'] = len(observers)
  files = {
    name: [p for o in observers if (p := o / f'{name}.mat').is_file()]
    for name in images
  }
  read = functools.partial(functools.partial, read_recordings)
  points = {name: read(paths) for name, paths in files.items() if paths}
  return {'fixations': (points, 'DATA/<observer>/{}.mat')}


def read_recordings(files: list[pathlib.Path]) -> tuple[np.ndarray, None]:
  """Detects the fixations [N, 2] in the recordings of one image.

  Each file is one observer's; the first fixation is left out, as it is on the
  cross that comes before the image (Judd et al., 2009).

  Raises:
    problems.Dropped: where a file cannot be used.
  """
  points = []
  for path in files:
    stops = detect_fixations(_track(path))[1:]
    points.append(mat.points(stops, path, f'{path.parent.name}: eyeData'))
  return np.concatenate(points), None


def _track(path: pathlib.Path) -> np.ndarray:
  """Reads the gaze f64 [N, 2], (x, y), of a recording, one row a sample."""
  # The variable has the image's name, which MATLAB cuts at 63 letters.
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
  """Detects the fixations f64 [N, 2], (x, y), of a recording at 240 Hz.

  A fixation is a stretch without blinks in which the eye is slower than a
  threshold, and lies at the median of its samples (velocity-threshold
  identification: Salvucci and Goldberg, ETRA 2000). The database's own
  MATLAB code detects them otherwise, so that counts differ from its.

  Args:
    track: f64 [T, 2] in pixels; negative or not finite where the eye is shut.
    max_speed: degrees a second, over 5 samples.
    min_duration: seconds.
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
