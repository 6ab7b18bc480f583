"""The web application: the page, the API, health, counts."""

import asyncio
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
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import salflax
from salflax.serve.batcher import Batcher
from salflax.serve.desk import Counts, Desk
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
_DRAIN_SECONDS = 5  # for the rest of a request that is refused
_SEND_SECONDS = 60  # for a client to take the next piece of its answer


class _Frame:
  """Middleware: security headers, counts, and an end to slow readers."""

  def __init__(self, app: ASGIApp, counts: Counts):
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
      path = scope['path']
      path = path if path in (*FILES, *_ROUTES) else 'other'
      self._counts.requests.labels(path, status).inc()
      self._counts.seconds.labels(path).observe(time.monotonic() - start)


def _refused(request: Request, error: Exception) -> Response:
  """Makes every error JSON."""
  status = getattr(error, 'status_code', 500)
  message = getattr(error, 'detail', None)
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
  try:
    return await request.app.state.desk.predict(request)
  except Refusal as e:
    # Many clients read no answer before they have sent everything.
    if e.status_code != 408:
      with contextlib.suppress(TimeoutError, ClientDisconnect, RuntimeError):
        async with asyncio.timeout(_DRAIN_SECONDS):
          async for _ in request.stream():
            pass
    raise


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
  """Makes the application, and compiles the network for each size of batch.

  Args:
    predictor: see `predict.predictor.Predictor.predict`.
    model: name of the model in answers.
    limits: limits of requests.
    batch_size: images that go through the network at once.
  """
  counts = Counts()
  batcher = Batcher(
    predictor, batch_size=batch_size, observe=counts.batches.observe
  )

  batcher.warm()

  @contextlib.asynccontextmanager
  async def lifespan(app: Starlette) -> AsyncIterator[None]:
    batcher.start()
    app.state.desk = Desk(batcher, limits, model, counts)
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
    exception_handlers={HTTPException: _refused, Exception: _refused},
    middleware=[Middleware(_Frame, counts=counts)],
    lifespan=lifespan,
  )
  app.state.counts = counts
  return app
