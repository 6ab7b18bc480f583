"""Layers that every network shares.

Images and maps are NHWC. A layer computes in the type of its input. Parameters
are float32 whatever that is, and are named and shaped so that a published
PyTorch state dict maps onto them name by name: `kernel` [h, w, in, out] for
every convolution, `kernel` [in, out] for every linear map, `scale` and `bias`
for every norm.
Four operations are written out where the direct call trains several times
slower on a CPU: 1x1 convolution, convolution to one channel (there alone),
max-pooling, nearest upsampling.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp


class TextFeatures(NamedTuple):
  """Features of sentences.

  Attributes:
    tokens: f32 [B, L, D], one vector per word piece.
    mask: bool [B, L], True for real word pieces. A row without any has no
      text.
    sentence: f32 [B, S], one vector per sentence.
  """

  tokens: jax.Array
  mask: jax.Array
  sentence: jax.Array


def check_positive(**values) -> None:
  """Raises ValueError for sizes that are not whole numbers from 1 up.

  Args:
    **values: sizes by name, each a number or several.
  """
  for name, value in values.items():
    for number in value if isinstance(value, list | tuple) else (value,):
      if type(number) is not int or number < 1:
        raise ValueError(f'{name}={value!r}: a size is a whole number above 0.')


def check_heads(num_heads: int, hidden_dim: int) -> None:
  """Raises ValueError for a number of heads that does not divide a width."""
  if hidden_dim % num_heads:
    raise ValueError(
      f'num_heads={num_heads} must divide hidden_dim={hidden_dim}.'
    )


# PyTorch's default for convolutions and linears: U(-b, b), b = fan_in^-1/2.
torch_kernel_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def torch_bias_init(fan_in: int):
  """Makes PyTorch's default initialiser of the bias beside `fan_in`."""
  bound = fan_in**-0.5

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def channels(x: jax.Array, like: jax.Array) -> jax.Array:
  """Gives the vector `x` [C] leading axes, to act on `like` [..., C]."""
  return x.reshape((1,) * (like.ndim - 1) + (-1,))


def _add_bias(layer: nn.Module, y: jax.Array, fan_in: int) -> jax.Array:
  if not layer.use_bias:
    return y
  init = layer.bias_init or torch_bias_init(fan_in)
  bias = layer.param('bias', init, (layer.features,))
  return y + channels(bias.astype(y.dtype), y)


class Dense(nn.Module):
  """Linear map of the last axis, [..., I] -> [..., features].

  Attributes:
    features: number of output channels.
    use_bias: whether a bias is added.
    kernel_init: initialiser of the kernel; PyTorch's default.
    bias_init: initialiser of the bias; None is PyTorch's default.
  """

  features: int
  use_bias: bool = True
  kernel_init: Any = torch_kernel_init
  bias_init: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape)
    y = x @ kernel.astype(x.dtype)
    return _add_bias(self, y, shape[0])


