"""Layers, backbones, forms of fusion, and building them from a record."""

import functools
import itertools

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
import weights_rule
from flax import traverse_util

from salflax import models
from salflax.models import fusion, layers, transformer
from salflax.models.backbones import resnet
from salflax.models.layers import TextFeatures

NARROW = ('lowrank', 'token', 'bilinear', 'te_cross')
# All but the one that gives a token.
JOINING = tuple(f for f in fusion.FORMS if f != 'te_prepend')


def _normal(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _text(b=2, length=5, words=6, sentence=256, seed=1):
  mask = np.arange(length)[None] < np.array([3, length, 1, 2][:b])[:, None]
  return TextFeatures(
    _normal(b, length, words, seed=seed),
    jnp.asarray(mask),
    _normal(b, sentence, seed=seed + 1),
  )


def _count(shapes):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(shapes))


# Layers.


def _pool_slowly(x, padding, ceil):
  size = x.shape[0]
  room = size + 2 * padding - 3
  out = (int(np.ceil(room / 2)) if ceil else room // 2) + 1
  # A window must start inside the image or its leading padding.
  out = min(out, (size + padding - 1) // 2 + 1)
  y = np.empty((out, x.shape[1]), x.dtype)
  for i in range(out):
    start = 2 * i - padding
    y[i] = x[max(start, 0) : start + 3].max(0)
  return y


@pytest.mark.parametrize('size', [7, 8, 9, 10, 193])
@pytest.mark.parametrize('padding, ceil', [(1, False), (0, True), (1, True)])
def test_max_pool_takes_the_largest_of_each_window(size, padding, ceil):
  x = -np.abs(np.asarray(_normal(size, 3)))  # Padding with 0 would win.
  want = _pool_slowly(x, padding, ceil)
  square = np.broadcast_to(x[None, :, None], (1, size, 8, 3))
  got = layers.max_pool(jnp.asarray(square), padding=padding, ceil=ceil)
  np.testing.assert_array_equal(got[0, :, 0], want)


def test_upsample_repeats():
  x = _normal(2, 3, 4, 5)
  want = np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)
  np.testing.assert_array_equal(layers.upsample(x), want)


@pytest.mark.parametrize('stride', [1, 2])
def test_pointwise_convolution_equals_the_general_one(stride):
  x = _normal(2, 7, 6, 3)
  conv = layers.Conv(4, 1, stride)
  variables = made_up.variables(conv, x)
  kernel = variables['params']['kernel']
  assert kernel.shape == (1, 1, 3, 4)
  want = jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    'VALID',
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  ) + variables['params']['bias'].reshape(1, 1, 1, -1)
  np.testing.assert_allclose(conv.apply(variables, x), want, atol=1e-6)


def test_batch_norm_keeps_pytorchs_books():
  x = 3 * _normal(2, 3, 4, 5) + 1
  norm = layers.BatchNorm()
  variables = norm.init(jax.random.key(0), x, train=True)
  assert not np.any(variables['batch_stats']['mean'])
  y, moved = norm.apply(variables, x, train=True, mutable=['batch_stats'])
  flat = np.asarray(x, np.float64).reshape(-1, 5)
  np.testing.assert_allclose(
    np.asarray(y).reshape(-1, 5),
    (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5),
    atol=1e-5,
  )
  stats = moved['batch_stats']
  np.testing.assert_allclose(stats['mean'], 0.1 * flat.mean(0), rtol=1e-5)
  unbiased = flat.var(0, ddof=1)
  np.testing.assert_allclose(stats['var'], 0.9 + 0.1 * unbiased, rtol=1e-5)


@pytest.mark.parametrize('train', [False, True])
def test_frozen_batch_norm_uses_and_keeps_running_statistics(train):
  x = 3 * _normal(2, 3, 4, 5) + 1
  norm = layers.BatchNorm('frozen')
  variables = norm.init(jax.random.key(0), x, train=train)
  y, moved = norm.apply(variables, x, train=train, mutable=['batch_stats'])
  np.testing.assert_allclose(y, x / np.sqrt(1 + 1e-5), rtol=1e-6)
  np.testing.assert_array_equal(moved['batch_stats']['mean'], 0)
  np.testing.assert_array_equal(moved['batch_stats']['var'], 1)


