"""CAT2000: 2,000 pictures of 20 kinds, free viewing (its training set)."""

import functools
import pathlib

import numpy as np

from salflax.data import builder, problems
from salflax.data import raw as raw_lib
from salflax.data.published import mat

# Of maps made of fixations, where FIXATIONMAPS is absent: about one degree on
# the 1920 x 1080 pictures, as the Tuebingen benchmark has it.
SIGMA = 40.0


class Cat2000(builder.GazeBuilder):
  """The training set of CAT2000 (Borji and Itti, 2015)."""

  SUMMARY = '2,000 pictures of 1920 x 1080 in 20 categories, free viewing.'
  HOMEPAGE = 'http://saliency.mit.edu/results_cat2000.html'
  LICENSE = 'None stated.'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float = SIGMA
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `builder.GazeBuilder.samples`.

    Args:
      raw: folder that is, or holds, trainSet.
      report: takes what cannot be used.
      sigma: of the maps made of fixations, where FIXATIONMAPS is absent.
    """
    root = raw if (raw / 'Stimuli').is_dir() else raw / 'trainSet'
    if not all((root / n).is_dir() for n in ('Stimuli', 'FIXATIONLOCS')):
      raise FileNotFoundError(
        f'{raw} is not the training set of CAT2000: expected Stimuli/'
        '<category>/*.jpg and FIXATIONLOCS/<category>/*.mat in it or in '
        'trainSet/ (the test set has no gaze).'
      )
    pictures = _files(root / 'Stimuli', report, raw_lib.PICTURE_TYPES)
    gaze = _files(root / 'FIXATIONLOCS', report, ('.mat',))
    has_maps = (root / 'FIXATIONMAPS').is_dir()
    saliency = _files(root / 'FIXATIONMAPS', report, raw_lib.PICTURE_TYPES)
    report.found['pictures'] = len(pictures)
    samples = []
    for name in sorted(pictures.keys() | gaze.keys()):
      if name not in pictures:
        detail = f'no {name}.* in Stimuli/'
        report.drop(f'{name}/pure', 'missing picture', detail)
      elif name not in gaze:
        detail = f'no {name}.mat in FIXATIONLOCS/'
        report.drop(f'{name}/pure', 'missing fixations', detail)
      elif has_maps and name not in saliency:
        detail = f'no {name}.* in FIXATIONMAPS/'
        report.drop(f'{name}/pure', 'missing map', detail)
      else:
        samples.append(
          raw_lib.Sample(
            image_id=name,
            condition='pure',
            text='',
            image=pictures[name],
            saliency=saliency.get(name),
            fixations=functools.partial(read_locations, gaze[name]),
            sigma=sigma,
          )
        )
    return samples


def _files(
  folder: pathlib.Path, report: problems.Report, types: tuple[str, ...]
) -> dict[str, pathlib.Path]:
  """Returns files by <category>/<number>.

  Categories hold a folder Output with pictures for display: passed over.
  """
  return raw_lib.files_by_stem(folder, report, types=types, skip=('Output',))


def read_locations(
  path: pathlib.Path,
) -> tuple[np.ndarray, tuple[int, int]]:
  """Returns the fixated pixels i32 [N, 2] of a `fixLocs`, and its size.

  Raises:
    problems.Dropped: where the file cannot be used.
  """
  content = mat.load(path)
  return mat.matrix_points(mat.variable(content, 'fixLocs', path), path)
