"""The commands: flags in, call, exit."""

import sys
from collections.abc import Callable
from typing import Any

from absl import app, flags, logging


def run(define_flags: Callable, execute: Callable[[Any], None]) -> None:
  """Runs a command: bad input ends in a message and status 1, no traceback.

  Args:
    define_flags: defines the command's flags.
    execute: does the work, given the flags.
  """

  def main(argv: list[str]) -> int:
    if len(argv) > 1:
      raise app.UsageError(f'Unexpected arguments: {argv[1:]}')
    if flags.FLAGS.verbosity == 0:
      # Without --verbosity, what libraries tell of themselves is left out.
      logging.set_verbosity(logging.ERROR)
    try:
      execute(flags.FLAGS)
    except (ValueError, OSError, ImportError) as e:
      if flags.FLAGS.verbosity > 0:
        raise
      say(f'salflax: {e}', *getattr(e, '__notes__', ()))
      return 1
    from salflax.train import log

    say(f'Peak memory {log.peak_memory_mb():.0f} MB.')
    return 0

  define_flags()
  app.run(main)


def say(*lines: str) -> None:
  """Prints lines to standard error."""
  for line in lines:
    print(line, file=sys.stderr)