def test_batch_norm_refuses_an_unknown_mode():
  with pytest.raises(ValueError, match='frozen'):
    layers.BatchNorm('eval').init(jax.random.key(0), _normal(2, 3), train=False)


def test_batch_norm_takes_the_statistics_of_the_whole_sharded_batch():
  x = _normal(4, 3, 3, 2) + jnp.arange(4.0).reshape(4, 1, 1, 1)
  norm = layers.BatchNorm()
  variables = made_up.variables(norm, x, train=True)

  @jax.jit
  def step(x):
    return norm.apply(variables, x, train=True, mutable=['batch_stats'])

  mesh = jax.sharding.Mesh(np.array(jax.devices()), ('data',))
  spec = jax.sharding.PartitionSpec('data')
  split = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
  for got, want in zip(jax.tree.leaves(step(split)), jax.tree.leaves(step(x))):
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_attention_is_softmax_of_scaled_products():
  q, k, v = (_normal(2, 5, 8, seed=s) for s in range(3))
  mask = jnp.array([[True, True, False, True, False], [True] * 5])
  got = transformer.attention(q, k, v, heads=2, mask=mask)
  for b, h in itertools.product(range(2), range(2)):
    part = slice(4 * h, 4 * h + 4)
    scores = np.array(q[b, :, part] @ k[b, :, part].T) / 2
    scores[:, ~np.array(mask[b])] = -np.inf
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(
      got[b, :, part], weights @ np.array(v[b, :, part]), atol=1e-5
    )


@pytest.mark.parametrize('masked', [False, True])
def test_accelerators_attend_alike(monkeypatch, masked):
  """All heads at once give the numbers of one head after another."""
  parts = [_normal(3, n, 8, seed=s) for s, n in enumerate((5, 7, 7))]
  mask = np.ones((3, 7), bool)
  mask[0, 4:], mask[1] = False, False  # one row without any key
  mask = jnp.asarray(mask) if masked else None

  def weighed(*parts):
    y = transformer.attention(*parts, heads=2, mask=mask)
    return jnp.square(y).sum(), y

  both = []
  for backend in ('cpu', 'gpu'):
    monkeypatch.setattr(jax, 'default_backend', lambda name=backend: name)
    gradient = jax.grad(weighed, argnums=(0, 1, 2), has_aux=True)
    # A function of its own for each: programs are kept by function.
    both.append(jax.jit(lambda *x, g=gradient: g(*x))(*parts))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *both)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(both))


def test_a_block_does_not_see_masked_tokens():
  block = transformer.EncoderBlock(2, 16)
  x, noise = _normal(2, 5, 8), 1e3 * _normal(2, 5, 8, seed=4)
  variables = made_up.variables(block, x)
  mask = jnp.array([[False, True, True, True, True], [True] * 5])
  apply = jax.jit(block.apply)
  y = apply(variables, x, mask)
  loud = apply(variables, jnp.where(mask[..., None], x, noise), mask)
  np.testing.assert_array_equal(loud[0, 1:], y[0, 1:])
  # As if the token were not there; and where none is masked, as without mask.
  alone = apply(variables, x[:, 1:])
  np.testing.assert_allclose(y[0, 1:], alone[0], atol=1e-5)
  assert not np.allclose(y[1, 1:], alone[1], atol=1e-2)
  np.testing.assert_allclose(y[1], apply(variables, x)[1], atol=1e-5)


def test_attention_names_heads_that_do_not_fit():
  with pytest.raises(ValueError, match='3 heads'):
    transformer.attention(*[_normal(1, 2, 8)] * 3, heads=3)


# Backbones.

TAPS = ('1/4', '1/8', '1/16', '1/32')


def _tiny(**kwargs):
  return models.ResNet(depths=(1, 1, 1, 1), width=4, **kwargs)


