"""What holds for every metric, and how they are asked for."""

import importlib.util
import inspect
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
from scipy import ndimage

from salflax import metrics
from salflax.cli import bench
from salflax.core.types import GroundTruth
from salflax.metrics import distribution

ROOT = pathlib.Path(__file__).resolve().parents[2]
RNG = np.random.default_rng


def run(text, pred, truth, image_id='a'):
  """Score of one metric, by the road that evaluation takes."""
  bound = metrics.bind_metrics(text)
  (value,) = metrics.score(
    pred, truth, bound, metrics.image_rng(image_id)
  ).values()
  return value


def maps(seed, count=2, shape=(9, 12)):
  rng = RNG(seed)
  return [rng.random(shape) ** 3 for _ in range(count)]


def truth_of(shape, count=6, seed=0):
  rng = RNG(seed)
  return GroundTruth(
    saliency=rng.random(shape),
    fixations=rng.integers(0, shape, (count, 2)),
    other_fixations=rng.integers(0, shape, (15, 2)),
    baseline=rng.random(shape) + 0.1,
  )


def chance(name):
  """Score of a map that says nothing; None where it depends on the truth."""
  label = metrics.METRICS[name].label
  if 'AUC' in label:
    return 0.5
  return 0.0 if label.startswith(('CC', 'NSS')) else None


@pytest.mark.parametrize('level', [0.0, 1.0, 0.1, 1e-9])
@pytest.mark.parametrize('name', metrics.METRICS)
def test_flat_prediction(name, level):
  shape = 37, 41
  value = run(name, np.full(shape, level), truth_of(shape))
  assert np.isfinite(value)
  if chance(name) is not None:
    assert value == pytest.approx(chance(name), abs=1e-12)


@pytest.mark.parametrize('name', metrics.METRICS)
def test_flat_is_uniform_whatever_its_level(name):
  shape = 37, 41
  flat = {run(name, np.full(shape, x), truth_of(shape)) for x in (0, 1, 7)}
  assert len(flat) == 1


SCALED = (
  *metrics.METRICS,
  'auc_judd(jitter=True, unique=False)',
  'kl(eps=0, floor=1e-20)',
  'sim(minmax=True)',
  'ig(minmax=True)',
)


@pytest.mark.parametrize('text', SCALED)
def test_no_scale_of_any_map_matters(text):
  shape = 37, 41
  pred, truth = maps(0, shape=shape)[0], truth_of(shape)
  pred[:3], pred[0, 0] = 0, 1  # zeros, and a maximum that is a power of two
  value = run(text, pred, truth)
  # The maps of the course are resized in float32.
  same = pytest.approx(value, rel=1e-6 if 'course' in text else 1e-9)
  for factor in (3e-307, 1e-300, 1e-12, 7.0, 1e20, 1e300):
    assert run(text, factor * pred, truth) == same
    fields = vars(truth) | {
      'saliency': factor * truth.saliency,
      'baseline': factor * truth.baseline,
    }
    assert run(text, pred, GroundTruth(**fields)) == same
  # The least that a float64 can hold has one digit; it is a map all the same.
  assert run(text, 5e-324 * (pred > 0.9), truth) == pytest.approx(
    run(text, 1.0 * (pred > 0.9), truth)
  )


@pytest.mark.parametrize(
  ('pred', 'about'),
  [
    (np.zeros((3, 4)), 'zero everywhere'),
    (np.full((3, 4), 1e-300), 'one value everywhere'),
    (np.full((3, 4), 1e300), 'one value everywhere'),
    (np.zeros((1, 1)), 'a single pixel'),
    (1e-300 * np.eye(3), ''),
    (np.eye(2), ''),
  ],
)
def test_maps_that_say_nothing_are_described(pred, about):
  assert metrics.note(pred) == about


@pytest.mark.parametrize('name', metrics.METRICS)
def test_nan_where_the_truth_lacks_what_is_needed(name):
  shape = 37, 41
  pred = maps(0, shape=shape)[0]
  full = truth_of(shape)
  for need in metrics.METRICS[name].needs:
    if need == 'rng':
      continue
    empty = np.zeros((0, 2), np.int64) if 'fix' in need else np.zeros(shape)
    for lacking in (None, empty):
      truth = GroundTruth(**(vars(full) | {need: lacking}))
      assert np.isnan(run(name, pred, truth))
  assert np.isfinite(run(name, pred, full))


