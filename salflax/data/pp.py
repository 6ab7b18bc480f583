"""Preprocessing: ops on one example, written as a string.

    'resize_pad(288, 384)|flip(0.5)|rasterize|normalize("imagenet")'

An op is `op(example, rng, **options) -> example` on NumPy arrays. Geometry ops
move image, map, fixation points and box together, so that a fixation stays
where it was looked at.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from salflax.core import spec
from salflax.core.types import Example
from salflax.data import frames

# RGB means and deviations of pixel values 0..255, or BGR means for weights
# that came from Caffe. Pixels are channel-ordered, then (x - mean) / std.
NORMALIZATIONS = {
  'imagenet': ('RGB', (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
  'unit': ('RGB', (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
  'unit_bgr': ('BGR', (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
  'caffe_vgg': ('BGR', (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
  'caffe_resnet': ('BGR', (103.06, 115.90, 123.15), (1.0, 1.0, 1.0)),
  'lite': ('RGB', (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),
  'paper1': (
    'RGB',
    (129.7778, 125.7404, 119.7355),
    (67.6510, 66.2943, 71.3700),
  ),
}

_SIDES = re.compile(
  r'\b(left|right)(most|hand|handed|side|wards?)?\b', re.IGNORECASE
)


def _points(example: Example) -> np.ndarray:
  """Checks the fixations i64 [N, 2]; raises for points outside."""
  points = np.asarray(example['fixations'], np.int64).reshape(-1, 2)
  h, w = example['image'].shape[:2]
  outside = points[((points < 0) | (points >= (h, w))).any(1)]
  if len(outside):
    row, column = outside[0]
    raise ValueError(
      f'The fixation ({row}, {column}) is outside of its image of {h} x {w}.'
    )
  return points


def _map_size(example: Example) -> tuple[int, ...]:
  """Computes (h, w) of maps and box: the image's, unless they were shrunk."""
  factor = example.get('shrunk', 1)
  return tuple(n // factor for n in example['image'].shape[:2])


def _is_map(example: Example) -> bool:
  """Tells whether the fixations are a map already, not points."""
  fixations = np.asarray(example['fixations'])
  return fixations.dtype.kind == 'f' and fixations.shape == _map_size(example)


def resize_pad(
  example: Example,
  rng: np.random.Generator | None,
  height: int,
  width: int,
  fill: Sequence[int] = (124, 116, 104),
) -> Example:
  """Fits image, map and fixations into a frame and sets `box`.

  Args:
    example: with `image` u8 [h, w, 3]; `saliency` u8 or float [h, w(, 1)] and
      `fixations` (row, column) [N, 2] move along where present.
    rng: not used.
    height: height of the frame.
    width: width of the frame.
    fill: RGB of the padding; ImageNet's mean colour by default.
  """
  del rng
  image = example['image']
  if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
    raise ValueError(
      f'Expected an image u8 [h, w, 3], found {image.dtype} {image.shape}.'
    )
  size = image.shape[:2]
  top, left, h, w = box = frames.fit(size, (height, width))
  inside = np.s_[top : top + h, left : left + w]
  out = dict(example, box=np.array(box, np.int32))
  rows = np.empty((height, width * 3), np.uint8)
  rows[:] = np.tile(np.asarray(fill, np.uint8), width)
  out['image'] = rows.reshape(height, width, 3)
  out['image'][inside] = frames.resize(image, (h, w))
  if example.get('saliency') is not None:
    saliency = np.asarray(example['saliency'], np.float32)
    if saliency.shape not in (size, (*size, 1)):
      raise ValueError(
        f'Expected a saliency map for an image of {size[0]} x {size[1]}, '
        f'found {saliency.shape}.'
      )
    saliency = saliency.reshape(size)
    out['saliency'] = np.zeros((height, width), np.float32)
    out['saliency'][inside] = frames.resize(saliency, (h, w)).clip(min=0)
  if example.get('fixations') is not None:
    if _is_map(example):
      raise ValueError('resize_pad moves points: it comes before rasterize.')
    scale = np.array([h, w]) / np.array(size)
    cells = np.floor((_points(example) + 0.5) * scale).astype(np.int64)
    out['fixations'] = cells.clip(0, np.array([h, w]) - 1) + [top, left]
  return out


def flip(
  example: Example,
  rng: np.random.Generator | None,
  probability: float = 0.5,
) -> Example:
  """Mirrors the example left to right, with a probability.

  An example whose sentence names a side ('the cup on the left') stays as it
  is: mirrored, the sentence would be wrong. So do the other rows of its image
  in a batch by image.
  """
  if rng is None:
    raise ValueError('flip is random: it belongs in pp, not in eval_pp.')
  wanted = rng.random() < probability
  texts = example.get('texts') or [str(example.get('text', ''))]
  if not wanted or any(map(_SIDES.search, texts)):
    return example
  return mirror(example)


def mirror(example: Example, rng: np.random.Generator | None = None) -> Example:
  """Mirrors the example left to right, and notes it in `mirrored`."""
  del rng
  width = _map_size(example)[1]
  out = dict(example, mirrored=not example.get('mirrored', False))
  # `take` copies pixels; a view with a negative step, values.
  image = np.asarray(example['image'])
  out['image'] = image.take(np.arange(image.shape[1])[::-1], axis=1)
  if example.get('saliency') is not None:
    saliency = np.asarray(example['saliency'])
    out['saliency'] = np.ascontiguousarray(saliency[:, ::-1])
  if example.get('fixations') is not None:
    if _is_map(example):
      out['fixations'] = np.ascontiguousarray(example['fixations'][:, ::-1])
    else:
      points = _points(example)
      out['fixations'] = np.stack([points[:, 0], width - 1 - points[:, 1]], 1)
  if 'box' in example:
    top, left, h, w = (int(v) for v in example['box'])
    out['box'] = np.array([top, width - left - w, h, w], np.int32)
  return out


def rasterize(
  example: Example, rng: np.random.Generator | None = None
) -> Example:
  """Turns fixation points into a fixation map f32 [H, W] of zeros and ones."""
  del rng
  out = np.zeros(example['image'].shape[:2], np.float32)
  if example.get('fixations') is not None:
    if _is_map(example):
      return example
    points = _points(example)
    out[points[:, 0], points[:, 1]] = 1
  return dict(example, fixations=out)


def shrink(
  example: Example, rng: np.random.Generator | None, factor: int
) -> Example:
  """Shrinks the maps, not the image: the loss then compares in blocks.

  Saliency is averaged, fixations are added up, in blocks of `factor` x `factor`
  pixels; `box` is counted in blocks, those that it touches.

  Raises:
    ValueError: for fixation points (rasterize goes first) and for a frame that
      is no whole number of blocks.
  """
  del rng
  size = example['image'].shape[:2]
  if size[0] % factor or size[1] % factor:
    raise ValueError(
      f'shrink({factor}): a frame of {size[0]} x {size[1]} is no whole number '
      'of blocks.'
    )
  blocks = (size[0] // factor, factor, size[1] // factor, factor)
  out = dict(example, shrunk=factor)
  if example.get('saliency') is not None:
    out['saliency'] = example['saliency'].reshape(blocks).mean((1, 3))
  if example.get('fixations') is not None:
    if not _is_map(example):
      raise ValueError('shrink works on fixation maps: rasterize goes first.')
    out['fixations'] = example['fixations'].reshape(blocks).sum((1, 3))
  top, left, height, width = (int(v) for v in example['box'])
  bottom, right = -(-(top + height) // factor), -(-(left + width) // factor)
  top, left = top // factor, left // factor
  out['box'] = np.array([top, left, bottom - top, right - left], np.int32)
  return out


def normalize(
  example: Example, rng: np.random.Generator | None, name: str
) -> Example:
  """Turns the image into f32 [H, W, 3], as the weights `name` expect it."""
  del rng
  order, mean, std = spec.lookup('normalization', NORMALIZATIONS, name)
  image = example['image']
  if order == 'BGR':
    image = image[..., ::-1]
  # A row of pixels at a time: seven times as fast as three values at a time.
  width = image.shape[-2]
  rows = image.reshape(*image.shape[:-2], -1).astype(np.float32)
  rows -= np.tile(np.float32(mean), width)
  rows /= np.tile(np.float32(std), width)
  return dict(example, image=rows.reshape(image.shape))


_ONCE = ('resize_pad', 'shrink', 'normalize')
OPS: dict[str, Callable] = {
  'resize_pad': resize_pad,
  'flip': flip,
  'mirror': mirror,
  'rasterize': rasterize,
  'shrink': shrink,
  'normalize': normalize,
}


def make(text: str) -> Callable[[Example, np.random.Generator | None], Example]:
  """Binds the ops of a pp string to one function (example, rng) -> example.

  Raises:
    ValueError: for an unknown op or option, with the nearest right one, for an
      option out of range, and for two ops of a kind that goes once.
  """
  for name, options in _calls(text).items():
    _check_options(name, options)
  return Pipeline(text)


def _calls(text: str) -> dict[str, dict[str, Any]]:
  """Reads the options of the ops of a pp string, by name."""
  calls = {}
  for part in spec.split_chain(text):
    call = spec.parse(part)
    op = spec.lookup('op', OPS, call.name)
    spec.check_call(op, call, takes=2)
    if call.name in calls and call.name in _ONCE:
      raise ValueError(f'{call.name} goes once; found twice in {text!r}.')
    bound = inspect.signature(op).bind(None, None, *call.args, **call.kwargs)
    calls[call.name] = bound.arguments
  return calls


def _check_options(name: str, options: Mapping[str, Any]) -> None:
  """Raises ValueError for values that would only fail at the first image."""

  def require(good, key, what):
    if not good:
      raise ValueError(f'{name}: {key}={options[key]!r} is not {what}.')

  for key in ('height', 'width', 'factor'):
    if key in options:
      good = isinstance(options[key], int) and options[key] > 0
      require(good, key, 'a number of pixels')
  if 'fill' in options:
    fill = np.asarray(options['fill'])
    good = fill.shape == (3,) and fill.dtype.kind == 'i'
    good = good and 0 <= fill.min() and fill.max() <= 255
    require(good, 'fill', 'the RGB of a colour, each 0 to 255')
  if 'probability' in options:
    value = options['probability']
    good = isinstance(value, int | float) and 0 <= value <= 1
    require(good, 'probability', 'between 0 and 1')
  if name == 'normalize':
    spec.lookup('normalization', NORMALIZATIONS, options['name'])


class Pipeline:
  """A pp string bound to its ops; picklable, so that workers can have it."""

  def __init__(self, text: str):
    self.text, self._apply = text, lambda example, rng: example
    if text:
      self._apply = spec.chain(OPS, text, takes=2)

  def __call__(
    self, example: Example, rng: np.random.Generator | None = None
  ) -> Example:
    """Applies every op, left to right."""
    return self._apply(example, rng)

  def __reduce__(self):
    return Pipeline, (self.text,)

  def split(self) -> tuple['Pipeline', 'Pipeline']:
    """Cuts it in two: what of a row is worth keeping, and the rest.

    The first part draws nothing, and leaves pixels u8, and fixations points
    unless `shrink` makes their maps small. Either may be without ops.
    """
    parts = spec.split_chain(self.text)
    names = [spec.parse(p).name for p in parts]
    ends = ('flip', 'normalize')
    at = next((i for i, n in enumerate(names) if n in ends), len(parts))
    if 'rasterize' in names[:at] and 'shrink' not in names[:at]:
      at = names.index('rasterize')
    return Pipeline('|'.join(parts[:at])), Pipeline('|'.join(parts[at:]))


def frame(text: str) -> tuple[int, int] | None:
  """Reads (H, W) of the images that a pp string makes, None if any."""
  options = _calls(text).get('resize_pad')
  return options and (options['height'], options['width'])


def normalization(text: str) -> tuple[str, tuple, tuple]:
  """Reads channel order, means and deviations that a pp string ends up with.

  Raises:
    ValueError: it does not normalise.
  """
  if options := _calls(text).get('normalize'):
    return NORMALIZATIONS[options['name']]
  raise ValueError(f'No normalize in {text!r}.')


def shrink_factor(text: str) -> int:
  """Reads by how much a pp string shrinks maps, 1 for not."""
  return _calls(text).get('shrink', {}).get('factor', 1)


def is_random(text: str) -> bool:
  """Tells whether a pp string has an op that draws."""
  return 'flip' in _calls(text)
