"""salflax: where people look in an image, given a sentence.

    salflax <command> --help

As `python -m salflax`. Commands:
"""

import ast
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

import salflax
from salflax import cli
from salflax.core import spec

COMMANDS = {
  'prepare': 'salflax.cli.prepare',
  'train': 'salflax.main',
  'evaluate': 'salflax.cli.evaluate',
  'predict': 'salflax.cli.predict',
  'release': 'salflax.cli.release',
  'compare': 'salflax.cli.compare',
  'export': 'salflax.cli.export',
  'serve': 'salflax.cli.serve',
  'report': 'salflax.cli.report',
  'bench': 'salflax.cli.bench',
}


def describe(module: str) -> str:
  """Reads the first line of a module's docstring; does not import it."""
  source = importlib.util.find_spec(module).origin
  tree = ast.parse(pathlib.Path(source).read_text(encoding='utf-8'))
  return ast.get_docstring(tree).partition('\n')[0]


def main(argv: Sequence[str]) -> int:
  """Runs a command and returns its exit code.

  Args:
    argv: name of the program, the command, its arguments.
  """
  name = argv[1] if len(argv) > 1 else '--help'
  if name in ('--version', 'version'):
    print(salflax.__version__)
    return cli.DONE
  if name in ('--help', '-h', '-help', '--helpshort', '--helpfull', 'help'):
    print(__doc__)
    for command, module in COMMANDS.items():
      print(f'  {command:9} {describe(module)}')
    return cli.DONE
  if name not in COMMANDS:
    cli.say(f'salflax: {spec.unknown("command", name, COMMANDS)}')
    return cli.USAGE
  try:
    module = importlib.import_module(COMMANDS[name])
  except KeyboardInterrupt:
    return cli.INTERRUPTED
  arguments = [f'salflax {name}', *argv[2:]]
  return cli.call(module.define_flags, module.execute, arguments)


def run() -> None:
  """Runs the console command."""
  cli.end_at_sigterm()
  sys.exit(main(sys.argv))


if __name__ == '__main__':
  run()
