"""A folder of one's own: whose file is whose, and rows that do not fit."""

import os
import pathlib
import unicodedata

import fake_data
import numpy as np
import pytest

from salflax.data import maps, pairing, problems, raw
from salflax.data.published import folder, sjtu_tis


def _samples(root):
  """Lists the samples by key and the problems of a raw folder."""
  report = problems.Report()
  samples = folder.samples(root, report)
  return {s.key: s for s in samples}, report


def _named(report):
  return {(p.name, p.reason) for p in report.problems}


def _images(root, *names):
  rng = np.random.default_rng(0)
  for name in names:
    fake_data.save(root / 'images' / f'{name}.png', fake_data.image(rng))


def _maps(root, *names, kind='maps'):
  for name in names:
    fake_data.save(root / kind / f'{name}.png', np.eye(24, 32, dtype=np.uint8))


def _csv(root, text, name='fixations.csv', encoding='utf-8'):
  root.mkdir(exist_ok=True)
  (root / name).write_bytes(text.encode(encoding))


@pytest.mark.parametrize('kind', ['maps', 'fixations'])
def test_a_file_of_an_images_whole_name_is_that_images(tmp_path, kind):
  _images(tmp_path, 'water', 'water_pure', 'sea_all', 'a_whole')
  names = ['water', 'water_pure', 'sea_all', 'a_whole']
  _maps(tmp_path, *names, kind=kind)
  samples, report = _samples(tmp_path)
  part = 'saliency' if kind == 'maps' else 'fixations'
  assert {k: getattr(s, part).stem for k, s in samples.items()} == {
    f'{name}/pure': name for name in names
  }
  assert not report.problems


def test_guesses_come_after(tmp_path):
  _images(tmp_path, 'water', 'water_pure')
  _csv(tmp_path, 'image,text,condition\nwater,a,all\n', 'texts.csv')
  _csv(tmp_path, 'image,text\nwater,a\nwater_pure,b\n', 'texts.csv')
  _maps(tmp_path, 'water_pure', 'water_whole', 'water_pure_whole', 'fire_pure')
  samples, report = _samples(tmp_path)
  assert {k: s.saliency.stem for k, s in samples.items()} == {
    'water/whole': 'water_whole',
    'water_pure/whole': 'water_pure_whole',
  }
  assert _named(report) == {('maps/fire_pure', 'missing image')}


def test_maps_of_a_condition_without_a_sentence_are_named(tmp_path):
  _images(tmp_path, 'a')
  _maps(tmp_path, 'a', 'a_whole')
  samples, report = _samples(tmp_path)
  assert samples['a/pure'].saliency.stem == 'a'
  assert _named(report) == {('maps/a_whole', 'condition without text')}


@pytest.mark.parametrize(
  'lines, reason, line',
  [
    (['a.png,10,5,20,25'], 'unreadable fixations', 3),  # decimal commas
    (['a.png,5'], 'unreadable fixations', 3),
    (['a.png,"5,6'], 'unreadable fixations', 3),
    (['a.png,"5"1,6'], 'unreadable fixations', 3),
    (['a.png,1_0,5'], 'unreadable fixations', 3),
    (['a.png,0x5,5'], 'unreadable fixations', 3),
    (['a.png,inf,5'], 'unreadable fixations', 3),
    (['a.png,\u0665,5'], 'unreadable fixations', 3),
    (['a.png,,5'], 'unreadable fixations', 3),
  ],
)
def test_a_row_of_fixations_that_does_not_fit_is_named(
  tmp_path, lines, reason, line
):
  _images(tmp_path, 'a', 'b')
  rows = ['image,x,y', 'a.png,1,2', *lines, 'b.png,3,4', 'b,5,6,,', '']
  _csv(tmp_path, '\n'.join(rows))
  samples, report = _samples(tmp_path)
  assert _named(report) == {('a/pure', reason)}
  assert f'fixations.csv line {line}' in report.problems[0].detail
  # An open quote does not swallow the lines that follow.
  assert samples['b/pure'].fixations.tolist() == [[4, 3], [6, 5]]


@pytest.mark.parametrize(
  'line',
  ['a.png,a man, walking his dog', 'a.png', 'a.png,"a man', 'a.png,"a" man'],
)
def test_a_row_of_texts_that_does_not_fit_is_named(tmp_path, line):
  _images(tmp_path, 'a', 'b')
  _maps(tmp_path, 'a', 'b')
  _csv(tmp_path, f'image,text\r\n{line}\r\nb,"a man, a dog"\r\n', 'texts.csv')
  samples, report = _samples(tmp_path)
  assert _named(report) == {('texts.csv line 2', 'unreadable row')}
  assert {k: s.text for k, s in samples.items()} == {'b/whole': 'a man, a dog'}


