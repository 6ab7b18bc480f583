"""TranSalNet: the published numbers, and what the text may and may not do."""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
import weights_rule
from flax import traverse_util

from salflax import models
from salflax.models import (
  fusion,
  layers,
  transalnet,
  transencoder,
  transformer,
)
from salflax.models.layers import TextFeatures
from salflax.models.weights import pretrained, published

CHEAP = {'xla_backend_optimization_level': 0}
SIZE = (32, 64)
COARSE = dict(levels=('1/16',), out_stride=16)  # quick to compile
LEVELS = ('1/8', '1/16')
ALL = ('1/8', '1/16', '1/32')


class _Backbone(nn.Module):
  """A convolution a level: what a backbone does, quick to compile."""

  taps: tuple[str, ...] = LEVELS
  bn: str = 'train'
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image, *, train):
    taps = {}
    for tap in self.taps:
      s = int(tap[2:])
      x = layers.Conv(8, s, s, padding=0)(image.astype(self.dtype))
      taps[tap] = layers.BatchNorm(self.bn)(x, train=train)
    return taps


def _tiny(*, text=False, bn='train', dtype=jnp.float32, **kwargs):
  levels = kwargs.get('levels', LEVELS)
  encoder = models.TEXT_ENCODERS['bert'](
    vocab_size=20,
    hidden_dim=8,
    num_layers=1,
    num_heads=2,
    mlp_dim=8,
    max_len=6,
    pool='mean',
    dtype=dtype,
  )
  options = dict(
    size=SIZE,
    levels=levels,
    widths=(8,) * len(levels),
    depth=1,
    head_dim=8,
    decoder_widths=(8, 8, 4, 4, 4, 4),
    out_stride=8 if '1/8' in levels else 1,
    bn=bn,
    dtype=dtype,
  )
  return models.TranSalNet(
    _Backbone(levels, bn, dtype),
    encoder if text else None,
    **{**options, **kwargs},
  )


def _image(b=2):
  rng = np.random.default_rng(0)
  return jnp.asarray(rng.normal(size=(b, *SIZE, 3)), jnp.float32)


def _features():
  rng = np.random.default_rng(1)
  words = jnp.asarray(rng.normal(size=(2, 5, 6)), jnp.float32)
  return TextFeatures(words, MASK, words[:, 0])


def _options(form):
  wide = form not in ('lowrank', 'token', 'bilinear', 'te_cross')
  return form if wide else f'{form}(dim=8)'


# Every form at every place where it may stand.
PAIRS = [
  (_options(form), place)
  for form, (_, points) in fusion.FORMS.items()
  for place in dict.fromkeys(
    'backbone' if point == 'backbone' else 'encoder' for point in points
  )
]
TOKENS = jnp.array([[1, 5, 7, 2, 0], [1, 9, 3, 4, 2]])
MASK = TOKENS > 0


def _variables(model, *args):
  return made_up.variables(model, *args, train=False)


@functools.partial(
  jax.jit, static_argnums=0, static_argnames=('train', 'method', 'mutable')
)
def _apply(model, variables, *args, train=False, **kwargs):
  return model.apply(variables, *args, train=train, **kwargs)


def _flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


# The published network.


