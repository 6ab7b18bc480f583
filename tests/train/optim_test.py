"""Schedules, the optimiser, and what is frozen keeps its bits."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from salflax.train import optim

CHEAP = {'xla_backend_optimization_level': 0}


def _params():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {
    'backbone': {'conv1': {'kernel': draw(3, 3, 2, 4), 'bias': draw(4)}},
    'text': {'embed': {'embedding': draw(7, 4)}},
    'decoder': {
      'conv6': {'kernel': draw(4, 4), 'bias': draw(4)},
      'conv7': {'kernel': draw(4, 1), 'bias': draw(1)},
    },
  }


def _normal(x, seed):
  """Draws by shape: the same beside what is frozen as without it."""
  rng = np.random.default_rng([seed, x.size])
  return jnp.asarray(rng.normal(size=x.shape), x.dtype)


def _update(tx, grads, params, state=None):
  """Returns (updates, state); compiled as a whole, which is quicker."""
  state = tx.init(params) if state is None else state
  return jax.jit(tx.update, compiler_options=CHEAP)(grads, state, params)


def _steps(tx, params, *, number=2):
  """Returns the parameters after some steps with made-up gradients."""

  state = tx.init(params)
  for i in range(number):
    grads = jax.tree.map(lambda x, i=i: _normal(x, i), params)
    updates, state = _update(tx, grads, params, state)
    params = jax.tree.map(lambda x, u: x + u, params, updates)
  return params


def _named(tree):
  return dict(zip(optim.path_names(tree), jax.tree.leaves(tree)))


def _make(text='adam', *, lr=0.1, **options):
  return optim.make(text, schedule=optax.constant_schedule(lr), **options)


def test_names_are_paths():
  assert optim.path_names(_params()) == [
    'backbone/conv1/bias',
    'backbone/conv1/kernel',
    'decoder/conv6/bias',
    'decoder/conv6/kernel',
    'decoder/conv7/bias',
    'decoder/conv7/kernel',
    'text/embed/embedding',
  ]


@pytest.mark.parametrize(
  'text, clip',
  [
    ('adam', 0.0),
    ('adamw(decay=0.3)', 0.0),
    ('adamw(decay=0.3)', 0.5),
    ('sgd', 0.5),
    ('sgd(momentum=0.9, nesterov=True)', 0.0),
  ],
)
def test_frozen_parameters_keep_their_bits(text, clip):
  params = _params()
  tx = _make(text, clip=clip, freeze=('backbone/.*', '.*/conv6/bias'))
  before, after = _named(params), _named(_steps(tx, params))
  for name, value in after.items():
    same = np.array_equal(value, before[name])
    frozen = name.startswith('backbone/') or name == 'decoder/conv6/bias'
    assert same == frozen, name


@pytest.mark.parametrize('text', ['adam', 'adamw(decay=0.3)', 'sgd'])
def test_what_trains_does_so_as_if_it_were_alone(text):
  """Neither statistics nor the clipped norm see what is frozen."""
  params = _params()
  both = _steps(_make(text, clip=0.5, freeze=('backbone/.*',)), params)
  alone = {k: v for k, v in params.items() if k != 'backbone'}
  alone = _steps(_make(text, clip=0.5), alone)
  for name, value in _named(alone).items():
    np.testing.assert_array_equal(value, _named(both)[name])


def test_clipping_limits_the_norm_of_what_trains():
  params = _params()
  grads = jax.tree.map(jnp.ones_like, params)
  frozen = ('backbone/.*', 'text/.*')
  for freeze in ((), frozen):
    tx = _make('sgd', lr=1.0, clip=0.5, freeze=freeze)
    updates, _ = _update(tx, grads, params)
    assert float(optax.tree.norm(updates)) == pytest.approx(0.5, rel=1e-5)
  # A gradient below the limit stays as it is, however large a frozen one is.
  grads = jax.tree.map(lambda x: 1e-3 * x, grads)
  grads['backbone'] = jax.tree.map(lambda x: 1e9 * x, grads['backbone'])
  updates, _ = _update(tx, grads, params)
  np.testing.assert_allclose(
    updates['decoder']['conv7']['kernel'], -1e-3, rtol=1e-6
  )


def test_optimizer_state_is_kept_for_what_trains_alone():
  params = _params()
  size = lambda tx: sum(
    x.size for x in jax.tree.leaves(tx.init(params)) if x.ndim
  )
  train, total = optim.count(params, ('backbone/.*',))
  assert (size(_make()), size(_make(freeze=('backbone/.*',)))) == (
    2 * total,
    2 * train,
  )


def test_weight_decay_is_for_kernels():
  names = {
    'conv': ('kernel', 'bias'),
    'norm': ('scale', 'bias'),
    'embed': ('embedding',),
    'priors': ('gaussians',),
    'encoder': ('position_embedding', 'class_embedding'),
  }
  params = {k: {n: jnp.ones((3, 4)) for n in v} for k, v in names.items()}
  tx = _make('adamw(decay=0.5)', lr=0.1)
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, _ = _update(tx, zero, params)
  for name, value in _named(updates).items():
    expected = -0.05 if name.endswith('kernel') else 0.0
    np.testing.assert_allclose(value, expected, rtol=1e-6, err_msg=name)


def test_lr_scale_scales_the_updates_of_the_first_pattern_that_matches():
  params = _params()
  pairs = (('backbone/.*', 0.1), ('.*/kernel', 3.0))
  plain, scaled = _make('sgd'), _make('sgd', lr_scale=pairs)
  grads = jax.tree.map(jnp.ones_like, params)
  a, _ = _update(plain, grads, params)
  b, _ = _update(scaled, grads, params)
  for name, value in _named(b).items():
    factor = 0.1 if name.startswith('backbone') else 1.0
    factor = 3.0 if name.endswith('kernel') and factor == 1 else factor
    np.testing.assert_allclose(value, factor * _named(a)[name], rtol=1e-6)


@pytest.mark.parametrize('text', ['adam', 'adamw', 'sgd(momentum=0.9)'])
def test_lr_scale_goes_with_freezing_and_clipping(text):
  params = _params()
  tx = _make(
    text, clip=1.0, freeze=('text/.*',), lr_scale=(('backbone/.*', 0.0),)
  )
  after = _named(_steps(tx, params))
  for name, value in _named(params).items():
    still = name.startswith(('text/', 'backbone/'))
    assert np.array_equal(value, after[name]) == still, name


@pytest.mark.parametrize(
  'pattern, says',
  [
    ('backbon/.*', r"'backbon/\.\*'\. Did you mean 'backbone/\.\*'"),
    ('decoder/conv9/.*', r"Did you mean 'decoder/conv[67]/\.\*'"),
    ('backbone', r'matches nothing'),
    ('conv7/.*', r'decoder/conv7/\.\*'),
    ('(', r"Pattern '\('"),
  ],
)
def test_a_pattern_that_matches_nothing_is_named(pattern, says):
  params = _params()
  with pytest.raises(ValueError, match=says):
    optim.frozen_names(params, (pattern,))
  with pytest.raises(ValueError, match=says):
    optim.frozen_names(params, ('text/.*', pattern))
  with pytest.raises(ValueError, match=says):
    _make(freeze=(pattern,)).init(params)
  with pytest.raises(ValueError, match=says):
    _make(lr_scale=((pattern, 0.1),)).init(params)
  with pytest.raises(ValueError, match=says):
    optim.matches(params, pattern)


def test_something_must_train():
  with pytest.raises(ValueError, match='leave nothing to train'):
    optim.frozen_names(_params(), ('backbone/.*', 'text/.*', 'decoder/.*'))


def test_patterns_match_whole_names():
  names = optim.frozen_names(_params(), ('decoder/conv6/.*', '.*/embedding'))
  assert names == {
    'decoder/conv6/bias',
    'decoder/conv6/kernel',
    'text/embed/embedding',
  }


def test_counts():
  assert optim.count(_params()) == (72 + 4 + 28 + 16 + 4 + 4 + 1,) * 2
  assert optim.count(_params(), ('backbone/.*',)) == (53, 129)


def _rates(text, *, lr=1e-3, steps=100, epoch=10, at):
  schedule = optim.bind_schedule(text)(lr, steps, epoch)
  return [float(schedule(i)) for i in at]


def test_schedules_at_known_points():
  at = (0, 29, 30, 59, 60, 99)
  assert _rates('constant', at=at) == pytest.approx([1e-3] * 6)
  assert _rates('staircase', at=at) == pytest.approx(
    [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6]
  )
  assert _rates('staircase(every=5)', at=(49, 50, 99)) == pytest.approx(
    [1e-3, 1e-4, 1e-4]
  )
  assert _rates('staircase(every=1, factor=0.5)', at=(9, 10, 20)) == (
    pytest.approx([1e-3, 5e-4, 2.5e-4])
  )
  assert _rates('cosine', at=(0, 50, 100)) == pytest.approx(
    [1e-3, 5e-4, 0.0], abs=1e-10
  )
  assert _rates('cosine(end=0.1)', at=(0, 50, 100, 200)) == pytest.approx(
    [1e-3, 5.5e-4, 1e-4, 1e-4]
  )
  assert _rates('cosine(warmup=0.1)', at=(0, 5, 10, 55, 100)) == pytest.approx(
    [0.0, 5e-4, 1e-3, 5e-4, 0.0], abs=1e-10
  )
  assert _rates('cosine(warmup=0.1, end=0.2)', at=(10, 100)) == pytest.approx(
    [1e-3, 2e-4]
  )


@pytest.mark.parametrize(
  'text', ['constant', 'staircase', 'cosine(warmup=0.1)']
)
@pytest.mark.parametrize('steps', [1, 2, 5])
def test_schedules_of_short_stages_are_finite(text, steps):
  rates = _rates(text, steps=steps, epoch=1, at=range(steps + 1))
  assert np.isfinite(rates).all() and max(rates) <= 1e-3 * (1 + 1e-6)
  assert rates[0] > 0


BAD_SCHEDULES = {
  'cosin': "Unknown schedule 'cosin'. Did you mean 'cosine'",
  'cosine(warm=1)': "'warm'. Did you mean 'warmup'",
  'cosine(warmup=1.5)': r'cosine: warmup=1.5 is not a number in \[0, 1\)',
  'cosine(warmup=-0.1)': 'warmup=-0.1',
  'cosine(0.1, 2.0)': 'end=2.0',
  'cosine(end=True)': 'end=True',
  'staircase(every=0)': 'every=0',
  'staircase(every=1e400)': 'every=inf',
  'staircase("3")': "every='3'",
  'staircase(factor=0)': 'factor=0',
  'staircase(factor=[1])': 'factor=',
}
BAD_OPTIMIZERS = {
  'adma': "Unknown optimizer 'adma'. Did you mean 'adam'",
  'adamw(decy=1)': "'decy'. Did you mean 'decay'",
  'sgd(0.9, 1, 2, 3)': 'sgd: too many positional',
  'adam(b2=2)': r'adam: b2=2 is not a number in \[0, 1\)',
  'adam(1)': 'b2=1',
  'adam(b2=None)': 'b2=None',
  'adamw(decay="x")': "decay='x'",
  'adamw(decay=-0.1)': 'decay=-0.1',
  'adamw(decay=1e999)': 'decay=inf',
  'sgd(momentum=-3)': 'momentum=-3',
  'sgd(momentum=1.0)': 'momentum=1.0',
  'sgd(nesterov=2)': 'sgd: nesterov must be True or False',
  'rmsprop(decay=1)': 'decay=1',
}


@pytest.mark.parametrize('text', BAD_SCHEDULES)
def test_bad_schedules_are_named(text):
  with pytest.raises(ValueError, match=BAD_SCHEDULES[text]):
    optim.bind_schedule(text)


@pytest.mark.parametrize('text', BAD_OPTIMIZERS)
def test_bad_optimizers_are_named(text):
  with pytest.raises(ValueError, match=BAD_OPTIMIZERS[text]):
    optim.bind_optimizer(text)


@pytest.mark.parametrize('factor', [-1, math.inf, math.nan, 'x', None, True])
def test_factors_of_the_learning_rate_are_not_negative(factor):
  with pytest.raises(ValueError, match=r"'text/\.\*': factor=.* \[0, inf\)"):
    _make(lr_scale=(('backbone/.*', 1.0), ('text/.*', factor)))


def test_every_option_has_a_range_and_its_default_lies_in_it():
  for table, takes in ((optim.SCHEDULES, 3), (optim.OPTIMIZERS, 1)):
    for name, fn in table.items():
      options = list(inspect.signature(fn).parameters.values())[takes:]
      numbers = {o.name for o in options if type(o.default) is not bool}
      assert numbers == set(optim.RANGES[name]), name
      written = ', '.join(f'{o.name}={o.default!r}' for o in options)
      bind = optim.bind_schedule if takes == 3 else optim.bind_optimizer
      bind(f'{name}({written})')


def test_adam_takes_the_first_step_of_the_paper():
  """Kingma and Ba: the first step is lr * sign(g), whatever its size."""
  params = {'kernel': jnp.zeros((2, 2))}
  grads = {'kernel': jnp.array([[1e-3, -5.0], [2.0, -1e-2]])}
  tx = _make('adam', lr=0.01)
  updates, _ = _update(tx, grads, params)
  np.testing.assert_allclose(
    updates['kernel'], -0.01 * np.sign(grads['kernel']), rtol=1e-3
  )
