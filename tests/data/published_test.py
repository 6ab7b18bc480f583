"""The real datasets, where they are there."""

import collections
import csv

import numpy as np
import pytest
from PIL import Image

from salflax import data
from salflax.data import maps, prepare

pytestmark = [pytest.mark.data, pytest.mark.slow]


def _prepare(dataset, root, data_dir, **kwargs):
  return prepare.prepare(data.DATASETS[dataset](), root, data_dir, **kwargs)


def test_the_published_sjtu_tis(shared, tmp_path):
  root = shared / 'data' / 'sjtu_tis'
  done = _prepare('sjtu_tis', root, tmp_path)
  counts = {'pure': 480, 'whole': 240, 'all': 240}
  counts |= {'non_salient': 240, 'salient': 240}
  assert done.summary['conditions'] == counts
  assert (done.summary['samples'], done.summary['images']) == (1440, 480)
  assert {p['reason'] for p in done.summary['problems']} == {
    'text without image'
  }
  source = data.load_source('sjtu_tis', 'all', tmp_path)
  words = collections.defaultdict(list)
  for r in source.records:
    assert r.text == r.text.strip() and bool(r.text) == (r.condition != 'pure')
    words[r.condition].append(len(r.text.split()))
    assert 42 <= r.num_fixations <= 215
  lengths = {c: (min(w), max(w)) for c, w in words.items()}
  limits = {'pure': (0, 0), 'whole': (6, 23), 'all': (6, 24)}
  limits |= {'non_salient': (3, 17), 'salient': (4, 24)}
  for condition, (low, high) in limits.items():
    assert low <= lengths[condition][0] <= lengths[condition][1] <= high
  suffix = {'pure': '_0', 'whole': '', 'all': '_1'}
  suffix |= {'non_salient': '_2', 'salient': '_3'}
  for i in range(0, len(source), 37):
    example = source[i]
    name = f'{example["image_id"]}{suffix[example["condition"]]}.png'
    want = np.asarray(Image.open(root / 'map' / name))
    np.testing.assert_array_equal(example['saliency'][..., 0], want)
    size = example['image'].shape[:2]
    again = maps.saliency_from_fixations(
      example['fixations'], size, 16.0 if max(size) < 575 else 32.0
    )
    assert np.corrcoef(again.ravel(), want.ravel())[0, 1] >= 0.9995
  left = data.load_source(
    'sjtu_tis', 'all', tmp_path, exclude='sjtu_tis_in_salicon'
  )
  ids = {r.image_id for r in source.records}
  with (root / 'ids_in_salicon.csv').open() as f:
    listed = {r['sjtu_tis_id'] for r in csv.DictReader(f)}
  assert len(listed) == 102
  assert {r.image_id for r in left.records} == ids - listed


@pytest.mark.nightly
def test_the_published_osie(shared, tmp_path):
  done = _prepare('osie', shared / 'data' / 'osie', tmp_path)
  assert done.summary['problems'] == []
  source = data.load_source('osie', 'all', tmp_path)
  assert len(source) == 700
  assert sum(r.num_fixations for r in source.records) == 98_321
  assert len(data.load_source('osie', 'train', tmp_path)) == 500