def _published():
  """Yields name and shape of every tensor of the published state dict."""

  def conv(name, i, o, k, *, bias=True):
    yield f'{name}.weight', (o, i, k, k)
    if bias:
      yield f'{name}.bias', (o,)

  def norm(name, c, *, batch=True):
    yield f'{name}.weight', (c,)
    yield f'{name}.bias', (c,)
    if batch:
      yield f'{name}.running_mean', (c,)
      yield f'{name}.running_var', (c,)
      yield f'{name}.num_batches_tracked', ()

  def linear(name, i, o):
    yield f'{name}.weight', (o, i)
    yield f'{name}.bias', (o,)

  at = 'encoder.encoder'
  yield from conv(f'{at}.0', 3, 64, 7, bias=False)
  yield from norm(f'{at}.1', 64)
  i = 64
  for stage, depth in enumerate((3, 4, 6, 3)):
    c = 64 * 2**stage
    for j in range(depth):
      block = f'{at}.{4 + stage}.{j}'
      for n, (a, b, k) in enumerate([(i, c, 1), (c, c, 3), (c, 4 * c, 1)], 1):
        yield from conv(f'{block}.conv{n}', a, b, k, bias=False)
        yield from norm(f'{block}.bn{n}', b)
      if j == 0:
        yield from conv(f'{block}.downsample.0', i, 4 * c, 1, bias=False)
        yield from norm(f'{block}.downsample.1', 4 * c)
      i = 4 * c
  widths = (768, 768, 512, 256, 128, 64, 32, 1)
  for n, (i, o) in enumerate(zip(widths, widths[1:]), 1):
    yield from conv(f'decoder.conv{n}', i, o, 3)
    if n < 7:
      yield from norm(f'decoder.batchnorm{n}', o)
  for n, (i, d, cells) in enumerate(
    [(2048, 768, 108), (1024, 768, 432), (512, 512, 1728)], 1
  ):
    at = f'decoder.TransEncoder{n}'
    yield f'{at}.position_embeddings', (1, cells, d)
    yield from conv(f'{at}.patch_embeddings', i, d, 1)
    at += '.transformer_encoder'
    yield from norm(f'{at}.encoder_norm', d, batch=False)
    for layer in (f'{at}.layer.0', f'{at}.layer.1'):
      yield from norm(f'{layer}.attention_norm', d, batch=False)
      yield from norm(f'{layer}.ffn_norm', d, batch=False)
      for part in ('query', 'key', 'value', 'out'):
        yield from linear(f'{layer}.attn.{part}', d, d)
      yield from linear(f'{layer}.ffn.fc1', d, 4 * d)
      yield from linear(f'{layer}.ffn.fc2', 4 * d, d)


def _shapes(model, size, *args):
  image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  return jax.eval_shape(
    lambda image: model.init(jax.random.key(0), image, *args, train=False),
    image,
  )


def test_default_network_has_the_published_size():
  shapes = _shapes(models.TranSalNet(models.ResNet()), (288, 384))
  count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
  params = shapes['params']
  assert count(params) == 72_510_977
  assert count(params['backbone']) == 23_508_032
  encoders = [count(params[f'encoder_{s}']) for s in (32, 16, 8)]
  assert encoders == [15_833_856, 15_296_256, 7_453_184]
  conv = [count(params['decoder'][f'conv{n}']) for n in range(1, 8)]
  assert conv == [
    *(5_309_184, 3_539_456, 1_179_904, 295_040, 73_792, 18_464, 289)
  ]
  published = dict(_published())
  assert len(published) == 473
  assert sum(int(np.prod(s)) for s in published.values()) == (
    72_510_977 + 56_699
  )


@pytest.mark.slow
def test_published_network_gives_the_published_numbers(goldens):
  stored = np.load(goldens / 'transalnet_res.npz')
  seed = int(stored['seed'])
  state = {n: weights_rule.tensor(n, s, seed) for n, s in _published()}
  model = models.TranSalNet(models.ResNet())
  variables = pretrained.merge(
    _shapes(model, (288, 384)),
    pretrained.convert(published.rename(state)),
  )
  image = np.random.default_rng(0).uniform(0, 1, (288, 384, 3))

  @jax.jit
  def run(variables, image):
    return model.apply(
      variables,
      image[None],
      train=False,
      method='logits',
      mutable=['intermediates'],
      capture_intermediates=lambda module, _: str(module.name).startswith(
        ('encoder_', 'backbone')
      ),
    )

  logits, seen = run(variables, image.astype(np.float32))
  seen = {k: v['__call__'][0] for k, v in seen['intermediates'].items()}
  np.testing.assert_allclose(logits[0], stored['logits'], atol=1e-3)
  np.testing.assert_allclose(
    jax.nn.sigmoid(logits[0]), stored['saliency'], atol=2e-4
  )
  for scale, step in ((8, 6), (16, 3), (32, 3)):
    number = int(np.log2(scale))
    slices = (0, slice(None, None, step), slice(None, None, step))
    for name, full in (
      (f'stage{number - 1}_slice', seen['backbone'][f'1/{scale}']),
      (f'encoder{number}_slice', seen[f'encoder_{scale}']),
    ):
      np.testing.assert_allclose(
        full[slices][..., ::16], stored[name], atol=1e-3, err_msg=name
      )


