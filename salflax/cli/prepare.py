"""Reads a dataset's published files once and stores what is sound in them.

    salflax prepare --dataset=sjtu_tis --raw=/data/SJTU-TIS
    salflax prepare --dataset=folder --name=mine --raw=/data/mine
    salflax prepare --dataset=folder --name=a --raw=/data/a --tracker=tobii

What there is and what is not used, each with its reason, is printed and
stored beside the data as report.json and report.csv. docs/data.md shows the
folders that are expected, docs/own_data.md the tables of eye trackers.
"""

import functools
import re
from typing import Any

from absl import flags

from salflax import cli, data
from salflax.core import spec
from salflax.data import gaze_layout, trackers

_NEEDED = functools.partial(flags.DEFINE_string, required=True)
_SIGMA = functools.partial(flags.DEFINE_float, lower_bound=0.1)
_KEEP_INSIDE = (
  'Where a fixation lies outside its image, or has no position (a blink), '
  'leave out the fixation; by default the sample is left out.'
)
_BLUR = (
  'Blur of maps from fixations, in pixels. Default: 24 for osie and '
  'mit1003, 19 for SALICON, 40 for cat2000, 3 % of the longer side for fiwi '
  'and folder. sjtu_tis has maps of its own.'
)
# Attributes of `gaze_layout.Layout`: what --help says of them.
_GAZE = {
  'tracker': (
    'Read the tables of an eye tracker in place of fixations.csv: '
    f'{", ".join(trackers.TRACKERS)}. Each option from here on asks for it, '
    'too; plain is the tracker then.'
  ),
  'columns': (
    "Columns of the tables, 'image=NAME,x=NAME,y=NAME'; also "
    f'{", ".join(trackers.ROLES[3:])}.'
  ),
  'units': (
    f'Units of positions: {", ".join(gaze_layout.UNITS)}. By default what the '
    "columns' names say, else the tracker's."
  ),
  'screen': (
    'Size of the screen, as 1920x1080, where positions are on a screen with '
    'the image in its middle.'
  ),
  'fit': (
    'Size of the image on the screen: own, contain (as large as fits) or '
    'stretch.'
  ),
  'detect': (
    'The tables hold samples: detect fixations by idt or ivt, with options as '
    "in 'idt(dispersion=35, duration=100)' (pixels, ms). Needs pymovements."
  ),
  'time': f'Unit of the times of samples: {", ".join(trackers.MILLISECONDS)}.',
  'tables': "Which tables below --raw, as 'gaze/*.tsv'; all by default.",
}


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command line."""
  text, switch = flags.DEFINE_string, flags.DEFINE_bool
  where = 'Where prepared datasets lie; $SALFLAX_DATA or ~/salflax_data.'
  own = "With --dataset=folder: load it as 'folder:NAME' later."
  cli.define(
    values,
    (_NEEDED, 'dataset', None, f'One of: {", ".join(data.DATASETS)}.'),
    (_NEEDED, 'raw', None, 'Folder with the published files.'),
    (text, 'data_dir', str(data.default_data_dir()), where),
    (text, 'name', '', own),
    (_SIGMA, 'sigma', None, _BLUR),
    (switch, 'keep_inside', False, _KEEP_INSIDE),
    (switch, 'overwrite', False, 'Replace what was prepared before.'),
    *(
      (flags.DEFINE_list if name == 'columns' else text, name, None, about)
      for name, about in _GAZE.items()
    ),
  )


def _columns(pairs: list[str]) -> dict[str, str]:
  """Reads 'x=NAME,y=NAME'."""
  parts = [pair.partition('=') for pair in pairs]
  if wrong := [p for p in parts if not (p[1] and p[2].strip())]:
    raise ValueError(
      f"--columns is 'image=NAME,x=NAME,y=NAME', found {wrong[0][0]!r} without "
      'a name.'
    )
  return {role.strip(): name.strip() for role, _, name in parts}


def _screen(text: str) -> list[int]:
  """Reads '1920x1080'."""
  match = re.fullmatch(r'\s*(\d{2,5})\s*[x,*\u00d7]\s*(\d{2,5})\s*', text)
  if not match:
    raise ValueError(f'--screen is as 1920x1080, found {text!r}.')
  return [int(n) for n in match.groups()]


def gaze_options(options: Any) -> dict | None:
  """Reads how the tables of an eye tracker are; None where there are none.

  Raises:
    ValueError: an option does not fit.
  """
  values = {name: getattr(options, name) for name in _GAZE}
  values = {name: value for name, value in values.items() if value}
  if values and options.dataset != 'folder':
    raise ValueError(
      f'--{min(values)} is for --dataset=folder, not for {options.dataset}.'
    )
  for name, read in (('columns', _columns), ('screen', _screen)):
    if name in values:
      values[name] = read(values[name])
  gaze_layout.Layout(**values)
  return values or None


def _check(dataset: str, name: str, sigma: float | None) -> None:
  spec.lookup('dataset', data.DATASETS, dataset)
  if dataset == 'folder' and not name.isidentifier():
    raise ValueError(
      '--dataset=folder needs a --name of letters, digits and _, found '
      f'{name!r}.'
    )
  if dataset != 'folder' and name:
    raise ValueError(f'--name is for --dataset=folder, not for {dataset}.')
  if dataset == 'sjtu_tis' and sigma is not None:
    raise ValueError('--sigma: sjtu_tis has maps of its own.')


def describe(done) -> str:
  """Writes what to print of a `data.prepare.Prepared`."""
  from salflax.data import problems

  summary = done.summary
  dropped = [problems.Problem(**p) for p in summary['problems']]
  conditions = ', '.join(f'{k} {n}' for k, n in summary['conditions'].items())
  state = 'Prepared' if done.fresh else 'Already prepared, nothing to do'
  return '\n'.join(
    [
      problems.Report(summary['counts'], dropped).text(),
      f'{state}: {summary["samples"]} samples of {summary["images"]} '
      f'images ({conditions}).',
      f'{done.folder} holds them; report.json and report.csv in it name all '
      'that is not used.',
      *([] if done.fresh else ['--overwrite prepares it anew.']),
    ]
  )


def execute(options: Any) -> None:
  """Prepares the data set that the options name, and prints what it holds."""
  from salflax.data import prepare

  with cli.checking_options():
    _check(options.dataset, options.name, options.sigma)
    gaze = gaze_options(options)
  done = prepare.prepare(
    data.DATASETS[options.dataset](),
    options.raw,
    options.data_dir,
    name=options.name,
    overwrite=options.overwrite,
    keep_inside=options.keep_inside,
    sigma=options.sigma,
    **({'gaze': gaze} if gaze else {}),
  )
  print(describe(done))


if __name__ == '__main__':
  cli.run(define_flags, execute)
