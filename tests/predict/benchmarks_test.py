"""Files of benchmarks, and models of pysaliency."""

import os
import pathlib

import numpy as np
import pytest
import tiny
from PIL import Image
from toy_gaze import Toy

from salflax import metrics
from salflax.data import densities, maps
from salflax.evaluate import map_folder, map_names
from salflax.evaluate import scorer as scorer_lib
from salflax.metrics import location
from salflax.predict import benchmarks
from salflax.predict.predictor import Predictor


@pytest.fixture(scope='module')
def toy():
  toy = Toy(6, ('pure',))
  toy.rows[0]['image_id'] = 'Action/001'  # as in CAT2000
  return toy


@pytest.fixture(scope='module')
def saliency(toy):
  """Maps as a network gives them, some of them with zeros."""
  rng = np.random.default_rng(0)
  result = []
  for row in toy.rows:
    noise = rng.random(row['saliency'].shape[:2])
    values = row['saliency'][..., 0] / 255 + 0.2 * noise
    result.append(np.maximum(values - 0.15, 0).astype(np.float32))
  return result


class Fixed:
  """A predictor that gives the maps of a source in order."""

  def __init__(self, saliency):
    self.saliency = saliency

  def predict_rows(self, source, indexes):
    return (self.saliency[i] for i in indexes)


@pytest.fixture(scope='module')
def score(toy):
  protocols = metrics.bind_protocols(['mit|emd(cell=8)', 'tuebingen'])
  uniform = lambda condition, size: np.full(size, 1 / np.prod(size))
  scorer = scorer_lib.Scorer(toy, protocols, baseline=uniform)
  return lambda predictor: scorer_lib.score(predictor, scorer)


def named(toy, saliency, suffix='.jpg'):
  names = [row['image_id'] + suffix for row in toy.rows]
  return zip(names, saliency, strict=True)


def assert_scores(rows, others, **tolerance):
  for row, other in zip(rows, others, strict=True):
    for key in [key for key in row if '/' in key]:
      assert row[key] == pytest.approx(other[key], **tolerance), key


