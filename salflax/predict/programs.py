"""Programs of networks, kept on the disk: what was traced once loads quickly.

Tracing a network takes seconds in each process, compiling it many more; XLA's
own cache spares the second alone.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import flax
import jax
import jaxlib

import salflax
from salflax.core import files

# Programs on the disk, of a few megabytes each.
MAX_KEPT = 32
# Of salflax: what the program of a network depends on.
_SOURCES = ('core/*.py', 'models/**/*.py', 'models/*.npz', 'train/step.py')


@functools.cache
def _version() -> bytes:
  """Computes a sum over versions and all code that makes the program."""
  versions = (jax.__version__, jaxlib.__version__, flax.__version__)
  total = hashlib.sha256(repr(versions).encode())
  root = pathlib.Path(salflax.__file__).parent
  for pattern in _SOURCES:
    for path in sorted(root.glob(pattern)):
      total.update(path.read_bytes())
  return total.digest()


def kept(predict: Callable, what: Any) -> Callable:
  """Wraps a jitted (variables, batch) -> maps, whose program it keeps.

  Args:
    predict: the function.
    what: says, by its repr, which network it applies, and how.
  """
  programs = {}

  def call(variables, batch):
    shapes = str(jax.tree.map(jax.typeof, (variables, batch)))
    if shapes not in programs:
      name = repr(what) + shapes
      programs[shapes] = _program(predict, name, variables, batch)
    return programs[shapes](variables, batch)

  return call


def _program(predict, name, variables, batch):
  total = hashlib.sha256(_version() + name.encode())
  total.update(jax.devices()[0].device_kind.encode())
  path = files.cache_dir() / 'programs' / f'{total.hexdigest()[:32]}.bin'
  try:
    data = path.read_bytes()
    return jax.jit(jax.export.deserialize(bytearray(data)).call)
  except Exception:  # absent, cut short, or the library's: made anew
    data = jax.export.export(predict)(variables, batch).serialize()
  try:
    with files.replacing(path) as temporary:
      temporary.write_bytes(data)
    paths = sorted(path.parent.glob('*.bin'), key=lambda p: p.stat().st_mtime)
    for old in paths[:-MAX_KEPT]:
      old.unlink(missing_ok=True)
  except OSError:  # a folder that cannot be written: slower, no worse
    pass
  return jax.jit(jax.export.deserialize(bytearray(data)).call)
