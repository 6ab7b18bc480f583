import dataclasses
import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from toy_gaze import Toy

from salflax.data import batches as batches_lib
from salflax.data import kept, pp
from salflax.train import checkpoint, checks, features, loop, step
from salflax.train import stage as stages_lib


def go(stage, folder, *, devices=1):
  loop.train_stage(stage, str(folder / stage.name), tiny.mesh(devices))
  with open(folder / stage.name / 'result.json', encoding='utf-8') as f:
    return json.load(f)


def losses(folder):
  return [r['loss'] for r in tiny.read_metrics(folder / 'only') if 'loss' in r]


def made_up_scores(monkeypatch, *scores):
  """Has evaluations give these scores, one after another."""
  rest = iter(scores)
  monkeypatch.setattr(
    loop._Evaluation, '__call__', lambda *args: {'mit/cc': next(rest)}
  )
  monkeypatch.setattr(loop._Evaluation, '__init__', lambda *args: None)


@pytest.mark.slow
def test_the_loss_passes_a_bar(base, tmp_path):
  rows = Toy(4, conditions=('pure',))
  stage = dataclasses.replace(base, train_source=rows, steps=60, eval_every=100)
  result = go(stage, tmp_path)
  values = losses(tmp_path)
  assert np.mean(values[-8:]) < 0.5 * np.mean(values[:4])
  assert result['best_step'] == 60 and result['seconds'] > 0


@pytest.mark.slow
def test_interrupted_and_resumed_is_bit_for_bit_one_run(
  base, tmp_path, monkeypatch
):
  # More than two epochs, evaluated every third step.
  stage = dataclasses.replace(base, steps=12, log_every=2)
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  want = go(stage, whole)
  spent = [0.0]
  # After an evaluation, between two lines of the log, in the third epoch.
  for at, steps in ((3, 3), (5, 2), (11, 6)):
    with monkeypatch.context() as m, pytest.raises(loop.Interrupted):
      tiny.interrupt_after(m, steps)
      go(stage, parts)
    meta = parts / 'only' / 'checkpoints' / str(at) / 'meta' / 'metadata'
    spent.append(json.loads(meta.read_text())['extra']['seconds'])
  result = go(stage, parts)
  assert (np.diff([*spent, result['seconds']]) > -0.05).all()  # rounded
  for name in ('best_step', 'best_score'):
    assert result[name] == want[name]
  tiny.assert_same(tiny.last_state(stage, parts), tiny.last_state(stage, whole))
  lines = tiny.read_metrics(parts / 'only')
  assert lines == tiny.read_metrics(whole / 'only')
  steps = [r['step'] for r in lines if 'loss' in r]
  assert steps == [2, 3, 4, 6, 8, 9, 10, 12]
  assert list((parts / 'only' / 'tensorboard').glob('events.out.tfevents.*'))


@pytest.mark.slow
def test_the_number_of_devices_changes_nothing(tmp_path):
  config = tiny.get_config()
  # Not Adam, which turns the rounding of a gradient of nothing (a bias in
  # front of a batch normalisation) into whole steps.
  config.only.update(optimizer='sgd', lr=1e-3)
  (stage,) = tiny.stages(config, tmp_path)
  for devices in (1, 4):
    go(stage, tmp_path / str(devices), devices=devices)
  one, four = tmp_path / '1', tmp_path / '4'
  # float32 sums in another order, through six steps of training.
  np.testing.assert_allclose(losses(one), losses(four), rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
    tiny.last_state(stage, one),
    tiny.last_state(stage, four),
  )


