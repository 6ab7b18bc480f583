"""Drawing: maps laid over images, montages, curves of training."""

import functools
import logging
import os
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.core import files

_LOG = logging.getLogger(__name__)


class Panel(NamedTuple):
  """One place of a montage.

  Attributes:
    image: u8 [h, w, 3].
    saliency: [h, w] >= 0 laid over it; None shows the image alone.
    caption: text below.
  """

  image: np.ndarray
  saliency: np.ndarray | None = None
  caption: str = ''


def check(image: np.ndarray, values: np.ndarray) -> None:
  """Raises ValueError unless `image` is u8 [h, w, 3] and `values` [h, w]."""
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f'Expected an image u8 [h, w, 3], found {image.dtype} {image.shape}.'
    )
  if values.shape != image.shape[:2]:
    raise ValueError(f'The map is {values.shape}, the image {image.shape[:2]}.')


def mix(
  image: np.ndarray, colour: np.ndarray, weight: np.ndarray
) -> np.ndarray:
  """Lays `colour` [h, w, 3 or 4] in 0..1 over an image, by `weight` [h, w]."""
  weight = weight[..., None]
  mixed = image * (1 - weight) + colour[..., :3] * 255 * weight
  return np.floor(mixed + 0.5).astype(np.uint8)


def overlay(
  image: np.ndarray,
  saliency: np.ndarray,
  *,
  opacity: float = 0.7,
  colours: str = 'turbo',
) -> np.ndarray:
  """Lays a heat map over an image.

  The map is spread from its own minimum to its own maximum. The more salient a
  place, the more heat and the less image it shows, so that cold regions stay
  readable. A flat map shows no heat.

  Args:
    image: u8 [h, w, 3].
    saliency: [h, w] >= 0, any scale.
    opacity: weight of the heat at the most salient place, in [0, 1].
    colours: name of a matplotlib colour map.

  Returns:
    u8 [h, w, 3].
  """
  check(image, saliency)
  import matplotlib

  values = np.asarray(saliency, np.float64)
  values = values - values.min()
  top = values.max()
  values = values / top if top > 0 else values
  heat = matplotlib.colormaps[colours](values)
  return mix(image, heat, opacity * np.sqrt(values))


def blank(width: float, height: float) -> Any:
  """Makes an empty matplotlib figure of so many inches."""
  # A figure of its own, not pyplot's: no window system and no global state.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(figure)
  return figure


@functools.cache
def _glyphs(path: str) -> frozenset[int]:
  from matplotlib import font_manager

  try:
    return frozenset(font_manager.get_font(path).get_charmap())
  except (OSError, RuntimeError):  # a font that matplotlib cannot draw
    return frozenset()


@functools.cache
def _font(letter: str) -> str | None:
  """Finds an installed font that draws a letter; None if there is none."""
  from matplotlib import font_manager

  default = font_manager.FontProperties()
  if ord(letter) in _glyphs(font_manager.findfont(default)):
    return default.get_family()[0]
  for font in font_manager.fontManager.ttflist:
    # The font of last resort has a box for everything.
    if not font.name.startswith('Last Resort') and ord(letter) in _glyphs(
      font.fname
    ):
      return font.name
  _note()
  return None


@functools.cache
def _note() -> None:
  _LOG.warning(
    'No installed font has some letters: figures show their codes. A font of '
    'that script helps, e.g. of the package fonts-noto-cjk.'
  )


def _drawable(text: str) -> str:
  """Replaces letters that no installed font has by their codes."""
  # Marks that only shape their neighbours have no glyph of their own.
  text = ''.join(
    c
    for c in text
    if unicodedata.category(c) != 'Cf' and c not in '\ufe0e\ufe0f'
  )
  codes = {
    ord(c): c.encode('unicode_escape').decode()
    for c in {*text} - {'\n'}
    if not ' ' <= c <= '~' and _font(c) is None
  }
  return text.translate(codes)


def plain(text: str, width: int = 0) -> str:
  """Prepares text for a figure.

  Args:
    text: any text; letters that no installed font has become codes.
    width: letters of a line, of which there are at most three; 0 is one line.
  """
  text = _drawable(text)
  if width:
    lines = textwrap.wrap(text, width)
    if len(lines) > 3:
      lines = [*lines[:2], lines[2][: width - 2] + ' …']
    text = '\n'.join(lines)
  # matplotlib would set what stands between two dollar signs as a formula.
  return text.replace('$', r'\$')


