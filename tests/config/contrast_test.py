"""The image through its map against its sentence: alone, and in training."""

import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
import tiny
from tiny_config import put
from toy_gaze import Toy

from configs import common
from salflax.config import contrast as contrast_lib
from salflax.config import network, saved
from salflax.config import resolve as config_lib
from salflax.core import parallel
from salflax.data import batches, pp
from salflax.losses import matching
from salflax.models.contrast import Compared, Contrast, masked, visual_tokens
from salflax.models.layers import TextFeatures, shrink
from salflax.predict import trained
from salflax.train import checks, loop, optim, step
from salflax.train import stage as stages_lib

SIZE = (16, 24)
SMALL = dict(dim=8, hidden=8)


@pytest.fixture(scope='module')
def bert(tmp_path_factory):
  return tiny.bert_folder(tmp_path_factory.mktemp('bert'))


class Cells(nn.Module):
  """A tower: means of 8x8 pixels, after twice that of the whole image."""

  @nn.compact
  def __call__(self, image, *, train):
    assert not train
    x = shrink(image, factor=8 if image.shape[1] > 8 else 4)
    mix = self.param('mix', nn.initializers.normal(1.0), (3, 5))
    x = jnp.einsum('bhwc,cd->bhwd', x, mix).reshape(len(x), -1, 5)
    return jnp.concatenate([2 * x.mean(1, keepdims=True), x], 1)


def inputs(rows=3):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(rows, *SIZE, 3)).astype(np.float32)
  pred = rng.uniform(0.1, 0.6, (rows, *SIZE)).astype(np.float32)
  ids = rng.integers(1, 11, (rows, 6)).astype(np.int32)
  mask = np.arange(6) < np.array([6, 4, 5])[:rows, None]
  words = rng.normal(size=(rows, 6, 4)).astype(np.float32)
  return image, pred, TextFeatures(words, mask, words[:, 0]), ids


def make(**options):
  defaults = dict(vision=Cells(), dim=4, hidden=4, vocab_size=11)
  return Contrast(**(defaults | options))


def apply(model, *args, variables=None, **options):
  if variables is None:
    variables = made_up.variables(model, *args, train=False, **options)
  return model.apply(variables, *args, train=False, **options)


# What is seen.


