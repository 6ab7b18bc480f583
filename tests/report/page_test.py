import functools
import html.parser
import json
import re
import types

import numpy as np
import pytest
from PIL import Image

from configs import text_guided
from salflax.cli import report as cli
from salflax.evaluate import rows as rows_lib
from salflax.report import figures, page, papers
from salflax.report import results as results_lib
from salflax.report import runs as runs_lib
from salflax.report import sections as sections_lib
from salflax.report.papers import paper

COURSE = {
  key: {'label': label, 'higher_is_better': True}
  for key, label in (('course_auc', 'AUC80'), ('course_cc', 'CC (course)'))
}
PROTOCOLS = {
  'mit': {'metrics': {'cc': {'label': 'CC', 'higher_is_better': True}}},
  'course': {'metrics': COURSE},
}
LABELS = {
  'centre': 'Centre prior',
  'wrong': 'Wrong sentence',
}
SENTENCES = ('dogs', 'a <b>bold</b> & "salty" sign', 'cats')
PATHS = {'data_dir': '/here', 'cache_dir': '/there', 'threads': 2}


def rows(shift, condition='salient'):
  """Makes rows of three images with scores around .5 + shift."""
  return [
    {
      'image_id': f'p{k}',
      'condition': condition,
      'text': text,
      'mit/cc': 0.25 * k + 0.25 + shift,
      'course/course_auc': 0.5 + 0.125 * k + shift,
      'course/course_cc': 0.25 * k + 0.25 + shift,
    }
    for k, text in enumerate(SENTENCES)
  ]


@functools.cache
def evaluation(shift, condition):
  """Makes rows by predictor, and what a summary says of them."""
  scores = {
    'model': rows(shift, condition),
    'centre': rows(-0.125, condition),
    'wrong': rows(shift - 0.0625, condition),
  }
  summaries = {k: rows_lib.summarise(v) for k, v in scores.items()}
  parts = {
    k: {'label': LABELS[k], 'scores': summaries[k]} for k in ('centre', 'wrong')
  }
  return scores, {
    'protocols': PROTOCOLS,
    'scores': summaries['model'],
    'references': {'centre': parts['centre']},
    'controls': {'wrong': parts['wrong']},
    'tests': {k: rows_lib.compare(scores['model'], scores[k]) for k in parts},
  }


def write_run(
  runs, setting, seed=0, *, shift=0.0, condition='salient', test='test'
):
  """Writes what training and evaluation leave in <runs>/<setting>/seed<k>."""
  path = runs / setting / f'seed{seed}'
  config = {'stages': ['free', 'tis'], 'seed': seed, 'model': {'width': 8}}
  rows_lib.write_json(path / 'config.json', config | PATHS)
  for stage in config['stages']:
    spent = {'seconds': 60.5, 'peak_memory_mb': 900, 'best_score': 0.5}
    spent['trainable_parameters'] = 12345
    rows_lib.write_json(path / stage / 'result.json', spent)
    line = json.dumps({'step': 10, 'loss': 1.5, 'eval/mit/cc': 0.5})
    (path / stage / 'metrics.jsonl').write_text(line + '\n')
  folder = path / 'evaluate' / test
  scores, summary = evaluation(shift, condition)
  for name, scored in scores.items():
    suffix = '' if name == 'model' else f'_{name}'
    rows_lib.write_rows(folder / f'per_image{suffix}.csv', scored)
  summary = {'model': f'seed{seed}'} | summary
  rows_lib.write_json(folder / 'summary.json', summary)
  return path


PLACE = paper.Place('finetuned_salient')
PRINTED = {'AUC': 0.7765, 'CC': 0.6292}
TABLE = paper.Table(
  'III',
  'Made up & <small>',
  (
    paper.Row('salient', PLACE, 'salient', PRINTED),
    paper.Row('ours', paper.Place('new'), 'salient'),
  ),
  against=PLACE,
)
PAPER = paper.Paper(
  title='Made up',
  name='toy',
  protocol='course',
  metrics={'AUC': 'course/course_auc', 'CC': 'course/course_cc'},
  tables=(TABLE,),
  figures=(
    paper.Figure('2', 'Pictures', ('new',), 'evaluate/test/difference.png'),
  ),
  note='A note.',
)


