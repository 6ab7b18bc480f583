"""The command `train`, with stand-ins for training and evaluation."""

import fcntl
import pathlib

import pytest

from salflax import __main__ as program
from salflax import main
from salflax.core import paths
from salflax.train import loop

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = f'--config={ROOT / "tests/tiny_config.py"}'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('SALFLAX_DATA', str(tmp_path / 'data'))
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path / 'weights'))
  monkeypatch.setenv('HF_HUB_OFFLINE', '1')
  monkeypatch.setattr(main, '_evaluate', lambda *args: None)


def train(*arguments):
  return program.main(['salflax', 'train', *arguments])


@pytest.mark.parametrize(
  'config, workdir',
  [
    ('configs/sjtu_tis.py', 'runs/sjtu_tis'),
    ('/x/sjtu_tis.py:', 'runs/sjtu_tis'),
    ('c.py:small,free=folder:a+osie', 'runs/c-small,free=folder_a+osie'),
    (
      'c.py:fusion=token(dim=96, heads=4)',
      'runs/c-fusion=token_dim=96,_heads=4',
    ),
    ('c.py:../x', 'runs/c-.._x'),
  ],
)
def test_a_workdir_has_the_name_of_the_config(config, workdir):
  assert main.default_workdir(config) == workdir


class Diverged(loop.Diverged):
  def __init__(self):
    super().__init__('loss is nan', 3)


@pytest.mark.parametrize(
  'error, code, message',
  [
    (None, 0, ''),
    (Diverged(), 3, 'salflax: loss is nan'),
    (KeyboardInterrupt(), 130, 'Start again with the same --workdir'),
    (loop.Interrupted('Stopped.'), 130, 'Start again with the same --workdir'),
    (OSError('Cannot write x'), 1, 'salflax: Cannot write x'),
  ],
)
def test_a_config_is_enough(error, code, message, monkeypatch, capsys):
  workdirs = []

  def run(stages, workdir):
    workdirs.append(workdir)
    if error:
      raise error

  monkeypatch.setattr(loop, 'run', run)
  assert train(CONFIG, '--config.only.steps=1') == code
  assert workdirs == [str(pathlib.Path('runs/tiny_config').resolve())]
  assert pathlib.Path('runs/tiny_config/config.json').is_file()
  err = capsys.readouterr().err
  assert message in err and 'Traceback' not in err


def test_check_writes_nothing(capsys):
  assert train(CONFIG, '--check', '--quiet') == 0
  captured = capsys.readouterr()
  assert captured.out == 'The config is sound.\n' and not captured.err
  assert not list(pathlib.Path().iterdir())


@pytest.mark.parametrize('check', [(), ('--check',)])
def test_everything_missing_is_listed_at_once(check, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  config = '--config=configs/sjtu_tis.py:free=osie,text=bert-base-uncased'
  assert train(config, *check) == 1
  err = capsys.readouterr().err
  for text in (
    '4 missing',
    'prepare --dataset=osie',
    'prepare --dataset=sjtu_tis',
    'https://huggingface.co/timm/resnet50.tv_in1k',
    'https://huggingface.co/bert-base-uncased',
  ):
    assert text in err


def test_a_second_training_leaves_the_config_of_the_first(tmp_path, capsys):
  (tmp_path / 'config.json').write_text('{"first": 1}')
  lock = open(tmp_path / '.lock', 'w+')
  lock.write('Process 7 on elsewhere')
  lock.flush()
  fcntl.flock(lock, fcntl.LOCK_EX)  # a file of its own: as another process
  assert train(CONFIG, f'--workdir={tmp_path}') == 1
  assert '7 on elsewhere is training in' in capsys.readouterr().err
  assert (tmp_path / 'config.json').read_text() == '{"first": 1}'


@pytest.mark.parametrize(
  'option, says',
  [
    ('--workdir=az://b/run', 'az://b/run: allowed are folders of this machine'),
    ('--workdir=gs://b/run', "gs://b/run needs fs: pip install 'salflax[gcs]'"),
    (
      '--config.data_dir=s3://b/d',
      "s3://b/d needs fs: pip install 'salflax[s3]'",
    ),
    ('--config.cache_dir=s3://b/c', 'cache_dir=s3://b/c is no folder of this'),
  ],
)
def test_a_bucket_that_cannot_be_used(option, says, capsys, monkeypatch):
  monkeypatch.setattr(paths.importlib.util, 'find_spec', lambda name: None)
  assert train(CONFIG, option) == 1
  assert says in capsys.readouterr().err.replace('gcsfs', 'fs').replace(
    's3fs', 'fs'
  )
  assert not list(pathlib.Path().iterdir())
