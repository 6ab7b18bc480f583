"""Runs and folders of maps as subjects of an evaluation."""

import os
import types

import numpy as np
import pytest
from toy_gaze import Reader, Toy

from salflax.config import resolve
from salflax.predict import subjects


class FakeRun:
  """A run of two stages on the data set 'toy'."""

  workdir, at = 'runs/toy/seed1', 7

  def __init__(self, stage='text', **evaluate):
    self.stage = types.SimpleNamespace(name=stage)
    self.section = {'data': 'toy', 'split': 'train', 'test_split': 'test'}
    self.section |= {'limit': 0, 'conditions': ('salient',)}
    self.config = {'data_dir': '', 'stages': ('free', 'text')}
    self.config['evaluate'] = {'protocols': 'mit', 'controls': False} | evaluate

  def predictor(self, *, store=False):
    reader = Reader(Toy(4))
    reader.store = store
    return reader

  def load_source(self, data, split, conditions, data_dir):
    own = () if data else self.section['conditions']
    return resolve.load_rows(
      data or 'toy', split or 'test', data_dir, conditions or own
    )

  def trained_on(self, data, source, data_dir):
    return 3


@pytest.fixture(autouse=True)
def data(monkeypatch):
  def load_source(name, split, folder, *, conditions=()):
    toy = Toy(4, seed=3 * (split == 'train'))
    return toy.only(*conditions) if conditions else toy

  monkeypatch.setattr(resolve.datasets, 'load_source', load_source)


def name(**options):
  stage = options.pop('stage', 'text')
  subject = subjects.of_run(FakeRun(stage), **options)
  return subject.folder.relative_to(FakeRun.workdir).as_posix()


def test_each_evaluation_has_a_folder_of_its_own():
  evaluations = [
    {},
    *({'data': data} for data in ('osie', 'folder:a', 'osie+folder:a')),
    *({'split': split} for split in ('all', 'val')),
    *({'conditions': c} for c in (['all'], ['all', 'pure'])),
    *({'protocols': p} for p in (['course'], ['mit', 'course'], ['mit|emd'])),
    *({'train_split': s} for s in ('none', 'all')),
    *({'controls': True}, {'seed': 1}, {'seed': 2}, {'stage': 'free'}),
    {'data': 'osie', 'split': 'val', 'conditions': ['pure']},
  ]
  names = [name(**options) for options in evaluations]
  assert len(set(names)) == len(names)
  assert names[0] == 'evaluate/test'
  assert all(n.count('/') == 1 for n in names)


def test_what_the_run_itself_says_is_its_own_evaluation():
  own = name(controls=False), name(protocols=['mit']), name()
  assert set(own) == {'evaluate/test'}


@pytest.mark.parametrize(
  'options, conditions, count',
  [
    ({}, ('salient',), 4),
    ({'data': 'osie'}, (), 16),
    ({'conditions': ['all', 'pure']}, ('all', 'pure'), 8),
    ({'data': 'osie', 'conditions': ['pure']}, ('pure',), 4),
    ({'split': 'val'}, ('salient',), 4),
  ],
)
def test_the_summary_names_the_conditions_that_are_scored(
  options, conditions, count
):
  subject = subjects.of_run(FakeRun(), **options)
  assert subject.about['conditions'] == conditions
  assert len(subject.source) == count and len(subject.whole) == 16


def test_what_is_left_out_is_as_in_the_runs_config():
  subject = subjects.of_run(FakeRun(controls=True), store=True)
  assert subject.controls and subject.predictor.store
  assert subject.label == 'toy/seed1' and subject.protocols == ['mit']
  assert subject.about['trained_on'] == 3 and subject.about['step'] == 7
  assert subject.baselines is not None
  other = subjects.of_run(FakeRun(controls=True, protocols=''), controls=False)
  assert not other.controls and other.protocols == ['mit', 'course']
  assert subjects.of_run(FakeRun(), train_split='none').baselines is None


class TestMaps:
  @pytest.fixture(autouse=True)
  def maps(self, tmp_path):
    self.folder = tmp_path / 'maps'
    self.folder.mkdir()
    for row in Toy(4).rows:
      stem = f'{row["image_id"]}_{row["condition"]}'
      np.save(self.folder / f'{stem}.npy', row['saliency'])

  def test_each_evaluation_has_a_folder_of_its_own(self):
    evaluations = [
      *({}, {'split': 'all'}, {'conditions': ['pure']}, {'protocols': ['mit']}),
      *({'train_split': 'none'}, {'controls': True}, {'data': 'osie'}),
    ]
    names = [
      subjects.of_maps(self.folder, **{'data': 'toy'} | options)[0].folder.name
      for options in evaluations
    ]
    assert len(set(names)) == len(names)
    assert names[0] == 'maps-scores-toy'

  def test_faulty_maps_are_named_and_may_be_left_out(self):
    (self.folder / 'picture02_all.npy').unlink()
    np.save(self.folder / 'picture03_pure.npy', np.full((40, 60), np.nan))
    with pytest.raises(ValueError, match=r'picture02 \(all\)') as e:
      subjects.of_maps(self.folder, data='toy')
    assert 'picture03_pure.npy' in str(e.value) and '--partial' in str(e.value)
    subject, notes = subjects.of_maps(self.folder, data='toy', partial=True)
    assert (subject.about['scored'], subject.about['rows']) == (14, 16)
    assert len(subject.source) == 14
    assert any('picture02 (all)' in note for note in notes)
    for index, saliency in enumerate(
      subject.predictor.predict_rows(subject.source, range(14))
    ):
      want = subject.source[index]['saliency'][..., 0]
      np.testing.assert_array_equal(saliency, want)

  @pytest.mark.parametrize('broken', [True, False])
  def test_without_a_usable_map_partial_is_an_error(self, broken):
    for path in list(self.folder.iterdir()):
      if broken:
        path.write_bytes(b'')
      else:
        path.rename(path.with_stem(f'no {path.stem}'))
    with pytest.raises(ValueError, match='cannot be scored') as e:
      subjects.of_maps(self.folder, data='toy', partial=True)
    assert '--partial' not in str(e.value)

  def test_a_pipe_among_the_maps_does_not_hang(self):
    path = self.folder / 'picture00_pure.npy'
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r'picture00 \(pure\)'):
      subjects.of_maps(self.folder, data='toy')
