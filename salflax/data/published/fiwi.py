"""FiWI, Fixations in Webpage Images: 149 pages, free viewing."""

import pathlib

from salflax.data import builder, problems
from salflax.data import raw as raw_lib


class Fiwi(builder.GazeBuilder):
  """Pages and fixation pictures of FiWI (Shen and Zhao, ECCV 2014)."""

  SUMMARY = '149 web pages, free viewing, 11 observers, all 5 seconds.'
  HOMEPAGE = 'https://www-users.cse.umn.edu/~qzhao/webpage_saliency.html'
  LICENSE = 'None known.'

  @staticmethod
  def samples(
    raw: pathlib.Path, report: problems.Report, *, sigma: float | None = None
  ) -> list[raw_lib.Sample]:
    """Returns where each sample lies; see `builder.GazeBuilder.samples`.

    Args:
      raw: folder with stimuli/ and eyeMaps/all5/.
      report: takes what cannot be used.
      sigma: of the maps made of the fixations, in pixels;
        `maps.default_sigma` if None.
    """
    gaze_folder = raw / 'eyeMaps' / 'all5'
    if not (raw / 'stimuli').is_dir() or not gaze_folder.is_dir():
      raise FileNotFoundError(
        f'{raw} is not FiWI: expected stimuli/*.png and eyeMaps/all5/*.png '
        'in it.'
      )
    types = raw_lib.PICTURE_TYPES
    pictures = raw_lib.files_by_stem(raw / 'stimuli', report, types=types)
    gaze = raw_lib.files_by_stem(gaze_folder, report, types=types)
    report.found['pictures'] = len(pictures)
    for name in sorted(pictures.keys() - gaze.keys()):
      detail = f'no {name}.* in eyeMaps/all5/'
      report.drop(f'{name}/pure', 'missing fixations', detail)
    for name in sorted(gaze.keys() - pictures.keys()):
      detail = f'no {name}.* in stimuli/'
      report.drop(f'{name}/pure', 'missing picture', detail)
    return [
      raw_lib.Sample(
        image_id=name,
        condition='pure',
        text='',
        image=pictures[name],
        fixations=gaze[name],
        sigma=sigma,
      )
      for name in sorted(pictures.keys() & gaze.keys())
    ]
