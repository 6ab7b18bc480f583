import functools
import types

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_test import Page
from PIL import Image

from configs import loss_study as config
from salflax.cli import report as cli
from salflax.evaluate import rows as rows_lib
from salflax.report import figures, gallery, papers, ranking
from salflax.report import study as study_lib
from salflax.report.papers import paper
from salflax.report.results import Runs

INFOS = {
  'cc': {'label': 'CC', 'higher_is_better': True},
  'kl': {'label': 'KL', 'higher_is_better': False},
}
IMAGES = 20


def rows(shift, count=IMAGES):
  """Makes rows whose CC is `shift` above, and whose KL as far below."""
  base, noise = np.random.default_rng(0).random((2, count))
  return [
    {
      'image_id': f'p{k:02d}',
      'condition': 'pure',
      'text': '',
      'mit/cc': base[k] + shift + 0.01 * noise[k],
      'mit/kl': 3 - base[k] - shift,
    }
    for k in range(count)
  ]


@functools.cache
def summary(shift, count):
  return rows_lib.summarise(rows(shift, count))


def write_run(runs, folder, seed, shift, *, test='test', data='toy', count=20):
  """Writes a run whose CC is `shift` above, and whose KL as far below."""
  path, scored = runs / folder / f'seed{seed}', rows(shift, count)
  rows_lib.write_json(path / 'config.json', {'stages': ['study'], 'seed': seed})
  rows_lib.write_json(path / 'study' / 'result.json', {'seconds': 1.0})
  where = path / 'evaluate' / test
  rows_lib.write_rows(where / 'per_image.csv', scored)
  rows_lib.write_json(
    where / 'summary.json',
    {
      'model': folder,
      'data': data,
      'split': 'test',
      'protocols': {'mit': {'metrics': INFOS}},
      'scores': summary(shift, count),
      'references': {},
      'controls': {},
      'tests': {},
    },
  )
  return path


PRINTED = {
  'MSE': {'CC': 0.6388, 'KL': 0.9472},
  'KLD': {'CC': 0.6326, 'KL': 0.8336},
  'CC': {'CC': 0.6943, 'KL': 0.9157},
  'NSS': {'CC': 0.6740, 'KL': 1.3498},
}


def row(label, folder):
  return paper.Row(label, paper.Place(folder), 'pure', PRINTED[label])


TABLE = paper.Table(
  '2',
  'Losses',
  (row('MSE', 'mse'), row('KLD', 'kld'), row('CC', 'cc'), row('NSS', 'nss')),
  elsewhere='*-all',
)
CLAIMS = (
  paper.Claim('NSS is better', ('nss',), ('mse', 'kld')),
  paper.Claim('MSE is better', ('mse',), ('nss',)),
  paper.Claim(
    'One of them is the best', ('mse', 'nss'), ('kld', 'cc'), best=True
  ),
  paper.Claim('Gone', ('df',), ('mse',)),
)
PAPER = paper.Paper(
  title='Made up',
  name='toy',
  protocol='mit',
  metrics={'CC': 'mit/cc', 'KL': 'mit/kl'},
  tables=(TABLE,),
  reads_text=False,
  curves=(),
  study=paper.Study('2', CLAIMS, ('mse', 'kld'), 'one function'),
  galleries=(
    paper.Gallery('3', 'All', '2', count=2),
    paper.Gallery('4', 'Apart', '2', good='nss', bad='mse', count=3),
  ),
)
SHIFTS = {'mse': 0.0, 'kld': 0.1, 'cc': 0.2, 'nss': 0.3}


@pytest.fixture
def study(tmp_path):
  for folder, shift in SHIFTS.items():
    for seed in (0, 1):
      write_run(tmp_path / 'runs', folder, seed, shift + 0.02 * seed)
  return tmp_path / 'runs'


def ranked(runs):
  return ranking.Ranking(PAPER, TABLE, Runs(PAPER, runs))


def test_ranks_turn_with_the_metric(study):
  read = ranked(study)
  assert read.seeds == ['seed0', 'seed1']
  for name in ('CC', 'KL'):
    actual = read.scores(name)
    assert actual.values.shape == (4, IMAGES) and len(actual.seeds) == 2
    np.testing.assert_allclose(actual.values, np.mean(actual.seeds, 0))
    np.testing.assert_array_equal(
      ranking.ranks(actual.values.mean(1)), [4, 3, 2, 1]
    )
  cells = study_lib.rank_table(read).cells()
  # Printed CC: .6388, .6326, .6943, .6740; KL: .9472, .8336, .9157, 1.3498.
  assert cells[0] == ['NSS', '1 (2)', '1 (4)', '1 (3)']
  assert cells[1] == ['CC', '2 (1)', '2 (2)', '2 (1.5)']
  assert cells[3] == ['MSE', '4 (3)', '4 (3)', '4 (3)']


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_equal_scores_share_a_rank(scores):
  actual = ranking.ranks(scores)
  n = len(scores)
  assert actual.sum() == n * (n + 1) / 2
  for i in range(n):
    for j in range(n):
      assert (scores[i] > scores[j]) == (actual[i] < actual[j])


