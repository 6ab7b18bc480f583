"""Pictures for people: heat overlays, maps side by side, training curves."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.core import files


class Panel(NamedTuple):
  """One place of a montage.

  Attributes:
    image: u8 [h, w, 3].
    saliency: [h, w] >= 0 laid over it; None shows the picture alone.
    caption: printed below.
  """

  image: np.ndarray
  saliency: np.ndarray | None = None
  caption: str = ''


def overlay(
  image: np.ndarray,
  saliency: np.ndarray,
  *,
  opacity: float = 0.7,
  colours: str = 'turbo',
) -> np.ndarray:
  """Returns the picture with a heat map laid over it.

  The map is spread from its own minimum to its own maximum. The more salient a
  place, the more heat and the less picture it shows, so that cold regions stay
  readable. A flat map shows no heat.

  Args:
    image: u8 [h, w, 3].
    saliency: [h, w] >= 0, any scale.
    opacity: of the heat at the most salient place, in [0, 1].
    colours: name of a matplotlib colour map.

  Returns:
    u8 [h, w, 3].
  """
  if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
    raise ValueError(
      f'Expected a picture u8 [h, w, 3], found {image.dtype} {image.shape}.'
    )
  if saliency.shape != image.shape[:2]:
    raise ValueError(
      f'The map is {saliency.shape}, the picture {image.shape[:2]}.'
    )
  import matplotlib

  values = np.asarray(saliency, np.float64)
  values = values - values.min()
  top = values.max()
  values = values / top if top > 0 else values
  heat = matplotlib.colormaps[colours](values)[..., :3] * 255
  weight = opacity * np.sqrt(values)[..., None]
  mixed = image * (1 - weight) + heat * weight
  return np.floor(mixed + 0.5).astype(np.uint8)


def blank(width: float, height: float) -> Any:
  """Returns an empty matplotlib figure of so many inches."""
  # A figure of its own, not pyplot's: no window system and no global state.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(width, height), layout='constrained')
  FigureCanvasAgg(figure)
  return figure


def save(figure: Any, path: str | os.PathLike) -> None:
  """Writes a figure, all or nothing; the suffix says the format."""
  with files.replacing(path) as temporary:
    figure.savefig(temporary, dpi=150, bbox_inches='tight', pad_inches=0.05)


def montage(
  rows: Sequence[Sequence[Panel | None]],
  path: str | os.PathLike,
  *,
  titles: Sequence[str] = (),
  title: str = '',
  panel: tuple[float, float] = (2.4, 2.2),
) -> None:
  """Writes a figure of pictures and maps, one row per picture.

  Args:
    rows: panels from left to right; None leaves a place empty.
    path: .png, .pdf or .svg.
    titles: of the columns.
    title: of the figure.
    panel: width and height of each, inches.
  """
  if not any(rows):
    raise ValueError('A montage needs at least one panel.')
  columns = max(map(len, rows))
  width, height = panel
  figure = blank(width * columns, height * len(rows) + (0.5 if title else 0))
  axes = figure.subplots(len(rows), columns, squeeze=False)
  for r, row in enumerate(rows):
    for c, axis in enumerate(axes[r]):
      axis.set_axis_off()
      if r == 0 and c < len(titles):
        axis.set_title(plain(titles[c]), fontsize=9)
      one = row[c] if c < len(row) else None
      if one is None:
        continue
      shown = one.image
      if one.saliency is not None:
        shown = overlay(one.image, one.saliency)
      axis.imshow(shown)
      # As wide as its picture: a longer line would push the columns apart.
      caption = plain(_wrap(one.caption, int(17.5 * width)))
      axis.text(
        0.5,
        -0.04,
        caption,
        transform=axis.transAxes,
        ha='center',
        va='top',
        fontsize=6.5,
      )
  if title:
    figure.suptitle(plain(title), fontsize=10)
  save(figure, path)


def conditions_figure(
  examples: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Writes a figure of human and predicted maps, condition by condition.

  Args:
    examples: dicts of image_id, image u8 [h, w, 3] and rows, each a dict of
      condition, text, human [h, w] and pred [h, w].
    path: .png, .pdf or .svg.
  """
  names = [row['condition'] for example in examples for row in example['rows']]
  conditions = list(dict.fromkeys(names))
  titles = ['picture']
  for condition in conditions:
    titles += [f'{condition}: people', f'{condition}: model']
  rows = []
  for example in examples:
    image = example['image']
    by_condition = {row['condition']: row for row in example['rows']}
    panels: list[Panel | None] = [Panel(image, caption=example['image_id'])]
    for condition in conditions:
      row = by_condition.get(condition)
      if row is None:
        panels += [None, None]
      else:
        caption = row['text'] or '(no sentence)'
        panels.append(Panel(image, row['human'], caption))
        panels.append(Panel(image, row['pred']))
    rows.append(panels)
  montage(rows, path, titles=titles)


