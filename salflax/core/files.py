"""Files, whole or absent; locks; JSON with the file's name in errors."""

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import pathlib
import shutil
import socket
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

from salflax.core import paths

_LOG = logging.getLogger('salflax')
_HELD: set[str] = set()


def cache_dir() -> pathlib.Path:
  """Names the folder of what can be computed anew: $SALFLAX_CACHE."""
  name = os.environ.get('SALFLAX_CACHE') or '~/.cache/salflax'
  return pathlib.Path(name).expanduser()


def on_disk(name: str | os.PathLike) -> pathlib.Path:
  """Names what stands on the disk for a name in a bucket; else the name."""
  if not paths.is_bucket(name):
    return pathlib.Path(name)
  return cache_dir() / 'buckets' / os.fspath(name).replace('://', '/')


def local_copy(
  folder: str | os.PathLike, *, skip: Collection[str] = ()
) -> pathlib.Path:
  """Copies a folder of a bucket to the disk; one of the disk is itself.

  Once for each content, below `cache_dir`: what is there in its full size is
  not copied again.

  Args:
    folder: the folder, there or not.
    skip: names of files and folders below it that are left out.

  Returns:
    The copy; it is not there where the folder is not.
  """
  remote = paths.path(folder)
  if isinstance(remote, pathlib.Path):
    return remote
  infos = {
    p.relative_to(remote): info
    for p, info in remote.files().items()
    if not {*p.relative_to(remote).parts} & {*skip}
  }
  # Another content has another tag, and so another folder.
  tags = [(str(p), i.get('ETag') or i.get('etag')) for p, i in infos.items()]
  digest = hashlib.sha256(repr(tags).encode()).hexdigest()[:16]
  local = on_disk(remote) / f'.copy-{digest}' / remote.name

  def fetch(name):
    with replacing(local / name) as temporary:
      (remote / name).get(temporary)

  here = lambda file: file.stat().st_size if file.is_file() else None
  missing = [p for p, i in infos.items() if here(local / p) != i['size']]
  if missing:
    size = sum(infos[p]['size'] for p in missing) / 1e6
    text = 'Copying %d files, %.1f MB, of %s to %s'
    _LOG.warning(text, len(missing), size, remote, local)
  with futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(fetch, missing))
  return local


def upload(folder: pathlib.Path, target: paths.BucketPath) -> None:
  """Copies what is in a folder into a bucket, what was written last at last."""
  written = (p for p in folder.rglob('*') if p.is_file())
  for file in sorted(written, key=lambda p: p.stat().st_mtime_ns):
    (target / file.relative_to(folder)).put(file)


