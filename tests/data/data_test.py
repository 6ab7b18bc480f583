"""Datasets: what is stored, how it is split, how it is loaded."""

import fractions
import pickle

import fake_data
import numpy as np
import pytest
from PIL import Image

from salflax import data
from salflax.data import maps, prepare, raw, splits

POINTS = [('p0.png', 0, 3.0, 2.0), ('p0.png', 1, 3.4, 1.6), ('p1', 0, 0, 0)]
POINTS += [('p2.png', 0, 31, 23)]


def _prepare(dataset, root, data_dir, **kwargs):
  return prepare.prepare(data.DATASETS[dataset](), root, data_dir, **kwargs)


@pytest.fixture(params=['one image', 'published', 'published 1800'])
def sjtu_layout(request, tmp_path):
  published = request.param != 'one image'
  suffix = '_1800' if '1800' in request.param else ''
  return fake_data.sjtu(tmp_path / 'raw', published=published, suffix=suffix)


def test_sjtu_tis_stores_what_was_published(sjtu_layout, tmp_path):
  root = sjtu_layout.write()
  done = _prepare('sjtu_tis', root, tmp_path / 'out')
  assert done.summary['problems'] == []
  assert done.summary['conditions'] == {
    'pure': 4,
    'whole': 2,
    'all': 2,
    'non_salient': 2,
    'salient': 2,
  }
  source = data.load_source('sjtu_tis', 'all', tmp_path / 'out')
  rows = {
    (source.meta(i)['image_id'], source.meta(i)['condition']): i
    for i in range(len(source))
  }
  assert len(rows) == 12
  example = source[rows['000000000109', 'non_salient']]
  assert example['text'] == 'the non_salient of 109'
  assert source[rows['1031973097', 'whole']]['text'] == 'A view of 1031973097.'
  assert source[rows['1031973097', 'pure']]['text'] == ''
  assert {type(example[k]) for k in ('text', 'condition', 'image_id')} == {str}
  stored = np.asarray(Image.open(sjtu_layout.path('map', '000000000109_2.png')))
  np.testing.assert_array_equal(example['saliency'][..., 0], stored)
  fixated = np.asarray(
    Image.open(sjtu_layout.path('fixation', '000000000109_2.png'))
  )
  assert example['fixations'].dtype == np.int32
  np.testing.assert_array_equal(
    example['fixations'], np.argwhere(fixated[..., 0] == 255)
  )
  name = '000000000109_2.png' if sjtu_layout.published else '000000000109.jpg'
  pixels = Image.open(sjtu_layout.path('image', name)).convert('RGB')
  assert example['image'].shape == (24, 32, 3)
  np.testing.assert_array_equal(example['image'], np.asarray(pixels))


def test_osie_counts_pixels_from_one(tmp_path):
  observers = [([1.2, 32.4], [1.4, 24.3]), ([], []), ([5.0], [7.0])]
  root = fake_data.osie(
    tmp_path / 'raw', {'1001.jpg': observers, '1002.jpg': [([9.0], [9.0])]}
  )
  done = _prepare('osie', root, tmp_path, sigma=3.0)
  assert done.summary['problems'] == []
  example = data.load_source('osie', 'all', tmp_path)[0]
  assert example['fixations'].tolist() == [[0, 0], [23, 31], [6, 4]]
  blurred = maps.saliency_from_fixations(example['fixations'], (24, 32), 3.0)
  np.testing.assert_array_equal(
    example['saliency'][..., 0], maps.to_uint8(blurred)
  )
  assert (example['condition'], example['text']) == ('pure', '')