def sentences_figure(
  examples: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Writes a figure of one model told the right, no and a wrong sentence.

  Args:
    examples: as for `conditions_figure`; rows have also none [h, w], and wrong
      [h, w] with wrong_text. Rows without a sentence are left out.
    path: .png, .pdf or .svg.

  Raises:
    ValueError: if no row has a sentence.
  """
  rows = []
  for example in examples:
    image = example['image']
    for row in example['rows']:
      if 'none' not in row:
        continue
      wrong = row.get('wrong')
      rows.append(
        [
          Panel(image, caption=f'{example["image_id"]}, {row["condition"]}'),
          Panel(image, row['human'], row['text']),
          Panel(image, row['pred'], row['text']),
          Panel(image, row['none'], '(no sentence)'),
          None if wrong is None else Panel(image, wrong, row['wrong_text']),
        ]
      )
  titles = ['picture', 'people', 'right sentence', 'none', 'wrong sentence']
  montage(rows, path, titles=titles)


def plain(text: str) -> str:
  """Returns text that matplotlib sets as it stands."""
  # matplotlib would set what stands between two dollar signs as a formula.
  return text.replace('$', r'\$')


def _wrap(text: str, width: int, lines: int = 3) -> str:
  import textwrap

  wrapped = textwrap.wrap(text, width)
  if len(wrapped) > lines:
    wrapped = [*wrapped[: lines - 1], wrapped[lines - 1][: width - 2] + ' …']
  return '\n'.join(wrapped)


def read_metrics(path: str | os.PathLike) -> dict[str, list[tuple[int, float]]]:
  """Returns the (step, value) pairs of every name in a metrics.jsonl.

  A line cut short by a kill is left out, and so is a value of null.
  """
  series: dict[str, list[tuple[int, float]]] = {}
  with open(path, encoding='utf-8') as f:
    for line in f:
      try:
        row = json.loads(line)
        step = row.pop('step')
      except (ValueError, KeyError, AttributeError):
        continue
      for name, value in row.items():
        if isinstance(value, int | float) and math.isfinite(value):
          series.setdefault(name, []).append((int(step), float(value)))
  return series


def curves(
  series: Mapping[str, Sequence[tuple[int, float]]],
  path: str | os.PathLike,
  *,
  names: Sequence[str] = (),
  title: str = '',
) -> None:
  """Writes small line plots over the steps, one per name.

  Args:
    series: of `read_metrics`.
    path: .png, .pdf or .svg.
    names: which of them; all, if none is given.
    title: of the figure.
  """
  names = list(names or series)
  if missing := [name for name in names if name not in series]:
    raise ValueError(f'Not measured: {missing}. There are: {sorted(series)}.')
  if not names:
    raise ValueError('There is nothing to plot: no measures were given.')
  columns = min(3, len(names))
  rows = -(-len(names) // columns)
  figure = blank(3.4 * columns, 2.3 * rows + (0.4 if title else 0))
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis in axes:
    axis.set_axis_off()
  for axis, name in zip(axes, names):
    axis.set_axis_on()
    steps, values = zip(*series[name])
    axis.plot(steps, values, linewidth=1.2, marker='.' * (len(steps) < 20))
    axis.set_title(plain(name), fontsize=9)
    axis.set_xlabel('step', fontsize=8)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3)
  if title:
    figure.suptitle(plain(title), fontsize=10)
  save(figure, path)
