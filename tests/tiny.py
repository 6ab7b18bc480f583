"""A tiny network and all it takes to train it."""

import dataclasses
import functools
import json
import pathlib
import signal
import types

import jax
import numpy as np
import safetensors.numpy
from flax import linen as nn
from tiny_config import PP as PP
from tiny_config import get_config as get_config
from tokenizer_test import write_vocab
from toy_gaze import Toy
from weights_rule import tensor

from salflax.config import resolve as config_lib
from salflax.config import saved
from salflax.core import parallel
from salflax.models.backbones import vgg
from salflax.train import checkpoint, loop, step
from salflax.train import stage as stages_lib
from salflax.train.predictor import StagePredictor
from salflax.train.stage import Stage

WORDS = [
  *('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'all', 'non', '_', 'of'),
  *('salient', '0', '1', '2', '3', '4', '5', 'a', 'the', 'red', 'blue'),
]
DIM = 16


def bert_folder(path: pathlib.Path) -> pathlib.Path:
  """Writes a BERT of one layer, with a vocabulary that fits `Toy`."""
  write_vocab(
    path,
    WORDS,
    vocab_size=len(WORDS),
    hidden_size=DIM,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=DIM,
    max_position_embeddings=12,
  )
  shapes = {
    'embeddings.word_embeddings.weight': (len(WORDS), DIM),
    'embeddings.position_embeddings.weight': (12, DIM),
    'embeddings.token_type_embeddings.weight': (2, DIM),
    'embeddings.LayerNorm.weight': (DIM,),
    'embeddings.LayerNorm.bias': (DIM,),
  }
  layer = 'encoder.layer.0'
  for name in (
    *(f'attention.self.{p}' for p in ('query', 'key', 'value')),
    *('attention.output.dense', 'intermediate.dense', 'output.dense'),
  ):
    shapes[f'{layer}.{name}.weight'] = (DIM, DIM)
    shapes[f'{layer}.{name}.bias'] = (DIM,)
  for name in ('attention.output', 'output'):
    shapes[f'{layer}.{name}.LayerNorm.weight'] = (DIM,)
    shapes[f'{layer}.{name}.LayerNorm.bias'] = (DIM,)
  state = {k: tensor(k, s) for k, s in shapes.items()}
  safetensors.numpy.save_file(state, path / 'model.safetensors')
  return path


def vgg_file(path: pathlib.Path) -> pathlib.Path:
  """Writes a narrow VGG-16, .npz, in torchvision's names."""
  rng, state, last = np.random.default_rng(0), {}, 3
  for name, place in vgg.STEPS.items():
    if name.startswith('conv'):
      width = 4 * min(2 ** (int(name[4]) - 1), 8)
      kernel = rng.normal(0, (2 / 9 / last) ** 0.5, (width, last, 3, 3))
      state[f'features.{place}.weight'] = kernel.astype(np.float32)
      state[f'features.{place}.bias'] = np.zeros(width, np.float32)
      last = width
  np.savez(path, **state)
  return path


def mesh(devices: int = 1):
  return parallel.make_mesh(jax.devices()[:devices])


def stages(config, workdir, *, train=None, held_out=None) -> list[Stage]:
  """Resolves the stages of a config, on `Toy` data or other rows."""
  train = Toy(5) if train is None else train
  held_out = Toy(1, seed=1) if held_out is None else held_out
  result = []
  for s in config_lib.resolve(config, str(workdir), with_data=False):
    epoch = max(1, len(train) // s.batch_size)
    node = config[s.name]
    result.append(
      dataclasses.replace(
        s,
        train_source=train,
        eval_source=held_out,
        # One object, so that programs can be told apart by it.
        make_tx=functools.cache(s.make_tx),
        steps=node.steps or round(node.epochs * epoch),
        epoch=epoch,
        eval_every=max(1, round(node.eval_epochs * epoch)),
      )
    )
  return result


def last_state(stage: Stage, folder, at: int | None = None):
  """Restores the state in a stage's folder, of the last step or `at`."""
  checkpoints = checkpoint.Checkpoints(str(folder / stage.name / 'checkpoints'))
  at = checkpoints.latest_step() if at is None else at
  abstract = stages_lib.abstract_state(stage)
  state, _ = checkpoints.restore(at, abstract, mesh())
  checkpoints.close()
  return jax.device_get(state)


def assert_same(a, b) -> None:
  """Raises AssertionError unless two trees have the same bits."""
  jax.tree.map(np.testing.assert_array_equal, a, b)


def interrupt_after(monkeypatch, steps: int) -> None:
  """Has Ctrl-C pressed while the step after so many is computed."""
  make = step.make_train_step

  def making(*args, **kwargs):
    train_step, taken = make(*args, **kwargs), []

    def counting(*args):
      taken.append(1)
      if len(taken) == steps:
        signal.raise_signal(signal.SIGINT)
      return train_step(*args)

    return counting

  monkeypatch.setattr(step, 'make_train_step', making)


def read_metrics(folder: pathlib.Path) -> list[dict]:
  """Reads the lines of metrics.jsonl without what the clock decides."""
  with open(folder / 'metrics.jsonl', encoding='utf-8') as f:
    rows = [json.loads(line) for line in f]
  for row in rows:
    for key in ('images_per_second', 'data_wait'):
      row.pop(key, None)
  return rows


def names_file(path, count=1000):
  """Writes names, as of ImageNet's classes, with the tiny encoder's vectors."""
  vectors = np.random.default_rng(0).normal(size=(count, DIM))
  np.savez(path, names=np.array(['thing'] * count), vectors=vectors)
  return path


class Red(nn.Module):
  """A network without parameters: the red channel, and words on top."""

  @nn.compact
  def __call__(self, image, tokens=None, mask=None, *, train=False):
    return image[..., 0] + mask.sum(axis=-1, dtype=np.float32)[:, None, None]


def letters(texts):
  """Tokenizes texts of up to 8 letters: ids i32 [n, 8], mask bool [n, 8]."""
  mask = np.arange(8) < np.array([len(t) for t in texts])[:, None]
  return mask.astype(np.int32), mask


def red_predictor(devices: int = 1, **attributes) -> StagePredictor:
  """Makes a predictor with the network `Red`, of any attributes of a stage."""
  stage = types.SimpleNamespace(
    model=Red(),
    eval_pp='resize_pad(48, 64)|normalize("unit")',
    tokenizer=letters,
    stored=frozenset(),
    threads=2,
    batch_size=4,
  )
  vars(stage).update(attributes)
  return StagePredictor(stage, {}, mesh(devices))


def trained_run(folder: pathlib.Path) -> pathlib.Path:
  """Trains two stages on scenes, the second with its frozen parts stored."""
  config = get_config(f'bert={bert_folder(folder / "bert")}')
  config.model.backbone.bn = 'frozen'
  config.evaluate.protocols = 'mit'
  config.only.update(limit=8, eval_limit=4, test_limit=8, steps=1)
  config.second = config.only.copy_and_resolve_references()
  config.second.update(steps=4, init='@only', freeze=('backbone/.*', 'text/.*'))
  config.stages = ('only', 'second')
  workdir = folder / 'run'
  saved.save(config, str(workdir))
  stages = config_lib.resolve(config, str(workdir))
  config_lib.save_texts(stages, str(workdir))
  loop.run(stages, str(workdir))
  return workdir
