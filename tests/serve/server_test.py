"""The server in a process of its own, and the command `serve`."""

import json
import signal
import socket
import threading
import urllib.parse

import fake_server
import fakes
import httpx2 as httpx
import pytest

from salflax import cli
from salflax.cli import serve
from salflax.predict import predictor as predictor_lib
from salflax.serve import app as app_lib
from salflax.serve import server


@pytest.fixture(scope='module')
def url():
  with fake_server.running('Red', upload_seconds=0.5) as (_, url):
    yield url


def connect(url):
  address = urllib.parse.urlsplit(url)
  sock = socket.create_connection((address.hostname, address.port))
  sock.settimeout(20)
  return sock


def raw(url, data):
  """Sends bytes and returns the whole answer."""
  with connect(url) as sock:
    sock.sendall(data)
    answer = b''
    while part := sock.recv(65536):
      answer += part
  return answer


def test_no_http_is_answered_in_json(url):
  head, _, body = raw(url, b'hello\r\n\r\n').partition(b'\r\n\r\n')
  assert head.startswith(b'HTTP/1.1 400') and json.loads(body)['status'] == 400


def test_a_slow_client_is_told_so(url):
  head = (
    b'POST /api/predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\n'
    b'content-type: multipart/form-data; boundary=b\r\n'
    b'content-length: 5000\r\n\r\n--b'
  )
  head, _, body = raw(url, head).partition(b'\r\n\r\n')
  assert head.startswith(b'HTTP/1.1 408') and b'0.5 s' in body


def test_a_large_body_is_read_to_the_end_before_it_is_refused(url):
  answer = httpx.post(f'{url}api/predict', json={'image': 'x' * 20_000_000})
  assert answer.status_code == 415 and 'curl' in answer.json()['error']
  files = {'image': bytes(40_000_000)}
  answer = httpx.post(f'{url}api/predict', files=files, timeout=30)
  assert answer.status_code == 413 and '16,000,000' in answer.json()['error']


def test_those_who_leave_do_no_harm(url):
  request = httpx.Request('POST', url, files={'image': fakes.png()})
  body = request.read()
  head = 'POST /api/predict HTTP/1.1\r\nhost: x\r\ncontent-type: '
  head += request.headers['content-type'] + f'\r\ncontent-length: {len(body)}'
  data = head.encode() + b'\r\n\r\n' + body
  for size in (10, len(head) + 50, len(data)):
    for half in (False, True):
      with connect(url) as sock:
        sock.sendall(data[:size])
        if half:
          sock.shutdown(socket.SHUT_WR)
  with httpx.Client(base_url=url) as client:
    answer = client.post('/api/predict', files={'image': fakes.png()})
    assert answer.status_code == 200
    assert client.get('/healthz').json() == {'status': 'ok'}


def test_sigterm_finishes_what_has_begun():
  with fake_server.running('Slow') as (process, url):
    answers = []
    ask = lambda: answers.append(
      httpx.post(f'{url}api/predict', files={'image': fakes.png()}, timeout=30)
    )
    thread = threading.Thread(target=ask)
    thread.start()
    while 'under_way 1.0' not in httpx.get(f'{url}metrics').text:
      pass
    process.send_signal(signal.SIGTERM)
    thread.join()
    assert process.wait(20) == 0
    assert answers[0].status_code == 200
    with pytest.raises(httpx.ConnectError):
      httpx.get(url)


def run(*argv):
  return cli.call(serve.define_flags, serve.execute, ['serve', *argv])


def test_a_port_in_use_stops_before_anything_is_loaded(capsys):
  with server.listen('127.0.0.1', 0) as sock:
    port = sock.getsockname()[1]
    assert run(f'--port={port}', '--run=nothing') == 1
  err = capsys.readouterr().err
  assert f'--port={port}' in err and 'in use' in err
  assert run('--host=no.such.host.invalid', '--run=nothing') == 1
  assert run('--port=70000') == 2
  assert run('--max_mb=nan') == run('--max_seconds=inf') == 2
  assert '--max_mb=nan is no finite number' in capsys.readouterr().err


def test_a_network_that_fails_is_named(monkeypatch, capsys):
  class Broken:
    def predict(self, pairs, **options):
      raise ValueError('no memory for the weights')

  monkeypatch.setattr(predictor_lib.Predictor, 'load', lambda *a, **k: Broken())
  assert run('--port=0', '--run=x') == 1
  assert 'no memory for the weights' in capsys.readouterr().err


def test_the_command_makes_the_application(monkeypatch, capsys):
  loaded, settings = [], {}
  monkeypatch.setattr(
    predictor_lib.Predictor, 'load', lambda *a, **k: loaded.append((a, k))
  )
  monkeypatch.setattr(app_lib, 'make', lambda p, **k: settings.update(k))
  monkeypatch.setattr(server, 'run', lambda a, s, *, ready: ready())
  options = ('--max_mb=2', '--max_megapixels=50', '--max_text=9')
  assert run('--port=0', '--run=runs/tsn', '--stage=sjtu', *options) == 0
  assert loaded == [(('runs/tsn',), {'stage': 'sjtu'})]
  limits = settings['limits']
  assert settings['model'] == 'tsn' and limits.file_bytes == 2_000_000
  assert limits.pixels == 50_000_000 and limits.held_pixels == 200_000_000
  assert limits.text_length == 9 and limits.texts == 8
  assert capsys.readouterr().out.startswith('http://127.0.0.1:')
  assert run('--port=0') == 0
  assert loaded[1] == ((), {})
