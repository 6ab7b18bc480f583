"""Figures of a report: scores as a forest, ranks, what a sentence changes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from salflax.report import plots
from salflax.report.papers.paper import Paper
from salflax.report.results import Result


def density(saliency: np.ndarray) -> np.ndarray:
  """Scales a map [h, w] >= 0 to a mean of 1; one without mass is flat."""
  values = np.asarray(saliency, np.float64)
  total = values.mean()
  return values / total if total > 0 else np.ones_like(values)


def contours(
  image: np.ndarray, saliency: np.ndarray, shares: Sequence[float]
) -> np.ndarray:
  """Outlines the smallest areas that hold these shares of the gaze.

  Args:
    image: u8 [h, w, 3].
    saliency: [h, w] >= 0, any scale; a flat map has no outlines.
    shares: shares in (0, 1).

  Returns:
    u8 [h, w, 3], lines white with a dark rim.
  """
  from scipy import ndimage

  plots.check(image, saliency)
  values, image = np.sort(saliency, None)[::-1].astype(np.float64), image.copy()
  if not shares or values[0] == values[-1]:
    return image
  total, width = np.cumsum(values), 1 + min(saliency.shape) // 400
  masks = [
    saliency >= values[np.searchsorted(total, share * total[-1])]
    for share in shares
  ]
  for grey, reach in ((40, 2 * width), (255, width)):
    for mask in masks:
      rim = ndimage.binary_dilation(mask, iterations=reach - width + 1)
      image[rim & ~ndimage.binary_erosion(mask, iterations=reach)] = grey
  return image


def diverging(
  image: np.ndarray, change: np.ndarray, *, top: float
) -> np.ndarray:
  """Colours a grey image red where there is more, blue where there is less.

  Args:
    image: u8 [h, w, 3].
    change: [h, w] of either sign.
    top: change that has full colour.

  Returns:
    u8 [h, w, 3].
  """
  plots.check(image, change)
  import matplotlib

  share = np.clip(change / top if top > 0 else change, -1, 1)
  colour = matplotlib.colormaps['RdBu_r'](0.5 + 0.5 * share)
  # Pale and grey, so that all colour in the figure is change.
  grey = 128 + image.mean(-1, keepdims=True) / 2
  return plots.mix(grey, colour, 0.9 * np.sqrt(np.abs(share)))


def difference_figure(
  examples: Sequence[Mapping[str, Any]], path: str | os.PathLike
) -> None:
  """Draws what the first of two sentences draws, less what the second does.

  Maps are brought to a mean of 1 before they are subtracted; people's and the
  model's difference share one scale, so that a model that reacts too little
  is pale.

  Args:
    examples: dicts of `salflax.predict.examples.contrast`.
    path: .png, .pdf or .svg.
  """
  lines = []
  for example in examples:
    image, names = example['image'], example['conditions']
    names = [name.replace('_', '-') for name in names]
    line = {'image': plots.Panel(image, caption=example['image_id'])}
    whose = {'people': example['human'], 'model': example['pred']}
    changes = {w: density(a) - density(b) for w, (a, b) in whose.items()}
    top = max(float(np.abs(c).max()) for c in changes.values())
    for who, maps in whose.items():
      texts = example['texts'] if who == 'people' else ('', '')
      for name, saliency, text in zip(names, maps, texts):
        line[f'{who}: {name}'] = plots.Panel(image, saliency, text)
      change = diverging(image, changes[who], top=top)
      line[f'{who}: difference'] = plots.Panel(change)
    lines.append(line)
  plots.montage(lines, path)


def rank_figure(
  labels: Sequence[str],
  names: Sequence[str],
  ours: np.ndarray,
  printed: np.ndarray,
  path: str | os.PathLike,
) -> None:
  """Draws our and the printed ranks as two heat maps, best rows on top.

  Args:
    labels: labels of the rows.
    names: names of the metrics.
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
  names = [plots.plain(labels[k]) for k in order]
  axes[0].set_yticks(range(len(names)), names, fontsize=7)
  plots.save(figure, path)


def centre_figure(mean: np.ndarray, path: str | os.PathLike) -> None:
  """Draws a mean saliency map between its two marginal densities.

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
  centre = figure.add_subplot(grid[1, 0])
  centre.imshow(mean, cmap='turbo', extent=(0, 1, 1, 0), aspect='auto')
  top = figure.add_subplot(grid[0, 0], sharex=centre)
  side = figure.add_subplot(grid[1, 1], sharey=centre)
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
  centre.set_xlabel('share of the width', fontsize=7)
  centre.set_ylabel('share of the height', fontsize=7)
  centre.tick_params(labelsize=7)
  plots.save(figure, path)


def forest(
  paper: Paper,
  results: Sequence[Result],
  path: str | os.PathLike,
) -> bool:
  """Draws the rows of a table as points with intervals, metric by metric.

  Printed values are diamonds; references are grey strokes, controls crosses.

  Args:
    paper: paper as declared.
    results: results of the rows of one of its tables.
    path: .png, .pdf or .svg.

  Returns:
    Whether there was anything to plot; nothing is written else.
  """
  keys = set(paper.metrics.values())
  results = [r for r in results if keys & set(r.model) or r.row.printed]
  if not results:
    return False
  figure = plots.blank(3 + 2.1 * len(paper.metrics), 1.1 + 0.34 * len(results))
  axes = figure.subplots(1, len(paper.metrics), sharey=True, squeeze=False)[0]
  for axis, (name, key) in zip(axes, paper.metrics.items()):
    for y, result in enumerate(results):
      _forest_row(axis, y, result, key, result.row.printed.get(name))
    axis.set_title(f'{name} [{paper.protocol}]', fontsize=9)
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.3, axis='x')
  labels = [plots.plain(result.row.label) for result in results]
  axes[0].set_yticks(range(len(labels)), labels, fontsize=8)
  axes[0].set_ylim(len(results) - 0.4, -0.6)
  handles = {}
  for axis in axes:
    for handle, label in zip(*axis.get_legend_handles_labels()):
      handles.setdefault(label, handle)
  figure.legend(
    handles.values(),
    map(plots.plain, handles),
    loc='outside lower center',
    ncols=min(5, len(handles)),
    fontsize=7,
    frameon=False,
  )
  plots.save(figure, path)
  return True


def _forest_row(axis, y, result, key, printed):
  def means(part):
    for label, entries in part.items():
      if (mean := entries.get(key, {}).get('mean')) is not None:
        yield label, mean

  for k, (label, mean) in enumerate(means(result.references)):
    style = dict(color=str(0.75 - 0.25 * (k % 3)), markersize=10)
    axis.plot(mean, y, '|', markeredgewidth=2, label=label, **style)
  for label, mean in means(result.controls):
    marker = '+' if 'no' in label.lower().split() else 'x'
    axis.plot(mean, y, marker, color='tab:orange', markersize=5, label=label)
  if printed is not None:
    style = dict(markerfacecolor='none', color='tab:red', markersize=6)
    axis.plot(printed, y, 'D', label='printed', **style)
  entry = result.model.get(key, {})
  if entry.get('mean') is not None:
    if entry.get('low') is not None:
      ends = [entry['low'], entry['high']]
      axis.plot(ends, [y, y], '-', color='tab:blue', linewidth=1.4)
    style = dict(color='tab:blue', markersize=5)
    axis.plot(entry['mean'], y, 'o', label='ours, 95 % interval', **style)
