"""Predictors that are no models, and the same images with other sentences."""

import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_gaze import Toy

from salflax import metrics
from salflax.data import batches
from salflax.evaluate import references, sentences
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib

MIT = {'mit': metrics.bind_metrics('cc|nss')}


def scores(reference, source, protocols=MIT):
  scorer = scorer_lib.Scorer(reference.covered(source), protocols)
  return scorer_lib.score(reference, scorer)


def texts(view):
  return [view.meta(k)['text'] for k in range(len(view))]


class TestCentrePrior:
  def test_is_a_density_at_any_size(self):
    prior = references.CentrePrior(Toy(4))
    for size in ((40, 60), (288, 384), (7, 5)):
      density = prior('salient', size)
      assert density.shape == size and density.dtype == np.float64
      assert density.sum() == pytest.approx(1, abs=1e-12)
      assert density.min() >= 0

  def test_is_the_mean_density_of_the_condition(self):
    toy = Toy(2)
    for row in toy.rows:
      row['saliency'] = np.zeros((288, 384, 1), np.uint8)
    toy.rows[1]['saliency'][10, 20] = 255  # 'all' of the first image
    toy.rows[5]['saliency'][30, 40:42] = 8  # 'all' of the second, dimmer
    density = references.CentrePrior(toy)('all', (288, 384))
    assert density[10, 20] == pytest.approx(0.5)
    assert density[30, 40] == density[30, 41] == pytest.approx(0.25)

  def test_a_condition_never_seen_gets_the_mean_over_all(self):
    toy = Toy(3)
    size = (48, 48)
    density = references.CentrePrior(toy)('whole', size)
    for row in toy.rows:
      row['condition'] = 'whole'
    want = references.CentrePrior(toy)('whole', size)
    np.testing.assert_allclose(density, want, rtol=1e-5)

  def test_cannot_be_spoilt_by_its_reader(self):
    prior = references.CentrePrior(Toy(2))
    with pytest.raises(ValueError, match='read-only'):
      prior('all', (40, 60))[0, 0] = 1

  def test_needs_maps(self):
    toy = Toy(1)
    for row in toy.rows:
      row['saliency'][:] = 0
    with pytest.raises(ValueError, match='none of 4'):
      references.CentrePrior(toy)


class TestWithoutScored:
  def test_all_where_none_is_scored(self):
    train = Toy(3, seed=1)
    for row in train.rows:
      row['image_id'] += 'train'
    assert references.without_scored(train, Toy(2)) == (train, [])
    assert references.without_scored(None, Toy(2)) == (None, [])

  def test_images_that_are_scored_are_left_out_in_every_condition(self):
    rest, (note,) = references.without_scored(Toy(5), Toy(2).only('salient'))
    ids = {rest.meta(k)['image_id'] for k in range(len(rest))}
    assert ids == {'picture02', 'picture03', 'picture04'} and len(rest) == 12
    assert note.startswith('2 of 5 training images are scored here')

  def test_nothing_is_left(self):
    rest, (note,) = references.without_scored(Toy(2), Toy(3))
    assert rest is None and 'no centre prior, and no IG' in note

  def test_equal_ids_of_other_data_sets_stay(self):
    train = batches.Joined([Toy(2), Toy(2, seed=1)], ['a', 'b'])
    rest, _ = references.without_scored(train, batches.Rows(train, range(8)))
    assert {rest.meta(k)['joined'] for k in range(len(rest))} == {'b'}


def test_references_cover_what_they_can_and_know_no_sentence():
  toy = Toy(4)
  # The last image was seen in two conditions only.
  toy.rows = toy.rows[:-2]
  prior = references.CentrePrior(Toy(3, seed=1))
  by_name = references.references(prior, toy)
  assert tuple(by_name) == references.NAMES
  rows = {name: scores(r, toy) for name, r in by_name.items()}
  count = {k: len(v) for k, v in rows.items()}
  assert count == {'centre': 14, 'pure': 10, 'others': 12}
  assert all(r['condition'] != 'pure' for r in rows['pure'])
  maps = [toy[k]['saliency'][..., 0].astype(float) for k in (0, 1, 2)]
  densities = [m / m.sum() for m in maps]
  for name, want in (('others', np.mean(densities, 0)), ('pure', densities[0])):
    (saliency,) = by_name[name].predict_rows(toy, [3])
    np.testing.assert_allclose(saliency, want, rtol=1e-6)


def test_references_reach_beyond_the_scored_conditions():
  toy = Toy(3)
  by_name = references.references(None, toy)
  rows = scores(by_name['pure'], toy.only('salient'))
  assert len(rows) == 3 and 'centre' not in by_name


def test_references_of_equal_ids_of_two_data_sets_are_apart():
  one, two = Toy(2), Toy(2, seed=1)
  joined = batches.Joined([one, two], ['a', 'b'])
  for name, reference in references.references(None, joined).items():
    alone = references.references(None, two)[name]
    (ours,) = reference.predict_rows(joined, [8 + 3])
    (want,) = alone.predict_rows(two, [3])
    np.testing.assert_array_equal(ours, want)


