"""Raw folders: what is wrong is named and left out, the rest goes on."""

import ast
import csv
import pathlib

import fake_data
import numpy as np
import pytest
from PIL import Image

from salflax import data
from salflax.data import prepare, problems

POINTS = [('p0.png', 0, 3, 2), ('p1.png', 0, 5, 6), ('p2.png', 0, 7, 8)]


def _prepare(dataset, root, data_dir, **kwargs):
  return prepare.prepare(data.DATASETS[dataset](), root, data_dir, **kwargs)


def _named(done):
  return {(p['name'], p['reason']) for p in done.summary['problems']}


def _cut(path):
  content = path.read_bytes()
  path.write_bytes(content[: len(content) * 2 // 3])


def _repaint(path, value):
  array = np.asarray(Image.open(path)).copy()
  array[:] = value
  Image.fromarray(array).save(path)


def _blur(path):
  gray = np.tile(np.arange(32, dtype=np.uint8) * 8, (24, 1))
  Image.fromarray(gray).convert('RGB').save(path)


def _truncate_image(fake):
  _cut(fake.path('image', '000000000071.jpg'))
  return {('000000000071/' + c, 'unreadable image') for c in ('pure', 'whole')}


def _empty_file(fake):
  fake.path('image', '000000000071.jpg').write_bytes(b'')
  return {('000000000071/' + c, 'unreadable image') for c in ('pure', 'whole')}


def _no_image(fake):
  fake.path('image', '000000000071.jpg').unlink()
  return {
    ('000000000071/pure', 'missing image'),
    ('000000000071/whole', 'missing image'),
  }


def _truncate_map(fake):
  _cut(fake.path('map', '000000000109_3.png'))
  return {('000000000109/salient', 'unreadable map')}


def _truncate_fixations(fake):
  _cut(fake.path('fixation', '000000000109_3.png'))
  return {('000000000109/salient', 'unreadable fixations')}


def _no_map(fake):
  fake.path('map', '000000000071.png').unlink()
  return {('000000000071/whole', 'missing map')}


def _no_fixations(fake):
  fake.path('fixation', '000000000071_0.png').unlink()
  return {('000000000071/pure', 'missing fixations')}


def _no_gaze_for_a_sentence(fake):
  fake.path('map', '000000000109_1.png').unlink()
  fake.path('fixation', '000000000109_1.png').unlink()
  return {('000000000109/all', 'missing map')}


def _image_alone(fake):
  fake_data.save(
    fake.path('image', '000000000333.jpg'), fake_data.image(fake.rng)
  )
  return {('000000000333', 'missing map')}


def _other_size(fake):
  _, saliency = fake_data.gaze(fake.rng, (24, 31))
  fake_data.save(fake.path('map', '000000000109_0.png'), saliency)
  fixations, _ = fake_data.gaze(fake.rng, (32, 24))
  fake_data.save(fake.path('fixation', '000000000109_2.png'), fixations)
  return {
    ('000000000109/pure', 'sizes disagree'),
    ('000000000109/non_salient', 'sizes disagree'),
  }


def _empty_maps(fake):
  _repaint(fake.path('map', '000000000109_0.png'), 0)
  _repaint(fake.path('fixation', '000000000109_2.png'), 0)
  return {
    ('000000000109/pure', 'empty map'),
    ('000000000109/non_salient', 'no fixations'),
  }


def _map_for_fixations(fake):
  _blur(fake.path('fixation', '000000000109_2.png'))
  return {('000000000109/non_salient', 'not a fixation image')}


def _suffix(fake):
  for name in ('000000000071_7.png', '000000000071_a.png'):
    _, saliency = fake_data.gaze(fake.rng)
    fake_data.save(fake.path('map', name), saliency)
  return {
    ('map/000000000071_7.png', 'unknown suffix'),
    ('map/000000000071_a.png', 'unknown suffix'),
  }


def _other_files(fake):
  fake.path('map', 'notes.txt').write_text('x')
  fake.path('map', '.DS_Store').write_text('x')
  fake_data.save(fake.path('map', 'mean.png'), fake_data.gaze(fake.rng)[1])
  return {('notes.txt', 'unknown file'), ('map/mean.png', 'unknown file')}


def _sentence_alone(fake):
  fake.whole.append([555, 'A view nobody has.'])
  return {('000000000555/whole', 'text without image')}


def _no_sentence(fake):
  del fake.parts[0]
  return {('000000000109/all', 'image without text')}


def _empty_sentence(fake):
  fake.whole[0][1] = ' \xa0'
  return {('000000000071/whole', 'empty text')}


def _two_sentences(fake):
  fake.whole.append([71, 'Another view.'])
  return {('000000000071/whole', 'duplicate text')}


def _bad_rows(fake):
  fake.whole.append(['abc', 'A sentence.'])
  fake.parts.append([109, '别的', 'A sentence.'])
  return {
    ('整体 row 4', 'unreadable row'),
    ('部分-实验设置 row 8', 'unknown condition'),
  }


def _two_images_of_one_id(fake):
  pixels = fake_data.image(fake.rng)
  fake_data.save(fake.path('image', '71.jpg'), pixels)
  twice = {('000000000071/whole', 'duplicate id')}
  return twice | {
    ('000000000071/' + c, 'missing image') for c in ('pure', 'whole')
  }


def _two_files_of_one_map(fake):
  _, saliency = fake_data.gaze(fake.rng)
  fake_data.save(fake.path('map', '000000000071_0.bmp'), saliency)
  return {
    ('map/000000000071_0', 'duplicate id'),
    ('000000000071/pure', 'missing map'),
  }


@pytest.mark.parametrize(
  'spoil, num_left',
  [
    (_truncate_image, 10),
    (_empty_file, 10),
    (_no_image, 10),
    (_truncate_map, 11),
    (_truncate_fixations, 11),
    (_no_map, 11),
    (_no_fixations, 11),
    (_no_gaze_for_a_sentence, 11),
    (_image_alone, 12),
    (_other_size, 10),
    (_empty_maps, 10),
    (_map_for_fixations, 11),
    (_suffix, 12),
    (_other_files, 12),
    (_sentence_alone, 12),
    (_no_sentence, 11),
    (_empty_sentence, 11),
    (_two_sentences, 11),
    (_bad_rows, 12),
    (_two_images_of_one_id, 10),
    (_two_files_of_one_map, 11),
  ],
)
def test_sjtu_tis_names_what_is_wrong(tmp_path, spoil, num_left):
  fake = fake_data.sjtu(tmp_path / 'raw')
  expected = spoil(fake)
  done = _prepare('sjtu_tis', fake.write(), tmp_path)
  assert _named(done) == expected
  assert done.summary['samples'] == num_left
  source = data.load_source('sjtu_tis', 'all', tmp_path)
  stored = {f'{r.image_id}/{r.condition}' for r in source.records}
  assert len(stored) == num_left
  kept = {('000000000071/whole', 'duplicate id')}
  assert not stored & {name for name, _ in expected - kept}
  with (done.folder / 'report.csv').open(encoding='utf-8') as f:
    table = {(r['name'], r['reason']) for r in csv.DictReader(f)}
  assert table == expected
  assert all(p['detail'] for p in done.summary['problems'])


def test_a_repeated_row_of_the_same_sentence_is_used_once(tmp_path):
  fake = fake_data.sjtu(tmp_path / 'raw')
  fake.whole.append(list(fake.whole[0]))
  done = _prepare('sjtu_tis', fake.write(), tmp_path)
  assert _named(done) == {('000000000071/whole', 'duplicate text')}
  assert done.summary['samples'] == 12


def test_osie_names_what_is_wrong(tmp_path):
  one = [([3.0], [3.0])]
  gaze_of = {f'{i}.jpg': one for i in range(1001, 1007)}
  gaze_of['1007.jpg'] = gaze_of['1007.bmp'] = one
  gaze_of['1002.jpg'] = [([33.0, 2.0], [3.0, 3.0])]  # 32 pixels wide.
  gaze_of['1003.jpg'] = [([], [])]
  gaze_of['1004.jpg'] = [([3.0, 4.0], [3.0])]
  root = fake_data.osie(tmp_path / 'raw', gaze_of)
  stimuli = root / 'data' / 'stimuli'
  _cut(stimuli / '1005.jpg')
  (stimuli / '1006.jpg').rename(stimuli / '1099.jpg')
  (stimuli / '1007.bmp').unlink()
  done = _prepare('osie', root, tmp_path)
  assert _named(done) == {
    ('1002/pure', 'fixation outside the image'),
    ('1003/pure', 'no fixations'),
    ('1004/pure', 'unreadable fixations'),
    ('1005/pure', 'unreadable image'),
    ('1006/pure', 'missing image'),
    ('1007/pure', 'duplicate id'),
    ('1099/pure', 'missing fixations'),
  }
  assert done.summary['samples'] == 1


def test_folder_names_what_is_wrong(tmp_path):
  rows = [*POINTS, ('p1.png', 0, 32, 1), ('p2.png', 1, 'left', 1)]
  rows += [('p9.png', 0, 1, 1), ('p9.png', 0, 2, 1), ('p4.png', 0, 'nan', 1)]
  root = fake_data.folder(tmp_path / 'raw', rows, count=5)
  fake_data.save(
    root / 'images' / 'p5.jpg', fake_data.image(np.random.default_rng(0))
  )
  (root / 'images' / 'p5.png').write_bytes(
    (root / 'images' / 'p0.png').read_bytes()
  )
  done = _prepare('folder', root, tmp_path, name='mine')
  assert _named(done) == {
    ('p1/pure', 'fixation outside the image'),
    ('p2/pure', 'unreadable fixations'),
    ('p3/pure', 'missing fixations'),
    ('p4/pure', 'unreadable fixations'),
    ('p9.png', 'missing image'),
    ('images/p5', 'duplicate id'),
  }
  assert done.summary['samples'] == 1


def test_sentences_of_a_folder_are_checked(tmp_path):
  root = fake_data.folder(tmp_path / 'raw', POINTS, count=3)
  rows = [('p0', 'a dog', 'salient'), ('p0', 'a cat', 'salient')]
  rows += [
    ('p1', 'a dog', 'salent'),
    ('p1', '', 'all'),
    ('p1', 'a dog', 'pure'),
  ]
  rows += [('p7', 'a dog', 'all'), ('p1', 'two dogs', '')]
  fake_data.write_csv(root / 'texts.csv', ('image', 'text', 'condition'), rows)
  done = _prepare('folder', root, tmp_path, name='mine')
  assert _named(done) == {
    ('p0/salient', 'duplicate text'),
    ('texts.csv line 4', 'unknown condition'),
    ('texts.csv line 5', 'empty text'),
    ('texts.csv line 6', 'text in a pure condition'),
    ('texts.csv line 7', 'text without image'),
    ('p2', 'image without text'),
  }
  records = data.load_source('folder:mine', 'all', tmp_path).records
  assert [(r.condition, r.text) for r in records] == [('whole', 'two dogs')]


def test_fixations_outside_can_be_left_out_instead_of_the_sample(tmp_path):
  rows = [*POINTS, ('p1.png', 0, 32, 1), ('p1.png', 0, -1, 1)]
  root = fake_data.folder(tmp_path / 'raw', rows)
  done = _prepare('folder', root, tmp_path, name='mine', keep_inside=True)
  assert _named(done) == {('p1/pure', 'fixation outside the image')}
  assert done.summary['samples'] == 3
  source = data.load_source('folder:mine', 'all', tmp_path)
  assert source[1]['fixations'].tolist() == [[6, 5]]


def _documented():
  """Reads the reasons that docs/data.md explains, the table's first column."""
  text = pathlib.Path(__file__).parents[2].joinpath('docs/data.md').read_text()
  table = text.partition('| reason | what happens |')[2].partition('\n\n')[0]
  cells = [line.split('|')[1] for line in table.splitlines()[2:]]
  return [reason.strip() for cell in cells for reason in cell.split(',')]


REASONS = _documented()


def _reasons_given():
  """Yields the literal reasons of `drop(name, reason, ...)` and `Dropped`."""
  folder = pathlib.Path(problems.__file__).parent
  for path in folder.rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.Call):
        place = {'drop': 1, 'Dropped': 0}.get(
          ast.unparse(node.func).rpartition('.')[2]
        )
        if place is not None and isinstance(node.args[place], ast.Constant):
          yield node.args[place].value


def test_reasons_are_those_of_the_documentation():
  given = {*_reasons_given()}
  assert len(given) > 15 and given <= {*REASONS}


def test_every_reason_can_be_reported():
  report = problems.Report({'maps': 2})
  for reason in REASONS:
    report.drop('x', reason, 'y')
  assert all(reason in report.text() for reason in REASONS)
