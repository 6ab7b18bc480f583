"""Kept rows: the values of rows that are read anew, read once, within room."""

import gc
import pickle
import threading
import time
import weakref

import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax.data import batches, kept, pp
from salflax.train import stage as stages_lib

PP = (
  'resize_pad(16, 24)|flip(0.5)|rasterize|normalize("unit")',
  'resize_pad(16, 24)|rasterize|shrink(4)|flip(0.5)|normalize("imagenet")',
  'resize_pad(16, 24)|rasterize|normalize("caffe_vgg")',
  'mirror|resize_pad(16, 24)|rasterize|flip(0.5)|normalize("unit")',
  'flip(0.5)|resize_pad(16, 24)|rasterize|normalize("unit")',
)
ROOM = 2**30


class Counting(Toy):
  """Counts how often rows are read with their image, and without."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **kwargs)
    self.calls = []  # from several threads

  reads = property(lambda self: self.calls.count('read'))
  truths = property(lambda self: self.calls.count('truth'))

  def __getitem__(self, index):
    self.calls.append('read')
    return super().__getitem__(index)

  def truth(self, index):
    self.calls.append('truth')
    row = super().__getitem__(index)
    del row['image']
    return row


def _rows(source, text, *, room=ROOM, images=True):
  before, after = pp.make(text).split()
  return kept.Kept(source, before, room, images=images), after


def _assert_same_batches(make, rows, after, expected, text, number):
  a, b = iter(make(rows, after)), iter(make(expected, pp.make(text)))
  for _ in range(number):
    mine, theirs = next(a), next(b)
    assert mine.keys() == theirs.keys()
    for key, value in theirs.items():
      assert mine[key].dtype == value.dtype, key
      np.testing.assert_array_equal(mine[key], value, err_msg=key)


@pytest.mark.parametrize('text', PP)
@pytest.mark.parametrize('options', [{}, {'rows_per_image': 2}, {'start': 5}])
@pytest.mark.parametrize('room', [ROOM, 20_000, 0])
def test_batches_are_those_of_rows_read_anew(text, options, room):
  source = Counting(4)
  rows, after = _rows(source, text, room=room)

  def make(source, ops):
    return batches.train_batches(source, ops, batch_size=4, seed=1, **options)

  # Three epochs, or six by image.
  _assert_same_batches(make, rows, after, Toy(4), text, 12)


@pytest.mark.slow
def test_workers_keep_rows_of_their_own():
  rows, after = _rows(Toy(3), PP[0])

  def make(source, ops):
    workers = 2 if source is rows else 0
    return batches.train_batches(
      source, ops, batch_size=4, seed=1, workers=workers
    )

  _assert_same_batches(make, rows, after, Toy(3), PP[0], 6)


def test_a_copy_for_another_process_starts_empty():
  rows, _ = _rows(Counting(2), PP[0], images=False)
  rows[0], rows[0]
  copy = pickle.loads(pickle.dumps(rows))
  copy[0]
  assert (rows.source.truths, copy.source.truths) == (1, 2)
  assert (len(copy), copy.room, copy.images) == (8, ROOM, False)


@pytest.mark.parametrize('threads', [1, 4])
def test_rows_are_read_once_and_images_once_for_all_rows(threads):
  source = Counting(4)
  rows, after = _rows(source, PP[0])
  options = dict(batch_size=4, seed=0, threads=threads)
  made = iter(batches.train_batches(rows, after, **options))
  for _ in range(16):  # four epochs
    next(made)
  if threads == 1:
    assert (source.reads, source.truths) == (4, 12)
  else:
    # Threads may read one image at the same time; and a row that is still being
    # read as the next epoch asks for it, at most one in each other thread.
    assert 4 <= source.reads
    assert 16 <= source.reads + source.truths < 16 + threads
  before = source.reads, source.truths
  for _ in range(8):
    next(made)
  assert (source.reads, source.truths) == before
  images = {id(rows[i]['image']) for i in range(16)}
  assert len(images) == 4


def test_no_more_is_kept_than_there_is_room_for():
  image, row = 16 * 24 * 3, 16 * 24 * 4 + 20 * 2 * 8 + 4 * 4 + 2 * 4
  texts = sum(np.asarray(v).nbytes for v in ('pure', 'picture00', ''))
  needs = image + row + texts
  for room, again in ((needs, 0), (needs - 1, 1)):
    source = Counting(1)
    rows, _ = _rows(source, PP[0], room=room)
    for _ in range(2):
      rows[0]
    assert source.reads == 1 + again
  # The image is there already: the next row needs its maps alone.
  source = Counting(1)
  rows, _ = _rows(source, PP[0], room=needs + row + 200)
  for index in (0, 1, 1, 2, 2):
    rows[index]
  assert (source.reads, source.truths) == (1, 3)


def test_blank_images_take_no_memory_and_are_not_read():
  source, whole = Counting(3), Toy(3)
  rows, after = _rows(
    source, 'resize_pad(16, 24)|flip(1.0)|rasterize', images=False
  )
  ops = pp.make('resize_pad(16, 24)|flip(1.0)|rasterize')
  for index in [*range(12)] * 2:
    row = after(rows[index], np.random.default_rng(0))
    wanted = ops(whole[index], np.random.default_rng(0))
    for key in ('saliency', 'fixations', 'box'):
      np.testing.assert_array_equal(row[key], wanted[key], err_msg=key)
    assert rows[index]['image'].shape == (16, 24, 3)
    assert not any(rows[index]['image'].strides)
    assert rows[index]['size'].tolist() == [*whole[index]['image'].shape[:2]]
  assert (source.reads, source.truths) == (0, 12)


def test_a_row_that_is_changed_stays_as_it_was():
  rows, _ = _rows(Toy(1), PP[0])
  first = rows[0]
  first['text'], first['image'] = 'changed', None
  assert rows[0]['text'] == '' and rows[0]['image'].shape == (16, 24, 3)
  assert rows.meta(0) == Toy(1).meta(0)


def test_a_stage_trains_on_kept_rows(tmp_path):
  source = Counting(4)
  (stage,) = tiny.stages(tiny.get_config(), tmp_path, train=source)
  made = iter(stages_lib.train_batches(stage, {}))
  source.calls.clear()
  ops = pp.make(stage.pp)
  whole = iter(
    batches.train_batches(
      *(Toy(4), ops), batch_size=stage.batch_size, seed=stage.seed
    )
  )
  for _ in range(3 * len(source) // stage.batch_size):
    mine, theirs = next(made), next(whole)
    for key, value in theirs.items():
      np.testing.assert_array_equal(mine[key], value, err_msg=key)
  # Twice the rows of an epoch, and what is read ahead: none of it anew.
  number = len(source)
  assert number <= source.reads + source.truths < number + stage.threads
  assert 4 <= source.reads < len(source)


def test_the_rows_of_a_stage_go_before_the_next(tmp_path, monkeypatch):
  made = []

  class Seen(kept.Kept):
    def __init__(self, *args, **kwargs):
      super().__init__(*args, **kwargs)
      made.append(weakref.ref(self))

  monkeypatch.setattr(kept, 'Kept', Seen)
  (stage,) = tiny.stages(tiny.get_config(), tmp_path, train=Toy(4))
  first = iter(stages_lib.train_batches(stage, {}))
  next(first)
  threads = threading.active_count()
  first.close()
  del first
  for _ in range(100):  # until what it reads ahead has ended
    if threading.active_count() < threads:
      break
    time.sleep(0.05)
  gc.disable()
  try:
    stages_lib.train_batches(stage, {})
  finally:
    gc.enable()
  assert made[0]() is None and len(made) == 2


def test_room_is_shared_by_workers(monkeypatch):
  assert kept.room(4) == kept.room() // 4
  assert 0 < kept.room() <= kept.MOST_BYTES == 2 * 2**30
  monkeypatch.setattr(kept, 'MOST_BYTES', 2**70)
  pages = {'SC_PHYS_PAGES': 1000, 'SC_PAGE_SIZE': 4096}
  monkeypatch.setattr(kept.os, 'sysconf', pages.get)
  monkeypatch.setattr(kept, 'LIMITS', ())
  assert kept.room() == 1000 * 4096 // 8


@pytest.mark.parametrize('text, bytes_', [('800\n', 100), ('max\n', 512_000)])
def test_room_is_that_of_a_container(monkeypatch, tmp_path, text, bytes_):
  limit = tmp_path / 'memory.max'
  limit.write_text(text)
  pages = {'SC_PHYS_PAGES': 1000, 'SC_PAGE_SIZE': 4096}
  monkeypatch.setattr(kept.os, 'sysconf', pages.get)
  monkeypatch.setattr(kept, 'LIMITS', (str(tmp_path / 'absent'), str(limit)))
  assert kept.room() == bytes_
