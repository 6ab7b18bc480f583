"""A small made-up source of images, sentences and gaze, for tests."""

import numpy as np

from salflax.data import frames

CONDITIONS = ('pure', 'all', 'non_salient', 'salient')
SIZES = ((40, 60), (48, 48), (61, 37))


class Toy:
  """Images seen in every condition; gaze follows the condition."""

  def __init__(self, num_images=6, conditions=CONDITIONS, *, seed=0):
    rng = np.random.default_rng(seed)
    self.rows = []
    for p in range(num_images):
      h, w = SIZES[p % len(SIZES)]
      image = rng.integers(0, 256, (h, w, 3), np.uint8)
      for c, condition in enumerate(conditions):
        rows, columns = np.mgrid[:h, :w]
        y, x = (rng.uniform(0.2, 0.8, 2) * (h, w)).astype(int)
        away = ((rows - y) / h) ** 2 + ((columns - x) / w) ** 2
        blob = np.exp(-away * (12 + 6 * c))
        picked = rng.choice(h * w, 20, p=(blob / blob.sum()).ravel())
        self.rows.append(
          {
            'image': image,
            'saliency': np.round(255 * blob).astype(np.uint8)[..., None],
            'fixations': np.stack(np.divmod(picked, w), 1).astype(np.int32),
            'text': '' if condition == 'pure' else f'{condition} of {p}',
            'condition': condition,
            'image_id': f'picture{p:02d}',
          }
        )

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, index):
    return dict(self.rows[index])

  def meta(self, index):
    return {k: self.rows[index][k] for k in ('image_id', 'condition', 'text')}

  def only(self, *conditions):
    """Makes a source of the rows of some conditions."""
    out = Toy(0)
    out.rows = [r for r in self.rows if r['condition'] in conditions]
    return out


class Reader:
  """A predictor that looks up the gaze that a sentence asks for in a `Toy`."""

  def __init__(self, toy):
    self.by_text = {r['text']: r for r in toy.rows if r['text']}
    self.free = {r['image'].tobytes(): r for r in toy.rows if not r['text']}

  def predict(self, pairs, **_):
    """Yields a map f32 [h, w] for each image and sentence."""
    for image, text in pairs:
      row = self.by_text.get(text) or self.free[image.tobytes()]
      saliency = row['saliency'][..., 0].astype(np.float32)
      yield frames.resize(saliency, image.shape[:2])
