"""Paths of the disk and of object stores: gs://bucket/run, s3://bucket/run.

A bucket holds whole objects alone: one appears, or replaces another, when all
of it is written; a folder is there while an object is in it, and a rename
copies. gcsfs and s3fs find the credentials and do the work.
"""

import contextlib
import errno
import functools
import importlib.util
import io
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

# Package of a scheme, and the extra of salflax that brings it.
SCHEMES = {'gs': ('gcsfs', 'gcs'), 's3': ('s3fs', 's3')}
# Orbax's paths would take TensorFlow where it is installed: it has no s3.
os.environ.setdefault('EPATH_USE_TF', 'false')


@functools.cache
def _system(scheme: str) -> Any:
  import fsspec

  # A list that is kept misses what another process or TensorStore writes;
  # Orbax has a file system of its own, which takes this setting as well.
  for name in {scheme, 'gcs' if scheme == 'gs' else scheme}:
    fsspec.config.conf.setdefault(name, {})['use_listings_cache'] = False
  return fsspec.filesystem(scheme)


@functools.cache
def _exists(bucket: str) -> bool:
  """Tells whether there is a bucket; what may not be listed, is there."""
  try:
    _system(bucket.partition(':')[0]).find(f'{bucket}/.salflax')
  except FileNotFoundError:
    return False
  except Exception:  # each package has errors of its own
    return True
  return True


def is_bucket(name: str | os.PathLike) -> bool:
  """Tells a name in a bucket from one of the disk."""
  return '://' in os.fspath(name)


def path(name: str | os.PathLike) -> 'pathlib.Path | BucketPath':
  """Makes a path of a name, of the disk or of a bucket.

  Raises:
    ValueError: there is no such kind of bucket.
    ImportError: its package is not installed; has the command for it.
  """
  name = os.fspath(name)
  if not is_bucket(name):
    return pathlib.Path(name)
  scheme, _, rest = name.partition('://')
  if scheme not in SCHEMES or not rest.strip('/'):
    kinds = ', '.join(f'{s}://BUCKET/NAME' for s in SCHEMES)
    raise ValueError(f'{name}: allowed are folders of this machine, {kinds}.')
  package, extra = SCHEMES[scheme]
  if importlib.util.find_spec(package) is None:
    raise ImportError(f"{name} needs {package}: pip install 'salflax[{extra}]'")
  return BucketPath(name)


def absolute(name: str | os.PathLike) -> str:
  """Writes a name with all of its path, which one in a bucket has."""
  return str(path(name)) if is_bucket(name) else os.path.abspath(name)


def rmtree(folder: 'pathlib.Path | BucketPath') -> None:
  """Deletes a folder, if it is there."""
  if isinstance(folder, BucketPath):
    folder.rmtree()
  else:
    shutil.rmtree(folder, ignore_errors=True)


class BucketPath(pathlib.PurePosixPath):
  """A path in a bucket, with what salflax does with paths of the disk.

  Every failure is an OSError that names bucket, attempt and reason.
  """

  def __str__(self) -> str:
    return re.sub(r'^(\w+):/+', r'\1://', super().__str__())

  def _do(self, verb: str, what: str, *args: Any, **options: Any) -> Any:
    scheme, bucket = (*self.parts, '')[:2]
    bucket = f'{scheme}//{bucket}'
    try:
      return getattr(_system(scheme[:-1]), what)(*args, **options)
    except Exception as e:  # each package has errors of its own
      if isinstance(e, FileNotFoundError):
        if _exists(bucket):
          raise FileNotFoundError(
            errno.ENOENT, os.strerror(errno.ENOENT), str(self)
          ) from e
        reason = 'there is no such bucket'
      else:
        reason = ' '.join(str(e).split())[:300].rstrip('.') or repr(e)
      raise OSError(
        f'Cannot {verb} {self}: {reason}. {bucket} has to be there, and the '
        "machine's credentials have to allow to list, read, write and delete "
        'in it.'
      ) from e

  def _info(self) -> dict[str, Any]:
    if len(self.parts) < 2:
      return {'type': 'directory'}
    try:
      return self._do('read', 'info', str(self))
    except FileNotFoundError:
      return {}

  def _paths(self, names: list[str]) -> Iterator['BucketPath']:
    whole = (f'{self.parts[0]}//{n.split("://")[-1].strip("/")}' for n in names)
    return (p for p in map(BucketPath, whole) if p != self)

  def absolute(self) -> 'BucketPath':
    return self

  resolve = absolute

  def exists(self) -> bool:
    return bool(self._info())

  def is_file(self) -> bool:
    return self._info().get('type') == 'file'

  def is_dir(self) -> bool:
    return self._info().get('type') == 'directory'

  def iterdir(self) -> Iterator['BucketPath']:
    """Yields what is in a folder; an empty one is not there."""
    with contextlib.suppress(FileNotFoundError):
      yield from self._paths(self._do('list', 'ls', str(self), detail=False))

  def glob(self, pattern: str) -> Iterator['BucketPath']:
    return self._paths(self._do('list', 'glob', f'{self}/{pattern}'))

  def files(self) -> dict['BucketPath', dict[str, Any]]:
    """Lists all that is below: path -> size in bytes and more."""
    infos = self._do('list', 'find', str(self), detail=True)
    return dict(zip(self._paths([*infos]), infos.values()))

  def rglob(self, pattern: str) -> Iterator['BucketPath']:
    return self.glob(f'**/{pattern}')

  def mkdir(self, **options: Any) -> None:
    """Does nothing: the first object in a folder makes it."""

  def read_bytes(self) -> bytes:
    return self._do('read', 'cat_file', str(self))

  def open(self, mode: str = 'r', **options: Any) -> Any:
    """Opens it for reading; `replacing` writes."""
    data = io.BytesIO(self.read_bytes())
    options.setdefault('encoding', 'utf-8')
    return data if 'b' in mode else io.TextIOWrapper(data, **options)

  def read_text(self, encoding: str = 'utf-8', errors: str = 'strict') -> str:
    return self.open(encoding=encoding, errors=errors).read()

  def get(self, file: pathlib.Path) -> None:
    """Copies it to a file of the disk."""
    self._do('read', 'get_file', str(self), str(file))

  def put(self, file: pathlib.Path) -> None:
    """Writes it, a copy of a file of the disk."""
    self._do('write', 'put_file', str(file), str(self))

  def unlink(self, *, missing_ok: bool = False) -> None:
    try:
      self._do('delete', 'rm_file', str(self))
    except FileNotFoundError:
      if not missing_ok:
        raise

  def rmtree(self) -> None:
    """Deletes all that is below, if anything is."""
    if self.files():
      self._do('delete', 'rm', str(self), recursive=True)

  def rename(self, target: 'BucketPath') -> 'BucketPath':
    self._do('rename', 'mv', str(self), str(target), recursive=True)
    return target
