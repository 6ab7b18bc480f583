"""Runs the application: socket, connections, signals."""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_IDLE_SECONDS = 30  # of a connection on which no request begins
_STOP_SECONDS = 90  # for what has begun when the server is asked to stop


class _Connection(H11Protocol):
  """A connection that ends where no whole request arrives, or none is read."""

  _timer = None

  def connection_made(self, transport):
    super().connection_made(transport)
    self._watch()

  def connection_lost(self, exc):
    self._timer.cancel()
    super().connection_lost(exc)

  def on_response_complete(self):
    super().on_response_complete()
    self._watch()

  def _watch(self, unsent=0):
    if self._timer:
      self._timer.cancel()
    self._timer = self.loop.call_later(
      _IDLE_SECONDS, self._end_idle, self.cycle, unsent
    )

  def _end_idle(self, cycle, before):
    if self.cycle is not cycle or not (
      cycle is None or cycle.response_complete
    ):
      return  # a request is under way, which has limits of its own
    unsent = self.transport.get_write_buffer_size()
    if unsent and unsent != before:
      self._watch(unsent)  # the client reads its answer, slowly
    else:
      self.transport.abort()

  def send_400_response(self, msg):
    """Answers what is no HTTP, in JSON as all else."""
    body = json.dumps({'error': msg, 'status': 400}).encode()
    headers = [
      ('content-type', 'application/json'),
      ('content-length', str(len(body))),
      ('connection', 'close'),
    ]
    try:
      for event in (
        h11.Response(status_code=400, headers=headers, reason=b'Bad Request'),
        h11.Data(data=body),
        h11.EndOfMessage(),
      ):
        self.transport.write(self.conn.send(event))
    except h11.LocalProtocolError:
      pass  # in the middle of an answer, which ends here
    self.transport.close()


class _Server(uvicorn.Server):
  """A server that does not end its process by the signal it was sent."""

  @contextlib.contextmanager
  def capture_signals(self):
    yield


def listen(host: str, port: int) -> socket.socket:
  """Opens the socket, before a network is loaded for nothing.

  Args:
    host: name or address.
    port: port; 0 for any that is free.

  Raises:
    OSError: the port is in use, or the address is not of this machine.
  """
  try:
    family, *_, address = socket.getaddrinfo(
      host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    return socket.create_server(address[:2], family=family)
  except OSError as e:
    raise OSError(
      f'Cannot listen on --host={host} --port={port}: {e.strerror or e}. '
      '--port=0 takes a port that is free.'
    ) from e


def url(server_socket: socket.socket) -> str:
  """Writes the address that a browser takes."""
  host, port = server_socket.getsockname()[:2]
  return f'http://{f"[{host}]" if ":" in host else host}:{port}/'


def run(
  app: ASGIApp,
  server_socket: socket.socket,
  *,
  ready: Callable[[], None] = lambda: None,
) -> None:
  """Serves until SIGTERM or Ctrl-C, and finishes what has begun.

  Args:
    app: the application.
    server_socket: see `listen`.
    ready: called when requests are answered.

  Raises:
    KeyboardInterrupt: after Ctrl-C.
  """
  server = _Server(
    uvicorn.Config(
      app,
      http=_Connection,
      ws='none',
      lifespan='on',
      log_config=None,
      log_level='error',
      access_log=False,
      server_header=False,
      timeout_keep_alive=_IDLE_SECONDS,
      timeout_graceful_shutdown=_STOP_SECONDS,
    )
  )
  signals = []

  def stop(number):
    server.force_exit = bool(signals)
    server.should_exit = True
    signals.append(number)

  async def serve():
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
      loop.add_signal_handler(number, stop, number)
    serving = asyncio.ensure_future(server.serve([server_socket]))
    while not server.started and not serving.done():
      await asyncio.sleep(0.02)
    if server.started:
      ready()
    await serving

  asyncio.run(serve())
  if signal.SIGINT in signals:
    raise KeyboardInterrupt