class Conv(nn.Module):
  """Convolution of [B, H, W, I] to [B, H', W', features].

  The padding is PyTorch's, explicit and the same on both sides: 'SAME' would
  shift a convolution of stride 2 by a pixel.

  Attributes:
    features: number of output channels.
    kernel_size: side of the square kernel.
    stride: step in both directions.
    padding: zeros on each side; None keeps the size at stride 1.
    dilation: distance between the taps of the kernel.
    use_bias: whether a bias is added.
    kernel_init: initialiser of the kernel; PyTorch's default.
    bias_init: initialiser of the bias; None is PyTorch's default.
  """

  features: int
  kernel_size: int = 3
  stride: int = 1
  padding: int | None = None
  dilation: int = 1
  use_bias: bool = True
  kernel_init: Any = torch_kernel_init
  bias_init: Any = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    k, s = self.kernel_size, self.stride
    shape = (k, k, x.shape[-1], self.features)
    kernel = self.param('kernel', self.kernel_init, shape).astype(x.dtype)
    if k == 1 and not self.padding:
      y = jnp.einsum('bhwi,io->bhwo', x[:, ::s, ::s], kernel[0, 0])
    else:
      pad = self.padding
      pad = self.dilation * (k // 2) if pad is None else pad
      cpu = jax.default_backend() == 'cpu'
      if cpu and (self.features, s, self.dilation) == (1, 1, 1):
        return _add_bias(self, _to_one(x, kernel, pad), k * k * shape[2])
      y = jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(s, s),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(self.dilation, self.dilation),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
    return _add_bias(self, y, k * k * shape[2])


def _to_one(x, kernel, pad):
  """Convolves [B, H, W, I] by [k, k, I, 1]: each tap's product, then shifts."""
  k, _, features, _ = kernel.shape
  taps = x @ kernel.reshape(k * k, features).T
  taps = jnp.pad(taps, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
  height, width = (size - k + 1 for size in taps.shape[1:3])
  shifts = ((i, j) for i in range(k) for j in range(k))
  return sum(
    taps[:, i : i + height, j : j + width, n, None]
    for n, (i, j) in enumerate(shifts)
  )


class BatchNorm(nn.Module):
  """Batch normalisation of [..., C] with PyTorch's conventions.

  The batch is normalised by its biased variance while the running variance
  takes the unbiased one. Statistics are float32 and, under jit over a sharded
  batch, those of the global batch.

  Attributes:
    mode: 'train' normalises by the batch when training; 'frozen' always
      normalises by the running statistics and never moves them.
    momentum: share of the running statistics that is kept at each step
      (PyTorch writes 1 - momentum).
    epsilon: added to the variance.
  """

  mode: str = 'train'
  momentum: float = 0.9
  epsilon: float = 1e-5

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    if self.mode not in ('train', 'frozen'):
      raise ValueError(f"bn must be 'train' or 'frozen', not {self.mode!r}.")
    shape = (x.shape[-1],)
    scale = self.param('scale', nn.initializers.ones, shape)
    bias = self.param('bias', nn.initializers.zeros, shape)
    running_mean = self.variable('batch_stats', 'mean', jnp.zeros, shape)
    running_var = self.variable('batch_stats', 'var', jnp.ones, shape)
    dtype, x = x.dtype, x.astype(jnp.float32)
    if self.mode == 'frozen' or not train:
      mean, var = running_mean.value, running_var.value
    else:
      axes = tuple(range(x.ndim - 1))
      mean = x.mean(axes)
      var = jnp.square(x - channels(mean, x)).mean(axes)
      if not self.is_initializing():
        count = x.size // x.shape[-1]
        unbiased = var * (count / max(count - 1, 1))
        keep = self.momentum
        running_mean.value = keep * running_mean.value + (1 - keep) * mean
        running_var.value = keep * running_var.value + (1 - keep) * unbiased
    factor = scale * jax.lax.rsqrt(var + self.epsilon)
    y = x * channels(factor, x) + channels(bias - mean * factor, x)
    return y.astype(dtype)


def max_pool(
  x: jax.Array,
  *,
  window: int = 3,
  stride: int = 2,
  padding: int = 1,
  ceil: bool = False,
) -> jax.Array:
  """Takes the largest value in each window, [B, H, W, C] -> [B, H', W', C].

  Args:
    x: [B, H, W, C].
    window: side of the square window.
    stride: step in both directions.
    padding: rows and columns of -inf on each side.
    ceil: whether a window that leaves the image at the bottom or right still
      counts (Caffe) or not (PyTorch's default).
  """
  pads, outs = [], []
  for size in x.shape[1:3]:
    room = size + 2 * padding - window
    out = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (out - 1) * stride >= size + padding:
      out -= 1  # The window would start beyond the image.
    outs.append(out)
    end = (out - 1) * stride + window - size - padding
    pads.append((padding, max(end, 0)))
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=-jnp.inf)
  y = None
  for i in range(window):
    for j in range(window):
      rows = slice(i, i + (outs[0] - 1) * stride + 1, stride)
      columns = slice(j, j + (outs[1] - 1) * stride + 1, stride)
      part = x[:, rows, columns]
      y = part if y is None else jnp.maximum(y, part)
  return y


def shrink(x: jax.Array, *, factor: int = 2) -> jax.Array:
  """Takes means over cells, [B, fH, fW, C] -> [B, H, W, C].

  Raises:
    ValueError: if the factor does not divide both sides.
  """
  b, h, w, c = x.shape
  if h % factor or w % factor:
    raise ValueError(f'stride={factor} does not divide an image of {h} x {w}.')
  cells = x.reshape(b, h // factor, factor, w // factor, factor, c)
  return cells.mean((2, 4))


def resized(
  x: jax.Array, size: tuple[int, int], *, antialias: bool = False
) -> jax.Array:
  """Resizes [B, h, w, C] to [B, *size, C], bilinearly.

  Args:
    x: [B, h, w, C].
    size: (height, width) wanted.
    antialias: averages where it shrinks.
  """
  if x.shape[1:3] == tuple(size):
    return x
  shape = (x.shape[0], *size, x.shape[-1])
  return jax.image.resize(x, shape, 'bilinear', antialias=antialias)


def upsample(x: jax.Array, *, factor: int = 2) -> jax.Array:
  """Enlarges [B, H, W, C] to [B, fH, fW, C], nearest neighbour."""
  b, h, w, c = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, factor, w, factor, c))
  return x.reshape(b, h * factor, w * factor, c)
