import json
import math
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import multihost_utils
from toy_gaze import Toy

from salflax import metrics
from salflax.core import parallel
from salflax.data import batches as batches_lib
from salflax.data import pp
from salflax.evaluate import references
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib

PP = pp.make('resize_pad(48, 64)|normalize("unit")')
PROTOCOLS = {
  'mit': metrics.bind_metrics('cc|nss|auc_borji|auc_shuffled|ig'),
  'tuebingen': metrics.bind_metrics('auc|auc_shuffled(exact=True)|kl'),
}


@pytest.fixture(scope='module')
def source():
  return Toy()


@pytest.fixture(scope='module')
def prior():
  return references.CentrePrior(Toy(5, seed=9))


def bright(variables, batch):
  # One rounding only, so that every backend gives the same bits.
  del variables
  return batch['image'][..., 1] + np.float32(0.1)


def run(source, prior, *, batch_size=4, predict_fn=bright, **kwargs):
  kwargs = {'protocols': PROTOCOLS, 'baseline': prior} | kwargs
  return scorer_lib.evaluate(
    predict_fn,
    {},
    batches_lib.eval_batches(source, PP, batch_size=batch_size),
    source,
    **kwargs,
  )


@pytest.fixture(scope='module')
def rows(source, prior):
  return run(source, prior)


@pytest.mark.parametrize('batch_size', [1, 3, 8, 32])
def test_batch_size_and_threads_change_no_bit(source, prior, rows, batch_size):
  assert run(source, prior, batch_size=batch_size, threads=1) == rows


@pytest.mark.parametrize('num_devices', [1, 4])
def test_devices_change_no_bit(source, prior, rows, num_devices):
  mesh = parallel.make_mesh(jax.devices()[:num_devices])
  jitted = jax.jit(
    lambda image: image[..., 1] + jnp.float32(0.1),
    in_shardings=parallel.split(mesh),
    out_shardings=parallel.split(mesh),
  )
  predict_fn = lambda v, b: jitted(b['image'])
  assert run(source, prior, batch_size=8, predict_fn=predict_fn) == rows


def test_each_row_once_and_none_of_the_padding(source, rows):
  assert len(rows) == len(source) == 24
  for index, row in enumerate(rows):
    assert {k: row[k] for k in rows_lib.IDENTITY} == source.meta(index)


def test_scores_are_those_of_the_map_at_the_pictures_size(source, prior, rows):
  index = 9
  example = PP(source[index], None)
  pred = pp.unletterbox(
    np.asarray(bright({}, example)),
    example['box'],
    source[index]['image'].shape[:2],
  )
  want = metrics.score(
    pred.astype(np.float64),
    scorer_lib.GroundTruth(
      saliency=source[index]['saliency'][..., 0].astype(np.float64),
      fixations=source[index]['fixations'].astype(np.int64),
    ),
    metrics.bind_metrics('cc|nss'),
  )
  assert rows[index]['mit/cc'] == want['cc']
  assert rows[index]['mit/nss'] == want['nss']


def test_other_conditions_and_protocols_change_no_bit(source, prior, rows):
  alone = run(
    source.only('salient'), prior, protocols={'mit': PROTOCOLS['mit']}
  )
  want = [r for r in rows if r['condition'] == 'salient']
  for a, b in zip(alone, want, strict=True):
    assert a.items() <= b.items()


def test_truth_predicts_itself(source, prior):
  scorer = scorer_lib.Scorer(source, PROTOCOLS, baseline=prior)
  found = scorer_lib.score_all(
    scorer, ((i, lambda e: e['saliency'][..., 0]) for i in range(len(source)))
  )
  for row in found.values():
    assert row['mit/cc'] == pytest.approx(1)
    assert row['tuebingen/kl'] == pytest.approx(0, abs=1e-6)


def test_the_baseline_has_no_information_gain(source, prior):
  plain = {'x': metrics.bind_metrics('ig(minmax=False)')}
  scorer = scorer_lib.Scorer(source, plain, baseline=prior)
  row = scorer(2, lambda e: prior(e['condition'], scorer_lib.size_of(e)))
  assert row['x/ig'] == pytest.approx(0, abs=1e-9)


