"""Stored features: the same numbers, read again, never half there."""

import collections
import dataclasses
import pathlib
import pickle
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_gaze import Toy

from salflax.data import batches, pp
from salflax.data import kept as kept_lib
from salflax.models.layers import TextFeatures
from salflax.train import checks, features, step, store

SIZE = (16, 24)
PP = 'resize_pad(16, 24)|flip(0.5)|rasterize|normalize("unit")'
EVAL_PP = 'resize_pad(16, 24)|rasterize|normalize("unit")'
Disk = collections.namedtuple('Disk', 'total used free')


class _Backbone(nn.Module):
  scale: float = 1.0

  @nn.compact
  def __call__(self, image, *, train):
    del train
    mix = self.param('mix', nn.initializers.normal(1.0), (3, 5))
    fine = self.scale * jnp.einsum('bhwc,cd->bhwd', image[:, ::4, ::4], mix)
    return {'1/4': fine, '1/8': fine[:, ::2, ::2, :2]}


class _Text(nn.Module):
  @nn.compact
  def __call__(self, tokens, mask):
    table = self.param('table', nn.initializers.normal(1.0), (50, 4))
    words = table[tokens] * mask[..., None]
    return TextFeatures(words, mask, words.sum(1))


class _Model(nn.Module):
  """No more of a network than the cache asks for."""

  backbone: nn.Module
  text: nn.Module
  size: tuple[int, int] = SIZE

  def __call__(self, image, tokens, mask, *, train):
    return self.backbone(image, train=train), self.text(tokens, mask)

  def encode_image(self, image, *, train=False):
    return self.backbone(image, train=train)

  def encode_text(self, tokens, mask):
    return self.text(tokens, mask)


def tokenizer(texts):
  """Letters of the first six, as numbers."""
  ids = np.zeros((len(texts), 6), np.int32)
  for row, text in zip(ids, texts):
    letters = [ord(c) % 50 for c in text[:6]]
    row[: len(letters)] = letters
  return ids, ids > 0


@pytest.fixture(scope='module')
def model():
  return _Model(_Backbone(), _Text())


@pytest.fixture(scope='module')
def variables(model):
  tokens = np.zeros((1, 6), np.int32)
  image = np.zeros((1, *SIZE, 3), np.float32)
  return model.init(jax.random.key(0), image, tokens, tokens > 0, train=False)


def _store(model, variables, source, text, folder, batch_size=3):
  return features.store_taps(
    model, variables, source, text, folder=str(folder), batch_size=batch_size
  )


def _files(folder):
  return {p: p.stat().st_mtime_ns for p in pathlib.Path(folder).rglob('*.bin')}


@pytest.mark.parametrize('mirrored', [False, True])
def test_stored_features_are_those_of_the_network(
  model, variables, tmp_path, mirrored
):
  source = Toy(4)
  lookup = _store(model, variables, source, PP, tmp_path)
  ops = pp.make(EVAL_PP.replace('|rasterize', '|mirror' if mirrored else ''))
  for example in source:
    ready = ops(dict(example))
    expected = step.encode_image(model, variables, ready['image'][None])
    row = lookup(ready)
    assert row['image'] is None
    assert set(row['taps']) == set(expected)
    for level, value in expected.items():
      assert row['taps'][level].dtype == np.float16
      np.testing.assert_array_equal(row['taps'][level], value[0])


def test_a_batch_with_stored_features_has_no_pixels(model, variables, tmp_path):
  source = Toy(2)
  lookup = _store(model, variables, source, EVAL_PP, tmp_path)
  text = features.without(EVAL_PP, 'normalize')
  (batch,) = batches.eval_batches(
    source, pp.make(text), batch_size=8, finish=[lookup]
  )
  assert 'image' not in batch
  shapes = {k: v.shape for k, v in batch['taps'].items()}
  assert shapes == {'1/4': (8, 4, 6, 5), '1/8': (8, 2, 3, 2)}


def test_rows_of_an_image_share_a_file(model, variables, tmp_path):
  _store(model, variables, Toy(3), EVAL_PP, tmp_path)
  assert len(_files(tmp_path)) == 3
  _store(model, variables, Toy(3), PP, tmp_path)
  assert len(_files(tmp_path)) == 6  # the mirrored ones


