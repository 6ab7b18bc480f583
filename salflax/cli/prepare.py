"""Reads a dataset's published files once and stores what is sound in them.

  python -m salflax.cli.prepare --dataset=sjtu_tis --raw=/data/SJTU-TIS
  python -m salflax.cli.prepare --dataset=folder --name=mine --raw=/data/mine

What there is and what is not used, each with its reason, is printed and
stored beside the data as report.json and report.csv. docs/data.md shows the
folders that are expected.
"""

import sys

from absl import app, flags, logging

from salflax import data
from salflax.core import spec
from salflax.train import log


def define_flags() -> None:
  """Defines the command line."""
  logging.set_verbosity(logging.ERROR)
  names = ', '.join(data.DATASETS)
  flags.DEFINE_string('dataset', None, f'One of: {names}.', required=True)
  flags.DEFINE_string(
    'raw', None, 'Folder with the published files.', required=True
  )
  flags.DEFINE_string(
    'data_dir',
    str(data.default_data_dir()),
    'Where prepared datasets lie; $SALFLAX_DATA or ~/salflax_data by default.',
  )
  flags.DEFINE_string(
    'name', '', "With --dataset=folder: load it as 'folder:NAME' later."
  )
  flags.DEFINE_float(
    'sigma',
    None,
    'Blur of maps made of fixations, in pixels. Default: 24 for osie and '
    'mit1003, 19 for SALICON, 40 for cat2000, 3 % of the longer side for fiwi '
    'and folder. sjtu_tis has maps of its own.',
    lower_bound=0.1,
  )
  flags.DEFINE_bool(
    'keep_inside',
    False,
    'Where a fixation lies outside its image, or has no position (a blink), '
    'leave out the fixation; by default the sample is left out.',
  )
  flags.DEFINE_bool('overwrite', False, 'Replace what was prepared before.')


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
    _print(f'Not prepared: {e}', sys.stderr)
    return 1
  _print(describe(done), sys.stdout)
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
      f'Peak memory {log.peak_memory_mb():.0f} MB.',
    ]
  )


def _print(text: str, file) -> None:
  """Prints what a console can show: the work is done, whatever it cannot."""
  from salflax.data import problems

  text = '\n'.join(map(problems.printable, text.split('\n')))
  encoding = getattr(file, 'encoding', None) or 'utf-8'
  print(text.encode(encoding, 'backslashreplace').decode(encoding), file=file)


def main(argv: list[str]) -> int:
  """Runs the command."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
  logging.set_verbosity(logging.WARNING)
  names = 'dataset raw data_dir name sigma keep_inside overwrite'.split()
  return prepare(**{n: flags.FLAGS[n].value for n in names})


if __name__ == '__main__':
  define_flags()
  app.run(main)
