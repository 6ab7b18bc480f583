"""Who is admitted, and how an order is answered."""

import asyncio
import collections
import contextlib
import logging
from collections.abc import AsyncIterator

import prometheus_client
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from salflax.predict.predictor import SentenceError
from salflax.serve import answers, uploads
from salflax.serve.batcher import Batcher
from salflax.serve.limits import Limits, Refusal

_LOG = logging.getLogger('salflax')


class Counts:
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


class Desk:
  """Admits requests and has them answered.

  Args:
    batcher: the network's thread.
    limits: limits of requests.
    model: name of the model in answers.
    counts: counts for Prometheus.
  """

  def __init__(
    self, batcher: Batcher, limits: Limits, model: str, counts: Counts
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
      areas = await asyncio.to_thread(
        uploads.read_areas, order, image.shape[:2], self.limits
      )
      waiting = [
        asyncio.wrap_future(self.batcher.submit(image, text))
        for text in order.texts
      ]
      try:
        maps = await asyncio.gather(*waiting)
      finally:
        for future in waiting:
          future.cancel()
      return await asyncio.to_thread(
        answers.body, order, areas, maps, self.model
      )

  async def predict(self, request: Request) -> Response:
    """Answers a prediction; one whose client left is dropped."""
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
  except SentenceError as e:
    raise Refusal(422, str(e)) from e
  except Exception as e:
    _LOG.exception('A prediction failed.')
    raise Refusal(500, 'The server failed; its log has the reason.') from e


async def _disconnect(receive: Receive) -> None:
  while (await receive())['type'] != 'http.disconnect':
    pass
