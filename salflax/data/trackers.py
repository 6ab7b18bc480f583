"""What eye trackers' exports call their columns, and in what they measure."""

import dataclasses
import difflib
import pathlib
import re
import tomllib
from collections.abc import Mapping, Sequence

from salflax.core import spec

Names = Mapping[str, Sequence[str]]
# An experiment names the column of its images itself.
IMAGE = ('image', 'image_file', 'image_name', 'imagefile', 'stimulus')
IMAGE += ('stim', 'stim_file', 'picture', 'img', 'filename')
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
    usual = {'image': IMAGE, **self.columns}
    return {**usual, **(self.samples if samples else {})}


_FILE = pathlib.Path(__file__).with_suffix('.toml')
TRACKERS = {
  name: Tracker(**options)
  for name, options in tomllib.loads(_FILE.read_text('utf-8')).items()
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