@pytest.mark.slow
@pytest.mark.parametrize('bn', ['train', 'frozen'])
def test_what_is_frozen_keeps_its_bits(tmp_path, bn):
  config = tiny.get_config()
  config.model.backbone.bn = bn
  config.only.freeze = ('backbone/.*',)
  (stage,) = tiny.stages(config, tmp_path)
  assert ('backbone' in stage.stored) == (bn == 'frozen')
  start = stages_lib.initial_state(stage, tiny.mesh())
  go(stage, tmp_path)
  end = tiny.last_state(stage, tmp_path)
  tiny.assert_same(start.params['backbone'], end.params['backbone'])
  before, after = (
    jax.tree.leaves(s.batch_stats['backbone']) for s in (start, end)
  )
  moved = [not np.array_equal(a, b) for a, b in zip(before, after)]
  assert all(moved) if bn == 'train' else not any(moved)
  for part in ('decoder', 'encoder_4', 'encoder_8'):
    for a, b in zip(
      *map(jax.tree.leaves, (start.params[part], end.params[part]))
    ):
      assert not np.array_equal(a, b)


@pytest.mark.parametrize(
  'freeze, stored',
  [
    (('backbone/.*',), True),
    (('backbone/.*/kernel', 'backbone/.*/(scale|bias)'), True),
    (('backbone/.*/kernel',), False),
    (('backbone/(?!layer2).*',), False),
    ((), False),
  ],
)
def test_features_are_stored_only_of_what_is_frozen_whole(
  tmp_path, freeze, stored
):
  config = tiny.get_config()
  config.model.backbone.bn = 'frozen'
  config.only.freeze = freeze
  assert ('backbone' in tiny.stages(config, tmp_path)[0].stored) == stored


@pytest.mark.slow
def test_stored_features_and_sentences_change_nothing(tmp_path, monkeypatch):
  config = tiny.get_config(f'bert={tiny.bert_folder(tmp_path / "bert")}')
  config.model.backbone.bn = 'frozen'
  config.only.update(freeze=('backbone/.*', 'text/.*'), eval_epochs=10.0)
  config.only.optimizer = 'sgd(momentum=0.9)'
  (stage,) = tiny.stages(config, tmp_path)
  assert stage.stored == {'backbone', 'text'}
  stored = go(stage, tmp_path / 'stored')
  # One folder for images as they are, one for mirrored ones.
  assert len(list((tmp_path / 'cache').glob('taps-*'))) == 2
  # The same network, rounding and all, from images and word pieces.
  tokenize = stages_lib.word_pieces(stage.tokenizer)
  monkeypatch.setattr(stages_lib, 'finishers', lambda *args, **kwargs: tokenize)
  monkeypatch.setattr(features, 'without', lambda text, *names: text)
  make = kept.Kept
  monkeypatch.setattr(kept, 'Kept', lambda *args, images: make(*args))
  fresh = go(stage, tmp_path / 'fresh')
  np.testing.assert_allclose(
    losses(tmp_path / 'stored'), losses(tmp_path / 'fresh'), rtol=1e-5
  )
  assert stored['best_score'] == pytest.approx(fresh['best_score'], abs=1e-5)


@pytest.fixture(scope='module')
def with_text(tmp_path_factory):
  """A stage that reads sentences."""
  folder = tmp_path_factory.mktemp('text')
  config = tiny.get_config(f'bert={tiny.bert_folder(folder / "bert")}')
  (stage,) = tiny.stages(config, folder)
  return stage


@pytest.mark.slow
def test_the_sentence_reaches_the_loss(with_text):
  stage = with_text
  state = stages_lib.initial_state(stage, tiny.mesh())
  # The form of fusion starts as the identity: any other weights will do.
  other = jax.tree.map(lambda x: x + 0.1, state.params['fusion_8'])
  params = dict(state.params, fusion_8=other)
  batch = next(iter(stages_lib.train_batches(stage, state.variables)))
  variables = dict(state.variables, params=params)
  predict = step.make_predict_fn(stage.model, tiny.mesh())
  maps = [
    np.asarray(predict(variables, stages_lib.model_keys(b)))
    for b in (batch, dict(batch, tokens=batch['tokens'][::-1].copy()))
  ]
  assert np.abs(maps[0] - maps[1]).max() > 1e-6