@pytest.mark.parametrize(
  'taps', [t for n in (1, 2, 3, 4) for t in itertools.combinations(TAPS, n)]
)
def test_resnet_builds_just_what_its_taps_need(taps):
  x = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
  net = _tiny(taps=taps)
  features, variables = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False), x
  )
  assert set(features) == set(taps)
  for tap in taps:
    stride = int(tap[2:])
    channels = 16 * stride // 4
    assert features[tap].shape == (2, 64 // stride, 96 // stride, channels)
  stages = {k.split('_')[0] for k in variables['params'] if 'layer' in k}
  deepest = max(TAPS.index(t) for t in taps)
  assert stages == {f'layer{i + 1}' for i in range(deepest + 1)}


@pytest.mark.parametrize(
  'variant, size, want',
  [
    # 289 -> 145 -> 73 (pad 1) or 72 (no pad, and the last window is whole).
    ('v1.5', (289, 385), [(37, 49), (19, 25), (10, 13)]),
    ('v1', (289, 385), [(36, 48), (18, 24), (9, 12)]),
    # 291 -> 146: 73 windows, the last one partial, only under ceil.
    ('v1', (291, 387), [(37, 49), (19, 25), (10, 13)]),
    ('v1', (288, 384), [(36, 48), (18, 24), (9, 12)]),
    ('v1.5', (288, 384), [(36, 48), (18, 24), (9, 12)]),
  ],
)
def test_resnet_sizes(variant, size, want):
  x = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
  net = _tiny(variant=variant)
  features = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x, train=False)[0], x
  )
  assert [features[t].shape[1:3] for t in TAPS[1:]] == want


def test_resnet50_has_the_published_size():
  x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  for name in ('resnet50', 'resnet50_v1'):
    net = models.BACKBONES[name]()
    shapes = jax.eval_shape(
      lambda x, net=net: net.init(jax.random.key(0), x, train=False), x
    )
    assert _count(shapes['params']) == 23_508_032
    assert _count(shapes['batch_stats']) == 53_120


def test_variants_stride_in_different_places():
  x = _normal(1, 32, 32, 3)
  variables = made_up.variables(_tiny(), x, train=False)
  new, old = (
    jax.jit(functools.partial(_tiny(variant=v).apply, train=False))(
      variables, x
    )
    for v in ('v1.5', 'v1')
  )
  assert all(new[t].shape == old[t].shape for t in new)
  assert not np.allclose(new['1/32'], old['1/32'])


@pytest.mark.parametrize('bn', ['train', 'frozen'])
def test_resnet_statistics_move_only_when_they_should(bn):
  x = _normal(2, 32, 32, 3)
  net = _tiny(bn=bn)
  variables = made_up.variables(net, x, train=False)
  apply = functools.partial(net.apply, train=True, mutable=['batch_stats'])
  _, moved = jax.jit(apply)(variables, x)
  same = jax.tree.map(
    lambda a, b: bool(np.array_equal(a, b)),
    moved['batch_stats'],
    variables['batch_stats'],
  )
  assert all(jax.tree.leaves(same)) == (bn == 'frozen')
  assert any(jax.tree.leaves(same)) == (bn == 'frozen')


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(taps=('1/61',)), "Did you mean '1/16'"),
    (dict(taps=()), 'needs a tap'),
    (dict(variant='v15'), "Did you mean 'v1.5'"),
    (dict(width=0), 'width=0: a size'),
  ],
)
def test_resnet_names_what_is_wrong(options, message):
  with pytest.raises(ValueError, match=message):
    _tiny().clone(**options).init(
      jax.random.key(0), _normal(1, 32, 32, 3), train=False
    )


# Fusion.


def test_gate_equals_the_papers_released_code(goldens):
  stored = np.load(goldens / 'text_guided_paper.npz')
  seed = int(stored['seed'])
  for c in (64, 32):
    x, t = stored[f'ca{c}_x'], stored[f'ca{c}_text']
    _, h, w, _ = x.shape
    params = {}
    for ours, theirs, shape in (
      ('query', 'W_Q', (h * w * c, 256)),
      ('key', 'W_K', (c, c)),
      ('value', 'W_V', (c, c)),
    ):
      name = f'crossattention_{c}.{theirs}.weight'
      params[ours] = {'kernel': weights_rule.tensor(name, shape, seed=seed).T}
    text = TextFeatures(None, None, jnp.asarray(t))
    got = fusion.Gate().apply({'params': params}, jnp.asarray(x), text)
    np.testing.assert_allclose(got, stored[f'ca{c}_y'], atol=1e-5)


