"""Weights from a tensor's name and shape alone.

A reference implementation and ours fill themselves by the same rule, so a
golden needs only outputs. Names and shapes are those of the PyTorch state
dict: convolutions OIHW, linear maps (out, in).
"""

import zlib

import numpy as np


def tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
  """Draws the float32 tensor called `name`, of the same scale at any width.

  Weights have the deviation fan_in^-1/2; norms, biases and running statistics
  are near their usual values but never at them.
  """
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  leaf = name.rsplit('.', 1)[-1]
  if leaf == 'num_batches_tracked':
    return np.zeros(shape, np.int64)
  if leaf == 'running_var':
    x = rng.uniform(0.5, 1.5, shape)
  elif leaf == 'running_mean':
    x = rng.normal(0.0, 0.1, shape)
  elif len(shape) >= 2 and leaf != 'position_embeddings':
    x = rng.normal(0.0, int(np.prod(shape[1:])) ** -0.5, shape)
  elif leaf == 'weight':
    x = rng.uniform(0.5, 1.5, shape)
  else:
    x = rng.normal(0.0, 0.1, shape)
  return x.astype(np.float32)