def test_folder_keeps_repeats_and_blurs_by_rule(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  _prepare('folder', root, tmp_path, name='mine')
  source = data.load_source('folder:mine', 'all', tmp_path)
  assert [m.image_id for m in source.records] == ['p0', 'p1', 'p2']
  example = source[0]
  assert example['fixations'].tolist() == [[2, 3], [2, 3]]
  assert np.unravel_index(example['saliency'].argmax(), (24, 32)) == (2, 3)
  assert source[2]['fixations'].tolist() == [[23, 31]]


def test_folder_takes_maps_and_sentences_of_each_condition(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', POINTS)
  (root / 'fixations.csv').unlink()
  rng = np.random.default_rng(0)
  for name in ('p0_salient', 'p0_all', 'p1'):
    fixations, saliency = fake_data.gaze(rng)
    fake_data.save(root / 'maps' / f'{name}.png', saliency)
    fake_data.save(root / 'fixations' / f'{name}.png', fixations)
  rows = [('p0.png', 'the dog', 'salient'), ('p0', 'a dog and a cat', 'all')]
  rows += [('p1.png', '', 'pure')]
  fake_data.write_csv(root / 'texts.csv', ('image', 'text', 'condition'), rows)
  done = _prepare('folder', root, tmp_path, name='mine')
  # p2 has no sentence, which is said.
  assert [p['name'] for p in done.summary['problems']] == ['p2']
  source = data.load_source('folder:mine', 'all', tmp_path)
  keys = [(r.image_id, r.condition, r.text) for r in source.records]
  assert keys == [
    ('p0', 'all', 'a dog and a cat'),
    ('p0', 'salient', 'the dog'),
    ('p1', 'pure', ''),
  ]
  want = np.asarray(Image.open(root / 'maps' / 'p0_salient.png'))
  np.testing.assert_array_equal(source[1]['saliency'][..., 0], want)


def test_folder_of_maps_alone_has_no_fixations(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', POINTS, count=1)
  (root / 'fixations.csv').unlink()
  _, saliency = fake_data.gaze(np.random.default_rng(0))
  fake_data.save(root / 'maps' / 'p0.png', saliency)
  _prepare('folder', root, tmp_path, name='mine')
  example = data.load_source('folder:mine', 'all', tmp_path)[0]
  assert example['fixations'].shape == (0, 2)


def test_images_of_any_kind_become_upright_rgb(tmp_path):
  upright = fake_data.image(np.random.default_rng(0))
  image = Image.fromarray(upright)
  exif = Image.Exif()
  exif[0x0112] = 6  # Shown turned by 90 degrees.
  path = tmp_path / 'turned.png'
  image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
  assert raw.encode_image(path).size == (24, 32)
  for mode in ('L', 'P', 'CMYK', 'RGBA', '1'):
    path = tmp_path / f'{mode}.tiff'
    image.convert(mode).save(path)
    encoded = raw.encode_image(path)
    (tmp_path / 'x.png').write_bytes(encoded.data)
    stored = np.asarray(Image.open(tmp_path / 'x.png'))
    want = np.asarray(image.convert(mode).convert('RGB'))
    np.testing.assert_array_equal(stored, want)


def test_many_parts_are_one_dataset(tmp_path, monkeypatch):
  monkeypatch.setattr('salflax.data.builder.PART_BYTES', 1)
  fake = fake_data.sjtu(tmp_path / 'raw', published=False)
  broken = fake.path('map', '000000000109_1.png')
  broken.write_bytes(broken.read_bytes()[:40])  # Its part stays empty.
  done = _prepare('sjtu_tis', fake.write(), tmp_path)
  assert len(list(done.folder.glob('*.array_record*'))) == 11
  source = data.load_source('sjtu_tis', 'all', tmp_path)
  for i in range(len(source)):
    example, meta = source[i], source.meta(i)
    assert example['image_id'] == meta['image_id']
    assert example['condition'] == meta['condition']
    assert len(example['fixations']) == meta['num_fixations']
    assert example['image'].shape[:2] == (meta['height'], meta['width'])


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """Forty images of SJTU-TIS, three of a folder, prepared."""
  path = tmp_path_factory.mktemp('prepared')
  fake = fake_data.Sjtu(path / 'sjtu', published=False)
  for i in range(40):
    fake.add(f'{900_000 + i:012d}', group=1 + i % 2)
  _prepare('sjtu_tis', fake.write(), path)
  root = fake_data.folder(path / 'mine', POINTS)
  _prepare('folder', root, path, name='mine')
  return path


@pytest.mark.parametrize('end', ['\u2028', '\u0085', '\x0c'])
def test_a_sentence_may_hold_other_ends_of_lines(tmp_path, end):
  root = fake_data.folder(tmp_path / 'mine', POINTS)
  rows = [('p0', f'a dog{end}runs')]
  fake_data.write_csv(root / 'texts.csv', ('image', 'text'), rows)
  _prepare('folder', root, tmp_path, name='mine')
  source = data.load_source('folder:mine', 'all', tmp_path)
  assert f'a dog{end}runs' in {
    source.meta(i)['text'] for i in range(len(source))
  }


def _ids(source):
  return {r.image_id for r in source.records}


def test_no_image_is_in_two_splits(prepared):
  ids = {
    s: _ids(data.load_source('sjtu_tis', s, prepared))
    for s in splits.split_names()
  }
  assert ids['train'] | ids['test'] == ids['all'] and len(ids['all']) == 40
  assert not ids['train'] & ids['test']
  folds = [ids[f'fold{i}'] for i in range(splits.FOLDS)]
  assert sum(map(len, folds)) == 40 and set.union(*folds) == ids['all']
  for i, fold in enumerate(folds):
    assert ids[f'not_fold{i}'] == ids['all'] - fold
  both = data.load_source('sjtu_tis', 'fold1+fold2', prepared)
  assert _ids(both) == folds[1] | folds[2]
  # All sentences of an image go with it.
  for name in ('train', 'test'):
    source = data.load_source('sjtu_tis', name, prepared)
    counts = {i: 0 for i in ids[name]}
    for r in source.records:
      counts[r.image_id] += 1
    assert all(n == (4 if int(i) % 2 else 2) for i, n in counts.items())


def test_source_can_be_pickled_and_indexed(prepared):
  source = data.load_source('sjtu_tis', 'test', prepared)
  again = pickle.loads(pickle.dumps(source))
  last = len(source) - 1
  for one, other in (
    (again[-1], source[last]),
    (again[0], source[np.int64(0)]),
  ):
    assert one['image_id'] == other['image_id']
    np.testing.assert_array_equal(one['image'], other['image'])
  with pytest.raises(IndexError):
    source[len(source)]
  assert len(list(source)) == len(source)


def test_conditions_and_exclusion_choose_rows(prepared, tmp_path):
  source = data.load_source('sjtu_tis', 'all', prepared, conditions='salient')
  assert {r.condition for r in source.records} == {'salient'}
  assert len(source) == 20
  two = ('all', 'pure')
  assert (
    len(data.load_source('sjtu_tis', 'all', prepared, conditions=two)) == 60
  )
  (tmp_path / 'ids.csv').write_text(
    'id,why\n000000900003,seen\n000000900004,x\n'
  )
  for exclude in (tmp_path / 'ids.csv', ['000000900003', '000000900004']):
    source = data.load_source('sjtu_tis', 'all', prepared, exclude=exclude)
    assert len(_ids(source)) == 38
    assert '000000900003' not in _ids(source)


@pytest.mark.parametrize(
  'name, split, options, error, pattern',
  [
    ('sjtu', 'all', {}, ValueError, "Did you mean 'sjtu_tis'"),
    ('sjtu_tis', 'tset', {}, ValueError, "Did you mean 'test'"),
    ('sjtu_tis', 'fold5', {}, ValueError, 'fold4'),
    ('sjtu_tis', 'train[:5]', {}, ValueError, 'Unknown split'),
    ('sjtu_tis', '', {}, ValueError, 'Unknown split'),
    ('sjtu_tis', 'all', {'conditions': 'salent'}, ValueError, "'salient'"),
    ('folder:mine', 'all', {'conditions': 'all'}, ValueError, 'Allowed: pure'),
    ('sjtu_tis', 'all', {'conditions': ()}, ValueError, 'is empty'),
    ('sjtu_tis', 'all', {'condition': 'all'}, ValueError, "'conditions'"),
    ('sjtu_tis', 'all', {'exclude': ['7']}, ValueError, 'No id of'),
    (
      'sjtu_tis',
      'all',
      {'exclude': 'salicon'},
      FileNotFoundError,
      'in_salicon',
    ),
    (
      'osie',
      'all',
      {},
      FileNotFoundError,
      'salflax prepare --dataset=osie',
    ),
    ('folder:mime', 'all', {}, FileNotFoundError, 'folder:mine'),
    ('folder', 'all', {}, ValueError, 'folder:NAME'),
    ('osie:x', 'all', {}, ValueError, "no ':'"),
  ],
)
def test_what_does_not_exist_is_an_error(
  prepared, name, split, options, error, pattern
):
  with pytest.raises(error, match=pattern):
    data.load_source(name, split, prepared, **options)


@pytest.mark.parametrize(
  'exclude, message',
  [
    ('id\n000000900003\n00000900004\n', "'00000900004' .line 3"),
    ('000000900003\n"000000900004\n', 'line 2'),
    ('000000900003\nimage\n', "'image' .line 2"),
    (['000000900003', 'typo'], "'typo'"),
    (['000000900003', 7], '7'),
    ([], 'No id'),
    ('', 'No id'),
  ],
)
def test_ids_to_exclude_that_match_nothing_are_named(
  prepared, tmp_path, exclude, message
):
  if isinstance(exclude, str):
    (tmp_path / 'ids.csv').write_text(exclude)
    exclude = tmp_path / 'ids.csv'
  with pytest.raises(ValueError, match=message):
    data.load_source('sjtu_tis', 'all', prepared, exclude=exclude)


def test_ids_with_commas_are_excluded_whole(tmp_path):
  (tmp_path / 'ids.csv').write_text('b,1\nc,seen before\n"d,2"\n')
  images = {'a', 'b,1', 'c', 'd,2', 'seen before'}
  ids = splits.excluded(tmp_path / 'ids.csv', 'folder', images, 'mine')
  assert ids == {'b,1', 'c', 'd,2'}
  (tmp_path / 'ids.csv').write_bytes(b'\xff')
  with pytest.raises(ValueError, match='ids.csv is not'):
    splits.excluded(tmp_path / 'ids.csv', 'folder', images, 'mine')


def test_of_a_published_dataset_not_all_excluded_images_need_be_there(
  prepared, tmp_path
):
  other = next(iter(splits.listed('sjtu_tis')))
  (tmp_path / 'ids.csv').write_text(f'{other}\n000000900003\n')
  source = data.load_source(
    'sjtu_tis', 'all', prepared, exclude=tmp_path / 'ids.csv'
  )
  assert len(_ids(source)) == 39


def _halve(path):
  path.write_text(path.read_text().splitlines()[0])


def _reverse(path):
  path.write_text('\n'.join(reversed(path.read_text().splitlines())))


@pytest.mark.parametrize(
  'name, damage, message',
  [
    ('records.jsonl', _reverse, 'row 0 is not that of its record'),
    ('records.jsonl', lambda p: p.write_text(''), 'holds nothing'),
    ('records.jsonl', _halve, '1 records of 3'),
    ('records.jsonl', lambda p: p.write_text('{"image_id": 1}'), 'records'),
    ('records.jsonl', lambda p: p.write_bytes(b'\xff'), 'records.jsonl'),
    ('dataset_info.json', lambda p: p.write_text('{'), 'damaged'),
    ('features.json', lambda p: p.unlink(), 'damaged'),
    (
      'folder-part00000.array_record-00000-of-00001',
      lambda p: p.write_bytes(p.read_bytes()[:-900]),
      'damaged',
    ),
  ],
)
def test_a_damaged_dataset_is_named(tmp_path, name, damage, message):
  rows = [('p0', 0, 3, 2), ('p1', 0, 5, 6), ('p2', 0, 7, 8)]
  root = fake_data.folder(tmp_path / 'raw', rows)
  folder = _prepare('folder', root, tmp_path, name='mine').folder
  damage(folder / name)
  with pytest.raises(ValueError, match=f'{folder}.*{message}'):
    data.load_source('folder:mine', 'all', tmp_path)[0]


def test_scenes_have_nothing_to_exclude():
  with pytest.raises(ValueError, match='argument of load_source of scenes'):
    data.load_source('scenes', 'test', exclude='list')


def test_default_data_dir_is_the_environments(monkeypatch, prepared):
  monkeypatch.setenv('SALFLAX_DATA', str(prepared))
  assert len(data.load_source('folder:mine', 'all')) == 3
  monkeypatch.delenv('SALFLAX_DATA')
  assert data.default_data_dir().name == 'salflax_data'


def _assign(dataset, groups):
  """Spreads the images of each group evenly, by the order of their hash."""
  same = splits.SAME_IMAGE.get(dataset, {})
  result = {}
  for group in sorted(set(groups.values())):
    ids = [i for i, g in groups.items() if g == group]
    # Copies come right after their original and get its place.
    ids.sort(key=lambda i: (splits.seeded_hash(dataset, same.get(i, i)), i))
    for rank, i in enumerate(ids):
      place = splits._cut(dataset, fractions.Fraction(rank, len(ids)))
      result[i] = result.get(same.get(i), place)
  return result


@pytest.mark.parametrize(
  'dataset, groups',
  [('sjtu_tis', {'1': (240, 60), '2': (240, 60)}), ('osie', {'1': (500, 200)})],
)
def test_packaged_list_follows_its_rule(dataset, groups):
  rows = {
    line.split(',')[0]: line.strip().split(',')[1]
    for line in (splits.LISTS / f'{dataset}.csv').open()
  }
  del rows['image_id']
  assert _assign(dataset, rows) == splits.listed(dataset)
  for group, (num_train, num_test) in groups.items():
    places = [splits.place(dataset, i) for i, g in rows.items() if g == group]
    assert sum(part == 'train' for _, part in places) == num_train
    assert sum(part == 'test' for _, part in places) == num_test
    folds = np.bincount([fold for fold, _ in places], minlength=5)
    assert (folds == len(places) // 5).all()


def test_a_image_under_two_names_is_in_one_split(tmp_path):
  assert splits.place('osie', '1279') == splits.place('osie', '1374')
  root = fake_data.folder(tmp_path / 'raw', POINTS, count=3)
  for i in range(12):
    copy = root / 'images' / f'copy{i}.png'
    copy.write_bytes((root / 'images' / 'p0.png').read_bytes())
    with (root / 'fixations.csv').open('a') as f:
      f.write(f'copy{i}.png,0,5,5\n')
  _prepare('folder', root, tmp_path, name='mine')
  source = data.load_source('folder:mine', 'all', tmp_path)
  places = {
    splits.place('folder', r.split_key)
    for r in source.records
    if r.image_id == 'p0' or r.image_id.startswith('copy')
  }
  assert len(places) == 1


def test_an_unlisted_image_keeps_its_place():
  ids = [f'{i:012d}' for i in range(900_000, 902_000)]
  places = [splits.place('sjtu_tis', i) for i in ids]
  assert 0.17 < np.mean([part == 'test' for _, part in places]) < 0.23
  for part, folds in (('test', {0}), ('train', {1, 2, 3, 4})):
    assert {f for f, p in places if p == part} == folds
  # Written down once: a change of the rule would move everyone's images.
  assert [fold for fold, _ in places[:6]] == [3, 4, 3, 2, 3, 3]
