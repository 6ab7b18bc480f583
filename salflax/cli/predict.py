"""Predicts where people look in pictures, told one sentence or another.

    python -m salflax.cli.predict --run=runs/tsn --image=street.jpg \\
        --text='the red umbrella' --out=maps
    python -m salflax.cli.predict --run=runs/tsn --image=a.jpg,pictures/ \\
        --text='' --text='the dog, asleep' --out=maps

Every picture is predicted with every sentence. Per map it writes <name>.npy
(the network's output at the picture's size, in [0, 1] where the network ends in
a sigmoid), <name>.png (16 bits, scaled to its maximum) and <name>_overlay.png;
predictions.json says which name is which picture and sentence.
"""

import os
import pathlib
from typing import Any

from absl import flags

from salflax import cli


def define_flags() -> None:
  """Defines the options; not on import, as commands share their names."""
  flags.DEFINE_string('run', None, 'Folder of a run.')
  flags.DEFINE_string('stage', '', 'Its stage; the last by default.')
  flags.DEFINE_multi_string(
    'image', None, 'Pictures or folders of them, joined by commas; may repeat.'
  )
  flags.DEFINE_multi_string(
    'text', None, 'What people are told; may repeat. Empty: free viewing.'
  )
  flags.DEFINE_string('texts', None, 'File of sentences, one a line.')
  flags.DEFINE_string('out', 'predictions', 'Folder for the maps.')
  flags.DEFINE_enum(
    'dtype', 'float32', ['float16', 'float32'], 'Of the .npy files.'
  )
  flags.DEFINE_enum('bits', '16', ['8', '16'], 'Of the .png maps.')
  flags.DEFINE_integer(
    'batch_size', 8, 'Maps that go through the network at once.', lower_bound=1
  )


def pictures(given: list[str]) -> list[pathlib.Path]:
  """Returns the picture files that the arguments name, folders opened.

  Raises:
    FileNotFoundError: for a path that is not there, or a folder without
      pictures.
  """
  from salflax.predict import predictor as predictor_lib

  found = []
  for text in given:
    # A comma may be part of a name.
    parts = [text] if os.path.exists(text) else text.split(',')
    for part in filter(None, map(str.strip, parts)):
      path = pathlib.Path(part)
      if path.is_dir():
        inside = [
          p
          for p in sorted(path.iterdir())
          if p.suffix.lower() in predictor_lib.SUFFIXES and p.is_file()
        ]
        if not inside:
          raise FileNotFoundError(f'No pictures in the folder {path}.')
        found += inside
      elif path.is_file():
        found.append(path)
      else:
        raise FileNotFoundError(f'No such picture: {path}')
  return found


def names(paths: list[pathlib.Path], num_texts: int) -> list[list[str]]:
  """Returns a name for each picture and sentence, all different.

  The picture's own name; with its place where two are alike, and with the
  number of the sentence where there are several.
  """
  taken, rows = set(), []

  def unique(name):
    tried, k = name, 2
    while tried in taken:
      tried, k = f'{name}-{k}', k + 1
    taken.add(tried)
    return tried

  for path in paths:
    stem = unique(path.stem)
    if num_texts == 1:
      rows.append([stem])
    else:
      rows.append([unique(f'{stem}_text{k}') for k in range(num_texts)])
  return rows


def _texts(options) -> list[str]:
  texts = list(options.text or ())
  if options.texts:
    with open(options.texts, encoding='utf-8') as f:
      texts += [line.strip() for line in f if line.strip()]
  return texts or ['']


def _check_overwriting(folder, paths, named) -> None:
  """Raises ValueError where a map would replace a picture it is made of."""
  given = {path.resolve() for path in paths}
  for name in (name for row in named for name in row):
    for suffix in ('.png', '_overlay.png'):
      if (path := folder / f'{name}{suffix}').resolve() in given:
        raise ValueError(
          f'{path} would be overwritten: it is one of the pictures. Give '
          'another folder by --out.'
        )


def _write(options, folder, name, image, saliency) -> None:
  import numpy as np
  from PIL import Image

  from salflax.core import files
  from salflax.predict import predictor as predictor_lib
  from salflax.report import plots

  with files.replacing(folder / f'{name}.npy') as path:
    np.save(path, saliency.astype(options.dtype))
  grey = predictor_lib.quantise(saliency, bits=int(options.bits))
  with files.replacing(folder / f'{name}.png') as path:
    Image.fromarray(grey).save(path)
  with files.replacing(folder / f'{name}_overlay.png') as path:
    Image.fromarray(plots.overlay(image, saliency)).save(path)


def execute(options: Any) -> None:
  """Predicts every picture with every sentence, and writes the maps."""
  from salflax.evaluate import rows as rows_lib
  from salflax.predict import predictor as predictor_lib

  if not options.run or not options.image:
    raise ValueError('Give --run and --image.')
  paths, texts = pictures(options.image), _texts(options)
  named = names(paths, len(texts))
  folder = pathlib.Path(options.out)
  _check_overwriting(folder, paths, named)
  predictor = predictor_lib.Predictor.load(options.run, stage=options.stage)
  jobs = [
    (path, text, name)
    for path, row in zip(paths, named)
    for text, name in zip(texts, row)
  ]
  maps = predictor.batch(
    ((path, text) for path, text, _ in jobs),
    # One picture alone need not wait for the work of a full batch.
    batch_size=min(options.batch_size, len(jobs)),
  )
  listed = []
  for (path, text, name), saliency in zip(jobs, maps):
    _write(options, folder, name, predictor_lib.read_picture(path), saliency)
    listed.append({'name': name, 'image': str(path), 'text': text})
    said = f' {text!r}' if text else ''
    print(f'{folder / name}.npy, .png, _overlay.png  <-  {path}{said}')
  rows_lib.write_json(folder / 'predictions.json', listed)


def run() -> None:
  """The command line."""
  cli.run(define_flags, execute)


if __name__ == '__main__':
  run()
