import json
import math

import numpy as np
import pytest

from salflax.core import files
from salflax.evaluate import rows as rows_lib


def example(shift, seed, *, skip=()):
  """Rows of nine images, with undefined scores and several rows per image."""
  rng = np.random.default_rng(seed)
  rows = []
  for k in range(9):
    for condition, count in (('salient', 2), ('pure', 1)):
      for j in range(count):
        text = f'a "dog", {k}' if condition == 'salient' else ''
        row = {'image_id': f'p{(7 * k) % 9}'}
        row |= {'condition': condition, 'text': text}
        row['mit/cc'] = float(rng.random()) + shift
        undefined = (k + j) % 4 == 0 or condition == 'pure'
        row['mit/ig'] = math.nan if undefined else float(rng.normal())
        row['course/course_auc'] = float(rng.random()) / 3
        if k not in skip:
          rows.append(row)
  return rows


OURS, THEIRS = example(0.1, 0), example(0, 1, skip=(2, 5))
KINDS = pytest.mark.parametrize('kind', [list, rows_lib.table])


@KINDS
def test_numbers_keep_every_bit(kind, goldens, tmp_path):
  ours, theirs = kind(OURS), kind(THEIRS)
  rows_lib.write_rows(tmp_path / 'rows.csv', ours)
  result = {
    'summary': rows_lib.summarise(ours),
    'means': rows_lib.means(ours),
    'tests': rows_lib.compare(ours, theirs),
    'csv': (tmp_path / 'rows.csv').read_text(),
  }
  files.write_json(tmp_path / 'a.json', result)
  golden = (goldens / 'rows.json').read_text()
  assert (tmp_path / 'a.json').read_text() == golden
  again = rows_lib.read_table(tmp_path / 'rows.csv')
  rows_lib.write_rows(tmp_path / 'again.csv', again)
  assert (tmp_path / 'again.csv').read_text() == result['csv']


def joined(**scores):
  """Rows of two data sets whose images have the same ids."""
  return [
    {'source': source, 'image_id': f'p{k}', 'condition': 'pure', 'text': ''}
    | {'mit/cc': value}
    for source, values in scores.items()
    for k, value in enumerate(values)
  ]


def test_equal_ids_of_two_data_sets_are_two_images(tmp_path):
  ours = joined(a=[0.1, 0.2, 0.3], b=[0.7, 0.8, 0.9])
  theirs = joined(b=[0.5, 0.6, 0.7], a=[0.1, 0.2, 0.3])
  summary = rows_lib.summarise(ours)
  assert summary['images'] == 6
  named = [dict(r, image_id=r['source'] + r['image_id']) for r in ours]
  assert summary['overall'] == rows_lib.summarise(named)['overall']
  test = rows_lib.compare(ours, theirs)['pure']['mit/cc']
  assert test['n'] == 6 and test['difference'] == pytest.approx(0.1)
  assert rows_lib.compare(ours, theirs[:3])['pure']['mit/cc']['n'] == 3
  rows_lib.write_rows(tmp_path / 'a.csv', ours)
  assert rows_lib.read_table(tmp_path / 'a.csv').to_dict('records') == ours
  # Rows of an earlier version have no source.
  old = [{k: v for k, v in r.items() if k != 'source'} for r in theirs[3:]]
  assert rows_lib.compare(ours[:3], old)['pure']['mit/cc']['n'] == 3


def test_no_rows_have_no_means():
  assert rows_lib.means([]) == {} and rows_lib.compare([], []) == {}
  assert rows_lib.summarise([])['images'] == 0


@pytest.mark.parametrize(
  'text, message',
  [
    ('', 'not a file of rows'),
    ('image_id,condition\na,b\n', r"\['text'\] missing"),
    ('image_id,condition,text,a\np,c,t,zz\n', "'zz'"),
    ('image_id,condition,text,a\np,c,t,1\np,c,t\n', r'\[3\] have not 4'),
    ('image_id,condition,text,a\np,c,t,1,2\n', r'\[2\] have not 4'),
  ],
)
def test_damaged_rows_are_named(tmp_path, text, message):
  path = tmp_path / 'rows.csv'
  path.write_text(text)
  with pytest.raises(ValueError, match=f'rows.csv: .*{message}'):
    rows_lib.read_table(path)


def test_json_is_written_and_read_as_it_was(tmp_path):
  path = tmp_path / 'a.json'
  files.write_json(path, {'a': [np.float64(0.5), math.nan, path], 1: 'ü'})
  assert files.read_json(path) == {'a': [0.5, None, str(path)], '1': 'ü'}
  assert json.loads(path.read_text(encoding='utf-8'))['1'] == 'ü'


@pytest.mark.parametrize(
  'content, message',
  [
    (b'{"a": ', 'not JSON'),
    (b'\xff\xfe', 'not JSON'),
    (b'[' * 10**6, 'not JSON'),
    (b'[]', 'expected an object, found a list'),
    (b'3', 'expected an object, found int'),
  ],
)
def test_an_error_in_json_names_the_file(tmp_path, content, message):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=f'a.json: {message}'):
    files.read_json(path)
