"""Predicts where people look in images, given one sentence or another.

    salflax predict --run=runs/tsn --image=street.jpg \\
        --text='the red umbrella' --out=maps
    salflax predict --run=runs/tsn --image=a.jpg,images/ \\
        --text='' --text='the dog, asleep' --out=maps

Every image is predicted with every sentence. A map is written as <name>.npy
(the network's output at the image's size, in [0, 1] where the network ends in
a sigmoid), <name>.png (16 bits, scaled to its maximum) and <name>_overlay.png;
predictions.json says which name is which image and sentence. Images that cannot
be predicted are listed at the end, and the exit code is then 1.
"""

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from absl import flags

from salflax import cli

# Bytes of a name that are left beside `_overlay`, a temporary mark and `.png`,
# of the 255 that a file may have.
MAX_NAME = 220


def define_flags(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  text, several = flags.DEFINE_string, flags.DEFINE_multi_string
  images = 'Images or folders of images, joined by commas; may repeat.'
  sentence = (
    "Sentence that people read before they look; may repeat. '' is free "
    'viewing, the default.'
  )
  types = ['float16', 'float32']
  size = 'Maps that go through the network at once.'
  cli.define(
    values,
    (text, 'run', None, 'Folder of a run.'),
    (text, 'stage', '', 'Stage of the run; by default the last.'),
    (several, 'image', None, images),
    (several, 'text', None, sentence),
    (text, 'texts', None, 'File of sentences, one a line.'),
    (text, 'out', 'predictions', 'Folder for the maps.'),
    (flags.DEFINE_enum, 'dtype', 'float32', types, 'Type of the .npy files.'),
    (flags.DEFINE_enum, 'bits', '16', ['8', '16'], 'Bits of the .png maps.'),
    (flags.DEFINE_integer, 'batch_size', 8, size, 1),
  )


def image_files(arguments: Sequence[str]) -> list[pathlib.Path]:
  """Returns the image files that arguments name, folders opened.

  What is left out of a folder is said on standard error.

  Raises:
    FileNotFoundError: for a path that is not there, or a folder without
      images.
  """
  paths = []
  for text in arguments:
    # A comma may be part of a name.
    parts = [text] if os.path.exists(text) else text.split(',')
    for part in filter(None, map(str.strip, parts)):
      path = pathlib.Path(part)
      if path.is_dir():
        paths += _inside(path)
      elif path.is_file():
        paths.append(path)
      else:
        raise FileNotFoundError(f'No such image: {path}')
  return paths


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the images of a folder in the order of their names."""
  from salflax.predict import predictor as predictor_lib

  suffixes = predictor_lib.SUFFIXES
  entries = sorted(p for p in folder.iterdir() if p.name[0] != '.')
  images = [p for p in entries if p.suffix.lower() in suffixes and p.is_file()]
  others = [p.name + '/' * p.is_dir() for p in entries if p not in images]
  if not images:
    raise FileNotFoundError(
      f'No images in the folder {folder}: looked for {", ".join(suffixes)}'
      + (f', found {_some(others)}.' if others else '; it is empty.')
    )
  if others:
    cli.say(f'{folder}: {len(others)} left out: {_some(others)}.')
  return images


def _some(names: Sequence[str]) -> str:
  more = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return ', '.join(names[:5]) + more


def map_names(paths: Sequence[pathlib.Path], num_texts: int) -> list[list[str]]:
  """Returns a name for each image and sentence, all different.

  The image's own name, cut where a file system would refuse it; with its place
  where two are alike, and with the number of the sentence where there are
  several.
  """
  taken, rows = set(), []

  def unique(name):
    candidate, k = name, 2
    while candidate in taken:
      candidate, k = f'{name}-{k}', k + 1
    taken.add(candidate)
    return candidate

  for path in paths:
    stem = unique(os.fsdecode(os.fsencode(path.stem)[:MAX_NAME]))
    if num_texts == 1:
      rows.append([stem])
    else:
      rows.append([unique(f'{stem}_text{k}') for k in range(num_texts)])
  return rows


def _texts(options) -> list[str]:
  texts = list(options.text or ())
  if options.texts:
    try:
      lines = pathlib.Path(options.texts).read_text('utf-8-sig').splitlines()
    except UnicodeDecodeError as e:
      raise ValueError(f'--texts={options.texts} is not UTF-8: {e}.') from e
    texts += [line.strip() for line in lines if line.strip()]
  return texts or ['']


def _check_overwriting(folder, paths, rows) -> None:
  """Raises ValueError where a map would replace an image it is made of."""
  sources = {path.resolve() for path in paths}
  for name in (name for row in rows for name in row):
    for suffix in ('.png', '_overlay.png'):
      if (path := folder / f'{name}{suffix}').resolve() in sources:
        raise ValueError(
          f'{path} would be overwritten: it is one of the images. Name another '
          'folder by --out.'
        )


def _write(options, folder, name, image, saliency) -> None:
  import numpy as np
  from PIL import Image

  from salflax.core import files
  from salflax.predict import predictor as predictor_lib
  from salflax.report import plots

  if not np.isfinite(saliency).all():
    raise ValueError('the map is not finite: the weights are broken.')
  with files.replacing(folder / f'{name}.npy') as path:
    np.save(path, saliency.astype(options.dtype))
  grey = predictor_lib.quantise(saliency, bits=int(options.bits))
  with files.replacing(folder / f'{name}.png') as path:
    Image.fromarray(grey).save(path)
  with files.replacing(folder / f'{name}_overlay.png') as path:
    Image.fromarray(plots.overlay(image, saliency)).save(path)


def _predictions(predictor, jobs, failures, batch_size) -> Iterator[tuple]:
  """Yields (image, job, map); an image that is broken fails alone."""
  from salflax.predict import predictor as predictor_lib

  waiting = []

  def pairs():
    for path, text, name in jobs:
      try:
        image = predictor_lib.read_picture(path)
      except (ValueError, OSError) as e:
        failures.setdefault(path, str(e))
        continue
      waiting.append((image, (path, text, name)))
      yield image, text

  for saliency in predictor.predict(pairs(), batch_size=batch_size):
    yield *waiting.pop(0), saliency


def _utf8(name: str | os.PathLike) -> str:
  """Returns a file's name with the bytes escaped that are not UTF-8."""
  return os.fsencode(name).decode(errors='backslashreplace')


def execute(options: Any) -> int:
  """Predicts every image with every sentence, and writes the maps."""
  from salflax.evaluate import rows as rows_lib
  from salflax.predict import predictor as predictor_lib

  if not options.run or not options.image:
    raise cli.UsageError('Give --run and --image.')
  paths, texts = image_files(options.image), _texts(options)
  rows = map_names(paths, len(texts))
  folder = pathlib.Path(options.out)
  _check_overwriting(folder, paths, rows)
  predictor = predictor_lib.Predictor.load(options.run, stage=options.stage)
  jobs = [
    (path, text, name)
    for path, row in zip(paths, rows)
    for text, name in zip(texts, row)
  ]
  failures = {}
  # One image alone need not wait for the work of a full batch.
  batch_size = min(options.batch_size, len(jobs))
  predictions = _predictions(predictor, jobs, failures, batch_size)
  written = []
  try:
    for image, (path, text, name), saliency in predictions:
      try:
        _write(options, folder, name, image, saliency)
      except ValueError as e:
        failures.setdefault(path, f'{path}: {e}')
        continue
      written.append({'name': _utf8(name), 'image': _utf8(path), 'text': text})
      sentence = f' {text!r}' if text else ''
      print(f'{folder / name}.npy, .png, _overlay.png  <-  {path}{sentence}')
  finally:
    if written:
      rows_lib.write_json(folder / 'predictions.json', written)
  if failures:
    cli.say(f'{len(failures)} images failed:', *failures.values())
  return cli.FAILED if failures else cli.DONE


def run() -> None:
  """Runs the command."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
