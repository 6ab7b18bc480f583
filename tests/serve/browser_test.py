"""The page in a real Chromium: mouse, keys, history, downloads.

    pytest -m nightly tests/serve/browser_test.py

Needs Debian's chromium and chromium-driver, and the extra `browser`.
SALFLAX_SCREENSHOTS=docs writes the screenshots of the docs: an embedded scene
under a predictor that looks at the colour that is named.
"""

import base64
import io
import json
import os
import pathlib
import shutil

import fake_server
import fakes
import numpy as np
import pytest
from PIL import Image

from salflax.data import scenes

pytestmark = [
  pytest.mark.nightly,
  pytest.mark.skipif(
    not (shutil.which('chromium') and shutil.which('chromedriver')),
    reason='no chromium and chromedriver: apt-get install chromium '
    'chromium-driver',
  ),
  # Its connections and processes are closed by the garbage collector.
  pytest.mark.filterwarnings('ignore::ResourceWarning'),
]
FLAGS = (
  *('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic'),
  *('--no-first-run', '--disable-background-networking'),
  *('--disable-component-update', '--disable-sync'),
  '--force-device-scale-factor=1',
)
TEXTS = ('', 'the red thing', 'the blue thing')


@pytest.fixture(scope='module')
def image(tmp_path_factory):
  path = tmp_path_factory.mktemp('image') / 'scene.png'
  example = scenes.load('test', size=(384, 512), num=8)[4]
  Image.fromarray(np.asarray(example['image'])).save(path)
  return path


@pytest.fixture(scope='module')
def url():
  with fake_server.running('Colours', file_bytes=1_000_000) as (_, url):
    yield url


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
  webdriver = pytest.importorskip('selenium.webdriver')
  options = webdriver.ChromeOptions()
  options.binary_location = shutil.which('chromium')
  for flag in FLAGS:
    options.add_argument(flag)
  folder = tmp_path_factory.mktemp('chromium')
  options.add_argument(f'--user-data-dir={folder / "profile"}')
  (folder / 'downloads').mkdir()
  options.add_experimental_option(
    'prefs', {'download.default_directory': str(folder / 'downloads')}
  )
  options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
  service = webdriver.ChromeService(shutil.which('chromedriver'))
  driver = webdriver.Chrome(options, service)
  driver.downloads = folder / 'downloads'
  yield driver
  driver.quit()