def save(figure: Any, path: str | os.PathLike) -> None:
  """Writes a figure, all or nothing; the suffix says the format."""
  from matplotlib.text import Text

  texts = figure.findobj(Text)
  letters = {
    c for text in texts for c in text.get_text() if not ' ' <= c <= '~'
  }
  if fonts := {_font(c) for c in letters - {'\n'}} - {None}:
    for text in texts:
      # In turn, letter by letter.
      text.set_fontfamily([*text.get_fontfamily(), *sorted(fonts)])
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=150, bbox_inches='tight', pad_inches=0.05)


def montage(
  rows: Sequence[Mapping[Any, Panel]],
  path: str | os.PathLike,
  *,
  panel: tuple[float, float] = (2.4, 2.2),
) -> None:
  """Writes a figure of images and maps.

  Args:
    rows: panels of each line by column; columns that are text are titles, and
      a column that a line lacks stays empty.
    path: .png, .pdf or .svg.
    panel: width and height of each, inches.
  """
  columns = list(dict.fromkeys(key for row in rows for key in row))
  if not columns:
    raise ValueError('A montage needs at least one panel.')
  width, height = panel
  figure = blank(width * len(columns), height * len(rows))
  axes = figure.subplots(len(rows), len(columns), squeeze=False)
  for axis in axes.ravel():
    axis.set_axis_off()
  for axis, column in zip(axes[0], columns):
    axis.set_title(plain(column) if isinstance(column, str) else '', fontsize=9)
  for row, line in zip(rows, axes):
    for column, one in row.items():
      axis, pixels = line[columns.index(column)], one.image
      if one.saliency is not None:
        pixels = overlay(one.image, one.saliency)
      axis.imshow(pixels)
      style = dict(ha='center', va='top', fontsize=6.5)
      place = dict(transform=axis.transAxes)
      # As wide as its image: a longer line would push the columns apart.
      caption = plain(one.caption, int(17.5 * width))
      axis.text(0.5, -0.04, caption, **style, **place)
  save(figure, path)


def conditions_figure(
  examples: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Draws human and predicted maps, condition by condition.

  Args:
    examples: dicts of image_id, image u8 [h, w, 3] and rows, each a dict of
      condition, text, human [h, w] and pred [h, w].
    path: .png, .pdf or .svg.
  """
  lines = []
  for example in examples:
    image = example['image']
    line = {'image': Panel(image, caption=example['image_id'])}
    for row in example['rows']:
      caption = row['text'] or '(no sentence)'
      name = row['condition']
      line[f'{name}: people'] = Panel(image, row['human'], caption)
      line[f'{name}: model'] = Panel(image, row['pred'])
    lines.append(line)
  montage(lines, path)


def sentences_figure(
  examples: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Draws one model under the right, no and a wrong sentence.

  Args:
    examples: dicts as for `conditions_figure`; rows have also none [h, w], and
      wrong [h, w] with wrong_text. Rows without a sentence are left out.
    path: .png, .pdf or .svg.

  Raises:
    ValueError: no row has a sentence.
  """
  lines = []
  for example in examples:
    image = example['image']
    for row in example['rows']:
      if 'none' in row:
        caption = f'{example["image_id"]}, {row["condition"]}'
        line = {
          'image': Panel(image, caption=caption),
          'people': Panel(image, row['human'], row['text']),
          'right sentence': Panel(image, row['pred'], row['text']),
          'none': Panel(image, row['none'], '(no sentence)'),
        }
        if (wrong := row.get('wrong')) is not None:
          line['wrong sentence'] = Panel(image, wrong, row['wrong_text'])
        lines.append(line)
  montage(lines, path)


def curves(
  series: Mapping[str, Sequence[tuple[int, float]]],
  path: str | os.PathLike,
  *,
  names: Sequence[str] = (),
  title: str = '',
) -> None:
  """Draws small line plots over the steps, one per name.

  Args:
    series: (step, value) pairs by name, of `runs.read_metrics`.
    path: .png, .pdf or .svg.
    names: names to draw; all, if none is named.
    title: title of the figure.
  """
  names = list(names or series)
  if missing := [name for name in names if name not in series]:
    raise ValueError(f'Not measured: {missing}. There are: {sorted(series)}.')
  if not names:
    raise ValueError('There is nothing to plot: there are no measures.')
  columns = min(3, len(names))
  rows = -(-len(names) // columns)
  figure = blank(3.4 * columns, 2.3 * rows + (0.4 if title else 0))
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis in axes[len(names) :]:
    axis.set_axis_off()
  for axis, name in zip(axes, names):
    steps, values = zip(*series[name])
    axis.plot(steps, values, linewidth=1.2, marker='.' * (len(steps) < 20))
    axis.set_title(plain(name), fontsize=9)
    axis.set_xlabel('step', fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
  if title:
    figure.suptitle(plain(title), fontsize=10)
  save(figure, path)
