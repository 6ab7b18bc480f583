"""Reads a dataset's published files once and stores what is sound in them.

    salflax prepare --dataset=sjtu_tis --raw=/data/SJTU-TIS
    salflax prepare --dataset=folder --name=mine --raw=/data/mine

What there is and what is not used, each with its reason, is printed and
stored beside the data as report.json and report.csv. docs/data.md shows the
folders that are expected.
"""

import sys
from typing import Any

from absl import flags

from salflax import cli, data
from salflax.core import spec


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command line."""
  names = ', '.join(data.DATASETS)
  flags.DEFINE_string(
    'dataset', None, f'One of: {names}.', required=True, flag_values=values
  )
  flags.DEFINE_string(
    'raw',
    None,
    'Folder with the published files.',
    required=True,
    flag_values=values,
  )
  flags.DEFINE_string(
    'data_dir',
    str(data.default_data_dir()),
    'Where prepared datasets lie; $SALFLAX_DATA or ~/salflax_data by default.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'name',
    '',
    "With --dataset=folder: load it as 'folder:NAME' later.",
    flag_values=values,
  )
  flags.DEFINE_float(
    'sigma',
    None,
    'Blur of maps made of fixations, in pixels. Default: 24 for osie and '
    'mit1003, 19 for SALICON, 40 for cat2000, 3 % of the longer side for fiwi '
    'and folder. sjtu_tis has maps of its own.',
    lower_bound=0.1,
    flag_values=values,
  )
  flags.DEFINE_bool(
    'keep_inside',
    False,
    'Where a fixation lies outside its image, or has no position (a blink), '
    'leave out the fixation; by default the sample is left out.',
    flag_values=values,
  )
  flags.DEFINE_bool(
    'overwrite', False, 'Replace what was prepared before.', flag_values=values
  )


def prepare(
  dataset: str,
  raw: str,
  data_dir: str,
  *,
  name: str = '',
  sigma: float | None = None,
  keep_inside: bool = False,
  overwrite: bool = False,
) -> int:
  """Prepares a dataset, prints what it holds, and returns the exit status.

  Args:
    dataset: key of `data.DATASETS`.
    raw: folder with the published files.
    data_dir: where prepared datasets lie.
    name: name of a user's own folder.
    sigma: blur in pixels of maps made of fixations; None for the default.
    keep_inside: leave out fixations outside an image or without a position, not
      the sample.
    overwrite: replace what was prepared before.
  """
  try:
    _check(dataset, name, sigma)
    from salflax.data import prepare as prepare_lib

    done = prepare_lib.prepare(
      data.DATASETS[dataset](),
      raw,
      data_dir,
      name=name,
      overwrite=overwrite,
      keep_inside=keep_inside,
      sigma=sigma,
    )
  except (ValueError, OSError, RuntimeError) as e:
    print(f'Not prepared: {e}', file=sys.stderr)
    return 1
  print(describe(done))
  return 0


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


def execute(options: Any) -> int:
  """Prepares the data set that the options name; returns the exit code."""
  names = 'dataset raw data_dir name sigma keep_inside overwrite'.split()
  return prepare(**{n: getattr(options, n) for n in names})


def run() -> None:
  """The command line."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