def test_claims_hold_or_do_not(study):
  read = ranked(study)
  cells, verdict = study_lib.judge(read, CLAIMS[0])
  assert verdict == 'holds under CC, KL'
  assert cells[1].startswith('+0.2500 [+0.2500, +0.2500] p<.001 (+0.25')
  _, verdict = study_lib.judge(read, CLAIMS[1])
  assert verdict == 'the opposite holds under CC, KL'
  cells, verdict = study_lib.judge(read, CLAIMS[2])
  assert cells[1].startswith('+0.1000') and verdict == 'holds under CC, KL'
  cells, verdict = study_lib.judge(read, CLAIMS[3])
  assert verdict == 'not judged, for want of df' and set(cells) == {'–'}


def test_a_claim_needs_every_seed(tmp_path):
  for seed, better in enumerate((0.3, -0.01)):
    write_run(tmp_path, 'mse', seed, 0.0)
    write_run(tmp_path, 'kld', seed, 0.0)
    write_run(tmp_path, 'nss', seed, better)
  _, verdict = study_lib.judge(ranked(tmp_path), CLAIMS[0])
  assert verdict == 'not told apart under CC, KL'


def test_the_best_is_not_picked_where_it_is_scored():
  """More rows of pure noise are not better for being more."""
  gaps = []
  for seed in range(200):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(21, 40))
    scores = ranking.Scores(values, [], list(range(40)))
    gap, each = ranking.differences(scores, range(20), [20], best=True)
    assert not each
    gaps.append(gap.mean())
    peek = max(values[:20].mean(1)) - values[20].mean()
    assert gap.mean() <= peek + 1e-12
  error = np.std(gaps) / len(gaps) ** 0.5
  assert abs(np.mean(gaps)) < 4 * error
  same, _ = ranking.differences(scores, [3], [4], best=True)
  np.testing.assert_allclose(same, values[3] - values[4])


def test_agreement_with_what_is_printed(study):
  cells = study_lib.agreement_table(ranked(study)).cells()
  # Ranks 4 3 2 1 and 3 4 1 2 of CC, 3 1 2 4 of KL.
  assert [c[0] for c in cells] == ['CC', 'KL']
  assert cells[0][1] == '4' and cells[0][2].startswith('+0.60 [+0.60, +0.60]')
  assert cells[1][2].startswith('-0.40')
  assert cells[0][3] == '+1.00' and cells[0][4] == '6 of 6'
  assert np.isnan(ranking.spearman([1, 1, 1], [1, 2, 3])[0])


def test_chance(study):
  cells = study_lib.chance_table(ranked(study), ('mse', 'kld')).cells()
  # |.6388 - .6326|, ours .1, two seeds .02.
  assert cells[0][:4] == ['CC', '0.0062', '0.1000', '0.0200']


def test_images_that_one_row_lacks_are_left_out(study):
  write_run(study, 'cc', 0, 0.2, count=7)
  assert ranked(study).scores('CC').values.shape == (4, 7)


def test_too_few_rows_say_nothing(tmp_path):
  runs = Runs(PAPER, tmp_path)
  assert study_lib.sections(PAPER, runs, tmp_path) == []
  assert not list(tmp_path.iterdir())
  write_run(tmp_path, 'mse', 0, 0.0)
  write_run(tmp_path, 'cc', 0, 0.0)
  assert study_lib.sections(PAPER, Runs(PAPER, tmp_path), tmp_path) == []


def test_a_diverged_run_is_a_result(study):
  path = study / 'cc' / 'seed1' / 'study'
  (path / 'result.json').unlink()
  rows_lib.write_json(
    path / 'diverged.json', {'step': 7, 'message': 'At step 7.'}
  )
  actual = Runs(PAPER, study).find(TABLE.rows[2], TABLE)
  assert list(actual.seeds) == ['0']
  assert actual.notes == ['seed1: diverged. At step 7.']


def write_elsewhere(study):
  for folder in ('nss', 'mse'):
    write_run(study, folder, 0, 0.0, test='folder:mine-all', data='folder:mine')


def test_other_data_sets_have_rows_of_their_own(study):
  runs = Runs(PAPER, study)
  assert runs.elsewhere(TABLE) == []
  write_elsewhere(study)
  rows = Runs(PAPER, study).elsewhere(TABLE)
  assert [r.label for r in rows] == ['folder:mine MSE', 'folder:mine NSS']
  assert rows[1].place == paper.Place('nss', 'folder:mine-all')
  assert rows[1].against.folder == 'mse' and not rows[1].printed


class Source:
  """Images of two shades; the human map is that of the image."""

  def __init__(self, count):
    self.count = count

  def __len__(self):
    return self.count

  def meta(self, index):
    return {'image_id': f'p{index:02d}', 'condition': 'pure'}

  def __getitem__(self, index):
    image = np.full((8, 10, 3), 10 * index, np.uint8)
    return dict(self.meta(index), image=image, saliency=image[..., :1])