def test_rename_leaves_other_names_alone():
  other = {'encoder.encoder.9.weight': 1, 'module.decoder.x': 2, 'epoch': 3}
  assert published.rename(other) == other


# Text.


def test_without_tokens_it_is_the_plain_network():
  options = COARSE
  plain, full = _tiny(**options), _tiny(text=True, fuse=('1/16',), **options)
  image = _image()

  def init(model, *args):
    make = lambda key: model.init(key, *args, train=False)
    return jax.jit(make, compiler_options=CHEAP)(jax.random.key(0))

  without = init(plain, image)
  with_text = init(full, image, TOKENS, MASK)
  theirs = _flat(with_text)
  for path, value in _flat(without).items():
    np.testing.assert_array_equal(theirs.pop(path), value, err_msg=path)
  assert {p.split('/')[1].split('_')[0] for p in theirs} == {'text', 'fusion'}
  want = _apply(plain, without, image)
  np.testing.assert_array_equal(_apply(full, with_text, image), want)
  # At the start this form adds nothing, whatever the sentence.
  got = _apply(full, with_text, image, TOKENS, MASK)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('form, place', PAIRS)
def test_text_counts_unless_it_is_masked(form, place):
  options = COARSE
  model = _tiny(text=True, fuse=('1/16',), fusion=form, place=place, **options)
  image = _image()
  variables = _variables(model, image, TOKENS, MASK)
  params = dict(variables['params'])
  names = {k for k in params if k.startswith('fusion')}
  assert names == {'fusion_16'}
  want = _apply(model, variables, image, TOKENS, MASK)
  # Without a sentence, it is the plain network of the same parameters.
  rest = {k: params[k] for k in {*params} - names - {'text'}}
  plain = _apply(_tiny(**options), {**variables, 'params': rest}, image)
  np.testing.assert_array_equal(_apply(model, variables, image), plain)
  for row in range(2):
    assert not np.allclose(want[row], plain[row], atol=1e-4)
  for rows in ([0], [0, 1]):
    mask = MASK.at[jnp.array(rows)].set(False)
    got = _apply(model, variables, image, TOKENS, mask)
    expected = want.at[jnp.array(rows)].set(plain[jnp.array(rows)])
    np.testing.assert_allclose(got, expected, atol=1e-6)
  padding = jnp.where(MASK, TOKENS, 11)
  got = _apply(model, variables, image, padding, MASK)
  np.testing.assert_allclose(got, want, atol=1e-6)
  # A word of one row changes the map of that row alone.
  word = TOKENS.at[1, 2].set(11)
  got = _apply(model, variables, image, word, MASK)
  np.testing.assert_allclose(got[0], want[0], atol=1e-6)
  assert not np.allclose(got[1], want[1], atol=1e-5)


@pytest.mark.parametrize(
  'form, same',
  [('te_cross', True), ('te_bilinear', False), ('te_prepend', False)],
)
def test_how_scheme_two_starts(form, same):
  options = COARSE
  model = _tiny(fuse=('1/16',), fusion=form, **options)
  image, text = _image(), _features()
  variables = _variables(model, image, text)
  start = fusion.make(form, name='f')
  cells = jnp.zeros((2, 2, 4, 8))
  fresh = jax.jit(start.init)(jax.random.key(0), cells, text)['params']
  drawn = variables['params']['fusion_16']
  assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, fresh)
  variables['params']['fusion_16'] = fresh
  got = _apply(model, variables, image, text, method='logits')
  want = _apply(model, variables, image, method='logits')
  assert np.array_equal(got, want) == same
  assert np.allclose(got, want, atol=1e-5) == same


