import json

import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax.config import resolve as config_lib
from salflax.evaluate import rows as rows_lib
from salflax.evaluate import scorer
from salflax.predict import trained
from salflax.train import loop

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module', params=['trained', 'frozen'])
def workdir(request, tmp_path_factory):
  """A finished run whose data is gone."""
  folder = tmp_path_factory.mktemp('run')
  bert = tiny.bert_folder(folder / 'bert')
  config = tiny.get_config(f'bert={bert},data=folder:gone')
  config.second = config.only.copy_and_resolve_references()
  config.stages = ('only', 'second')
  config.only.update(steps=1)
  config.second.update(steps=4, init='@only', conditions=())
  if request.param == 'frozen':
    config.model.backbone.bn = 'frozen'
    config.second.freeze = ('backbone/.*', 'text/.*')
  config_lib.save(config, str(folder))
  stages = tiny.stages(config, folder)
  assert ('backbone' in stages[1].stored) == (request.param == 'frozen')
  loop.run(stages, str(folder))
  return folder


def test_a_run_gives_the_maps_of_its_training(workdir):
  run = trained.load(workdir)
  result = json.loads((workdir / 'second' / 'result.json').read_text())
  assert (run.stage.name, run.at) == ('second', result['best_step'])
  source = Toy(1, seed=1)  # the rows that `tiny.stages` evaluates
  rows = scorer.evaluate(
    run.predict_fn,
    run.variables,
    run.eval_batches(source),
    source,
    run.stage.protocols,
  )
  # Batches of another size round elsewhere, and stored features once more.
  score = rows_lib.means(rows)[run.stage.score]
  assert score == pytest.approx(result['best_score'], abs=1e-5)
  # Stored or not, a picture gives the same map.
  plain, stored = (
    next(run.eval_batches(source, store=store)) for store in (False, True)
  )
  assert ('taps' in stored) == run.stage.store_taps
  np.testing.assert_allclose(
    run.predict_fn(run.variables, stored),
    run.predict_fn(run.variables, plain),
    rtol=1e-4,
    atol=1e-6,
  )


def test_it_predicts_without_its_data(workdir):
  run = trained.load(workdir)
  image = Toy(1)[0]['image']
  batch = run.preprocess(image, 'salient of 2')
  batch = {k: np.repeat(v, 4, axis=0) for k, v in batch.items()}
  found = np.asarray(run.predict_fn(run.variables, batch))
  assert found.shape == (4, 32, 32) and found.std() > 0
  np.testing.assert_array_equal(found[0], found[3])
  with pytest.raises(FileNotFoundError, match='folder:gone'):
    run.load_source()


def test_a_stage_by_name(workdir):
  assert trained.load(workdir, stage='only').at == 1
  with pytest.raises(ValueError, match="Did you mean 'second'"):
    trained.load(workdir, stage='secnd')


def test_what_is_no_run_is_told(workdir, tmp_path):
  with pytest.raises(FileNotFoundError, match='is not a run'):
    trained.load(tmp_path)
  (tmp_path / 'config.json').write_text((workdir / 'config.json').read_text())
  with pytest.raises(FileNotFoundError, match='No checkpoint'):
    trained.load(tmp_path)


def test_pictures_that_some_stage_was_trained_on_are_counted(monkeypatch):
  rows = {'fit': 'abc', 'test': 'bcd'}

  def load_rows(names, split, folder):
    return [{'image_id': i} for i in rows[split]]

  monkeypatch.setattr(trained.config_lib, 'load_rows', load_rows)
  config = {
    'data_dir': '',
    'stages': ('free', 'text'),
    'free': {'data': 'one+two', 'split': 'fit'},
    'text': {'data': 'three', 'split': 'fit'},
  }
  run = trained.Run('', config, None, {}, 0, None, ())
  scored = [{'image_id': i} for i in 'bcd']
  assert run.trained_on('two', scored) == 2
  assert run.trained_on('four', scored) == 0


def test_the_files_a_run_started_from_may_be_gone(tmp_path, monkeypatch):
  config = tiny.get_config()
  config.model.backbone.weights = str(tmp_path / 'gone.safetensors')
  workdir = tmp_path / 'run'
  monkeypatch.setattr(config_lib, 'load', lambda _: config_lib.plain(config))
  # It gets as far as looking for the checkpoint, which was never made.
  with pytest.raises(FileNotFoundError, match='No checkpoint'):
    trained.load(workdir)
