"""A model as files that run without salflax: StableHLO or ONNX.

A folder has three programs, each with its weights: `image` (pixels to
features), `text` (word pieces to words and sentence; not for networks without
text) and `head` (both to a map). Images or sentences that stay the same need go
through theirs once. Beside them are tokenizer.json, `FILE`, which says how an
image and a sentence become inputs and a map the image's own, and check/: images
with the maps of the model itself.
"""

import functools
import importlib.util
import inspect
import logging
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

import salflax
from salflax.core import files, spec
from salflax.data import pp, scenes
from salflax.data.tokenizer import SPECIAL
from salflax.models.layers import TextFeatures
from salflax.train import step
from salflax.train.stage import Stage

FILE = 'export.json'
FORMAT = 1
PLATFORMS = ('cpu', 'cuda', 'tpu')
# Ops of a pp string that other programs are told how to do; the rest of these
# leave the image as it is.
_OPS = ('resize_pad', 'normalize', 'rasterize', 'shrink')
# What a map of a network means, by the class of the network.
_MEANING = {
  'TranSalNet': 'between 0 and 1',
  'Lite': 'mean 1 over the frame',
}


class Program(NamedTuple):
  """A part of a network, with its weights.

  Attributes:
    fn: (variables, {input: array}) -> {output: array}, traceable.
    variables: variables of the network.
    inputs: shapes and types of one row, without the axis of the batch.
    outputs: the same, of what it computes.
  """

  fn: Callable[[step.Variables, Mapping[str, Any]], dict[str, Any]]
  variables: step.Variables
  inputs: dict[str, jax.ShapeDtypeStruct]
  outputs: dict[str, jax.ShapeDtypeStruct]


def programs(stage: Stage, variables: step.Variables) -> dict[str, Program]:
  """Cuts the network of a stage into programs, by name.

  Args:
    stage: the stage.
    variables: variables of its network.
  """
  model = stage.model
  program = functools.partial(_program, jax.device_get(variables))
  # As the network was trained: see `step.forward`.
  half = 'backbone' in stage.stored

  def image(variables, inputs):
    features = model.apply(
      variables, inputs['image'], train=False, method='encode_image'
    )
    dtype = jnp.float16 if half else jnp.float32
    return {k: x.astype(dtype) for k, x in features.items()}

  def text(variables, inputs):
    tokens, mask = inputs['tokens'], inputs['token_mask']
    features = model.apply(variables, tokens, mask, method='encode_text')
    return {'words': features.tokens, 'sentence': features.sentence}

  def head(variables, inputs):
    inputs = dict(inputs)
    mask, sentence = inputs.pop('token_mask', None), None
    if mask is not None:
      words, vector = inputs.pop('words'), inputs.pop('sentence')
      sentence = TextFeatures(words, mask, vector)
    saliency = model.apply(variables, inputs, sentence, mask, train=False)
    return {'saliency': saliency.astype(jnp.float32)}

  row = jax.ShapeDtypeStruct
  result = {'image': program(image, image=row((*model.size, 3), jnp.float32))}
  features = dict(result['image'].outputs)
  if stage.tokenizer is not None:
    length = (stage.tokenizer.length,)
    mask = row(length, jnp.bool_)
    tokens = row(length, jnp.int32)
    result['text'] = program(text, tokens=tokens, token_mask=mask)
    features |= result['text'].outputs | {'token_mask': mask}
  return result | {'head': program(head, **features)}


def _program(variables, fn, **inputs) -> Program:
  outputs = jax.eval_shape(fn, variables, _batch(inputs, 1))
  row = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
  return Program(fn, variables, inputs, jax.tree.map(row, outputs))


def _batch(rows: Mapping[str, Any], size: Any) -> dict[str, Any]:
  return {
    k: jax.ShapeDtypeStruct((size, *x.shape), x.dtype) for k, x in rows.items()
  }


def _stablehlo(program: Program, path: pathlib.Path) -> None:
  def fn(inputs):
    # Behind a barrier, the compiler does not compute with weights: maps would
    # differ from the model's own in the fourth digit.
    barrier = jax.lax.optimization_barrier
    return program.fn(jax.tree.map(barrier, program.variables), inputs)

  (size,) = jax.export.symbolic_shape('batch')
  make = jax.export.export(jax.jit(fn), platforms=PLATFORMS)
  path.write_bytes(make(_batch(program.inputs, size)).serialize())


def _onnx(program: Program, path: pathlib.Path) -> None:
  import jax2onnx
  import onnx
  import onnx_ir
  from onnx_ir.passes import common

  for name in ('jax2onnx', 'onnx_ir'):  # they warn of what does not matter
    logging.getLogger(name).setLevel(logging.ERROR)
  (size,) = jax.export.symbolic_shape('batch')
  rows = _batch(program.inputs, size)

  resize = jax.image.resize

  def positional(*arrays):
    # jax2onnx replaces this function, by one that takes no symbolic batch.
    with mock.patch.object(jax.image, 'resize', resize):
      inputs = dict(zip(rows, arrays))
      outputs = program.fn(program.variables, inputs)
    return tuple(outputs[name] for name in program.outputs)

  model = jax2onnx.to_onnx(
    positional,
    list(rows.values()),
    model_name='salflax',
    input_names=list(rows),
    output_names=list(program.outputs),
  )
  # A part that is applied twice has its weights twice.
  model = onnx_ir.from_proto(model)
  common.DeduplicateInitializersPass(size_limit=2**31)(model)
  model = onnx_ir.to_proto(model)
  # Sizes that jax2onnx notes beside the nodes are not always right.
  del model.graph.value_info[:]
  onnx.save_model(model, os.fspath(path))


