"""The application in this process: answers, limits, errors."""

import base64
import concurrent.futures
import contextlib
import io
import json
import threading
import time

import fakes
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from salflax.predict import areas as areas_lib
from salflax.predict import compare
from salflax.serve import app as app_lib
from salflax.serve import uploads
from salflax.serve.batcher import Batcher
from salflax.serve.limits import Limits

LIMITS = Limits(
  file_bytes=200_000,
  pixels=10_000,
  text_length=20,
  texts=3,
  areas=2,
  seconds=20,
  queue=4,
  per_client=3,
)


@contextlib.contextmanager
def serving(predictor, **options):
  options = {'limits': LIMITS, 'model': 'fake', 'batch_size': 4} | options
  app = app_lib.make(predictor, **options)
  with TestClient(app, raise_server_exceptions=False) as client:
    yield client


@pytest.fixture(scope='module')
def client():
  with serving(fakes.Red()) as client:
    yield client


def post(client, file=None, **fields):
  file = fakes.png() if file is None else file
  return client.post('/api/predict', files={'image': file}, data=fields)


def assert_refused(response, status, *words):
  assert response.status_code == status, response.text
  body = response.json()
  assert set(body) == {'error', 'status'} and body['status'] == status
  for word in words:
    assert word in body['error']


def read_map(node):
  values = np.frombuffer(base64.b64decode(node['data']), '<f4')
  return values.reshape(node['height'], node['width'])


def test_an_answer_is_what_the_library_computes(client):
  boxes = [{'name': 'left', 'box': [0, 0, 20, 30]}]
  texts = ['', 'the red umbrella']
  response = post(client, text=texts, areas=json.dumps(boxes))
  assert response.status_code == 200
  answer = response.json()
  assert answer['model'] == 'fake'
  assert answer['image'] == {'height': 30, 'width': 40}
  image = np.asarray(Image.open(io.BytesIO(fakes.png())))
  densities = [compare.density(image[..., 0] + float(len(t))) for t in texts]
  areas = areas_lib.parse_areas(boxes)
  for sentence, text, density in zip(answer['sentences'], texts, densities):
    assert sentence['text'] == text
    (area,), (expected,) = (
      sentence['areas'],
      areas_lib.attention(density, areas),
    )
    assert area.pop('name') == expected.pop('name')
    assert area == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(read_map(sentence['map']), density, rtol=1e-5)
  (difference,) = answer['differences']
  expected = compare.moved(*densities)
  assert difference['cc'] == pytest.approx(expected['cc'])
  assert difference['information_gain'] == pytest.approx(
    expected['information_gain'], rel=1e-4
  )


def test_small_maps_sum_to_one_and_keep_the_shares(client):
  answer = post(client, map_side='10').json()
  small = read_map(answer['sentences'][0]['map'])
  assert small.shape == (8, 10) and small.sum() == pytest.approx(1, abs=1e-5)
  assert 'map' not in post(client, map_side='0').json()['sentences'][0]


def test_maps_as_files(client):
  image = np.asarray(Image.open(io.BytesIO(fakes.png())))
  response = post(client, text='red', format='npy')
  saliency = np.load(io.BytesIO(response.content))
  np.testing.assert_array_equal(saliency, image[..., 0] + np.float32(3))
  response = post(client, format='png')
  assert response.headers['content-type'] == 'image/png'
  grey = np.asarray(Image.open(io.BytesIO(response.content)))
  assert grey.dtype == np.uint16 and grey.max() == 65535
  assert_refused(post(client, text=['a', 'b'], format='npy'), 422, 'one with')


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP', 'BMP', 'GIF'])
def test_other_types_of_images(client, kind):
  answer = post(client, fakes.png(kind=kind)).json()
  assert answer['image'] == {'height': 30, 'width': 40}


