"""The web application: the page, the API, health, counts."""

import asyncio
import collections
import contextlib
import functools
import json
import logging
import pathlib
import time
from collections.abc import AsyncIterator
from typing import Any

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import salflax
from salflax.serve import answers, uploads
from salflax.serve.batcher import Batcher
from salflax.serve.limits import DEFAULTS, Limits, Refusal

_LOG = logging.getLogger('salflax')
_PAGE = pathlib.Path(__file__).parent / 'page'
FILES = {
  '/': ('index.html', 'text/html'),
  '/page.css': ('page.css', 'text/css'),
  '/page.js': ('page.js', 'text/javascript'),
  '/maps.js': ('maps.js', 'text/javascript'),
  '/areas.js': ('areas.js', 'text/javascript'),
  '/icon.svg': ('icon.svg', 'image/svg+xml'),
}
_HEADERS = {
  'content-security-policy': (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src "
    "'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
  ),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
}
_SEND_SECONDS = 60  # for a client to take the next piece of its answer


class _Counts:
  """Counts for Prometheus, of one application."""

  def __init__(self):
    self.registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=self.registry)
    add = {'registry': self.registry}
    self.requests = prometheus_client.Counter(
      'salflax_requests', 'Requests.', ('path', 'status'), **add
    )
    self.seconds = prometheus_client.Histogram(
      'salflax_request_seconds', 'Time of an answer.', ('path',), **add
    )
    self.batches = prometheus_client.Histogram(
      'salflax_batch_images',
      'Images that went through the network at once.',
      buckets=(1, 2, 4, 8, 16, 32),
      **add,
    )
    self.under_way = prometheus_client.Gauge(
      'salflax_requests_under_way', 'Predictions that are not answered.', **add
    )


class _Frame:
  """Middleware: security headers, counts, and an end to slow readers."""

  def __init__(self, app: ASGIApp, counts: _Counts):
    self._app, self._counts = app, counts

  async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
    if scope['type'] != 'http':
      return await self._app(scope, receive, send)
    start, status = time.monotonic(), 500

    async def sending(message: Message) -> None:
      nonlocal status
      if message['type'] == 'http.response.start':
        status = message['status']
        message['headers'] += [
          (k.encode(), v.encode()) for k, v in _HEADERS.items()
        ]
      async with asyncio.timeout(_SEND_SECONDS):
        await send(message)

    try:
      await self._app(scope, receive, sending)
    except TimeoutError:
      raise ConnectionError('The client does not read its answer.') from None
    finally:
      known = scope['path'] in (*FILES, *_ROUTES)
      path = scope['path'] if known else 'other'
      self._counts.requests.labels(path, status).inc()
      self._counts.seconds.labels(path).observe(time.monotonic() - start)


class _Desk:
  """Admits requests and has them answered.

  Args:
    batcher: the network's thread.
    limits: limits of requests.
    model: name of the model in answers.
    counts: counts for Prometheus.
  """

  def __init__(
    self, batcher: Batcher, limits: Limits, model: str, counts: _Counts
  ):
    self.batcher, self.limits, self.model = batcher, limits, model
    self._counts = counts
    self._clients = collections.Counter()
    self._held, self._turn = 0, asyncio.Condition()
    self._line = asyncio.Lock()

  @contextlib.contextmanager
  def _admitted(self, client: str):
    if not self.batcher.alive:
      raise Refusal(503, 'The server is stopping.')
    if self._clients.total() >= self.limits.queue:
      raise Refusal(503, 'The server is busy; try again in a moment.')
    if self._clients[client] >= self.limits.per_client:
      raise Refusal(
        429,
        f'{self.limits.per_client} requests of your address are under way; '
        'wait for an answer.',
      )
    self._clients[client] += 1
    self._counts.under_way.inc()
    try:
      yield
    finally:
      self._counts.under_way.dec()
      self._clients[client] -= 1
      self._clients += collections.Counter()  # forgets who has none

  @contextlib.asynccontextmanager
  async def _room(self, order: uploads.Order) -> AsyncIterator[None]:
    """Waits until the request's image and maps fit in memory."""
    fits = lambda: self._held + order.cost <= self.limits.held_pixels
    # In the order of arrival: small ones would keep a large one waiting.
    async with self._line, self._turn:
      await self._turn.wait_for(fits)
      self._held += order.cost
    try:
      yield
    finally:
      self._held -= order.cost
      async with self._turn:
        self._turn.notify_all()

  async def _answer(self, order: uploads.Order) -> bytes:
    async with self._room(order):
      image = await asyncio.to_thread(uploads.decode, order.file)
      waiting = [
        asyncio.wrap_future(self.batcher.submit(image, text))
        for text in order.texts
      ]
      try:
        maps = await asyncio.gather(*waiting)
      finally:
        for future in waiting:
          future.cancel()
      return await asyncio.to_thread(answers.body, order, maps, self.model)

  async def predict(self, request: Request) -> Response:
    """Answers a prediction; one whose client left is given up."""
    client = request.client.host if request.client else ''
    with self._admitted(client):
      order = await uploads.read_order(request, self.limits)
      work = asyncio.ensure_future(self._answer(order))
      gone = asyncio.ensure_future(_disconnect(request.receive))
      try:
        await asyncio.wait(
          (work, gone),
          timeout=self.limits.seconds,
          return_when=asyncio.FIRST_COMPLETED,
        )
        if work.done():
          return Response(_result(work), media_type=answers.TYPES[order.format])
        if gone.done():
          return Response(status_code=499)  # nobody reads it
        raise Refusal(504, f'No answer within {self.limits.seconds:g} s.')
      finally:
        for task in (work, gone):
          task.cancel()


