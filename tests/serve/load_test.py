"""Thousands of requests at once, one in twenty hostile.

    pytest -m nightly -s tests/serve/load_test.py

SALFLAX_REQUESTS is their number, by default 10,000. Prints what was answered,
how fast, and the memory of the server over the requests.
"""

import asyncio
import collections
import functools
import io
import json
import os
import random
import re
import time
import urllib.parse

import fake_server
import fakes
import httpx2 as httpx
import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.nightly
COUNT = int(os.environ.get('SALFLAX_REQUESTS', '10000'))
TOGETHER = 32
HOSTILE = 0.05
TEXTS = ('', 'a', 'red', 'the blue')
SIZES = ((30, 40), (97, 61), (240, 320))
AREA = '[{"name": "left", "box": [0, 0, 20, 20]}]'


@functools.cache
def image(k):
  rng = np.random.default_rng(k)
  height, width = SIZES[k % len(SIZES)]
  small = rng.integers(0, 256, (6, 8, 3), np.uint8)
  pixels = np.asarray(Image.fromarray(small).resize((width, height)))
  return fakes.png(pixels, kind=('PNG', 'JPEG', 'WEBP')[k % 3])


class Client:
  """Good and hostile clients of one server."""

  def __init__(self, url):
    self.address = urllib.parse.urlsplit(url)
    self.http = httpx.AsyncClient(base_url=url, timeout=60)
    self.rng, self.outcomes = random.Random(0), collections.Counter()
    self.predictor = fakes.network()
    self.expected = functools.cache(
      lambda k, text: self.predictor(image(k), text)
    )

  async def post(self, **options):
    return await self.http.post('/api/predict', **options)

  def refused(self, response, *statuses):
    body = response.json()
    assert response.status_code == body['status'] in statuses, response.text
    assert body['error']

  async def good(self):
    k, text = self.rng.randrange(12), self.rng.choice(TEXTS)
    other = self.rng.choice(TEXTS)
    files = {'image': image(k)}
    if self.rng.random() < 0.5:
      response = await self.post(
        files=files, data={'text': text, 'format': 'npy'}
      )
      assert response.status_code == 200, response.text
      saliency = np.load(io.BytesIO(response.content))
      np.testing.assert_allclose(saliency, self.expected(k, text), atol=1e-5)
      return
    data = {'text': [text, other], 'areas': AREA, 'map_side': '32'}
    response = await self.post(files=files, data=data)
    assert response.status_code == 200, response.text
    for sentence, t in zip(response.json()['sentences'], (text, other)):
      expected = self.expected(k, t).astype(np.float64)
      share = expected[:20, :20].sum() / expected.sum()
      assert sentence['text'] == t
      assert abs(sentence['areas'][0]['share'] - share) < 1e-5

  async def truncated_image(self):
    k = self.rng.randrange(12)
    file = image(k)[: self.rng.randrange(1, len(image(k)) - 20)]
    self.refused(await self.post(files={'image': file}), 415, 422)

  async def bomb(self):
    self.refused(await self.post(files={'image': fakes.bomb()}), 413)

  async def wrong_type(self):
    file = self.rng.choice([b'%PDF-1.7', b'<svg/>', b'', bytes(9000), b'hello'])
    self.refused(await self.post(files={'image': file}), 415, 422)
    self.refused(await self.post(json={'image': 'x'}), 415)

  async def long_sentence(self):
    data = {'text': 'x' * 100_000}
    self.refused(await self.post(files={'image': image(0)}, data=data), 422)

  async def large_body(self):
    self.refused(await self.post(files={'image': bytes(3_000_000)}), 413)

  def whole(self):
    """Writes a request that is right, as bytes."""
    request = httpx.Request('POST', 'http://x', files={'image': image(1)})
    body = request.read()
    kind = request.headers['content-type']
    head = (
      'POST /api/predict HTTP/1.1\r\nhost: x\r\nconnection: close\r\n'
      f'content-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n'
    )
    return head.encode() + body

  async def raw(self, *parts, pause=0.0, half=False, read=True):
    reader, writer = await asyncio.open_connection(
      self.address.hostname, self.address.port
    )
    try:
      for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(pause)
      if half:
        writer.write_eof()
      if not read:
        return b''
      return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
      return b''
    finally:
      writer.transport.abort()

  async def slow(self):
    data = self.whole()
    answer = await self.raw(data[:90], data[90:200], pause=0.8)
    assert b' 408 ' in answer and b'"error"' in answer, answer

  async def drip(self):
    data = self.whole()
    cut = len(data) // 3
    answer = await self.raw(data[:cut], data[cut:-5], data[-5:], pause=0.1)
    assert b' 200 ' in answer, answer

  async def half_closed(self):
    data = self.whole()
    cut = self.rng.choice([10, 150, len(data) - 5, len(data)])
    await self.raw(data[:cut], half=True)

  async def leaves(self):
    data = self.whole()
    await self.raw(data[: self.rng.choice([5, 300, len(data)])], read=False)

  async def garbage(self):
    answer = await self.raw(self.rng.randbytes(500) + b'\r\n\r\n')
    assert not answer or json.loads(answer.partition(b'\r\n\r\n')[2])['error']

  async def one(self, k):
    hostile = (
      *(self.truncated_image, self.bomb, self.wrong_type, self.long_sentence),
      *(self.large_body, self.slow, self.drip, self.half_closed, self.leaves),
      self.garbage,
    )
    act = self.good
    if k % round(1 / HOSTILE) == 0:
      act = hostile[k // round(1 / HOSTILE) % len(hostile)]
    await act()
    self.outcomes[act.__name__] += 1

  async def memory(self):
    text = (await self.http.get('/metrics')).text
    (size,) = re.findall(r'^process_resident_memory_bytes (\S+)', text, re.M)
    return float(size) / 1e6

  async def many(self, count, first=0):
    """Has so many requests answered, `TOGETHER` at a time."""
    left = iter(range(first, first + count))

    async def work():
      for k in left:
        await self.one(k)

    await asyncio.gather(*(work() for _ in range(TOGETHER)))


def test_load():
  limits = {'file_bytes': 1_000_000, 'upload_seconds': 5, 'per_client': 64}
  with fake_server.running('network', **limits) as (process, url):
    client = Client(url)

    async def run():
      # Allocators and pools grow until every kind of request was seen.
      await client.many(COUNT // 5)
      sizes, start = [await client.memory()], time.monotonic()
      for part in range(4):
        await client.many(COUNT // 5, first=COUNT // 5 * (part + 1))
        sizes.append(await client.memory())
      seconds = time.monotonic() - start
      health = await client.http.get('/healthz')
      await client.http.aclose()
      return sizes, seconds, health.json()

    sizes, seconds, health = asyncio.run(run())
    assert health == {'status': 'ok'} and process.poll() is None
    process.terminate()
    assert process.wait(30) == 0
  print(f'\n{sum(client.outcomes.values())} requests: {dict(client.outcomes)}')
  print(f'{COUNT / 5 * 4 / seconds:.0f} requests/s, {TOGETHER} at a time')
  print('Memory, MB, at each fifth:', *(f'{size:.1f}' for size in sizes))
  assert max(sizes[1:]) < 1.05 * sizes[0]