@pytest.mark.parametrize('name', metrics.METRICS)
def test_one_hot_maps(name):
  shape = 37, 41
  pred = np.zeros(shape)
  pred[3, 4] = 1
  truth = truth_of(shape)
  assert np.isfinite(run(name, pred, truth))
  one = GroundTruth(**(vars(truth) | {'saliency': pred[::-1]}))
  assert np.isfinite(run(name, pred, one))


@pytest.mark.parametrize('name', metrics.METRICS)
def test_one_pixel(name):
  value = run(name, np.ones((1, 1)), truth_of((1, 1)))
  # Here every pixel is fixated, or the truth has no upper fifth.
  undefined = name in (
    'auc_nonfixated',
    'salicon_sauc',
    'course_auc',
    'course_sauc',
  )
  assert np.isnan(value) == undefined


@pytest.mark.parametrize('name', metrics.METRICS)
def test_better_predictions_score_better(name):
  shape = 120, 160
  points = RNG(1).normal((40, 50), 12, (60, 2)).astype(np.int64).clip(0, 119)
  fixations = np.zeros(shape)
  fixations[tuple(points.T)] = 1
  saliency = ndimage.gaussian_filter(fixations, 8)
  rest = vars(truth_of(shape)) | {'baseline': np.ones(shape)}
  truth = GroundTruth(**rest | {'saliency': saliency, 'fixations': points})
  noise = RNG(0).random(shape)
  good = run(name, saliency / saliency.max() + 0.2 * noise, truth)
  bad = run(name, noise, truth)
  assert (good > bad) == metrics.METRICS[name].higher_is_better


@pytest.mark.parametrize('one_hot', [False, True])  # its sum is 1 as it is
@pytest.mark.parametrize('name', metrics.METRICS)
def test_arguments_are_left_alone(name, one_hot):
  shape = 37, 41
  truth, pred = truth_of(shape), maps(0, shape=shape)[0]
  if one_hot:
    pred = np.zeros(shape)
    pred[3, 4] = 1
    truth = GroundTruth(**(vars(truth) | {'saliency': pred[::-1].copy()}))
  before = pred.copy(), {k: v.copy() for k, v in vars(truth).items()}
  run(name, pred, truth)
  np.testing.assert_array_equal(pred, before[0])
  for key, value in before[1].items():
    np.testing.assert_array_equal(getattr(truth, key), value)


@pytest.mark.parametrize(
  ('pred', 'message'),
  [
    (np.full((4, 5), np.nan), 'NaN'),
    (np.full((4, 5), np.inf), 'infinite'),
    (np.full((4, 5), -1.0), 'negative values, down to -1'),
    (np.eye(4, 5) * 1j, 'real numbers, found complex128'),
    (np.full((4, 5), '0.1'), 'real numbers, found <U3'),
    (np.full((4, 5), None), 'real numbers, found object'),
    (np.full((4, 5), -1e-300), 'negative values, down to -1e-300'),
    (np.ones((5, 4)), r'\(5, 4\) but the saliency map \(4, 5\)'),
    (np.ones((4, 5, 1)), r'\[h, w\], found shape \(4, 5, 1\)'),
    (np.ones((0, 5)), r'found shape \(0, 5\)'),
  ],
)
def test_bad_predictions_are_named(pred, message):
  with pytest.raises(ValueError, match=message):
    metrics.score(pred, truth_of((4, 5)), metrics.bind_metrics('cc'))


