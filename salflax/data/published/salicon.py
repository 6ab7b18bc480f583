"""SALICON, 2015 and 2017: 15,000 pictures of COCO, gaze from mouse tracks.

Both editions have the same pictures and the same kind of files, but other
fixations: scores on one say nothing about the other.
"""

import functools
import pathlib
import statistics
from collections.abc import Mapping

import numpy as np

from salflax.data import builder, problems
from salflax.data import raw as raw_lib
from salflax.data.published import mat

# Of maps made of fixations, in pixels of the 640 x 480 pictures: that of
# SALICON's own evaluation.
SIGMA = 19.0
# The published validation pictures are what we test on: the published test
# pictures have no gaze.
PARTS = {'train': 'train', 'val': 'test'}
# Mouse positions a picture, all observers together: means of the training and
# of the validation pictures.
SAMPLES = {'2015': (6_899, 7_769), '2017': (21_529, 24_380)}
# The middle of the two; too few positions tell nothing.
_BOUNDARY, _TOO_FEW = 13_000, 3_000
# Files read before the others, to tell the edition.
_PROBES = 15


class Salicon2015(builder.GazeBuilder):
  """The first edition (Jiang et al., CVPR 2015; LSUN challenges to 2016)."""

  SUMMARY = '15,000 pictures of COCO, free viewing by mouse, edition of 2015.'
  HOMEPAGE = 'http://salicon.net/download/'
  LICENSE = 'CC BY 4.0 (the annotations); pictures as COCO says.'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float = SIGMA
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `find`."""
    return find(raw, report, edition='2015', sigma=sigma)


class Salicon2017(builder.GazeBuilder):
  """The edition of the LSUN challenge of 2017, with other fixations."""

  SUMMARY = '15,000 pictures of COCO, free viewing by mouse, edition of 2017.'
  HOMEPAGE = 'http://salicon.net/challenge-2017/'
  LICENSE = 'CC BY 4.0 (the annotations); pictures as COCO says.'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float = SIGMA
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `find`."""
    return find(raw, report, edition='2017', sigma=sigma)


def find(
  raw: pathlib.Path, report: problems.Report, *, edition: str, sigma: float
) -> list[raw_lib.Sample]:
  """Returns where each sample of an edition lies.

  Args:
    raw: folder with images/, fixations/ and, if there are, maps/, each with
      train/ and val/. Fixations are .mat, or two-valued pictures without loss.
    report: takes what cannot be used.
    edition: '2015' or '2017'.
    sigma: of maps made of fixations, where there is no maps/.

  Raises:
    FileNotFoundError: for another layout.
    ValueError: for fixations of the other edition.
  """
  parts = [p for p in PARTS if (raw / 'images' / p).is_dir()]
  if not parts or not (raw / 'fixations').is_dir():
    raise FileNotFoundError(
      f'{raw} is not SALICON: expected images/train, images/val and '
      'fixations/train, fixations/val in it (maps/ is optional).'
    )
  samples = []
  for part in parts:
    samples += _part(raw, part, report, edition=edition, sigma=sigma)
  if (raw / 'images' / 'test').is_dir():
    untold = sum(1 for _ in (raw / 'images' / 'test').glob('*.jpg'))
    report.found['pictures without gaze (images/test)'] = untold
  _check_edition(samples, edition, raw)
  return samples


def _part(
  raw: pathlib.Path,
  part: str,
  report: problems.Report,
  *,
  edition: str,
  sigma: float,
) -> list[raw_lib.Sample]:
  """Returns the samples of 'train' or 'val'; what does not pair is reported."""
  types = raw_lib.PICTURE_TYPES
  pictures = raw_lib.files_by_stem(raw / 'images' / part, report, types=types)
  gaze_types = ('.mat', *raw_lib.LOSSLESS_TYPES)
  gaze = raw_lib.files_by_stem(
    raw / 'fixations' / part, report, types=gaze_types, ranked=True
  )
  has_maps = (raw / 'maps').is_dir()
  saliency = raw_lib.files_by_stem(raw / 'maps' / part, report, types=types)
  report.found[f'pictures ({part})'] = len(pictures)
  report.found[f'fixation files ({part})'] = len(gaze)
  samples = []
  for stem in sorted(pictures.keys() | gaze.keys()):
    if missing := _missing(stem, part, pictures, gaze, saliency, has_maps):
      report.drop(f'{stem}/pure', *missing)
      continue
    fixations = gaze[stem]
    if fixations.suffix.lower() == '.mat':
      fixations = functools.partial(read_gaze, fixations, edition=edition)
    samples.append(
      raw_lib.Sample(
        image_id=stem,
        condition='pure',
        text='',
        image=pictures[stem],
        saliency=saliency.get(stem),
        fixations=fixations,
        sigma=sigma,
        part=PARTS[part],
      )
    )
  return samples


def _missing(
  stem: str,
  part: str,
  pictures: Mapping,
  gaze: Mapping,
  saliency: Mapping,
  has_maps: bool,
) -> tuple[str, str] | None:
  """Returns the reason and the detail of a sample that is not complete."""
  if stem not in pictures:
    return 'missing picture', f'no {stem}.* in images/{part}/'
  if stem not in gaze:
    return 'missing fixations', f'no {stem}.* in fixations/{part}/'
  if has_maps and stem not in saliency:
    return 'missing map', f'no {stem}.* in maps/{part}/'
  return None


def read_gaze(
  path: pathlib.Path, *, edition: str
) -> tuple[np.ndarray, tuple[int, int] | None]:
  """Returns the fixations i32 [N, 2] of all observers, and the picture's size.

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
  found = tuple(int(n) for n in size) if size.size == 2 else None
  return np.concatenate(points), found


def count_samples(path: pathlib.Path) -> int:
  """Returns how many mouse positions a .mat holds; 0 where it holds none."""
  try:
    gaze = mat.load(path).get('gaze', ())
  except problems.Dropped:  # Named when the sample is read.
    return 0
  tracks = [getattr(o, 'location', ()) for o in np.atleast_1d(gaze).ravel()]
  return sum(np.size(track) // 2 for track in tracks)


def looks_like(samples: float) -> str | None:
  """Returns the edition that has about so many mouse positions a picture.

  None where there are too few to tell.
  """
  if samples < _TOO_FEW:
    return None
  return '2015' if samples < _BOUNDARY else '2017'


def _check_edition(samples, edition: str, raw: pathlib.Path) -> None:
  """Reads a few files and refuses those of the other edition.

  Keys and fields are the same in both, and fixations a picture overlap; the
  number of mouse positions does not.
  """
  files = [s.fixations.args[0] for s in samples if callable(s.fixations)]
  probes = files[:: max(1, len(files) // _PROBES)][:_PROBES]
  if not probes:
    return
  median = statistics.median(count_samples(path) for path in probes)
  seen = looks_like(median)
  if seen not in (None, edition):
    expected = '; '.join(
      f'{k}: {a:,} to {b:,} on average' for k, (a, b) in SAMPLES.items()
    )
    raise ValueError(
      f'{raw / "fixations"} looks like SALICON {seen}, not {edition}: '
      f'{median:,.0f} mouse positions a picture ({expected}). Prepare it with '
      f'--dataset=salicon{seen}.'
    )
