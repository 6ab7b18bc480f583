"""Made-up variables for a network: noise on every leaf."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def variables(model, *args, **kwargs):
  """Draws variables of `model` for a call with these arguments.

  Noise throughout, since the zeros and ones of an initialiser hide mistakes;
  and quick, since nothing of the initialisers is compiled.
  """
  shapes = jax.eval_shape(
    lambda key: model.init(key, *args, **kwargs), jax.random.key(0)
  )
  rng = np.random.default_rng(3)

  def fill(path, x):
    value = rng.normal(size=x.shape)
    leaf = path.split('/')[-1]
    if leaf == 'kernel':
      value *= int(np.prod(x.shape[:-1])) ** -0.5
    elif leaf in ('scale', 'var'):
      value = np.exp(0.3 * value)
    return jnp.asarray(value, x.dtype)

  flat = traverse_util.flatten_dict(shapes, sep='/')
  flat = {path: fill(path, x) for path, x in flat.items()}
  return traverse_util.unflatten_dict(flat, sep='/')