# Writer of a program, by the name of the format, which is the files' suffix.
FORMATS = {'stablehlo': _stablehlo, 'onnx': _onnx}
_PACKAGES = {'onnx': ('onnx', 'onnx_ir', 'jax2onnx')}


def check(
  folder: str | os.PathLike, formats: Sequence[str], *, replace: bool
) -> None:
  """Checks what `write` is asked for, before a model is loaded.

  Args:
    folder: see `write`.
    formats: see `write`.
    replace: see `write`.

  Raises:
    ValueError: a format is unknown, or there is none.
    FileExistsError: the folder must not be replaced.
    ModuleNotFoundError: a package is not installed; has the command for it.
  """
  folder = pathlib.Path(folder)
  if not formats:
    raise ValueError(f'Name a format: {", ".join(FORMATS)}.')
  for name in formats:
    spec.lookup('format', FORMATS, name)
    for package in _PACKAGES.get(name, ()):
      if importlib.util.find_spec(package) is None:
        raise ModuleNotFoundError(
          f"Format {name!r} needs {package}: pip install 'salflax[export]' && "
          'pip install --no-deps jax2onnx'
        )
  if folder.is_file():
    raise FileExistsError(f'{folder} is a file: name a folder.')
  if folder.exists() and any(folder.iterdir()):
    if not (folder / FILE).is_file():
      raise FileExistsError(f'{folder} has other files: name another folder.')
    if not replace:
      raise FileExistsError(
        f'{folder} has an export already: name the folder to replace it, or '
        'name another.'
      )


def write(
  folder: str | os.PathLike,
  network: Any,
  *,
  formats: Sequence[str],
  about: Mapping[str, Any],
  replace: bool = False,
) -> None:
  """Writes the folder, whole or not at all.

  Args:
    folder: folder that is new, empty, or an earlier export.
    network: see `train.predictor.StagePredictor`.
    formats: names in `FORMATS`.
    about: what `FILE` says of the model's origin.
    replace: whether an earlier export is replaced.

  Raises:
    ValueError: the network's preprocessing is more than to resize and
      normalise. Further errors are those of `check`.
  """
  check(folder, formats, replace=replace)
  stage = network.stage
  description = {
    'format': FORMAT,
    'salflax': salflax.__version__,
    'model': about,
    'image': _image(stage.eval_pp),
    'text': _text(stage.tokenizer),
    'output': _output(stage.model),
  }
  parts = programs(stage, network.variables)
  with files.replacing_folder(pathlib.Path(folder)) as scratch:
    description['programs'] = {
      name: {
        'files': {f: f'{name}.{f}' for f in dict.fromkeys(formats)},
        'inputs': _tensors(part.inputs),
        'outputs': _tensors(part.outputs),
      }
      for name, part in parts.items()
    }
    for name, part in parts.items():
      for kind in dict.fromkeys(formats):
        FORMATS[kind](part, scratch / f'{name}.{kind}')
    if stage.tokenizer is not None:
      stage.tokenizer.save(scratch)
    description['check'] = _write_check(scratch, network)
    files.write_json(scratch / FILE, description)


def _tensors(rows: Mapping[str, Any]) -> dict[str, Any]:
  return {
    k: {'type': x.dtype.name, 'shape': ['batch', *x.shape]}
    for k, x in rows.items()
  }


def _image(text: str) -> dict[str, Any]:
  """Describes how an image becomes input, of a pp string."""
  calls = {c.name: c for c in map(spec.parse, spec.split_chain(text))}
  if 'resize_pad' not in calls or not {*calls} <= {*_OPS}:
    raise ValueError(
      f'eval_pp={text!r} cannot be exported: it must have resize_pad and '
      f'normalize, and may have of the other ops {", ".join(_OPS[2:])}.'
    )
  call = calls['resize_pad']
  bound = inspect.signature(pp.resize_pad).bind(
    None, None, *call.args, **call.kwargs
  )
  bound.apply_defaults()
  options = bound.arguments
  channels, mean, std = pp.normalization(text)
  return {
    'size': [options['height'], options['width']],
    'resize': "the largest that fits, as Pillow's BILINEAR; centred",
    'fill': options['fill'],
    'channels': channels,
    'mean': mean,
    'std': std,
  }


def _text(tokenizer: Any) -> dict[str, Any] | None:
  """Describes how a sentence becomes input; None for a network without text."""
  if tokenizer is None:
    return None
  return {
    'tokenizer': 'tokenizer.json',
    'length': tokenizer.length,
    'frame': [word for word in SPECIAL if word != '[UNK]'],
    'no_sentence': 'tokens of [PAD] and a mask of False throughout',
  }


def _output(model: Any) -> dict[str, Any]:
  """Describes the map."""
  size = list(model.size)
  return {
    'size': size,
    'range': _MEANING.get(type(model).__name__, 'at least 0'),
    'meaning': (
      'Saliency of the frame. Cut out the image and resize it, bilinearly, to '
      "the image's own size. Divided by its sum it is a density of fixations."
    ),
  }


def _write_check(folder: pathlib.Path, network: Any) -> list[dict[str, str]]:
  """Writes images and the model's own maps of them; returns their names."""
  wide = scenes.load('test', size=(90, 160), num=1)
  tall = scenes.load('test', size=(160, 90), num=2)
  rows = [wide[1], wide[0], tall[len(tall) - 1]]
  text = network.stage.tokenizer is not None
  pairs = [(row['image'], row['text'] if text else '') for row in rows]
  (folder / 'check').mkdir()
  result = []
  for i, (pair, saliency) in enumerate(zip(pairs, network.predict(pairs))):
    names = {'image': f'check/{i}.png', 'map': f'check/{i}.npy'}
    Image.fromarray(pair[0]).save(folder / names['image'])
    np.save(folder / names['map'], saliency)
    result.append(names | {'text': pair[1]})
  return result
