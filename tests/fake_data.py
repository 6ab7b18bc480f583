"""Tiny raw folders in the published layouts."""

import csv
import pathlib

import numpy as np
import openpyxl
import scipy.io
from PIL import Image

SIZE = (24, 32)  # height, width
# Suffix, condition, kind in the workbook.
GROUP_2 = {'_1': ('all', '整体'), '_2': ('non_salient', '非显著')}
GROUP_2['_3'] = ('salient', '显著')


def image(rng: np.random.Generator, size=SIZE) -> np.ndarray:
  """Draws noise u8 [h, w, 3], drawn coarsely so that JPEG keeps it apart."""
  return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def save(path: pathlib.Path, array: np.ndarray, *, rgba: bool = False) -> None:
  """Writes an image; RGBA with full alpha, as SJTU-TIS has it, if asked."""
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = Image.fromarray(array)
  (pixels.convert('RGBA') if rgba else pixels).save(path)


def gaze(rng: np.random.Generator, size=SIZE) -> tuple[np.ndarray, np.ndarray]:
  """Draws a fixation image u8 [h, w, 3] and a map u8 [h, w]."""
  fixations = np.zeros((*size, 3), np.uint8)
  fixations[rng.integers(0, size[0], 9), rng.integers(0, size[1], 9)] = 255
  return fixations, rng.integers(1, 256, size, dtype=np.uint8)


class Sjtu:
  """SJTU-TIS with images of each group, in one of its two layouts.

  Attributes:
    root: the folder.
    whole, parts: rows of the two sheets.
  """

  def __init__(self, root: pathlib.Path, *, published: bool, suffix: str = ''):
    self.root, self.published = root, published
    self.base = root / 'saliency' if published else root
    self.folders = {
      k: self.base / (k + suffix) for k in ('image', 'map', 'fixation')
    }
    self.whole, self.parts = [], []
    self.rng = np.random.default_rng(0)

  def add(self, name: str, *, group: int, size=SIZE) -> None:
    """Adds an image with all its conditions and sentences."""
    number = int(name)
    pixels = image(self.rng, size)
    if not self.published:
      save(self.folders['image'] / f'{name}.jpg', pixels)
    for suffix in ['_0', ''] if group == 1 else ['_0', *GROUP_2]:
      if self.published:
        path = self.folders['image'] / f'{name}{suffix}.png'
        save(path, pixels, rgba=True)
      fixations, saliency = gaze(self.rng, size)
      save(self.folders['map'] / f'{name}{suffix}.png', saliency)
      save(self.folders['fixation'] / f'{name}{suffix}.png', fixations)
    if group == 1:
      self.whole.append([number, f'A view of {number}.\xa0'])
    else:
      for condition, kind in GROUP_2.values():
        self.parts.append([number, kind, f' the {condition} of {number}'])

  def path(self, kind: str, name: str) -> pathlib.Path:
    """Names a file of the folder, e.g. path('map', '000000000071_0.png')."""
    return self.folders[kind] / name

  def write(self) -> pathlib.Path:
    """Writes the workbook and returns the folder."""
    book = openpyxl.Workbook()
    book.active.title = '整体'
    for row in [['image', 'text'], *self.whole]:
      book.active.append(row)
    sheet = book.create_sheet('部分-实验设置')
    for row in [['image', '描述种类', 'text'], *self.parts]:
      sheet.append(row)
    book.save(self.root / 'text最终版本.xlsx')
    (self.root / 'readme.txt').write_text('_0: pure')
    return self.root


def sjtu(root: pathlib.Path, *, published: bool = False, suffix='') -> Sjtu:
  """Writes two images of group 1 and two of group 2: 12 samples."""
  fake = Sjtu(root, published=published, suffix=suffix)
  fake.add('000000000071', group=1)
  fake.add('1031973097', group=1)
  fake.add('000000000109', group=2)
  fake.add('102520526', group=2)
  return fake


def osie(root: pathlib.Path, gaze_of: dict[str, list]) -> pathlib.Path:
  """Writes OSIE's layout.

  Args:
    root: the folder.
    gaze_of: file name -> observers, each (x, y): lists of 1-based positions.
  """
  rng = np.random.default_rng(1)
  entries = np.zeros((len(gaze_of), 1), object)
  for i, (name, observers) in enumerate(gaze_of.items()):
    save(root / 'data' / 'stimuli' / name, image(rng))
    subjects = np.zeros((len(observers), 1), object)
    for j, (x, y) in enumerate(observers):
      duration = np.full(len(x), 200.0)
      subjects[j, 0] = {
        'fix_x': np.array(x, float),
        'fix_y': np.array(y, float),
        'fix_duration': duration,
      }
    entries[i, 0] = {'img': name, 'subjects': subjects}
  (root / 'data' / 'eye').mkdir(parents=True)
  scipy.io.savemat(
    root / 'data' / 'eye' / 'fixations.mat', {'fixations': entries}
  )
  return root


def folder(root: pathlib.Path, rows: list[tuple], *, count: int = 3):
  """Writes images/p0.png, p1.png, ... and fixations.csv with the given rows."""
  rng = np.random.default_rng(2)
  for i in range(count):
    save(root / 'images' / f'p{i}.png', image(rng))
  write_csv(root / 'fixations.csv', ('image', 'subject', 'x', 'y'), rows)
  return root


def write_csv(path: pathlib.Path, head: tuple, rows: list[tuple]) -> None:
  """Writes a CSV with a head."""
  with path.open('w', newline='', encoding='utf-8') as f:
    csv.writer(f).writerows([head, *rows])
