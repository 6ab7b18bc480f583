"""Embedded scenes: deterministic, well formed, and unsolvable without text."""

import collections
import pickle
import time

import numpy as np
import pytest

from salflax.data import scenes
from salflax.data.scenes import art, layout, sentences

CONDITIONS = ('pure', 'all', 'salient', 'non_salient')


def cc(a, b):
  return np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]


def by_condition(source, score):
  """Mean of `score(index)` over the rows of each condition."""
  values = collections.defaultdict(list)
  for i in range(len(source)):
    values[source.meta(i)['condition']].append(score(i))
  return {condition: np.mean(v) for condition, v in values.items()}


@pytest.fixture(scope='module')
def source():
  return scenes.load('val', num=50)


@pytest.fixture(scope='module')
def maps(source):
  """Saliency map of every row, f64 [n, h, w]."""
  return np.array(
    [source[i]['saliency'][..., 0].astype(float) for i in range(len(source))]
  )


@pytest.mark.parametrize('size', [(96, 128), (64, 64), (120, 50), (33, 70)])
@pytest.mark.parametrize('split', scenes.SPLITS)
def test_example_is_well_formed(split, size):
  source = scenes.load(split, size=size, num=3)
  for i in range(len(source)):
    example = source[i]
    assert set(example) == {
      'image',
      'saliency',
      'fixations',
      'text',
      'condition',
      'image_id',
    }
    assert example['image'].shape == (*size, 3)
    assert example['image'].dtype == np.uint8
    assert example['saliency'].shape == (*size, 1)
    assert example['saliency'].dtype == np.uint8
    assert example['saliency'].max() == 255
    points = example['fixations']
    assert points.dtype == np.int32 and points.shape[1:] == (2,)
    assert 100 <= len(points) <= 200
    assert (points >= 0).all() and (points < size).all()
    for key in ('text', 'condition', 'image_id'):
      assert type(example[key]) is str
    assert source.meta(i) == {k: example[k] for k in source.meta(i)}


def test_rows_of_a_image_stand_together(source):
  rows = [source.meta(i) for i in range(8)]
  assert [r['condition'] for r in rows] == [*CONDITIONS, *CONDITIONS]
  assert len({r['image_id'] for r in rows[:4]}) == 1
  assert rows[3]['image_id'] != rows[4]['image_id']
  for i in range(1, 4):
    np.testing.assert_array_equal(source[i]['image'], source[0]['image'])
  assert (source[4]['image'] != source[0]['image']).any()


def test_same_again_after_pickling_in_any_order(source):
  again = pickle.loads(pickle.dumps(source))
  for i in (7, 0, 31, 2):
    a, b = source[i], again[i]
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])
  assert len(pickle.dumps(source)) < 1000


def test_number_and_conditions_do_not_change_a_image(source):
  fewer = scenes.load('val', num=2, conditions=('non_salient', 'whole'))
  assert len(fewer) == 4
  np.testing.assert_array_equal(fewer[2]['image'], source[4]['image'])
  assert fewer.meta(2) == source.meta(7)
  np.testing.assert_array_equal(fewer[2]['fixations'], source[7]['fixations'])
  assert fewer.meta(1)['condition'] == 'whole' and fewer.meta(1)['text']


def test_splits_and_seeds_are_disjoint():
  seen = {}
  for split in scenes.SPLITS:
    for seed in (0, 1):
      source = scenes.load(split, num=60, seed=seed, conditions=('pure',))
      for i in range(len(source)):
        key = (source.meta(i)['image_id'], source.scene(i))
        for part in key:
          assert seen.setdefault(part, (split, seed, i)) == (split, seed, i)


def test_index_as_in_a_list(source):
  assert source.meta(-1) == source.meta(len(source) - 1)
  assert source.meta(np.int64(3)) == source.meta(3)
  for bad in (len(source), -len(source) - 1):
    with pytest.raises(IndexError, match=str(len(source))):
      source[bad]
  with pytest.raises(TypeError):
    source[1.5]


@pytest.mark.parametrize(
  ('kwargs', 'hint'),
  [
    (dict(split='valid'), "'val'"),
    (dict(split='val', conditions=('non-salient',)), "'non_salient'"),
    (dict(split='val', conditions=()), 'differ'),
    (dict(split='val', conditions=('all', 'all')), 'differ'),
    (dict(split='val', size=(16, 20)), '32'),
    (dict(split='val', num=0), 'num'),
  ],
)
def test_bad_arguments(kwargs, hint):
  with pytest.raises(ValueError, match=hint):
    scenes.load(**kwargs)