@settings(max_examples=30, deadline=None)
@given(
  counts=st.lists(st.integers(1, 3), min_size=6, max_size=12),
  seed=st.integers(0, 5),
)
def test_wrong_sentences_are_always_of_another_image(counts, seed):
  toy = Toy(len(counts), ('pure', 'salient', 'all'))
  toy.rows += [
    dict(row, text=f'{row["text"]}, version {k}')
    for row, n in zip(toy.rows[1::3], counts)
    for k in range(n - 1)
  ]
  wrong, too_few = sentences.wrong_sentence(toy, seed=seed)
  right = sentences.no_sentence(toy)  # the rows that have one
  assert len(wrong) == len(right) == sum(counts) + len(counts)
  assert too_few == []
  users = collections.Counter()
  for index in range(len(wrong)):
    before, after = right.meta(index), wrong.meta(index)
    assert after['image_id'] == before['image_id']
    assert after['condition'] == before['condition'] != 'pure'
    kind, _, image = after['text'].split(',')[0].partition(' of ')
    assert kind == before['condition']
    assert f'picture{int(image):02d}' != before['image_id']
    assert wrong[index]['text'] == wrong.truth(index)['text'] == after['text']
    users[after['text']] += 1
  assert set(users.values()) == {1}


def test_wrong_sentences_depend_on_the_seed_alone():
  toy = Toy(12)
  one, again, other = (sentences.wrong_sentence(toy, seed=s) for s in (0, 0, 1))
  assert texts(one[0]) == texts(again[0]) != texts(other[0])


def test_equal_sentences_are_not_exchanged_where_it_can_be_helped():
  toy = Toy(8, ('salient',))
  for row in toy.rows[:3]:
    row['text'] = 'a dog'
  wrong, _ = sentences.wrong_sentence(toy)
  assert all(a != r['text'] for a, r in zip(texts(wrong), toy.rows))


def test_a_condition_with_too_few_images_is_left_out():
  toy = Toy(4)
  toy.rows = [
    r
    for r in toy.rows
    if r['condition'] != 'salient' or r['image_id'] == 'picture02'
  ]
  wrong, too_few = sentences.wrong_sentence(toy)
  assert too_few == ['salient'] and len(wrong) == 8
  nothing, too_few = sentences.wrong_sentence(Toy(1))
  assert len(nothing) == 0 and sorted(too_few) == sorted(
    ['all', 'non_salient', 'salient']
  )


def test_sentences_of_equal_ids_of_two_data_sets():
  joined = batches.Joined(
    [Toy(1, ('salient',)), Toy(1, ('salient',), seed=1)], ['a', 'b']
  )
  for source, name in zip(joined.sources, 'ab'):
    source.rows[0]['text'] = f'of {name}'
  wrong, too_few = sentences.wrong_sentence(joined)
  assert texts(wrong) == ['of b', 'of a'] and not too_few
  # Each row has the other sentence of its own data set's image.
  joined = batches.Joined([Toy(2), Toy(2, seed=1)], ['a', 'b'])
  for source, name in zip(joined.sources, 'ab'):
    for row in source.rows:
      row['text'] = row['text'] and f'{row["text"]} {name}'
  other = sentences.other_sentence(joined, joined)
  for k in range(len(other)):
    meta = other.meta(k)
    assert meta['text'].endswith(meta['joined'])


def test_the_other_sentence_is_that_of_the_opposite_condition():
  toy = Toy(3)
  toy.rows = toy.rows[:-1]  # the last image has no 'salient'
  other = sentences.other_sentence(toy.only('salient', 'all'), toy)
  metas = [other.meta(k) for k in range(len(other))]
  assert [(m['image_id'], m['condition'], m['text']) for m in metas] == [
    ('picture00', 'salient', 'non_salient of 0'),
    ('picture01', 'salient', 'non_salient of 1'),
  ]
  both = sentences.other_sentence(toy, toy)
  assert texts(both) == [
    f'{c} of {k}' for k in (0, 1) for c in ('salient', 'non_salient')
  ]
  for row in toy.rows:
    row['text'] = row['text'] and 'the same'
  assert len(sentences.other_sentence(toy, toy)) == 0


def test_no_sentence_keeps_everything_else():
  toy = Toy(2)
  toy.rows[3]['text'] = ' \xa0'  # none either
  view = sentences.no_sentence(toy)
  assert len(view) == 5
  assert view.meta(0) == dict(toy.meta(1), text='')
  np.testing.assert_array_equal(view[0]['image'], toy[1]['image'])


@pytest.mark.data
@pytest.mark.slow
def test_text_blind_oracles_on_real_gaze(shared):
  """480 of the 600 images against means known for all of them."""
  folder = shared / 'data' / 'sjtu_tis' / 'saliency' / 'map'
  if not folder.is_dir():
    folder = next((shared / 'data' / 'sjtu_tis').rglob('map'))
  toy = Toy(0)
  numbers = {'pure': 0, 'all': 1, 'non_salient': 2, 'salient': 3}
  ids = sorted(p.stem[:-2] for p in folder.glob('*_2.png'))
  for image_id in ids:
    for condition, k in numbers.items():
      saliency = Image.open(folder / f'{image_id}_{k}.png').reduce(8)
      toy.rows.append(
        {
          'image_id': image_id,
          'condition': condition,
          'text': '',
          'saliency': np.asarray(saliency)[..., None],
          'fixations': np.zeros((0, 2)),
        }
      )
  assert len(ids) == 240
  published = {
    'pure': {'all': 0.6950, 'non_salient': 0.4437, 'salient': 0.7160},
    'others': {'all': 0.8699, 'non_salient': 0.5233, 'salient': 0.6070},
  }
  cc = {'mit': metrics.bind_metrics('cc')}
  for name, means in published.items():
    reference = references.references(None, toy)[name]
    measured = rows_lib.means(scores(reference, toy, cc))
    for condition, mean in means.items():
      assert measured[f'{condition}/mit/cc'] == pytest.approx(mean, abs=0.015)
