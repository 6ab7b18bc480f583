"""Four fake CPU devices, strict ranks; setup.cfg makes warnings errors."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# A program is compiled once, without much care, for all workers and runs; a
# cache of limited size has a lock.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path('~/.cache/salflax/xla').expanduser()),
)
os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', '4000000000')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count='
  f'{os.environ.get("SALFLAX_TEST_DEVICES", 4)}'
)

import jax
import pytest
from absl import flags

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Grain reads an absl flag even where no absl app runs.
flags.FLAGS.mark_as_parsed()

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def goldens() -> pathlib.Path:
  """Folder of the stored reference numbers."""
  return ROOT / 'tests' / 'goldens'


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """Folder with real gaze and weights; skips where it is absent."""
  path = pathlib.Path(os.environ.get('SALFLAX_SHARED', ROOT.parent / 'shared'))
  if not (path / 'data').is_dir():
    pytest.skip(f'no real data: {path} is absent (set SALFLAX_SHARED)')
  return path


@pytest.fixture(scope='session')
def tiny_run(tmp_path_factory) -> pathlib.Path:
  """Folder of a finished run of two stages on scenes; not to be written in."""
  import tiny

  return tiny.trained_run(tmp_path_factory.mktemp('tiny'))


def pytest_collection_modifyitems(items) -> None:
  """Puts the file with real processes first: it takes longest."""
  items.sort(key=lambda item: item.path.name != 'processes_test.py')
