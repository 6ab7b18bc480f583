"""Areas of interest and their attention."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salflax.predict import areas

BOX = {'name': 'cta', 'box': [1, 2, 3, 4]}
SQUARE = {'name': 'logo', 'polygon': [[0, 0], [4, 0], [4, 4], [0, 4]]}


def one(**entry):
  return areas.parse_areas([{'name': 'a'} | entry])[0]


def write(path, content):
  text = content if isinstance(content, str) else json.dumps(content)
  path.write_text(text, encoding='utf-8')
  return path


def test_a_box_holds_the_pixels_whose_centre_it_holds():
  mask = one(box=[1, 2, 3, 4]).mask(8, 9)
  assert mask.sum() == 12 and mask[2:6, 1:4].all()
  # From 1.4 to 3.6: the centres 1.5, 2.5 and 3.5.
  mask = one(box=[1.4, 0, 2.2, 1]).mask(1, 6)
  assert mask[0].tolist() == [False, True, True, True, False, False]
  assert one(box=[1.6, 0, 0.8, 1]).mask(1, 6).sum() == 0


def test_polygons_agree_with_matplotlib():
  from matplotlib.path import Path

  rng = np.random.default_rng(0)
  y, x = np.mgrid[:30, :40] + 0.5
  centres = np.stack([x, y], -1).reshape(-1, 2)
  for corners in (3, 4, 7):
    # In the order of their angle, so that no edge crosses another.
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(5, 14, corners)[:, None]
    points = [20, 15] + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
    want = Path(points).contains_points(centres).reshape(30, 40)
    mask = one(polygon=points.tolist()).mask(30, 40)
    np.testing.assert_array_equal(mask, want)


@given(
  st.floats(-2, 12),
  st.floats(-2, 12),
  st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=0),
)
@settings(max_examples=50, deadline=None)
def test_neighbours_share_no_pixel_and_miss_none(top, bottom, cut):
  """A cut from the upper to the lower edge leaves two exact halves."""
  line = [[top, 0.0], *([x, y] for x, y in sorted(cut, key=lambda p: p[1]))]
  line.append([bottom, 10.0])
  left = one(polygon=[*line, [-5, 10], [-5, 0]]).mask(10, 10)
  right = one(polygon=[*line, [15, 10], [15, 0]]).mask(10, 10)
  np.testing.assert_array_equal(left ^ right, np.ones((10, 10), bool))


def test_attention_adds_up():
  density = np.zeros((10, 10))
  density[:5] = 0.8 / 50
  density[5:] = 0.2 / 50
  halves = areas.parse_areas(
    [
      {'name': 'low', 'box': [0, 5, 10, 5]},
      {'name': 'top', 'box': [0, 0, 10, 5]},
      {'name': 'all', 'box': [0, 0, 10, 10]},
    ]
  )
  low, top, whole = areas.attention(density, halves, fixations=2)
  assert [row['rank'] for row in (low, top, whole)] == [3, 2, 1]
  assert whole == pytest.approx(
    {'share': 1, 'lift': 1, 'size': 1, 'probability': 1, 'rank': 1}
    | {'name': 'all'}
  )
  assert top['share'] == pytest.approx(0.8) and top['size'] == 0.5
  assert top['lift'] == pytest.approx(1.6)
  # Both miss with a chance of 0.2 each.
  assert top['probability'] == pytest.approx(0.96)


def test_the_probability_is_that_of_drawn_fixations():
  rng = np.random.default_rng(0)
  density = rng.random((6, 8))
  density /= density.sum()
  area = one(box=[2, 1, 3, 3])
  (row,) = areas.attention(density, [area], fixations=3)
  drawn = rng.choice(48, size=(20_000, 3), p=density.ravel())
  hit = area.mask(6, 8).ravel()[drawn].any(1).mean()
  assert row['probability'] == pytest.approx(hit, abs=0.015)


def test_areas_outside_the_image_are_named():
  density = np.full((10, 10), 0.01)
  far = [one(box=[20, 0, 5, 5]), one(box=[0, 0, 5, 5])._replace(name='b')]
  with pytest.raises(ValueError, match='10x10 .* lies in: a'):
    areas.attention(density, far)
  beyond, overlap = areas.notes(
    [one(box=[8, 8, 4, 4]), one(box=[9, 9, 1, 1])._replace(name='b')], 10, 10
  )
  assert 'a reaches beyond' in beyond and 'a and b share 1 pix' in overlap


def test_every_format_reads_the_same(tmp_path):
  simple = areas.read_areas(write(tmp_path / 'a.json', {'areas': [BOX]}))
  table = 'Name, X, y, width, height\ncta,1,2,3,4\n'
  assert areas.read_areas(write(tmp_path / 'a.csv', table)) == simple
  assert areas.read_areas(write(tmp_path / 'b.json', [BOX])) == simple
  coco = {
    'images': [{'id': 7, 'file_name': 'x/street.jpg'}],
    'categories': [{'id': 1, 'name': 'cta'}],
    'annotations': [
      {'image_id': 7, 'category_id': 1, 'bbox': [1, 2, 3, 4]},
      {'image_id': 7, 'category_id': 1, 'segmentation': [[0, 0, 4, 0, 4, 4]]},
      {'image_id': 7, 'category_id': 1, 'iscrowd': 1, 'segmentation': {}},
    ],
  }
  path = write(tmp_path / 'coco.json', coco)
  first, second = areas.read_areas(path)
  assert [first] == simple
  assert second.name == 'cta-2' and len(second.polygons[0]) == 3
  path.write_text(json.dumps(coco), 'utf-8-sig')
  assert areas.read_areas(path, image='street.jpg') == [first, second]
  path.write_text(json.dumps([BOX]), 'utf-8-sig')
  assert areas.read_areas(path) == simple


def coco(*paths, names=('dog',), categories=('dog',), **entry):
  """Makes COCO annotations: in image k, boxes of width k + 1."""
  return {
    'images': [{'id': k, 'file_name': p} | entry for k, p in enumerate(paths)],
    'categories': [{'id': c, 'name': c} for c in categories],
    'annotations': [
      {'image_id': k, 'category_id': name, 'bbox': [0, 0, k + 1, 1]}
      for k in range(len(paths))
      for name in names
    ],
  }


@pytest.mark.parametrize(
  'image, paths, place',
  [
    ('b/x.jpg', ['x.jpg'], 0),
    ('b/x.jpg', ['train/x.jpg'], 0),
    ('b/x.jpg', ['a/x.jpg', 'b/x.jpg', 'x.jpg'], 1),
    ('/c/b/x.jpg', ['a/b/x.jpg', 'c/b/x.jpg', 'b/y.jpg'], 1),
    ('c/x.jpg', ['a/x.jpg', 'b/x.jpg', 'x.jpg'], 2),
    ('x.jpg', ['b/x.jpg', 'x.jpg'], 1),
    ('', ['x.jpg'], 0),
  ],
)
def test_the_path_that_agrees_most_is_the_image(image, paths, place):
  (area,) = areas.parse_areas(coco(*paths), image=image)
  assert area.polygons[0][1] == (place + 1, 0)


@pytest.mark.parametrize(
  'image, paths, message',
  [
    ('c/x.jpg', ['a/x.jpg', 'b/x.jpg', 'y.jpg'], 'any of a/x.jpg, b/x.jpg.'),
    ('x.jpg', ['y.jpg'], "Unknown image 'x.jpg'. Did you mean 'y.jpg'?"),
    ('x.jpg', [], "Unknown image 'x.jpg'"),
    ('', ['x.jpg', 'y.jpg'], 'Allowed: x.jpg, y.jpg'),
  ],
)
def test_the_areas_of_another_image_are_not_taken(image, paths, message):
  with pytest.raises(ValueError) as e:
    areas.parse_areas(coco(*paths), 'a.json', image=image)
  assert message in str(e.value) and str(e.value).startswith('a.json: ')


def test_an_image_of_another_size_is_named():
  tree = coco('x.jpg', width=400, height=300)
  assert areas.parse_areas(tree, image='x.jpg', size=(300, 400))
  with pytest.raises(ValueError, match='x.jpg has 400x300 .*the image 40x30'):
    areas.parse_areas(tree, image='x.jpg', size=(30, 40))


def test_an_id_of_two_images_is_named():
  tree = coco('x.jpg', 'y.jpg')
  tree['images'][1]['id'] = 0
  with pytest.raises(ValueError, match='the id of an image 0 stands twice'):
    areas.parse_areas(tree, image='x.jpg')


@pytest.mark.parametrize(
  'names', [('dog-2', 'dog', 'dog'), ('dog', 'dog', 'dog-2')]
)
def test_a_numbered_name_that_is_a_category_too_is_named(names):
  tree = coco('x.jpg', names=names, categories=('dog', 'dog-2'))
  with pytest.raises(ValueError, match="area 3: the name 'dog-2' is there tw"):
    areas.parse_areas(tree)


@pytest.mark.parametrize(
  'content, message',
  [
    ('{', 'not JSON'),
    ('3', 'expected an object'),
    ({'area': []}, 'expected {"areas"'),
    ([], 'holds no area'),
    ([BOX, {'box': [0, 0, 1, 1]}], 'area 2: it has no name'),
    ([BOX | {'name': ' '}], 'area 1: it has no name'),
    ([BOX, BOX], "area 2: the name 'cta' is there twice"),
    ([{'name': 'a'}], 'either a box or a polygon'),
    ([{'name': 'a', 'bax': [1]}], "Did you mean 'box'"),
    ([{'name': 'a', 'box': [0, 0, 0, 1]}], 'above 0'),
    ([{'name': 'a', 'box': [0, 0, 1]}], 'expected 4 numbers'),
    ([{'name': 'a', 'box': [0, 0, True, 1]}], 'expected 4 numbers'),
    ('[{"name": "a", "box": [0, 0, NaN, 1]}]', 'expected 4 numbers'),
    ([{'name': 'a', 'polygon': [[0, 0], [1, 1]]}], '3 or more'),
    ([{'name': 'a', 'polygon': [[0, 0], [1]]}], 'expected 2 numbers'),
    ([{'name': 'a', 'box': [0, 0, 10**400, 1]}], 'at most 1,000,000 pixels'),
    ([{'name': 'a', 'box': [-1e308, 0, 1.7e308, 1]}], 'at most 1,000,000'),
    ([{'name': '\ud800x', 'box': [0, 0, 1, 1]}], 'area 1: a name is text'),
    ([{'name': 5, 'box': [0, 0, 1, 1]}], 'area 1: a name is text, found 5'),
    ({'annotations': [{}]}, 'COCO needs images'),
    (coco('x.jpg', names=[5], categories=[5]), 'a name is text, found 5'),
  ],
)
def test_wrong_files_say_what_is_wrong(tmp_path, content, message):
  with pytest.raises(ValueError) as e:
    areas.read_areas(write(tmp_path / 'areas.json', content))
  assert 'areas.json' in str(e.value) and message in str(e.value)


def test_wrong_tables_say_what_is_wrong(tmp_path):
  path = write(tmp_path / 'a.csv', 'name,x,y,width,height\na,1,2,3\nb,1,2,x,4')
  with pytest.raises(ValueError, match='(?s)area 1: 4 cells.*area 2: .b'):
    areas.read_areas(path)
  with pytest.raises(FileNotFoundError, match='none.json'):
    areas.read_areas(tmp_path / 'none.json')