@pytest.mark.slow
def test_published_weights_replace_what_would_be_drawn(with_text):
  stage = with_text
  state = stages_lib.initial_state(stage, tiny.mesh())
  (_, load, _), *_ = stage.weights
  tiny.assert_same(state.params['text'], load()['params'])
  drawn = stages_lib.initial_state(
    dataclasses.replace(stage, weights=()), tiny.mesh()
  )
  assert not np.array_equal(
    drawn.params['text']['embeddings']['word_embeddings']['embedding'],
    state.params['text']['embeddings']['word_embeddings']['embedding'],
  )
  rest = lambda s: {k: v for k, v in s.params.items() if k != 'text'}
  tiny.assert_same(rest(state), rest(drawn))
  tiny.assert_same(state.opt_state, drawn.opt_state)


def two_stages(tmp_path):
  config = tiny.get_config(f'bert={tiny.bert_folder(tmp_path / "bert")}')
  config.second = config.only.copy_and_resolve_references()
  config.stages = ('only', 'second')
  config.only.update(steps=3, eval_epochs=0.2)
  config.second.update(steps=1, init='@only')
  return tiny.stages(config, tmp_path)


@pytest.mark.slow
def test_a_later_stage_starts_from_the_best_not_the_last(tmp_path, monkeypatch):
  stages = two_stages(tmp_path)
  starts = []
  start = stages_lib.initial_state
  # A copy: what the loop starts from is donated.
  keep = lambda s: starts.append(jax.device_get(s)) or s
  monkeypatch.setattr(stages_lib, 'initial_state', lambda *a: keep(start(*a)))
  made_up_scores(monkeypatch, 0.1, 0.7, 0.4, 0.2)
  result = loop.run(stages, str(tmp_path))
  assert result['best_step'] == 1 and result['best_score'] == 0.2
  best = tiny.last_state(stages[0], tmp_path, at=2)
  tiny.assert_same(starts[1].variables, best.variables)
  assert int(starts[1].step) == 0
  # Finished stages are left alone, without their checkpoints even.
  (tmp_path / 'only' / 'checkpoints').rename(tmp_path / 'gone')
  assert loop.run(stages, str(tmp_path)) == result
  assert len(starts) == 2


def nan_in(stage, row):
  """Returns the stage with a loss that is NaN where it meets a row."""

  def loss_fn(pred, batch):
    loss, terms = stage.loss_fn(pred, batch)
    bad = jnp.where(jnp.any(batch['index'] == row), jnp.nan, 1.0)
    return loss * bad, terms

  return dataclasses.replace(stage, loss_fn=loss_fn)


@pytest.mark.slow
def test_a_nan_is_named_with_its_images(base, tmp_path):
  stage = dataclasses.replace(base, log_every=10)
  batches = batches_lib.train_batches(
    *(stage.train_source, pp.make(stage.pp)),
    **dict(batch_size=stage.batch_size, seed=stage.seed),
  )
  rows = [b['index'].tolist() for _, b in zip(range(5), batches)]
  (row,) = rows[4][:1]
  with pytest.raises(FloatingPointError) as e:
    go(nan_in(stage, row), tmp_path / 'nan')
  assert 'Stage only, step 5: not finite (' in str(e.value)
  assert 'loss nan' in str(e.value)
  for index in rows[4]:
    assert batches_lib.describe(stage.train_source, index) in str(e.value)
  report = tmp_path / 'nan' / 'only' / 'diverged.json'
  assert json.loads(report.read_text()) == {'step': 5, 'message': str(e.value)}
  # The checkpoint before it is whole: the run goes on as if it never was.
  assert int(tiny.last_state(stage, tmp_path / 'nan').step) == 3
  go(stage, tmp_path / 'nan')
  assert not report.exists()
  go(stage, tmp_path / 'well')
  tiny.assert_same(
    tiny.last_state(stage, tmp_path / 'nan'),
    tiny.last_state(stage, tmp_path / 'well'),
  )


