"""Tables of a model card, and outlines of where the gaze is."""

import numpy as np
import pytest
from scipy import ndimage

from salflax.config import schema
from salflax.core import files
from salflax.report import card, figures


def _entry(mean):
  return {'mean': mean, 'low': mean, 'high': mean, 'n': 9, 'n_valid': 9}


def _scores(mean):
  entries = {'mit/cc': _entry(mean), 'mit/kl': _entry(1.0)}
  return {'conditions': {'salient': entries}, 'overall': entries}


def test_scores_of_an_evaluation(tmp_path):
  labels = {k: {'higher_is_better': True, 'label': k} for k in ('cc', 'kl')}
  part = {'label': 'Wrong sentence', 'scores': _scores(0.5)}
  test = {'difference': 0.2, 'low': 0.1, 'high': 0.3, 'p': 0.001, 'n': 9}
  summary = {
    'model': 'ours',
    'protocols': {'course': {'metrics': {}}, 'mit': {'metrics': labels}},
    'scores': _scores(0.7),
    'controls': {'wrong': part},
    'tests': {'wrong': {'salient': {'mit/cc': test}}},
  }
  files.write_json(tmp_path / 'summary.json', summary)
  (tmp_path / 'per_image.csv').touch()
  scores, tests = card.score_tables(tmp_path)
  assert '| salient | ours | 9 | 0.7000 [0.700, 0.700] |' in scores
  assert '| salient | Wrong sentence | 9 | 0.5000' in scores
  assert '+0.2000 [+0.100, +0.300]' in tests and 'kl' not in scores + tests
  for name in ('summary.json', 'per_image.csv'):
    assert card.score_tables(tmp_path / name) == [scores, tests]


def test_scores_that_are_none(tmp_path):
  with pytest.raises(FileNotFoundError, match='No scores: .*summary.json'):
    card.score_tables(tmp_path)
  files.write_json(tmp_path / 'a.json', {'scores': 1})
  for name in ('a.json', 'b.txt'):
    (tmp_path / 'b.txt').touch()
    with pytest.raises(ValueError, match='allowed: summary.json'):
      card.score_tables(tmp_path / name)


@pytest.mark.parametrize('share', [0.25, 0.5, 0.75])
def test_an_outline_holds_its_share_of_the_gaze(share):
  y, x = np.mgrid[:120, :160]
  saliency = np.exp(-((y - 60) ** 2 + (x - 80) ** 2) / 800)
  image = np.full((120, 160, 3), 90, np.uint8)
  lines = (figures.contours(image, saliency, [share]) == 255).all(-1)
  inside = ndimage.binary_fill_holes(lines) & ~lines
  # The line has a width of its own.
  low, high = (
    saliency[area].sum() / saliency.sum() for area in (inside, inside | lines)
  )
  assert low < share < high and high - low < 0.2


def test_a_flat_map_has_no_outlines():
  image = np.full((20, 30, 3), 90, np.uint8)
  flat = np.ones((20, 30))
  np.testing.assert_array_equal(figures.contours(image, flat, [0.5]), image)


def test_a_card_without_a_split_of_its_own_says_so(tmp_path):
  stage = dict(schema.STAGE, data='scenes', split='all')
  config = dict(
    schema.RUN,
    stages=('only',),
    model={'name': 'lite', 'backbone': {}, 'text': {'name': 'none'}},
  )
  for split, says in (('', 'kept back'), ('fold1', 'split: fold1 of scenes')):
    config['only'] = dict(stage, test_split=split)
    card.write(tmp_path, config, [], name='a')
    assert says in (tmp_path / 'README.md').read_text()