def test_a_mask_of_ones_shows_the_image():
  image, pred, *_ = inputs()
  black = (-2.0, -1.0, 0.5)
  for mask in ('max', 'raw', 'released'):
    seen = masked(image, np.ones_like(pred), mask=mask, black=black)
    np.testing.assert_allclose(seen, image, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', pp.NORMALIZATIONS)
def test_what_is_masked_is_black_before_it_is_normalised(name):
  text = f'resize_pad(16, 24)|rasterize|normalize("{name}")'
  pixels = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
  share = np.random.default_rng(1).uniform(0, 1, SIZE).astype(np.float32)
  _, mean, std = pp.normalization(text)
  black = tuple((-np.array(mean) / std).tolist())
  normal = lambda x: pp.normalize({'image': x}, None, name)['image']
  actual = masked(normal(pixels)[None], share[None], mask='raw', black=black)
  want = normal(pixels * share[..., None])
  np.testing.assert_allclose(actual[0], want, rtol=1e-4, atol=1e-4)


def test_a_dim_map_shows_as_much_as_a_bright_one():
  image, pred, *_ = inputs()
  see = functools.partial(masked, image, black=(-2.0, -2.0, -2.0))
  np.testing.assert_allclose(see(pred), see(0.01 * pred), rtol=1e-4, atol=1e-5)
  raw, dim = (np.asarray(see(x, mask='raw')) for x in (pred, 0.01 * pred))
  assert np.abs(raw - dim).max() > 0.5


def test_padding_is_neither_seen_nor_the_maximum():
  image, pred, *_ = inputs()
  where = np.ones_like(pred, bool)
  where[:, :, 20:] = False
  bright = np.where(where, pred, 1.0).astype(np.float32)
  black = (-3.0, -2.0, -1.0)
  actual = masked(image, bright, where=where, black=black)
  want = masked(image[:, :, :20], pred[:, :, :20], black=black)
  np.testing.assert_allclose(actual[:, :, :20], want, rtol=1e-6)
  assert (np.asarray(actual)[:, :, 20:] == np.float32(black)).all()


@pytest.mark.parametrize('mask', ['max', 'raw', 'released'])
@pytest.mark.parametrize('value', [0.0, 1e-12, 1.0])
def test_flat_maps_are_finite(mask, value):
  image, pred, *_ = inputs()
  see = lambda p: jnp.square(masked(image, p, mask=mask)).sum()
  actual, gradient = jax.value_and_grad(see)(jnp.full_like(pred, value))
  assert np.isfinite(actual) and np.isfinite(gradient).all()


def test_shrinking_takes_means():
  image = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
  actual = shrink(image, factor=2)
  np.testing.assert_allclose(actual[1, 1, 2], image[1, 2:, 4:].mean((0, 1)))
  np.testing.assert_array_equal(shrink(image, factor=1), image)
  with pytest.raises(ValueError, match='stride=4 does not divide .*4 x 6'):
    shrink(image, factor=4)


def test_tokens_are_the_cells_of_the_coarsest_level():
  levels = {'1/8': np.zeros((2, 4, 6, 3)), '1/16': np.ones((2, 2, 3, 5))}
  assert visual_tokens(levels).shape == (2, 6, 5)
  assert visual_tokens(np.zeros((2, 7, 3))).shape == (2, 7, 3)


# What is compared.


def test_the_common_space():
  model, args = make(), inputs()
  actual = apply(model, *args)
  assert actual.images.shape == actual.sentences.shape == (3, 4)
  assert actual.nll.shape == (3,) and (actual.nll > 0).all()
  first = apply(make(pool='first'), *args)
  np.testing.assert_allclose(actual.sentences, first.sentences)
  assert np.abs(actual.images - first.images).max() > 1e-3


def test_the_released_space_is_that_of_all_tokens():
  args = inputs()
  model = make(kind='order', caption=False, mask='released')
  variables = made_up.variables(model, *args, train=False)
  actual = apply(model, *args, variables=variables)
  assert actual.images.shape == actual.sentences.shape == (3, (1 + 2 * 3) * 5)
  assert actual.nll is None
  tower = {'params': variables['params']['vision']}
  tokens = Cells().apply(tower, args[1][..., None] * args[0], train=False)
  np.testing.assert_allclose(actual.images, tokens.reshape(3, -1), rtol=1e-5)
  assert set(variables['params']) == {'vision', 'sentence'}


def test_a_tower_gets_the_pixels_it_expects():
  """One that was trained on RGB beside a network that was not."""
  node = common.contrast(
    caption=0.0, vision=dict(name='resnet', width=2, normalize='imagenet')
  )
  ours = 'resize_pad(16, 24)|normalize("caffe_resnet")'
  config = tiny.get_config()
  model, *_ = network.make(
    config_lib.plain(config)['model'], config_lib.DTYPES['float32']
  )
  words = type('Words', (), {'vocab_size': 11})
  model, *_ = contrast_lib.attach(config_lib.plain(node), model, ours, words)
  pixels = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
  ops = lambda name: pp.normalize({'image': pixels}, None, name)['image']
  actual = model.contrast._repainted(ops('caffe_resnet'))
  np.testing.assert_allclose(actual, ops('imagenet'), atol=1e-5)


def test_gradients_reach_the_map_through_a_tower():
  model, (image, pred, text, ids) = make(), inputs()
  variables = made_up.variables(model, image, pred, text, ids, train=False)

  @jax.jit
  @jax.grad
  def gradient(pred):
    seen = apply(model, image, pred, text, ids, variables=variables)
    return (seen.images * seen.sentences).sum() + seen.nll.sum()

  got = gradient(jnp.asarray(pred))
  assert np.isfinite(got).all() and (got != 0).mean() > 0.9


@pytest.mark.parametrize(
  'options, says',
  [
    (dict(kind='vsnr'), "'vsnr'. Did you mean 'vsrn'"),
    (dict(mask='rwa'), "'rwa'. Did you mean 'raw'"),
    (dict(pool='frist'), "'frist'. Did you mean 'first'"),
    (dict(stride=5), 'stride=5 does not divide'),
  ],
)
def test_attributes_that_do_not_fit_are_named(options, says):
  with pytest.raises(ValueError, match=says):
    apply(make(**options), *inputs())


# In training.


def configured(bert, *, frozen=False, **contrast):
  config = tiny.get_config(f'bert={bert}')
  if frozen:
    config.model.backbone.bn = 'frozen'
    config.only.freeze = ('backbone/.*', 'text/.*')
  if contrast:
    config.only.contrast = common.contrast(**(SMALL | contrast))
  return config


@pytest.fixture(scope='module')
def frozen(bert, tmp_path_factory):
  """A stage whose backbone and text stay as they are, and its first state."""
  folder = tmp_path_factory.mktemp('frozen')
  config = configured(bert, frozen=True, kind='vsrn')
  # Adam would make something of gradients that are nothing but rounding.
  config.only.update(optimizer='sgd', lr=1e-2)
  (stage,) = tiny.stages(config, folder)
  state = stages_lib.initial_state(stage, tiny.mesh())
  return stage, jax.device_get(state)


@pytest.fixture(scope='module')
def batch(frozen):
  stage, state = frozen
  return next(iter(stages_lib.train_batches(stage, state.variables)))


def test_batches_have_what_is_compared(frozen, batch):
  stage, state = frozen
  assert stage.stored == {'backbone', 'text'}
  assert {'taps', 'image', 'text_tokens', 'tokens', 'image_number'} <= set(
    batch
  )
  assert batch['image'].dtype == np.float32  # normalised
  rows = [stage.train_source.meta(int(i)) for i in batch['index']]
  alike = [[a['image_id'] == b['image_id'] for a in rows] for b in rows]
  same = batch['image_number'][:, None] == batch['image_number']
  np.testing.assert_array_equal(same, alike)
  # The features are those of the very image, mirrored or not.
  taps = step.encode_image(stage.model, state.variables, batch['image'])
  for level, x in taps.items():
    np.testing.assert_allclose(x, batch['taps'][level], rtol=2e-2, atol=2e-3)
  # Stored sentences keep the tokenizer's word on which are some.
  words = np.array([bool(row['text']) for row in rows])
  np.testing.assert_array_equal(batch['token_mask'].any(-1), words)


def test_images_of_joined_data_sets_differ():
  rows = batches.Joined([Toy(2, ('pure',)), Toy(2, ('pure',))])
  numbers = [
    int(batches.number_image(rows[i])['image_number']) for i in range(4)
  ]
  assert len(set(numbers)) == 4
  again = batches.number_image(dict(rows[1], text='another'))
  assert int(again['image_number']) == numbers[1]
  assert again['image_number'].dtype == np.int32


def test_the_rest_of_the_network_is_drawn_as_without(bert, frozen, tmp_path):
  (plain,) = tiny.stages(configured(bert, frozen=True), tmp_path)
  plain = jax.device_get(stages_lib.initial_state(plain, tiny.mesh()))
  params = dict(frozen[1].params)
  assert set(params.pop('contrast')) == {'captioner', 'picture', 'sentence'}
  tiny.assert_same(params, plain.params)
  tiny.assert_same(frozen[1].batch_stats, plain.batch_stats)


def test_without_weights_it_is_the_stage_without(bert, tmp_path):
  none = dict(kind='vsrn', matching=0.0, caption=0.0)
  plain, with_none = (
    tiny.stages(configured(bert, **options), tmp_path)[0]
    for options in ({}, none)
  )
  assert with_none.contrast_fn is None and with_none.model.contrast is None
  for name in ('model', 'loss', 'freeze', 'pp', 'lr_scale', 'steps', 'seed'):
    assert getattr(plain, name) == getattr(with_none, name), name
  assert [w[0] for w in plain.weights] == [w[0] for w in with_none.weights]


def test_the_loss_reaches_the_map_on_any_devices(frozen, batch):
  """With nothing else to learn, the decoder follows the comparison.

  Negatives are those of the whole batch; what each device drops is drawn for
  the whole batch, too.
  """
  stage, start = frozen
  nothing = lambda pred, batch: (0.0 * pred.sum(), {})
  key = jax.random.key_data(jax.random.key(0))
  ends = []
  for devices in (1, 4):
    train_step = step.make_train_step(
      *(stage.model, nothing, stage.make_tx(), tiny.mesh(devices)),
      contrast_fn=stage.contrast_fn,
      round_taps=True,
    )
    # The state is donated.
    state = jax.tree.map(jnp.array, start)
    ends.append(jax.device_get(train_step(state, batch, key)))
  before, after = (s.params['decoder'] for s in (start, ends[0][0]))
  for name, layer in before.items():
    # A bias in front of a normalisation does nothing.
    for part in set(layer) - (
      {'bias'} if name in ('conv3', 'conv4') else set()
    ):
      assert (after[name][part] != layer[part]).any(), f'{name}/{part}'
  (one, measures), (four, others) = ends
  assert measures['loss'] > 0 and measures['contrast/violated'] > 0
  for key in ('loss', 'loss/matching', 'loss/caption', 'contrast/violated'):
    np.testing.assert_allclose(measures[key], others[key], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
    *(one.params, four.params),
  )


@pytest.mark.parametrize('kind', matching.KINDS)
def test_rows_without_a_sentence_take_no_part(kind):
  """And negatives are those of the whole batch, on any devices."""
  rng = np.random.default_rng(0)
  words, mask = rng.integers(1, 11, (4, 6)), np.arange(6) < 4
  batch = dict(
    tokens=words, token_mask=np.tile(mask, (4, 1)), image_number=np.arange(4)
  )
  seen = Compared(*rng.normal(size=(2, 4, 5)), rng.uniform(1, 2, 4))
  options = dict(matching=1.0, caption=1.0, margin=2.0, hardest=False)
  loss_fn = jax.jit(matching.make(kind, **options))
  want = loss_fn(seen, batch)
  mesh = tiny.mesh(4)
  split = jax.device_put((seen, batch), parallel.split(mesh))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    *(loss_fn(*split), want),
  )
  batch['token_mask'][1] = False
  batch['tokens'][1] = 0
  got = loss_fn(seen, batch)
  rest = np.array([0, 2, 3])
  few = jax.tree.map(lambda x: x[rest], (seen, batch))
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-5),
    *(got, loss_fn(*few)),
  )


