"""Preprocessing: a fixation stays where it was looked at, through every op."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salflax.data import frames, pp

FRAMES = ((48, 64), (64, 48), (32, 32))
# Heights and widths of images, extreme ones among them.
SIZES = ((48, 64), (64, 48), (37, 91), (120, 121), (300, 40), (1, 50), (50, 1))
# Geometry ops as a pp string writes them; rasterize comes after.
GEOMETRY = (
  'resize_pad(48, 64)',
  'mirror',
  'flip(1.0)',
  'resize_pad(48, 64)|mirror',
  'mirror|resize_pad(48, 64)',
  'resize_pad(64, 48)|flip(1.0)',
  'mirror|mirror',
)


def _image(size, *, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (*size, 3), np.uint8)


def _bump(size, row, column, sigma):
  y = np.exp(-0.5 * ((np.arange(size[0]) - row) / sigma) ** 2)
  x = np.exp(-0.5 * ((np.arange(size[1]) - column) / sigma) ** 2)
  return np.round(255 * np.outer(y, x)).astype(np.uint8)[..., None]


def _example(size, points=(), **more):
  return {
    'image': _image(size),
    'fixations': np.array(points, np.int32).reshape(-1, 2),
    'image_id': 'a',
    'text': '',
    **more,
  }


def _rng():
  return np.random.default_rng(0)


@pytest.mark.parametrize('text', GEOMETRY)
@settings(max_examples=30, deadline=None)
@given(
  size=st.tuples(st.integers(24, 160), st.integers(24, 160)),
  share=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
)
def test_a_fixation_stays_under_the_peak_of_its_map(text, size, share):
  row, column = (int(s * n) for s, n in zip(share, size))
  sigma = max(3, 0.06 * max(size))
  example = _example(
    size, [(row, column)], saliency=_bump(size, row, column, sigma)
  )
  out = pp.make(text + '|rasterize')(example, _rng())
  assert out['saliency'].shape[:2] == out['image'].shape[:2]
  assert out['fixations'].shape == out['image'].shape[:2]
  (cell,) = np.argwhere(out['fixations'])
  top = np.asarray(out['saliency'], np.float32).reshape(out['fixations'].shape)
  peak = np.unravel_index(top.argmax(), top.shape)
  # A cell off at most, half of one from rounding and half from resampling.
  assert np.abs(cell - peak).max() <= 1
  assert top[tuple(cell)] >= 0.9 * top.max()


@pytest.mark.parametrize('text', GEOMETRY)
def test_the_image_moves_with_its_fixation(text):
  size, (row, column) = (96, 128), (24, 100)
  example = _example(size, [(row, column)])
  example['image'][:] = 0
  example['image'][row - 3 : row + 4, column - 3 : column + 4] = 255
  out = pp.make(text + '|rasterize')(example, _rng())
  (cell,) = np.argwhere(out['fixations'])
  assert out['image'][tuple(cell)].min() > 200
  if 'box' in out:
    top, left, h, w = out['box']
    assert (cell >= (top, left)).all() and (cell < (top + h, left + w)).all()


@pytest.mark.parametrize('frame', FRAMES)
@pytest.mark.parametrize('size', SIZES)
def test_letterbox_and_back_is_the_identity_up_to_resampling(size, frame):
  y, x = np.mgrid[: size[0], : size[1]]
  smooth = 127 + 60 * np.cos(3 * y / size[0]) + 60 * np.sin(2 * x / size[1])
  example = _example(size, saliency=smooth.astype(np.float32))
  out = pp.resize_pad(example, None, *frame)
  assert out['image'].shape == (*frame, 3)
  back = frames.unletterbox(out['saliency'], out['box'], size)
  assert back.shape == size and back.dtype == np.float32
  top, left, h, w = out['box']
  # A side that shrank to s cells is known to a cell: |slope| <= 180 a side.
  assert np.abs(back - smooth).max() <= 2 + 180 * (
    0.6 / min(h, size[0]) + 0.6 / min(w, size[1])
  )


@settings(max_examples=200, deadline=None)
@given(
  size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
  frame=st.tuples(st.integers(1, 500), st.integers(1, 500)),
)
def test_the_box_is_centred_fills_one_side_and_keeps_the_aspect(size, frame):
  top, left, h, w = frames.fit(size, frame)
  assert 1 <= h <= frame[0] and 1 <= w <= frame[1]
  assert h == frame[0] or w == frame[1]
  assert 0 <= frame[0] - h - 2 * top <= 1 and 0 <= frame[1] - w - 2 * left <= 1
  exact_h = min(frame[0], frame[1] * size[0] / size[1])
  exact_w = min(frame[1], frame[0] * size[1] / size[0])
  assert h in (max(1, int(exact_h + 1e-9)), frame[0])
  assert w in (max(1, int(exact_w + 1e-9)), frame[1])


def test_boxes_of_common_images():
  assert frames.fit((480, 640), (288, 384)) == (0, 0, 288, 384)
  assert frames.fit((640, 480), (288, 384)) == (0, 84, 288, 216)
  assert frames.fit((600, 1200), (288, 384)) == (48, 0, 192, 384)


def test_the_padding_has_the_mean_colour_and_an_empty_map():
  example = _example((50, 100), saliency=np.full((50, 100, 1), 7, np.uint8))
  out = pp.resize_pad(example, None, 64, 64)
  top, left, h, w = out['box']
  assert (top, left, h, w) == (16, 0, 32, 64)
  outside = np.ones((64, 64), bool)
  outside[top : top + h, left : left + w] = False
  assert (out['image'][outside] == (124, 116, 104)).all()
  assert (out['saliency'][outside] == 0).all()
  assert (out['saliency'][~outside] == 7).all()
  white = pp.resize_pad(example, None, 64, 64, fill=(255, 255, 255))
  assert (white['image'][outside] == 255).all()


def test_repeated_and_border_fixations_stay_inside():
  points = [(0, 0), (0, 0), (49, 99), (49, 0), (0, 99)]
  out = pp.resize_pad(_example((50, 100), points), None, 64, 64)
  expected = [(16, 0), (16, 0), (47, 63), (47, 0), (16, 63)]
  np.testing.assert_array_equal(out['fixations'], expected)
  assert pp.rasterize(out)['fixations'].sum() == 4


@pytest.mark.parametrize(
  'text',
  [
    'the cup on the left',
    'The LEFT one.',
    'right',
    'in the left-hand corner',
    'the rightmost car',
    'the left-most car',
    'lefthand side',
    'people looking leftward',
    'a man walking rightwards',
    'the right, blue door',
  ],
)
def test_a_sentence_that_names_a_side_is_not_mirrored(text):
  example = _example((20, 30), [(3, 4)], text=text)
  out = pp.flip(example, _rng(), 1.0)
  np.testing.assert_array_equal(out['image'], example['image'])
  assert not out.get('mirrored', False)


@pytest.mark.parametrize('text', ['', 'a bright copyright sign', 'leftovers'])
def test_other_sentences_are_mirrored(text):
  example = _example((20, 30), [(3, 4)], text=text)
  out = pp.flip(example, _rng(), 1.0)
  np.testing.assert_array_equal(out['image'], example['image'][:, ::-1])
  np.testing.assert_array_equal(out['fixations'], [(3, 25)])
  assert out['mirrored']


def test_flip_draws_with_its_probability_and_follows_the_generator():
  example = _example((4, 6))
  rng = np.random.default_rng(7)
  drawn = [pp.flip(example, rng, 0.25).get('mirrored') for _ in range(2000)]
  assert 0.21 < np.mean([bool(d) for d in drawn]) < 0.29
  again = np.random.default_rng(7)
  assert drawn == [pp.flip(example, again, 0.25).get('mirrored') for _ in drawn]


def test_rasterize_may_come_before_a_mirror():
  """Points and their map move alike, whichever came first."""
  example = _example((48, 64), [(5, 9), (40, 60)])
  first = pp.make('rasterize|mirror')(example)
  last = pp.make('mirror|rasterize')(example)
  np.testing.assert_array_equal(first['fixations'], last['fixations'])


def test_a_fixation_map_cannot_be_resized():
  example = _example((48, 64), [(5, 9)])
  with pytest.raises(ValueError, match='resize_pad.* before .*rasterize'):
    pp.make('rasterize|resize_pad(32, 32)')(example)


def test_rasterize_twice_is_once():
  example = _example((48, 64), [(5, 9)])
  once, twice = pp.make('rasterize'), pp.make('rasterize|rasterize')
  np.testing.assert_array_equal(
    once(example)['fixations'], twice(example)['fixations']
  )


@pytest.mark.parametrize('point', [(-1, 3), (3, -1), (48, 3), (3, 64)])
def test_a_fixation_outside_of_the_image_is_named(point):
  example = _example((48, 64), [(1, 1), point])
  row, column = point
  with pytest.raises(ValueError, match=rf'\({row}, {column}\).*48 x 64'):
    pp.rasterize(example)
  with pytest.raises(ValueError, match=rf'\({row}, {column}\).*48 x 64'):
    pp.resize_pad(example, None, 32, 32)


def test_examples_without_gaze_pass():
  example = {'image': _image((30, 40)), 'text': ''}
  text = 'resize_pad(32, 32)|flip(1.0)|rasterize|normalize("unit")'
  out = pp.make(text)(example, _rng())
  assert out['image'].shape == (32, 32, 3)
  assert out['fixations'].sum() == 0 and 'saliency' not in out


def test_ops_leave_their_input_alone():
  example = _example((30, 40), [(2, 3)], saliency=_bump((30, 40), 2, 3, 4))
  before = {k: np.copy(v) for k, v in example.items()}
  text = 'resize_pad(32, 32)|mirror|rasterize|normalize("imagenet")'
  pp.make(text)(example)
  assert set(example) == set(before)
  for k, v in before.items():
    np.testing.assert_array_equal(example[k], v)


@pytest.mark.parametrize('name', pp.NORMALIZATIONS)
def test_normalizations_do_what_their_numbers_say(name):
  order, mean, std = pp.NORMALIZATIONS[name]
  image = np.zeros((2, 2, 3), np.uint8)
  image[0, 0] = (10, 20, 30)
  image[1, 1] = (255, 0, 128)
  out = pp.normalize({'image': image}, None, name)['image']
  assert out.dtype == np.float32 and out.flags.c_contiguous
  for pixel in ((0, 0), (1, 1), (0, 1)):
    rgb = image[pixel].astype(float)
    values = rgb if order == 'RGB' else rgb[::-1]
    expected = [(v - m) / s for v, m, s in zip(values, mean, std)]
    np.testing.assert_allclose(out[pixel], expected, rtol=1e-6, atol=1e-6)


def test_normalizations_are_the_published_ones():
  grey = {'image': np.full((1, 1, 3), 255, np.uint8)}
  torch = (np.array([1, 1, 1]) - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  values = lambda name: pp.normalize(grey, None, name)['image'][0, 0]
  np.testing.assert_allclose(values('imagenet'), torch, rtol=1e-5)
  np.testing.assert_array_equal(values('unit'), 1)
  caffe = 255 - np.float32([103.939, 116.779, 123.68])
  np.testing.assert_allclose(values('caffe_vgg'), caffe, rtol=1e-6)


@pytest.mark.parametrize(
  'text, says',
  [
    ('resizepad(3, 3)', "Unknown op 'resizepad'. Did you mean 'resize_pad'"),
    ('flip(probabilty=1)', "'probabilty'. Did you mean 'probability'"),
    ('normalize("imagnet")', "'imagnet'. Did you mean 'imagenet'"),
    ('normalize(name="unti")', "'unti'. Did you mean 'unit'"),
    ('normalize', "missing a required argument: 'name'"),
    ('resize_pad(288)', "missing a required argument: 'width'"),
    ('resize_pad(0, 10)', 'resize_pad.*height=0'),
    ('resize_pad(10, -3)', 'resize_pad.*width=-3'),
    ('resize_pad(10.5, 3)', r'resize_pad.*height=10\.5'),
    ('resize_pad(9, 9, fill=(1, 2))', 'fill.*RGB'),
    ('resize_pad(9, 9, fill=(1, 2, 300))', 'fill.*RGB'),
    ('flip(50)', 'probability.*50'),
    ('flip("often")', 'probability.*often'),
    ('', 'Expected a spec string'),
    ('rasterize,flip', 'Cannot read'),
  ],
)
def test_bad_strings_fail_when_they_are_read(text, says):
  with pytest.raises(ValueError, match=says):
    pp.make(text)


@pytest.mark.parametrize(
  'image',
  [
    np.zeros((4, 4), np.uint8),
    np.zeros((4, 4, 4), np.uint8),
    np.zeros((4, 4, 3), np.float32),
  ],
)
def test_bad_images_are_described(image):
  with pytest.raises(ValueError, match=r'Expected an image u8 \[h, w, 3\]'):
    pp.resize_pad({'image': image}, None, 8, 8)


def test_a_map_of_another_size_is_described():
  example = _example((30, 40), saliency=np.zeros((20, 40, 1), np.uint8))
  with pytest.raises(ValueError, match=r'30 x 40.*20, 40'):
    pp.resize_pad(example, None, 8, 8)


def test_flip_without_a_generator_says_where_it_belongs():
  with pytest.raises(ValueError, match='not in eval_pp'):
    pp.make('flip(0.5)')(_example((4, 4)))


def test_is_random_and_pickling():
  assert pp.is_random('resize_pad(3, 3)|flip(0.5)')
  assert not pp.is_random('resize_pad(3, 3)|mirror|normalize("unit")')
  pipeline = pp.make('resize_pad(32, 32)|flip(0.5)|rasterize')
  again = pickle.loads(pickle.dumps(pipeline))
  a, b = (f(_example((30, 40), [(2, 3)]), _rng()) for f in (pipeline, again))
  np.testing.assert_array_equal(a['image'], b['image'])
  assert again.text == pipeline.text


@pytest.mark.parametrize(
  'text',
  [
    'normalize("unit")|normalize("imagenet")',
    'resize_pad(8, 8)|rasterize|resize_pad(4, 4)',
  ],
)
def test_ops_that_go_once_are_not_there_twice(text):
  with pytest.raises(ValueError, match='goes once'):
    pp.make(text)


def test_shrunk_maps_are_blocks_of_the_frame():
  text = 'resize_pad(16, 24)|rasterize'
  example = _example((20, 24), saliency=np.ones((20, 24), np.float32))
  example['fixations'] = np.array([[0, 0], [19, 23], [10, 12]], np.int32)
  whole = pp.make(text)(dict(example), None)
  small = pp.make(f'{text}|shrink(8)')(dict(example), None)
  assert small['image'].shape == (16, 24, 3)
  blocks = whole['saliency'].reshape(2, 8, 3, 8)
  np.testing.assert_allclose(small['saliency'], blocks.mean((1, 3)), rtol=1e-6)
  assert small['fixations'].sum() == whole['fixations'].sum() == 3
  # The box holds every block that the image touches.
  top, left, height, width = small['box']
  outside = np.ones((2, 3), bool)
  outside[top : top + height, left : left + width] = False
  assert not small['saliency'][outside].any()


def test_shrinking_and_flipping_go_in_any_order():
  text, flip = 'resize_pad(16, 24)|rasterize', 'flip(1.0)'
  example = _example((16, 24), saliency=np.ones((16, 24), np.float32))
  example['saliency'] = np.random.default_rng(0).random((16, 24), np.float32)
  example['fixations'] = np.array([[3, 2], [9, 21]], np.int32)
  rng = np.random.default_rng(0)
  a = pp.make(f'{text}|shrink(4)|{flip}')(dict(example), rng)
  b = pp.make(f'{text}|{flip}|shrink(4)')(dict(example), rng)
  for key in ('saliency', 'fixations', 'box', 'image'):
    np.testing.assert_allclose(a[key], b[key], rtol=1e-5, err_msg=key)


def test_what_does_not_shrink():
  example = _example((16, 24), saliency=np.ones((16, 24), np.float32))
  example['fixations'] = np.array([[3, 2]], np.int32)
  with pytest.raises(ValueError, match='whole number of blocks'):
    pp.make('resize_pad(16, 24)|rasterize|shrink(5)')(dict(example), None)
  with pytest.raises(ValueError, match='rasterize goes first'):
    pp.make('resize_pad(16, 24)|shrink(4)')(dict(example), None)
  with pytest.raises(ValueError, match='factor=0'):
    pp.make('resize_pad(16, 24)|rasterize|shrink(0)')


def test_an_image_flips_only_if_none_of_its_sentences_has_a_side():
  example = _example((16, 24), saliency=np.ones((16, 24), np.float32))
  example['text'] = 'a dog'
  image = example['image'].copy()
  rng = np.random.default_rng(0)
  alone = pp.make('flip(1.0)')(dict(example), rng)
  np.testing.assert_array_equal(alone['image'], image[:, ::-1])
  texts = ['a dog', 'the dog on the left']
  beside = pp.make('flip(1.0)')(dict(example, texts=texts), rng)
  np.testing.assert_array_equal(beside['image'], image)


@pytest.mark.parametrize(
  'text, before',
  [
    ('resize_pad(8, 8)|flip|rasterize', 'resize_pad(8, 8)'),
    ('resize_pad(8, 8)|rasterize|flip', 'resize_pad(8, 8)'),
    ("resize_pad(8, 8)|normalize('unit')", 'resize_pad(8, 8)'),
    ('mirror|resize_pad(8, 8)', 'mirror|resize_pad(8, 8)'),
    ('rasterize|shrink(2)|flip', 'rasterize|shrink(2)'),
    ('flip|rasterize|shrink(2)', ''),
  ],
)
def test_a_pp_string_is_cut_before_what_draws_or_grows(text, before):
  first, rest = pp.make(text).split()
  assert first.text == before
  assert '|'.join(filter(None, [first.text, rest.text])) == text
  example = {'image': np.zeros((4, 4, 3), np.uint8)}
  assert before or first(example) is example