def test_things_are_inside_apart_and_distinct():
  source = scenes.load('train', num=300, conditions=('non_salient',))
  shared = 0
  for i in range(len(source)):
    scene = source.scene(i)
    things = scene.things
    assert 3 <= len(things) <= 6
    assert len({(t.kind, t.colour) for t in things}) == len(things)
    weights = [t.weight for t in things]
    assert weights == sorted(weights, reverse=True)
    assert np.isclose(sum(weights), 1)
    shared += len({t.kind for t in things}) < len(things)
    shared += len({t.colour for t in things}) < len(things)
    for n, a in enumerate(things):
      assert a.radius <= a.row <= scene.extent[0] - a.radius
      assert a.radius <= a.column <= scene.extent[1] - a.radius
      for b in things[:n]:
        gap = np.hypot(a.row - b.row, a.column - b.column)
        assert gap > a.radius + b.radius
  # Often one word is not enough.
  assert shared > 150


@pytest.mark.parametrize('kind', art.THINGS)
@pytest.mark.parametrize('pattern', art.PATTERNS)
def test_every_thing_shows_its_colour_where_it_lies(kind, pattern):
  thing = layout.Thing(
    kind, 'red', pattern, row=0.4, column=0.9, radius=0.2, angle=0.2, fade=0.0
  )
  scene = layout.Scene('stone', (thing,), (1.0, 4 / 3))
  empty = scene._replace(things=())
  draw = lambda s: scenes.draw(np.random.default_rng(0), s, (96, 128))
  changed = np.abs(draw(scene).astype(int) - draw(empty)).max(-1) > 60
  rows, columns = np.nonzero(changed)
  assert changed.sum() > 100
  assert abs(rows.mean() - 0.4 * 96) < 8 and abs(columns.mean() - 0.9 * 96) < 8
  pixels = draw(scene)[changed].astype(int)
  reddish = (pixels[:, 0] > pixels[:, 1] + 60) & (
    pixels[:, 0] > pixels[:, 2] + 60
  )
  assert reddish.mean() > 0.2


def test_sentences_follow_the_condition(source):
  for i in range(len(source)):
    meta, named = source.meta(i), source.named(i)
    number = len(source.scene(i).things)
    text, condition = meta['text'], meta['condition']
    if condition == 'pure':
      assert text == '' and named == ()
      continue
    assert text[0].isupper() and text[-1] in '.?' and '  ' not in text
    assert '{' not in text and 2 <= len(text.split()) <= 40
    if condition == 'all':
      assert len(named) == 3
    elif condition == 'salient':
      assert named == (0,)
    else:
      assert len(named) == 1 and named[0] >= max(2, number - 2)


def test_sentences_vary():
  source = scenes.load('train', num=300, conditions=('non_salient',))
  texts = [source.meta(i)['text'] for i in range(len(source))]
  assert len(set(texts)) > 270
  words = {w.strip('.,?').lower() for t in texts for w in t.split()}
  assert len(words) > 80
  placed = np.mean([(' left' in t) or (' right' in t) for t in texts])
  assert 0.1 < placed < 0.7
  openings = collections.Counter(' '.join(t.split()[:2]) for t in texts)
  assert openings.most_common(1)[0][1] < 0.3 * len(texts)


def canonical(text):
  """Attribute values that the words of a phrase stand for."""
  text = f' {text} '
  return {
    key
    for key, words in sentences.WORDS.items()
    if any(f' {w} ' in text for w in words)
  }


def test_phrase_fits_one_thing_alone():
  source = scenes.load('train', num=150, conditions=('pure',))
  rng = np.random.default_rng(0)
  for i in range(len(source)):
    scene = source.scene(i)
    for thing in scene.things:
      phrase = sentences.phrase(rng, thing, scene.things, scene.extent)
      phrase_facts = canonical(phrase)
      fits = []
      for other in scene.things:
        facts = {other.kind, other.colour, other.pattern}
        where = sentences.place(other, scene.extent)
        with_place = any(
          p in phrase for p in (' on the ', ' in the ', ' at the ')
        )
        fits.append(
          phrase_facts <= facts and (not with_place or phrase.endswith(where))
        )
      assert fits.count(True) == 1, (phrase, scene)
      assert scene.things[fits.index(True)] is thing


@pytest.mark.parametrize(
  ('row', 'column', 'expected'),
  [
    (0.1, 0.1, 'in the top left corner'),
    (0.9, 1.2, 'in the bottom right corner'),
    (0.5, 0.2, 'on the left'),
    (0.5, 1.2, 'on the right'),
    (0.1, 0.66, 'at the top'),
    (0.9, 0.66, 'at the bottom'),
    (0.5, 0.66, 'in the middle'),
  ],
)
def test_place(row, column, expected):
  thing = layout.Thing('car', 'red', 'plain', row, column, 0.1, 0, 0)
  assert sentences.place(thing, (1.0, 4 / 3)) == expected