@pytest.fixture(scope='module')
def run(bert, tmp_path_factory):
  """Scheme 3 alone: the text shows in the loss only."""
  folder = tmp_path_factory.mktemp('run')
  config = configured(bert, frozen=True, kind='vsrn', stride=2)
  config.model.fuse = ()
  config.only.update(steps=8, eval_epochs=10.0)
  saved.save(config, str(folder))
  (stage,) = tiny.stages(config, folder)
  checks.check(stage)
  start = jax.device_get(stages_lib.initial_state(stage, tiny.mesh()))
  loop.run([stage], str(folder))
  return folder, stage, start


def test_it_trains(run):
  folder, stage, start = run
  assert 'text' in stage.stored
  end = tiny.last_state(stage, folder)
  lines = [r for r in tiny.read_metrics(folder / 'only') if 'loss' in r]
  caption = [r['loss/caption'] for r in lines]
  assert np.mean(caption[-2:]) < np.mean(caption[:2])
  for row in lines:
    parts = 10 * row['loss/kld'] + 2 * row['loss/cc']
    parts += row['loss/matching'] + row['loss/caption']
    assert row['loss'] == pytest.approx(parts, rel=1e-5)
    assert 0 <= row['contrast/violated'] <= 1
  moved = jax.tree.map(
    lambda a, b: not np.array_equal(a, b),
    *(s.params['contrast'] for s in (start, end)),
  )
  assert all(jax.tree.leaves(moved))
  tiny.assert_same(*(s.params['backbone'] for s in (start, end)))
  assert {'text', 'contrast'} <= set(end.params)


