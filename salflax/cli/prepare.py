"""Reads a dataset's published files once and stores what is sound in them.

    salflax prepare --dataset=sjtu_tis --raw=/data/SJTU-TIS
    salflax prepare --dataset=folder --name=mine --raw=/data/mine

What there is and what is not used, each with its reason, is printed and
stored beside the data as report.json and report.csv. docs/data.md shows the
folders that are expected.
"""

import functools
from typing import Any

from absl import flags

from salflax import cli, data
from salflax.core import spec

_NEEDED = functools.partial(flags.DEFINE_string, required=True)
_SIGMA = functools.partial(flags.DEFINE_float, lower_bound=0.1)
_KEEP_INSIDE = (
  'Where a fixation lies outside its image, or has no position (a blink), '
  'leave out the fixation; by default the sample is left out.'
)
_BLUR = (
  'Blur of maps made of fixations, in pixels. Default: 24 for osie and '
  'mit1003, 19 for SALICON, 40 for cat2000, 3 % of the longer side for fiwi '
  'and folder. sjtu_tis has maps of its own.'
)


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
  )


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

  _check(options.dataset, options.name, options.sigma)
  done = prepare.prepare(
    data.DATASETS[options.dataset](),
    options.raw,
    options.data_dir,
    name=options.name,
    overwrite=options.overwrite,
    keep_inside=options.keep_inside,
    sigma=options.sigma,
  )
  print(describe(done))


if __name__ == '__main__':
  cli.run(define_flags, execute)