def test_files_are_named_by_pixels_and_read_again(model, variables, tmp_path):
  whole = Toy(4)
  _store(model, variables, batches.Rows(whole, range(8)), EVAL_PP, tmp_path)
  before = _files(tmp_path)
  assert len(before) == 2
  # Another split, under other names: one image is new.
  other = Toy(4)
  for row in other.rows:
    row['image_id'] = 'other-' + row['image_id']
  lookup = _store(
    model, variables, batches.Rows(other, range(4, 12)), EVAL_PP, tmp_path
  )
  after = _files(tmp_path)
  assert len(after) == 3 and before.items() <= after.items()
  a, b = whole[4], other[4]
  ready = pp.make(EVAL_PP)(dict(b))
  expected = step.encode_image(
    model, variables, pp.make(EVAL_PP)(dict(a))['image'][None]
  )
  np.testing.assert_array_equal(
    lookup(ready)['taps']['1/4'], expected['1/4'][0]
  )


def test_another_backbone_or_preprocessing_has_another_folder(
  model, variables, tmp_path, monkeypatch
):
  source = Toy(1)
  folder = lambda *args: (
    _store(*args, tmp_path).keywords['stores'][False].folder
  )
  folders = {folder(model, variables, source, EVAL_PP)}
  # Neither rasterize nor a flip change features; the text encoder is no part.
  folders.add(folder(model, variables, source, PP))
  others = jax.tree.map(lambda x: x + 1, variables['params']['text'])
  params = dict(variables['params'], text=others)
  folders.add(folder(model, {'params': params}, source, EVAL_PP))
  assert len(folders) == 1
  bgr = EVAL_PP.replace('unit', 'unit_bgr')
  folders.add(folder(model, variables, source, bgr))
  params = dict(
    variables['params'],
    backbone=jax.tree.map(lambda x: x + 1, variables['params']['backbone']),
  )
  folders.add(folder(model, {'params': params}, source, EVAL_PP))
  twice = model.clone(backbone=_Backbone(scale=2.0))
  folders.add(folder(twice, variables, source, EVAL_PP))
  assert len(folders) == 4
  monkeypatch.setattr(features, 'FORMAT', features.FORMAT + 1)
  folders.add(folder(model, variables, source, EVAL_PP))
  monkeypatch.setattr(features.salflax, '__version__', '999')
  folders.add(folder(model, variables, source, EVAL_PP))
  assert len(folders) == 6


def test_images_of_the_same_name_in_two_data_sets(model, variables, tmp_path):
  both = batches.Joined([Toy(2), Toy(2, seed=9)])
  lookup = _store(model, variables, both, EVAL_PP, tmp_path)
  assert len(_files(tmp_path)) == 4
  for index in (0, 4, 8, 12):
    ready = pp.make(EVAL_PP)(both[index])
    expected = step.encode_image(model, variables, ready['image'][None])
    np.testing.assert_array_equal(
      lookup(ready)['taps']['1/8'], expected['1/8'][0]
    )


def test_a_file_cut_short_is_named(model, variables, tmp_path):
  source = Toy(1)
  lookup = _store(model, variables, source, EVAL_PP, tmp_path)
  (path,) = _files(tmp_path)
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(OSError, match=f'{path.name} has .* bytes'):
    lookup(pp.make(EVAL_PP)(source[0]))
  path.write_bytes(b'')
  with pytest.raises(OSError, match=f'{path.name} has 0 bytes'):
    lookup(pp.make(EVAL_PP)(source[0]))


def test_what_a_killed_run_has_stored_stays(
  model, variables, tmp_path, monkeypatch
):
  source, written = Toy(5), []
  replacing = store.files.replacing

  def fail_at_the_third(path):
    written.append(path)
    if len(written) == 3:
      raise KeyboardInterrupt
    return replacing(path)

  monkeypatch.setattr(store.files, 'replacing', fail_at_the_third)
  with pytest.raises(KeyboardInterrupt):
    _store(model, variables, source, EVAL_PP, tmp_path)
  before = _files(tmp_path)
  assert len(before) == 2
  monkeypatch.undo()
  _store(model, variables, source, EVAL_PP, tmp_path)
  after = _files(tmp_path)
  assert len(after) == 5 and before.items() <= after.items()