@pytest.mark.parametrize(
  'form, sizes',
  [
    ('gate', (65_011_712, 115_343_360, 227_016_704)),
    ('gate_hw', (65_011_712, 115_343_360, 227_016_704)),
    ('full', (65_011_712, 115_343_360, 227_016_704)),
  ],
)
def test_paper_forms_have_the_papers_sizes(form, sizes):
  for size, shape in zip(sizes, [(9, 12, 2048), (18, 24, 1024), (36, 48, 512)]):
    assert _form_size(form, shape) == size


def test_scheme_two_has_its_sizes():
  for d, shape in ((768, (9, 12, 768)), (512, (36, 48, 512))):
    assert _form_size('te_bilinear', shape) == d * d * 256
    assert _form_size('te_prepend', shape) == 256 * d + d
  assert _form_size('te_bilinear', (9, 12, 768)) == 150_994_944
  assert _form_size('te_bilinear', (36, 48, 512)) == 67_108_864


@pytest.mark.parametrize('form', NARROW)
@pytest.mark.parametrize('shape', [(9, 12, 2048), (18, 24, 1024)])
def test_narrow_forms_are_small(form, shape):
  assert 0.5e6 < _form_size(form, shape) < 2e6


def _form_size(form, shape):
  module = fusion.make(form, name='f')
  shapes = jax.eval_shape(
    lambda x, t: module.init(jax.random.key(0), x, t),
    jax.ShapeDtypeStruct((1, *shape), jnp.float32),
    _text(b=1, words=768),
  )
  return _count(shapes['params'])


def _applied(form, x, text):
  module = fusion.make(form, name='f')
  params = made_up.variables(module, x, text)
  return jax.jit(lambda x, text: fusion.fuse(module.bind(params), x, text))


@pytest.mark.parametrize('form', JOINING)
def test_form_keeps_the_shape_and_reads_the_text(form):
  x, text = _normal(2, 3, 4, 8), _text()
  fuse = _applied(form, x, text)
  y = fuse(x, text)
  assert y.shape == x.shape
  other = _text(seed=5)._replace(mask=text.mask)
  assert not np.allclose(fuse(x, other), y)


@pytest.mark.parametrize('form', fusion.FORMS)
def test_every_parameter_of_a_form_is_trained(form):
  """And what comes before it: the cells, and the text that the form reads."""
  x, text = _normal(2, 3, 4, 8), _text()
  module = fusion.make(form, name='f')
  variables = made_up.variables(module, x, text)

  def loss(variables, x, words, sentence):
    y = module.apply(variables, x, TextFeatures(words, text.mask, sentence))
    return jnp.square(y - 1).sum()

  args = (variables, x, text.tokens, text.sentence)
  gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(*args)
  flat = traverse_util.flatten_dict(gradient[0]['params'], sep='/')
  flat |= dict(zip(('cells', 'words', 'sentence'), gradient[1:]))
  # A token is made of the text alone; each form reads one side of the text.
  still = {'cells'} if form == 'te_prepend' else set()
  still.add('sentence' if form in ('token', 'te_cross') else 'words')
  for path, g in flat.items():
    assert np.isfinite(g).all(), path
    # A softmax does not see what is added to all its scores.
    if path in still:
      assert not np.any(g), path
    elif not path.endswith('key/bias'):
      assert np.abs(g).max() > 1e-7, path


@pytest.mark.parametrize('form', NARROW)
def test_narrow_form_starts_as_the_identity(form):
  x, text = _normal(2, 3, 4, 8), _text()
  module = fusion.make(form, name='f')
  y, _ = module.init_with_output(jax.random.key(0), x, text)
  np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize('form', JOINING)
