"""A finished run: its weights, its data, what it was trained on."""

import json
import shutil

import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax.config import resolve as config_lib
from salflax.config import saved
from salflax.data import batches
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer as scorer_lib
from salflax.predict import trained


@pytest.fixture(scope='module')
def run(tiny_run):
  return trained.load(tiny_run)


@pytest.fixture
def no_data(monkeypatch):
  def load_source(name, *args, **options):
    raise FileNotFoundError(f'{name} is not prepared')

  monkeypatch.setattr(config_lib.datasets, 'load_source', load_source)


def test_a_run_gives_the_maps_of_its_training(tiny_run, run):
  result = json.loads((tiny_run / 'second' / 'result.json').read_text())
  assert (run.stage.name, run.at) == ('second', result['best_step'])
  assert run.stage.stored == {'backbone', 'text'}
  section = run.section
  source = config_lib.load_rows('scenes', section['eval_split'], '', limit=4)
  scorer = scorer_lib.Scorer(source, run.stage.protocols)
  stored, plain = (
    scorer_lib.score(run.predictor(store=store), scorer)
    for store in (True, False)
  )
  # Stored or not, an image gives the same map.
  for a, b in zip(stored, plain, strict=True):
    for key in scorer.keys:
      assert a[key] == pytest.approx(b[key], abs=1e-4)
  score = rows_lib.means(stored)[run.stage.score]
  assert score == pytest.approx(result['best_score'], abs=1e-5)


def test_it_predicts_without_its_data(tiny_run, no_data):
  run = trained.load(tiny_run)
  image = Toy(1)[0]['image']
  one, other, again = run.predictor().predict(
    [(image, 'the red'), (image, 'blue'), (image, 'the red')]
  )
  assert one.shape == image.shape[:2] and one.std() > 0
  np.testing.assert_array_equal(one, again)
  assert not np.array_equal(one, other)
  with pytest.raises(FileNotFoundError, match='scenes'):
    run.load_source()


def test_a_stage_by_name(tiny_run):
  assert trained.load(tiny_run, stage='only').at == 1
  with pytest.raises(ValueError, match="Did you mean 'second'"):
    trained.load(tiny_run, stage='secnd')


def test_what_is_no_run_is_named(tiny_run, tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a run'):
    trained.load(tmp_path)
  (tmp_path / 'config.json').write_text((tiny_run / 'config.json').read_text())
  with pytest.raises(FileNotFoundError, match='No checkpoint'):
    trained.load(tmp_path)


def test_the_files_a_run_started_from_may_be_gone(tmp_path):
  config = tiny.get_config()
  config.model.backbone.weights = str(tmp_path / 'gone.safetensors')
  saved.save(config, str(tmp_path))
  # It gets as far as looking for the checkpoint, which was never made.
  with pytest.raises(FileNotFoundError, match='No checkpoint'):
    trained.load(tmp_path)


class TestTrainedOn:
  """Images of 'one' and 'two' have the same names."""

  SPLITS = {'fit': 'abc', 'test': 'bcd', 'rest': 'd'}

  @pytest.fixture(autouse=True)
  def data(self, monkeypatch):
    def load_source(name, split, folder, *, conditions=(), exclude=''):
      ids = [i for i in self.SPLITS[split] if i not in exclude]
      return [{'image_id': i, 'condition': 'pure', 'text': ''} for i in ids]

    monkeypatch.setattr(config_lib.datasets, 'load_source', load_source)

  def config(self, **stages):
    plain = {'split': 'fit', 'conditions': (), 'exclude': '', 'limit': 0}
    plain['init'] = ''
    sections = {name: plain | section for name, section in stages.items()}
    return {'data_dir': '', 'stages': tuple(stages), **sections}

  def count(self, data, config, split='test'):
    run = trained.Run('', config, None, {}, 0)
    return run.trained_on(data, config_lib.load_rows(data, split, ''))

  def test_any_stage_counts(self):
    config = self.config(free={'data': 'one'}, text={'data': 'two'})
    assert self.count('two', config) == 2
    assert self.count('three', config) == 0
    assert self.count('two', config, 'rest') == 0

  def test_joined_data_sets(self):
    config = self.config(free={'data': 'one + two'})
    assert self.count('two', config) == 2
    assert self.count('three+two', config) == 2
    assert self.count('one+two', config) == 4
    alone = self.config(free={'data': 'two'})
    assert self.count('three+two', alone) == 2

  @pytest.mark.parametrize(
    'options, count',
    [({'limit': 2}, 1), ({'exclude': 'b'}, 1), ({'exclude': 'bc'}, 0)],
  )
  def test_images_that_were_left_out_do_not_count(self, options, count):
    config = self.config(free={'data': 'two', **options})
    assert self.count('two', config) == count

  def test_the_runs_it_started_from_count(self, tmp_path, monkeypatch):
    first, second = tmp_path / 'first', tmp_path / 'second'
    configs = {
      str(first): self.config(a={'data': 'two'}),
      str(second): self.config(b={'data': 'one', 'init': str(first)}),
    }
    for folder in (first, second):
      folder.mkdir()
      (folder / 'config.json').touch()
    monkeypatch.setattr(trained.saved, 'load', configs.__getitem__)
    config = self.config(
      c={'data': 'four', 'init': str(second)},
      d={'data': 'four', 'init': '@c'},
    )
    assert self.count('two', config) == 2 and self.count('one', config) == 2

  def test_data_that_is_not_here_is_passed_over(self, monkeypatch):
    load = config_lib.datasets.load_source

    def load_source(name, *args, **options):
      if name == 'gone':
        raise FileNotFoundError(name)
      return load(name, *args, **options)

    monkeypatch.setattr(config_lib.datasets, 'load_source', load_source)
    config = self.config(a={'data': 'gone'}, b={'data': 'two'})
    assert self.count('two', config) == 2


def test_joined_rows_know_their_data_set(monkeypatch):
  monkeypatch.setattr(
    config_lib.datasets, 'load_source', lambda *args, **options: Toy(1)
  )
  rows = config_lib.load_rows('one + folder:two', 'test', '')
  names = [batches.meta(rows, k)['joined'] for k in (3, 4)]
  assert names == ['one', 'folder:two']


def test_a_run_moved_elsewhere_needs_no_other_file(tiny_run, run, tmp_path):
  moved = tmp_path / 'moved'
  shutil.copytree(tiny_run, moved)
  config = json.loads((moved / 'config.json').read_text())
  config['model']['text']['weights'] = str(tmp_path / 'gone')
  config['model']['backbone']['weights'] = str(tmp_path / 'gone.safetensors')
  (moved / 'config.json').write_text(json.dumps(config))
  pair = Toy(1)[0]['image'], 'salient of 2'
  there, here = (
    next(r.predictor().predict([pair])) for r in (trained.load(moved), run)
  )
  np.testing.assert_array_equal(there, here)
