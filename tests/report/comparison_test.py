"""Overlays with the outlines of areas."""

import numpy as np
import pytest

from salflax.report import comparison

BOX = ((10, 30), (30, 30), (30, 45), (10, 45))


@pytest.mark.parametrize('size, scale', [((48, 64), 10), ((480, 640), 1)])
def test_outlines_are_drawn_where_the_areas_are(size, scale):
  image = np.full((*size, 3), 128, np.uint8)
  drawn = comparison.outline(image, {'cta': [BOX]})
  assert drawn.shape == (scale * size[0], scale * size[1], 3)
  rows, columns = np.nonzero((drawn != 128).any(-1))
  assert rows.max() == pytest.approx(scale * 45, abs=4)
  assert columns.min() == pytest.approx(scale * 10, abs=4)
  # The label stands above; inside there is nothing.
  assert rows.min() < scale * 30 - 8
  inside = np.s_[
    scale * 30 + 4 : scale * 45 - 4, scale * 10 + 4 : scale * 30 - 4
  ]
  assert (drawn[inside] == 128).all()


def test_labels_stay_in_the_image():
  image = np.full((640, 640, 3), 128, np.uint8)
  corner = ((600, 0), (640, 0), (640, 30), (600, 30))
  drawn = comparison.outline(image, {'a rather long name 12.3 %': [corner]})
  columns = np.nonzero((drawn != 128).any((0, 2)))[0]
  assert columns.min() < 500 and (drawn[40:] == 128).all()


def test_names_that_a_font_may_lack_become_numbers():
  rows = [{'name': 'cta', 'share': 0.25}, {'name': '広告', 'share': 0.5}]
  assert comparison.labels(rows) == {'cta': 'cta 25.0 %', '広告': '#2 50.0 %'}


def test_the_difference_is_signed():
  image = np.full((4, 8, 3), 128, np.uint8)
  before, after = np.ones((4, 8)), np.ones((4, 8))
  before[:, :4], after[:, 4:] = 3, 3
  red, _, blue = comparison.difference(image, before, 7 * after).T.astype(int)
  assert (red[4:] > blue[4:] + 50).all() and (blue[:4] > red[:4] + 50).all()
  same = comparison.difference(image, before, 2 * before)
  assert (np.ptp(same, axis=-1) == 0).all()
