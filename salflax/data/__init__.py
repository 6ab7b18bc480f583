"""Datasets by name: `load_source('sjtu_tis', 'train', data_dir)`."""

import functools
import importlib
import os
import pathlib
import tomllib
from collections.abc import Sequence
from typing import Any

from salflax.core import paths, spec

_TABLE = tomllib.loads(
  pathlib.Path(__file__).with_name('datasets.toml').read_text('utf-8')
)


def _dataset(name: str):
  """Makes the `pairing.Dataset` of a name, whose imports are slow."""
  from salflax.data import pairing

  about = dict(_TABLE[name])
  module, options = about.pop('module', name), about.pop('options', {})
  module = importlib.import_module(f'salflax.data.published.{module}')
  samples = functools.partial(module.samples, **options)
  return pairing.Dataset(name, samples, **about)


# Functions that return a `pairing.Dataset`.
DATASETS = {name: functools.partial(_dataset, name) for name in _TABLE}
# Drawn on the fly: nothing to prepare.
GENERATED = ('scenes',)


def default_data_dir() -> os.PathLike:
  """Reads $SALFLAX_DATA; ~/salflax_data where it is not set."""
  path = os.environ.get('SALFLAX_DATA') or '~/salflax_data'
  return paths.path(os.path.expanduser(path))


def load_source(
  name: str,
  split: str,
  data_dir: str | os.PathLike | None = None,
  **options: Any,
) -> Sequence[dict]:
  """Loads the rows of a dataset's split; pixels are read when asked for.

  A row is a dict: image u8 [h, w, 3]; saliency u8 [h, w, 1]; fixations i32
  [N, 2], (row, column), repeats kept where the source has them; text;
  condition, one of 'pure' (free viewing), 'whole', 'all', 'salient',
  'non_salient'; image_id, the same for all conditions of an image.
  `source.meta(i)` gives text, condition, image_id and size undecoded.

  Args:
    name: 'scenes', one of `DATASETS`, or 'folder:NAME' for a folder prepared
      with --name=NAME.
    split: 'all', 'train', 'test'; 'val', a tenth of train where the dataset
      has no such part itself, and 'fit', the rest of train; 'fold0' to
      'fold4' (a fifth of the images each) and 'not_fold0', 'val_fold0',
      'fit_fold0'; or several joined by '+'.
    data_dir: where prepared datasets lie; `default_data_dir()` if None.
    **options: `conditions` (one or several) and `exclude` (a file of image
      ids, a packaged list's name, or ids) of prepared datasets; those of
      `scenes.load` for scenes.

  Raises:
    ValueError: for an unknown name, split or condition, with the nearest
      match, and for a split that comes out empty.
    FileNotFoundError: for a dataset that is not prepared, with the command
      that does.
  """
  dataset, _, own = str(name).partition(':')
  if dataset in GENERATED and not own:
    from salflax.data import scenes

    call = spec.Call('load_source of scenes', (), options)
    spec.check_call(scenes.load, call, takes=1)
    return scenes.load(split, **options)
  spec.lookup('dataset', [*DATASETS, *GENERATED], dataset)
  if bool(own) != (dataset == 'folder'):
    raise ValueError(
      f"Dataset {name!r}: a user's folder is 'folder:NAME', with the NAME it "
      "was prepared under; the other datasets have no ':'."
    )
  from salflax.data import source

  path = paths.path(os.path.expanduser(data_dir or default_data_dir()))
  spec.check_call(
    source.load, spec.Call(f'load_source of {name}', (), options), takes=4
  )
  return source.load(dataset, own, split, path, **options)
