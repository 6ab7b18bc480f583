"""Paths of the disk and of object stores: gs://bucket/run, s3://bucket/run.

A bucket holds whole objects alone: one appears, or replaces another, when all
of it is written; a folder is there while an object is in it, and a rename
copies. gcsfs and s3fs find the credentials and do the work.
"""

import errno
import functools
import importlib.util
import io
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

# Schemes and their packages.
SCHEMES = {'gs': 'gcsfs', 's3': 's3fs'}
# Orbax's paths would take TensorFlow where it is installed: it has no s3.
os.environ.setdefault('EPATH_USE_TF', 'false')


def is_bucket(name: str | os.PathLike) -> bool:
  """Tells a name in a bucket from one of the disk."""
  return '://' in os.fspath(name)


def path(name: str | os.PathLike) -> 'pathlib.Path | BucketPath':
  """Makes a path of a name, of the disk or of a bucket.

  Raises:
    ValueError: there is no such kind of bucket.
    ImportError: its package is not installed; has the command for it.
  """
  if not is_bucket(name):
    return pathlib.Path(name)
  scheme, _, rest = os.fspath(name).partition('://')
  if scheme not in SCHEMES or not rest.strip('/'):
    kinds = ', '.join(f'{s}://BUCKET/NAME' for s in SCHEMES)
    raise ValueError(f'{name}: allowed are folders of this machine, {kinds}.')
  if importlib.util.find_spec(package := SCHEMES[scheme]) is None:
    extra = package.removesuffix('fs')
    raise ImportError(f"{name} needs {package}: pip install 'salflax[{extra}]'")
  return BucketPath(name)


def absolute(name: str | os.PathLike) -> str:
  """Writes a name with all of its path, which one in a bucket has."""
  return str(path(name)) if is_bucket(name) else os.path.abspath(name)


@functools.cache
def _system(bucket: str) -> Any:
  """Opens the file system of a bucket; OSError where there is no bucket."""
  import fsspec

  scheme = bucket.partition(':')[0]
  # A list that is kept misses what another process or TensorStore writes;
  # Orbax has a file system of its own, which takes this setting as well.
  for name in (scheme, 'gcs'):
    fsspec.config.conf.setdefault(name, {})['use_listings_cache'] = False
  # It logs tracebacks of errors that it raises as well.
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)
  system = fsspec.filesystem(scheme)
  try:
    system.find(f'{bucket}/.salflax')
  except FileNotFoundError as e:
    raise OSError('there is no such bucket') from e
  except OSError:  # what is not allowed here may be, below some folder
    pass
  return system


class BucketPath(pathlib.PurePosixPath):
  """A path in a bucket, with what salflax does with paths of the disk.

  Every failure is an OSError that names bucket, attempt and reason.
  """

  def __str__(self) -> str:
    return re.sub(r'^(\w+):/+', r'\1://', super().__str__())

  def _do(self, verb: str, what: str, *args: Any, **options: Any) -> Any:
    bucket = '//'.join(self.parts[:2])
    try:
      return getattr(_system(bucket), what)(*args, **options)
    except FileNotFoundError as e:
      code = errno.ENOENT
      raise FileNotFoundError(code, os.strerror(code), str(self)) from e
    except Exception as e:  # each package has errors of its own
      reason = ' '.join(str(e).split())[:300].rstrip('.') or repr(e)
      raise OSError(
        f'Cannot {verb} {self}: {reason}. {bucket} has to be there, and the '
        "machine's credentials have to allow to list, read, write and delete "
        'in it.'
      ) from e

  def _kind(self) -> str:
    """Names what it is: 'file', 'directory' or, if it is not there, ''."""
    try:
      in_bucket = len(self.parts) > 1
      info = self._do('read', 'info', str(self)) if in_bucket else {}
      return info.get('type', 'directory')
    except FileNotFoundError:
      return ''

  def _paths(self, names: list[str]) -> Iterator['BucketPath']:
    names = (n.split('://')[-1].strip('/') for n in names)
    every = (BucketPath(f'{self.parts[0]}//{name}') for name in names)
    return (p for p in every if p != self)

  def resolve(self) -> 'BucketPath':
    return self

  def exists(self) -> bool:
    return bool(self._kind())

  def is_file(self) -> bool:
    return self._kind() == 'file'

  def is_dir(self) -> bool:
    return self._kind() == 'directory'

  def glob(self, pattern: str) -> Iterator['BucketPath']:
    return self._paths(self._do('list', 'glob', f'{self}/{pattern}'))

  def files(self) -> dict['BucketPath', dict[str, Any]]:
    """Lists all that is below: path -> size in bytes and more."""
    infos = self._do('list', 'find', str(self), detail=True)
    return dict(zip(self._paths([*infos]), infos.values()))

  def mkdir(self, **options: Any) -> None:
    """Does nothing: the first object in a folder makes it."""

  def open(self, mode: str = 'r', **options: Any) -> Any:
    """Opens it for reading; `files.replacing` writes."""
    data = io.BytesIO(self._do('read', 'cat_file', str(self)))
    return data if 'b' in mode else io.TextIOWrapper(data, **options)

  def read_text(self, **options: Any) -> str:
    return self.open(**options).read()

  def get(self, file: pathlib.Path) -> None:
    """Copies it to a file of the disk."""
    self._do('read', 'get_file', str(self), str(file))

  def put(self, file: pathlib.Path) -> None:
    """Writes it, a copy of a file of the disk."""
    self._do('write', 'put_file', str(file), str(self))

  def unlink(self, *, missing_ok: bool = False) -> None:
    if not missing_ok or self.exists():
      self._do('delete', 'rm_file', str(self))

  def rename(self, target: 'BucketPath') -> None:
    self._do('rename', 'mv', str(self), str(target), recursive=True)
