"""What all commands share: help, exit codes, messages, the console."""

import importlib
import io
import os
import pathlib
import re
import subprocess
import sys

import pytest
from absl import flags

from salflax import __main__ as program
from salflax import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = 'configs/sjtu_tis.py'


def _define(values):
  flags.DEFINE_string('out', 'here', 'Folder.', flag_values=values)
  flags.DEFINE_enum('kind', 'a', ['a', 'b'], 'Kind.', flag_values=values)


def _call(execute, *argv):
  return cli.call(_define, execute, ['command', *argv])


def _raising(error):
  def execute(options):
    raise error

  return execute


@pytest.mark.parametrize('name', program.COMMANDS)
def test_every_command_helps(name, capsys):
  assert program.main(['salflax', name, '--help']) == 0
  text = capsys.readouterr().out
  assert re.search(f'salflax {name} .*--', text)  # an example
  assert '--[no]debug' in text and '--[no]quiet' in text
  assert max(map(len, text.splitlines())) <= 80


def test_the_commands_are_listed(capsys):
  assert program.main(['salflax']) == 0
  text = capsys.readouterr().out
  for name, module in program.COMMANDS.items():
    assert f'\n  {name} ' in text and program.describe(module) in text


def test_every_command_is_in_the_table():
  files = {p.stem for p in (ROOT / 'salflax/cli').glob('*.py')}
  # Parts of commands.
  files = {f for f in files if not f.startswith('bench_')}
  files -= {'__init__', 'config_file', 'torch_network'}
  assert files == set(program.COMMANDS) - {'train'}


def _examples():
  """Yields (file, command, its flags) of every line that runs salflax."""
  files = [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]
  files += [*(ROOT / 'configs').glob('*.py'), *(ROOT / 'salflax').rglob('*.py')]
  for path in files:
    text = re.sub(r'\\\\?\n\s*', ' ', path.read_text())
    for match in re.finditer(r'^ *salflax (\w+) (.*--.*)$', text, re.MULTILINE):
      words = re.findall(
        r' --(?:no)?([\w-]+)', f' {match[2]}'.partition('#')[0]
      )
      names = [name.replace('-', '_') for name in words if name != 'help']
      yield path.name, match[1], names


def test_examples_in_the_docs_have_flags_that_exist():
  examples = [*_examples()]
  assert {c for _, c, _ in examples} == set(program.COMMANDS)
  names = {}
  for command, module in program.COMMANDS.items():
    values = flags.FlagValues()
    importlib.import_module(module).define_flags(values)
    names[command] = {*values, 'quiet', 'debug'}
  assert not [x for x in examples if set(x[2]) - names[x[1]]]


def test_a_misspelt_command(capsys):
  assert program.main(['salflax', 'pedict']) == 2
  assert "Did you mean 'predict'?" in capsys.readouterr().err


def test_help_is_quick_and_needs_no_jax():
  code = (
    'import sys; from salflax import __main__ as m\n'
    'codes = [m.main(["salflax", c, "--help"]) for c in m.COMMANDS]\n'
    'sys.exit(any(codes) or "jax" in sys.modules)'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT)
  assert done.returncode == 0


def test_defaults_and_choices_are_in_the_help(capsys):
  assert _call(_raising(AssertionError), '--help') == 0
  text = capsys.readouterr().out
  assert '--out=...\n      Folder. Default: here.' in text
  assert '<a|b>: Kind. Default: a.' in text


@pytest.mark.parametrize(
  'argument, message',
  [
    ('--oot=x', "Unknown command line flag 'oot'. Did you mean: out"),
    ('--kind=c', 'should be one of <a|b>'),
    ('x', 'Unexpected arguments: x.'),
  ],
)
def test_usage_is_2(argument, message, capsys):
  assert _call(_raising(AssertionError), argument) == 2
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  'error, message',
  [
    (ValueError('bad value'), 'salflax: bad value\n'),
    (FileNotFoundError('no such file'), 'salflax: no such file\n'),
    (KeyError('x'), "salflax: KeyError: 'x'. --debug shows where it rose."),
    (RecursionError(), 'salflax: RecursionError. --debug'),
    (ModuleNotFoundError("No module named 'ot'", name='ot'), 'pip install pot'),
    (ImportError('emd needs POT: pip install pot'), 'POT: pip install pot\n'),
  ],
)
def test_an_error_is_one_message_and_1(error, message, capsys):
  error.add_note('A note.')
  assert _call(_raising(error)) == 1
  err = capsys.readouterr().err
  assert message in err and 'A note.' in err and 'Traceback' not in err


def test_debug_shows_the_traceback():
  with pytest.raises(ValueError, match='bad value'):
    _call(_raising(ValueError('bad value')), '--debug')


@pytest.mark.parametrize('debug', [(), ('--debug',)])
def test_interrupted_is_130(debug, capsys):
  assert _call(_raising(KeyboardInterrupt), *debug) == 130
  assert capsys.readouterr().err == 'Interrupted.\n'


def test_a_code_is_handed_on():
  assert _call(lambda options: 1) == 1
  assert _call(lambda options: None) == 0


