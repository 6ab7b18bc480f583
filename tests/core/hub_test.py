"""Where weights are found, and what is said where they are not."""

import time

import pytest

from salflax.core import hub

WEIGHTS = ('model.safetensors', 'pytorch_model.bin')


def test_locate_files_and_folders(tmp_path, monkeypatch):
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path))
  folder = tmp_path / 'org' / 'net'
  folder.mkdir(parents=True)
  (folder / 'model.safetensors').touch()
  (folder / 'other.pth').touch()
  (folder / 'config.json').touch()
  files = ('model.safetensors', 'pytorch_model.bin')
  weights = folder / 'model.safetensors'
  assert hub.locate(folder, files=files) == weights
  assert hub.locate('org/net', files=files) == weights
  assert hub.locate(weights, files=files) == weights
  config = folder / 'config.json'
  assert hub.locate(folder / 'other.pth', files=('config.json',)) == config
  assert hub.locate(config, files=files) == weights
  with pytest.raises(FileNotFoundError, match=r'vocab\.txt.*it holds config'):
    hub.locate(folder, files=('vocab.txt',))
  with pytest.raises(FileNotFoundError, match='Did you mean .*other.pth'):
    hub.locate(folder / 'othr.pth', files=files)


@pytest.mark.parametrize(
  'name', ['timm/resnet50.tv_in1k', 'bert-base-uncased', 'not a name!']
)
def test_absent_weights_fail_soon_and_say_what_to_do(
  tmp_path, monkeypatch, name
):
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path))
  monkeypatch.setattr(hub, '_reachable', lambda: False)
  with pytest.raises(FileNotFoundError) as e:
    hub.locate(name, files=('model.safetensors',), beside=('config.json',))
  assert f'package {name!r} here' in str(e.value)
  assert f'{tmp_path / name}' in str(e.value)
  assert 'model.safetensors, config.json' in str(e.value)


def test_an_unreachable_hub_is_noticed_within_seconds(monkeypatch):
  monkeypatch.delenv('HTTPS_PROXY', raising=False)
  monkeypatch.delenv('https_proxy', raising=False)
  endpoint = 'https://salflax.invalid'
  monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', endpoint)
  start = time.monotonic()
  assert not hub._reachable()
  assert time.monotonic() - start < 2 * hub.TIMEOUT


@pytest.fixture
def online(tmp_path, monkeypatch):
  """Stands in for the network: a function that answers downloads."""
  monkeypatch.setenv('SALFLAX_WEIGHTS', str(tmp_path))
  monkeypatch.setattr(hub, '_reachable', lambda: True)

  def install(answer):
    monkeypatch.setattr(
      *(hub.transformers().utils, 'cached_file'),
      lambda name, file, **_: answer(name, file),
    )

  return install


def test_download_takes_the_first_file_the_repository_has(online, tmp_path):
  def answer(name, file):
    if file == WEIGHTS[0]:
      raise OSError('404')
    return str(tmp_path / name / file)

  online(answer)
  got = hub.locate('some/net', files=WEIGHTS)
  assert got == tmp_path / 'some/net' / WEIGHTS[1]


def test_failed_downloads_say_why(online):
  def answer(name, file):
    raise OSError('disk full\nand more')

  online(answer)
  with pytest.raises(FileNotFoundError, match='Hub: disk full'):
    hub.locate('some/net', files=WEIGHTS)