def sections(runs):
  paper_runs = results_lib.Runs(PAPER, runs)
  return [
    sections_lib.section(PAPER, t, [paper_runs.find(r, t) for r in t.rows])
    for t in PAPER.tables
  ]


MEAN = 'conditions|salient|course/course_cc'
TEST = 'salient|mit/cc'
INFO = 'mit|metrics|cc'
TITLE = (
  'Table III: Made up & <small>. Protocol course, ours with 95 % interval '
  'over images (± deviation over seeds), and printed (ours − printed)'
)


def test_golden_markdown_and_latex(tmp_path):
  write_run(tmp_path, 'finetuned_salient')
  (s,) = sections(tmp_path)
  assert s.main.markdown() == (
    f'**{TITLE}**\n\n'
    '|  | n | Seeds | AUC ↑ | AUC printed | CC ↑ | CC printed |\n'
    '|---|---:|---:|---:|---:|---:|---:|\n'
    '| salient | 3 | 1 | 0.6250 [0.500, 0.750] | 0.7765 (-0.1515) '
    '| 0.5000 [0.250, 0.750] | 0.6292 (-0.1292) |\n'
    '| · Wrong sentence | 3 |  | 0.5625 |  | 0.4375 |  |\n'
    '| ours | – | – | – | – | – | – |\n'
    '| Centre prior: salient | 3 |  | 0.5000 |  | 0.3750 |  |\n'
  )
  latex = sections_lib.latex([s])
  assert (
    '\\begin{tabular}{lrrrrrr}\n'
    '\\toprule\n'
    ' & n & Seeds & AUC $\\uparrow$ & AUC printed & CC $\\uparrow$ '
    '& CC printed \\\\\n'
    '\\midrule\n'
    'salient & 3 & 1 & 0.6250 [0.500, 0.750] & 0.7765 (-0.1515) '
    '& 0.5000 [0.250, 0.750] & 0.6292 (-0.1292) \\\\\n'
    '$\\cdot$ Wrong sentence & 3 &  & 0.5625 &  & 0.4375 &  \\\\\n'
    'ours & -- & -- & -- & -- & -- & -- \\\\\n'
    'Centre prior: salient & 3 &  & 0.5000 &  & 0.3750 &  \\\\\n'
    '\\bottomrule\n'
  ) in latex
  assert r'Made up \& <small>' in latex
  assert not re.findall('[−±·↑↓]', latex)


def test_other_protocols_tests_and_costs(tmp_path):
  write_run(tmp_path, 'finetuned_salient')
  write_run(tmp_path, 'new', shift=0.0625)
  (s,) = sections(tmp_path)
  text = sections_lib.markdown(PAPER, [s])
  assert '**Table III, protocol mit: ' in text and '| CC ↑ |' in text
  mit = next(t for t in s.more if 'Protocol mit: paired' in t.title)
  differences = {row[0]: row[3] for row in mit.cells()}
  assert list(differences) == [
    'salient − Centre prior',
    'salient: right − wrong sentence',
    'ours − salient',
    'ours − Centre prior',
    'ours: right − wrong sentence',
  ]
  assert differences['ours − salient'].startswith('+0.0625 [+0.062, +0.062] p=')
  assert differences['ours − Centre prior'].startswith('+0.1875')
  costs = s.more[-1].cells()
  assert costs[1][1:] == [
    *('0', costs[0][2], '12,345', '121', '900'),
    'bash launch/paper.sh toy --only=new',
  ]


def test_a_missing_run_is_a_dash_and_a_command(tmp_path):
  (s,) = sections(tmp_path)
  assert s.main.cells()[0][:4] == ['salient', '–', '–', '–']
  assert s.main.cells()[0][4] == '0.7765'
  command = '`bash launch/paper.sh toy --only=finetuned_salient`'
  assert any('no run in' in n and command in n for n in s.notes)
  assert 'no run in' in sections_lib.markdown(PAPER, [s])


