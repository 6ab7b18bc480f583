"""The commands: flags in, one library call, an exit code.

0 done; 1 the input or the environment is wrong, or some rows failed; 2 usage;
3 the training diverged; 4 a condition of compare holds; 130 interrupted.
"""

import contextlib
import math
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

DONE, FAILED, USAGE, DIVERGED, GATE, INTERRUPTED = 0, 1, 2, 3, 4, 130
UsageError = app.UsageError
# What errors of these kinds say is written for a user.
_PLAIN = (
  *(ValueError, OSError, ImportError, RuntimeError, ArithmeticError),
  *(flags.Error, UsageError),
)
# Modules whose package has another name.
_PACKAGES = {
  'ot': 'pot',
  'PIL': 'pillow',
  'libtpu': '"salflax[tpu]"',
  'jax_plugins': '"salflax[gpu]"',
  'torch': '"salflax[torch]"',
}
# Flags that name a folder, of this machine or in a bucket; and of it alone.
_FOLDERS = ('workdir', 'data_dir', 'run', 'runs', 'out')
_LOCAL = ('maps', 'raw', 'cache_dir', 'to', 'docs')
# Control characters, and those that turn the direction of a line.
_CONTROLS = (*range(32), *range(127, 160), *range(0x202A, 0x202F))
_CONTROLS += tuple(range(0x2066, 0x206A))


def run(
  define_flags: Callable[[flags.FlagValues], None],
  execute: Callable[[Any], int | None],
) -> NoReturn:
  """Runs a command on the process's arguments and exits with its code."""
  end_at_sigterm()
  sys.exit(call(define_flags, execute, sys.argv))


def end_at_sigterm() -> None:
  """Makes SIGTERM unwind the program, so that no unfinished file stays."""
  end = lambda number, frame: sys.exit(128 + number)
  signal.signal(signal.SIGTERM, end)


def call(
  define_flags: Callable[[flags.FlagValues], None],
  execute: Callable[[Any], int | None],
  argv: Sequence[str],
) -> int:
  """Runs a command and returns its exit code; without --debug no traceback.

  Args:
    define_flags: defines the command's flags in the values that it gets.
    execute: does the work that the flags ask for; returns an exit code, None
      for 0.
    argv: name of the program and its arguments.
  """
  saved, sys.argv = sys.argv, list(argv)
  disabled = 'TQDM_DISABLE' in os.environ
  try:
    with _console():
      return _guarded(define_flags, execute, sys.argv)
  finally:
    sys.argv = saved
    if not disabled:  # --quiet is for this command alone
      os.environ.pop('TQDM_DISABLE', None)


def define(values: flags.FlagValues, *rows: Sequence[Any]) -> None:
  """Defines flags.

  Args:
    values: values to define them in.
    *rows: a function of absl.flags and its arguments, for each flag.
  """
  for kind, *arguments in rows:
    kind(*arguments, flag_values=values)


@contextlib.contextmanager
def checking_options() -> Iterator[None]:
  """Makes a ValueError inside it one of usage."""
  try:
    yield
  except ValueError as e:
    raise UsageError(str(e)) from e


def keep_programs() -> None:
  """Keeps what XLA compiles on the disk; call it before jax is imported."""
  from salflax.core import files

  # A folder of the user's own has its own rules: JAX warns of programs in it
  # that were kept without a limit.
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(files.cache_dir() / 'xla')
    os.environ.setdefault('JAX_COMPILATION_CACHE_MAX_SIZE', str(2**32))


def say(*lines: str) -> None:
  """Prints lines to standard error."""
  for line in lines:
    print(line, file=sys.stderr)


def utf8(name: str | os.PathLike) -> str:
  """Escapes what is no UTF-8 in a file's name or a sentence."""
  try:
    return os.fsencode(name).decode(errors='backslashreplace')
  except UnicodeEncodeError:  # half a letter, as JSON may have it
    return os.fspath(name).encode(errors='backslashreplace').decode()


def _guarded(define_flags, execute, argv) -> int:
  try:
    code = _execute(define_flags, execute, argv)
    sys.stdout.flush()
    return code
  except KeyboardInterrupt:
    say('Interrupted.')
    return INTERRUPTED
  except BrokenPipeError:
    # Nobody reads on; without this the interpreter would flush once more.
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
  except Exception as e:
    if '--debug' in argv:
      raise
    say(f'salflax: {_message(e)}', *getattr(e, '__notes__', ()))
    if not isinstance(e, flags.Error | UsageError):
      return FAILED
    say('--help lists the options.')
    return USAGE