def test_masked_words_do_not_count(form):
  x, text = _normal(2, 3, 4, 8), _text()
  fuse = _applied(form, x, text)
  noise = jnp.where(text.mask[..., None], 0, 1e3)
  loud = text._replace(tokens=text.tokens + noise)
  np.testing.assert_array_equal(fuse(x, loud), fuse(x, text))


@pytest.mark.parametrize('form', JOINING)
def test_a_row_without_words_passes_unchanged(form):
  x, text = _normal(2, 3, 4, 8), _text()
  text = text._replace(mask=text.mask.at[0].set(False))
  fuse = _applied(form, x, text)
  y = fuse(x, text)
  np.testing.assert_array_equal(y[0], x[0])
  assert not np.allclose(y[1], x[1])
  loss = lambda x: jnp.square(fuse(x, text)).sum()
  gradient = jax.jit(jax.grad(loss))(x)
  assert np.isfinite(gradient).all()


def test_gate_hw_and_full_follow_their_formulas():
  x, text = _normal(1, 3, 4, 8), _text(b=1)
  for form in ('gate_hw', 'full'):
    module = fusion.make(form, name='f')
    variables = made_up.variables(module, x, text)
    kernels = {k: np.array(v['kernel']) for k, v in variables['params'].items()}
    cells = np.array(x).reshape(12, 8)
    q = (np.array(text.sentence) @ kernels['query']).reshape(12, 8)
    k, v = cells @ kernels['key'], cells @ kernels['value']
    if form == 'full':
      a = np.exp(q @ k.T / np.sqrt(8))
      added = a / a.sum(-1, keepdims=True) @ v
    else:
      a = np.exp((q * k).sum(-1, keepdims=True) / np.sqrt(8))
      added = 12 * a / a.sum() * v
    np.testing.assert_allclose(
      module.apply(variables, x, text).reshape(12, 8), cells + added, atol=1e-5
    )


def test_te_bilinear_and_te_prepend_follow_their_formulas():
  x, text = _normal(2, 3, 4, 8), _text()
  form = fusion.make('te_bilinear', name='f')
  variables = made_up.variables(form, x, text)
  (weights,) = (np.array(w) for w in jax.tree.leaves(variables))
  want = np.array(x)
  for b in range(2):
    t = (weights.T @ np.array(text.sentence[b])).reshape(8, 8)
    for i, j in itertools.product(range(3), range(4)):
      e = np.exp([np.dot(x[b, i, j], t[d]) for d in range(8)])
      want[b, i, j] += e / e.sum()
  np.testing.assert_allclose(form.apply(variables, x, text), want, atol=1e-5)
  form = fusion.make('te_prepend', name='f')
  variables = made_up.variables(form, x, text)
  linear = jax.tree.map(np.array, variables['params']['sentence'])
  want = np.array(text.sentence) @ linear['kernel'] + linear['bias']
  got = form.apply(variables, x, text)
  assert got.shape == (2, 1, 8)
  np.testing.assert_allclose(got[:, 0], want, atol=1e-4)


def test_te_cross_is_cross_attention():
  x, text = _normal(2, 3, 4, 8), _text()
  form = fusion.make('te_cross(dim=8, heads=1)', name='f')
  variables = made_up.variables(form, x, text)
  p = jax.tree.map(np.array, variables['params'])

  def norm(x, at):
    x = np.array(x, np.float64)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-6
    )
    return x * p[at]['scale'] + p[at]['bias']

  linear = lambda x, at: x @ p[at]['kernel'] + p[at]['bias']
  want = np.array(x).reshape(2, 12, 8)
  for b in range(2):
    words = norm(text.tokens[b], 'word_norm')[np.array(text.mask[b])]
    q = linear(norm(want[b], 'norm'), 'query')
    a = np.exp(q @ linear(words, 'key').T / np.sqrt(8))
    a /= a.sum(-1, keepdims=True)
    want[b] += a @ linear(words, 'value') @ p['out']['kernel'][0, 0]
  got = form.apply(variables, x, text)
  np.testing.assert_allclose(got.reshape(2, 12, 8), want, atol=1e-4)