def test_a_full_disk_is_an_error_before_writing(
  model, variables, tmp_path, monkeypatch
):
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: Disk(10, 9, 100))
  with pytest.raises(OSError, match='Not enough room for features of images'):
    _store(model, variables, Toy(3), EVAL_PP, tmp_path)
  assert not _files(tmp_path)
  with pytest.raises(OSError, match='Not enough room for sentences'):
    features.store_text(
      model, variables, ['a'], tokenizer, folder=str(tmp_path)
    )
  assert not [p for p in tmp_path.rglob('*') if p.is_file()]


def test_sentences_looked_up_are_those_embedded(model, variables, tmp_path):
  sentences = ['a cup', 'the red cup', 'a dog and a bowl', '']
  lookup = features.store_text(
    *(model, variables, sentences, tokenizer),
    folder=str(tmp_path),
    batch_size=2,
  )
  for text in sentences:
    ids, mask = tokenizer([text])
    expected = model.apply(variables, ids, mask, method='encode_text')
    row = lookup({'text': text, 'image': 1})
    assert row['image'] == 1
    np.testing.assert_allclose(
      row['text_tokens'], expected.tokens[0], rtol=1e-6
    )
    np.testing.assert_allclose(row['sentence'], expected.sentence[0], rtol=1e-6)
    np.testing.assert_array_equal(row['token_mask'], mask[0])
    assert row['token_mask'].dtype == bool


def test_the_empty_sentence_is_always_there(model, variables, tmp_path):
  lookup = features.store_text(
    model, variables, ['a'], tokenizer, folder=str(tmp_path)
  )
  assert not lookup({'text': ''})['token_mask'].any()
  with pytest.raises(KeyError):
    lookup({'text': 'another'})


def test_sentences_are_computed_once(model, variables, tmp_path, monkeypatch):
  make = lambda texts: features.store_text(
    model, variables, texts, tokenizer, folder=str(tmp_path)
  )
  first = make(['b', 'a'])
  before, keys, write = _files(tmp_path), [], store.Store.write
  monkeypatch.setattr(
    store.Store, 'write', lambda *a: keys.append(a[1]) or write(*a)
  )
  again = make(['a', 'b', 'a'])
  assert len(before) == 3 and not keys
  make(['b', 'a', 'c'])  # another set of sentences: one is new
  assert len(keys) == 1 and before.items() < _files(tmp_path).items()
  assert again({'text': 'b'})['sentence'].tolist() == (
    first({'text': 'b'})['sentence'].tolist()
  )


def test_lookups_can_be_pickled_for_workers(model, variables, tmp_path):
  source = Toy(1)
  taps = _store(model, variables, source, EVAL_PP, tmp_path)
  text = features.store_text(
    model, variables, ['all of 0'], tokenizer, folder=str(tmp_path)
  )
  text({'text': ''})  # an open file must not hinder
  ready = pp.make(EVAL_PP)(source[1])
  for lookup in (taps, text):
    a, b = lookup(ready), pickle.loads(pickle.dumps(lookup))(ready)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_tokenize_adds_word_pieces():
  row = features.tokenize({'text': 'ab', 'image_id': 'x'}, tokenizer=tokenizer)
  assert row['tokens'].shape == (6,) and row['token_mask'].sum() == 2


def test_pp_strings_without_some_ops():
  assert features.without(PP, 'flip', 'rasterize') == (
    "resize_pad(16, 24)|normalize('unit')"
  )


@pytest.mark.parametrize(
  'text, expected',
  [
    ('resize_pad(1, 2)|rasterize', {False: 'resize_pad(1, 2)'}),
    (
      'resize_pad(1, 2)|flip(0.5)',
      {False: 'resize_pad(1, 2)', True: 'resize_pad(1, 2)|mirror'},
    ),
    (
      'flip|resize_pad(1, 2)',
      {False: 'resize_pad(1, 2)', True: 'mirror|resize_pad(1, 2)'},
    ),
    ('mirror|resize_pad(1, 2)', {True: 'mirror|resize_pad(1, 2)'}),
    (
      'mirror|flip|resize_pad(1, 2)',
      {
        True: 'mirror|resize_pad(1, 2)',
        False: 'mirror|mirror|resize_pad(1, 2)',
      },
    ),
  ],
)
def test_forms_of_an_image(text, expected):
  assert features.variants(text) == expected