def keep_maps(study):
  for folder in SHIFTS:
    maps = study / folder / 'seed0' / 'evaluate' / 'test' / 'maps'
    maps.mkdir()
    for k in range(IMAGES):
      Image.fromarray(np.full((4, 5), k, np.uint8)).save(
        maps / f'p{k:02d}_pure.png'
      )


def test_galleries_show_the_maps_that_were_kept(study):
  about, runs = PAPER.galleries, Runs(PAPER, study)
  load = lambda data, split: Source(IMAGES)
  with pytest.raises(gallery.NoMaps):
    gallery.blocks(PAPER, about[0], runs, load)
  with pytest.raises(gallery.NoMaps, match='NSS, MSE'):
    gallery.blocks(PAPER, about[1], runs, load)
  keep_maps(study)
  two = gallery.blocks(PAPER, about[0], runs, load)
  assert [b[0].caption for b in two] == ['p00', 'p19']
  captions = [p.caption for p in two[1]]
  assert captions == ['p19', 'people', 'MSE', 'KLD', 'CC', 'NSS']
  assert two[1][2].saliency.shape == (8, 10)
  three = gallery.blocks(PAPER, about[1], runs, load)
  assert len(three) == 3 and three[0][2].caption.startswith('NSS, CC ')


def test_images_furthest_apart_come_first(study):
  keep_maps(study)
  path = study / 'nss' / 'seed0' / 'evaluate' / 'test' / 'per_image.csv'
  scored = rows_lib.read_table(path).to_dict('records')
  scored[11]['mit/cc'] += 5
  scored[4]['mit/cc'] += 3
  rows_lib.write_rows(path, scored)
  runs = Runs(PAPER, study)
  load = lambda data, split: Source(IMAGES)
  actual = gallery.blocks(PAPER, PAPER.galleries[1], runs, load)
  assert [b[0].caption for b in actual][:2] == ['p11', 'p04']


def test_a_data_set_that_is_not_there_is_named(study, tmp_path):
  keep_maps(study)

  def load(data, split):
    raise FileNotFoundError(f'No data set {data}.')

  runs = Runs(PAPER, study)
  drawings = gallery.extras(PAPER, runs, load, tmp_path)
  assert [e.notes for e in drawings] == [['Not drawn: No data set toy.']] * 2


def test_the_page(study, tmp_path, monkeypatch):
  keep_maps(study)
  write_elsewhere(study)
  monkeypatch.setitem(papers.PAPERS, 'toy', PAPER)
  monkeypatch.setattr(cli, '_load', lambda *a, **k: Source(IMAGES))
  cli.execute(
    types.SimpleNamespace(
      runs=str(study),
      paper='toy',
      out=str(tmp_path / 'out'),
      docs=str(tmp_path / 'docs'),
      data_dir='',
    )
  )
  page = Page((tmp_path / 'out' / 'index.html').read_text())
  # Forest, ranks, two galleries.
  assert len(page.loaded) == 4
  assert any('holds under CC, KL' in t for t in page.text)
  assert 'holds under CC, KL' in (tmp_path / 'out' / 'tables.tex').read_text()
  docs = sorted(p.name for p in (tmp_path / 'docs').iterdir())
  assert docs == ['toy.md', 'toy_ranks.png', 'toy_table_2.png']
  markdown = (tmp_path / 'docs' / 'toy.md').read_text()
  assert '| folder:mine NSS |' in markdown
  assert 'Spearman' in markdown and 'toy_ranks.png' in markdown
  assert str(study) not in markdown


def test_figures(tmp_path):
  ranks = np.arange(1.0, 9).reshape(4, 2)
  labels = ['a$', 'b', 'c', 'd']
  figures.rank_figure(
    labels, ['CC', 'KL'], ranks, ranks * np.nan, tmp_path / 'a.png'
  )
  with pytest.raises(ValueError, match='4 rows, 1 metrics'):
    figures.rank_figure(labels, ['CC'], ranks, ranks, tmp_path / 'b.png')
  y, x = np.mgrid[:30, :40]
  mean = np.exp(-((y - 15) ** 2 + (x - 20) ** 2) / 50)
  figures.centre_figure(mean, tmp_path / 'c.png')
  assert min(Image.open(tmp_path / 'c.png').size) > 400
  assert not (tmp_path / 'b.png').exists()


def test_every_row_of_the_study_is_declared():
  about = papers.PAPERS['loss_study']
  rows = [r for t in about.tables for r in t.rows if r.place]
  assert {r.place.folder for r in rows} == set(config.ROWS)
  named = {f for c in about.study.claims for f in (*c.folders, *c.than)}
  assert named | set(about.study.chance) <= set(config.ROWS)
  for claim in about.study.claims:
    assert not set(claim.folders) & set(claim.than)
  keys = {t.key for t in about.tables}
  assert {about.study.table, *(g.table for g in about.galleries)} <= keys
  for entry in about.galleries:
    assert {entry.good, entry.bad} - {''} <= set(config.ROWS)
  printed = [r for r in about.tables[1].rows if r.printed]
  assert len(printed) == 27
