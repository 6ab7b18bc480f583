"""What is frozen is computed once: backbone features and sentences.

Plain files of fixed-size arrays: no mapping that would count as memory, safe in
threads, nothing to unpickle. Folders and files are named after everything
their content depends on, and appear when they are whole.
"""

import concurrent.futures
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from salflax.core import files, parallel, spec
from salflax.core.types import Example
from salflax.data import batches as batches_lib
from salflax.data import pp
from salflax.models.layers import TextFeatures
from salflax.train import records, step

_LOG = logging.getLogger('salflax')


def digest(*parts: Any) -> str:
  """Returns 16 hex digits of arrays, strings and trees of them."""
  h = hashlib.blake2b(digest_size=8)
  for part in parts:
    if isinstance(part, str):
      h.update(part.encode())
      continue
    for leaf in jax.tree.leaves(part):
      array = np.ascontiguousarray(leaf)
      h.update(f'{array.shape}{array.dtype}'.encode())
      h.update(array.tobytes())
  return h.hexdigest()


class TapLookup:
  """Replaces the picture of an example by its stored backbone features.

  Args:
    folder: with a file a picture.
    layout: level -> (shape, dtype), in the order they have in a file.
    names: `loader.picture` -> name of the picture's file.
    keep_image: whether the picture stays beside its features.
  """

  def __init__(
    self,
    folder: str,
    layout: dict[str, tuple[tuple[int, ...], str]],
    names: dict[tuple[int, str], str],
    *,
    keep_image: bool = False,
  ):
    self.folder, self.layout, self.names = folder, layout, names
    self.keep_image = keep_image

  @property
  def size(self) -> int:
    """Bytes of a file."""
    return sum(
      int(np.prod(shape)) * np.dtype(dtype).itemsize
      for shape, dtype in self.layout.values()
    )

  def path(self, picture: tuple[int, str], *, mirrored: bool) -> str:
    """Returns the file of a picture's features."""
    name = self.names[picture] + ('-mirrored' if mirrored else '')
    return os.path.join(self.folder, f'{name}.bin')

  def __call__(self, example: Example) -> Example:
    """Returns the example with `taps`, as a rule instead of `image`."""
    path = self.path(
      batches_lib.picture(example), mirrored=example.get('mirrored', False)
    )
    with open(path, 'rb') as f:
      data = f.read()
    if len(data) != self.size:
      raise OSError(
        f'{path} has {len(data)} bytes, not {self.size}: delete it.'
      )
    taps, start = {}, 0
    for level, (shape, dtype) in self.layout.items():
      count = int(np.prod(shape))
      taps[level] = np.frombuffer(data, dtype, count, start).reshape(shape)
      start += taps[level].nbytes
    image = example['image'] if self.keep_image else None
    return dict(example, taps=taps, image=image)


class TextLookup:
  """Adds the stored embedding of an example's sentence."""

  def __init__(self, stored: dict[str, records.Records], rows: dict[str, int]):
    self.stored, self.rows = stored, rows

  def __call__(self, example: Example) -> Example:
    """Returns the example with text_tokens, token_mask and sentence."""
    row = self.rows[example['text']]
    return dict(example, **{k: r[row] for k, r in self.stored.items()})


class Tokenize:
  """Adds the word pieces of an example's sentence.

  Args:
    tokenizer: list of strings -> (ids [n, L], mask [n, L]).
  """

  def __init__(self, tokenizer: Callable):
    self.tokenizer = tokenizer

  def __call__(self, example: Example) -> Example:
    """Returns the example with tokens and token_mask."""
    ids, mask = self.tokenizer([example['text']])
    return dict(example, tokens=ids[0], token_mask=mask[0])


def without(text: str, *names: str) -> str:
  """Returns a pp string without the ops of these names."""
  parts = spec.split_chain(text)
  return '|'.join(p for p in parts if spec.parse(p).name not in names)


def mirrored_always(text: str) -> str:
  """Returns a pp string that mirrors every picture where it may flip some."""
  parts = spec.split_chain(text)
  parts = ['mirror' if spec.parse(p).name == 'flip' else p for p in parts]
  return '|'.join(parts)


def _part(variables: step.Variables, scope: str) -> step.Variables:
  """Returns the variables of one scope, on the host, still under its name."""
  return jax.device_get(
    {k: {scope: v[scope]} for k, v in variables.items() if scope in v}
  )