def test_an_unfinished_run_says_how_far_it_got(tmp_path):
  path = write_run(tmp_path, 'new')
  (path / 'evaluate' / 'test' / 'summary.json').unlink()
  assert any(
    'trained, but not scored' in n for n in sections(tmp_path)[0].notes
  )
  (path / 'tis' / 'result.json').unlink()
  notes = sections(tmp_path)[0].notes
  assert any('unfinished, stage tis at step 10' in n for n in notes)
  (path / 'tis' / 'metrics.jsonl').unlink()
  assert any('tis at step 0' in n for n in sections(tmp_path)[0].notes)
  (path / 'config.json').unlink()
  assert any('not begun' in n for n in sections(tmp_path)[0].notes)


def test_seeds_are_averaged_by_image(tmp_path):
  write_run(tmp_path, 'new', 0)
  write_run(tmp_path, 'new', 1, shift=0.125)
  write_run(tmp_path, 'finetuned_salient', shift=0.0625)
  (s,) = sections(tmp_path)
  ours = s.results[1]
  assert list(ours.seeds) == ['0', '1']
  entry = ours.model['course/course_auc']
  assert entry['mean'] == 0.625 + 0.0625 and entry['n'] == 3
  assert ours.model['mit/cc']['spread'] == pytest.approx(0.125 / 2**0.5)
  assert '±0.0884' in s.main.cells()[2][3]
  assert 'spread' not in s.results[0].model['mit/cc']
  test = ours.tests['ours − salient']['mit/cc']
  assert test['difference'] == 0 and test['p'] == 1
  assert ours.tests['ours: right − wrong sentence']['mit/cc'][
    'difference'
  ] == pytest.approx(0.0625)
  assert ours.controls['Wrong sentence']['mit/cc']['mean'] == pytest.approx(0.5)


def test_one_seeds_numbers_are_those_of_its_summary(tmp_path):
  """Whether read or taken again."""
  write_run(tmp_path, 'new')
  write_run(tmp_path, 'finetuned_salient', 0)
  write_run(tmp_path, 'finetuned_salient', 1)
  two, one = sections(tmp_path)[0].results
  for entry in two.model.values():
    assert entry.pop('spread') == 0
  assert two.model == one.model
  name = '{}: right − wrong sentence'
  assert two.tests[name.format('salient')] == one.tests[name.format('ours')]


def test_seeds_of_other_images_are_named(tmp_path):
  write_run(tmp_path, 'new')
  path = write_run(tmp_path, 'new', 1) / 'evaluate' / 'test'
  summary = json.loads((path / 'summary.json').read_text())
  summary['scores'] = rows_lib.summarise(rows(0)[:2])
  rows_lib.write_json(path / 'summary.json', summary)
  rows_lib.write_rows(path / 'per_image.csv', rows(0)[:2])
  (s,) = sections(tmp_path)
  assert any('its seeds scored [2, 3] rows' in n for n in s.notes)
  assert s.results[1].model['mit/cc']['n'] == 2


@pytest.mark.parametrize(
  'name, content',
  [
    ('evaluate/test/summary.json', '{"model": '),
    ('evaluate/test/summary.json', '[]'),
    ('evaluate/test/summary.json', '{"protocols": {}, "tests": {}}'),
    ('evaluate/test/per_image.csv', 'image_id,condition,text,a\np,c,t,zz\n'),
    ('evaluate/test/per_image_wrong.csv', 'nothing\n'),
    ('tis/result.json', ''),
    ('config.json', '{}'),
  ],
)
def test_a_broken_file_is_named(tmp_path, name, content):
  path = write_run(tmp_path, 'new')
  write_run(tmp_path, 'new', 1)
  (path / name).write_text(content)
  (s,) = sections(tmp_path)
  assert list(s.results[1].seeds) == ['1']
  (note,) = [n for n in s.notes if ' is broken ' in n]
  assert note.startswith(f'ours: seed0: {path / name} is broken')