@pytest.mark.parametrize(
  ('points', 'message'),
  [
    ([[0, 5]], r'outside the 4 x 5 map; the first is .* = \(0, 5\)'),
    ([[1, 1], [-1, 0]], r'1 of 2 fixations .* \(-1, 0\)'),
    ([[0.5, 1.0]], 'must be integers'),
    ([[1, 2, 3]], r'\[N, 2\]'),
  ],
)
@pytest.mark.parametrize('name', ['auc', 'auc_borji', 'nss', 'course_nss'])
def test_bad_fixations_are_named(name, points, message):
  truth = GroundTruth(fixations=np.array(points))
  with pytest.raises(ValueError, match=message):
    run(name, np.eye(4, 5), truth)


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('ncc', "Did you mean 'cc'"),
    ('mitt', "Did you mean 'mit'"),
    ('cc|auc_jud', "Did you mean 'auc_judd'"),
    ('sim(min_max=True)', "Did you mean 'minmax'"),
    ('mit(eps=1)', 'takes no options'),
    ('kl|kl(eps=1e-7)', 'a metric twice: kl'),
    ('auc_borji(50)', 'positional'),
    ('', 'spec string'),
  ],
)
def test_bad_specs_are_named(text, message):
  with pytest.raises(ValueError, match=message):
    metrics.bind_metrics(text)


def test_emd_without_its_solver_is_refused_at_once(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'ot' else find(name),
  )
  with pytest.raises(ImportError, match=r'pip install .*salflax\[emd\]'):
    metrics.bind_metrics('cc|emd')
  assert metrics.bind_metrics('mit')


@pytest.mark.parametrize(
  ('option', 'values', 'allowed'),
  [
    ('kl(eps={})', (-1e-9, 2), 'kl: eps .*at least 0 and at most 1'),
    ('kl(floor={})', (-1, 1.5), 'kl: floor .*at least 0 and at most 1'),
    ('ig(eps={})', (-1, 2), 'ig: eps .*at least 0 and at most 1'),
    ('ig(floor={})', (-0.1, 1), 'ig: floor .*at least 0 and at most 0.99'),
    ('nss(ddof={})', (-1, 2, 0.5), 'nss: ddof .* whole .*at most 1'),
    ('auc_borji(splits={})', (0, 1.5, 10**9), 'splits .* whole .*least 1'),
    ('auc_borji(step={})', (0, -1, 1.1), 'step .*at most 1'),
    ('auc_shuffled(step={})', (0, 2), 'step .*at most 1'),
    ('salicon_auc(samples={})', (0, -5, 10**13), 'samples .* whole'),
    ('salicon_auc(step={})', (0, 2), 'step .*at most 1'),
    ('salicon_sauc(step={})', (0, 2), 'step .*at most 1'),
    ('salicon_cc(sigma={})', (0, -3, 1e9), 'sigma .*above 0 and at most 10000'),
    ('emd(cell={})', (0, -1, 1.5, 10**9), 'cell .* whole .*at least 1'),
    ('course_sauc(draws={})', (0, 0.5, 10**9), 'draws .* whole'),
    ('course_cc(size=({}, 5))', (0, -1, 2.5, 10**9), 'a side .* whole'),
    ('course_auc(size={})', (3, (1, 2, 3)), r'\(height, width\) or None'),
    ('auc_judd(unique={})', (1, 0), 'unique must be True or False'),
    ('sim(minmax={})', (1,), 'minmax must be True or False'),
  ],
)
def test_options_are_checked_when_they_are_bound(option, values, allowed):
  for value in (*values, '"x"', None, [1], '1e999', '-1e999'):
    if value is None and 'size={' in option:
      continue
    with pytest.raises(ValueError, match=allowed):
      metrics.bind_metrics(option.format(value))


@pytest.mark.parametrize('text', ['auc_borji', 'auc_shuffled', 'salicon_auc'])
def test_drawing_needs_a_generator_and_sound_options(text):
  truth = truth_of((9, 9))
  with pytest.raises(ValueError, match='Generator'):
    metrics.score(np.eye(9), truth, metrics.bind_metrics(text))
  with pytest.raises(ValueError, match='step'):
    run(f'{text}(step=0)', np.eye(9), truth)


@pytest.mark.parametrize('name', metrics.PROTOCOLS)
def test_protocols(name):
  bound = metrics.bind_metrics(name)
  assert all(b.key in metrics.METRICS for b in bound)
  assert [b.text for b in metrics.bind_metrics(f'{name}|emd')][:-1] == [
    b.text for b in bound
  ]
  scores = metrics.score(
    np.eye(40, 50), truth_of((40, 50)), bound, metrics.image_rng(1)
  )
  assert list(scores) == [b.key for b in bound]
  assert all(type(v) is float and np.isfinite(v) for v in scores.values())


