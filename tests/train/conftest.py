import logging
import os
import subprocess

import jax
import pytest
import tiny

from salflax.core import parallel
from salflax.train import log, step
from salflax.train import stage as stages_lib


@pytest.fixture
def console():
  """The console of a run; afterwards the loggers are pytest's own again."""
  names = ('salflax', 'absl', 'asyncio', 'orbax', 'jax', 'grain')
  loggers = [logging.getLogger(n) for n in names]
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


@pytest.fixture(scope='session', autouse=True)
def _programs_are_traced_once():
  """Runs with the same network, loss and optimiser share their programs."""
  programs, states = {}, {}

  def shared(make):
    def making(*args, **kwargs):
      key = make, args, tuple(kwargs.items())
      if key not in programs:
        programs[key] = make(*args, **kwargs)
      return programs[key]

    return making

  def initial_state(stage, mesh, start=None):
    if start is not None:
      return make_state(stage, mesh, start)
    # The key has the stage's own functions: another stage has others.
    key = stage.model, stage.loss_fn, stage.make_tx, stage.weights, mesh
    if key not in states:
      states[key] = jax.device_get(make_state(stage, mesh))
    return parallel.to_everywhere(states[key], mesh)

  make_state = stages_lib.initial_state
  with pytest.MonkeyPatch.context() as patch:
    for name in ('make_train_step', 'make_predict_fn'):
      patch.setattr(step, name, shared(getattr(step, name)))
    patch.setattr(stages_lib, 'initial_state', initial_state)
    yield


@pytest.fixture(scope='session')
def base(tmp_path_factory):
  """The stage of the tiny config, six steps, evaluated every third."""
  (stage,) = tiny.stages(tiny.get_config(), tmp_path_factory.mktemp('base'))
  return stage