@pytest.mark.parametrize(
  'name, keys, value',
  [
    ('tis/result.json', ['seconds'], 'a minute'),
    ('tis/result.json', ['peak_memory_mb'], [900]),
    ('free/result.json', ['trainable_parameters'], True),
    ('evaluate/test/summary.json', ['scores', MEAN, 'mean'], 'high'),
    ('evaluate/test/summary.json', ['scores', MEAN, 'low'], 10**400),
    ('evaluate/test/summary.json', ['scores', MEAN, 'n'], None),
    ('evaluate/test/summary.json', ['scores', MEAN], []),
    ('evaluate/test/summary.json', ['scores', 'conditions'], [1]),
    ('evaluate/test/summary.json', ['references', 'centre'], 'high'),
    ('evaluate/test/summary.json', ['references'], []),
    ('evaluate/test/summary.json', ['tests', 'wrong', 'salient'], 1),
    ('evaluate/test/summary.json', ['tests', 'wrong', TEST, 'p'], 'small'),
    ('evaluate/test/summary.json', ['protocols', 'mit'], []),
    ('evaluate/test/summary.json', ['protocols', INFO, 'label'], 7),
    ('evaluate/test/summary.json', ['protocols', INFO], {}),
    ('config.json', ['stages'], [1]),
    ('config.json', ['stages'], 'tis'),
    ('config.json', ['stages'], 3),
  ],
)
def test_text_in_place_of_a_number_is_a_note(tmp_path, name, keys, value):
  path = write_run(tmp_path, 'new')
  write_run(tmp_path, 'new', 1)
  keys = '|'.join(keys).split('|')
  tree = node = json.loads((path / name).read_text())
  for key in keys[:-1]:
    node = node[key]
  node[keys[-1]] = value
  (path / name).write_text(json.dumps(tree))
  (s,) = sections(tmp_path)
  assert list(s.results[1].seeds) == ['1']
  (note,) = [n for n in s.notes if ' is broken ' in n]
  assert note.startswith(f'ours: seed0: {path / name} is broken (')


def test_a_value_that_is_not_a_number_is_a_dash(tmp_path):
  path = write_run(tmp_path, 'new') / 'evaluate' / 'test' / 'summary.json'
  summary = json.loads(path.read_text())
  for key in ('mean', 'low', 'high'):
    entry = summary['scores']['conditions']['salient']['course/course_cc']
    entry[key] = float('nan') if key == 'mean' else float('inf')
  path.write_text(json.dumps(summary))  # which writes NaN and Infinity
  (s,) = sections(tmp_path)
  assert s.main.cells()[1][5] == '–'


def test_summaries_of_an_earlier_version_are_read(tmp_path):
  """Their tests have a sentence as key."""
  path = write_run(tmp_path, 'new') / 'evaluate' / 'test' / 'summary.json'
  (now,) = sections(tmp_path)
  summary = json.loads(path.read_text())
  tests = summary['tests']
  summary['tests'] = {
    'seed0 − Centre prior': tests['centre'],
    'Right sentence − Wrong sentence': tests['wrong'],
  }
  rows_lib.write_json(path, summary)
  (earlier,) = sections(tmp_path)
  assert earlier == now and len(now.results[1].tests) == 2


def test_a_control_of_one_seed_alone_is_left_out(tmp_path):
  write_run(tmp_path, 'new')
  path = write_run(tmp_path, 'new', 1) / 'evaluate' / 'test'
  summary = json.loads((path / 'summary.json').read_text())
  del summary['controls']['wrong']
  rows_lib.write_json(path / 'summary.json', summary)
  (path / 'per_image_wrong.csv').unlink()
  result = sections(tmp_path)[0].results[1]
  assert len(result.seeds) == 2 and not result.controls
  assert not result.sentences


