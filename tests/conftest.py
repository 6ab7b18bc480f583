"""Four fake CPU devices, strict ranks; setup.cfg makes warnings errors."""

import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=4'
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


@pytest.fixture(scope='module')
def quick_compiles(tmp_path_factory):
  """For tests that compile much: what `tiny.quick_compiles` does."""
  import tiny

  with tiny.quick_compiles(tmp_path_factory.getbasetemp() / 'xla'):
    yield


@pytest.fixture(scope='session')
def shared() -> pathlib.Path:
  """Folder with real gaze and weights; skips where it is absent."""
  path = pathlib.Path(os.environ.get('SALFLAX_SHARED', ROOT.parent / 'shared'))
  if not (path / 'data').is_dir():
    pytest.skip(f'no real data: {path} is absent (set SALFLAX_SHARED)')
  return path
