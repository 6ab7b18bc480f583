import logging
import os
import subprocess

import pytest

from salflax.train import log


@pytest.fixture
def console():
  """The console of a run; afterwards the loggers are pytest's own again."""
  loggers = [
    logging.getLogger(n) for n in ('salflax', 'absl', 'orbax', 'jax', 'grain')
  ]
  before = [(x.handlers, x.propagate, x.level) for x in loggers]
  log.to_console()
  yield
  for logger, (handlers, propagate, level) in zip(loggers, before):
    logger.handlers, logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture
def small_disk(tmp_path):
  """A disk of one megabyte."""
  folder = tmp_path / 'disk'
  folder.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'none', str(folder)]
  if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
    pytest.skip('no right to mount a small disk')
  yield folder
  subprocess.run(['umount', '-l', str(folder)], check=True)
