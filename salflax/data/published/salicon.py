"""SALICON, 2015 and 2017: 15,000 images of COCO, gaze from mouse tracks.

Both editions have the same images and the same kind of files, but other
fixations: scores on one say nothing about the other.
"""

import functools
import pathlib
import statistics

import numpy as np

from salflax.data import maps, pairing, problems
from salflax.data.published import mat

# Blur of maps from fixations, in pixels of the 640 x 480 images: that of
# SALICON's own evaluation.
SIGMA = 19.0
# The published validation images are what we test on: the published test
# images have no gaze.
PARTS = {'train': 'train', 'val': 'test'}
# Mouse positions an image, all observers together: means of the training and
# of the validation images.
SAMPLES = {'2015': (6_899, 7_769), '2017': (21_529, 24_380)}
# The middle of the two; too few positions tell nothing.
_BOUNDARY, _TOO_FEW = 13_000, 3_000
# Files read before the others, to tell the edition.
_PROBES = 15


def samples(raw, report, *, edition, sigma=SIGMA):
  """Lists the samples of an edition.

  Args:
    raw: folder with images/, fixations/ and, if there are, maps/, each with
      train/ and val/. Fixations are .mat, or two-valued images without loss.
    edition: '2015' or '2017'.
    sigma: blur of the maps from fixations, where there is no maps/.

  Raises:
    FileNotFoundError: for another layout.
    ValueError: for fixations of the other edition.
  """
  parts = [p for p in PARTS if pairing.is_folder(raw / 'images' / p)]
  if not parts or not pairing.is_folder(raw / 'fixations'):
    raise FileNotFoundError(
      f'{raw} is not SALICON: expected images/train, images/val and '
      'fixations/train, fixations/val in it (maps/ is optional).'
    )
  result = []
  for part in parts:
    result += _part(raw, part, report, edition=edition, sigma=sigma)
  if (raw / 'images' / 'test').is_dir():
    count = sum(1 for _ in (raw / 'images' / 'test').glob('*.jpg'))
    report.counts['images without gaze (images/test)'] = count
  _check_edition(result, edition, raw)
  return result


def _part(raw, part, report, *, edition, sigma):
  """Lists the samples of 'train' or 'val'; what does not pair is reported."""
  find = pairing.files_by_stem
  images = find(raw / 'images' / part, report)
  gaze = find(
    raw / 'fixations' / part,
    report,
    types=('.mat', *maps.LOSSLESS_TYPES),
    ranked=True,
  )
  report.counts[f'images ({part})'] = len(images)
  report.counts[f'fixation files ({part})'] = len(gaze)
  for stem, path in gaze.items():
    if path.suffix.lower() == '.mat':
      gaze[stem] = functools.partial(read_gaze, path, edition=edition)
  parts = {
    'image': (images, f'{{}}.* in images/{part}/'),
    'fixations': (gaze, f'{{}}.* in fixations/{part}/'),
  }
  if pairing.is_folder(raw / 'maps'):
    maps_of_part = find(raw / 'maps' / part, report)
    parts['map'] = maps_of_part, f'{{}}.* in maps/{part}/'
  return pairing.pair_free_viewing(report, parts, sigma=sigma, part=PARTS[part])


def read_gaze(
  path: pathlib.Path, *, edition: str
) -> tuple[np.ndarray, tuple[int, int] | None]:
  """Reads the fixations [N, 2] of all observers, and the image's size.

  `gaze` holds for each observer `location` (the mouse), `timestamp` (ms) and
  `fixations`, both [x, y] from 1; `resolution` is [height, width]. A matrix
  `I`, as files made of the edition of 2015 have it, is read for that edition
  alone; it has lost repeats and observers.

  Raises:
    problems.Dropped: where the file cannot be used.
  """
  content = mat.load(path)
  if edition == '2015' and 'gaze' not in content and 'I' in content:
    return mat.matrix_points(content['I'], path)
  gaze = np.atleast_1d(mat.variable(content, 'gaze', path))
  points = [np.zeros((0, 2), np.int32)]
  for number, observer in enumerate(gaze.ravel(), start=1):
    if not hasattr(observer, 'fixations'):
      fields = getattr(observer, '_fieldnames', type(observer).__name__)
      detail = f'{path.name}: gaze({number}) has no fixations, only {fields}'
      raise problems.Dropped('unreadable fixations', detail)
    what = f'gaze({number}).fixations'
    points.append(mat.points(observer.fixations, path, what))
  size = np.ravel(content.get('resolution', ()))
  whole = size.dtype.kind in 'uif' and size.size == 2 and (size > 0).all()
  return np.concatenate(points), tuple(map(int, size)) if whole else None


def count_samples(path: pathlib.Path) -> int:
  """Counts how many mouse positions a .mat holds; 0 where it holds none."""
  try:
    gaze = mat.load(path).get('gaze', ())
  except problems.Dropped:  # named when the sample is read.
    return 0
  tracks = [getattr(o, 'location', ()) for o in np.atleast_1d(gaze).ravel()]
  return sum(np.size(track) // 2 for track in tracks)


def looks_like(samples: float) -> str | None:
  """Names the edition that has about so many mouse positions an image.

  None where there are too few to tell.
  """
  if samples < _TOO_FEW:
    return None
  return '2015' if samples < _BOUNDARY else '2017'


def _check_edition(samples, edition: str, raw: pathlib.Path) -> None:
  """Reads a few files and refuses those of the other edition.

  Keys and fields are the same in both, and fixations an image overlap; the
  number of mouse positions does not.
  """
  files = [s.fixations.args[0] for s in samples if callable(s.fixations)]
  probes = files[:: max(1, len(files) // _PROBES)][:_PROBES]
  if not probes:
    return
  median = statistics.median(count_samples(path) for path in probes)
  other = looks_like(median)
  if other not in (None, edition):
    expected = '; '.join(
      f'{k}: {a:,} to {b:,} on average' for k, (a, b) in SAMPLES.items()
    )
    raise ValueError(
      f'{raw / "fixations"} looks like SALICON {other}, not {edition}: '
      f'{median:,.0f} mouse positions an image ({expected}). Prepare it with '
      f'--dataset=salicon{other}.'
    )
