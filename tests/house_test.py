"""The rules of the house: sizes, who may import whom, names, docstrings.

docs/design.md has the reasons.
"""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / 'salflax').rglob('*.py'))
ids = lambda p: str(p.relative_to(ROOT))

MAX_FUNCTION = 60  # lines, without the docstring
MAX_FILE = 350  # lines
MAX_PACKAGE = 18_800  # lines of code: no docstrings, comments, blank lines

# Rooms, from the highest floor to the lowest: a room imports what stands lower.
# Rooms that share a floor do not see each other.
FLOORS = (
  ('__main__', 'main'),
  ('cli',),
  ('report', 'serve'),
  ('predict',),
  ('config',),
  ('train',),
  ('evaluate',),
  ('data', 'losses', 'metrics', 'models'),
  ('core',),
  ('salflax',),  # the version
)
# These need no jax, so that a report or a table is made anywhere.
WITHOUT_JAX = (
  'cli.report',
  'core.files',
  'core.hub',
  'core.paths',
  'core.spec',
  'core.types',
  'data',
  'data.pp',
  'data.scenes',
  'data.tokenizer',
  'evaluate.rows',
  'metrics',
  'report',
)
# What is slow to import, or that not everybody has; with who may ask for it
# when imported.
HEAVY = {
  'h5py': (),
  'jinja2': (),
  'matplotlib': (),
  'openpyxl': (),
  'ot': (),
  'pysaliency': (),
  'tensorboardX': (),
  'tensorflow': (),
  'tensorflow_datasets': ('data.builder', 'data.prepare'),
  'torch': (),
  'transformers': (),
}


def name_of(path):
  """Writes 'data.pp' for salflax/data/pp.py, 'data' for its __init__."""
  parts = path.relative_to(ROOT / 'salflax').with_suffix('').parts
  return '.'.join(p for p in parts if p != '__init__') or 'salflax'


def unit_of(name):
  return name.split('.')[0]


MODULES = {name_of(p): p for p in FILES}
TREES = {name: ast.parse(p.read_text()) for name, p in MODULES.items()}


