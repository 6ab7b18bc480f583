"""Every score of the reference implementations, on pictures of real gaze."""

import json

import numpy as np
import pytest

from salflax import metrics
from salflax.core.types import GroundTruth
from salflax.metrics import course, location

CASES = range(8)
RNG = np.random.default_rng

# Column of the golden file, and how the same score is asked for here.
EXACT = {
  ('mit_matlab', 'AUC_Judd'): 'auc_judd',
  ('mit_matlab', 'CC'): 'cc',
  ('mit_matlab', 'similarity'): 'sim(minmax=True)',
  ('mit_matlab', 'NSS'): 'nss(ddof=1, unique=True)',
  ('mit_matlab', 'KLdiv'): 'kl',
  ('mit_matlab', 'InfoGain'): 'ig(minmax=True, floor=0, unique=True)',
  ('pysaliency', 'AUC_uniform'): 'auc',
  ('pysaliency', 'AUC_nonfixated'): 'auc_nonfixated',
  ('pysaliency', 'sAUC'): 'auc_shuffled(exact=True)',
  ('pysaliency', 'NSS'): 'nss',
  ('pysaliency', 'CC'): 'cc',
  ('pysaliency', 'SIM'): 'sim',
  ('pysaliency', 'KLDiv_MIT'): 'kl(eps=2.2204e-16)',
  ('pysaliency', 'IG_bits'): 'ig(eps=2.2204e-16, floor=0)',
  ('pot', 'EMD_15x20_cells'): 'emd(cell=16)',
  ('paper', 'auc'): 'course_auc(size=None)',
  ('paper', 'sim'): 'sim(minmax=True)',
}
SAMPLED = {
  ('mit_matlab', 'AUC_Borji'),
  ('mit_matlab', 'AUC_shuffled'),
  ('paper', 'sauc_mean20'),
}
# Summed in float32 by the code that made them.
FLOAT32 = {
  ('paper', 'cc'): 'course_cc(size=None)',
  ('paper', 'nss'): 'course_nss(size=None)',
}


@pytest.fixture(scope='module')
def golden(goldens):
  return json.loads((goldens / 'metric_scores.json').read_text())


@pytest.fixture(scope='module')
def cases(goldens):
  """The pictures the golden scores were made on: (prediction, truth)."""
  shape = 240, 320
  with np.load(goldens / 'metric_truth.npz') as f:
    truth = dict(f)
  with np.load(goldens / 'metric_pred.npz') as f:
    preds = [f.get(f'pred{i}', truth['baseline']) for i in CASES]
  unpack = lambda x, n: np.unpackbits(x, count=n * 240 * 320).astype(bool)
  fixations = unpack(truth['fixations'], 8).reshape(8, *shape)
  others = np.argwhere(unpack(truth['others'], 1).reshape(shape))
  return [
    (
      preds[i],
      GroundTruth(
        truth['density'][i],
        np.argwhere(fixations[i]),
        others,
        truth['baseline'],
      ),
    )
    for i in CASES
  ]


def run(text, pred, truth, image_id='a'):
  """Score of one metric, by the road that evaluation takes."""
  bound = metrics.bind_metrics(text)
  (value,) = metrics.score(
    pred, truth, bound, metrics.image_rng(image_id)
  ).values()
  return value


def test_every_golden_column_is_used(golden):
  columns = {
    (source, name)
    for source in ('mit_matlab', 'pysaliency', 'pot', 'paper')
    for name in golden[source]
  }
  assert columns == set(EXACT) | set(FLOAT32) | SAMPLED


@pytest.mark.parametrize('column', EXACT, ids='-'.join)
def test_exact_goldens(column, golden, cases):
  ours = [run(EXACT[column], *case) for case in cases]
  np.testing.assert_allclose(ours, golden[column[0]][column[1]], atol=1e-6)


@pytest.mark.parametrize('column', FLOAT32, ids='-'.join)
def test_float32_goldens(column, golden, cases):
  ours = [run(FLOAT32[column], *case) for case in cases]
  np.testing.assert_allclose(ours, golden[column[0]][column[1]], atol=5e-5)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('name', ['AUC_Borji', 'AUC_shuffled'])
def test_sampled_goldens(name, case, golden, cases):
  pred, truth = cases[case]
  rng = metrics.image_rng(case)
  splits = {'splits': 1000}
  if name == 'AUC_Borji':
    ours = location.borji_splits(pred, truth.fixations, rng, **splits)
  else:
    ours = location.shuffled_splits(
      pred, truth.fixations, truth.other_fixations, rng, **splits
    )
  # Both are means of 1,000 splits.
  error = ours.std(ddof=1) * np.sqrt(2 / 1000)
  assert abs(ours.mean() - golden['mit_matlab'][name][case]) < 4 * error


@pytest.mark.parametrize('case', CASES)
def test_course_sauc_golden(case, golden, cases):
  pred, truth = cases[case]
  rng = RNG(case)
  ours = [  # means of ten draws, for the time that it takes
    course.course_sauc(pred, truth.saliency, rng, size=None, draws=10)
    for _ in range(20)
  ]
  deviation = np.std(ours, ddof=1) * 10**0.5
  error = deviation * np.sqrt(1 / 200 + 1 / 20)
  reference = golden['paper']['sauc_mean20'][case]
  assert abs(np.mean(ours) - reference) < 4 * error
  # The expected value that makes this score redundant.
  expected = 0.25 + 0.5 * golden['paper']['auc'][case]
  assert abs(np.mean(ours) - expected) < 4 * deviation / 200**0.5
