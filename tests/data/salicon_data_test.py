"""SALICON, both editions, from its published layout."""

import fake_data
import fake_gaze
import numpy as np
import pytest
import scipy.io
from PIL import Image

from salflax import data
from salflax.data import maps, prepare, splits
from salflax.data.published import salicon


def _prepare(dataset, root, data_dir, **kwargs):
  return prepare.prepare(data.DATASETS[dataset](), root, data_dir, **kwargs)


def _ids(dataset, split, data_dir, **options):
  source = data.load_source(dataset, split, data_dir, **options)
  return {r.image_id for r in source.records}


def _array(path):
  return np.asarray(Image.open(path))


@pytest.mark.parametrize('dataset', ['salicon2015', 'salicon2017'])
def test_salicon_counts_pixels_from_one_and_keeps_its_maps(tmp_path, dataset):
  root = fake_gaze.salicon(tmp_path / 'raw')
  done = _prepare(dataset, root, tmp_path)
  assert done.summary['problems'] == []
  assert done.summary['counts'] == {
    'images (train)': 3,
    'fixation files (train)': 3,
    'images (val)': 2,
    'fixation files (val)': 2,
  }
  source = data.load_source(dataset, 'all', tmp_path)
  example = source[0]
  assert example['image_id'] == 'COCO_train2014_000000000000'
  assert (example['condition'], example['text']) == ('pure', '')
  # Of all observers, one of whom has none.
  assert example['fixations'].tolist() == [[0, 0], [23, 31], [6, 4]]
  name = 'train/COCO_train2014_000000000000'
  np.testing.assert_array_equal(
    example['saliency'][..., 0], _array(root / 'maps' / f'{name}.png')
  )
  np.testing.assert_array_equal(
    example['image'], _array(root / 'images' / f'{name}.jpg')
  )


def test_salicon_keeps_its_own_split(tmp_path):
  root = fake_gaze.salicon(tmp_path / 'raw', train=40, val=15)
  (root / 'images' / 'test').mkdir()
  fake_data.save(
    root / 'images' / 'test' / 'COCO_test2014_000000000001.jpg',
    fake_data.image(np.random.default_rng(0)),
  )
  done = _prepare('salicon2017', root, tmp_path)
  assert done.summary['counts']['images without gaze (images/test)'] == 1
  names = ('all', 'train', 'test', 'fit', 'val')
  ids = {s: _ids('salicon2017', s, tmp_path) for s in names}
  assert ids['train'] == {f'COCO_train2014_{i:012d}' for i in range(40)}
  assert ids['test'] == {f'COCO_val2014_{i:012d}' for i in range(15)}
  assert ids['fit'] | ids['val'] == ids['train']
  assert not ids['fit'] & ids['val'] and ids['val']
  assert ids['all'] == ids['train'] | ids['test']
  _prepare('salicon2015', root, tmp_path)
  assert _ids('salicon2015', 'val', tmp_path) == ids['val']


def test_salicon_without_maps_blurs(tmp_path):
  root = fake_gaze.salicon(tmp_path / 'raw', maps=False)
  _prepare('salicon2017', root, tmp_path)
  example = data.load_source('salicon2017', 'test', tmp_path)[0]
  blurred = maps.saliency_from_fixations(
    example['fixations'], fake_gaze.SIZE, salicon.SIGMA
  )
  want = maps.to_uint8(blurred)
  np.testing.assert_array_equal(example['saliency'][..., 0], want)


@pytest.mark.parametrize('ending', ['.png', '.bmp'])
def test_salicon_reads_fixation_images(tmp_path, ending):
  root = fake_gaze.salicon(tmp_path / 'raw', fixations=ending)
  assert _prepare('salicon2017', root, tmp_path).summary['problems'] == []
  example = data.load_source('salicon2017', 'train', tmp_path)[0]
  path = root / 'fixations/train' / f'{example["image_id"]}{ending}'
  want = np.argwhere(_array(path) > 0)
  np.testing.assert_array_equal(example['fixations'], want)


def test_salicon_prefers_the_mat_to_a_image_beside_it(tmp_path):
  root = fake_gaze.salicon(tmp_path / 'raw')
  fake_gaze.salicon(tmp_path / 'raw', fixations='.png')
  assert _prepare('salicon2017', root, tmp_path).summary['problems'] == []
  example = data.load_source('salicon2017', 'train', tmp_path)[0]
  assert example['fixations'].tolist() == [[0, 0], [23, 31], [6, 4]]