def test_a_later_stage_may_do_without(bert, frozen, tmp_path):
  config = configured(bert, frozen=True, kind='vsrn')
  config.second = config.only.copy_and_resolve_references()
  config.second.update(init='@only')
  config.second.contrast = {}
  config.stages = ('only', 'second')
  stages = tiny.stages(config, tmp_path)
  for stage in stages:
    checks.check(stage)
  params = {k: v for k, v in frozen[1].params.items() if k != 'contrast'}
  start = dict(frozen[1].variables, params=params)
  state = stages_lib.initial_state(stages[1], tiny.mesh(), start)
  tiny.assert_same(jax.device_get(state.params), params)


def test_the_run_predicts_and_its_text_shows_in_the_loss_only(run):
  loaded = trained.load(run[0])
  assert loaded.stage.model.contrast is None
  assert not {'text', 'contrast'} & set(loaded.variables['params'])
  image = Toy(1)[0]['image']
  pairs = [(image, text) for text in ('salient of 2', 'a red 1')]
  first, second = loaded.predictor().predict(pairs)
  assert first.std() > 0
  np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_a_tower_of_its_own_never_trains(bert, tmp_path):
  vision = dict(name='resnet', width=2, depths=(1, 1, 1, 1))
  config = configured(bert, kind='order', vision=vision)
  (stage,) = tiny.stages(config, tmp_path)
  checks.check(stage)
  start = jax.device_get(stages_lib.initial_state(stage, tiny.mesh()))
  train_step = step.make_train_step(
    *(stage.model, stage.loss_fn, stage.make_tx(), tiny.mesh()),
    contrast_fn=stage.contrast_fn,
  )
  batch = next(iter(stages_lib.train_batches(stage, start.variables)))
  key = jax.random.key_data(jax.random.key(0))
  end, _ = train_step(jax.tree.map(jnp.array, start), batch, key)
  end = jax.device_get(end)
  for part in ('params', 'batch_stats'):
    tower = [getattr(s, part)['contrast']['vision'] for s in (start, end)]
    tiny.assert_same(*tower)
  # The network's own goes on training.
  moved = jax.tree.map(
    np.array_equal, start.params['backbone'], end.params['backbone']
  )
  assert not all(jax.tree.leaves(moved))