def imports(tree):
  """Yields (imported module, its line), those inside functions too."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name, node.lineno
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'line {node.lineno}: imports are absolute'
      for alias in node.names:
        yield f'{node.module}.{alias.name}', node.lineno


def own_imports(tree):
  """Yields (module, line): 'data.pp' for `from salflax.data import pp`."""
  for name, line in imports(tree):
    if name.split('.')[0] == 'salflax':
      name = name.removeprefix('salflax').removeprefix('.')
      while name and name not in MODULES:
        name = name.rpartition('.')[0]
      yield name or 'salflax', line


def functions(tree, *, prefix='', public=True):
  """Yields (qualified name, node, whether it is public, its class or None)."""
  for node in tree.body:
    if isinstance(node, ast.ClassDef):
      yield from functions(
        node,
        prefix=f'{prefix}{node.name}.',
        public=public and not node.name.startswith('_'),
      )
    elif isinstance(node, ast.FunctionDef):
      inner = isinstance(tree, ast.ClassDef)
      visible = public and not node.name.startswith('_')
      yield prefix + node.name, node, visible, inner


def docstring_lines(node):
  if ast.get_docstring(node, clean=False) is None:
    return set()
  first = node.body[0]
  return set(range(first.lineno, first.end_lineno + 1))


def code_lines(path, tree):
  docs = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
      docs |= docstring_lines(node)
  return sum(
    bool(line.strip()) and not line.strip().startswith('#') and n not in docs
    for n, line in enumerate(path.read_text().splitlines(), 1)
  )


def test_functions_fit_on_a_page():
  long = {}
  for name, tree in TREES.items():
    for node in ast.walk(tree):
      if isinstance(node, ast.FunctionDef):
        size = node.end_lineno - node.lineno + 1 - len(docstring_lines(node))
        if size > MAX_FUNCTION:
          long[f'{name}.{node.name}'] = size
  assert not long


def test_files_can_be_read_in_one_go():
  sizes = {ids(p): len(p.read_text().splitlines()) for p in FILES}
  assert not {k: v for k, v in sizes.items() if v > MAX_FILE}


def test_the_package_stays_small():
  assert sum(code_lines(MODULES[n], t) for n, t in TREES.items()) <= MAX_PACKAGE


def test_every_room_has_its_floor():
  listed = [room for floor in FLOORS for room in floor]
  assert len(listed) == len(set(listed))
  assert set(listed) == {unit_of(name) for name in MODULES}


@pytest.mark.parametrize('name', MODULES)
def test_modules_import_what_stands_lower(name):
  level = {room: i for i, floor in enumerate(FLOORS) for room in floor}
  mine = unit_of(name)
  wrong = [
    f'line {line}: {other}'
    for other, line in own_imports(TREES[name])
    if unit_of(other) != mine and level[unit_of(other)] <= level[mine]
  ]
  assert not wrong


@pytest.mark.parametrize('name', MODULES)
def test_what_is_imported_is_there(name):
  """In functions, too, where nothing else would notice before they run."""
  importlib.import_module(f'salflax.{name}' if name != 'salflax' else name)
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.ImportFrom) and node.module.startswith('salflax'):
      module = importlib.import_module(node.module)
      for alias in node.names:
        if not hasattr(module, alias.name):
          importlib.import_module(f'{node.module}.{alias.name}')


@pytest.mark.parametrize('name', WITHOUT_JAX)
def test_some_modules_need_no_jax(name):
  code = (
    f'import sys, salflax.{name}\n'
    f'heavy = {("jax", "flax", *HEAVY)!r}\n'
    'loaded = [m for m in heavy if m in sys.modules]\n'
    'sys.exit(f"imports {loaded}" if loaded else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('name', MODULES)
def test_heavy_libraries_are_imported_where_they_are_used(name):
  wrong = []
  for node in TREES[name].body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      for other, line in imports(ast.Module([node], [])):
        library = other.split('.')[0]
        if library in HEAVY and name not in HEAVY[library]:
          wrong.append(f'line {line}: {library}')
  assert not wrong


def _calls(tree):
  for node in ast.walk(tree):
    if isinstance(node, ast.Call):
      yield ast.unparse(node.func), node


@pytest.mark.parametrize('name', MODULES)
def test_flags_and_settings_of_jax_belong_to_the_program(name):
  tree, unit = TREES[name], unit_of(name)
  called = {f for f, _ in _calls(tree)}
  if name != 'main':
    assert 'jax.config.update' not in called
  if unit not in ('main', 'cli'):
    assert not [f for f in called if f.startswith(('flags.', 'app.'))]
    assert not [
      other for other, _ in imports(tree) if other in ('absl.flags', 'absl.app')
    ]


@pytest.mark.parametrize('name', MODULES)
def test_configs_have_every_key(name):
  """A default at the point of use would hide a misspelt key."""
  if unit_of(name) in ('models', 'data'):  # a checkpoint's or a tokenizer's
    return
  assert not [f for f, _ in _calls(TREES[name]) if f.endswith('config.get')]
  if unit_of(name) != 'config':
    assert 'ConfigDict' not in MODULES[name].read_text()


def test_configs_import_nothing_heavy():
  for path in (ROOT / 'configs').glob('*.py'):
    names = {
      other if other.startswith('salflax') else other.split('.')[0]
      for other, _ in imports(_parse(path))
    }
    light = {'configs', 're', 'ml_collections'}
    own = {'salflax.config.schema', 'salflax.core.spec'}
    assert names <= light | own, path


def _parse(path):
  return ast.parse(path.read_text(), str(path))


@pytest.mark.parametrize('folder', ['tests', 'configs'])
def test_every_file_parses(folder):
  for path in (ROOT / folder).rglob('*.py'):
    _parse(path)


@pytest.mark.parametrize('name', MODULES)
def test_public_names_say_what_they_mean(name):
  tree, missing = TREES[name], []
  if ast.get_docstring(tree) is None:
    missing.append('the module')
  for node in tree.body:
    if isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
      if ast.get_docstring(node) is None:
        missing.append(node.name)
  for full, node, public, inner in functions(tree):
    short = inner and node.end_lineno - node.lineno < 6
    if public and not short and ast.get_docstring(node) is None:
      missing.append(full)
  assert not missing


@pytest.mark.parametrize('name', MODULES)
def test_switches_are_named_where_they_are_called(name):
  """f(x, True) tells a reader nothing."""
  wrong = []
  for full, node, public, inner in functions(TREES[name]):
    arguments = node.args.posonlyargs + node.args.args
    defaults = [None] * (len(arguments) - len(node.args.defaults))
    for arg, default in zip(arguments, defaults + node.args.defaults):
      switch = isinstance(default, ast.Constant) and default.value in (
        *(True, False),
      )
      switch = switch and isinstance(default.value, bool)
      annotated = arg.annotation and ast.unparse(arg.annotation) == 'bool'
      if (switch or annotated) and (public or inner):
        wrong.append(f'{full}({arg.arg})')
  assert not wrong


def test_options_of_losses_and_metrics_are_named():
  from salflax import losses, metrics

  inputs = ('rng',)  # a draw is an input, not an option
  for table in (losses.LOSSES, metrics.METRICS):
    for name, entry in table.items():
      for p in inspect.signature(entry.fn).parameters.values():
        optional = p.default is not p.empty and p.name not in inputs
        assert not optional or p.kind is p.KEYWORD_ONLY, (name, p.name)


KEY_MAKERS = ('jax.random.key', 'jax.random.fold_in', 'jax.random.split')


@pytest.mark.parametrize('name', MODULES)
def test_keys_are_keys_and_generators_are_rngs(name):
  wrong = []
  for node in ast.walk(TREES[name]):
    if isinstance(node, ast.arg):
      note = ast.unparse(node.annotation) if node.annotation else ''
      if 'Generator' in note and not node.arg.endswith('rng'):
        wrong.append(node.arg)
      if node.arg in ('prng', 'prng_key', 'rng_key', 'prngkey', 'generator'):
        wrong.append(node.arg)
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
      maker = ast.unparse(node.value.func)
      ending = None
      if maker.endswith('random.default_rng'):
        ending = ('rng',)
      elif maker in KEY_MAKERS:
        ending = ('key', 'keys')
      for target in node.targets:
        if ending and not ast.unparse(target).strip('()').endswith(ending):
          wrong.append(f'{ast.unparse(target)} = {maker}')
  assert not wrong


def _committed():
  done = subprocess.run(
    ['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True
  )
  if done.returncode:
    pytest.skip('not a clone of the repository')
  for name in filter(None, done.stdout.split('\0')):
    path = ROOT / name
    try:
      yield name, path.read_text(encoding='utf-8')
    except (UnicodeDecodeError, FileNotFoundError):
      continue  # an array, or a file that is being removed


def test_nothing_names_a_machine():
  pattern = re.compile(r'(?<![\w.~$}<-])/(?:wor[k]|roo[t]|hom[e]/\w+|User[s])/')
  names = [
    f'{name}: {match.group()}'
    for name, text in _committed()
    for match in [pattern.search(text)]
    if match
  ]
  assert not names


def test_files_are_small_enough_for_a_repository():
  large = [
    name for name, _ in _committed() if (ROOT / name).stat().st_size > 1_200_000
  ]
  assert not large


def test_the_tree_in_the_docs_is_the_tree():
  text = (ROOT / 'docs' / 'design.md').read_text()
  table = text.partition('## The tree')[2].partition('\n## ')[0]
  rooms = {f'{unit_of(name)}' for name in MODULES} - {
    'salflax',
    'main',
    '__main__',
  }
  assert rooms == set(re.findall(r'^\| `(\w+)/` \|', table, re.M))
  for room, files in re.findall(r'^\| `(\w+)/` \|(.*)$', table, re.M):
    for file in re.findall(r'`([\w/]+\.\w+)`', files):
      assert (ROOT / 'salflax' / room / file).is_file(), f'{room}/{file}'


def test_links_in_the_docs_lead_somewhere():
  for path in [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]:
    for target in re.findall(r'\]\(([^)#]+)', path.read_text()):
      if '://' not in target:
        assert (path.parent / target).exists(), f'{path.name}: {target}'


def test_commands_in_the_docs_are_there():
  for path in [ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]:
    text = path.read_text()
    for module in set(re.findall(r'python -m (salflax[\w.]*)', text)):
      assert module.removeprefix('salflax.') in MODULES, (
        f'{path.name}: {module}'
      )
    for script in set(re.findall(r'launch/[\w.]+\w', text)):
      assert (ROOT / script).is_file(), f'{path.name}: {script}'
    for config in set(re.findall(r'configs/\w+\.py', text)):
      assert (ROOT / config).is_file(), f'{path.name}: {config}'


def test_the_code_is_formatted():
  names = [name for name, _ in _committed() if name.endswith('.py')]
  for arguments in (['check'], ['format', '--check']):
    done = subprocess.run(
      [sys.executable, '-m', 'ruff', *arguments, *names],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
