"""Stored features of frozen parts: of each image, of each sentence.

Folders and files are named after everything that their content depends on.
"""

import concurrent.futures
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

import salflax
from salflax.core import parallel, spec
from salflax.core.types import Example
from salflax.data import batches as batches_lib
from salflax.data import frames, pp
from salflax.models.layers import TextFeatures
from salflax.train import step
from salflax.train.store import Layout, Store

# Raised when the same network and pp string come to give other files.
FORMAT = 3


def digest(*parts: Any) -> str:
  """Hashes arrays, strings and trees of them to 16 hex digits."""
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


def _open(root: str, kind: str, layout: Layout, *parts: Any) -> Store:
  """Opens the store of what `parts` and the layout compute."""
  version = f'{FORMAT} {salflax.__version__} {layout}'
  return Store(os.path.join(root, f'{kind}-{digest(version, *parts)}'), layout)


Finish = Callable[[Example], Example]


def _add_taps(
  example: Example,
  *,
  stores: Mapping[bool, Store],
  names: Mapping[tuple[int, str], str],
  keep_image: bool,
) -> Example:
  """Adds `taps`, stored features of the backbone, as a rule for `image`.

  Args:
    example: row after preprocessing.
    stores: mirrored or not -> files of the features.
    names: `batches.image_key` of a row -> key of the image's file.
    keep_image: whether the image stays beside its features.
  """
  store = stores[example.get('mirrored', False)]
  taps = store.read(names[batches_lib.image_key(example)])
  return dict(
    example, taps=taps, image=example['image'] if keep_image else None
  )


def _add_text(
  example: Example, *, store: Store, names: Mapping[str, str]
) -> Example:
  """Adds text_tokens, token_mask and sentence, stored by sentence."""
  return dict(example, **store.read(names[example['text']]))


class WithoutImages:
  """Rows of a source whose images are not decoded, for stored features.

  In place of an image stands one of its size that takes no memory, so that the
  geometry of a pp string comes out the same.

  Attributes:
    source: the rows.
  """

  def __init__(self, source: Sequence[Example]):
    self.source = source

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Example:
    row = batches_lib.truth(self.source, index)
    if 'image' in row:
      return row
    return dict(row, image=frames.blank(np.shape(row['saliency'])[:2]))

  def meta(self, index: int) -> dict[str, Any]:
    """Reads image_id, condition and text of a row."""
    return batches_lib.meta(self.source, index)


def tokenize(example: Example, *, tokenizer: Callable) -> Example:
  """Adds tokens and token_mask, the word pieces of an example's sentence.

  Args:
    example: row.
    tokenizer: list of strings -> (ids [n, L], mask [n, L]).
  """
  ids, mask = tokenizer([example['text']])
  return dict(example, tokens=ids[0], token_mask=mask[0])


def without(text: str, *names: str) -> str:
  """Leaves out the ops of these names from a pp string."""
  parts = spec.split_chain(text)
  return '|'.join(p for p in parts if spec.parse(p).name not in names)


def variants(text: str) -> dict[bool, str]:
  """Lists mirrored or not -> pp string, for all that a pp string can draw.

  Raises:
    ValueError: it flips more than once, so that one image has several forms.
  """
  parts = spec.split_chain(without(text, 'rasterize', 'shrink'))
  names = [spec.parse(p).name for p in parts]
  if names.count('flip') > 1:
    raise ValueError(
      f'Features of {text!r} cannot be stored: it has more than one flip. '
      'Leave one, or set store=False.'
    )
  mirrored = names.count('mirror') % 2 == 1
  out = {mirrored: without('|'.join(parts), 'flip')}
  if 'flip' in names:
    parts[names.index('flip')] = 'mirror'
    out[not mirrored] = '|'.join(parts)
  return out


