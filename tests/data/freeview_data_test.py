"""MIT1003, CAT2000 and FiWI, from their published layouts."""

import collections

import fake_gaze
import numpy as np
import pytest
import scipy.io
from PIL import Image

from salflax import data
from salflax.data import maps, prepare, problems, splits
from salflax.data.published import mit1003

PAGES = ['ebay_music', 'zaobao', 'cell']


def _prepare(dataset, root, data_dir, **kwargs):
  return prepare.prepare(data.DATASETS[dataset](), root, data_dir, **kwargs)


def _array(path):
  return np.asarray(Image.open(path))


def _blurred(example, sigma):
  size = example['image'].shape[:2]
  return maps.to_uint8(
    maps.saliency_from_fixations(example['fixations'], size, sigma)
  )


def test_mit1003_reads_points_of_jpeg(tmp_path):
  names = ['i05june05_static_street_boston_p1010764', 'i102423191', 'i3']
  root = fake_gaze.mit1003(tmp_path / 'raw', names)
  assert _prepare('mit1003', root, tmp_path).summary['problems'] == []
  example = data.load_source('mit1003', 'all', tmp_path)[0]
  assert example['image_id'] == names[0]
  want = sorted(fake_gaze.points_of().tolist())
  assert example['fixations'].tolist() == want
  path = root / 'ALLFIXATIONMAPS' / f'{names[0]}_fixMap.jpg'
  np.testing.assert_array_equal(example['saliency'][..., 0], _array(path))


def test_mit1003_is_500_to_fit_200_to_validate_and_303_to_test():
  names = [f'i{n}' for n in range(1003)]
  parts = mit1003.assign(names)
  assert collections.Counter(parts.values()) == mit1003.PARTS
  assert parts == mit1003.assign(reversed(names))
  stored = [parts[n] for n in names]
  chosen = {
    s: set(splits.select('mit1003', s, names, stored))
    for s in ('train', 'test', 'fit', 'val')
  }
  assert len(chosen['fit']) == 500 and len(chosen['val']) == 200
  assert chosen['fit'] | chosen['val'] == chosen['train']
  assert len(chosen['train'] | chosen['test']) == 1003
  assert not chosen['train'] & chosen['test']


def test_mit1003_reads_recordings(tmp_path):
  root, name = tmp_path / 'raw', 'i' * 70
  fake_gaze.mit1003(root, [name])
  for path in (root / 'ALLFIXATIONMAPS').iterdir():
    path.unlink()
  (root / 'ALLFIXATIONMAPS').rmdir()
  rng = np.random.default_rng(0)
  # On the cross, a blink, a stop too short, and one that counts.
  stops = [(16, 12, 50), (-32768, -32768, 30), (30, 3, 10), (8, 20, 60)]
  fake_gaze.recording(root / 'DATA/ajs' / f'{name}.mat', stops)
  stops = [(30, 20, 50), (2, 3, 40), (28, 22, 40)]
  # As published, recordings lie beside the order of the images.
  scipy.io.savemat(root / 'DATA/ajs/shuff_stimnames.mat', {'x': 1})
  fake_gaze.recording(root / 'DATA/hp' / f'{name}.mat', stops, rng=rng)
  done = _prepare('mit1003', root, tmp_path)
  assert done.summary['counts'] == {'images': 1, 'observers': 2}
  example = data.load_source('mit1003', 'all', tmp_path)[0]
  assert example['fixations'][0].tolist() == [19, 7]
  want = np.array([[19, 7], [2, 1], [21, 27]])
  assert np.abs(example['fixations'] - want).max() <= 1
  np.testing.assert_array_equal(
    example['saliency'][..., 0], _blurred(example, mit1003.SIGMA)
  )


@pytest.mark.parametrize('kind', ['fixMap', 'fixPts', 'image', 'grey'])
def test_mit1003_names_what_is_wrong(tmp_path, kind):
  root = fake_gaze.mit1003(tmp_path / 'raw', ['a', 'b'])
  folder = root / 'ALLFIXATIONMAPS'
  reason = {
    'fixMap': 'missing map',
    'fixPts': 'missing fixations',
    'image': 'missing image',
    'grey': 'not a fixation image',
  }[kind]
  if kind == 'image':
    (root / 'ALLSTIMULI/a.jpeg').unlink()
  elif kind == 'grey':
    content = (folder / 'a_fixMap.jpg').read_bytes()
    (folder / 'a_fixPts.jpg').write_bytes(content)
  else:
    (folder / f'a_{kind}.jpg').unlink()
  summary = _prepare('mit1003', root, tmp_path).summary
  (problem,) = summary['problems']
  assert (problem['name'], problem['reason']) == ('a/pure', reason)
  assert summary['samples'] == 1


