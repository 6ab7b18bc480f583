"""Text-guided scenes drawn on the fly: no download, exact right answers.

An image holds three to six coloured things on a textured ground. It is looked
at under several conditions, as in SJTU-TIS: without text, with a description
of the whole, and with a sentence that names the most conspicuous thing or an
inconspicuous one. Fixations are drawn from a density that sums up centre bias,
conspicuity and, where a sentence names something, that thing. Things lie
anywhere, so a sentence tells where to look only to a model that sees in the
image what it names.

NumPy and Pillow only. Every example follows from (seed, split, index) alone.
"""

import dataclasses
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from salflax.core import spec
from salflax.data import maps
from salflax.data.scenes import art, sentences
from salflax.data.scenes.layout import Scene, compose

# The order is part of the seeds: append only.
CONDITIONS = tuple(art.TABLES['gaze'])
SPLITS = {'train': 4000, 'val': 200, 'test': 200}


@dataclasses.dataclass(eq=False)
class Scenes(Sequence):
  """Examples of one split, image by image, conditions side by side.

  They are drawn when they are asked for. An example is a dict: image u8 [h, w,
  3], saliency u8 [h, w, 1], fixations i32 [N, 2] (row, column), and text,
  condition and image_id, str. All conditions of an image have the same image
  and image_id.

  Attributes:
    split: 'train' (also called 'fit'), 'val' or 'test'. No scene is in two of
      them.
    size: (h, w) of the images, at least 32 each.
    num: number of images; each has one example a condition. The first ones
      are the same whatever the number. None for as many as there are.
    seed: another seed, another data set.
    conditions: some of `CONDITIONS`.

  Raises:
    ValueError: for an unknown split or condition, a size too small to draw in
      or a number below 1.
  """

  split: str
  _: dataclasses.KW_ONLY
  size: tuple[int, int] = (96, 128)
  num: int | None = None
  seed: int = 0
  conditions: Sequence[str] = CONDITIONS[:4]

  def __post_init__(self):
    self.split = 'train' if self.split == 'fit' else self.split
    default = spec.lookup('split of scenes', SPLITS, self.split)
    self.num = default if self.num is None else self.num
    self.size, self.conditions = tuple(self.size), tuple(self.conditions)
    for condition in self.conditions:
      spec.lookup('condition', CONDITIONS, condition)
    if not self.conditions or len({*self.conditions}) < len(self.conditions):
      raise ValueError(f'Conditions must differ; found {self.conditions}.')
    if len(self.size) != 2 or min(self.size) < 32:
      raise ValueError(f'size is (h, w), at least 32 each; found {self.size}.')
    spec.check_number('num', self.num, 1, 10**9, whole=True)

  def __len__(self) -> int:
    return self.num * len(self.conditions)

  def __getitem__(self, index: int) -> dict[str, Any]:
    points, rng = self._fixations(index), self._rng(index, 'art')
    return {
      'image': draw(rng, self.scene(index), self.size),
      'saliency': blur(points, self.size)[..., None],
      'fixations': points,
      **self.meta(index),
    }

  def meta(self, index: int) -> dict[str, str]:
    """Writes image_id, condition and text of a row, without drawing it."""
    image, condition = self._row(index)
    return {
      'text': self._text(index)[0],
      'condition': condition,
      'image_id': f'{self.split}_{self.seed}_{image:06d}',
    }

  def scene(self, index: int) -> Scene:
    """Composes what the image of a row holds."""
    extent = tuple(side / min(self.size) for side in self.size)
    return compose(self._seeds(index, 'scene'), extent)

  def named(self, index: int) -> tuple[int, ...]:
    """Lists which of the scene's things the sentence of a row names."""
    return self._text(index)[1]

  def density(self, index: int) -> np.ndarray:
    """Computes the density a row's fixations are drawn from: see `gaze`.

    It tells how well a model could do that reads the sentence and finds what
    it names.
    """
    _, condition = self._row(index)
    return gaze(self.scene(index), condition, self.named(index), self.size)

  def _row(self, index: int) -> tuple[int, str]:
    """Finds the number of a row's image, and its condition."""
    index = operator.index(index)
    if not -len(self) <= index < len(self):
      raise IndexError(f'Row {index} of {len(self)} scenes.')
    image, which = divmod(index % len(self), len(self.conditions))
    return image, self.conditions[which]

  def _seeds(self, index: int, use: str = '') -> tuple[int, ...]:
    image, condition = self._row(index)
    use = ('scene', 'art', *CONDITIONS).index(use or condition)
    return self.seed, [*SPLITS].index(self.split), image, use

  def _rng(self, index: int, use: str = '') -> np.random.Generator:
    return np.random.default_rng(self._seeds(index, use))

  def _text(self, index: int) -> tuple[str, tuple[int, ...]]:
    """Writes the sentence of a row and lists the things that it names."""
    rng, scene = self._rng(index), self.scene(index)
    (_, condition), number = self._row(index), len(scene.things)
    if condition == 'pure':
      return '', ()
    if condition in ('all', 'whole'):
      named = rng.permutation(number)[:3].tolist()
      things = [scene.things[i] for i in named]
      return sentences.describe(rng, things, scene), tuple(named)
    # The inconspicuous one is among the least conspicuous two.
    last = number - 1 - int(rng.integers(2 if number > 3 else 1))
    one = 0 if condition == 'salient' else last
    return sentences.name_one(rng, scene.things[one], scene), (one,)

  def _fixations(self, index: int) -> np.ndarray:
    """Draws the fixations of a row from its density, i32 [N, 2]."""
    # Not the stream of the sentence, which is consumed to a varying length.
    rng, density = self._rng(index).spawn(1)[0], self.density(index)
    cumulated = np.cumsum(density)
    draws = rng.random(int(rng.integers(100, 201))) * cumulated[-1]
    at = np.searchsorted(cumulated, draws, side='right')
    at = np.minimum(at, density.size - 1)
    return np.stack(np.divmod(at, self.size[1]), axis=1).astype(np.int32)


