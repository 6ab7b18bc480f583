"""Files that are either whole or absent."""

import contextlib
import os
import pathlib
import uuid
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Gives a temporary name beside `path`, renamed to it when all went well.

  A reader never sees half a file, and a failed writer leaves the old one. The
  folder is made if need be; the suffix is kept, since writers go by it.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  # Not by process number: threads share it, and containers that share a disk.
  unique = uuid.uuid4().hex[:8]
  temporary = path.with_name(f'.{path.stem}.{unique}.tmp{path.suffix}')
  try:
    yield temporary
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes UTF-8 text, all or nothing."""
  with replacing(path) as temporary:
    temporary.write_text(text, encoding='utf-8')