def test_quiet_shows_results_and_warnings_alone(capsys, monkeypatch):
  monkeypatch.setenv('TQDM_DISABLE', '0')

  def execute(options):
    print('a result')
    cli.say('a warning')

  assert _call(execute, '--quiet') == 0
  assert os.environ['TQDM_DISABLE'] == '1'
  captured = capsys.readouterr()
  assert (captured.out, captured.err) == ('a result\n', 'a warning\n')


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_any_text_can_be_printed(encoding, monkeypatch):
  out = io.TextIOWrapper(io.BytesIO(), encoding)
  monkeypatch.setattr(sys, 'stdout', out)
  text = 'AUC ↑ é 红伞 \udcff \x1b[31m \x07 \u202e end'
  assert _call(lambda options: print(text)) == 0
  written = out.buffer.getvalue().decode(encoding)
  assert '\x1b' not in written and '\x07' not in written
  assert '\\x1b[31m' in written and '\\x07' in written
  assert ('↑' if encoding == 'utf-8' else '\\u2191') in written
  assert written.endswith('\\udcff \\x1b[31m \\x07 \\u202e end\n')


def test_a_reader_that_leaves_is_no_traceback():
  code = (
    'from salflax import cli\n'
    'def execute(options):\n'
    '  for i in range(100_000): print(i)\n'
    'cli.run(lambda values: None, execute)'
  )
  done = subprocess.run(
    f'{sys.executable} -c "$CODE" | head -1; exit ${{PIPESTATUS[0]}}',
    shell=True,
    executable='/bin/bash',
    env=dict(os.environ, CODE=code),
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert (done.returncode, done.stdout, done.stderr) == (1, '0\n', '')


def test_sigterm_leaves_no_unfinished_file(tmp_path):
  code = (
    'import os, signal, sys\n'
    'from salflax import cli\n'
    'from salflax.core import files\n'
    'def execute(options):\n'
    '  with files.replacing(path) as temporary:\n'
    '    temporary.write_text("half")\n'
    '    os.kill(os.getpid(), signal.SIGTERM)\n'
    '    signal.pause()\n'
    'path = sys.argv.pop()\n'
    'cli.run(lambda values: None, execute)'
  )
  done = subprocess.run([sys.executable, '-c', code, tmp_path / 'x'], cwd=ROOT)
  assert done.returncode == 143
  assert not list(tmp_path.iterdir())


class TestConfig:
  @pytest.fixture(autouse=True)
  def folder(self, monkeypatch):
    monkeypatch.chdir(ROOT)

  @pytest.mark.parametrize(
    'arguments, code, message',
    [
      (['--config.sjtu.lss=mse'], 2, "'lss'. Did you mean 'loss'?"),
      (['--config.sjtuu.loss=mse'], 2, "'sjtuu'. Did you mean 'sjtu'?"),
      (['--config.model.backbone.wieghts=x'], 2, "Did you mean 'weights'?"),
      (['--noconfig.sjtu.stor'], 2, "Did you mean 'store'?"),
      (['--config.sjtu.epochs=abc'], 2, '--config.sjtu.epochs=abc'),
      (['--config.sjtu.lr(=1'], 2, 'is no key of a config'),
      (['--config.stages.x=1'], 2, 'stages'),
      (['--config.sjtu=1'], 2, '--config.sjtu=1'),
      (['--wrkdir=x'], 2, 'Did you mean: workdir'),
    ],
  )
  def test_a_wrong_key(self, arguments, code, message, capsys):
    self.refused([f'--config={CONFIG}', *arguments], code, message, capsys)

  @pytest.mark.parametrize(
    'config, message',
    [
      ('configs/sjtu_tiss.py', 'Did you mean configs/sjtu_tis.py?'),
      ('configs/sjtu_tis', 'Did you mean configs/sjtu_tis.py?'),
      ('nowhere/zzz.py', 'configs/quickstart.py'),
      ('configs', 'there is no such file'),
      ('', 'there is no such file'),
      (f'{CONFIG}:foo=1', "Unknown option 'foo'"),
      (f'{CONFIG}:fusio=gate', "Did you mean 'fusion'?"),
      (f'{CONFIG}:levels=x', "'x' is no int"),
      (f'{CONFIG}:levels=7', 'levels'),
      (f'{CONFIG}:condition=pur', "Did you mean 'pure'?"),
      ('configs/text_guided.py:row=x', 'Unknown row'),
    ],
  )
  def test_a_wrong_config(self, config, message, capsys):
    self.refused([f'--config={config}'], 1, message, capsys)

  @pytest.mark.parametrize(
    'text, message',
    [
      ('x = 1', 'get_config'),
      ('def get_config(:', 'line 1'),
      ('import nothing_of_this_name', 'nothing_of_this_name'),
      ('def get_config(): return 3', 'must return a config'),
      ('def get_config(): return {}["x"]', "KeyError: 'x'"),
      ('\0', 'null bytes'),
    ],
  )
  def test_a_broken_file(self, text, message, capsys, tmp_path):
    path = tmp_path / 'c.py'
    path.write_text(text)
    self.refused([f'--config={path}'], 1, message, capsys)

  def refused(self, arguments, code, message, capsys):
    assert program.main(['salflax', 'train', *arguments, '--check']) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert 'Traceback' not in captured.err and not captured.out
    assert len(captured.err) < 1500