load = Scenes


def draw(
  rng: np.random.Generator, scene: Scene, size: tuple[int, int]
) -> np.ndarray:
  """Draws a scene, u8 [h, w, 3]."""
  pixels = art.ground(rng, scene.ground, size)
  page = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
  for thing in scene.things:
    art.paint(page, thing, ground=scene.ground, unit=min(size))
  return np.array(page)


def gaze(
  scene: Scene, condition: str, named: Sequence[int], size: tuple[int, int]
) -> np.ndarray:
  """Computes where people look, a density f64 [h, w] that sums to 1.

  Args:
    scene: things and their ground.
    condition: one of `CONDITIONS`.
    named: numbers of the things that the sentence names.
    size: (h, w).
  """
  centre, conspicuity, sentence = art.TABLES['gaze'][condition]
  (h, w), unit = size, min(size)
  bias = _bump(size, h / 2, w / 2, 0.22 * h, 0.22 * w)
  density = (1 - centre - conspicuity - sentence) / (h * w) + centre * bias
  for i, thing in enumerate(scene.things):
    share = conspicuity * thing.weight
    share += sentence * (i in named) / max(len(named), 1)
    spread = max(0.62 * thing.radius, 0.05) * unit
    at = thing.row * unit, thing.column * unit
    density = density + share * _bump(size, *at, spread, spread)
  return density / density.sum()


def _bump(size, row, column, height, width) -> np.ndarray:
  """Computes a Gaussian at (row, column) that sums to 1, f64 [h, w]."""
  y = np.exp(-0.5 * ((np.arange(size[0]) + 0.5 - row) / height) ** 2)
  x = np.exp(-0.5 * ((np.arange(size[1]) + 0.5 - column) / width) ** 2)
  return np.outer(y / y.sum(), x / x.sum())


def blur(fixations: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Blurs fixations to a saliency map, u8 [h, w], maximum 255.

  A Gaussian with a deviation of 5 % of the longer side and zero padding, as
  SJTU-TIS blurs its own.

  Args:
    fixations: i32 [N, 2], (row, column).
    size: (h, w).
  """
  sigma = 0.05 * max(size)
  return maps.to_uint8(maps.saliency_from_fixations(fixations, size, sigma))