DAMAGE = {
  'tis/curves.png': b'no image',
  'free/curves.png': b'\x89PNG\r\n\x1a\n',
  'evaluate/test/difference.png': b'',
  'tis/metrics.jsonl': b'\xff\xfe{"step": "a"}\n[]\n{"step": 1, "loss": 1e999}',
  'free/metrics.jsonl': b'{"step": 1e999, "loss": 1}\n'
  b'{"step": 1, "loss": ' + b'9' * 400 + b'}\n{"step": 2, "loss": 0.5}\n',
}


def test_damaged_figures_and_logs_do_not_stop_the_report(tmp_path, monkeypatch):
  monkeypatch.setitem(papers.PAPERS, 'toy', PAPER)
  path = write_run(tmp_path / 'runs', 'new')
  for name, content in DAMAGE.items():
    (path / name).write_bytes(content)
  broken = write_run(tmp_path / 'runs', 'finetuned_salient')
  (broken / 'tis' / 'result.json').write_text('{"seconds": "long"}')
  (tmp_path / 'runs' / 'options.txt').write_bytes(b'--scale=\xff')
  options = dict(runs=str(tmp_path / 'runs'), paper='toy', out=None)
  options |= dict(docs=str(tmp_path / 'docs'), data_dir='')
  cli.execute(types.SimpleNamespace(**options))
  text = ' '.join(Page((tmp_path / 'runs/report/index.html').read_text()).text)
  for name in [n for n in DAMAGE if n.endswith('.png')]:
    assert f'{path / name} is no image that can be read' in text
  assert 'result.json is broken (tis/seconds is no number' in text
  assert (tmp_path / 'docs' / 'toy_curves_new_free.png').is_file()
  assert not (tmp_path / 'docs' / 'toy_curves_new_tis.png').exists()


def test_a_condition_that_was_not_scored_is_named(tmp_path):
  write_run(tmp_path, 'new', condition='pure')
  (s,) = sections(tmp_path)
  assert any("no condition 'salient'" in n and 'pure' in n for n in s.notes)
  assert not s.results[1].model


def test_a_config_has_one_name_everywhere(tmp_path):
  name = runs_lib.config_hash
  config = {'model': {'weights': '/a/w.pth'}, 'lr': 0.1, 'tis': {'init': '@a'}}
  assert re.fullmatch('[0-9a-f]{10}', name(config))
  same = {'model': {'weights': '~/b/w.pth'}, 'lr': 0.1, 'tis': {'init': '@a'}}
  assert name(same | PATHS | {'seed': 3}) == name(config)
  assert name(config | {'lr': 0.2}) != name(config)
  assert name(config | {'model': {'weights': '/a/v.pth'}}) != name(config)
  hub = {'weights': 'timm/resnet50.tv_in1k'}
  assert name({'model': hub}) != name(
    {'model': {'weights': 'resnet50.tv_in1k'}}
  )
  for weights in ('w.pth', 'b/w.pth', '/a/b/w.pth'):
    assert name(config | {'model': {'weights': weights}}) == name(config)
  assert name({'tis': {'init': 'runs/a/b'}}) == name(
    {'tis': {'init': '/b/run'}}
  )
  assert name({'tis': {'init': '/a/run'}}) == name({'tis': {'init': '/b/run'}})


class Page(html.parser.HTMLParser):
  """Checks that what opens is closed; collects text and what is loaded."""

  VOID = ('meta', 'img', 'br', 'link', 'hr')

  def __init__(self, text):
    super().__init__()
    self.open, self.loaded, self.tags, self.text = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    attrs = dict(attrs)
    if 'src' in attrs:
      self.loaded.append(attrs['src'])
    if tag == 'img':
      assert attrs['alt']
    if tag == 'a':
      assert attrs['href'][0] == '#'
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """Runs the command; returns the folders of the page and of the docs."""
  folder = tmp_path_factory.mktemp('written')
  path = write_run(folder / 'runs', 'new')
  image = np.random.default_rng(0).integers(0, 256, (40, 2500, 3), np.uint8)
  Image.fromarray(image).save(path / 'evaluate' / 'test' / 'difference.png')
  Image.fromarray(image[:, :9]).save(path / 'tis' / 'curves.png')
  flags = dict(runs=str(folder / 'runs'), paper='toy', out=None, data_dir='')
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(papers.PAPERS, 'toy', PAPER)
    cli.execute(types.SimpleNamespace(**flags, docs=str(folder / 'docs')))
  return folder / 'runs' / 'report', folder / 'docs'