def test_runs_from_before_have_none(bert, tmp_path):
  config = configured(bert)
  saved.save(config, str(tmp_path))
  path = tmp_path / 'config.json'
  node = json.loads(path.read_text())
  del node['only']['contrast']
  path.write_text(json.dumps(node))
  assert saved.load(tmp_path) == config_lib.plain(config)


# What is wrong.


HERE = 'only.contrast'
WRONG = {
  'kind': (put(f'{HERE}.kind', 'vsnr'), "'vsnr'. Did you mean 'vsrn'"),
  'mask': (put(f'{HERE}.mask', 'mx'), "'mx'. Did you mean 'max'"),
  'vision': (
    put(f'{HERE}.vision.name', 'bakcbone'),
    "'bakcbone'. Did you mean 'backbone'",
  ),
  'vision key': (
    put(f'{HERE}.vision', dict(name='resnet', wdith=4)),
    "'wdith'. Did you mean 'width'",
  ),
  'own backbone': (
    put(f'{HERE}.vision.width', 4),
    "'backbone' is the network's own",
  ),
  'normalize': (
    put(f'{HERE}.vision', dict(name='resnet', normalize='imagnet')),
    "'imagnet'. Did you mean 'imagenet'",
  ),
  'own pixels': (
    put(f'{HERE}.vision.normalize', 'unit'),
    "'normalize' is for a tower of its own",
  ),
  'pool': (
    put(f'{HERE}.vision.pool', 'frist'),
    "'frist'. Did you mean 'first'",
  ),
  'key': (put(f'{HERE}.magrin', 0.1), "'magrin'. Did you mean 'margin'"),
  'no kind': (put(HERE, dict(matching=1.0)), "contrast lacks 'kind'"),
  'type': (put(f'{HERE}.hardest', 1), 'hardest must be of type bool'),
  'margin': (put(f'{HERE}.margin', -0.1), 'margin must not be negative'),
  'weight': (put(f'{HERE}.caption', -1.0), 'caption must not be negative'),
  'endless': (put(f'{HERE}.matching', float('inf')), 'must be finite'),
  'nan': (put(f'{HERE}.matching', float('nan')), 'matching must'),
  'stride': (put(f'{HERE}.stride', 0), 'stride must be positive'),
  'cells': (put(f'{HERE}.stride', 5), 'stride=5 does not divide'),
  'no text': (
    lambda node: node['model'].update(text=dict(name='none'), fuse=()),
    "model.text is 'none'",
  ),
  'no sentence': (
    put('only.conditions', ('pure',)),
    r'none of the \d+ rows has one \(conditions: pure\)',
  ),
  'one image': (
    put('only.limit', 4),
    'needs two images with different sentences; found 1 images',
  ),
  'alone': (put('only.batch_size', 1), 'found batch_size 1'),
  'long': (
    put('model.text.length', 4),
    "9 sentences have more than length=4 word pieces .* 'non_salient of [012]'",
  ),
}


