"""Scores of maps: the same bits whatever computes them."""

import jax
import numpy as np
import pytest
import tiny
from jax.experimental import multihost_utils
from toy_gaze import Toy

from salflax import metrics
from salflax.core.types import GroundTruth
from salflax.data import batches
from salflax.evaluate import references
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib

PROTOCOLS = {
  'mit': metrics.bind_metrics('cc|nss|auc_borji|auc_shuffled|ig'),
  'tuebingen': metrics.bind_metrics('auc|auc_shuffled(exact=True)|kl'),
}


class Bright:
  """A predictor that looks at the colours."""

  def predict(self, pairs):
    for image, _ in pairs:
      yield image[..., 1] / np.float32(255) + np.float32(0.1)


@pytest.fixture(scope='module')
def source():
  return Toy()


@pytest.fixture(scope='module')
def prior():
  return references.CentrePrior(Toy(5, seed=9))


@pytest.fixture(scope='module')
def scorer(source, prior):
  return scorer_lib.Scorer(source, PROTOCOLS, baseline=prior)


@pytest.fixture(scope='module')
def rows(scorer):
  return scorer_lib.score(Bright(), scorer)


@pytest.fixture(scope='module')
def network_rows(scorer):
  return scorer_lib.score(tiny.red_predictor(), scorer)


def test_threads_change_no_bit(scorer, rows):
  assert scorer_lib.score(Bright(), scorer, threads=1) == rows


@pytest.mark.parametrize('batch_size, devices', [(1, 1), (7, 1), (8, 4)])
def test_batch_size_and_devices_change_no_bit(
  scorer, network_rows, batch_size, devices
):
  predictor = tiny.red_predictor(devices).replace(batch_size=batch_size)
  assert scorer_lib.score(predictor, scorer, threads=3) == network_rows


def test_rows_of_a_source_score_as_images_and_sentences(scorer, network_rows):
  class Pairs:
    """A function of the user's own."""

    def predict(self, pairs):
      return tiny.red_predictor().predict(pairs)

  assert scorer_lib.score(Pairs(), scorer) == network_rows


def test_each_row_once_in_order(source, rows):
  assert len(rows) == len(source) == 24
  for index, row in enumerate(rows):
    assert {k: row[k] for k in rows_lib.IDENTITY} == source.meta(index)


def test_scores_are_those_of_the_map_at_the_images_size(source, scorer, rows):
  index = 9
  truth = GroundTruth(
    saliency=source[index]['saliency'][..., 0].astype(np.float64),
    fixations=source[index]['fixations'].astype(np.int64),
  )
  (saliency,) = Bright().predict([(source[index]['image'], '')])
  want = metrics.score(
    saliency.astype(np.float64), truth, metrics.bind_metrics('cc|nss')
  )
  assert {k: rows[index][f'mit/{k}'] for k in want} == want


def test_a_map_of_any_size_and_scale_is_resized(scorer, source, prior):
  blob = np.kron(source[2]['saliency'][..., 0], np.ones((2, 2)))
  for scale in (1, 1e-300, 1e300):
    row = scorer(2, blob * scale)
    assert row['mit/cc'] == pytest.approx(1, abs=0.01)


def test_other_conditions_and_protocols_change_no_bit(source, prior, rows):
  scorer = scorer_lib.Scorer(
    source.only('salient'), {'mit': PROTOCOLS['mit']}, baseline=prior
  )
  alone = scorer_lib.score(Bright(), scorer)
  want = [r for r in rows if r['condition'] == 'salient']
  for a, b in zip(alone, want, strict=True):
    assert a.items() <= b.items()


def test_truth_predicts_itself(source, scorer):
  truth = references.Reference(
    'Ground truth',
    lambda meta: True,
    lambda e: np.asarray(e['saliency'], float).reshape(scorer_lib.size_of(e)),
  )
  for row in scorer_lib.score(truth, scorer):
    assert row['mit/cc'] == pytest.approx(1)
    assert row['tuebingen/kl'] == pytest.approx(0, abs=1e-6)


def test_the_baseline_has_no_information_gain(source, prior):
  plain = {'x': metrics.bind_metrics('ig(minmax=False)')}
  scorer = scorer_lib.Scorer(source, plain, baseline=prior)
  example = source[2]
  saliency = prior(example['condition'], scorer_lib.size_of(example))
  assert scorer(2, saliency)['x/ig'] == pytest.approx(0, abs=1e-9)


