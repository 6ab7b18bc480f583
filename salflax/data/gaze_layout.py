"""How to read an eye tracker's tables: columns, units, place on the screen."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from salflax.core import spec
from salflax.data import trackers


def _norm(xy, frame):
  # The far edge belongs to the last pixel.
  xy = np.where(xy == 1, 1 - 1e-9, xy)
  return xy * frame - 0.5


# Positions f64 [N, 2], (x, y), and the frame's (width, height) -> pixels from
# the frame's top left corner, of which the first is 0.
UNITS = {
  'px': lambda xy, frame: xy,
  'norm': _norm,
  'norm_up': lambda xy, frame: _norm(xy * (1, -1) + (0, 1), frame),
  'centre_px': lambda xy, frame: xy * (1, -1) + (frame - 1) / 2,
  'centre_norm': lambda xy, frame: _norm((xy * (1, -1) + 1) / 2, frame),
  'centre_height': lambda xy, frame: xy * (1, -1) * frame[1] + (frame - 1) / 2,
}
FITS = ('own', 'contain', 'stretch')


def to_pixels(
  xy: np.ndarray,
  size: tuple[int, int],
  *,
  units: str,
  screen: Sequence[int] | None = None,
  fit: str = 'own',
) -> np.ndarray:
  """Converts positions f64 [N, 2], (x, y), to pixels of the image.

  Args:
    xy: positions as recorded.
    size: (height, width) of the image.
    units: one of `UNITS`.
    screen: (width, height) of the screen, in whose middle the image was; None
      where positions are those on the image itself.
    fit: size of the image on the screen: its own, the greatest that is all
      seen ('contain'), or that of the screen ('stretch').
  """
  own = np.array(size[::-1], float)
  frame = own if screen is None else np.array(screen, float)
  pixels = UNITS[units](xy, frame)
  if screen is None:
    return pixels
  scale = {'own': np.ones(2), 'stretch': frame / own}
  scale['contain'] = np.full(2, (frame / own).min())
  corner = (frame - own * scale[fit]) / 2
  return (pixels + 0.5 - corner) / scale[fit] - 0.5


@dataclasses.dataclass(frozen=True)
class Layout:
  """How to read tables: the options of `--dataset=folder`, checked.

  Attributes:
    tracker: one of `trackers.TRACKERS`.
    columns: names of columns by role, before those of the tracker.
    units: one of `UNITS`; '' goes by the columns' names, then the tracker.
    time: one of `trackers.MILLISECONDS`; '' likewise.
    screen: (width, height) in pixels; see `to_pixels`.
    fit: one of `FITS`.
    detect: detector of fixations in samples; '' for a table of fixations.
    tables: pattern of the tables' paths below the raw folder.
  """

  tracker: str = 'plain'
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  units: str = ''
  time: str = ''
  screen: Sequence[int] | None = None
  fit: str = 'own'
  detect: str = ''
  tables: str = ''

  def __post_init__(self):
    spec.lookup('tracker', trackers.TRACKERS, self.tracker)
    for role in self.columns:
      spec.lookup('role of a column', trackers.ROLES, role)
    for kind, table in (('units', UNITS), ('time', trackers.MILLISECONDS)):
      if getattr(self, kind):
        spec.lookup(kind, table, getattr(self, kind))
    spec.lookup('fit', FITS, self.fit)
    if self.fit != 'own' and self.screen is None:
      raise ValueError(f'--fit={self.fit} needs the size of the --screen.')

  def names(self) -> trackers.Names:
    """Lists the names to look for by role."""
    names = dict.fromkeys(trackers.ROLES, ())
    names |= trackers.TRACKERS[self.tracker].names(samples=bool(self.detect))
    return names | {role: (name,) for role, name in self.columns.items()}
