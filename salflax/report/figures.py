"""Figures of a report: scores as a forest, what another sentence changes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salflax.report import plots
from salflax.report.found import Found
from salflax.report.paper import Paper, Table


def density(saliency: np.ndarray) -> np.ndarray:
  """Returns a map [h, w] >= 0 with a mean of 1; one without mass is flat."""
  values = np.asarray(saliency, np.float64)
  total = values.mean()
  return values / total if total > 0 else np.ones_like(values)


def diverging(
  image: np.ndarray, change: np.ndarray, *, top: float
) -> np.ndarray:
  """Returns the grey picture with red where there is more, blue where less.

  Args:
    image: u8 [h, w, 3].
    change: [h, w] of either sign.
    top: the change that has full colour.

  Returns:
    u8 [h, w, 3].
  """
  if change.shape != image.shape[:2]:
    raise ValueError(
      f'The map is {change.shape}, the picture {image.shape[:2]}.'
    )
  import matplotlib

  share = np.clip(change / top if top > 0 else change, -1, 1)
  colour = matplotlib.colormaps['RdBu_r'](0.5 + 0.5 * share)[..., :3] * 255
  # Pale and grey, so that all colour in the figure is change.
  grey = 128 + image.mean(-1, keepdims=True) / 2
  weight = 0.9 * np.sqrt(np.abs(share))[..., None]
  mixed = grey * (1 - weight) + colour * weight
  return np.floor(mixed + 0.5).astype(np.uint8)


def difference_figure(
  examples: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Writes what the first of two sentences draws, less what the second does.

  Maps are brought to a mean of 1 before they are subtracted; people's and the
  model's difference share one scale, so that a model that reacts too little
  is pale.

  Args:
    examples: of `salflax.examples.contrast`.
    path: .png, .pdf or .svg.
  """
  rows = []
  for example in examples:
    image, row = example['image'], []
    changes = {}
    for who in ('human', 'pred'):
      one, two = map(density, example[who])
      changes[who] = one - two
    top = max(float(np.abs(c).max()) for c in changes.values())
    for who, change in changes.items():
      texts = example['texts'] if who == 'human' else ('', '')
      row += [plots.Panel(image, m, t) for m, t in zip(example[who], texts)]
      row.append(plots.Panel(diverging(image, change, top=top)))
    rows.append([plots.Panel(image, caption=example['image_id']), *row])
  titles = ['picture']
  if rows:
    one, two = (name.replace('_', '-') for name in examples[0]['conditions'])
    for who in ('people', 'model'):
      titles += [f'{who}: {one}', f'{who}: {two}', f'{who}: difference']
  plots.montage(rows, path, titles=titles)


def forest(
  paper: Paper,
  table: Table,
  found: Sequence[Found],
  path: str | os.PathLike,
) -> bool:
  """Writes the rows of a table as points with intervals, metric by metric.

  Printed values are diamonds; references are grey strokes, controls crosses.

  Args:
    paper: as declared.
    table: of it.
    found: of its rows.
    path: .png, .pdf or .svg.

  Returns:
    Whether there was anything to plot; nothing is written else.
  """
  printed = [paper.printed(table, row) for row in table.rows]
  ours = [set(paper.metrics.values()) & set(f.model) for f in found]
  shown = [k for k in range(len(found)) if ours[k] or printed[k]]
  if not shown:
    return False
  figure = plots.blank(3 + 2.1 * len(paper.metrics), 1.1 + 0.34 * len(shown))
  axes = figure.subplots(1, len(paper.metrics), sharey=True, squeeze=False)[0]
  for axis, (name, key) in zip(axes, paper.metrics.items()):
    for y, k in enumerate(shown):
      _forest_row(axis, y, found[k], key, printed[k].get(name))
    axis.set_title(f'{name} [{paper.protocol}]', fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3, axis='x')
  labels = [plots.plain(found[k].row.label) for k in shown]
  axes[0].set_yticks(range(len(shown)), labels, fontsize=8)
  axes[0].set_ylim(len(shown) - 0.4, -0.6)
  handles = {}
  for axis in axes:
    for handle, label in zip(*axis.get_legend_handles_labels()):
      handles.setdefault(label, handle)
  figure.legend(
    handles.values(),
    handles.keys(),
    loc='outside lower center',
    ncols=min(5, len(handles)),
    fontsize=7,
    frameon=False,
  )
  plots.save(figure, path)
  return True


def _forest_row(axis, y, f, key, printed):
  def means(part):
    for label, entries in part.items():
      if (mean := entries.get(key, {}).get('mean')) is not None:
        yield label, mean

  for k, (label, mean) in enumerate(means(f.references)):
    style = dict(color=str(0.75 - 0.25 * (k % 3)), markersize=10)
    axis.plot(mean, y, '|', markeredgewidth=2, label=label, **style)
  for label, mean in means(f.controls):
    marker = '+' if 'no' in label.lower().split() else 'x'
    axis.plot(mean, y, marker, color='tab:orange', markersize=5, label=label)
  if printed is not None:
    style = dict(markerfacecolor='none', color='tab:red', markersize=6)
    axis.plot(printed, y, 'D', label='printed', **style)
  entry = f.model.get(key, {})
  if entry.get('mean') is not None:
    if entry.get('low') is not None:
      ends = [entry['low'], entry['high']]
      axis.plot(ends, [y, y], '-', color='tab:blue', linewidth=1.4)
    style = dict(color='tab:blue', markersize=5)
    axis.plot(entry['mean'], y, 'o', label='ours, 95 % interval', **style)