def store_taps(
  model: Any,
  variables: step.Variables,
  source: Sequence[Example],
  pp_text: str,
  *,
  folder: str,
  batch_size: int,
  keep_image: bool = False,
) -> TapLookup:
  """Computes the backbone's features of every picture, once for all rows.

  Where the pp string may mirror a picture, the mirrored one's are stored too.
  A file is named by the picture's pixels: other splits, folds and runs with
  the same backbone find it, and what a killed run has stored stays.

  Args:
    model: with a method encode_image.
    variables: of the model; its backbone must stay as it is.
    source: the rows; rows of one picture share its features.
    pp_text: how pictures become network input.
    folder: the cache's root.
    batch_size: pictures at once.
    keep_image: see `TapLookup`.

  Raises:
    OSError: the disk has too little room.
  """
  first = {}
  for i in range(len(source)):
    first.setdefault(batches_lib.picture(batches_lib.meta(source, i)), i)
  base = without(pp_text, 'flip', 'rasterize')
  part = _part(variables, 'backbone')
  where = digest(part, repr(model.backbone), base)
  folder = os.path.join(folder, f'taps-{where}')
  os.makedirs(folder, exist_ok=True)
  abstract = jax.eval_shape(
    lambda v, x: step.encode_image(model, v, x),
    part,
    np.zeros((1, *model.size, 3), np.float32),
  )
  layout = {k: (v.shape[1:], v.dtype.str) for k, v in abstract.items()}
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    pixels = pool.map(lambda i: source[i]['image'], first.values())
    names = dict(zip(first, map(digest, pixels)))
  lookup = TapLookup(folder, layout, names, keep_image=keep_image)
  texts = [(False, base)]
  if pp.is_random(pp_text):
    mirrored = mirrored_always(pp_text)
    texts.append((True, without(mirrored, 'rasterize')))
  for mirrored, text in texts:
    rows = [
      i
      for picture, i in first.items()
      if not os.path.exists(lookup.path(picture, mirrored=mirrored))
    ]
    if rows:
      _store_missing(
        model, part, batches_lib.Rows(source, rows), text, lookup, batch_size
      )
  return lookup


def _store_missing(model, variables, source, text, lookup, batch_size):
  """Writes the files of `source`'s pictures, each whole or not at all."""
  records.check_room(
    lookup.folder, lookup.size * len(source), 'backbone features'
  )
  # Every process stores on its own devices: any row may be its next.
  mesh = parallel.make_mesh(jax.local_devices())
  encode = jax.jit(
    lambda v, x: step.encode_image(model, v, x),
    in_shardings=(parallel.replicated(mesh), parallel.split(mesh)),
  )
  batches = batches_lib.eval_batches(
    source, pp.make(text), batch_size=-(-batch_size // mesh.size) * mesh.size
  )
  what = 'features' + (' of mirrored pictures' if 'mirror' in text else '')
  with tqdm.tqdm(total=len(source), desc=what, mininterval=2.0) as bar:
    for batch in batches:
      taps = jax.device_get(encode(variables, batch['image']))
      for k in np.flatnonzero(batch['mask']):
        picture = batches_lib.picture(source.meta(int(batch['index'][k])))
        path = lookup.path(picture, mirrored='mirror' in text)
        with files.replacing(path) as temporary, open(temporary, 'wb') as f:
          for level in lookup.layout:
            f.write(np.ascontiguousarray(taps[level][k]).tobytes())
        bar.update()


def store_text(
  model: Any,
  variables: step.Variables,
  sentences: Iterable[str],
  tokenizer: Callable,
  *,
  folder: str,
  batch_size: int = 32,
) -> TextLookup:
  """Computes the embedding of every sentence once; the empty one is added.

  Args:
    model: with a method encode_text.
    variables: of the model; its text encoder must stay as it is.
    sentences: that can occur.
    tokenizer: list of strings -> (ids [n, L], mask [n, L]).
    folder: the cache's root.
    batch_size: sentences at once.
  """
  texts = sorted({'', *sentences})
  part = _part(variables, 'text')
  ids, mask = tokenizer(texts)
  name = digest(part, repr(model.text), '\n'.join(texts), ids)
  encode = jax.jit(lambda v, t, m: model.apply(v, t, m, method='encode_text'))

  def rows():
    for i in range(0, len(texts), batch_size):
      take = np.minimum(np.arange(i, i + batch_size), len(texts) - 1)
      out: TextFeatures = jax.device_get(encode(part, ids[take], mask[take]))
      n = min(batch_size, len(texts) - i)
      yield {
        'text_tokens': out.tokens[:n].astype(np.float32),
        'token_mask': mask[take][:n],
        'sentence': out.sentence[:n].astype(np.float32),
      }

  stored = records.write(
    os.path.join(folder, f'text-{name}'), rows(), len(texts), what='sentences'
  )
  return TextLookup(stored, {t: i for i, t in enumerate(texts)})
