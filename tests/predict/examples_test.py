"""A few images with their human and predicted maps."""

import numpy as np
import pytest
from toy_gaze import Reader, Toy

from salflax.data import batches
from salflax.predict import examples


class Network(Reader):
  """As `Reader`, with the batch size that a network has."""

  def predict(self, pairs, *, batch_size):
    return super().predict(pairs)


@pytest.fixture
def toy():
  toy = Toy(8)
  toy.rows = toy.rows[:-1]  # the last image lacks a condition
  return toy


def test_every_condition_and_sentence(toy):
  chosen = [e['image_id'] for e in examples.predict(Network(toy), toy, 3)]
  assert chosen == ['picture00', 'picture03', 'picture06']
  assert len(examples.predict(Network(toy), toy, 99)) == 7
  result = examples.predict(Network(toy), toy, 2)
  assert [e['image_id'] for e in result] == ['picture00', 'picture06']
  pure, *guided = result[0]['rows']
  assert pure['condition'] == 'pure' and 'none' not in pure
  for row in guided:
    shape = result[0]['image'].shape[:2]
    assert row['human'].shape == row['pred'].shape == shape
    assert row['wrong_text'] not in ('', row['text'])
    # Without a sentence this model looks up free viewing.
    np.testing.assert_allclose(row['none'], pure['pred'])
    assert not np.allclose(row['wrong'], row['pred'])


def test_two_sentences_of_one_image(toy):
  result = examples.contrast(Network(toy), toy, 2)
  assert [e['image_id'] for e in result] == ['picture00', 'picture06']
  for example in result:
    assert example['conditions'] == ('salient', 'non_salient')
    for k, condition in enumerate(example['conditions']):
      (row,) = [
        r
        for r in toy.only(condition).rows
        if r['image_id'] == example['image_id']
      ]
      assert example['texts'][k] == row['text']
      human = row['saliency'][..., 0]
      np.testing.assert_array_equal(example['human'][k], human)
      # This model looks up the gaze that the sentence asks for.
      np.testing.assert_array_equal(example['pred'][k], human)
  assert examples.contrast(None, toy.only('salient'), 2) == []


def test_equal_ids_of_two_data_sets_are_two_images():
  one, two = Toy(1), Toy(1, seed=1)
  for row in two.rows:
    row['text'] = row['text'] and f'{row["text"]} of two'
  both = Toy(0)
  both.rows = one.rows + two.rows
  joined = batches.Joined([one, two], ['a', 'b'])
  for result in (
    examples.predict(Network(both), joined, 9),
    examples.contrast(Network(both), joined, 9),
  ):
    assert [e['image_id'] for e in result] == ['picture00'] * 2
    for example, source in zip(result, (one, two)):
      np.testing.assert_array_equal(example['image'], source[0]['image'])