def test_protocols_with_metrics_of_their_own():
  bound = metrics.bind_protocols(['mit|emd', '', ' course '])
  assert list(bound) == ['mit', 'course']
  assert [m.key for m in bound['mit']][-1] == 'emd'
  assert metrics.bind_protocols([]) == metrics.bind_protocols('') == {}
  with pytest.raises(ValueError, match="protocol 'cc'"):
    metrics.bind_protocols(['cc|mit'])
  with pytest.raises(ValueError, match="'emdd'.*Did you mean 'emd'"):
    metrics.bind_protocols(['mit|emdd'])
  with pytest.raises(ValueError, match="'mit' is named twice"):
    metrics.bind_protocols('mit, mit|emd')
  for names in (
    'salicon|kl(eps=1e-7, floor=0), course|sim(minmax=True)',
    ['salicon|kl(eps=1e-7, floor=0)', 'course|sim(minmax=True)'],
  ):
    bound = metrics.bind_protocols(names)
    assert list(bound) == ['salicon', 'course']
    assert bound['salicon'][-1].text == 'kl(eps=1e-07, floor=0)'
    assert bound['course'][-1].key == 'sim'


def test_bound_options_reach_the_metric():
  (bound,) = metrics.bind_metrics('sim(minmax=True)')
  assert bound[:1] + bound[2:] == (
    'sim',
    ('saliency',),
    'SIM',
    True,
    'sim(minmax=True)',
  )
  pred, saliency = maps(5)
  assert bound.fn(pred + 1, saliency) == (
    distribution.sim(pred + 1, saliency, minmax=True)
  )
  assert bound.fn(pred + 1, saliency) != distribution.sim(pred + 1, saliency)


def test_a_score_does_not_depend_on_what_else_is_asked_for():
  shape = 37, 41
  pred, truth = maps(2, shape=shape)[0], truth_of(shape)
  both = metrics.score(
    pred,
    truth,
    metrics.bind_metrics('auc_borji|auc_shuffled|salicon_auc'),
    metrics.image_rng('x', 3),
  )
  for key, value in both.items():
    bound = metrics.bind_metrics(key)
    rng = metrics.image_rng('x', 3)
    assert metrics.score(pred, truth, bound, rng) == {key: value}


def test_image_rng_is_fixed_by_image_and_seed():
  draw = lambda *args: int(metrics.image_rng(*args).integers(10**9))
  assert draw('a') == draw('a', 0) != draw('a', 1)
  assert draw(7) == draw('7') != draw('8')
  # Stored: the same on another host, in another process, next year.
  assert draw('000000000109_2') == 73587050


def test_no_heavy_import():
  code = (
    'import sys, salflax.metrics as m; '
    "m.bind_metrics('mit'); "
    "heavy = {'jax', 'scipy', 'ot', 'PIL', 'tensorflow'} & set(sys.modules); "
    'sys.exit(str(heavy) if heavy else 0)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert not done.returncode, done.stderr


def test_benchmark_covers_every_metric():
  options = types.SimpleNamespace(height=30, width=40, repeats=1)
  rows = bench.BENCHMARKS['metrics'](options)
  assert len({tuple(r) for r in rows}) == 1
  names = {r['what'].strip('`') for r in rows}
  assert names >= set(metrics.METRICS) | set(metrics.PROTOCOLS)


def test_docs_name_every_metric_and_protocol():
  text = (ROOT / 'docs' / 'metrics.md').read_text(encoding='utf-8')
  for key, metric in metrics.METRICS.items():
    arrow = '↑' if metric.higher_is_better else '↓'
    assert f'| `{key}` | {metric.label} {arrow} |' in text
    for option in inspect.signature(metric.fn).parameters.values():
      if option.kind is option.KEYWORD_ONLY:
        assert f'`{option.name}=' in text
  for name in metrics.PROTOCOLS:
    parts = ', '.join(f'`{b.text}`' for b in metrics.bind_metrics(name))
    assert f'| `{name}` | {parts} |' in text
