import json
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from salflax.report import page, papers, plots, runs, tables


def entry(mean, *, n=2, n_valid=None, low=None, high=None):
  n_valid = n if n_valid is None else n_valid
  return dict(mean=mean, low=low, high=high, n=n, n_valid=n_valid)


def summary(conditions, overall=None):
  return {
    'n': 4,
    'images': 2,
    'overall': overall or {},
    'mean_of_conditions': {},
    'conditions': conditions,
  }


@pytest.fixture
def result():
  kl = {'label': 'KL', 'higher_is_better': False}
  cc = {'label': 'CC', 'higher_is_better': True}
  paired = dict(difference=0.1, low=0.05, high=0.15, p=1e-4, n=2)
  return {
    'model': 'a_run',
    'data': 'toy',
    'split': 'test',
    'protocols': {
      'mit': {'metrics': {'cc': cc, 'kl': kl}},
      'tuebingen': {'metrics': {'kl': kl}},
    },
    'scores': summary(
      {
        'pure': {
          'mit/cc': entry(0.5, low=0.4, high=0.625),
          'mit/kl': entry(0.25, n_valid=1, low=math.nan, high=math.nan),
          'tuebingen/kl': entry(None, n_valid=0),
        }
      }
    ),
    'references': {
      'centre': {
        'label': 'Centre prior',
        'scores': summary({'pure': {'mit/cc': entry(0.4)}}),
      }
    },
    'controls': {},
    'tests': {'centre': {'pure': {'mit/cc': paired}}},
  }


def test_score_tables_as_markdown(result):
  mit, tuebingen = tables.score_tables(result)
  assert mit.markdown() == (
    '**Protocol mit: toy test**\n\n'
    '| Condition | Predictor | n | CC ↑ | KL [mit] ↓ |\n'
    '|---|---:|---:|---:|---:|\n'
    '| pure | a_run | 2 | 0.5000 [0.400, 0.625] | 0.2500 (n=1) |\n'
    '| pure | Centre prior | 2 | 0.4000 | – |\n'
  )
  assert tuebingen.markdown().endswith(
    '| Condition | Predictor | n | KL [tuebingen] ↓ |\n'
    '|---|---:|---:|---:|\n'
    '| pure | a_run | 2 | – |\n'
    '| pure | Centre prior | 2 | – |\n'
  )


def test_score_tables_as_latex(result):
  mit, _ = tables.score_tables(result, interval=False)
  assert mit.latex() == (
    '\\begin{table}\n'
    '\\centering\n'
    '\\caption{Protocol mit: toy test}\n'
    '\\begin{tabular}{lrrrr}\n'
    '\\toprule\n'
    'Condition & Predictor & n & CC $\\uparrow$ & KL [mit] $\\downarrow$ \\\\\n'
    '\\midrule\n'
    'pure & a\\_run & 2 & 0.5000 & 0.2500 (n=1) \\\\\n'
    'pure & Centre prior & 2 & 0.4000 & -- \\\\\n'
    '\\bottomrule\n'
    '\\end{tabular}\n'
    '\\end{table}\n'
  )


def test_paired_tables(result):
  (table,) = [t for t in tables.paired_tables(result) if 'mit' in t.title]
  assert table.cells() == [
    [
      'a_run − Centre prior',
      'pure',
      '2',
      '+0.1000 [+0.050, +0.150] p<.001',
      '–',
    ]
  ]


def test_several_conditions_add_an_overall_row(result):
  row = {'mit/cc': entry(0.3)}
  result['scores'] = summary({'pure': row, 'all': row}, overall=row)
  result['references'] = {}
  first = [row[0] for row in tables.score_tables(result)[0].cells()]
  assert first == ['pure', 'all', 'overall']


@pytest.mark.parametrize('cell', [None, math.nan, math.inf])
def test_what_is_not_known_is_a_dash(cell):
  assert tables.Table('t', ['a'], [[cell]]).cells() == [['–']]