@contextlib.contextmanager
def locked(path: str | os.PathLike, purpose: str) -> Iterator[None]:
  """Holds a lock that ends with the process, however the process ends.

  Within one process it may be taken again. A bucket has no locks: there only
  processes of this machine are kept off.

  Args:
    path: lock file, new or not; it stays.
    purpose: what one process at a time may do, for the message.

  Raises:
    BlockingIOError: another process holds it; names that process.
  """
  path = on_disk(path)
  if (key := str(path.resolve())) in _HELD:
    yield
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a+', encoding='utf-8') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      f.seek(0)
      holder = f.read().strip() or 'Another process'
      raise BlockingIOError(
        f'{holder} is {purpose} (it holds {path}). Wait for it, or stop it.'
      ) from None
    except OSError as e:  # some network disks have no locks
      _LOG.warning('Cannot lock %s: %s.', path, e.strerror)
    f.truncate(0)
    f.write(f'Process {os.getpid()} on {socket.gethostname()}')
    f.flush()
    _HELD.add(key)
    try:
      yield
    finally:
      _HELD.discard(key)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a temporary name beside `path`, renamed to it when all went well.

  Of a path in a bucket, it is one on the disk, copied there when all went well.

  A reader never sees half a file, and a failed writer leaves the old one. The
  folder is created if need be; the suffix is kept, since writers go by it.

  Raises:
    OSError: the file cannot be written; always names it.
  """
  path = paths.path(path)
  if isinstance(path, paths.BucketPath):
    with tempfile.TemporaryDirectory() as folder:
      yield (temporary := pathlib.Path(folder, path.name))
      path.put(temporary)
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  # Not by process number: threads share it, and containers that share a disk.
  unique = uuid.uuid4().hex[:8]
  temporary = path.with_name(f'.{path.stem}.{unique}.tmp{path.suffix}')
  try:
    yield temporary
    os.replace(temporary, path)
  except OSError as e:
    if e.filename not in (None, str(temporary), temporary):
      raise
    # A full disk gives no name, or the temporary one; NumPy's no reason either.
    if e.errno is None:
      raise OSError(f'{path} cannot be written: {e}') from e
    raise type(e)(e.errno, e.strerror, str(path)) from e
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  """Gives a new folder beside another, whose name it gets when all is well."""
  folder = folder.absolute()
  folder.parent.mkdir(parents=True, exist_ok=True)
  unique = uuid.uuid4().hex[:8]
  scratch = folder.with_name(f'.{folder.name}.{unique}.tmp')
  old = folder.with_name(f'.{folder.name}.{unique}.old')
  scratch.mkdir()
  try:
    yield scratch
    swap(scratch, folder, old)
  finally:
    for path in (scratch, old):
      shutil.rmtree(path, ignore_errors=True)


def swap(new: pathlib.Path, folder: pathlib.Path, old: pathlib.Path) -> None:
  """Renames `new` to `folder`, which becomes `old`; it comes back on an error.

  Args:
    new: complete folder.
    folder: name that it gets, taken or not. In a bucket, what is there is
      deleted and the new one copied.
    old: free name on the same disk.
  """
  if isinstance(folder, paths.BucketPath):
    for file in folder.files():
      file.unlink()
    upload(new, folder)
    return
  if folder.exists():
    folder.rename(old)
  try:
    new.rename(folder)
  except OSError:
    if old.exists():
      old.rename(folder)
    raise


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes UTF-8 text, all or nothing."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def write_json(path: str | os.PathLike, tree: Any) -> None:
  """Writes dicts, lists, text and numbers, all or nothing; NaN becomes null."""

  def plain(node):
    if isinstance(node, Mapping):
      return {str(k): plain(v) for k, v in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
      return [plain(v) for v in node]
    if hasattr(node, 'dtype'):  # a NumPy scalar
      return plain(node.item())
    if isinstance(node, os.PathLike):
      return os.fspath(node)
    if isinstance(node, float) and not math.isfinite(node):
      return None
    return node

  text = json.dumps(plain(tree), indent=1, ensure_ascii=False, allow_nan=False)
  write_text(path, text + '\n')


def once(pairs: Sequence[tuple[Any, Any]], what: str = 'key') -> dict[Any, Any]:
  """Makes a dict of pairs, as an `object_pairs_hook` of `json.loads`.

  Raises:
    ValueError: a key stands twice; the first value would be lost.
  """
  result = {}
  for key, value in pairs:
    if key in result:
      raise ValueError(f'the {what} {key!r:.100} stands twice')
    result[key] = value
  return result


def read_json(path: str | os.PathLike, *, kind: type = dict) -> Any:
  """Reads a JSON file.

  Args:
    path: the file.
    kind: type of the whole: dict or list.

  Raises:
    ValueError: with the file's name: it is no JSON, a key stands twice in an
      object, or it is of another kind.
    OSError: it cannot be read.
  """
  try:
    text = paths.path(path).read_text(encoding='utf-8-sig')
    tree = json.loads(text, object_pairs_hook=once)
  except (ValueError, RecursionError) as e:
    raise ValueError(f'{path}: not JSON ({e}).') from e
  if not isinstance(tree, kind):
    names = {dict: 'an object', list: 'a list'}
    there = names.get(type(tree), type(tree).__name__)
    raise ValueError(f'{path}: expected {names[kind]}, found {there}.')
  return tree