def test_a_turned_image_is_answered_upright(client):
  exif = Image.Exif()
  exif[0x0112] = 6
  answer = post(client, fakes.png(kind='JPEG', exif=exif)).json()
  assert answer['image'] == {'height': 40, 'width': 30}


@pytest.mark.parametrize(
  'file, status, words',
  [
    (b'', 422, 'empty'),
    (b'hello', 415, 'no image'),
    (b'%PDF-1.7 ...', 415, 'a PDF'),
    (b'<svg xmlns="http://www.w3.org/2000/svg"/>', 415, 'an SVG'),
    (b'\0\0\0\x18ftypheic\0\0\0\0', 415, 'HEIC'),
    (fakes.png(kind='TIFF'), 415, 'a TIFF'),
    (b'\xff\xd8' + b'\xff\xda' * 65, 422, '64 scans'),
    (fakes.png()[:2000], 422, 'cut short'),
    (fakes.png(kind='JPEG')[:300], 415, 'no image'),
    (fakes.bomb(), 413, 'pixels'),
    (fakes.bomb(101, 100), 413, '101x100'),
    (bytes(200_001), 413, '200,000 bytes'),
    (bytes(3_000_000), 413, '200,000 bytes'),
  ],
)
def test_bad_files(client, file, status, words):
  assert_refused(post(client, file), status, words)


@pytest.mark.parametrize(
  'options', [{}, {'lossless': True}, {'exif': b'x' * 9}]
)
def test_a_webp_is_measured_by_its_header(options):
  file = fakes.png(np.zeros((31, 45, 3), np.uint8), kind='WEBP', **options)
  assert uploads.image_size(file, LIMITS) == (31, 45)


def test_a_bomb_is_not_decoded(client, monkeypatch):
  monkeypatch.setattr(uploads, 'decode', None)
  assert_refused(post(client, fakes.bomb()), 413)


@pytest.mark.parametrize(
  'fields, words',
  [
    ({'text': 'x' * 21}, 'Sentence 1 has 21 letters; allowed are 20'),
    ({'text': 'x' * 100_000}, '100,000 letters'),
    ({'text': ['a'] * 4}, '4 sentences; allowed are 3'),
    ({'sentence': 'a'}, "Unknown field 'sentence'"),
    ({'format': 'nyp'}, "Did you mean 'npy'?"),
    ({'map_side': '-1'}, 'map_side'),
    ({'map_side': '9' * 5000}, 'map_side'),
    ({'areas': '[['}, 'not JSON'),
    ({'areas': '[' * 100_000}, 'not JSON'),
    ({'areas': '[{"name": "a"}]'}, 'needs either a box or a polygon'),
    ({'areas': '[{"name": "a", "box": [0, 0, 1e999, 1]}]'}, 'numbers'),
    ({'areas': f'[{{"name": "a", "box": [0, 0, {10**400}, 1]}}]'}, 'numbers'),
    ({'areas': '[{"name": "\\ud800", "box": [0, 0, 5, 5]}]'}, 'a name is text'),
  ],
)
def test_bad_fields(client, fields, words):
  assert_refused(post(client, **fields), 422, words)