@pytest.mark.parametrize(
  'name, text, encoding, message',
  [
    ('texts.csv', 'image,text\na,caf\xe9', 'latin-1', 'texts.csv is not a CSV'),
    ('fixations.csv', 'image,x,y\n\xe9,1,2', 'latin-1', 'fixations.csv is not'),
    ('texts.csv', 'image,text,text\na,b,c', 'utf-8', 'twice'),
    ('texts.csv', 'image,text,conditon\na,b,all', 'utf-8', "'condition'"),
    ('fixations.csv', 'image|x|y\na|1|2', 'utf-8', 'no column'),
    ('fixations.csv', 'imag,x,y', 'utf-8', "nearest is 'imag'"),
  ],
)
def test_a_csv_that_cannot_be_trusted_is_an_error(
  tmp_path, name, text, encoding, message
):
  _images(tmp_path, 'a')
  _maps(tmp_path, 'a')
  _csv(tmp_path, text, name, encoding)
  with pytest.raises(ValueError, match=message):
    _samples(tmp_path)


def test_a_byte_order_mark_and_capitals_change_nothing(tmp_path):
  _images(tmp_path, 'a')
  _csv(tmp_path, '\ufeffImage, X ,Y,Condition\na,1,2,Non-Salient\n')
  text = '\ufeffIMAGE,Text,Condition\na,a dog,NON_SALIENT\n'
  _csv(tmp_path, text, 'texts.csv')
  samples, report = _samples(tmp_path)
  assert not report.problems
  assert samples['a/non_salient'].fixations.tolist() == [[2, 1]]


@pytest.mark.parametrize('by', [';', '\t'])
def test_other_separators_and_decimal_commas(tmp_path, by):
  _images(tmp_path, 'a', 'b')
  lines = ['image,x,y', 'a.png,1_6,4_2', 'b,3,5'] + ['b,1_0_2,5'] * (by == ';')
  _csv(tmp_path, '\n'.join(lines).replace(',', by).replace('_', ','))
  _csv(tmp_path, f'image{by}text\na{by}a dog, a cat\nb{by}b\n', 'texts.csv')
  samples, report = _samples(tmp_path)
  assert samples['a/whole'].fixations.tolist() == [[4, 2]]
  assert samples['a/whole'].text == 'a dog, a cat'
  assert ('b/whole' in samples) == (by == '\t')  # 1,0,2 is no number


def test_conditions_of_fixations_are_checked(tmp_path):
  _images(tmp_path, 'a', 'b')
  rows = ['a,1,2,', 'a,3,4,whole', 'b,1,2,pure', 'b,5,5,salent']
  _csv(tmp_path, 'image,x,y,condition\n' + '\n'.join(rows))
  samples, report = _samples(tmp_path)
  assert _named(report) == {
    ('a', 'condition without text'),
    ('b', 'unknown condition'),
  }
  assert any("Did you mean 'salient'" in p.detail for p in report.problems)
  assert samples['a/pure'].fixations.tolist() == [[2, 1]]
  assert samples['b/pure'].fixations.tolist() == [[2, 1]]


def _read(sample, **kwargs):
  report = problems.Report()
  row = raw.read_sample(sample, report, **kwargs)
  return row and row[0]['fixations'].tolist(), report


@pytest.mark.parametrize(
  'points, reason',
  [
    (np.random.default_rng(0).uniform(0, 1, (60, 2)), 'implausible fixations'),
    (np.zeros((30, 2)), 'implausible fixations'),
    (np.full((30, 2), 11.0), 'implausible fixations'),
    (np.array([[1e12, 3.0]]), 'fixation outside the image'),
    (np.array([[1e300, 3.0]]), 'fixation outside the image'),
    (np.array([[np.nan, 3.0]]), 'unreadable fixations'),
  ],
)
def test_gaze_that_is_not_plausible_is_named(tmp_path, points, reason):
  _images(tmp_path, 'a')
  fixations = maps.to_points(*points.T)
  path = tmp_path / 'images' / 'a.png'
  sample = raw.Sample('a', 'pure', '', path, fixations=fixations)
  row, report = _read(sample)
  assert row is None and _named(report) == {('a/pure', reason)}
  if points.max() > 1e6:
    assert f'x={points.max():g}' in report.problems[0].detail


@pytest.mark.parametrize('cell', ['', 'nan', 'NA', '.', '-1'])
def test_blinks_can_be_left_out(tmp_path, cell):
  _images(tmp_path, 'a')
  _csv(tmp_path, f'image,x,y\na,3,4\na,{cell},{cell}\na,5,6\n')
  samples, _ = _samples(tmp_path)
  row, report = _read(samples['a/pure'])
  assert row is None
  assert '1 of 3' in report.problems[0].detail
  row, report = _read(samples['a/pure'], keep_inside=True)
  assert row == [[4, 3], [6, 5]]
  assert '1 points left out' in report.problems[0].detail