def test_a_token_goes_through_all_blocks_and_is_dropped():
  encoder = transencoder.TransEncoder(8, 2, 4, 2)
  rng = np.random.default_rng(5)
  normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, token = normal(2, 3, 4, 6), normal(2, 1, 8)
  variables = made_up.variables(encoder, x)
  p = variables['params']
  counts = jnp.array([[True], [False]])
  got = encoder.apply(variables, x, {'token': lambda x: (token, counts)})
  patches = p['patch_embeddings']
  y = (x @ patches['kernel'][0, 0] + patches['bias'][None, None, None]).reshape(
    2, 12, 8
  )
  y = jnp.concatenate([token, y + p['position_embeddings']], 1)
  for name in ('layer_0', 'layer_1'):
    y = transformer.EncoderBlock(2, 16).apply({'params': p[name]}, y)
  norm = nn.LayerNorm(epsilon=1e-6)
  y = norm.apply({'params': p['encoder_norm']}, y)
  np.testing.assert_allclose(got[0].reshape(12, 8), y[0, 1:], atol=1e-5)
  plain = encoder.apply(variables, x)
  np.testing.assert_allclose(got[1], plain[1], atol=1e-5)
  assert not np.allclose(got[0], plain[0], atol=1e-2)


def test_points_lie_before_and_after_the_positions():
  encoder = transencoder.TransEncoder(8, 1, 4, 2)
  rng = np.random.default_rng(5)
  x = jnp.asarray(rng.normal(size=(1, 3, 4, 6)), jnp.float32)
  variables = made_up.variables(encoder, x)
  seen = {}
  keep = lambda point: lambda x: seen.setdefault(point, x)
  encoder.apply(variables, x, {k: keep(k) for k in ('patches', 'cells')})
  table = variables['params']['position_embeddings'].reshape(1, 3, 4, 8)
  np.testing.assert_allclose(seen['cells'] - seen['patches'], table, atol=1e-5)


@pytest.mark.parametrize(
  'fuse', [c for n in (1, 2, 3) for c in itertools.combinations(ALL, n)]
)
@pytest.mark.parametrize('form', ['te_cross', 'te_bilinear', 'te_prepend'])
def test_any_encoders_take_the_sentence(form, fuse):
  model = _tiny(levels=ALL, fuse=fuse, fusion=form, text=True)
  shapes = _shapes(model, SIZE, TOKENS[:1], MASK[:1])
  names = {k for k in shapes['params'] if k.startswith('fusion')}
  assert names == {f'fusion_{level[2:]}' for level in fuse}


@pytest.mark.parametrize(
  'form, sizes',
  [
    ('te_bilinear', (150_994_944, 150_994_944, 67_108_864)),
    ('te_prepend', (197_376, 197_376, 131_584)),
  ],
)
def test_scheme_two_in_the_published_network(form, sizes):
  levels = ('1/8', '1/16', '1/32')
  model = models.TranSalNet(models.ResNet(), fuse=levels, fusion=form)
  text = TextFeatures(
    jnp.zeros((1, 35, 768)), jnp.ones((1, 35), bool), jnp.zeros((1, 256))
  )
  params = _shapes(model, (288, 384), text)['params']
  count = lambda tree: sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
  got = tuple(count(params[f'fusion_{s}']) for s in (32, 16, 8))
  assert got == sizes
  assert count(params) == 72_510_977 + sum(sizes)


