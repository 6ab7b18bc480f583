import collections

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_gaze import Toy

from salflax import metrics
from salflax.evaluate import references
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib

MIT = {'mit': metrics.bind_metrics('cc|nss')}


class TestCentrePrior:
  def test_is_a_density_at_any_size(self):
    prior = references.CentrePrior(Toy(4))
    for size in ((40, 60), (288, 384), (7, 5)):
      found = prior('salient', size)
      assert found.shape == size and found.dtype == np.float64
      assert found.sum() == pytest.approx(1, abs=1e-12) and found.min() >= 0

  def test_is_the_mean_density_of_the_condition(self):
    toy = Toy(2)
    for row in toy.rows:
      row['saliency'] = np.zeros((288, 384, 1), np.uint8)
    toy.rows[1]['saliency'][10, 20] = 255  # 'all' of the first picture
    toy.rows[5]['saliency'][30, 40:42] = 8  # 'all' of the second, dimmer
    prior = references.CentrePrior(toy)
    found = prior('all', (288, 384))
    assert found[10, 20] == pytest.approx(0.5)
    assert found[30, 40] == found[30, 41] == pytest.approx(0.25)

  def test_a_condition_never_seen_gets_the_mean_over_all(self):
    toy = Toy(3)
    size = (48, 48)
    found = references.CentrePrior(toy)('whole', size)
    for row in toy.rows:
      row['condition'] = 'whole'
    want = references.CentrePrior(toy)('whole', size)
    np.testing.assert_allclose(found, want, rtol=1e-5)

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


def test_references_cover_what_they_can_and_know_no_sentence():
  toy = Toy(4)
  # The last picture was seen in two conditions only.
  toy.rows = toy.rows[:-2]
  prior = references.CentrePrior(Toy(3, seed=1))
  found = references.references(prior, toy, truth=True)
  scorer = scorer_lib.Scorer(toy, MIT)
  rows = {k: references.reference_rows(r, scorer) for k, r in found.items()}
  count = {k: len(v) for k, v in rows.items()}
  assert count == {'centre': 14, 'pure': 10, 'others': 12, 'truth': 14}
  assert all(r['condition'] != 'pure' for r in rows['pure'])
  assert all(r['mit/cc'] == pytest.approx(1) for r in rows['truth'])
  example = toy[3]
  maps = [toy[k]['saliency'][..., 0].astype(float) for k in (0, 1, 2)]
  densities = [m / m.sum() for m in maps]
  np.testing.assert_allclose(
    found['others'].predict(example), np.mean(densities, 0), rtol=1e-6
  )
  np.testing.assert_allclose(
    found['pure'].predict(example), densities[0], rtol=1e-6
  )


def test_references_reach_beyond_the_scored_conditions():
  toy = Toy(3)
  scored = toy.only('salient')
  found = references.references(None, toy)
  rows = references.reference_rows(
    found['pure'], scorer_lib.Scorer(scored, MIT)
  )
  assert len(rows) == 3 and 'centre' not in found


@settings(max_examples=30, deadline=None)
@given(
  counts=st.lists(st.integers(1, 3), min_size=6, max_size=12),
  seed=st.integers(0, 5),
)
def test_wrong_sentences_are_always_of_another_picture(counts, seed):
  toy = Toy(len(counts), ('pure', 'salient', 'all'))
  extra = [
    dict(row, text=f'{row["text"]}, said {k}')
    for row, n in zip(toy.rows[1::3], counts)
    for k in range(n - 1)
  ]
  toy.rows += extra
  wrong = references.wrong_sentence(toy, seed=seed)
  right = references.with_text(toy)
  assert len(wrong) == len(right) == sum(counts) + len(counts)
  given_to = collections.Counter()
  for index in range(len(wrong)):
    before, after = right.meta(index), wrong.meta(index)
    assert after['image_id'] == before['image_id']
    assert after['condition'] == before['condition'] != 'pure'
    kind, _, picture = after['text'].split(',')[0].partition(' of ')
    assert kind == before['condition']
    assert f'picture{int(picture):02d}' != before['image_id']
    assert wrong[index]['text'] == after['text']
    given_to[after['text']] += 1
  assert set(given_to.values()) == {1}


def test_wrong_sentences_depend_on_the_seed_alone():
  toy = Toy(12)

  def texts(seed):
    view = references.wrong_sentence(toy, seed=seed)
    return [view.meta(k)['text'] for k in range(len(view))]

  assert texts(0) == texts(0) != texts(1)


def test_equal_sentences_are_not_exchanged_where_it_can_be_helped():
  toy = Toy(8, ('salient',))
  for row in toy.rows[:3]:
    row['text'] = 'a dog'
  wrong = references.wrong_sentence(toy)
  assert all(
    wrong.meta(k)['text'] != toy.meta(k)['text'] for k in range(len(toy))
  )


def test_too_few_pictures_to_exchange_sentences():
  with pytest.raises(ValueError, match="'salient': 1 rows of 1 pictures"):
    references.wrong_sentence(Toy(1, ('salient',)))


def test_no_sentence_keeps_everything_else():
  toy = Toy(2)
  view = references.no_sentence(toy)
  assert len(view) == 6
  assert view.meta(0) == dict(toy.meta(1), text='')
  np.testing.assert_array_equal(view[0]['image'], toy[1]['image'])


@pytest.mark.data
@pytest.mark.slow
def test_text_blind_oracles_on_real_gaze(shared):
  """480 of the 600 pictures against means known for all of them."""
  folder = shared / 'data' / 'sjtu_tis' / 'saliency' / 'map'
  if not folder.is_dir():
    folder = next((shared / 'data' / 'sjtu_tis').rglob('map'))
  toy = Toy(0)
  numbers = {'pure': 0, 'all': 1, 'non_salient': 2, 'salient': 3}
  ids = sorted(p.stem[:-2] for p in folder.glob('*_2.png'))
  for image_id in ids:
    for condition, k in numbers.items():
      saliency = Image.open(folder / f'{image_id}_{k}.png').reduce(4)
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
  scorer = scorer_lib.Scorer(toy, {'mit': metrics.bind_metrics('cc')})
  known = {
    'pure': {'all': 0.6950, 'non_salient': 0.4437, 'salient': 0.7160},
    'others': {'all': 0.8699, 'non_salient': 0.5233, 'salient': 0.6070},
  }
  for name, means in known.items():
    ref = references.references(None, toy)[name]
    found = rows_lib.means(references.reference_rows(ref, scorer))
    for condition, mean in means.items():
      assert found[f'{condition}/mit/cc'] == pytest.approx(mean, abs=0.015)
