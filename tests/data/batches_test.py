"""Batches: every row once an epoch, alike for shards and workers, resumable."""

import numpy as np
import pytest
from toy_gaze import Toy

from salflax.data import batches as batches_lib
from salflax.data import pp

PP = 'resize_pad(16, 24)|flip(0.5)|rasterize|normalize("unit")'
EVAL_PP = 'resize_pad(16, 24)|rasterize|normalize("unit")'


class Numbers:
  """Rows without images, for tests of the order alone; no `meta`."""

  def __init__(self, number, bad=()):
    self.number, self.bad = number, bad

  def __len__(self):
    return self.number

  def __getitem__(self, index):
    if index in self.bad:
      raise OSError('the image is cut short')
    return {'image': np.full(1, index), 'image_id': f'p{index}'}


def draw(example, rng):
  """An op that draws: what it drew takes the place of the box."""
  return dict(example, box=rng.integers(0, 1 << 30, 1))


def keep(example, rng):
  del rng
  return example


def _take(batches, number):
  iterator = iter(batches)
  return [next(iterator) for _ in range(number)]


def _indices(batches):
  return np.concatenate([b['index'] for b in batches])


def _assert_equal(a, b):
  assert set(a) == set(b)
  for key in a:
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize('count', [1, 2, 4])
def test_an_epoch_covers_every_row_once(count):
  source, epochs = Numbers(24), 3
  parts = [
    _take(
      batches_lib.train_batches(
        source, draw, batch_size=8, seed=3, shard=(i, count)
      ),
      epochs * 3,
    )
    for i in range(count)
  ]
  orders = []
  for epoch in range(epochs):
    seen = [_indices(p[3 * epoch : 3 * epoch + 3]) for p in parts]
    assert {len(s) for s in seen} == {24 // count}
    assert sorted(np.concatenate(seen)) == list(range(24))
    orders.append(np.concatenate(seen).tolist())
  assert orders[0] != orders[1] != orders[2] != list(range(24))


def test_every_row_comes_equally_often_where_batches_do_not_divide():
  batches = _take(
    batches_lib.train_batches(Numbers(7), keep, batch_size=3, seed=0), 14
  )
  assert np.bincount(_indices(batches)).tolist() == [6] * 7


@pytest.mark.parametrize('count', [2, 4])
def test_shards_together_are_the_batches_of_one_process(count):
  source = Toy(3)
  make = lambda shard: _take(
    batches_lib.train_batches(
      source, pp.make(PP), batch_size=4, seed=1, shard=shard
    ),
    5,
  )
  whole, parts = make((0, 1)), [make((i, count)) for i in range(count)]
  for n, batch in enumerate(whole):
    for i, part in enumerate(parts):
      # Row k of the batch goes to shard k mod count.
      mine = {key: value[i::count] for key, value in batch.items()}
      _assert_equal(mine, part[n])


def test_the_order_and_the_draws_follow_the_seed():
  make = lambda seed: _take(
    batches_lib.train_batches(Numbers(16), draw, batch_size=4, seed=seed), 8
  )
  a, b, c = make(0), make(0), make(1)
  for x, y in zip(a, b):
    _assert_equal(x, y)
  assert _indices(a).tolist() != _indices(c).tolist()
  # A row draws anew in each epoch.
  drawn = {}
  for batch in a:
    for index, value in zip(batch['index'], batch['box']):
      drawn.setdefault(int(index), []).append(int(value[0]))
  assert all(len(set(v)) == 2 for v in drawn.values())


@pytest.mark.parametrize('shard', [(0, 1), (1, 2)])
def test_a_later_start_leaves_out_the_batches_before_it(shard):
  make = lambda **options: batches_lib.train_batches(
    Toy(3), pp.make(PP), batch_size=4, seed=1, shard=shard, **options
  )
  expected = _take(make(), 8)
  for start, threads in ((0, 4), (1, 1), (5, 4)):
    for a, b in zip(
      expected[start:], _take(make(start=start, threads=threads), 3)
    ):
      _assert_equal(a, b)


@pytest.mark.slow
def test_workers_make_the_same_batches():
  make = lambda **options: batches_lib.train_batches(
    Toy(3), pp.make(PP), batch_size=4, seed=1, shard=(1, 2), **options
  )
  together = _take(make(start=1, workers=2), 4)
  for a, b in zip(_take(make(), 5)[1:], together, strict=True):
    _assert_equal(a, b)


@pytest.mark.parametrize('count', [1, 2])
@pytest.mark.parametrize('batch_size', [2, 4, 8, 16])
def test_evaluation_has_every_row_once_and_masks_what_fills(batch_size, count):
  source = Toy(3)  # 12 rows
  parts = [
    list(
      batches_lib.eval_batches(
        source, pp.make(EVAL_PP), batch_size=batch_size, shard=(i, count)
      )
    )
    for i in range(count)
  ]
  assert {len(p) for p in parts} == {-(-12 // batch_size)}
  for batch in sum(parts, []):
    assert {len(v) for v in batch.values()} == {batch_size // count}
    assert batch['mask'].dtype == bool
  kept = np.concatenate([b['index'][b['mask']] for b in sum(parts, [])])
  assert sorted(kept) == list(range(12))
  if count == 1:
    assert kept.tolist() == list(range(12))
  rows = {}
  for batch in sum(parts, []):
    for k in np.flatnonzero(batch['mask']):
      rows[int(batch['index'][k])] = batch['image'][k]
  for index, image in rows.items():
    np.testing.assert_array_equal(
      image, pp.make(EVAL_PP)(source[index], None)['image']
    )


def test_batches_hold_what_the_device_needs_and_no_more():
  finish = [lambda e: dict(e, tokens=np.zeros(3, np.int32))]
  batch = _take(
    batches_lib.train_batches(
      Toy(2), pp.make(PP), batch_size=2, seed=0, finish=finish
    ),
    1,
  )[0]
  shapes = {k: (v.shape, v.dtype.str[1:]) for k, v in batch.items()}
  assert shapes == {
    'image': ((2, 16, 24, 3), 'f4'),
    'saliency': ((2, 16, 24), 'f4'),
    'fixations': ((2, 16, 24), 'f4'),
    'box': ((2, 4), 'i4'),
    'size': ((2, 2), 'i4'),
    'tokens': ((2, 3), 'i4'),
    'index': ((2,), 'i4'),
  }


def test_points_stay_with_the_example_where_pp_does_not_rasterize():
  text = 'resize_pad(16, 24)|normalize("unit")'
  (batch,) = batches_lib.eval_batches(Toy(1), pp.make(text), batch_size=4)
  assert 'fixations' not in batch and 'saliency' in batch


@pytest.mark.parametrize('source', [Numbers(8, bad=(5,))])
@pytest.mark.parametrize('training', [True, False])
def test_an_error_names_the_row(source, training):
  if training:
    batches = batches_lib.train_batches(source, keep, batch_size=4, seed=0)
  else:
    batches = batches_lib.eval_batches(source, keep, batch_size=4)
  with pytest.raises(OSError, match='cut short') as caught:
    _take(batches, 2)
  assert any('row 5' in note for note in caught.value.__notes__)


def test_an_error_names_the_image():
  source = Toy(2)
  source.rows[6]['image'] = source.rows[6]['image'][..., 0]
  with pytest.raises(ValueError, match='Expected an image') as caught:
    list(batches_lib.eval_batches(source, pp.make(EVAL_PP), batch_size=4))
  assert 'row 6 (picture01/non_salient)' in caught.value.__notes__[0]


@pytest.mark.slow
def test_an_error_in_a_worker_names_the_image():
  source = Toy(2)
  source.rows[6]['image'] = source.rows[6]['image'][..., 0]
  batches = batches_lib.train_batches(
    source, pp.make(PP), batch_size=4, seed=0, workers=1
  )
  with pytest.raises(Exception, match='Expected an image') as caught:
    _take(batches, 2)
  notes = str(caught.value) + ''.join(getattr(caught.value, '__notes__', ()))
  assert 'picture01/non_salient' in notes


@pytest.mark.parametrize(
  'make',
  [
    lambda s, **k: batches_lib.train_batches(s, keep, seed=0, **k),
    lambda s, **k: list(batches_lib.eval_batches(s, keep, **k)),
  ],
)
def test_what_cannot_be_batched_is_refused(make):
  with pytest.raises(ValueError, match='batch_size 6 .* 4 processes'):
    make(Numbers(12), batch_size=6, shard=(0, 4))
  with pytest.raises(ValueError, match='empty'):
    make(Numbers(0), batch_size=4)
  for size in (0, -2):
    with pytest.raises(ValueError, match=f'batch_size {size}'):
      make(Numbers(12), batch_size=size)


def test_rows_and_joined_sources_find_their_rows():
  a, b = Toy(2), Toy(3, ('pure',), seed=1)
  both = batches_lib.Joined([a, b])
  assert len(both) == 11
  for index in range(11):
    source, row = (a, index) if index < 8 else (b, index - 8)
    np.testing.assert_array_equal(both[index]['image'], source[row]['image'])
    for key in ('image_id', 'condition', 'text'):
      assert both.meta(index)[key] == source.meta(row)[key]
  some = batches_lib.Rows(both, [9, 1])
  assert len(some) == 2
  assert some.meta(0)['image_id'] == 'picture01'
  assert batches_lib.describe(some, 1) == 'picture00/all'
  np.testing.assert_array_equal(some[0]['image'], b[1]['image'])


def test_rows_end_where_they_end():
  """Or a plain loop over a source would never stop."""
  for source in (
    batches_lib.Joined([Toy(1), Toy(1)]),
    batches_lib.Rows(Toy(1), [0, 2]),
  ):
    with pytest.raises(IndexError):
      source[len(source)]
    assert len(list(source)) == len(source)


def test_images_of_joined_sources_are_told_apart():
  """Two data sets may have an image of the same name."""
  both = batches_lib.Joined([Toy(1), Toy(1, seed=5)])
  rows = [both.meta(i) for i in (0, 1, 4)]
  first, again, other = map(batches_lib.image_key, rows)
  assert first == again != other
  assert batches_lib.image_key(both[4]) == other
  assert batches_lib.image_key(batches_lib.Rows(both, [4]).meta(0)) == other


def test_an_image_is_the_same_in_a_row_and_in_its_meta():
  class Split(list):
    def meta(self, index):
      # A data set's own split is no matter of which image it is.
      return {'image_id': self[index]['image_id'], 'part': 'train'}

  source = Split([{'image_id': 'a'}])
  for rows in (
    source,
    batches_lib.Rows(source, [0]),
    batches_lib.Joined([source]),
  ):
    assert batches_lib.image_key(rows[0]) == batches_lib.image_key(rows.meta(0))


def test_batches_by_image_hold_every_sentence_of_an_image():
  source = Toy(6, conditions=('pure', 'salient', 'non_salient'))
  options = dict(batch_size=8, seed=2, rows_per_image=4, threads=1)
  batches = _take(batches_lib.train_batches(source, pp.make(PP), **options), 6)
  images = []
  for batch in batches:
    assert batch['image'].shape == (2, 16, 24, 3)
    assert batch['saliency'].shape == (8, 16, 24)
    for rows in batch['index'].reshape(2, 4):
      keys = {batches_lib.image_key(source.meta(int(i))) for i in rows}
      assert len(keys) == 1 and len(set(rows.tolist())) == 3
      images += keys
  assert len(images) == 12 and set(images[:6]) == set(images[6:])
  assert len(set(images)) == 6
  assert batches_lib.count_rows(source, 4) == 24
  assert batches_lib.count_rows(source, 1) == 18


def test_rows_of_an_image_are_flipped_with_it():
  source = Toy(4, conditions=('pure', 'salient'))
  text = 'resize_pad(16, 24)|flip(0.5)|rasterize|normalize("unit")'
  options = dict(batch_size=8, seed=0, rows_per_image=2, threads=1)
  still = pp.make(EVAL_PP)
  flips = []
  for batch in _take(
    batches_lib.train_batches(source, pp.make(text), **options), 4
  ):
    for k, index in enumerate(batch['index']):
      row = still(dict(source[int(index)]), None)
      flipped = not np.allclose(batch['image'][k // 2], row['image'])
      saliency = row['saliency'][:, ::-1] if flipped else row['saliency']
      np.testing.assert_allclose(batch['saliency'][k], saliency, atol=1e-4)
      flips.append(flipped)
  assert 0 < sum(flips) < len(flips)


def test_more_rows_than_asked_are_drawn_anew():
  source = Toy(2, conditions=('pure', 'salient', 'non_salient'))
  options = dict(batch_size=2, seed=0, rows_per_image=2, threads=1)
  batches = _take(batches_lib.train_batches(source, pp.make(PP), **options), 24)
  pairs = {tuple(sorted(b['index'].tolist())) for b in batches}
  assert len(pairs) == 2 * 3 and all(a != b for a, b in pairs)
  with pytest.raises(ValueError, match='multiple of 2'):
    batches_lib.train_batches(
      source, pp.make(PP), batch_size=3, seed=0, rows_per_image=2
    )
