"""FiWI, Fixations in Webpage Images: 149 pages (Shen and Zhao, ECCV 2014)."""

from salflax.data import pairing


def samples(raw, report, *, sigma=None):
  """Lists the samples.

  Args:
    raw: folder with stimuli/ and eyeMaps/all5/.
    sigma: blur of the maps from the fixations, in pixels;
      `maps.default_sigma` if None.
  """
  folders = raw / 'stimuli', raw / 'eyeMaps' / 'all5'
  if not all(map(pairing.is_folder, folders)):
    raise FileNotFoundError(
      f'{raw} is not FiWI: expected stimuli/*.png and eyeMaps/all5/*.png in it.'
    )
  images, gaze = (pairing.files_by_stem(f, report) for f in folders)
  report.counts['images'] = len(images)
  return pairing.pair_free_viewing(
    report,
    {
      'image': (images, '{}.* in stimuli/'),
      'fixations': (gaze, '{}.* in eyeMaps/all5/'),
    },
    sigma=sigma,
  )