def test_plain_text_fits_its_width():
  head = ['Condition', 'Predictor', *(f'metric {k}' for k in range(20))]
  rows = [['all', 'Human', *range(20)], ['pure', 'A model', *range(20)]]
  table = tables.Table('Scores', head, rows)
  text = table.text(names=2)
  assert max(map(len, text.splitlines())) <= 100
  assert text.count('A model') == 3  # in every block
  for k in range(20):
    assert text.count(f'metric {k} ') + text.count(f'metric {k}\n') == 1
  assert len(table.text(width=1000).splitlines()) == 5
  assert tables.Table('t', ['a'], [[1]]).text() == 't\n\na\n1\n'


def test_markup_in_a_cell_is_text():
  table = tables.Table('50 % & <b>', ['x_1'], [['a|b\\{$#^~']])
  assert r'a\|b' in table.markdown()
  assert r'50 \% \&' in table.latex()
  escaped = r'a|b\textbackslash{}\{\$\#\textasciicircum{}\textasciitilde{}'
  assert escaped in table.latex()
  html = page.render('table.html', table=table)
  assert '&lt;b&gt;' in html and '<td>a|b' in html


def test_a_row_of_the_wrong_length_is_an_error():
  with pytest.raises(ValueError, match='2 cells under 1 columns'):
    tables.Table('t', ['a'], [[1, 2]]).markdown()


@pytest.mark.parametrize(
  'name, numbers, rows',
  [
    ('text_guided', 16 * 4, {'I', 'II', 'III', 'IV', 'V', 'VI'}),
    ('loss_study', 10 * 5 + 27 * 7 + 9 * 5, {'1', '2', '3', '4'}),
  ],
)
def test_printed_numbers(name, numbers, rows):
  about = papers.PAPERS[name]
  assert {table.key for table in about.tables} == rows
  printed = [r.printed for table in about.tables for r in table.rows]
  assert sum(map(len, printed)) == numbers


def test_the_best_printed_row_of_the_study():
  table = papers.PAPERS['loss_study'].tables[1]
  best = max(table.rows, key=lambda row: row.printed.get('CC', 0))
  assert best.label.startswith('KLD+CC+NSS+DF') and best.printed['CC'] == 0.7291


@pytest.mark.parametrize(
  'condition, values',
  [
    ('pure', ('0.7942', '0.6471', '0.7249', '1.5962')),
    ('non_salient', ('0.7571', '0.6236', '0.5105', '1.5623')),
    ('salient', ('0.7765', '0.6332', '0.6354', '1.6857')),
    ('all', ('0.7841', '0.6421', '0.6658', '1.5777')),
  ],
)
def test_the_papers_best_by_condition(result, condition, values):
  rows = {row[0]: row[2::2] for row in tables.beside_paper(result).cells()}
  assert tuple(rows[condition]) == values


def test_beside_the_paper(result):
  result['scores']['conditions']['pure']['course/course_cc'] = entry(0.75)
  table = tables.beside_paper(result)
  assert 'Protocol course' in table.title
  pure, non_salient, *_ = table.cells()
  assert pure[5:7] == ['0.7500', '0.7249'] and pure[1] == '–'
  assert non_salient[5:7] == ['–', '0.5105']


IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


class TestOverlay:
  def test_heat_where_it_is_salient_and_the_image_elsewhere(self):
    saliency = np.zeros((30, 40))
    saliency[5, 6] = 3
    actual = plots.overlay(IMAGE, saliency, opacity=1)
    changed = (actual != IMAGE).any(-1)
    assert changed[5, 6] and changed.sum() == 1
    np.testing.assert_array_equal(plots.overlay(IMAGE, 0 * saliency), IMAGE)

  def test_scale_does_not_matter(self):
    saliency = np.random.default_rng(1).random((30, 40))
    np.testing.assert_array_equal(
      plots.overlay(IMAGE, saliency), plots.overlay(IMAGE, 8 * saliency)
    )

  def test_wrong_shapes(self):
    with pytest.raises(ValueError, match=r'\(40, 30\), the image \(30, 40'):
      plots.overlay(IMAGE, np.zeros((40, 30)))
    with pytest.raises(ValueError, match='u8'):
      plots.overlay(IMAGE / 255, np.zeros((30, 40)))


