"""Predictors that need no network, and files that are no images."""

import io
import struct
import threading
import time
import zlib

import numpy as np
from PIL import Image

from salflax.predict.predictor import SentenceError

COLOURS = {
  'red': (220, 40, 40),
  'blue': (50, 80, 200),
  'green': (50, 160, 70),
  'yellow': (230, 210, 60),
}


class Red:
  """A predictor whose map is the red channel, plus the sentence's length.

  Attributes:
    sizes: batch size, and number of images, of each batch.
    gate: batches wait until it is set.
  """

  def __init__(self):
    self.sizes, self.gate = [], threading.Event()
    self.gate.set()

  def predict(self, pairs, *, batch_size, return_errors):
    assert return_errors
    pairs = list(pairs)
    self.sizes.append((batch_size, len(pairs)))
    self.gate.wait()
    for image, text in pairs:
      if text == 'raise':
        raise RuntimeError('no memory')
      if text == '狗':
        yield SentenceError('The text encoder has no word of 狗.')
      elif text == 'nan':
        yield ValueError('not finite')
      else:
        yield image[..., 0] + np.float32(len(text))


class Slow(Red):
  """As `Red`, in a fifth of a second."""

  def predict(self, pairs, *, batch_size, return_errors):
    time.sleep(0.2)
    return super().predict(
      pairs, batch_size=batch_size, return_errors=return_errors
    )


def network():
  """Makes a predictor of a real network without parameters, `tiny.Red`."""
  import tiny

  from salflax.predict.predictor import Predictor

  return Predictor(tiny.red_predictor())


class Colours:
  """A predictor that looks at the colour a sentence names, and the centre."""

  def predict(self, pairs, *, batch_size, return_errors):
    del batch_size, return_errors
    return (_looking(image, text) for image, text in pairs)


def _looking(image, text):
  """Makes a map that humans could have made, of any image."""
  height, width = image.shape[:2]
  small = Image.fromarray(image).resize((128, 96))
  pixels = np.asarray(small, np.float32)
  y, x = np.mgrid[:96, :128]
  saliency = np.exp(-(((x - 64) / 40) ** 2 + ((y - 48) / 30) ** 2) / 2) * 0.3
  names = [name for name in COLOURS if name in text.split()]
  for name in names:
    near = np.abs(pixels - COLOURS[name]).sum(-1) < 130
    saliency += near
  if not names:
    saliency += np.ptp(pixels, axis=-1) / 255
  kernel = np.exp(-(np.arange(-12, 13) ** 2) / 50)
  for axis in (0, 1):
    saliency = np.apply_along_axis(
      np.convolve, axis, saliency, kernel / kernel.sum(), mode='same'
    )
  large = Image.fromarray(saliency.astype(np.float32))
  resized = large.resize((width, height), Image.Resampling.BILINEAR)
  return np.asarray(resized).clip(min=0)


def png(image=None, *, kind='PNG', **options):
  """Writes an image u8 [h, w, 3], by default 30x40 noise, as a file."""
  if image is None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
  stream = io.BytesIO()
  Image.fromarray(image).save(stream, kind, **options)
  return stream.getvalue()


def bomb(width=40_000, height=40_000):
  """Writes a PNG of so many black pixels in few bytes, cut short."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', crc)

  head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
  packed = zlib.compress(b'\0' * 1_000_000, 9)
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', packed)