def wrong_config(bert):
  node = config_lib.plain(configured(bert, kind='vsrn'))
  return node


@pytest.fixture
def toys(monkeypatch):
  """Has every data set be made up, of sentences of up to 7 word pieces."""

  def load_source(name, split, folder, *, conditions=()):
    del name, split, folder
    return Toy(3).only(*conditions) if conditions else Toy(3)

  monkeypatch.setattr(config_lib.datasets, 'load_source', load_source)


@pytest.mark.parametrize('case', WRONG)
def test_what_is_wrong_is_named(case, bert, toys):
  change, says = WRONG[case]
  node = wrong_config(bert)
  change(node)
  with pytest.raises(ValueError, match=says):
    for stage in config_lib.resolve(node):
      checks.check(stage)


def test_the_config_that_those_change_is_sound(bert, toys):
  (stage,) = config_lib.resolve(wrong_config(bert))
  checks.check(stage)
  params = stages_lib.abstract_state(stage).params
  assert any(n.startswith('contrast/') for n in optim.path_names(params))


def test_long_sentences_are_cut_where_they_are_only_matched(bert, toys, caplog):
  node = wrong_config(bert)
  node['model']['text']['length'] = 4
  node['only']['contrast']['caption'] = 0.0
  (stage,) = config_lib.resolve(node)
  assert stage.model.contrast.matching and not stage.model.contrast.caption
  (record,) = (r for r in caplog.records if 'lose their end' in r.msg)
  assert record.args[:2] == (9, 4)


def test_the_released_form_has_its_own_defaults():
  actual = common.contrast(kind='order').to_dict()
  assert (actual['margin'], actual['hardest'], actual['caption']) == (
    0,
    False,
    0,
  )
  assert actual['mask'] == 'released'
  assert common.contrast(kind='order', margin=0.2).margin == 0.2
  assert common.stage(contrast=dict(kind='order')).contrast.mask == 'released'
  with pytest.raises(ValueError, match="'magrin'. Did you mean 'margin'"):
    common.contrast(magrin=0.1)
