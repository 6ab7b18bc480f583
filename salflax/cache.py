"""What is frozen is computed once: backbone features and sentences.

Rows go to plain files of fixed-size records, read with `os.pread`: no mapping
that would count as memory, safe in threads, nothing to unpickle. A folder is
named after everything its content depends on, and appears when it is whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from salflax import parallel, spec, step
from salflax.data import loader, pp
from salflax.models.layers import TextFeatures
from salflax.types import Example


class Records:
  """Fixed-size arrays in one file.

  Args:
    path: of the file.
    shape: of one record.
    dtype: of its values.
  """

  def __init__(self, path: str, shape: Sequence[int], dtype: str):
    self.path, self.shape, self.dtype = path, tuple(shape), np.dtype(dtype)
    self.size = int(np.prod(self.shape)) * self.dtype.itemsize
    self._fd = None

  def __getitem__(self, index: int) -> np.ndarray:
    if self._fd is None:
      self._fd = os.open(self.path, os.O_RDONLY)
    data = os.pread(self._fd, self.size, index * self.size)
    if len(data) != self.size:
      raise OSError(f'{self.path} is cut short at record {index}.')
    return np.frombuffer(data, self.dtype).reshape(self.shape)

  def __reduce__(self):
    return Records, (self.path, self.shape, self.dtype.str)

  def __del__(self):
    if getattr(self, '_fd', None) is not None:
      os.close(self._fd)


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


def write_records(
  folder: str,
  rows: Iterable[dict[str, np.ndarray]],
  total: int,
  *,
  what: str,
) -> dict[str, Records]:
  """Writes batches of named arrays, one file a name; returns the records.

  Args:
    folder: made whole or not at all; read if it is there.
    rows: batches, name -> [b, ...]; not touched if the folder is there.
    total: number of rows.
    what: for the progress bar.

  Raises:
    OSError: the disk has too little room; nothing is left behind.
  """
  if not os.path.isdir(folder):
    temporary = f'{folder}.tmp{os.getpid()}'
    os.makedirs(temporary)
    try:
      _write(temporary, rows, total, what)
      os.rename(temporary, folder)
    except OSError:
      if not os.path.isdir(folder):  # else another process was first
        raise
    finally:
      shutil.rmtree(temporary, ignore_errors=True)
  with open(os.path.join(folder, 'index.json'), encoding='utf-8') as f:
    index = json.load(f)
  return {
    name: Records(os.path.join(folder, f'{i}.bin'), v['shape'], v['dtype'])
    for i, (name, v) in enumerate(index.items())
  }


def _write(folder, rows, total, what):
  index, files = {}, []
  bar = tqdm.tqdm(total=total, desc=what, unit='row', mininterval=1.0)
  with bar:
    for batch in rows:
      if not files:
        size = total * sum(v[0].nbytes for v in batch.values())
        free = shutil.disk_usage(folder).free
        bar.write(f'{what}: {size / 1e9:.2f} GB in {os.path.dirname(folder)}')
        if size > 0.95 * free:
          raise OSError(
            f'Not enough room for {what}: {size / 1e9:.2f} GB are needed in '
            f'{folder}, {free / 1e9:.2f} GB are free.'
          )
        for i, (name, v) in enumerate(batch.items()):
          index[name] = {'shape': v.shape[1:], 'dtype': v.dtype.str}
          files.append(open(os.path.join(folder, f'{i}.bin'), 'wb'))
      for file, v in zip(files, batch.values()):
        file.write(np.ascontiguousarray(v).tobytes())
      bar.update(len(next(iter(batch.values()))))
  for file in files:
    file.flush()
    os.fsync(file.fileno())
    file.close()
  with open(os.path.join(folder, 'index.json'), 'w', encoding='utf-8') as f:
    json.dump(index, f)


class TapLookup:
  """Replaces the picture of an example by its stored backbone features."""

  def __init__(self, records: dict[str, Records], rows: dict[str, int]):
    self.records, self.rows = records, rows

  def __call__(self, example: Example) -> Example:
    """Returns the example with `taps` instead of `image`."""
    mirrored = example.get('mirrored', False)
    row = self.rows[f'{example["image_id"]}{"|mirrored" if mirrored else ""}']
    taps = {name: r[row] for name, r in self.records.items()}
    return dict(example, taps=taps, image=None)


class TextLookup:
  """Adds the stored embedding of an example's sentence."""

  def __init__(self, records: dict[str, Records], rows: dict[str, int]):
    self.records, self.rows = records, rows

  def __call__(self, example: Example) -> Example:
    """Returns the example with text_tokens, token_mask and sentence."""
    row = self.rows[example['text']]
    return dict(example, **{k: r[row] for k, r in self.records.items()})


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


def store_taps(
  model: Any,
  variables: step.Variables,
  source: Sequence[Example],
  pp_text: str,
  *,
  folder: str,
  batch_size: int,
) -> TapLookup:
  """Computes the backbone's features of every picture, once for all rows.

  Where the pp string may mirror a picture, the mirrored one's are stored too.

  Args:
    model: with a method encode_image.
    variables: of the model; its backbone must stay as it is.
    source: the rows; rows of one picture share its features.
    pp_text: how pictures become network input.
    folder: the cache's root.
    batch_size: pictures at once.
  """
  first = {}
  for i in range(len(source)):
    first.setdefault(loader.meta(source, i)['image_id'], i)
  texts = [without(pp_text, 'flip', 'rasterize')]
  if pp.is_random(pp_text):
    texts.append(without(mirrored_always(pp_text), 'rasterize'))
  names = [f'{n}{s}' for s in ('', '|mirrored')[: len(texts)] for n in first]
  part = {
    k: {'backbone': v['backbone']}
    for k, v in variables.items()
    if 'backbone' in v
  }
  name = digest(
    jax.device_get(part),
    repr(model.backbone),
    str(texts),
    '\n'.join(names),
    str(jax.tree.structure(part)),
  )
  mesh = parallel.make_mesh(jax.local_devices())
  local = jax.device_get(part)
  size = -(-batch_size // mesh.size) * mesh.size
  encode = jax.jit(
    lambda v, x: step.encode_image(model, v, x),
    in_shardings=(parallel.replicated(mesh), parallel.split(mesh)),
  )

  def rows():
    some = loader.Rows(source, list(first.values()))
    for text in texts:
      batches = loader.eval_batches(some, pp.make(text), batch_size=size)
      for batch in batches:
        taps = jax.device_get(encode(local, batch['image']))
        yield {k: np.asarray(v)[batch['mask']] for k, v in taps.items()}

  records = write_records(
    os.path.join(folder, f'taps-{name}'),
    rows(),
    len(names),
    what='backbone features',
  )
  return TapLookup(records, {n: i for i, n in enumerate(names)})


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
  part = {k: v['text'] for k, v in variables.items() if 'text' in v}
  part = jax.device_get({k: {'text': v} for k, v in part.items()})
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

  records = write_records(
    os.path.join(folder, f'text-{name}'), rows(), len(texts), what='sentences'
  )
  return TextLookup(records, {t: i for i, t in enumerate(texts)})
