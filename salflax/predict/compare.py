"""What changes between two maps: another sentence, or another image."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.metrics import distribution
from salflax.metrics.arrays import as_map
from salflax.metrics.location import FLOOR
from salflax.predict import areas as areas_lib

GRID = 32  # blocks along the longer side on which gaze is moved


def density(saliency: np.ndarray) -> np.ndarray:
  """Scales a map to f64 [h, w] that sums to 1; a flat one becomes uniform.

  Raises:
    ValueError: for values that are negative or not finite, and other shapes.
  """
  return as_map(saliency, 'saliency', least=0).density


def centre(density: np.ndarray) -> tuple[float, float]:
  """Computes the centre of gravity (y, x), as shares of height and width."""
  height, width = density.shape
  y = (np.arange(height) + 0.5) @ density.sum(1) / height
  x = (np.arange(width) + 0.5) @ density.sum(0) / width
  return float(y), float(x)


def _gain(before: np.ndarray, after: np.ndarray) -> float:
  """Computes the bits by which `after` predicts its own fixations better."""
  # A zero is worth what metrics.ig gives it.
  floor = FLOOR / before.size
  pair = ((1 - FLOOR) * x + floor for x in (before, after))
  return distribution.kl(*pair, eps=0) / float(np.log(2))


def moved(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
  """Measures how far the gaze moves from one density to another.

  Args:
    before: f64 [h, w] that sums to 1.
    after: the same, perhaps of another size.

  Returns:
    `information_gain`: bits per fixation by which `after` predicts fixations
      that follow it better than `before` does; at least 0, and 0 where nothing
      changes. Both have 1 % of the uniform density mixed in, as in metrics.ig.
    `cc`: Pearson's correlation, in [-1, 1].
    `emd`: earth mover's distance, how far the mean fixation moves at least, as
      {`pixels`, `diagonal`: share of the diagonal}; in blocks, of which the
      longer side has at most 32.
    `shift`: of the centre of gravity, {`dy`, `dx`: pixels, down and to the
      right, `diagonal`: length as share of the diagonal}.
    Between different sizes the first three are None, and the shift is in
    pixels of `after`, onto which `before` is stretched; `emd` is None where POT
    is not installed, too.
  """
  height, width = after.shape
  diagonal = float(np.hypot(height, width))
  (y0, x0), (y1, x1) = centre(before), centre(after)
  dy, dx = (y1 - y0) * height, (x1 - x0) * width
  length = float(np.hypot(dy, dx)) / diagonal
  result = dict.fromkeys(('information_gain', 'cc', 'emd'))
  result['shift'] = {'dy': dy, 'dx': dx, 'diagonal': length}
  if before.shape != after.shape:
    return result
  result['information_gain'] = _gain(before, after)
  result['cc'] = distribution.cc(after, before)
  if distribution.has_solver():
    cell = -(-max(height, width) // GRID)
    pixels = distribution.emd(after, before, cell=cell) * cell
    result['emd'] = {'pixels': pixels, 'diagonal': pixels / diagonal}
  return result


class View(NamedTuple):
  """An image as seen with one sentence.

  Attributes:
    name: name of the view, such as 'text2' or 'image1.text2'.
    image: name of the image.
    text: sentence; '' is free viewing.
    density: f64 [h, w] that sums to 1.
    areas: areas of the image; may be none.
  """

  name: str
  image: str
  text: str
  density: np.ndarray
  areas: Sequence[areas_lib.Area] = ()


def _plain(node: Any) -> Any:
  """Rounds numbers to six digits and nine decimals, beyond round-off."""
  if isinstance(node, dict):
    return {k: _plain(v) for k, v in node.items()}
  if isinstance(node, list):
    return [_plain(v) for v in node]
  # Adding 0 makes -0 positive.
  return round(float(f'{node:.6g}'), 9) + 0.0 if type(node) is float else node


def compare(
  views: Sequence[View],
  pairs: Sequence[tuple[int, int]],
  *,
  fixations: int = 3,
) -> dict[str, Any]:
  """Measures views and what changes between pairs of them.

  Args:
    views: views, each of another name.
    pairs: places of the views before and after.
    fixations: first fixations of `areas.attention`.

  Returns:
    Plain dicts and lists as docs/comparison.schema.json describes them; the
    same arguments make the same.

  Raises:
    ValueError: an area lies outside its image.
  """
  rows = []
  for view in views:
    height, width = view.density.shape
    y, x = centre(view.density)
    rows.append(
      {
        'name': view.name,
        'image': view.image,
        'text': view.text,
        'width': width,
        'height': height,
        'centre': {'x': x, 'y': y},
        'areas': areas_lib.attention(view.density, view.areas, fixations),
      }
    )
  changes = []
  for first, second in pairs:
    measures = moved(views[first].density, views[second].density)
    shares = {row['name']: row['share'] for row in rows[first]['areas']}
    gains = [
      {'name': row['name'], 'share': row['share'] - shares[row['name']]}
      for row in rows[second]['areas']
      if row['name'] in shares
    ]
    about = {'before': views[first].name, 'after': views[second].name}
    changes.append(about | measures | {'areas': gains})
  tree = {'version': 1, 'fixations': fixations, 'views': rows}
  return _plain(tree | {'changes': changes})
