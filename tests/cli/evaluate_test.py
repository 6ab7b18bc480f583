"""The command that scores runs and folders of maps."""

import functools
import json
import pathlib
import types

import numpy as np
import pytest
from toy_gaze import Toy

from salflax.cli import evaluate as cli
from salflax.config import resolve
from salflax.evaluate import rows as rows_lib


def options(**changes):
  default = dict(run=None, stage='', maps=None, data='', data_dir='', split='')
  default |= dict(train_split='', conditions=[], protocols=None, seed=0)
  default |= dict(controls=None, figures=0, partial=False, threads=None)
  default |= dict(keep_maps=False, store=False, out=None, join=[])
  return types.SimpleNamespace(**default | changes)


def summary(folder):
  return json.loads((pathlib.Path(folder) / 'summary.json').read_text())


class TestRun:
  @pytest.fixture(scope='class', autouse=True)
  def few_scenes(self):
    load = functools.partial(resolve.datasets.load_source, num=3)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(resolve.datasets, 'load_source', load)
      yield

  @pytest.fixture(scope='class')
  def folder(self, tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp('scores') / 'out'
    cli.execute(
      options(
        run=str(tiny_run),
        controls=True,
        figures=2,
        keep_maps=True,
        out=str(folder),
      )
    )
    return folder

  def test_scores_controls_and_figures(self, folder):
    assert {p.name for p in folder.iterdir()} >= {
      *('summary.json', 'tables.md', 'per_image.csv', 'per_image_other.csv'),
      *('conditions.png', 'sentences.png', 'difference.png'),
      'centre_bias.png',
    }
    result = summary(folder)
    assert set(result['controls']) == {'wrong', 'other', 'none'}
    assert set(result['references']) == {'centre', 'pure', 'others'}
    assert (result['stage'], result['data']) == ('second', 'scenes')
    assert result['trained_on'] == 0 and result['scores']['n'] == 8
    assert list(result['protocols']) == ['mit']
    assert '**Protocol mit' in (folder / 'tables.md').read_text()

  def test_kept_maps_score_as_they_did(self, folder, tmp_path, capsys):
    kept = folder / 'maps'
    assert len(list(kept.iterdir())) == 8
    out = tmp_path / 'again'
    # The run scored two of three images.
    with pytest.raises(ValueError, match='these maps cannot be scored'):
      cli.execute(options(maps=str(kept), data='scenes', out=str(out)))
    # As the flag splits it: at the comma between options, too.
    protocols = ['mit', 'course|kl(eps=1e-7', ' floor=0)']
    code = cli.execute(
      options(
        maps=str(kept),
        data='scenes',
        out=str(out),
        partial=True,
        protocols=protocols,
      )
    )
    assert code == 1  # some maps are missing
    ours = rows_lib.read_table(folder / 'per_image.csv')
    again = rows_lib.read_table(out / 'per_image.csv')
    for key in ('mit/cc', 'mit/nss', 'mit/sim'):
      np.testing.assert_allclose(again[key], ours[key], rtol=0.02, atol=0.01)
    printed = capsys.readouterr()
    assert 'Written to' in printed.out and 'missing' in printed.err


class TestMaps:
  @pytest.fixture(autouse=True)
  def world(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load_source(name, split, folder, *, conditions=()):
      assert name == 'toy'
      # Nothing of 'train' is in 'test', and all of 'all'.
      toy = Toy(4, seed=3) if split == 'train' else Toy(4)
      for row in toy.rows:
        row['image_id'] += split == 'train' and 't' or ''
      return toy.only(*conditions) if conditions else toy

    monkeypatch.setattr(resolve.datasets, 'load_source', load_source)
    pathlib.Path('maps').mkdir()
    for row in Toy(4).rows:
      stem = f'{row["image_id"]}_{row["condition"]}'
      np.save(f'maps/{stem}.npy', row['saliency'])

  def test_the_truth_as_maps(self, capsys):
    cli.execute(options(maps='maps', data='toy', protocols=['mit']))
    folder = pathlib.Path('maps-scores-toy-protocols=mit')
    rows = rows_lib.read_table(folder / 'per_image.csv').to_dict('records')
    assert all(r['mit/cc'] == pytest.approx(1) for r in rows)
    assert len(rows) == 16 and 'mit/ig' in rows[0]
    assert summary(folder)['scored'] == 16
    assert f'{folder}: summary.json' in capsys.readouterr().out

  def test_images_that_are_scored_make_no_baseline(self, capsys):
    cli.execute(
      options(maps='maps', data='toy', protocols=['mit'], train_split='all')
    )
    (folder,) = pathlib.Path().glob('maps-scores*')
    assert (
      'mit/ig'
      not in rows_lib.read_table(folder / 'per_image.csv').to_dict('records')[0]
    )
    assert 'All training images are scored here' in capsys.readouterr().err

  @pytest.mark.parametrize(
    'flag, value',
    [
      *(('stage', 'a'), ('keep_maps', True), ('store', True)),
      *(('figures', 1), ('seed', 1)),
    ],
  )
  def test_flags_that_do_nothing_for_maps_are_named(self, flag, value):
    with pytest.raises(ValueError, match=f'--{flag} is for --run'):
      cli.execute(options(maps='maps', data='toy', **{flag: value}))


@pytest.mark.parametrize(
  'flags, message',
  [
    (dict(), 'either --run or --maps'),
    (dict(run='a', maps='b'), 'either --run or --maps'),
    (dict(maps='b'), '--maps needs --data'),
    (dict(run='a', partial=True), '--partial is for --maps'),
  ],
)
def test_wrong_options(flags, message):
  with pytest.raises(ValueError, match=f'(?i){message}'):
    cli.execute(options(**flags))


def test_a_misspelt_protocol(tiny_run, tmp_path):
  with pytest.raises(ValueError, match="did you mean 'mit'|Did you mean 'mit'"):
    cli.execute(options(run=str(tiny_run), protocols=['mitt'], out=tmp_path))
