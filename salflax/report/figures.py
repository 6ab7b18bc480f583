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
    examples: of `salflax.predict.examples.contrast`.
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


def rank_figure(
  labels: Sequence[str],
  names: Sequence[str],
  ours: np.ndarray,
  printed: np.ndarray,
  path: str | os.PathLike,
) -> None:
  """Writes our and the printed ranks as two heat maps, best rows on top.

  Args:
    labels: of the rows.
    names: of the metrics.
    ours: [rows, metrics], 1 is the best.
    printed: the same; NaN where nothing is printed.
    path: .png, .pdf or .svg.

  Raises:
    ValueError: for ranks that are not [rows, metrics].
  """
  for ranks in (ours, printed):
    if np.shape(ranks) != (len(labels), len(names)):
      raise ValueError(
        f'Ranks {np.shape(ranks)} of {len(labels)} rows, {len(names)} metrics.'
      )
  order = np.argsort(np.mean(ours, 1), kind='stable')
  figure = plots.blank(3.5 + 1.2 * len(names), 1.0 + 0.24 * len(labels))
  axes = figure.subplots(1, 2, sharey=True)
  for axis, ranks, title in zip(axes, (ours, printed), ('ours', 'printed')):
    ranks = np.asarray(ranks, np.float64)[order]
    axis.imshow(ranks, cmap='viridis', aspect='auto', vmin=1, vmax=len(labels))
    for (y, x), rank in np.ndenumerate(ranks):
      if np.isfinite(rank):
        dark = rank < len(labels) / 2
        style = dict(color='white' if dark else 'black', fontsize=6.5)
        axis.text(x, y, f'{rank:g}', ha='center', va='center', **style)
    axis.set_title(f'rank, {title}', fontsize=9)
    axis.set_xticks(range(len(names)), names, fontsize=7)
    axis.tick_params(length=0)
  shown = [plots.plain(labels[k]) for k in order]
  axes[0].set_yticks(range(len(shown)), shown, fontsize=7)
  plots.save(figure, path)


def centre_figure(mean: np.ndarray, path: str | os.PathLike) -> None:
  """Writes a mean saliency map between its two marginal densities.

  Args:
    mean: [h, w] >= 0.
    path: .png, .pdf or .svg.
  """
  mean = density(mean)
  height, width = mean.shape
  figure = plots.blank(5.0, 5.0 * height / width + 0.6)
  grid = figure.add_gridspec(
    2, 2, width_ratios=(4, 1), height_ratios=(1, 4 * height / width)
  )
  shown = figure.add_subplot(grid[1, 0])
  shown.imshow(mean, cmap='turbo', extent=(0, 1, 1, 0), aspect='auto')
  top = figure.add_subplot(grid[0, 0], sharex=shown)
  side = figure.add_subplot(grid[1, 1], sharey=shown)
  columns, rows = mean.mean(0), mean.mean(1)
  x = (np.arange(width) + 0.5) / width
  y = (np.arange(height) + 0.5) / height
  top.fill_between(x, columns, alpha=0.5)
  side.fill_betweenx(y, rows, alpha=0.5)
  for axis in (top, side):
    axis.tick_params(labelsize=7, labelbottom=False, labelleft=False)
    axis.grid(alpha=0.3)
  top.tick_params(labelleft=True)
  side.tick_params(labelbottom=True)
  top.set_ylabel('density', fontsize=7)
  shown.set_xlabel('share of the width', fontsize=7)
  shown.set_ylabel('share of the height', fontsize=7)
  shown.tick_params(labelsize=7)
  plots.save(figure, path)


def gallery(
  blocks: Sequence[Sequence[plots.Panel]],
  path: str | os.PathLike,
  *,
  columns: int = 8,
) -> None:
  """Writes pictures with many maps each, in blocks of several lines.

  Args:
    blocks: panels of each picture, captions and all.
    path: .png, .pdf or .svg.
    columns: panels of a line.
  """
  lines = [
    block[k : k + columns]
    for block in blocks
    for k in range(0, len(block), columns)
  ]
  plots.montage(lines, path, panel=(1.6, 1.5))


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
  printed = [paper.printed(table, f.row) for f in found]
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