def test_names_are_matched_however_accents_are_spelt(tmp_path):
  name = 'caf\xe9'
  _images(tmp_path, unicodedata.normalize('NFD', name))
  _csv(tmp_path, f'image,x,y\n{name}.png,1,2\n')
  samples, report = _samples(tmp_path)
  assert list(samples) == [f'{name}/pure'] and not report.problems


def test_names_that_are_not_utf8_are_named(tmp_path):
  _images(tmp_path, 'a')
  _maps(tmp_path, 'a')
  for place in ('images', 'maps'):
    path = os.path.join(os.fsencode(tmp_path / place), b'n\xffte.txt')
    with open(path, 'wb'):
      pass
  samples, report = _samples(tmp_path)
  assert list(samples) == ['a/pure']
  assert _named(report) == {('n\\xffte.txt', 'unreadable name')}
  report.save(tmp_path)


def test_control_characters_are_not_printed():
  report = problems.Report()
  report.drop('a\x1b[2Jb\n', 'unknown file', '\x9b')
  assert '\x1b' not in report.text() and 'a\\x1b[2Jb\\n' in report.text()


def test_linked_folders_are_read_once(tmp_path):
  _images(tmp_path / 'elsewhere', 'a')
  root = tmp_path / 'raw'
  _images(root, 'b')
  (root / 'images' / 'more').symlink_to(tmp_path / 'elsewhere' / 'images')
  (root / 'images' / 'round').symlink_to(root / 'images')
  _maps(root, 'b', 'more/a')
  samples, report = _samples(root)
  assert set(samples) == {'b/pure', 'more/a/pure'}
  assert _named(report) == {('round', 'unreadable folder')}


def test_folders_that_may_not_be_read_are_named(tmp_path, monkeypatch):
  _images(tmp_path, 'a', 'locked/b')
  _maps(tmp_path, 'a')
  scandir, locked = os.scandir, [tmp_path / 'images' / 'locked']

  def refuse(path):
    if pathlib.Path(path) in locked:
      raise PermissionError(13, 'Permission denied', str(path))
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  samples, report = _samples(tmp_path)
  assert _named(report) == {('images/locked', 'unreadable folder')}
  locked.append(tmp_path / 'images')
  with pytest.raises(PermissionError, match='images'):
    _samples(tmp_path)


def test_a_pipe_among_the_files_is_named(tmp_path):
  _images(tmp_path, 'a')
  _maps(tmp_path, 'a')
  os.mkfifo(tmp_path / 'images' / 'b.png')
  os.mkfifo(tmp_path / 'maps' / 'c.png')
  samples, report = _samples(tmp_path)
  assert list(samples) == ['a/pure']
  assert _named(report) == {
    ('b.png', 'unknown file'),
    ('c.png', 'unknown file'),
  }


@pytest.mark.parametrize(
  'name, make',
  [
    ('maps', 'file'),
    ('fixations', 'file'),
    ('images', 'file'),
    ('fixations.csv', 'folder'),
    ('texts.csv', 'folder'),
    ('texts.csv', 'pipe'),
    ('fixations.csv', 'pipe'),
  ],
)
def test_a_part_of_the_wrong_type_is_an_error(tmp_path, name, make):
  if name != 'images':
    _images(tmp_path, 'a')
  if name != 'maps':
    _maps(tmp_path, 'a')
  path = tmp_path / name
  {'file': path.touch, 'folder': path.mkdir, 'pipe': lambda: os.mkfifo(path)}[
    make
  ]()
  with pytest.raises((NotADirectoryError, ValueError), match=name):
    _samples(tmp_path)


@pytest.mark.parametrize('number', ['7_1', '7.5', '-71', '\u0667', '1e2'])
def test_ids_of_a_workbook_are_whole_numbers(number):
  report = problems.Report()
  rows = [('row 2', number, 'whole', 'a'), ('row 3', '71.0', 'whole', 'b')]
  texts = sjtu_tis._collect(rows, report)
  assert texts == {('000000000071', 'whole'): 'b'}
  assert _named(report) == {('row 2', 'unreadable row')}


def test_pairing_names_the_first_part_that_is_missing():
  report = problems.Report()
  path = pathlib.Path('a.png')
  samples = pairing.pair_free_viewing(
    report,
    {
      'image': ({'a': path, 'b': path}, '{}.*'),
      'map': ({'a': path}, '{}.png in maps/'),
    },
    sigma=3.0,
    part={'a': 'fit'}.get,
  )
  assert [(s.key, s.part, s.sigma) for s in samples] == [('a/pure', 'fit', 3.0)]
  assert report.problems == [('b/pure', 'missing map', 'no b.png in maps/')]