@pytest.mark.parametrize('delay', [0.0, 0.15])
def test_waits_for_data_are_told_apart(
  base, tmp_path, monkeypatch, caplog, delay
):
  def batches(*args, **kwargs):
    rows = stages_lib_batches(*args, **kwargs)
    ready = [next(iter(rows))] * 8
    return (time.sleep(delay) or batch for batch in ready)

  stages_lib_batches = stages_lib.train_batches
  monkeypatch.setattr(stages_lib, 'train_batches', batches)
  made_up_scores(monkeypatch, 0.5)
  stage = dataclasses.replace(base, steps=8, log_every=4, eval_every=8)
  with caplog.at_level('INFO', 'salflax'):
    result = go(stage, tmp_path)
  with open(tmp_path / 'only' / 'metrics.jsonl', encoding='utf-8') as f:
    lines = [json.loads(line) for line in f]
  shares = [r['data_wait'] for r in lines if 'data_wait' in r]
  assert len(shares) == 2 and 0 <= min(shares) <= max(shares) <= 1
  waited = result['data_wait'] * result['seconds']
  assert waited > 7 * delay if delay else shares[-1] < 0.5
  assert caplog.text.count('waiting for data') == 3  # the last is the end's


@pytest.mark.slow
def test_early_stop_counts_on_after_a_resume(base, tmp_path, monkeypatch):
  stage = dataclasses.replace(base, steps=20, eval_every=1, patience=2)
  scores = (0.1, 0.3, 0.2, 0.3, 0.2, 0.1, 0.9)  # an equal one counts as better
  made_up_scores(monkeypatch, *scores)
  whole = go(stage, tmp_path / 'whole')
  assert whole['best_step'] == 4
  assert tiny.read_metrics(tmp_path / 'whole' / 'only')[-1]['step'] == 6
  made_up_scores(monkeypatch, *scores)
  with monkeypatch.context() as m, pytest.raises(loop.Interrupted):
    tiny.interrupt_after(m, 5)
    go(stage, tmp_path / 'parts')
  assert go(stage, tmp_path / 'parts')['best_step'] == 4
  lines = [tiny.read_metrics(tmp_path / k / 'only') for k in ('whole', 'parts')]
  assert lines[0] == lines[1]


@pytest.mark.slow
def test_the_best_and_the_last_are_kept(base, tmp_path, monkeypatch):
  stage = dataclasses.replace(base, eval_every=1)
  made_up_scores(monkeypatch, 0.2, 0.9, 0.9, 0.1, 0.3, 0.2)
  assert go(stage, tmp_path)['best_step'] == 3
  folder = tmp_path / 'only' / 'checkpoints'
  assert sorted(p.name for p in folder.iterdir()) == ['3', '6']
  abstract = stages_lib.abstract_state(stage)
  variables, at = checkpoint.load_variables(str(folder), abstract, tiny.mesh())
  assert at == 3
  tiny.assert_same(variables, tiny.last_state(stage, tmp_path, 3).variables)


def test_a_score_that_cannot_be_measured_is_an_error(
  base, tmp_path, monkeypatch
):
  stage = base
  made_up_scores(monkeypatch, math.nan)
  with pytest.raises(ValueError, match='mit/cc'):
    go(stage, tmp_path)


@pytest.mark.parametrize(
  'workers', [0, pytest.param(2, marks=pytest.mark.slow)]
)
def test_batches_go_on_where_an_earlier_run_stopped(workers):
  make = lambda **options: iter(
    batches_lib.train_batches(
      *(Toy(5), pp.make(tiny.PP)), batch_size=4, seed=3, **options
    )
  )
  whole = make()
  want = [next(whole) for _ in range(9)]
  rest = make(start=6, workers=workers)
  for batch in want[6:]:
    tiny.assert_same(batch, next(rest))


@pytest.mark.slow
@pytest.mark.parametrize('score', ['mit/ig', 'mit/auc_shuffled'])
def test_a_score_that_needs_training_images_gets_them(tmp_path, score):
  config = tiny.get_config()
  config.only.update(score=score, steps=1)
  train, held_out = Toy(3), Toy(2, seed=1)
  for row in train.rows:
    row['image_id'] += ' of training'
  (stage,) = tiny.stages(config, tmp_path, train=train, held_out=held_out)
  checks.check(stage)
  assert math.isfinite(go(stage, tmp_path)['best_score'])
