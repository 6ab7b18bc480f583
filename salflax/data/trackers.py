"""What eye trackers' exports call their columns, and in what they measure."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence

from salflax.core import spec

Names = Mapping[str, tuple[str, ...]]
# What a column may be for. `kind` tells fixations from saccades; rows of one
# `number` are one fixation; `inside` is false off the image.
ROLES = ('image', 'x', 'y', 'time', 'subject', 'condition')
ROLES += ('kind', 'number', 'inside')
MILLISECONDS = {'s': 1e3, 'ms': 1.0, 'us': 1e-3, 'ns': 1e-6}
# A unit that ends a column's name, after the coordinate system in Tobii's.
_UNIT = re.compile(
  r'\s*[\[(]\s*(?:DACS|ADCS|MCS)?\s*(px|pixels?|norm\w*|s|ms|[uµμ]s|ns)\s*[\])]$',
  re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Tracker:
  """An export, with the names of its columns.

  Attributes:
    columns: names of the columns of a table of fixations, by role; the first
      that is there counts.
    samples: names that differ in a table of samples.
    units: units of positions, as in `gaze_layout.UNITS`, where the names do
      not say them.
    time: unit of times, one of `MILLISECONDS`, where the names do not say it.
  """

  columns: Names
  samples: Names = dataclasses.field(default_factory=dict)
  units: str = 'px'
  time: str = 'ms'

  def names(self, *, samples: bool) -> Names:
    """Lists the names of a table of samples, or of fixations."""
    return {**self.columns, **(self.samples if samples else {})}


# An experiment names the column of its images itself.
_IMAGE = ('image', 'image_file', 'image_name', 'imagefile', 'stimulus')
_IMAGE += ('stim', 'stim_file', 'picture', 'img', 'filename')
_GAZE = ('left_gaze', 'right_gaze')

TRACKERS = {
  'plain': Tracker(
    {
      'image': _IMAGE,
      'x': ('x',),
      'y': ('y',),
      'time': ('time', 'timestamp', 't', 'onset'),
      'subject': ('subject', 'participant', 'observer'),
      'condition': ('condition',),
    }
  ),
  'tobii': Tracker(  # Pro Lab, and Studio before it
    {
      'image': (
        *('Presented Stimulus name', 'Presented Media name', 'MediaName'),
        *('Recording media name', 'Media name'),
      ),
      'x': ('Mapped fixation X', 'Fixation point X', 'FixationPointX'),
      'y': ('Mapped fixation Y', 'Fixation point Y', 'FixationPointY'),
      'time': ('Recording timestamp', 'RecordingTimestamp'),
      'subject': ('Recording name', 'Participant name', 'ParticipantName'),
      'kind': ('Eye movement type', 'GazeEventType'),
      'number': ('Eye movement type index', 'FixationIndex'),
    },
    {
      'x': ('Gaze point X', 'GazePointX'),
      'y': ('Gaze point Y', 'GazePointY'),
      'kind': (),
      'number': (),
    },
  ),
  'eyelink': Tracker(  # SR Research Data Viewer: fixation and sample report
    {
      'image': _IMAGE,
      'x': ('CURRENT_FIX_X',),
      'y': ('CURRENT_FIX_Y',),
      'time': ('CURRENT_FIX_START',),
      'subject': ('RECORDING_SESSION_LABEL',),
    },
    {
      'x': ('AVERAGE_GAZE_X', 'RIGHT_GAZE_X', 'LEFT_GAZE_X'),
      'y': ('AVERAGE_GAZE_Y', 'RIGHT_GAZE_Y', 'LEFT_GAZE_Y'),
      'time': ('TIMESTAMP',),
    },
  ),
  'pupil': Tracker(  # Pupil Cloud (Neon): Marker and Reference Image Mapper
    {
      'image': _IMAGE,
      'x': ('fixation x',),
      'y': ('fixation y',),
      'time': ('start timestamp',),
      'subject': ('recording id',),
      'number': ('fixation id',),
      'inside': (
        'fixation detected on surface',
        'fixation detected in reference image',
      ),
    },
    {
      'x': ('gaze position on surface x', 'gaze position in reference image x'),
      'y': ('gaze position on surface y', 'gaze position in reference image y'),
      'time': ('timestamp',),
      'number': (),
      'inside': (
        'gaze detected on surface',
        'gaze detected in reference image',
      ),
    },
    time='ns',
  ),
  'pupil_core': Tracker(  # Pupil Player: fixations_on_surface_<name>.csv
    {
      'image': _IMAGE,
      'x': ('norm_pos_x',),
      'y': ('norm_pos_y',),
      'time': ('start_timestamp',),
      'number': ('fixation_id',),
      'inside': ('on_surf', 'on_srf'),
    },
    {
      'x': ('x_norm',),
      'y': ('y_norm',),
      'time': ('gaze_timestamp',),
      'number': (),
    },
    units='norm_up',
    time='s',
  ),
  'smi': Tracker(  # BeGaze: event and raw data export
    {
      'image': ('Stimulus',),
      'x': ('Fixation Position X',),
      'y': ('Fixation Position Y',),
      'time': ('Event Start Trial Time',),
      'subject': ('Participant',),
      'kind': ('Category',),
    },
    {
      'x': ('Point of Regard Right X', 'Point of Regard Left X')
      + ('Point of Regard Binocular X', 'R POR X', 'L POR X'),
      'y': ('Point of Regard Right Y', 'Point of Regard Left Y')
      + ('Point of Regard Binocular Y', 'R POR Y', 'L POR Y'),
      'time': ('RecordingTime', 'Time'),
      'kind': (),
    },
  ),
  'psychopy': Tracker(  # events of ioHub, written as CSV
    {
      'image': _IMAGE,
      'x': ('average_gaze_x',),
      'y': ('average_gaze_y',),
      'time': ('time',),
      'subject': ('participant', 'session_id'),
    },
    {
      'x': ('gaze_x', *(f'{eye}_x' for eye in _GAZE)),
      'y': ('gaze_y', *(f'{eye}_y' for eye in _GAZE)),
    },
    units='centre_px',
    time='s',
  ),
  'bids': Tracker(  # sub-<subject>[_stim-<image>]_....tsv
    {
      'image': ('stim_file',),
      'x': ('x', 'x_coordinate'),
      'y': ('y', 'y_coordinate'),
      'time': ('onset', 'timestamp'),
      'subject': ('participant_id',),
      'kind': ('trial_type',),
    },
    {'kind': ()},
    time='s',
  ),
}


def split_unit(name: str) -> tuple[str, str]:
  """Splits 'Fixation point X [MCS px]' into its name, in small letters, and px.

  The unit is '' where there is none, else as in `MILLISECONDS`, or px or norm.
  """
  match = _UNIT.search(name)
  plain = (name[: match.start()] if match else name).strip().lower()
  unit = match[1].lower() if match else ''
  unit = 'norm' if unit.startswith('norm') else unit
  return plain, re.sub('^pixels?$', 'px', re.sub('^[µμ]', 'u', unit))


def find(head: Sequence[str], names: Sequence[str]) -> list[str]:
  """Finds the columns of the first name that a head has, units aside."""
  for name in names:
    same = [c for c in head if c.strip().lower() == name.lower()]
    if columns := same or [
      c for c in head if split_unit(c)[0] == split_unit(name)[0]
    ]:
      return columns
  return []


def fitting(head: Sequence[str]) -> list[str]:
  """Lists the options that read a table of this head."""
  for samples in (False, True):
    fits = []
    for name, tracker in TRACKERS.items():
      names = tracker.names(samples=samples)
      fits += [f'--tracker={name}'] * all(find(head, names[a]) for a in 'xy')
    if fits:
      return [f + ' --detect=idt' * samples for f in fits]
  return []


def misfit(head: Sequence[str], missing: Mapping[str, Sequence[str]]) -> str:
  """Says how to name the columns that a head lacks.

  Args:
    head: columns of a table.
    missing: names that were looked for, by role.
  """
  parts = [f'columns there are {spec.some([repr(c) for c in head], limit=12)}']
  for role, names in missing.items():
    near = [n for n in (_near(name, head) for name in names) if n]
    named = f' ({spec.some(list(names), limit=4)})' if names else ''
    nearest = f', the nearest is {near[0]!r}' if near else ''
    parts.append(f'none is {role}{named}{nearest}')
  if fits := fitting(head):
    parts.append(f'it fits {" or ".join(fits)}')
  roles = ','.join(f'{role}=NAME' for role in missing)
  return (
    '; '.join(parts) + f'. --columns={roles} names columns, --tracker those of '
    f'{", ".join(TRACKERS)}.'
  )


def _near(name: str, head: Sequence[str]) -> str:
  by_name = {c.strip().lower(): c for c in head}
  near = difflib.get_close_matches(name.lower(), by_name, n=1, cutoff=0.6)
  return by_name[near[0]] if near else ''