def test_an_image_of_several_forms_is_refused(base):
  text = 'flip|resize_pad(32, 32)|flip|rasterize|normalize("imagenet")'
  with pytest.raises(ValueError, match='more than one flip.*store=False'):
    features.variants(text)
  stage = dataclasses.replace(base, pp=text)
  checks.check(stage)
  with pytest.raises(ValueError, match='more than one flip'):
    checks.check(dataclasses.replace(stage, stored={'backbone'}))


FLIPS = (
  'flip(1.0)|resize_pad(16, 24)',
  'resize_pad(16, 24)|flip(1.0)',
  'mirror|resize_pad(16, 24)',
  'mirror|resize_pad(16, 24)|flip(1.0)',
)


def test_the_place_of_a_flip_is_part_of_the_key(model, variables, tmp_path):
  # One cache for all: resizing a mirrored image is not mirroring a resized one.
  source, taps = Toy(3, conditions=('pure',)), []
  for text in FLIPS:
    text += '|rasterize|normalize("unit")'
    lookup, ops = (
      _store(model, variables, source, text, tmp_path),
      pp.make(text),
    )
    for example in source:
      ready = ops(dict(example), np.random.default_rng(0))
      expected = step.encode_image(model, variables, ready['image'][None])
      taps.append(lookup(ready)['taps']['1/4'])
      np.testing.assert_array_equal(taps[-1], expected['1/4'][0])
  assert any((a != b).any() for a, b in zip(taps[:3], taps[3:6]))


class _Counting(Toy):
  """Counts how often an image is read; `truth` leaves it out."""

  reads = 0

  def __getitem__(self, index):
    self.reads += 1
    return super().__getitem__(index)

  def truth(self, index):
    row = super().__getitem__(index)
    del row['image']
    return row


def test_images_with_stored_features_are_read_once(model, variables, tmp_path):
  source = _Counting(4)
  kept = Toy(4)
  lookup = _store(model, variables, source, PP, tmp_path)
  reads = source.reads
  assert reads == 4 * 3  # for its name, for itself and for its mirror image
  text = features.without(PP, 'normalize')
  options = dict(batch_size=4, seed=1, finish=[lookup], threads=1)
  stored = iter(
    batches.train_batches(
      features.WithoutImages(source), pp.make(text), **options
    )
  )
  whole = iter(batches.train_batches(kept, pp.make(text), **options))
  for _ in range(12):  # three epochs
    a, b = next(stored), next(whole)
    assert a.keys() == b.keys() and 'taps' in a and 'image' not in a
    jax.tree.map(np.testing.assert_array_equal, a, b)
  assert source.reads == reads
  # A source that cannot leave its images out is read as it is.
  plain = features.WithoutImages(kept)
  np.testing.assert_array_equal(plain[2]['image'], kept[2]['image'])
  assert len(plain) == 16 and plain.meta(5) == kept.meta(5)


def test_shrunk_maps_are_read_once_and_stay_the_same():
  class Truths(_Counting):
    truths = 0

    def truth(self, index):
      self.truths += 1
      return super().truth(index)

  source, kept = Truths(4), Toy(4)
  text = 'resize_pad(16, 24)|rasterize|shrink(4)|flip(0.5)'
  before, after = pp.make(text).split()
  assert before.text == 'resize_pad(16, 24)|rasterize|shrink(4)'
  assert after.text == 'flip(0.5)'
  rows = kept_lib.Kept(source, before, 2**30, images=False)
  options = dict(batch_size=4, seed=1, threads=1)
  stored = iter(batches.train_batches(rows, after, **options))
  whole = iter(batches.train_batches(kept, pp.make(text), **options))
  for _ in range(12):  # three epochs
    a, b = next(stored), next(whole)
    for key in ('saliency', 'fixations', 'box', 'size', 'index'):
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)
  assert source.truths == len(source) and source.reads == 0
  # Without room they are read anew.
  rows = kept_lib.Kept(source, before, 0, images=False)
  for _ in range(2):
    np.testing.assert_array_equal(rows[1]['image'].shape, (16, 24, 3))
  assert source.truths == len(source) + 2
