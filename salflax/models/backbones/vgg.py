"""VGG-16's convolutions as a feature extractor.

Names are torchvision's, `features_0` to `features_28`.

References:
  Simonyan and Zisserman, Very Deep Convolutional Networks, ICLR 2015.
  Cornia et al., SAM, IEEE TIP 2018 (the dilated form).
"""

import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from salflax.core import spec
from salflax.models import layers

DEPTHS = (2, 2, 3, 3, 3)  # convolutions of each block
# Where a pooling's output stands, as a share of the image's side.
SCALES = {f'1/{2**i}': f'pool{i}' for i in range(1, 6)}


def _steps() -> dict[str, int]:
  """Lists 'conv1_1' to 'pool5', in order, and their places in the file."""
  places, steps = itertools.count(), {}
  for block, depth in enumerate(DEPTHS, 1):
    for j in range(1, depth + 1):
      steps[f'conv{block}_{j}'] = next(places)
      next(places)  # its ReLU
    steps[f'pool{block}'] = next(places)
  return steps


STEPS = _steps()
_kernel_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class VGG16(nn.Module):
  """An image's features after any convolution's ReLU, or any pooling.

  14,714,688 parameters. What is deeper than the deepest tap is not built.

  Attributes:
    taps: what to return: 'conv1_1' to 'conv5_3', 'pool1' to 'pool5', or a scale
      from '1/2' to '1/32', which is the pooling that ends there.
    width: channels of the first block; the others have 2, 4, 8 and 8 times as
      many.
    dilated: SAM's form. The fourth pooling keeps the size (2x2, stride 1, one
      row and column of padding at the end) and the fifth block is dilated by
      2: conv5_3 stands at 1/8.
    dtype: type of the computation.
  """

  taps: tuple[str, ...] = ('1/8', '1/16', '1/32')
  width: int = 64
  dilated: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """Computes {tap: [B, h, w, C]} for image [B, H, W, 3].

    Sides that do not divide lose what is left over at each pooling.

    Raises:
      ValueError: for an unknown tap, or one that the dilated form lacks.
    """
    del train
    x, features = image.astype(self.dtype), {}
    wanted = {SCALES.get(tap, tap): tap for tap in self._checked()}
    deepest = max(wanted, key=list(STEPS).index)
    for step, place in STEPS.items():
      block = int(step.removeprefix('conv').removeprefix('pool')[0])
      if step.startswith('conv'):
        x = layers.Conv(
          self.width * min(2 ** (block - 1), 8),
          dilation=2 if self.dilated and block == 5 else 1,
          kernel_init=_kernel_init,
          name=f'features_{place}',
        )(x)
        x = nn.relu(x)
      elif self.dilated and block == 4:
        # After a ReLU, padding with zeros is padding with -inf.
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = layers.max_pool(x, window=2, stride=1, padding=0)
      else:
        x = layers.max_pool(x, window=2, stride=2, padding=0)
      if step in wanted:
        features[wanted[step]] = x
      if step == deepest:
        break
    return features

  def unused(self, scope: str = 'backbone') -> tuple[str, ...]:
    """Lists patterns of a published file's tensors that it does without.

    Args:
      scope: place of this network in the whole one.
    """
    names = list(STEPS)
    deepest = max(names.index(SCALES.get(t, t)) for t in self._checked())
    above = [f'features_{STEPS[n]}' for n in names[deepest + 1 :]]
    top = (r'classifier_\d+', 'pre_logits', 'head', *above)
    return (rf'[^/]+/{scope}/({"|".join(top)})/.*',)

  def _checked(self) -> tuple[str, ...]:
    layers.check_positive(width=self.width)
    if not self.taps:
      raise ValueError('VGG-16 needs a tap, such as conv5_3.')
    taps = {**STEPS, **SCALES}
    if self.dilated:
      for name in ('1/16', '1/32', 'pool5'):
        taps.pop(name)
    for tap in self.taps:
      spec.lookup('tap of VGG-16', taps, tap)
    if len({SCALES.get(t, t) for t in self.taps}) != len(self.taps):
      raise ValueError(f'taps={self.taps} name a step twice.')
    return self.taps
