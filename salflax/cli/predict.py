"""Predicts where people look in images, given one sentence or another.

    salflax predict street.jpg "the red umbrella"
    salflax predict --image=images/ --text='' --text='the dog, asleep' \\
        --run=runs/tsn --out=maps --write=npy,overlay --contours=25,50,75
    salflax predict pairs.csv --write=logdensity

Arguments that name images come first: files, folders, patterns ('in/*.jpg'),
or tables, .csv or .jsonl, with columns image and text. Other arguments are
sentences; --text says so of any. Every image is predicted with every sentence.
Without --run it is the model that ships with salflax.

Written at each image's own size, under its name:

  npy         <name>.npy: the network's output
  png         <name>.png: 16 bits, scaled to its maximum
  overlay     <name>_overlay.png: laid over the image
  logdensity  <name>_logdensity.npy: natural logarithm of a density; sums to 1

predictions.json says which name is which image and sentence. What cannot be
predicted is listed at the end, and the exit code is then 1.

Many hosts share the work through a folder that all of them see: started with
--processes=4 and --process=0 to 3, host 1 predicts the second, sixth, tenth ...
map, lists its own failures and writes predictions.1-of-4.json. They need not
run at the same time.
"""

import pathlib
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

from absl import flags

from salflax import cli
from salflax.core import paths

# Endings of the files, by what is written.
WRITE = {
  'npy': '.npy',
  'png': '.png',
  'overlay': '_overlay.png',
  'logdensity': '_logdensity.npy',
}


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  text, several = flags.DEFINE_string, flags.DEFINE_multi_string
  images = 'Images, folders, patterns or tables, joined by commas; may repeat.'
  sentence = (
    "Sentence that people read before they look; may repeat. '' is free "
    'viewing, the default.'
  )
  run = 'Folder of a run or a released model, or a name on the Hub.'
  types, kinds = ['float16', 'float32'], f'Some of {", ".join(WRITE)}.'
  size = 'Maps that go through the network at once.'
  shares = 'Percentages of the gaze whose smallest areas are outlined.'
  cli.define(
    values,
    (text, 'run', '', run),
    (text, 'stage', '', 'Stage of the run; by default the last.'),
    (several, 'image', None, images),
    (several, 'text', None, sentence),
    (text, 'texts', None, 'File of sentences, one a line.'),
    (text, 'out', 'predictions', 'Folder for the maps.'),
    (flags.DEFINE_list, 'write', ['npy', 'png', 'overlay'], kinds),
    (flags.DEFINE_enum, 'dtype', 'float32', types, 'Type of the .npy maps.'),
    (flags.DEFINE_enum, 'bits', '16', ['8', '16'], 'Bits of the .png maps.'),
    (text, 'colours', 'turbo', "Overlay: one of matplotlib's colour maps."),
    (flags.DEFINE_float, 'opacity', 0.7, 'Overlay: of the heat.', 0, 1),
    (flags.DEFINE_list, 'contours', [], f'Overlay: {shares}'),
    (flags.DEFINE_integer, 'batch_size', 8, size, 1),
    (flags.DEFINE_integer, 'processes', 1, 'Hosts that share the work.', 1),
    (flags.DEFINE_integer, 'process', 0, 'Which of them this is, from 0.', 0),
  )


def _texts(options) -> list[str]:
  texts = list(options.text or ())
  if options.texts:
    try:
      lines = pathlib.Path(options.texts).read_text('utf-8-sig').split('\n')
    except UnicodeDecodeError as e:
      raise ValueError(f'--texts={options.texts} is not UTF-8: {e}.') from e
    texts += [line.strip() for line in lines if line.strip()]
  return texts


def _jobs(options) -> Any:
  """Collects images and sentences of the options and other arguments."""
  from salflax.predict import inputs

  arguments, count = list(options.image or ()), options['image'].present
  flagged, plain = arguments[:count], arguments[count:]
  # The first argument is an image: one that is not there is no sentence.
  first = 0 if flagged else 1
  images = flagged + plain[:first]
  images += [a for a in plain[first:] if inputs.is_image(a)]
  sentences = [a for a in plain[first:] if not inputs.is_image(a)]
  if not images:
    raise cli.UsageError(
      'Give an image and a sentence: salflax predict street.jpg "the red '
      'umbrella".'
    )
  return inputs.collect(images, sentences + _texts(options))


def _check_looks(options) -> None:
  """Raises ValueError for what cannot be written or drawn."""
  import matplotlib

  from salflax.core import spec
  from salflax.data import tables

  for what in options.write or ['']:
    spec.lookup('kind of file in --write', WRITE, what)
  spec.lookup('colour map', dict(matplotlib.colormaps), options.colours)
  for share in options.contours:
    if not 0 < (tables.number(share) or 0) < 100:
      raise ValueError(f'--contours are percentages, found {share!r}.')


def _check_overwriting(folder, pairs, names) -> None:
  """Raises ValueError where a map would replace an image it is made of."""
  if folder.exists() and not folder.is_dir():
    raise cli.UsageError(f'--out={folder} is a file: name a folder.')
  sources = {path.resolve() for path, _ in pairs}
  for name in names:
    for suffix in ('.png', '_overlay.png'):
      if (path := folder / f'{name}{suffix}').resolve() in sources:
        raise ValueError(
          f'{path} would be overwritten: it is one of the images. Name another '
          'folder by --out.'
        )