def test_what_is_computed_ahead_gives_the_same_map():
  model = _tiny(text=True, fuse=('1/16',), fusion='token(dim=8)', **COARSE)
  image = _image()
  variables = _variables(model, image, TOKENS, MASK)
  want = _apply(model, variables, image, TOKENS, MASK)
  taps = _apply(model, variables, image, method='encode_image')
  encode = lambda *args: model.apply(variables, *args, method='encode_text')
  text = jax.jit(encode)(TOKENS, MASK)
  assert isinstance(text, TextFeatures)
  got = _apply(model, variables, taps, text)
  np.testing.assert_allclose(got, want, atol=1e-6)
  half = {k: v.astype(jnp.float16) for k, v in taps.items()}
  got = _apply(model, variables, half, text)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-2)


# Shapes and types.


@pytest.mark.parametrize(
  'levels',
  [
    ('1/8', '1/16', '1/32'),
    ('1/32', '1/8'),
    ('1/8', '1/16'),
    ('1/16', '1/32'),
    ('1/8',),
    ('1/16',),
    ('1/32',),
    ('1/4', '1/16'),
  ],
)
@pytest.mark.parametrize('out_stride', [1, 4])
def test_any_levels_give_a_map_of_the_images_size(levels, out_stride):
  model = _tiny(levels=levels, out_stride=out_stride)
  image = jax.ShapeDtypeStruct((2, *SIZE, 3), jnp.float32)
  map_, variables = jax.eval_shape(
    lambda image: model.init_with_output(jax.random.key(0), image, train=False),
    image,
  )
  assert (map_.shape, map_.dtype) == ((2, *SIZE), jnp.float32)
  params = variables['params']
  assert {k for k in params if k.startswith('encoder')} == {
    f'encoder_{level[2:]}' for level in levels
  }
  coarsest = max(int(level[2:]) for level in levels)
  first = transalnet.STRIDES.index(coarsest) + 1
  last = transalnet.STRIDES.index(out_stride) + 1
  assert {k for k in params['decoder'] if k.startswith('conv')} == {
    f'conv{n}' for n in (*range(first, last + 1), 7)
  }


def test_saliency_is_the_sigmoid_of_the_logits():
  model = _tiny(**COARSE)
  image = _image()
  variables = _variables(model, image)
  logits = _apply(model, variables, image, method='logits')
  assert np.std(logits) > 0
  saliency = _apply(model, variables, image)
  np.testing.assert_allclose(saliency, jax.nn.sigmoid(logits), atol=1e-6)


def test_bfloat16_stays_close_and_finite():
  options = dict(
    levels=('1/16',),
    out_stride=16,
    fuse=('1/16',),
    fusion='token(dim=8)',
    bn='frozen',
  )
  exact, coarse = _tiny(**options), _tiny(**options, dtype='bfloat16')
  image = _image()
  text = _features()
  variables = _variables(coarse, image, text)
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype('f')}

  def loss(params):
    map_ = coarse.apply(
      {**variables, 'params': params}, image, text, train=True
    )
    return jnp.square(map_).mean()

  gradient = jax.jit(jax.grad(loss), compiler_options=CHEAP)(
    variables['params']
  )
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
  got = _apply(coarse, variables, image, text)
  assert got.dtype == jnp.float32
  want = _apply(exact, variables, image, text)
  np.testing.assert_allclose(got, want, atol=0.05)


# Training.


@pytest.mark.parametrize('frozen', ['backbone', 'decoder', 'both', 'neither'])
def test_frozen_statistics_do_not_move(frozen):
  decoder = 'frozen' if frozen in ('decoder', 'both') else 'train'
  model = _tiny(bn=decoder, **COARSE)
  bn = 'frozen' if frozen in ('backbone', 'both') else 'train'
  model = model.clone(backbone=model.backbone.clone(bn=bn))
  image = _image()
  variables = _variables(model, image)
  _, moved = _apply(model, variables, image, train=True, mutable='batch_stats')
  after, before = _flat(moved['batch_stats']), _flat(variables['batch_stats'])
  moves = {
    path.split('/')[0]: not np.array_equal(after[path], before[path])
    for path in before
  }
  assert moves == {
    'backbone': frozen in ('decoder', 'neither'),
    'decoder': frozen in ('backbone', 'neither'),
  }