def _part(variables: step.Variables, scope: str) -> step.Variables:
  """Selects the variables of one scope, on the host, still under its name."""
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
) -> Finish:
  """Computes every image's features; makes the step that adds them to a row.

  Where the pp string may mirror an image, the mirrored one's are stored too.
  A file is named by the image's pixels: other splits, folds and runs with
  the same backbone find it, and what a killed run has stored stays.

  Args:
    model: network with a method encode_image.
    variables: its variables; its backbone must stay as it is.
    source: rows; those of one image share its features.
    pp_text: pp string from images to network input.
    folder: root of the cache.
    batch_size: images at once.
    keep_image: whether the image stays beside its features.

  Raises:
    OSError: the disk has too little room.
    ValueError: the pp string flips more than once.
  """
  rows = {}
  for i, meta in enumerate(batches_lib.metas(source)):
    rows.setdefault(batches_lib.image_key(meta), i)
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    pixels = pool.map(lambda i: source[i]['image'], rows.values())
    names = dict(zip(rows, map(digest, pixels)))
  part, stores = _part(variables, 'backbone'), {}
  abstract = jax.eval_shape(
    lambda v, x: step.encode_image(model, v, x),
    part,
    np.zeros((1, *model.size, 3), np.float32),
  )
  layout = {k: (v.shape[1:], v.dtype.str) for k, v in abstract.items()}
  for mirrored, text in variants(pp_text).items():
    store = _open(folder, 'taps', layout, part, repr(model.backbone), text)
    missing = set(store.missing(names.values()))
    # Of images with the same pixels one is enough.
    first = {names[k]: i for k, i in rows.items() if names[k] in missing}
    if first:
      encoded = _encode_images(
        model, part, batches_lib.Rows(source, first.values()), text, batch_size
      )
      keys = iter(first)
      named = (zip(itertools.islice(keys, len(b)), b) for b in encoded)
      what = 'features of mirrored images' if mirrored else 'features of images'
      store.fill(named, len(first), what)
    stores[mirrored] = store
  return functools.partial(
    _add_taps, stores=stores, names=names, keep_image=keep_image
  )


def _encode_images(model, variables, source, text, batch_size):
  """Yields lists of level -> feature map, for the rows of a source in order."""
  # Every process stores on its own devices: any row may be its next.
  mesh = parallel.make_mesh(jax.local_devices())
  encode = jax.jit(
    lambda v, x: step.encode_image(model, v, x),
    in_shardings=(parallel.replicated(mesh), parallel.split(mesh)),
  )
  batches = batches_lib.eval_batches(
    source, pp.make(text), batch_size=-(-batch_size // mesh.size) * mesh.size
  )
  for batch in batches:
    taps = jax.device_get(encode(variables, batch['image']))
    yield [
      {level: v[k] for level, v in taps.items()}
      for k in np.flatnonzero(batch['mask'])
    ]


def store_text(
  model: Any,
  variables: step.Variables,
  sentences: Iterable[str],
  tokenizer: Callable,
  *,
  folder: str,
  batch_size: int = 32,
) -> Finish:
  """Computes the embedding of every sentence once; the empty one is added.

  Makes the step that adds it to an example.

  A file is named by the sentence's word pieces.

  Args:
    model: network with a method encode_text; `text_sources`, where it has that,
      gives what the embedding is computed from beside the text encoder.
    variables: its variables; its text encoder must stay as it is.
    sentences: all that can occur.
    tokenizer: list of strings -> (ids [n, L], mask [n, L]).
    folder: root of the cache.
    batch_size: sentences at once.
  """
  texts = sorted({'', *sentences})
  part = _part(variables, 'text')
  ids, mask = tokenizer(texts)
  keys = [digest(i, m) for i, m in zip(ids, mask)]

  @jax.jit
  def encode(variables, ids, mask):
    out: TextFeatures = model.apply(variables, ids, mask, method='encode_text')
    names = {'text_tokens': out.tokens, 'sentence': out.sentence}
    return {k: v.astype(np.float32) for k, v in names.items()}

  abstract = jax.eval_shape(encode, part, ids[:1], mask[:1])
  layout = {k: (v.shape[1:], v.dtype.str) for k, v in abstract.items()}
  layout['token_mask'] = (mask.shape[1:], mask.dtype.str)
  more = getattr(model, 'text_sources', tuple)()
  store = _open(folder, 'text', layout, part, repr(model.text), *more)
  missing = set(store.missing(keys))
  rows = list({k: i for i, k in enumerate(keys) if k in missing}.values())

  def batches():
    for i in range(0, len(rows), batch_size):
      chunk = rows[i : i + batch_size]
      # Filled up with the last one: each size would be compiled anew.
      take = chunk + chunk[-1:] * (batch_size - len(chunk))
      out = jax.device_get(encode(part, ids[take], mask[take]))
      out['token_mask'] = mask[take]
      yield [
        (keys[row], {name: v[k] for name, v in out.items()})
        for k, row in enumerate(chunk)
      ]

  if rows:
    store.fill(batches(), len(rows), 'sentences')
  names = dict(zip(texts, keys))
  return functools.partial(_add_text, store=store, names=names)
