"""Ctrl-C and SIGTERM: a run stops between two steps, with all of it saved."""

import logging
import signal

import jax
import numpy as np

_LOG = logging.getLogger('salflax')


class Interrupted(Exception):
  """The run was asked to stop, and has saved its state."""


class Stop:
  """Notes the first Ctrl-C or SIGTERM; the second one acts as always."""

  def __init__(self):
    self._asked = False
    self._old = {}

  def __enter__(self):
    for s in (signal.SIGINT, signal.SIGTERM):
      try:
        old = signal.signal(s, self._note)
      except ValueError:  # not in the main thread: somebody else decides
        continue
      # A handler that is not Python's, as jax.distributed installs one, reads
      # as None and cannot be put back.
      self._old[s] = signal.SIG_DFL if old is None else old
    return self

  def _note(self, number, frame):
    del frame
    self._asked = True
    signal.signal(number, self._old[number])
    _LOG.warning('Asked to stop: saving after this step.')

  def __exit__(self, *unused):
    for s, handler in self._old.items():
      signal.signal(s, handler)

  def __call__(self, *, together: bool) -> bool:
    """Says whether to stop now.

    Args:
      together: whether all processes ask at this step. One that stopped on its
        own would leave the others waiting for it.
    """
    if jax.process_count() == 1:
      return self._asked
    if not together:
      return False
    from jax.experimental import multihost_utils

    asked = multihost_utils.process_allgather(np.int32(self._asked))
    return bool(np.max(asked))