class Page:
  """What a person does on the page."""

  def __init__(self, driver, url):
    self.driver = driver
    driver.set_window_size(1200, 1400)
    driver.get('about:blank')
    driver.get(url)
    self.wait(lambda: 'Model' in self.text('#model'))

  def all(self, selector):
    return self.driver.find_elements('css selector', selector)

  def one(self, selector):
    return self.all(selector)[0]

  def text(self, selector):
    return self.one(selector).text

  def wait(self, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

  def run(self, script, *arguments):
    return self.driver.execute_script(script, *arguments)

  def press(self, *keys):
    from selenium.webdriver import ActionChains

    chain = ActionChains(self.driver)
    for key in keys:
      if isinstance(key, tuple):
        chain.key_down(key[0]).send_keys(key[1]).key_up(key[0])
      else:
        chain.send_keys(key)
    chain.perform()

  def drag(self, element, start, end, kind='mouse'):
    """Drags between two points, as shares of an element's size."""
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    self.run('arguments[0].scrollIntoView({block: "center"})', element)
    size = element.size
    place = lambda p: (
      round((p[0] - 0.5) * size['width']),
      round((p[1] - 0.5) * size['height']),
    )
    actions = ActionBuilder(self.driver, mouse=PointerInput(kind, kind))
    pointer = actions.pointer_action
    pointer.move_to(element, *place(start)).pointer_down()
    middle = tuple((a + b) / 2 for a, b in zip(start, end))
    pointer.move_to(element, *place(middle)).move_to(element, *place(end))
    pointer.pointer_up()
    actions.perform()

  def predict(self, image, texts):
    self.one('#file').send_keys(str(image))
    while len(self.all('#texts input')) < len(texts):
      self.one('#add-text').click()
    for field, text in zip(self.all('#texts input'), texts):
      field.clear()
      field.send_keys(text)
    self.one('#predict').click()
    self.wait(lambda: self.text('#status') == 'Done.' or self.text('#error'))

  def areas(self):
    """Lists (name, share under each sentence) of the table."""
    rows = []
    for row in self.all('#area-table tbody tr'):
      name = row.find_element('css selector', 'input').get_property('value')
      cells = row.find_elements('css selector', 'td')[:-1]
      rows.append((name, [float(c.text.split()[0]) for c in cells]))
    return rows

  def boxes(self):
    """Gives the boxes as the page sends them."""
    return [
      [
        round(float(e.value_of_css_property(k)[:-2]))
        for k in ('left', 'top', 'width', 'height')
      ]
      for e in self.all('.area[tabindex]')
    ]

  def shot(self, name):
    folder = os.environ.get('SALFLAX_SCREENSHOTS')
    if folder:
      self.run('document.activeElement.blur(); scrollTo(0, 0)')
      answer = self.driver.execute_cdp_cmd(
        'Page.captureScreenshot', {'captureBeyondViewport': True}
      )
      image = Image.open(io.BytesIO(base64.b64decode(answer['data'])))
      path = pathlib.Path(folder) / f'{name}.png'
      image.convert('RGB').quantize(256).save(path, optimize=True)


@pytest.fixture
def page(chromium, url):
  page = Page(chromium, url)
  yield page
  severe = [e for e in chromium.get_log('browser') if e['level'] == 'SEVERE']
  refused = 'status of 4'  # the browser logs every refusal
  assert not [e for e in severe if refused not in e['message']]


def test_two_sentences_areas_downloads(page, image):
  from selenium.webdriver import Keys

  page.predict(image, TEXTS)
  assert page.text('#error') == ''
  captions = [e.text for e in page.all('#figures figcaption span')]
  assert captions == ['free viewing', '“the red thing”', '“the blue thing”']
  assert 'bits per fixation' in page.text('#moved')
  assert page.run('return document.activeElement.id') == 'result-title'

  # By mouse, then its name.
  stage = page.one('#figures .stage')
  page.drag(stage, (0.2, 0.2), (0.5, 0.6))
  ((name, shares),) = page.areas()
  assert name == 'area 1' and len(shares) == 3
  page.press(Keys.ENTER)
  page.press('shop', Keys.TAB)
  assert page.areas()[0][0] == 'shop' and page.text('.area b') == 'shop'
  before = page.boxes()
  area = page.one('.area')
  page.drag(area, (0.5, 0.5), (1.0, 0.5))
  (left, top, width, height) = page.boxes()[0]
  assert (
    left > before[0][0] + width / 3 and [top, width, height] == before[0][1:]
  )
  page.drag(area, (0.97, 0.97), (0.5, 0.5))
  assert page.boxes()[0][2] < 0.7 * width

  # By touch.
  page.drag(stage, (0.6, 0.6), (0.9, 0.9), kind='touch')
  assert len(page.areas()) == 2

  # By keyboard.
  page.one('#add-area').send_keys(Keys.ENTER)
  x, y, width, height = page.boxes()[2]
  page.press(Keys.ARROW_LEFT, Keys.ARROW_UP, (Keys.SHIFT, Keys.ARROW_RIGHT))
  moved = page.boxes()[2]
  assert moved[0] < x and moved[1] < y
  assert moved[2] > width and moved[3] == height
  page.wait(
    lambda: (
      'area 3: '
      in page.run('return document.getElementById("live").textContent')
    )
  )
  page.shot('serve')
  page.run('arguments[0].focus()', page.all('.area[tabindex]')[2])
  page.press(Keys.DELETE)
  assert len(page.areas()) == 2

  # What is downloaded is what the table shows.
  page.one('#json').click()
  answer = json.loads(download(page, 'scene.json'))
  for k, (name, shares) in enumerate(page.areas()):
    for sentence, share in zip(answer['sentences'], shares):
      assert sentence['areas'][k]['name'] == name
      assert 100 * sentence['areas'][k]['share'] == pytest.approx(
        share, abs=0.06
      )
  png, npy = page.all('#figures figure:nth-child(2) button')
  png.click()
  assert download(page, 'scene-2.png')[:4] == b'\x89PNG'
  npy.click()
  assert download(page, 'scene-2.npy')[:6] == b'\x93NUMPY'


def download(page, name):
  path = page.driver.downloads / name
  page.wait(path.exists)
  return path.read_bytes()


def test_bad_files_keep_what_is_shown(page, image, tmp_path):
  page.predict(image, TEXTS[:2])
  for name, data, words in (
    ('a.jpg', fakes.png()[:500], 'cut short'),
    ('a.svg', b'<svg/>', 'SVG'),
    ('a.png', fakes.bomb(), 'pixels'),
    ('large.png', bytes(1_000_001), 'allowed are 1.0 MB'),
    ('empty.png', b'', 'empty'),
  ):
    (tmp_path / name).write_bytes(data)
    page.predict(tmp_path / name, TEXTS[:2])
    assert words in page.text('#error'), name
    assert page.one('#result').is_displayed()
  page.predict(image, TEXTS[:2])
  assert page.text('#error') == ''


def test_a_file_is_dropped_anywhere(page):
  page.run(
    """
    const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], 'dropped.png'));
    for (const type of ['dragover', 'drop']) {
      document.querySelector('header').dispatchEvent(new DragEvent(
        type, {dataTransfer, bubbles: true, cancelable: true}));
    }
    """,
    base64.b64encode(fakes.png()).decode(),
  )
  assert page.text('#file-name') == 'dropped.png'
  page.one('#predict').click()
  page.wait(lambda: page.text('#status') == 'Done.')
  assert page.one('#figures canvas').get_property('width') == 40


def test_opacity(page, image):
  from selenium.webdriver import Keys

  page.predict(image, TEXTS[:2])
  canvas = page.one('#figures canvas')
  pixels = lambda: page.run('return arguments[0].toDataURL()', canvas)
  before = pixels()
  page.one('#opacity').send_keys(Keys.HOME)
  assert page.text('#opacity-value') == '0 %' and pixels() != before
  data = page.run(
    'return [...arguments[0].getContext("2d").getImageData(9, 9, 1, 1).data]',
    canvas,
  )
  assert data[:3] == list(Image.open(image).getpixel((9, 9)))


def test_no_image(page):
  page.one('#predict').click()
  assert page.text('#error') == 'Choose an image first.'
  assert page.run('return document.activeElement.id') == 'file'


def test_back_and_forward(page, image):
  page.predict(image, TEXTS[:2])
  assert page.one('#result').is_displayed()
  page.driver.back()
  page.wait(lambda: not page.one('#result').is_displayed())
  assert page.all('#texts input')[1].get_property('value') == TEXTS[1]
  page.driver.forward()
  page.wait(page.one('#result').is_displayed)
  page.driver.refresh()
  page.wait(lambda: 'Model' in page.text('#model'))
  assert not page.one('#result').is_displayed()


def test_all_is_reached_by_keyboard(page, image):
  from selenium.webdriver import Keys

  page.predict(image, TEXTS[:2])
  page.one('#add-area').send_keys(Keys.ENTER)
  page.run('document.querySelector(".skip").focus()')
  names = []
  for _ in range(60):
    page.press(Keys.TAB)
    element = page.driver.switch_to.active_element
    if element.tag_name == 'body':
      break
    assert element.accessible_name, element.get_attribute('outerHTML')
    names.append(element.accessible_name)
  words = ' | '.join(names)
  for name in ('Choose', 'Sentence 2', 'Predict', 'Opacity', 'area 1'):
    assert name in words
  assert len(names) == len(set(names))


@pytest.mark.parametrize('width', [360, 800])
def test_narrow_and_dark(page, image, width):
  page.driver.execute_cdp_cmd(
    'Emulation.setDeviceMetricsOverride',
    {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': True},
  )
  page.driver.execute_cdp_cmd(
    'Emulation.setEmulatedMedia',
    {'features': [{'name': 'prefers-color-scheme', 'value': 'dark'}]},
  )
  try:
    page.predict(image, TEXTS)
    page.one('#add-area').click()
    assert page.run('return document.documentElement.scrollWidth') <= width
    back = page.one('body').value_of_css_property('background-color')
    assert back == 'rgba(21, 24, 26, 1)'
    if width == 360:
      page.shot('serve_dark')
  finally:
    page.driver.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    page.driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': []})