class TestTuebingen:
  @pytest.fixture(autouse=True)
  def h5py(self):
    return pytest.importorskip('h5py')

  @pytest.mark.parametrize('dtype, error', [('float32', 1e-5), ('float64', 0)])
  def test_scores_come_back(self, toy, saliency, score, tmp_path, dtype, error):
    path = tmp_path / 'maps.hdf5'
    benchmarks.write_tuebingen(path, named(toy, saliency), dtype=dtype)
    matched = map_names.match(path, toy)
    assert matched.missing == matched.extra == []
    checked = map_folder.check(matched, toy)
    assert map_folder.faults(matched, checked) == []
    assert checked.misshapen == {} and not checked.resized
    again = score(map_folder.MapFolder(matched.paths))
    # Read as float32, as every map is.
    assert_scores(again, score(Fixed(saliency)), abs=error or 2e-6)

  def test_the_file_is_what_the_benchmark_asks_for(
    self, toy, saliency, tmp_path, h5py
  ):
    path = tmp_path / 'maps.hdf5'
    benchmarks.write_tuebingen(path, named(toy, saliency))
    with h5py.File(path) as file:
      assert file['Action']['001.jpg'].shape == saliency[0].shape
      for name in densities.names(path):
        total = np.exp(file[name][()].astype(np.float64)).sum()
        assert abs(np.log(total)) < 1e-3 and file[name].dtype == np.float32
        assert np.isfinite(file[name][()]).all()
    twice = tmp_path / 'again.hdf5'
    benchmarks.write_tuebingen(twice, named(toy, saliency))
    assert path.read_bytes() == twice.read_bytes()

  @pytest.mark.parametrize(
    'change, message',
    [
      (lambda x: x + 0.002, 'the log of the sum of its densities is 0.002'),
      (lambda x: np.exp(x), 'the log of the sum'),
      (lambda x: x * np.nan, 'holds NaN'),
      (lambda x: x[None], r'expected \[h, w\]'),
      (lambda x: np.zeros(x.shape, int), 'holds no numbers for a.jpg'),
    ],
  )
  def test_what_is_no_log_density_is_named(
    self, saliency, tmp_path, h5py, change, message
  ):
    path = tmp_path / 'a.hdf5'
    with h5py.File(path, 'w') as file:
      file['a.jpg'] = change(benchmarks.log_density(saliency[0]))
    with pytest.raises(ValueError, match=f'a.jpg.*{message}'):
      maps.read_map(path / 'a.jpg')

  def test_a_file_that_cannot_be_written_leaves_the_old_one(
    self, saliency, tmp_path
  ):
    path = tmp_path / 'a.hdf5'
    path.write_text('old')
    a, b = saliency[:2]
    for wrong, message in [
      ([('a.png', a), ('a.png', b)], 'a.png is there twice'),
      ([('../a.png', a)], 'no name of an image'),
      ([('a.png', a), ('b.png', -b)], 'b.png: .*negative'),
    ]:
      with pytest.raises(ValueError, match=message):
        benchmarks.write_tuebingen(path, wrong)
      assert path.read_text() == 'old' and len(os.listdir(tmp_path)) == 1

  def test_no_hdf5_and_an_empty_one(self, toy, tmp_path, h5py):
    path = tmp_path / 'a.hdf5'
    path.write_text('no')
    with pytest.raises(ValueError, match='is no HDF5'):
      map_names.match(path, toy)
    h5py.File(path, 'w').close()
    with pytest.raises(FileNotFoundError, match='holds no map'):
      map_names.match(path, toy)

  def test_links_out_of_the_file_are_not_followed(
    self, saliency, tmp_path, h5py
  ):
    benchmarks.write_tuebingen(tmp_path / 'b.hdf5', [('a.png', saliency[0])])
    with h5py.File(tmp_path / 'a.hdf5', 'w') as file:
      file['x.png'] = h5py.ExternalLink(str(tmp_path / 'b.hdf5'), 'a.png')
    assert densities.names(tmp_path / 'a.hdf5') == []


class TestSalicon:
  def test_scores_come_back(self, toy, saliency, score, tmp_path):
    benchmarks.write_salicon(tmp_path, named(toy, saliency))
    path = tmp_path / 'picture01.png'
    image = Image.open(path)
    assert image.mode == 'L' and np.asarray(image).max() == 255
    matched = map_names.match(tmp_path, toy)
    assert matched.missing == matched.extra == []
    again = score(map_folder.MapFolder(matched.paths))
    # As those of the rounded maps, to the last bit of float32.
    rounded = [np.floor(s / s.max() * 255.0 + 0.5) for s in saliency]
    assert_scores(again, score(Fixed(rounded)), abs=1e-6)
    # And as those of the maps themselves, but for rounding and ties.
    assert_scores(again, score(Fixed(saliency)), abs=0.05)

  def test_wrong_maps_are_named(self, saliency, tmp_path):
    a = saliency[0]
    with pytest.raises(ValueError, match='a.png is there twice'):
      benchmarks.write_salicon(tmp_path, [('a.jpg', a), ('a.png', a)])
    with pytest.raises(ValueError, match='b.jpg: .*NaN'):
      benchmarks.write_salicon(tmp_path, [('b.jpg', a * np.nan)])
    assert os.listdir(tmp_path) == ['a.png']

  @pytest.mark.parametrize('name', ['{}/a.png', '../a.png', 'b/../../a.png'])
  def test_nothing_is_written_outside(self, saliency, tmp_path, name):
    name = name.format(tmp_path)
    with pytest.raises(ValueError, match='no name of an image .*relative'):
      benchmarks.write_salicon(tmp_path / 'out', [(name, saliency[0])])
    assert os.listdir(tmp_path) == []