@pytest.mark.parametrize('suffix', ['png', 'pdf', 'svg'])
def test_montage(tmp_path, suffix):
  path = tmp_path / f'a.{suffix}'
  panel = plots.Panel(IMAGE, np.ones((30, 40)), 'costs $5 and $6 ' * 20)
  plots.montage([{'a': panel, '$': panel}, {'a': panel}], path)
  assert path.stat().st_size > 1000
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.fixture
def fresh_fonts():
  for cached in (plots._font, plots._note):
    cached.cache_clear()
  yield
  for cached in (plots._font, plots._note):
    cached.cache_clear()


def test_letters_without_a_font_are_codes_with_one_note(
  tmp_path, monkeypatch, caplog, fresh_fonts
):
  """Neither boxes nor a warning for each; setup.cfg makes warnings errors."""
  from matplotlib import font_manager

  keep = [f for f in font_manager.fontManager.ttflist if 'DejaVu' in f.name]
  monkeypatch.setattr(font_manager.fontManager, 'ttflist', keep)
  assert plots.plain('a 傘 $5') == r'a \u5098 \$5'
  assert plots.plain('ü Ж \u200d😀\ufe0f\x1b') == r'ü Ж 😀\x1b'
  panel = plots.Panel(IMAGE, caption='傘を持つ人 𓂀 สวัสดี')
  plots.montage([{'傘': panel, 'хлеб 傘': panel}], tmp_path / 'a.png')
  assert len(caplog.records) == 1 and 'font' in caplog.text


def test_letters_are_drawn_by_an_installed_font_that_has_them(
  tmp_path, monkeypatch, caplog, fresh_fonts
):
  from matplotlib import font_manager

  # A font that DejaVu is not, with a letter that DejaVu lacks.
  letter = '\ue000'
  stix = font_manager.findfont('STIXNonUnicode')
  if ord(letter) not in plots._glyphs(stix):
    letter = next(
      c
      for c in map(chr, sorted(plots._glyphs(stix)))
      if ord(c) > 0x2000
      and ord(c) not in plots._glyphs(font_manager.findfont('DejaVu Sans'))
    )
  assert plots.plain(letter) == letter
  plots.curves({letter: [(1, 2.0)]}, tmp_path / 'a.png', title=letter * 2)
  assert not caplog.records


def test_montage_of_nothing():
  with pytest.raises(ValueError, match='at least one panel'):
    plots.montage([{}], 'never.png')


def test_curves_of_a_log_that_was_cut_short(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  lines = [
    json.dumps(
      {'step': k, 'loss': 1 / k, 'eval/mit/cc': None if k < 3 else 0.5}
    )
    for k in range(1, 5)
  ]
  path.write_text('\n'.join(lines) + '\n{"step": 5, "lo')
  series = runs.read_metrics(path)
  assert series['loss'] == [(1, 1), (2, 0.5), (3, 1 / 3), (4, 0.25)]
  assert [step for step, _ in series['eval/mit/cc']] == [3, 4]
  plots.curves(series, tmp_path / 'a.png', title='run')
  image = np.asarray(Image.open(tmp_path / 'a.png').convert('RGB'))
  assert image.shape[1] > 300
  # Two plots, each with a line: the first colour of matplotlib's cycle.
  blue = np.all(np.abs(image - np.array([31, 119, 180])) < 40, axis=-1)
  half = image.shape[1] // 2
  assert blue[:, :half].sum() > 100 and blue[:, half:].sum() > 100
  with pytest.raises(ValueError, match="Not measured: \\['los'\\]"):
    plots.curves(series, tmp_path / 'b.png', names=['los'])
  with pytest.raises(ValueError, match='nothing to plot'):
    plots.curves({}, tmp_path / 'b.png')


def test_report_needs_no_accelerator():
  code = (
    'import sys, salflax.report.tables, salflax.report.plots;'
    'assert not {"jax", "matplotlib"} & set(sys.modules), sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)