class TestOtherFixations:
  def test_come_from_other_pictures_of_the_condition(self, source):
    others = scorer_lib.OtherFixations(source)
    points = others('picture01', 'all', (48, 48))
    assert points.dtype == np.int64 and points.shape == (5 * 20, 2)
    assert (points >= 0).all() and (points < 48).all()

  def test_are_rescaled_and_truncated(self):
    toy = Toy(2, ('pure',))
    toy.rows[1]['fixations'] = np.array([[0, 0], [47, 47], [24, 13]], np.int32)
    others = scorer_lib.OtherFixations(toy)
    found = others('picture00', 'pure', (40, 60))
    assert found.tolist() == [[0, 0], [39, 58], [20, 16]]

  def test_ten_are_drawn_by_the_pictures_id_alone(self):
    toy = Toy(30, ('pure',))
    others = scorer_lib.OtherFixations(toy)
    ten = others('picture03', 'pure', (40, 60), count=10)
    assert len(ten) == 10 * 20
    toy.rows.reverse()
    again = scorer_lib.OtherFixations(toy)
    np.testing.assert_array_equal(
      again('picture03', 'pure', (40, 60), count=10), ten
    )
    other = others('picture04', 'pure', (40, 60), count=10)
    assert not np.array_equal(other, ten)

  def test_a_picture_alone_has_none(self):
    others = scorer_lib.OtherFixations(Toy(1, ('pure',)))
    assert others('picture00', 'pure', (40, 60)).shape == (0, 2)


def test_a_missing_baseline_is_named_before_any_work(source):
  with pytest.raises(ValueError, match='mit/ig needs a centre-bias baseline'):
    run(source, None, predict_fn=lambda v, b: pytest.fail('predicted'))


@pytest.mark.parametrize(
  'bad, message', [(np.nan, 'not finite'), (-1, 'negative')]
)
def test_a_bad_prediction_names_its_picture(source, prior, bad, message):
  def predict_fn(variables, batch):
    pred = bright(variables, batch).copy()
    pred[np.asarray(batch['index']) == 5, 24, 32] = bad
    return pred

  with pytest.raises(ValueError, match=rf'picture01 \(all\): .*{message}'):
    run(source, prior, predict_fn=predict_fn)


def test_a_row_predicted_twice_is_an_error(source, prior):
  batches = list(batches_lib.eval_batches(source, PP, batch_size=8))
  with pytest.raises(ValueError, match='twice'):
    scorer_lib.evaluate(
      bright, {}, batches + batches[:1], source, PROTOCOLS, baseline=prior
    )


def test_hosts_share_the_work_bit_for_bit(source, prior, rows, monkeypatch):
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
    batches = batches_lib.eval_batches(
      source, PP, batch_size=10, shard=(process, 2)
    )
    found = scorer_lib.evaluate(
      bright, {}, batches, source, PROTOCOLS, baseline=prior
    )
    sent[process] = calls
    return found

  play(1, None)
  assert play(0, sent[1]) == rows
  assert play(1, sent[0]) == rows


