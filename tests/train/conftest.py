import logging

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