def _execute(define_flags, execute, argv) -> int:
  values = flags.FlagValues()
  define_flags(values)
  switch = flags.DEFINE_bool
  define(
    values,
    (switch, 'quiet', False, 'Show results and warnings alone.'),
    (switch, 'debug', False, "Show tracebacks and libraries' notes."),
  )
  if {'--help', '-h', '-help', '--helpshort', '--helpfull'} & {*argv[1:]}:
    doc = execute.__globals__['__doc__'] or ''
    print(doc.strip(), '\n\nOptions:\n', _options(values), sep='\n')
    return DONE
  _parse(values, argv)
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()  # Grain reads one of its own
  if not values.debug:
    logging.set_verbosity(logging.ERROR)
  _check_folders(values)
  if values.quiet:
    os.environ['TQDM_DISABLE'] = '1'
  code = execute(values) or DONE
  if code == DONE and not values.quiet:
    from salflax.train import log

    say(f'Peak memory {log.peak_memory_mb():.0f} MB.')
  return code


def _check_folders(values) -> None:
  """Raises ValueError for a bucket that is unknown or where none can be."""
  from salflax.core import paths

  names = (*_FOLDERS, *_LOCAL)
  folders = {f'--{k}': values[k].value for k in names if k in values}
  if 'config' in values and values.config is not None:
    named = [k for k in names if k in values.config]
    folders |= {f'--config.{k}': values.config[k] for k in named}
  for name, folder in folders.items():
    if not paths.is_bucket(str(folder or '')):
      continue
    if name.rpartition('.')[2].lstrip('-') in _LOCAL:
      need_disk(name, folder)
    paths.path(folder)


def need_disk(name: str, folder: str) -> None:
  """Raises ValueError where what a flag names is in a bucket."""
  from salflax.core import paths

  if paths.is_bucket(folder):
    raise ValueError(
      f'{name}={folder} is no folder of this machine. Mount the bucket as one '
      '(gcsfuse, s3fs), or copy it.'
    )


def _parse(values, argv) -> None:
  """Sets the flags; the config's file and keys are checked before.

  What is no option is an image, for a command that takes images, and what to
  do, for one that has several things to do.

  Raises:
    UsageError: an argument is unknown or has a value that does not fit.
    FileNotFoundError, ValueError: the config's file is absent or wrong.
  """
  if 'config' in values:
    from salflax.cli import config_file

    config_file.check(argv)
  values.set_gnu_getopt('image' in values or 'what' in values)
  try:
    surplus = values([_spelling(a, values) for a in argv])[1:]
  except Exception as e:
    raise UsageError(str(e)) from e
  for name, value in values.flag_values_dict().items():
    # Bounds let NaN pass. Keys of a config have rules of their own.
    if (
      isinstance(value, float) and '.' not in name and not math.isfinite(value)
    ):
      raise UsageError(f'--{name}={value} is no finite number.')
  if surplus and 'image' in values:
    values.image = [*(values.image or ()), *surplus]
    return
  if surplus and 'what' in values:
    values.what = surplus.pop(0)
  if surplus:
    raise UsageError(
      f'Unexpected arguments: {" ".join(surplus)}. Options are written '
      '--name=value.'
    )


def _spelling(argument: str, values) -> str:
  """Writes an option's name as it is defined: --fail-if is --fail_if."""
  name, equals, value = argument.partition('=')
  plain = name.removeprefix('--').replace('-', '_')
  fits = name.startswith('--') and plain in values
  return f'--{plain}{equals}{value}' if fits else argument


def _options(values) -> str:
  """Writes the help of every flag, 80 columns wide."""
  lines = []
  for name in values:
    flag = values[name]
    if flag.default in (None, '', False, []):
      default = ''
    else:
      default = f' Default: {flag.default_as_str.strip(chr(39))}.'
    if flag.boolean:
      head = f'  --[no]{name}'
    else:
      head = f'  --{name}=...'
    # What absl adds to the help of a flag that may repeat.
    about = flag.help.partition(';\n')[0]
    text = textwrap.wrap(f'{about}{default}', 72)
    lines += [head, *(f'      {line}' for line in text)]
  return '\n'.join(lines)


def _message(error: Exception) -> str:
  """Writes an error for a user."""
  text = str(error)
  if isinstance(error, ModuleNotFoundError) and 'pip install' not in text:
    module = (error.name or '').partition('.')[0]
    return f'{text}: pip install {_PACKAGES.get(module, module)}'
  if isinstance(error, _PLAIN) and text:
    return text
  kind = type(error).__name__
  return f'{kind}{text and ": "}{text}. --debug shows where it rose.'


class _Escaped:
  """A stream that writes control characters, as names may hold, escaped."""

  def __init__(self, stream: Any, *, keep: str):
    self._stream = stream
    self._table = {
      c: ascii(chr(c))[1:-1] for c in _CONTROLS if chr(c) not in keep
    }

  def write(self, text: str) -> int:
    return self._stream.write(text.translate(self._table))

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)


@contextlib.contextmanager
def _console() -> Iterator[None]:
  """Makes the standard streams take any text, whatever their encoding."""
  saved = sys.stdout, sys.stderr
  for stream in saved:
    if hasattr(stream, 'reconfigure'):
      stream.reconfigure(errors='backslashreplace')
  # Bars of progress go back to the start of their line.
  sys.stdout = _Escaped(saved[0], keep='\n\t')
  sys.stderr = _Escaped(saved[1], keep='\n\t\r')
  try:
    yield
  finally:
    sys.stdout, sys.stderr = saved