def test_a_place_that_is_named_is_true():
  # 'left' and 'right' are what a mirrored image has to swap.
  source = scenes.load('train', num=200, conditions=('salient', 'non_salient'))
  checked = 0
  for i in range(len(source)):
    text, (one,) = source.meta(i)['text'], source.named(i)
    thing = source.scene(i).things[one]
    share = thing.column / source.scene(i).extent[1]
    for word, true in (('left', share < 0.5), ('right', share > 0.5)):
      if f' {word} ' in text.replace('.', ' ').replace('?', ' '):
        assert true, text
        checked += 1
  assert checked > 60


@pytest.mark.parametrize('condition', scenes.CONDITIONS)
def test_density_is_where_fixations_fall(condition):
  source = scenes.load('val', num=15, conditions=(condition,))
  for i in range(len(source)):
    density = source.density(i)
    assert density.dtype == np.float64 and density.shape == source.size
    assert np.isclose(density.sum(), 1) and (density > 0).all()
    y, x = source[i]['fixations'].T
    # Densest cells that hold 80 % of the gaze hold about 80 % of the points.
    order = np.sort(density.ravel())[::-1]
    level = order[np.searchsorted(np.cumsum(order), 0.8)]
    assert 0.62 < (density[y, x] >= level).mean() < 0.95


def test_saliency_is_blurred_fixations():
  points = np.array([[10, 20], [10, 20], [80, 100]], np.int32)
  saliency = scenes.blur(points, (96, 128)).astype(float)
  assert saliency[10, 20] == 255 and saliency.argmax() == 10 * 128 + 20
  assert abs(saliency[80, 100] - 127.5) < 2
  sigma = 0.05 * 128
  expected = 255 * np.exp(-0.5 * (12 / sigma) ** 2)
  assert abs(saliency[10, 32] - expected) < 2


def test_conspicuity_decides_without_text(source):
  # Gaze without text rests on the most conspicuous thing, hardly on the last.
  rows, columns = np.mgrid[:96, :128] / 96
  for i in range(0, len(source), 4):
    density, things = source.density(i), source.scene(i).things
    first, last = (
      density[np.hypot(rows - t.row, columns - t.column) < t.radius].sum()
      for t in (things[0], things[-1])
    )
    assert first > 1.5 * last
    assert things[0].weight > 2 * things[-1].weight


def test_text_is_needed(source, maps):
  """Oracles that read the sentence, do not, or read a wrong one."""

  def others(i):
    same = [j for j in range(i - i % 4, i - i % 4 + 4) if j != i]
    return maps[same].mean(0)

  def gaze(i, named):
    condition = source.meta(i)['condition'] if named else 'pure'
    return scenes.gaze(source.scene(i), condition, named, source.size)

  def swapped(i):
    # The sentence of the other kind: salient for non-salient and back.
    other = {2: i + 1, 3: i - 1}.get(i % 4, i)
    return gaze(i, source.named(other))

  reads = by_condition(source, lambda i: cc(maps[i], source.density(i)))
  blind = by_condition(source, lambda i: cc(maps[i], gaze(i, ())))
  mean = by_condition(source, lambda i: cc(maps[i], others(i)))
  wrong = by_condition(source, lambda i: cc(maps[i], swapped(i)))
  prior = by_condition(source, lambda i: cc(maps[i], maps[i % 4 :: 4].mean(0)))
  assert min(reads.values()) > 0.85
  assert blind['pure'] == reads['pure']
  # Where the sentence names what does not stand out, nothing replaces reading.
  assert reads['non_salient'] > blind['non_salient'] + 0.5
  assert reads['non_salient'] > mean['non_salient'] + 0.5
  assert reads['non_salient'] > wrong['non_salient'] + 0.7
  assert reads['non_salient'] > prior['non_salient'] + 0.5
  # Elsewhere it helps too, by less.
  for condition, gain in (('salient', 0.08), ('all', 0.08)):
    assert reads[condition] > blind[condition] + gain
  assert reads['salient'] > wrong['salient'] + 0.5


def test_another_images_sentence_misleads(source, maps):
  # Things lie anywhere: what another image's sentence names is elsewhere.
  elsewhere = by_condition(
    source,
    lambda i: cc(maps[i], source.density((i + 4) % len(source))),
  )
  assert elsewhere['non_salient'] < 0.4 and elsewhere['salient'] < 0.7


def test_fast_enough():
  source = scenes.load('train', num=20)
  source[0]
  start = time.process_time()
  for i in range(len(source)):
    source[i]
  # A few milliseconds on an idle core; the bar leaves room for a busy one.
  assert (time.process_time() - start) / len(source) < 0.05