def test_the_page_stands_alone_and_is_well_formed(written):
  folder, _ = written
  assert sorted(p.name for p in folder.iterdir()) == [
    *('index.html', 'tables.md', 'tables.tex'),
  ]
  text = (folder / 'index.html').read_text()
  parsed_page = Page(text)
  assert not {'script', 'link', 'iframe', 'b', 'small'} & set(parsed_page.tags)
  # The forest, the difference twice, the curves.
  assert len(parsed_page.loaded) == 4
  assert all(s.startswith('data:image/') for s in parsed_page.loaded)
  assert not re.search(r'https?://|url\(|@import', text)
  assert SENTENCES[1] in parsed_page.text and 'viewport' in text
  command = 'bash launch/paper.sh toy --only=finetuned_salient'
  assert f'{command} --runs={folder.parent}' in parsed_page.text
  assert 'prefers-color-scheme' in text or 'light dark' in text


def test_docs_hold_tables_and_plots_and_no_images(written):
  _, docs = written
  assert sorted(p.name for p in docs.iterdir()) == [
    'toy.md',
    'toy_curves_new_free.png',
    'toy_curves_new_tis.png',
    'toy_table_III.png',
  ]
  text = (docs / 'toy.md').read_text()
  assert str(docs.parent) not in text
  assert 'no run in finetuned_salient; `bash launch' in text
  for name in re.findall(r'\]\((.*?)\)', text):
    assert (docs / name).is_file()


def test_images_are_embedded_smaller(tmp_path):
  image = np.random.default_rng(0).integers(0, 256, (40, 2500, 3), np.uint8)
  Image.fromarray(image).save(tmp_path / 'a.png')
  Image.fromarray(0 * image[:, :30]).save(tmp_path / 'b.png')
  assert page.data_uri(tmp_path / 'a.png').startswith('data:image/jpeg;base64')
  assert page.data_uri(tmp_path / 'b.png').startswith('data:image/png;base64')
  short, long = (
    len(page.data_uri(tmp_path / 'a.png', width=w)) for w in (200, 2500)
  )
  assert 10 * short < long


@pytest.mark.parametrize(
  'flags, message',
  [
    (dict(paper='text_giuded'), "Did you mean 'text_guided'"),
    (dict(runs='nowhere'), 'there is no such folder'),
  ],
)
def test_wrong_options(tmp_path, monkeypatch, flags, message):
  monkeypatch.chdir(tmp_path)
  options = dict(runs=None, paper='text_guided', out=None, docs=None)
  options |= dict(data_dir='') | flags
  with pytest.raises(ValueError, match=message):
    cli.execute(types.SimpleNamespace(**options))
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('about', papers.PAPERS.values(), ids=papers.PAPERS)
def test_every_printed_number_has_its_row(about):
  for table in about.tables:
    assert any(row.printed for row in table.rows)
    labels = [row.label for row in table.rows]
    assert len(set(labels)) == len(labels)
    for row in table.rows:
      assert set(row.printed) <= set(about.metrics)
  folders = {r.place.folder for t in about.tables for r in t.rows if r.place}
  for figure in about.figures:
    assert set(figure.folders) <= folders


def test_every_row_of_the_configs_has_its_row():
  about = papers.PAPERS['text_guided']
  folders = {row.place.folder for t in about.tables for row in t.rows}
  assert folders == set(text_guided.ROWS)


def test_another_data_set_than_the_printed_one_is_named(tmp_path):
  path = write_run(tmp_path, 'new') / 'evaluate' / 'test' / 'summary.json'
  summary = json.loads(path.read_text())
  rows_lib.write_json(path, summary | {'data': 'osie', 'split': 'test'})
  paper_runs = results_lib.Runs(PAPER, tmp_path)
  row = TABLE.rows[1]
  assert not paper_runs.find(row, TABLE._replace(data='osie')).notes
  (note,) = paper_runs.find(row, TABLE._replace(data='sjtu_tis')).notes
  assert note == 'ours is of osie test, the printed one of sjtu_tis.'