@pytest.mark.parametrize(
  'edition, samples, message',
  [
    ('2015', 7_200, None),
    ('2015', 21_900, 'looks like SALICON 2017, not 2015.*salicon2017'),
    ('2017', 21_900, None),
    ('2017', 7_200, 'looks like SALICON 2015, not 2017.*salicon2015'),
    ('2017', 90, None),  # Too few to tell.
  ],
)
def test_salicon_tells_the_editions_apart(tmp_path, edition, samples, message):
  root = fake_gaze.salicon(tmp_path / 'raw', samples=samples // 3)
  if message is None:
    done = _prepare(f'salicon{edition}', root, tmp_path)
    assert done.summary['samples'] == 5
    return
  with pytest.raises(ValueError, match=message):
    _prepare(f'salicon{edition}', root, tmp_path)


@pytest.mark.parametrize('part', [0, 1])
def test_salicon_editions_are_recognised_by_their_published_means(part):
  for edition, means in salicon.SAMPLES.items():
    assert salicon.looks_like(means[part]) == edition


def test_salicon_matrices_are_of_2015(tmp_path):
  root = fake_gaze.salicon(tmp_path / 'raw', train=1, val=1)
  matrix = np.zeros(fake_gaze.SIZE, np.uint8)
  matrix[3, 4] = matrix[20, 30] = 1
  for path in (root / 'fixations').rglob('*.mat'):
    scipy.io.savemat(path, {'I': matrix})
  _prepare('salicon2015', root, tmp_path)
  example = data.load_source('salicon2015', 'all', tmp_path)[0]
  assert example['fixations'].tolist() == [[3, 4], [20, 30]]
  with pytest.raises(ValueError, match="no variable 'gaze'.*SALICON of 2015"):
    _prepare('salicon2017', root, tmp_path)


def _break_salicon(root, kind):
  path = root / 'fixations/train/COCO_train2014_000000000001.mat'
  if kind == 'cut':
    path.write_bytes(path.read_bytes()[:150])
  elif kind == 'absent':
    path.unlink()
  elif kind == 'cat2000':
    scipy.io.savemat(path, {'fixLocs': np.eye(4)})
  elif kind == 'size':
    fake_gaze.salicon_mat(path, [[[1, 1]]], size=(480, 640))
  elif kind == 'outside':
    fake_gaze.salicon_mat(path, [[[33, 1]]])
  elif kind == 'zero':
    fake_gaze.salicon_mat(path, [[[0, 1]]])
  elif kind == 'none':
    fake_gaze.salicon_mat(path, [[], []])
  elif kind == 'field':
    gaze = np.zeros((2, 1), [('location', 'O')])
    gaze['location'] = [[np.eye(2)], [np.eye(2)]]
    scipy.io.savemat(path, {'gaze': gaze})
  elif kind == 'text':
    scipy.io.savemat(path, {'gaze': {'fixations': 'none'}})
  elif kind == 'column':
    scipy.io.savemat(path, {'gaze': {'fixations': np.ones((3, 1))}})
  elif kind == 'nan':
    scipy.io.savemat(path, {'gaze': {'fixations': [[1.0, np.nan]]}})
  elif kind == 'map':
    (root / f'maps/train/{path.stem}.png').unlink()
  elif kind == 'image':
    (root / f'images/train/{path.stem}.jpg').unlink()


@pytest.mark.parametrize(
  'kind, reason, message',
  [
    ('cut', 'unreadable fixations', '000000000001.mat'),
    ('absent', 'missing fixations', 'fixations/train/'),
    ('cat2000', 'unreadable fixations', "looks like CAT2000's"),
    ('size', 'sizes disagree', '640 x 480'),
    ('outside', 'fixation outside the image', 'x=32'),
    ('zero', 'fixation outside the image', 'x=-1'),
    ('none', 'no fixations', 'not one'),
    ('field', 'unreadable fixations', 'has no fixations'),
    ('text', 'unreadable fixations', 'gaze(1).fixations'),
    ('column', 'unreadable fixations', 'rows of x and y'),
    ('nan', 'unreadable fixations', 'not a finite number'),
    ('map', 'missing map', 'maps/train/'),
    ('image', 'missing image', 'images/train/'),
  ],
)
def test_salicon_names_what_is_wrong(tmp_path, kind, reason, message):
  root = fake_gaze.salicon(tmp_path / 'raw')
  _break_salicon(root, kind)
  summary = _prepare('salicon2017', root, tmp_path).summary
  (problem,) = summary['problems']
  assert problem['name'] == 'COCO_train2014_000000000001/pure'
  assert problem['reason'] == reason and message in problem['detail']
  assert summary['samples'] == 4


def test_one_observer_with_one_fixation(tmp_path):
  path = tmp_path / 'one.mat'
  fake_gaze.salicon_mat(path, [[[7, 3]]])
  points, size = salicon.read_gaze(path, edition='2017')
  assert points.tolist() == [[2, 6]] and size == fake_gaze.SIZE


def test_images_of_sjtu_tis_are_listed_both_ways(tmp_path):
  theirs = splits.read_ids('salicon_in_sjtu_tis')
  ours = splits.read_ids('sjtu_tis_in_salicon')
  assert len(theirs) == len(ours) == 103  # With the heads.
  numbers = {i.rpartition('_')[2] for i in theirs if i.startswith('COCO')}
  assert numbers == {f'{int(i):012d}' for i in ours if i.isdigit()}
  root = fake_gaze.salicon(tmp_path / 'raw')
  name = 'COCO_train2014_000000000349'
  for folder, ending in (('images', 'jpg'), ('maps', 'png')):
    old = root / folder / f'train/COCO_train2014_000000000002.{ending}'
    old.rename(old.with_name(f'{name}.{ending}'))
  old = root / 'fixations/train/COCO_train2014_000000000002.mat'
  old.rename(old.with_name(f'{name}.mat'))
  _prepare('salicon2017', root, tmp_path)
  assert name in _ids('salicon2017', 'train', tmp_path)
  kept = _ids('salicon2017', 'train', tmp_path, exclude='salicon_in_sjtu_tis')
  assert len(kept) == 2 and name not in kept
