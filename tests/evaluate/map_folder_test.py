"""Maps in folders: which file is which row's, and what is wrong with them."""

import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image
from toy_gaze import Reader, Toy

from salflax import metrics
from salflax.data import batches, frames
from salflax.evaluate import map_folder, map_names
from salflax.evaluate import scorer as scorer_lib


def save(folder, name, values, dtype=np.float32):
  path = pathlib.Path(folder) / name
  path.parent.mkdir(exist_ok=True, parents=True)
  if path.suffix == '.npy':
    np.save(path, values.astype(dtype))
  else:
    Image.fromarray(map_folder.quantise(values, bits=8)).save(path)


def fill(folder, toy, name, *, scale=1):
  for row in toy.rows:
    h, w, _ = row['saliency'].shape
    values = row['saliency'][..., 0].astype(np.float32)
    number = map_names.NUMBERS.get(row['condition'])
    values = frames.resize(values, (h * scale, w * scale))
    save(folder, name.format(number=number, **row), values)


def named(ids, conditions=('pure',)):
  """A source of images of these ids."""
  toy = Toy(len(ids), conditions)
  for k, row in enumerate(toy.rows):
    row['image_id'] = ids[k // len(conditions)]
  return toy


def matched_names(folder, source):
  matched = map_names.match(folder, source)
  return {k: p.relative_to(folder).as_posix() for k, p in matched.paths.items()}


@pytest.fixture
def toy():
  return Toy(8)


class TestMatch:
  @pytest.mark.parametrize('style', ['condition', 'number'])
  def test_every_row_by_name(self, toy, tmp_path, style):
    fill(tmp_path, toy, '{image_id}_{' + style + '}.npy')
    matched = map_names.match(tmp_path, toy)
    assert len(matched.paths) == 32 and not matched.shared
    assert (matched.missing, matched.extra) == ([], [])
    for index, path in matched.paths.items():
      values = toy[index]['saliency'][..., 0]
      np.testing.assert_array_equal(map_folder.maps.read_map(path), values)

  def test_one_map_for_all_conditions(self, toy, tmp_path):
    fill(tmp_path, toy.only('pure'), '{image_id}.npy')
    matched = map_names.match(tmp_path, toy)
    assert len(matched.paths) == 32 and matched.shared

  def test_no_suffix_is_the_whole_scene_where_others_have_one(self, tmp_path):
    toy = Toy(2, ('pure', 'whole'))
    fill(tmp_path, toy.only('whole'), '{image_id}.npy')
    fill(tmp_path, toy.only('pure'), '{image_id}_0.npy')
    (tmp_path / 'picture01_0.npy').unlink()
    matched = map_names.match(tmp_path, toy)
    assert matched.missing == ['picture01 (pure)'] and not matched.shared

  @pytest.mark.parametrize(
    'ids',
    [('p', 'p_0'), ('p', 'p_pure'), ('a', 'a_1'), ('1', '1_0', '1_0_0')],
  )
  def test_a_whole_name_is_that_of_an_image(self, tmp_path, ids):
    toy = named(ids)
    fill(tmp_path, toy, '{image_id}.npy')
    want = dict(enumerate(f'{i}.npy' for i in ids))
    assert matched_names(tmp_path, toy) == want
    # Nor is it guessed at where the image's own map is missing.
    (tmp_path / f'{ids[0]}.npy').unlink()
    matched = map_names.match(tmp_path, toy)
    assert 0 not in matched.paths
    assert matched.missing == [f'{ids[0]} (pure)']

  @pytest.mark.parametrize('conditions', [('pure',), ('pure', 'salient')])
  @pytest.mark.parametrize(
    'ids', [('water', 'water_pure'), ('a', 'a_pure', 'a_pure_pure')]
  )
  def test_names_with_conditions_that_look_like_others(
    self, tmp_path, ids, conditions
  ):
    toy = named(ids, conditions)
    fill(tmp_path, toy, '{image_id}_{condition}.npy')
    assert matched_names(tmp_path, toy) == {
      k: f'{r["image_id"]}_{r["condition"]}.npy' for k, r in enumerate(toy.rows)
    }

  @pytest.mark.parametrize(
    'form', [lambda i: i, lambda i: i.replace('/', '_'), os.path.basename]
  )
  @pytest.mark.parametrize('suffix', ['', '_{condition}', '_{number}'])
  def test_ids_with_folders(self, tmp_path, form, suffix):
    conditions = ('pure', 'salient') if suffix else ('pure',)
    toy = named(('Action/001', 'Action/002', 'b/c/003'), conditions)
    flat = Toy(0)
    flat.rows = [dict(r, image_id=form(r['image_id'])) for r in toy.rows]
    fill(tmp_path, flat, '{image_id}' + suffix + '.npy')
    matched = map_names.match(tmp_path, toy)
    assert len(matched.paths) == len(toy) and matched.extra == []
    for index, path in matched.paths.items():
      assert form(toy.rows[index]['image_id']) in path.as_posix()

  def test_bare_names_that_several_images_have(self, tmp_path):
    toy = named(('Action/001', 'Sport/001', 'Sport/002'))
    save(tmp_path, '001.npy', np.eye(4))
    save(tmp_path, '002.npy', np.eye(4))
    matched = map_names.match(tmp_path, toy)
    assert list(matched.paths) == [2]
    assert matched.missing == ['Action/001 (pure)', 'Sport/001 (pure)']

  def test_a_file_that_may_be_of_two_images_is_taken_for_neither(
    self, tmp_path
  ):
    toy = named(('a/b_c', 'a_b/c'))
    save(tmp_path, 'a_b_c.npy', np.eye(4))
    matched = map_names.match(tmp_path, toy)
    assert matched.paths == {}
    assert 'a_b_c.npy may be of another image' in matched.missing[0]

  def test_files_of_no_image_and_of_two_types(self, toy, tmp_path):
    fill(tmp_path, toy.only('pure'), '{image_id}.npy')
    save(tmp_path, 'stranger.npy', np.ones((2, 2)))
    save(tmp_path, 'picture00.png', np.ones((2, 2)))
    save(tmp_path, '.hidden/picture00.npy', np.ones((2, 2)))
    (tmp_path / 'notes.txt').write_text('x')
    matched = map_names.match(tmp_path, toy)
    assert matched.extra == ['stranger.npy']
    assert matched.paths[0].name == 'picture00.npy'

  def test_no_folder_and_no_maps(self, toy, tmp_path):
    with pytest.raises(FileNotFoundError, match='No such folder'):
      map_names.match(tmp_path / 'absent', toy)
    os.mkfifo(tmp_path / 'picture00.png')
    with pytest.raises(FileNotFoundError, match='holds no map'):
      map_names.match(tmp_path, toy)


class TestPredictions:
  """The folder that `salflax predict` writes."""

  @staticmethod
  def write(folder, toy, texts, where='images/{}.jpg'):
    listing, taken = [], set()
    for row in toy.rows[:: len({r['condition'] for r in toy.rows})]:
      for k, text in enumerate(texts(row['image_id'])):
        stem = os.path.basename(row['image_id'])
        name = f'{stem}_text{k}'
        while name in taken:
          name += '-2'
        taken.add(name)
        save(folder, f'{name}.npy', np.eye(5) + len(listing))
        save(folder, f'{name}.png', np.eye(5))
        colours = np.random.default_rng(0).integers(0, 255, (5, 5, 3), np.uint8)
        Image.fromarray(colours).save(folder / f'{name}_overlay.png')
        image = where.format(row['image_id'])
        listing.append({'name': name, 'image': image, 'text': text})
    (folder / 'predictions.json').write_text(json.dumps(listing))

  @pytest.mark.parametrize(
    'where', ['/data/{}.jpg', '{}.png', '../a b/{}.x.png']
  )
  def test_maps_go_by_image_and_sentence(self, tmp_path, where):
    if 'x' in where:
      toy = named(['c.x', 'd.x'], ('pure', 'salient'))
      where = where.replace('.x', '')
    else:
      toy = named(['A/001', 'B/001', 'B/002'], ('pure', 'salient'))
    for row in toy.rows:
      row['text'] = row['text'] and f'in {row["image_id"]}'
    self.write(tmp_path, toy, lambda i: (f'in {i}', '', 'else'), where)
    matched = map_names.match(tmp_path, toy)
    assert matched.missing == [] and not matched.shared
    for index, path in matched.paths.items():
      image, salient = divmod(index, 2)
      number = 3 * image + (not salient)
      np.testing.assert_array_equal(np.load(path), np.eye(5) + number)
    assert not any('overlay' in name for name in matched.extra)

  def test_lists_of_several_hosts_are_one(self, tmp_path):
    toy = named(['a', 'b'], ('pure', 'salient'))
    self.write(tmp_path, toy, lambda _: ('', 'in a', 'in b'))
    for row in toy.rows:
      row['text'] = row['text'] and f'in {row["image_id"]}'
    whole = map_names.match(tmp_path, toy)
    rows = json.loads((tmp_path / 'predictions.json').read_text())
    (tmp_path / 'predictions.json').unlink()
    for k in range(2):
      path = tmp_path / f'predictions.{k}-of-2.json'
      path.write_text(json.dumps(rows[k::2]))
    assert map_names.match(tmp_path, toy) == whole and not whole.missing

  def test_a_map_of_an_earlier_type_is_not_taken(self, tmp_path):
    toy = named(['a'], ('pure',))
    self.write(tmp_path, toy, lambda _: ('',))
    rows = json.loads((tmp_path / 'predictions.json').read_text())
    rows[0]['endings'] = ['_overlay.png', '.png']
    (tmp_path / 'predictions.json').write_text(json.dumps(rows))
    assert map_names.match(tmp_path, toy).paths[0].suffix == '.png'

  def test_one_sentence_serves_every_condition(self, tmp_path):
    toy = named(['a', 'b'], ('pure', 'salient'))
    self.write(tmp_path, toy, lambda _: ('whatever',))
    matched = map_names.match(tmp_path, toy)
    assert matched.shared and matched.missing == matched.extra == []

  def test_a_sentence_that_was_not_predicted_is_missing(self, tmp_path):
    toy = named(['a', 'b'], ('pure', 'salient'))
    self.write(tmp_path, toy, lambda _: ('', 'else'))
    assert map_names.match(tmp_path, toy).missing == [
      'a (salient)', 'b (salient)',
    ]  # fmt: skip

  @pytest.mark.parametrize(
    'content',
    [
      *('{', '{}', '[3]', '[{"name": "a"}]', '[{"name":1,"image":2}]'),
      '[{"name": "a", "image": "", "text": ""}]',
      '[{"name": "a", "image": "b", "text": null}]',
    ],
  )
  def test_a_damaged_list_is_named(self, toy, tmp_path, content):
    save(tmp_path, 'picture00.npy', np.eye(4))
    (tmp_path / 'predictions.json').write_text(content)
    with pytest.raises(ValueError, match='predictions.json: '):
      map_names.match(tmp_path, toy)


class TestKept:
  """What `Keep` writes is read again, whatever the names of the images."""

  @staticmethod
  def check(folder, source, predictor):
    keep = map_folder.Keep(predictor, folder)
    scorer = scorer_lib.Scorer(source, {'mit': metrics.bind_metrics('cc')})
    rows = scorer_lib.score(keep, scorer)
    matched = map_names.match(folder, source)
    assert matched.missing == matched.extra == [] and not matched.shared
    assert len(set(matched.paths.values())) == len(source)
    again = scorer_lib.score(map_folder.MapFolder(matched.paths), scorer)
    for a, b in zip(again, rows, strict=True):
      assert a['mit/cc'] == pytest.approx(b['mit/cc'], abs=2e-3)
      assert b['mit/cc'] > 0.999

  @pytest.mark.parametrize(
    'ids',
    [
      ('p', 'p_0', 'p_pure'),
      ('Action/001', 'Action_001', '001'),
      ('a.b', 'a', 'a b'),
    ],
  )
  @pytest.mark.parametrize('conditions', [('pure',), ('pure', 'salient')])
  def test_names_of_any_kind(self, tmp_path, ids, conditions):
    toy = named(ids, conditions)
    self.check(tmp_path, toy, Reader(toy))

  def test_equal_ids_of_two_data_sets(self, tmp_path):
    one, two = named(('a', 'b')), Toy(2, ('pure',), seed=1)
    for row, other in zip(two.rows, one.rows):
      row['image_id'] = other['image_id']
    everything = Toy(0)
    everything.rows = one.rows + two.rows
    joined = batches.Joined([one, two], ['osie', 'folder:mine'])
    self.check(tmp_path, joined, Reader(everything))

  def test_several_sentences_of_an_image_and_condition(self, tmp_path):
    toy = Toy(2, ('salient', 'all'))
    for row in toy.rows:
      row['condition'] = 'salient'
    self.check(tmp_path, toy, Reader(toy))
    (tmp_path / 'picture00_salient-2.png').unlink()
    assert 1 not in map_names.match(tmp_path, toy).paths


class TestCheck:
  def test_nan_aspect_and_sizes(self, toy, tmp_path):
    fill(tmp_path, toy, '{image_id}_{condition}.npy', scale=2)
    turned = tmp_path / 'picture00_pure.npy'
    np.save(turned, np.load(turned).T)
    np.save(tmp_path / 'picture01_all.npy', np.full((48, 48), np.nan))
    np.save(tmp_path / 'picture02_all.npy', np.zeros((1, 1)))
    matched = map_names.match(tmp_path, toy)
    checked = map_folder.check(matched, toy)
    assert list(checked.unusable) == [5]
    assert (
      'picture01_all.npy: 2304 values are not finite' in (checked.unusable[5])
    )
    assert list(checked.misshapen) == [0]
    assert (
      '80x120 (width x height) for an image of 60x40' in (checked.misshapen[0])
    )
    assert checked.resized == 31 and checked.flat == ['picture02_all.npy']
    text = ' '.join(map_folder.notes(matched, checked))
    assert '31 resized' in text and 'picture00_pure.npy' in text
    assert '1 the same everywhere: picture02_all.npy' in text

  def test_rounded_sides_are_no_other_aspect(self, tmp_path):
    toy = Toy(3, ('pure',))
    for row in toy.rows:
      h, w, _ = row['saliency'].shape
      save(
        tmp_path,
        f'{row["image_id"]}.npy',
        np.eye(max(h, w))[: h // 7, : w // 7],
      )
    checked = map_folder.check(map_names.match(tmp_path, toy), toy)
    assert not checked.misshapen and checked.resized == 3


class TestQuantise:
  def test_rounds_instead_of_cutting_off(self):
    values = np.array([[0, 0.4, 0.6, 254.4, 254.6, 255]])
    grey = map_folder.quantise(values, bits=8)
    assert grey.tolist() == [[0, 0, 1, 254, 255, 255]]

  @given(
    hnp.arrays(np.float32, (5, 6), elements={'min_value': 0, 'max_value': 1})
  )
  def test_is_within_half_a_level(self, values):
    for bits in (8, 16):
      grey = map_folder.quantise(values, bits=bits)
      assert grey.dtype == np.dtype(f'uint{bits}')
      top = values.max()
      if top == 0:
        assert not grey.any()
      else:
        scaled = values.astype(np.float64) / top * (2**bits - 1)
        assert np.abs(grey - scaled).max() <= 0.5 + 1e-9

  def test_bits(self):
    with pytest.raises(ValueError, match='8 or 16'):
      map_folder.quantise(np.ones((2, 2)), bits=12)