def test_a_recording_of_something_else_is_named(tmp_path):
  path = tmp_path / 'ajs' / 'a.mat'
  path.parent.mkdir()
  scipy.io.savemat(path, {'x': np.eye(2)})
  with pytest.raises(problems.Dropped, match='ajs/a.mat.*eyeData'):
    mit1003.read_recordings([path])


def test_detected_fixations_are_where_the_eye_rested():
  rng = np.random.default_rng(1)
  stops = rng.uniform(50, 900, (8, 2))
  steps = [np.linspace(0, 1, 10)[:, None]]
  parts = [np.tile(stops[0], (60, 1))]
  for a, b in zip(stops[:-1], stops[1:]):
    parts += [a + (b - a) * steps[0], np.tile(b, (60, 1))]
  track = np.concatenate(parts) + rng.normal(0, 0.5, (60 * 8 + 70, 2))
  actual = mit1003.detect_fixations(track)
  np.testing.assert_allclose(actual, stops, atol=1.0)
  blink = track.copy()
  blink[:60] = np.nan
  assert len(mit1003.detect_fixations(blink)) == 7
  assert len(mit1003.detect_fixations(track[:0])) == 0


def test_cat2000_keeps_categories_and_passes_over_display(tmp_path):
  root = fake_gaze.cat2000(tmp_path / 'raw')
  done = _prepare('cat2000', root, tmp_path)
  assert done.summary['problems'] == []
  assert done.summary['counts'] == {'images': 6}
  source = data.load_source('cat2000', 'all', tmp_path)
  assert [r.image_id for r in source.records] == [
    f'{c}/{i:03d}' for c in ('Action', 'OutdoorManMade') for i in (1, 2, 3)
  ]
  example = source[4]
  base = root / 'trainSet'
  name = 'OutdoorManMade/002'
  locations = scipy.io.loadmat(base / 'FIXATIONLOCS' / f'{name}.mat')
  np.testing.assert_array_equal(
    example['fixations'], np.argwhere(locations['fixLocs'])
  )
  stored = _array(base / 'FIXATIONMAPS' / f'{name}.jpg')
  np.testing.assert_array_equal(example['saliency'][..., 0], stored)


def test_cat2000_names_what_is_wrong(tmp_path):
  base = fake_gaze.cat2000(tmp_path / 'raw', count=5) / 'trainSet'
  locations = base / 'FIXATIONLOCS/Action'
  (locations / '001.mat').unlink()
  scipy.io.savemat(locations / '002.mat', {'fixLocs': np.eye(9)})
  scipy.io.savemat(locations / '003.mat', {'I': np.eye(9)})
  scipy.io.savemat(locations / '004.mat', {'fixLocs': 'none'})
  (base / 'FIXATIONMAPS/Action/005.jpg').unlink()
  (base / 'Stimuli/OutdoorManMade/001.jpg').unlink()
  summary = _prepare('cat2000', base, tmp_path).summary
  assert {p['name']: p['reason'] for p in summary['problems']} == {
    'Action/001/pure': 'missing fixations',
    'Action/002/pure': 'sizes disagree',
    'Action/003/pure': 'unreadable fixations',
    'Action/004/pure': 'unreadable fixations',
    'Action/005/pure': 'missing map',
    'OutdoorManMade/001/pure': 'missing image',
  }
  assert summary['samples'] == 4


def test_fiwi_blurs_its_fixation_images(tmp_path):
  root = fake_gaze.fiwi(tmp_path / 'raw', PAGES)
  assert _prepare('fiwi', root, tmp_path).summary['problems'] == []
  example = data.load_source('fiwi', 'all', tmp_path)[1]
  assert example['image_id'] == 'ebay_music'
  points = _array(root / 'eyeMaps/all5/ebay_music.png')
  np.testing.assert_array_equal(example['fixations'], np.argwhere(points))
  sigma = maps.default_sigma(points.shape)
  want = _blurred(example, sigma)
  np.testing.assert_array_equal(example['saliency'][..., 0], want)


def test_fiwi_names_what_is_wrong(tmp_path):
  root = fake_gaze.fiwi(tmp_path / 'raw', PAGES)
  (root / 'eyeMaps/all5/cell.png').unlink()
  (root / 'stimuli/zaobao.png').unlink()
  summary = _prepare('fiwi', root, tmp_path).summary
  assert {p['name']: p['reason'] for p in summary['problems']} == {
    'cell/pure': 'missing fixations',
    'zaobao/pure': 'missing image',
  }


@pytest.mark.parametrize(
  'dataset, message',
  [
    ('salicon2015', 'images/train'),
    ('salicon2017', 'fixations/train'),
    ('mit1003', 'ALLSTIMULI'),
    ('cat2000', 'FIXATIONLOCS'),
    ('fiwi', 'eyeMaps/all5'),
  ],
)
def test_another_layout_is_an_error(tmp_path, dataset, message):
  (tmp_path / 'raw' / 'images').mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match=message):
    _prepare(dataset, tmp_path / 'raw', tmp_path)