def _overlay(options, path, saliency) -> Any:
  from salflax.predict import predictor as predictor_lib
  from salflax.report import figures, plots

  image = predictor_lib.read_image(path)
  overlay = plots.overlay(
    image, saliency, opacity=options.opacity, colours=options.colours
  )
  shares = [float(share) / 100 for share in options.contours]
  return figures.contours(overlay, saliency, shares)


def _write(options, folder, name, path, saliency) -> list[str]:
  """Writes the files of a map; returns their endings."""
  import numpy as np
  from PIL import Image

  from salflax.core import files
  from salflax.predict import benchmarks
  from salflax.predict import predictor as predictor_lib

  make = {
    'npy': lambda: saliency.astype(options.dtype),
    'png': lambda: predictor_lib.quantise(saliency, bits=int(options.bits)),
    'overlay': lambda: _overlay(options, path, saliency),
    'logdensity': lambda: benchmarks.log_density(saliency).astype('float32'),
  }
  kinds = dict.fromkeys(options.write)
  for kind in kinds:
    with files.replacing(folder / f'{name}{WRITE[kind]}') as temporary:
      if temporary.suffix == '.npy':
        np.save(temporary, make[kind]())
      else:
        Image.fromarray(make[kind]()).save(temporary)
  return [WRITE[kind] for kind in kinds]


def _predict(options, predictor, pairs, names, failures) -> Iterator[dict]:
  """Writes the maps; yields what predictions.json lists of each."""
  import tqdm

  # A few images need not wait for the work of a full batch, nor for a program
  # of their own number.
  size = options.batch_size if len(pairs) >= options.batch_size else 1
  maps = predictor.predict(pairs, batch_size=size, return_errors=True)
  alone = {'disable': True} if len(pairs) == 1 else {}
  folder = paths.path(options.out)
  bar = tqdm.tqdm(maps, 'Predicting', len(pairs), unit='image', **alone)
  for saliency, name, (path, text) in zip(bar, names, pairs):
    try:
      if isinstance(saliency, Exception):
        raise saliency
      endings = _write(options, folder, name, path, saliency)
    except (ValueError, OSError) as e:
      failures.append(str(e))
      continue
    sentence = f' {textwrap.shorten(text, 60)!r}' if text else ''
    line = f'{folder / name}{", ".join(endings)}  <-  {path}{sentence}'
    bar.write(line, file=sys.stdout)
    yield {
      'name': cli.utf8(name),
      'image': cli.utf8(path),
      'text': cli.utf8(text),
      'endings': endings,
    }


def _share(options, jobs, names) -> tuple[Any, list[str]]:
  """Selects every n-th of the maps and of the faults, for one of n hosts."""
  own = slice(options.process, None, options.processes)
  return (
    jobs._replace(pairs=jobs.pairs[own], faults=jobs.faults[own]),
    names[own],
  )


def _write_listing(options, folder, written) -> None:
  """Writes which map is of what; lists of other numbers of hosts go."""
  from salflax.evaluate import map_names
  from salflax.evaluate import rows as rows_lib

  name, count = map_names.LISTING, options.processes
  if count > 1:
    name = f'predictions.{options.process}-of-{count}.json'
  for old in map_names.listings(folder):
    if count == 1 or not old.name.endswith(f'-of-{count}.json'):
      old.unlink(missing_ok=True)  # another host may have been quicker
  rows_lib.write_json(folder / name, written)


def execute(options: Any) -> int:
  """Predicts every image with every sentence, and writes the maps."""
  cli.keep_programs()
  from salflax.predict import inputs
  from salflax.predict import predictor as predictor_lib

  if options.process >= options.processes:
    raise cli.UsageError(
      f'--process={options.process}: {options.processes} processes are 0 to '
      f'{options.processes - 1}.'
    )
  jobs = _jobs(options)
  cli.say(*jobs.notes)
  with cli.checking_options():
    _check_looks(options)
  # Of all maps: hosts must not choose one name for two of them.
  names = inputs.names([path for path, _ in jobs.pairs])
  folder = paths.path(options.out)
  _check_overwriting(folder, jobs.pairs, names)
  jobs, names = _share(options, jobs, names)
  written, failures = [], list(jobs.faults)
  start = time.monotonic()
  try:
    if jobs.pairs:
      load = predictor_lib.Predictor.load
      predictor = load(options.run, stage=options.stage)
      start = time.monotonic()
      for row in _predict(options, predictor, jobs.pairs, names, failures):
        written.append(row)
  finally:
    if written:
      _write_listing(options, folder, written)
  seconds = time.monotonic() - start
  if written and not options.quiet:
    rate = len(written) / seconds
    cli.say(f'{len(written)} maps in {seconds:.1f} s, {rate:.1f} a second.')
  if failures:
    total = len(jobs.pairs) + len(jobs.faults)
    cli.say(f'{len(failures)} of {total} failed:', *dict.fromkeys(failures))
  return cli.FAILED if failures else cli.DONE


if __name__ == '__main__':
  cli.run(define_flags, execute)