# The forms one by one: models_test.
@pytest.mark.parametrize(
  'form, place', [('token(dim=8)', 'backbone'), ('te_prepend', 'encoder')]
)
def test_every_parameter_is_trained(form, place):
  model = _tiny(
    text=True,
    levels=('1/16',),
    out_stride=16,
    fuse=('1/16',),
    fusion=form,
    place=place,
    bn='frozen',
  )
  image = _image()
  variables = _variables(model, image, TOKENS, MASK)

  def loss(params):
    map_ = model.apply(
      {**variables, 'params': params}, image, TOKENS, MASK, train=True
    )
    return jnp.square(map_ - image.mean(-1)).sum()

  gradient = jax.jit(jax.grad(loss), compiler_options=CHEAP)(
    variables['params']
  )
  assert {'text', 'fusion_16'} < set(gradient)
  for path, g in _flat(gradient).items():
    assert np.isfinite(g).all(), path
    # A softmax does not see what is added to all its scores.
    if not path.endswith('key/bias'):
      assert np.abs(g).max() > 1e-7, path


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(levels=('1/8', '1/61')), "level '1/61'. Did you mean"),
    (dict(fuse=('1/4',)), "level in fuse '1/4'"),
    (dict(fuse=('1/8',), fusion='tokens'), "Did you mean 'token'"),
    (dict(place='decoder'), "Did you mean 'encoder'"),
    (dict(fusion='gate', place='encoder'), "'gate' goes with place 'backbone'"),
    (dict(fusion='te_cross', place='backbone'), "place 'encoder', found"),
    (dict(widths=(8,)), '2 levels need as many widths'),
    (dict(levels=('1/8', '1/8')), 'must be different'),
    (dict(out_stride=16), 'out_stride=16'),
    (dict(out_stride=3), 'out_stride=3'),
    (dict(size=(32, 56)), 'multiples of 16'),
    (dict(size=(64, 64)), 'found \\(32, 64\\)'),
    (dict(decoder_widths=(8, 8), out_stride=1), 'too short'),
    (dict(head_dim=6), 'does not divide'),
    (dict(head_dim=0), 'head_dim=0: a size is a whole number above 0'),
    (dict(widths=(8, -32)), r'widths=\(8, -32\): a size'),
    (dict(depth=0), 'depth=0'),
    (dict(mlp_ratio=-1), 'mlp_ratio=-1'),
    (dict(mlp_ratio=0.5), 'mlp_ratio=0.5'),
    (dict(decoder_widths=(0, 8)), 'decoder_widths'),
    (dict(out_stride=0), 'out_stride=0'),
    (dict(size=(0, 64)), 'size='),
  ],
)
def test_names_what_does_not_fit(options, message):
  levels = options.pop('levels', LEVELS)
  model = _tiny(text=True).clone(levels=levels, **options)
  with pytest.raises(ValueError, match=message):
    _shapes(model, SIZE, TOKENS[:1], MASK[:1])


def test_token_ids_need_a_text_encoder():
  with pytest.raises(ValueError, match='no text encoder'):
    _shapes(_tiny(fuse=LEVELS), SIZE, TOKENS[:1], MASK[:1])


def test_features_of_another_size_are_named():
  taps = {
    level: jnp.zeros((1, 32 // s, 32 // s, 4 * s))
    for level, s in zip(LEVELS, (8, 16))
  }
  with pytest.raises(ValueError, match='1/8 .* are .4, 8., found .4, 4.'):
    jax.eval_shape(
      lambda x: _tiny().init(jax.random.key(0), x, train=False), taps
    )