_HOST = """
import sys
sys.path[:0] = {root!r}, {root!r} + '/tests'
import jax
port, process = sys.argv[1:]
jax.distributed.initialize('127.0.0.1:' + port, 2, int(process))
import numpy as np
from salflax import evaluate, metrics, parallel, results
from salflax.data import loader, pp
from toy_gaze import Toy
source = Toy(5, ('pure',))
mesh = parallel.make_mesh()
predict = jax.jit(lambda x: x[..., 1] + np.float32(0.1),
                  in_shardings=parallel.split(mesh),
                  out_shardings=parallel.split(mesh))
batches = loader.eval_batches(
    source, pp.make('resize_pad(48, 64)|normalize("unit")'),
    batch_size=4, shard=parallel.shard())
rows = evaluate.evaluate(
    lambda v, b: predict(parallel.to_global({{'x': b['image']}}, mesh)['x']),
    {{}}, batches, source, {{'mit': metrics.bind_metrics('cc|auc_shuffled')}})
results.write_rows(sys.argv[0] + process + '.csv', rows)
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
  root = str(pathlib.Path(__file__).resolve().parents[2])
  script = tmp_path / 'host'
  script.write_text(_HOST.format(root=root))
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  hosts = [
    subprocess.Popen([sys.executable, script, str(port), str(k)], env=env)
    for k in range(2)
  ]
  assert [host.wait(timeout=120) for host in hosts] == [0, 0]
  found = [rows_lib.read_rows(f'{script}{k}.csv') for k in range(2)]
  assert found[0] == found[1]
  want = run(
    Toy(5, ('pure',)),
    None,
    protocols={'mit': metrics.bind_metrics('cc|auc_shuffled')},
  )
  assert found[0] == want


def made_up(values, *, condition='salient', start=0):
  return [
    {
      'image_id': f'p{start + k}',
      'condition': condition,
      'text': 'a, "b"\nc',
      'mit/cc': float(v),
    }
    for k, v in enumerate(values)
  ]


def test_undefined_scores_are_counted_not_hidden():
  summary = rows_lib.summarise(made_up([0.5, math.nan, 0.7]))
  entry = summary['overall']['mit/cc']
  assert entry['mean'] == pytest.approx(0.6)
  assert (entry['n'], entry['n_valid']) == (3, 2)
  nothing = rows_lib.summarise(made_up([math.nan]))['overall']['mit/cc']
  assert math.isnan(nothing['mean']) and nothing['n_valid'] == 0


def test_conditions_weigh_alike_in_the_mean_of_conditions():
  rows = made_up([0.2, 0.2, 0.2]) + made_up([0.6], condition='pure')
  summary = rows_lib.summarise(rows)
  assert summary['overall']['mit/cc']['mean'] == pytest.approx(0.3)
  assert summary['mean_of_conditions']['mit/cc'] == pytest.approx(0.4)
  assert rows_lib.means(rows)['pure/mit/cc'] == pytest.approx(0.6)
  assert (summary['n'], summary['images']) == (4, 3)


def test_intervals_are_clustered_by_picture():
  values = np.random.default_rng(0).uniform(0.3, 0.7, 30)
  once = rows_lib.summarise(made_up(values))['overall']['mit/cc']
  # The same picture four times over adds no information.
  again = rows_lib.summarise(made_up(values) * 4)['overall']['mit/cc']
  assert again['low'] == pytest.approx(once['low'], abs=1e-12)
  assert once['low'] < once['mean'] < once['high']


def test_compare_pairs_by_picture_and_condition():
  values = np.random.default_rng(0).uniform(0.3, 0.5, 20)
  ours, theirs = made_up(values + 0.1), made_up(values[::-1])
  for row, k in zip(theirs, range(19, -1, -1)):
    row['image_id'] = f'p{k}'
  found = rows_lib.compare(ours, theirs[3:])['salient']['mit/cc']
  assert found['difference'] == pytest.approx(0.1)
  assert found['n'] == 17 and found['p'] < 0.01
  assert found['low'] == pytest.approx(0.1) == found['high']


def test_compare_without_common_rows_is_empty():
  assert rows_lib.compare(made_up([0.1]), made_up([0.1], start=5)) == {}


def test_rows_survive_the_file_bit_for_bit(tmp_path, rows):
  rows_lib.write_rows(tmp_path / 'a.csv', rows)
  assert rows_lib.read_rows(tmp_path / 'a.csv') == rows
  odd = made_up([1 / 3, math.nan])
  rows_lib.write_rows(tmp_path / 'b.csv', odd)
  again = rows_lib.read_rows(tmp_path / 'b.csv')
  assert again[0] == odd[0] and math.isnan(again[1]['mit/cc'])


def test_json_is_valid_where_a_value_is_undefined(tmp_path):
  rows_lib.write_json(
    tmp_path / 'a.json', {'x': math.nan, 'y': (np.float64(1.5), 'ü')}
  )
  assert json.loads((tmp_path / 'a.json').read_text('utf-8')) == {
    'x': None,
    'y': [1.5, 'ü'],
  }


def test_a_failed_writer_leaves_the_old_file(tmp_path):
  from salflax.core import files

  path = tmp_path / 'deep' / 'a.txt'
  files.write_text(path, 'old')
  with pytest.raises(RuntimeError), files.replacing(path) as temporary:
    temporary.write_text('half')
    raise RuntimeError
  assert path.read_text() == 'old' and list(path.parent.iterdir()) == [path]