def test_the_notes_say_what_one_run_of_the_metric_cannot_print():
  """In one run sAUC is 0.25 + 0.5 AUC within 2e-4."""
  for table in papers.PAPERS['text_guided'].tables:
    gaps = {
      r.label: r.printed['sAUC'] - 0.25 - 0.5 * r.printed['AUC']
      for r in table.rows
      if r.printed
    }
    off = {k: gap for k, gap in gaps.items() if abs(gap) > 2.00001e-4}
    if off:
      each = ', '.join(f'{label} ({gap:+.4f})' for label, gap in off.items())
      ending = f'fails in {len(off)} of {len(gaps)} rows: {each}.'
    else:
      ending = f'within {max(map(abs, gaps.values())):.5f}: sAUC says nothing'
    assert ending in table.notes[0]


def test_what_reads_no_sentence_and_reaches_a_printed_number(tmp_path):
  write_run(tmp_path, 'finetuned_salient')
  (s,) = sections(tmp_path)
  assert not sections_lib.reached_note(PAPER, s.results)
  high = {'Centre prior': {'course/course_cc': {'mean': 0.63}}}
  with_high = [s.results[0]._replace(references=high), s.results[1]]
  note = sections_lib.reached_note(PAPER, with_high)
  assert 'salient CC by centre prior (0.6300)' in note and 'AUC' not in note


class TestDifference:
  image = np.full((8, 10, 3), 128, np.uint8)

  def test_colours_say_which_sentence_draws_more(self):
    change = np.zeros((8, 10))
    change[0, 0], change[7, 9] = 2, -2
    parsed_page = figures.diverging(self.image, change, top=2).astype(int)
    assert parsed_page[0, 0, 0] > parsed_page[0, 0, 2] + 50
    assert parsed_page[7, 9, 2] > parsed_page[7, 9, 0] + 50
    assert (parsed_page[3, 3] == parsed_page[3, 4]).all()
    np.testing.assert_array_equal(parsed_page[3, 3], 192)
    flat = figures.diverging(self.image, 0 * change, top=0.0)
    assert (flat == 192).all()

  def test_densities_have_a_mean_of_one(self):
    saliency = np.random.default_rng(0).random((8, 10))
    assert figures.density(7 * saliency).mean() == pytest.approx(1)
    assert (figures.density(0 * saliency) == 1).all()

  def test_the_figure(self, tmp_path):
    maps = list(np.random.default_rng(0).random((2, 8, 10)))
    example = dict(
      image_id='p', image=self.image, conditions=('salient', 'non_salient')
    )
    example |= dict(texts=['costs $5', 'b'], human=maps, pred=maps[::-1])
    figures.difference_figure([example], tmp_path / 'a.png')
    assert Image.open(tmp_path / 'a.png').size[0] > 1500

  def test_wrong_shapes(self):
    with pytest.raises(ValueError, match=r'\(10, 8\), the image \(8, 10'):
      figures.diverging(self.image, np.zeros((10, 8)), top=1.0)


def test_a_missing_run_is_of_the_size_of_the_others(tmp_path):
  folder = tmp_path / 'mine'
  folder.mkdir()
  (folder / 'options.txt').write_text('--scale=small --free=osie\n')
  cli.execute(
    types.SimpleNamespace(
      runs=str(folder),
      paper='text_guided',
      out=str(tmp_path / 'out'),
      docs=str(tmp_path / 'docs'),
      data_dir='',
    )
  )
  written_text = (tmp_path / 'out/tables.md').read_text()
  assert (
    '--only=non_salient_full --scale=small --free=osie --runs=' in written_text
  )
  written_text = (tmp_path / 'docs/text_guided.md').read_text()
  assert '--only=non_salient_full --scale=small --free=osie' in written_text
  assert str(folder) not in written_text
