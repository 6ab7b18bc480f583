"""Predicts where people look, from an export, without salflax or jax.

pip install numpy onnxruntime pillow tokenizers
python predict_onnx.py export street.jpg "the red umbrella"   # street.npy
python predict_onnx.py export --check      # against the model's own maps
"""

import json
import pathlib
import sys
import unicodedata

import numpy as np
from PIL import Image, ImageOps

TOLERANCE = 1e-4
# Of features that are rounded to float16: another program's last bit may fall
# to the other side, and one bit of one feature moves a map by some 1e-4.
ROUNDED = 1e-3


def read_image(path):
  """Reads an image upright, with 8 bits, what is transparent on white."""
  image = ImageOps.exif_transpose(Image.open(path))
  if image.mode.startswith(('I', 'F')):  # up to 1 (floats), 8 or 16 bits
    values = np.asarray(image, np.float64)
    tops = (1, 255, 65535) if image.mode == 'F' else (255, 65535)
    peak = values.max()
    top = next((t for t in tops if peak <= t), peak)
    values = np.floor(values * (255 / top) + 0.5)
    return Image.fromarray(values.astype(np.uint8)).convert('RGB')
  if 'A' in image.getbands() or 'transparency' in image.info:
    image = image.convert('RGBA')
    page = Image.new('RGBA', image.size, (255, 255, 255, 255))
    image = Image.alpha_composite(page, image)
  return image.convert('RGB')


class OnnxPrograms:
  """The programs of an export: name and {input: array} -> {output: array}."""

  def __init__(self, folder, programs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    self.sessions = {
      name: onnxruntime.InferenceSession(
        folder / program['files']['onnx'], options
      )
      for name, program in programs.items()
    }

  def __call__(self, name, inputs):
    session = self.sessions[name]
    # An input that the network never looks at is none of the file.
    inputs = {x.name: inputs[x.name] for x in session.get_inputs()}
    outputs = [x.name for x in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, inputs)))


class Model:
  """A model: image and sentence to a map of the image's size."""

  def __init__(self, folder, programs=OnnxPrograms):
    folder = pathlib.Path(folder)
    self.about = json.loads((folder / 'export.json').read_text('utf-8'))
    self.run = programs(folder, self.about['programs'])
    if self.about['text']:
      import tokenizers

      path = folder / self.about['text']['tokenizer']
      self.tokenizer = tokenizers.Tokenizer.from_file(str(path))

  def __call__(self, image, text=''):
    pixels, box = self.frame(image)
    inputs = self.run('image', {'image': pixels[None]})
    if self.about['text']:
      words = self.word_pieces(text)
      inputs |= self.run('text', words)
      inputs['token_mask'] = words['token_mask']
    saliency = self.run('head', inputs)['saliency'][0]
    top, left, height, width = box
    cut = np.ascontiguousarray(
      saliency[top : top + height, left : left + width], np.float32
    )
    resized = Image.fromarray(cut).resize(image.size, Image.BILINEAR)
    return np.asarray(resized)

  def frame(self, image):
    """Fits an image into the network's frame: f32 [H, W, 3], its box."""
    options = self.about['image']
    (frame_h, frame_w), (w, h) = options['size'], image.size
    if h / frame_h > w / frame_w:
      height, width = frame_h, max(1, w * frame_h // h)
    else:
      height, width = max(1, h * frame_w // w), frame_w
    top, left = (frame_h - height) // 2, (frame_w - width) // 2
    pixels = Image.new('RGB', (frame_w, frame_h), tuple(options['fill']))
    inside = image.resize((width, height), Image.BILINEAR)
    pixels.paste(inside, (left, top))
    pixels = np.asarray(pixels, np.float32)
    if options['channels'] == 'BGR':
      pixels = pixels[..., ::-1]
    mean, std = np.float32(options['mean']), np.float32(options['std'])
    return (pixels - mean) / std, (top, left, height, width)

  def word_pieces(self, text):
    """Cuts a sentence into word pieces; one without words has none."""
    shows = (unicodedata.category(c)[0] not in 'ZCM' for c in text)
    encoded = self.tokenizer.encode(text if any(shows) else '')
    ids = np.array([encoded.ids], np.int32)
    mask = np.array([encoded.attention_mask], bool)
    frame = [self.tokenizer.token_to_id(w) for w in self.about['text']['frame']]
    if np.isin(ids, frame).all():
      ids, mask = np.full_like(ids, frame[0]), np.zeros_like(mask)
    return {'tokens': ids, 'token_mask': mask}


def check(model, folder):
  """Computes the largest difference from the maps of the model itself."""
  folder, worst = pathlib.Path(folder), 0.0
  for row in model.about['check']:
    wanted = np.load(folder / row['map'])
    saliency = model(read_image(folder / row['image']), row['text'])
    error = np.abs(saliency - wanted).max() / wanted.max()
    worst = max(worst, float(error))
    print(f'{error:.1e} of the maximum  {row["image"]} {row["text"]!r}')
  return worst


def main(programs, tolerance, argv):
  """Predicts or checks, as the arguments say; returns an exit code."""
  if len(argv) < 3:
    print(__doc__)
    return 2
  try:
    model = Model(argv[1], programs)
    if argv[2] == '--check':
      features = model.about['programs']['image']['outputs'].values()
      if 'float16' in {feature['type'] for feature in features}:
        tolerance = ROUNDED
      return int(not check(model, argv[1]) <= tolerance)
    saliency = model(read_image(argv[2]), ' '.join(argv[3:]))
  except (OSError, ValueError) as e:
    print(e, file=sys.stderr)
    return 1
  np.save(pathlib.Path(argv[2]).stem + '.npy', saliency)
  return 0


if __name__ == '__main__':
  sys.exit(main(OnnxPrograms, TOLERANCE, sys.argv))