class TestOtherFixations:
  def row(self, image_id, condition='pure'):
    return {'image_id': image_id, 'condition': condition}

  def test_come_from_other_images_of_the_condition(self, source):
    others = scorer_lib.OtherFixations(source)
    points = others(self.row('picture01', 'all'), (48, 48))
    assert points.dtype == np.int64 and points.shape == (5 * 20, 2)
    assert (points >= 0).all() and (points < 48).all()

  def test_are_rescaled_and_truncated(self):
    toy = Toy(2, ('pure',))
    toy.rows[1]['fixations'] = np.array([[0, 0], [47, 47], [24, 13]], np.int32)
    points = scorer_lib.OtherFixations(toy)(self.row('picture00'), (40, 60))
    assert points.tolist() == [[0, 0], [39, 58], [20, 16]]

  def test_ten_are_drawn_by_the_images_id_alone(self):
    toy = Toy(30, ('pure',))
    three, four = self.row('picture03'), self.row('picture04')
    others = scorer_lib.OtherFixations(toy)
    ten = others(three, (40, 60), count=10)
    assert len(ten) == 10 * 20
    toy.rows.reverse()
    again = scorer_lib.OtherFixations(toy)
    np.testing.assert_array_equal(again(three, (40, 60), count=10), ten)
    assert not np.array_equal(others(four, (40, 60), count=10), ten)

  def test_an_image_alone_has_none(self):
    others = scorer_lib.OtherFixations(Toy(1, ('pure',)))
    assert others(self.row('picture00'), (40, 60)).shape == (0, 2)

  def test_equal_ids_of_two_data_sets_are_two_images(self):
    joined = batches.Joined([Toy(1), Toy(1, seed=1)], ['a', 'b'])
    others = scorer_lib.OtherFixations(joined)
    points = others(joined.meta(0), scorer_lib.size_of(joined[0]))
    np.testing.assert_array_equal(points, joined[4]['fixations'])


def test_equal_ids_of_two_data_sets_are_scored_apart():
  joined = batches.Joined([Toy(2), Toy(2, seed=1)], ['a', 'b'])
  scorer = scorer_lib.Scorer(joined, {'mit': metrics.bind_metrics('cc')})
  rows = scorer_lib.score(Bright(), scorer)
  assert [r['source'] for r in rows] == ['a'] * 8 + ['b'] * 8
  summary = rows_lib.summarise(rows)
  assert (summary['n'], summary['images']) == (16, 4)


def test_a_missing_baseline_is_named_before_any_work(source):
  with pytest.raises(ValueError, match='mit/ig needs a centre-bias baseline'):
    scorer_lib.Scorer(source, PROTOCOLS)


@pytest.mark.parametrize(
  'bad, message', [(np.nan, 'not finite'), (-1, 'negative')]
)
def test_a_bad_prediction_names_its_image(scorer, bad, message):
  class Bad(Bright):
    def predict(self, pairs):
      for index, saliency in enumerate(super().predict(pairs)):
        if index == 5:
          saliency[24, 32] = bad
        yield saliency

  with pytest.raises(ValueError, match=rf'picture01 \(all\): .*{message}'):
    scorer_lib.score(Bad(), scorer)


def test_a_negative_map_of_another_size_is_refused(scorer):
  with pytest.raises(ValueError, match='negative values, down to -20'):
    scorer(0, np.array([[-20, -5], [-10, -6.0]]))


def test_an_infinite_score_is_named_at_once(source):
  bound = {'mine': metrics.bind_metrics('cc|kl(eps=0)')}
  with pytest.raises(ValueError, match='picture00 .*mine/kl is infinite'):
    scorer_lib.Scorer(source, bound)(0, np.eye(3))


@pytest.mark.parametrize('surplus', [-1, 1])
def test_a_map_too_few_or_too_many_is_an_error(scorer, surplus):
  class Wrong(Bright):
    def predict(self, pairs):
      maps = list(super().predict(pairs))
      return iter(maps[:-1] if surplus < 0 else [*maps, maps[0]])

  with pytest.raises(ValueError, match='zip'):
    scorer_lib.score(Wrong(), scorer)


def test_hosts_share_the_work_bit_for_bit(scorer, rows, monkeypatch):
  """Two processes, played one after the other with a recorded exchange."""
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  sent = {}

  def play(process, others):
    calls = []

    def allgather(x, tiled=False):
      calls.append(np.array(x))
      both = [x, x]
      if others:
        both[1 - process] = others[len(calls) - 1]
      return np.stack(both)

    monkeypatch.setattr(multihost_utils, 'process_allgather', allgather)
    monkeypatch.setattr(jax, 'process_index', lambda: process)
    sent[process] = calls
    return scorer_lib.score(Bright(), scorer)

  play(1, None)
  assert play(0, sent[1]) == rows
  assert play(1, sent[0]) == rows