@pytest.mark.parametrize(
  'text, place, point',
  [
    ('gate', '', 'backbone'),
    ('lowrank(dim=8)', '', 'backbone'),
    ('lowrank', 'encoder', 'cells'),
    ('bilinear', 'encoder', 'cells'),
    ('te_cross(dim=8)', '', 'cells'),
    ('te_cross', 'encoder', 'cells'),
    ('te_bilinear', '', 'patches'),
    ('te_prepend', 'encoder', 'token'),
  ],
)
def test_a_form_knows_its_point(text, place, point):
  assert fusion.point(text, place) == point


@pytest.mark.parametrize(
  'text, place, message',
  [
    (
      'gate',
      'encoder',
      "'gate' goes with place 'backbone', .*: lowrank, token",
    ),
    ('te_cross(dim=8)', 'backbone', "goes with place 'encoder', found"),
    ('te_prepend', 'backbone', 'There go: gate, gate_hw, full, lowrank'),
    ('te_prepnd', '', "Did you mean 'te_prepend'"),
    ('te_prepend', 'encodr', "Did you mean 'encoder'"),
  ],
)
def test_a_wrong_place_is_named(text, place, message):
  with pytest.raises(ValueError, match=message):
    fusion.point(text, place)


@pytest.mark.parametrize(
  'text, message',
  [
    ('gates', "Did you mean 'gate'"),
    ('token(hads=2)', "Did you mean 'heads'"),
    ('token(dim=0)', 'dim=0: a size'),
    ('lowrank(heads=0)', 'heads=0: a size'),
    ('bilinear(dim=-8)', 'dim=-8: a size'),
    ("token(dim='a')", "dim='a': a size"),
  ],
)
def test_fusion_names_what_is_wrong(text, message):
  with pytest.raises(ValueError, match=message):
    fusion.make(text, name='f')


# Building.


def test_build_reads_nested_records():
  model = models.build(
    dict(
      name='transalnet',
      backbone=dict(name='resnet50_v1', bn='frozen'),
      text=dict(name='bert', hidden_dim=32, num_heads=2),
      levels=['1/8', '1/16'],
      widths=[64, 64],
      fuse=['1/16'],
      dtype='bfloat16',
    )
  )
  assert isinstance(model, models.TranSalNet)
  assert model.levels == ('1/8', '1/16') == model.backbone.taps
  assert (model.backbone.variant, model.backbone.bn) == ('v1', 'frozen')
  assert model.text.hidden_dim == 32
  assert model.dtype == model.backbone.dtype == model.text.dtype == 'bfloat16'
  hash(model)


@pytest.mark.parametrize(
  'node, message',
  [
    (dict(name='transalnett'), "Did you mean 'transalnet'"),
    (dict(name='transalnet', wdths=(1,)), "Did you mean 'widths'"),
    (
      dict(name='transalnet', backbone=dict(name='resnet5')),
      "Did you mean 'resnet50'",
    ),
    (
      dict(name='transalnet', text=dict(name='brt'), backbone=None),
      "Did you mean 'bert'",
    ),
    (
      dict(name='transalnet', backbone=dict(name='resnet50', bm='train')),
      "Did you mean 'bn'",
    ),
  ],
)
def test_build_names_what_is_wrong(node, message):
  with pytest.raises(ValueError, match=message):
    models.build(node)


def test_a_stage_without_blocks_is_a_mean():
  network = resnet.ResNet((1, 1, 0), width=4, taps=('1/8', '1/16'))
  image = _normal(2, 32, 48, 3)
  variables = made_up.variables(network, image, train=False)
  apply = functools.partial(network.apply, train=False)
  taps = jax.jit(apply)(variables, image)
  assert not [k for k in variables['params'] if k.startswith('layer3')]
  fine = np.asarray(taps['1/8'])
  corner = fine[:, 2:4, 4:6].mean((1, 2))
  np.testing.assert_allclose(taps['1/16'][:, 1, 2], corner, atol=1e-6)
