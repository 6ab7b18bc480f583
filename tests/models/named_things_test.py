"""Sentences about what a detector finds, and the maps that go with them."""

import numpy as np
import pytest

from launch import named_things as things_lib
from launch.named_things import Thing


def _speaker(seed=0):
  return things_lib.Speaker(np.random.default_rng(seed))


def _thing(kind, top, left, bottom, right, colour=''):
  return Thing(kind, np.array([top, left, bottom, right], float), colour)


def _all(things, seeds=40):
  return {
    text: named
    for seed in range(seeds)
    for text, named in _speaker(seed).sentences(things)
  }


def test_sides_are_the_image_s():
  left, right = (
    _thing('car', 200, 10, 260, 90),
    _thing('car', 200, 500, 260, 600),
  )
  said = _all([left, right])
  for side, thing in (('left', left), ('right', right)):
    named = [n for text, n in said.items() if side in text.split()]
    assert named and all(n == [(thing, 1.0)] for n in named), side


def test_what_is_far_is_small():
  near, far = (
    _thing('bus', 100, 100, 400, 500),
    _thing('bus', 90, 520, 130, 560),
  )
  said = _all([near, far])
  for words, thing in (
    (('distance', 'background', 'away'), far),
    (('camera',), near),
  ):
    named = [n for text, n in said.items() if {*words} & {*text.split()}]
    assert named and all(n == [(thing, 1.0)] for n in named), words


def test_a_colour_means_all_that_have_it():
  red = [_thing('car', 100, x, 160, x + 80, 'red') for x in (50, 200)]
  blue = _thing('car', 100, 400, 160, 480, 'blue')
  said = _all([*red, blue])
  named = [n for text, n in said.items() if 'red' in text.lower().split()]
  assert named and all([t for t, _ in n] == red for n in named)


def test_a_sentence_is_said_once_and_begins_large():
  things = [_thing('person', 10, 10, 200, 90), _thing('dog', 150, 60, 220, 140)]
  said = [text for text, _ in _speaker().sentences(things)]
  assert len(said) == len(set(said)) >= 2
  assert all(text[0].isupper() for text in said)


def test_most_gaze_is_on_what_is_named():
  free = np.random.default_rng(0).uniform(0, 1, (60, 80))
  thing = _thing('cup', 80, 160, 160, 240)
  x = things_lib.looked_at([(thing, 1.0)], free)
  assert x.sum() == pytest.approx(1)
  assert x[6:24, 16:34].sum() > 0.75 > (free / free.sum())[6:24, 16:34].sum()


def test_boxes_overlap_by_their_union():
  one = np.array([0.0, 0, 10, 10])
  assert things_lib.overlap(one, one) == 1
  assert things_lib.overlap(one, one + 10) == 0
  assert things_lib.overlap(one, one + [0, 5, 0, 5]) == pytest.approx(1 / 3)


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
  monkeypatch.setenv('SALFLAX_DATA', str(tmp_path / 'none'))
  for arguments, message in (
    ((), 'salflax prepare'),
    ((str(tmp_path), 'osie'), 'is there already'),
    ((str(tmp_path / 'out'), 'osei'), 'osie'),
    ((str(tmp_path / 'out'), 'osie'), 'not prepared'),
  ):
    with pytest.raises(SystemExit, match=message):
      things_lib.main(*arguments)
  assert not (tmp_path / 'out').exists()
