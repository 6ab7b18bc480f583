"""Datasets by name: `load_source('sjtu_tis', 'train', data_dir)`."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from salflax.core import spec


def _sjtu_tis():
  from salflax.data.published import sjtu_tis

  return sjtu_tis.SjtuTis


def _osie():
  from salflax.data.published import osie

  return osie.Osie


def _salicon2015():
  from salflax.data.published import salicon

  return salicon.Salicon2015


def _salicon2017():
  from salflax.data.published import salicon

  return salicon.Salicon2017


def _mit1003():
  from salflax.data.published import mit1003

  return mit1003.Mit1003


def _cat2000():
  from salflax.data.published import cat2000

  return cat2000.Cat2000


def _fiwi():
  from salflax.data.published import fiwi

  return fiwi.Fiwi


def _folder():
  from salflax.data.published import folder

  return folder.Folder


# Functions that return the builder, so that TFDS is imported when needed.
DATASETS = {
  'sjtu_tis': _sjtu_tis,
  'osie': _osie,
  'salicon2015': _salicon2015,
  'salicon2017': _salicon2017,
  'mit1003': _mit1003,
  'cat2000': _cat2000,
  'fiwi': _fiwi,
  'folder': _folder,
}
# Made on the fly: nothing to prepare.
GENERATED = ('scenes',)


def default_data_dir() -> pathlib.Path:
  """Returns $SALFLAX_DATA, or ~/salflax_data where it is not set."""
  path = os.environ.get('SALFLAX_DATA') or '~/salflax_data'
  return pathlib.Path(path).expanduser()


def load_source(
  name: str,
  split: str,
  data_dir: str | os.PathLike | None = None,
  **options: Any,
) -> Sequence[dict]:
  """Returns the rows of a dataset's split, read when asked for.

  A row is a dict: image u8 [h, w, 3]; saliency u8 [h, w, 1]; fixations i32
  [N, 2], (row, column), repeats kept where the source has them; text;
  condition, one of 'pure' (free viewing), 'whole', 'all', 'salient',
  'non_salient'; image_id, the same for all conditions of a picture.
  `source.meta(i)` gives text, condition, image_id and size undecoded.

  Args:
    name: 'scenes', one of `DATASETS`, or 'folder:NAME' for a folder prepared
      with --name=NAME.
    split: 'all', 'train', 'test'; 'val', a tenth of train where the dataset
      has no such part itself, and 'fit', the rest of train; 'fold0' to
      'fold4' (a fifth of the pictures each) and 'not_fold0', 'val_fold0',
      'fit_fold0'; or several joined by '+'.
    data_dir: where prepared datasets lie; `default_data_dir()` if None.
    **options: `conditions` (one or several) and `exclude` (a file of picture
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

    return scenes.load(split, **options)
  if dataset not in DATASETS:
    raise spec.unknown('dataset', dataset, [*DATASETS, *GENERATED])
  if bool(own) != (dataset == 'folder'):
    raise ValueError(
      f"Dataset {name!r}: a user's folder is 'folder:NAME', with the NAME it "
      "was prepared under; the other datasets have no ':'."
    )
  from salflax.data import source

  path = pathlib.Path(data_dir or default_data_dir()).expanduser()
  spec.check_call(
    source.load, spec.Call(f'load_source of {name}', (), options), takes=4
  )
  return source.load(dataset, own, split, path, **options)