class TestPysaliency:
  @pytest.fixture(scope='class')
  def world(self, toy):
    """pysaliency, and stimuli and fixations of the toy images."""
    pysaliency = pytest.importorskip('pysaliency')
    stimuli = pysaliency.Stimuli([row['image'] for row in toy.rows])
    rows = [row['fixations'] for row in toy.rows]
    numbers = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    y, x = np.concatenate(rows).T
    fixations = pysaliency.Fixations.create_without_history(x, y, numbers)
    with pytest.MonkeyPatch.context() as patch:
      # pysaliency 0.2.22 calls it by a name that NumPy 2.4 has dropped.
      patch.setattr(np, 'trapz', np.trapezoid, raising=False)
      yield pysaliency, stimuli, fixations

  def scores(self, toy, predicted):
    """Computes AUC and NSS over all fixations, as pysaliency averages."""
    pairs = [*zip(predicted, toy.rows, strict=True)]
    # All images have as many fixations.
    return [
      np.mean([fn(pred, row['fixations']) for pred, row in pairs])
      for fn in (location.auc, location.nss)
    ]

  def test_its_models_score_as_it_says(self, toy, world):
    pysaliency, stimuli, fixations = world
    model = pysaliency.GaussianSaliencyMapModel(width=0.3)
    predictor = benchmarks.PysaliencyPredictor(model)
    pairs = [(row['image'], 'unread') for row in toy.rows]
    auc, nss = self.scores(toy, predictor.predict(pairs))
    assert auc == pytest.approx(model.AUC(stimuli, fixations), abs=1e-9)
    assert nss == pytest.approx(model.NSS(stimuli, fixations), abs=1e-9)

  def test_its_probabilistic_models_give_densities(self, toy, world):
    pysaliency, _, _ = world
    predictor = benchmarks.PysaliencyPredictor(pysaliency.UniformModel())
    (density,) = predictor.predict([(toy.rows[0]['image'], '')])
    assert density.sum() == pytest.approx(1)

  def test_negative_saliency_is_raised(self, toy, world):
    pysaliency, _, _ = world
    model = pysaliency.GaussianSaliencyMapModel()
    predictor = benchmarks.PysaliencyPredictor(model - model - model)
    (saliency,) = predictor.predict([(toy.rows[0]['image'], '')])
    assert saliency.min() == 0 < saliency.max()

  def test_our_model_scores_there_as_here(self, toy, world):
    pysaliency, stimuli, fixations = world
    predictor = Predictor(tiny.red_predictor())
    model = benchmarks.to_pysaliency(predictor, 'the red')
    assert isinstance(model, pysaliency.SaliencyMapModel)
    predicted = [predictor(row['image'], 'the red') for row in toy.rows]
    np.testing.assert_array_equal(model.saliency_map(stimuli[0]), predicted[0])
    auc, nss = self.scores(toy, predicted)
    assert model.AUC(stimuli, fixations) == pytest.approx(auc, abs=1e-9)
    assert model.NSS(stimuli, fixations) == pytest.approx(nss, abs=1e-6)

  def test_it_reads_our_file(self, toy, world, saliency, tmp_path):
    pysaliency, _, fixations = world
    paths = []
    for row in toy.rows:
      path = pathlib.Path(tmp_path / 'images' / f'{row["image_id"]}.png')
      path.parent.mkdir(parents=True, exist_ok=True)
      Image.fromarray(row['image']).save(path)
      paths.append(str(path))
    stimuli = pysaliency.FileStimuli(paths)
    positive = [s + 0.01 for s in saliency]
    file = tmp_path / 'maps.hdf5'
    benchmarks.write_tuebingen(file, named(toy, positive, '.png'))
    model = pysaliency.HDF5Model(stimuli, str(file))
    gain = model.information_gain(
      stimuli, fixations, baseline_model=pysaliency.UniformModel()
    )
    # All images have as many fixations.
    gains = [
      location.ig(p, row['fixations'], np.ones(p.shape), eps=0, floor=0)
      for p, row in zip(positive, toy.rows, strict=True)
    ]
    assert gain == pytest.approx(np.mean(gains), abs=1e-5)