def test_areas_are_checked_before_anything_is_predicted():
  predictor = fakes.Red()
  image = {'id': 1, 'file_name': 'a.png', 'width': 400, 'height': 300}
  areas = {
    'images': [image],
    'categories': [{'id': 1, 'name': 'dog'}],
    'annotations': [{'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 9, 9]}],
  }
  far = [{'name': 'far', 'box': [50, 0, 5, 5]}]
  with serving(predictor) as client:
    warm = len(predictor.sizes)
    response = post(client, areas=json.dumps(areas))
    assert_refused(response, 422, 'a.png has 400x300 pixels, the image 40x30')
    response = post(client, areas=json.dumps(far))
    assert_refused(response, 422, 'areas: No pixel of the 40x30 image')
    assert len(predictor.sizes) == warm
    image |= {'width': 40, 'height': 30}
    response = post(client, areas=json.dumps(areas))
    assert response.json()['sentences'][0]['areas'][0]['name'] == 'dog'


def test_too_many_areas(client):
  box = [0, 0, 5, 5]
  areas = json.dumps([{'name': str(k), 'box': box} for k in range(3)])
  assert_refused(post(client, areas=areas), 422, '3 areas; allowed are 2')
  areas = json.dumps([{'name': str(k), 'box': box} for k in range(2)])
  assert 'share 25 pixels' in post(client, areas=areas).json()['notes'][0]
  assert post(client, areas='[]').json()['sentences'][0]['areas'] == []


def test_no_form(client):
  send = lambda **k: client.post('/api/predict', **k)
  assert_refused(send(json={'image': 1}), 415, "found 'application/json'")
  assert_refused(send(), 415, 'no type')
  head = {'content-type': 'multipart/form-data'}
  assert_refused(send(content=b'x', headers=head), 400, 'boundary')
  head['content-type'] += '; boundary=b'
  assert_refused(send(content=b'--c\r\n', headers=head), 400)
  assert_refused(send(content=b'--b\r\nno: name\r\n\r\n', headers=head), 400)
  assert_refused(send(files={'text': b'x'}), 422, 'No image')
  assert_refused(send(data={'image': 'x'}, files={'text': b'x'}), 422)
  two = [('image', fakes.png()), ('image', fakes.png())]
  assert_refused(send(files=two), 400, 'Too many files')


def test_other_paths_and_methods(client):
  assert_refused(client.get('/nothing'), 404, '/nothing')
  assert_refused(client.get('/api/predict'), 405)
  assert_refused(client.get('/../setup.cfg'), 404)
  assert_refused(client.post('/'), 405)


def test_many_sentences_on_a_large_image():
  limits = LIMITS._replace(held_pixels=3000)
  with serving(fakes.Red(), limits=limits) as client:
    assert post(client, text='a').status_code == 200
    assert_refused(post(client, text=['a', 'b']), 413, 'allowed are 1')


def test_what_fails_inside(client):
  assert_refused(post(client, text='raise'), 500, 'its log')
  assert_refused(post(client, text='nan'), 500, 'its log')
  assert post(client).status_code == 200


def test_a_sentence_that_cannot_be_read_is_in_no_log(client, caplog):
  assert_refused(post(client, text=['a', '狗']), 422, 'has no word of 狗')
  assert not caplog.records


def test_page_and_headers(client):
  for path, (_, kind) in app_lib.FILES.items():
    response = client.get(path)
    assert response.status_code == 200, path
    assert response.headers['content-type'].startswith(kind)
  for response in (client.get('/'), client.get('/no'), post(client, b'x')):
    policy = response.headers['content-security-policy']
    assert "default-src 'none'" in policy and 'unsafe' not in policy
    assert response.headers['x-content-type-options'] == 'nosniff'


def test_the_page_loads_nothing_from_elsewhere():
  for name, _ in app_lib.FILES.values():
    text = (app_lib._PAGE / name).read_text(encoding='utf-8')
    text = text.replace('http://www.w3.org/2000/svg', '')
    assert '//' not in text.replace('// ', '').replace('url(', ''), name
    assert ' style="' not in text and ' onclick=' not in text


def test_health_metrics_description(client):
  assert client.get('/healthz').json() == {'status': 'ok'}
  about = client.get('/api/about').json()
  assert about['limits'] == LIMITS._asdict() and about['model'] == 'fake'
  tree = client.get('/openapi.json').json()
  fields = tree['components']['schemas']['Request']['properties']
  assert fields['text']['items']['maxLength'] == LIMITS.text_length
  post(client)
  text = client.get('/metrics').text
  assert 'salflax_requests_total{path="/api/predict",status="200"}' in text
  assert 'salflax_requests_under_way 0.0' in text


def test_the_description_names_what_is_sent_and_answered(client):
  tree = client.get('/openapi.json').json()
  schemas = tree['components']['schemas']
  assert set(schemas['Request']['properties']) == set(uploads.FIELDS)
  assert set(tree['paths']) == set(app_lib._ROUTES) - {'/openapi.json'}
  areas = '[{"name": "a", "box": [0, 0, 5, 5]}]'
  answer = post(client, text=['', 'a'], areas=areas).json()
  sentence = answer['sentences'][0]
  for schema, node in (
    ('Answer', answer),
    ('Area', sentence['areas'][0]),
    ('Map', sentence['map']),
    ('Difference', answer['differences'][0]),
    ('Error', post(client, b'').json()),
  ):
    assert set(schemas[schema]['properties']) == set(node), schema
  refused = tree['paths']['/api/predict']['post']['responses']
  assert {'400', '413', '415', '422', '429', '503', '504'} <= set(refused)


def in_threads(client, count, **fields):
  pool = concurrent.futures.ThreadPoolExecutor(count)
  return [pool.submit(post, client, **fields) for _ in range(count)]


def wait_for(condition):
  end = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < end
    time.sleep(0.005)


def test_concurrent_requests_go_through_the_network_together():
  predictor = fakes.Red()
  limits = LIMITS._replace(per_client=8, queue=8)
  with serving(predictor, limits=limits) as client:
    warm = len(predictor.sizes)
    assert [size for size, _ in predictor.sizes] == [1, 2, 4]
    predictor.gate.clear()
    first = in_threads(client, 1)
    wait_for(lambda: len(predictor.sizes) > warm)
    rest = in_threads(client, 6)
    desk = client.app.state.desk
    wait_for(lambda: desk.batcher._jobs.qsize() == 6)
    predictor.gate.set()
    assert {f.result().status_code for f in first + rest} == {200}
  assert predictor.sizes[warm:] == [(1, 1), (4, 4), (2, 2)]


def test_a_full_queue_and_a_greedy_client():
  for limits, status in (
    (LIMITS._replace(queue=1), 503),
    (LIMITS._replace(per_client=1), 429),
  ):
    predictor = fakes.Red()
    with serving(predictor, limits=limits) as client:
      predictor.gate.clear()
      (first,) = in_threads(client, 1)
      under_way = client.app.state.desk._clients
      wait_for(under_way.total)
      response = post(client)
      assert_refused(response, status)
      assert response.headers['retry-after'] == '1'
      predictor.gate.set()
      assert first.result().status_code == 200
      assert post(client).status_code == 200


def test_an_answer_that_takes_too_long():
  predictor = fakes.Red()
  limits = LIMITS._replace(seconds=0.2)
  with serving(predictor, limits=limits) as client:
    predictor.gate.clear()
    assert_refused(post(client), 504, '0.2 s')
    assert_refused(post(client), 504)
    predictor.gate.set()
    wait_for(lambda: post(client).status_code == 200)
    # The second was given up before it came to the network.
    assert sum(count for _, count in predictor.sizes) <= 1 + 2 + 4 + 2 + 1


def test_the_end_waits_for_what_was_asked_for():
  predictor = fakes.Red()
  batcher = Batcher(predictor, batch_size=2)
  batcher.warm()
  batcher.start()
  predictor.gate.clear()
  image = np.zeros((4, 5, 3), np.uint8)
  answers = [batcher.submit(image, 'a') for _ in range(5)]
  threading.Timer(0.1, predictor.gate.set).start()
  batcher.close()
  assert all(answer.result(0).shape == (4, 5) for answer in answers)
  assert not batcher.alive


def test_a_real_network():
  predictor = fakes.network()
  file = fakes.png()
  with serving(predictor, batch_size=2) as client:
    response = post(client, file, text='red', format='npy')
  saliency = np.load(io.BytesIO(response.content))
  np.testing.assert_allclose(saliency, predictor(file, 'red'), atol=1e-6)
