"""Serves a predictor of `fakes` on a free port, for tests in real processes.

    python tests/serve/fake_server.py Red '{"queue": 16}'

Prints the address; ends as `salflax serve` does.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import fakes

from salflax.serve import app, limits, server

ROOT = pathlib.Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running(name, **values):
  """Starts a server; gives (process, URL) and ends it if it still runs."""
  path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
  process = subprocess.Popen(
    [sys.executable, __file__, name, json.dumps(values)],
    env=os.environ | {'PYTHONPATH': path},
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    url = process.stdout.readline().strip()
    assert url.startswith('http://127.0.0.1:'), url
    yield process, url
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


def main(name: str, values: str) -> None:
  """Serves until SIGTERM."""
  application = app.make(
    getattr(fakes, name)(),
    model='a stand-in',
    limits=limits.DEFAULTS._replace(**json.loads(values)),
  )
  with server.listen('127.0.0.1', 0) as listening:
    url = server.url(listening)
    server.run(application, listening, ready=lambda: print(url, flush=True))


if __name__ == '__main__':
  main(*sys.argv[1:])