def _result(work: asyncio.Future) -> bytes:
  try:
    return work.result()
  except Refusal:
    raise
  except Exception as e:
    _LOG.exception('A prediction failed.')
    raise Refusal(500, 'The server failed; its log has the reason.') from e


async def _disconnect(receive: Receive) -> None:
  while (await receive())['type'] != 'http.disconnect':
    pass


def _refused(request: Request, error: Exception) -> Response:
  """Makes every error JSON."""
  status = getattr(error, 'status', getattr(error, 'status_code', 500))
  message = getattr(error, 'message', getattr(error, 'detail', None))
  headers = dict(getattr(error, 'headers', None) or {})
  if status in (429, 503):
    headers['retry-after'] = '1'
  if status in (404, 405):
    message = f'{request.method} {request.url.path[:200]}: {message}.'
  if message is None:
    _LOG.error('%s %s', request.method, request.url.path, exc_info=error)
    message = 'The server failed; its log has the reason.'
  return JSONResponse(
    {'error': message, 'status': status}, status, headers=headers
  )


@functools.cache
def _description(limits: Limits) -> dict[str, Any]:
  """Makes the OpenAPI description, with the limits of this server."""
  path = pathlib.Path(__file__).parent / 'openapi.json'
  tree = json.loads(path.read_text(encoding='utf-8'))
  tree['info']['version'] = salflax.__version__
  fields = tree['components']['schemas']['Request']['properties']
  fields['text']['maxItems'] = limits.texts
  fields['text']['items']['maxLength'] = limits.text_length
  fields['image']['description'] += (
    f' At most {limits.file_bytes:,} bytes and {limits.pixels:,} pixels.'
  )
  return tree


def _file(name: str, kind: str):
  async def send_file(request: Request) -> Response:
    del request
    return Response((_PAGE / name).read_bytes(), media_type=kind)

  return send_file


async def _health(request: Request) -> Response:
  alive = request.app.state.desk.batcher.alive
  return JSONResponse(
    {'status': 'ok' if alive else 'stopping'}, 200 if alive else 503
  )


async def _metrics(request: Request) -> Response:
  return Response(
    prometheus_client.generate_latest(request.app.state.counts.registry),
    media_type='text/plain; version=0.0.4',
  )


async def _openapi(request: Request) -> Response:
  return JSONResponse(_description(request.app.state.desk.limits))


async def _about(request: Request) -> Response:
  desk = request.app.state.desk
  return JSONResponse(
    {
      'model': desk.model,
      'version': salflax.__version__,
      'limits': desk.limits._asdict(),
    }
  )


async def _predict(request: Request) -> Response:
  return await request.app.state.desk.predict(request)


_ROUTES = {
  '/api/predict': _predict,
  '/healthz': _health,
  '/metrics': _metrics,
  '/openapi.json': _openapi,
  '/api/about': _about,
}


def make(
  predictor: Any,
  *,
  model: str = 'salflax',
  limits: Limits = DEFAULTS,
  batch_size: int = 8,
) -> Starlette:
  """Makes the application.

  Args:
    predictor: see `predict.predictor.Predictor.predict`.
    model: name of the model in answers.
    limits: limits of requests.
    batch_size: images that go through the network at once.
  """
  counts = _Counts()
  batcher = Batcher(
    predictor, batch_size=batch_size, observe=counts.batches.observe
  )

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await asyncio.to_thread(batcher.start)
    app.state.desk = _Desk(batcher, limits, model, counts)
    yield
    await asyncio.to_thread(batcher.close)

  app = Starlette(
    routes=[
      *(Route(path, _file(*file)) for path, file in FILES.items()),
      *(
        Route(path, f, methods=['POST' if f is _predict else 'GET'])
        for path, f in _ROUTES.items()
      ),
    ],
    exception_handlers={
      Refusal: _refused,
      HTTPException: _refused,
      Exception: _refused,
    },
    lifespan=lifespan,
  )
  app.state.counts = counts
  app.add_middleware(_Frame, counts=counts)
  return app
