"""The keys of a config: meaning, default and type of each, and the checks.

The functions of `configs/common.py` give them to configs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from salflax.core import spec
from salflax.core.spec import plain as plain

# Each key stands here once: its meaning, its default, and by that its type.
EVALUATE = dict(
  # Protocols, separated by commas: mit, tuebingen, salicon, course.
  protocols='mit,course',
  # Beside the model: reference predictors, wrong and no sentence.
  controls=True,
  # Images drawn with their maps.
  figures=6,
  # Whether every scored map is kept, as a grey image.
  keep_maps=False,
  # Whether features of frozen parts are stored for scored images, too: runs
  # that share a backbone and a cache then compute them once.
  store=False,
)
RUN = dict(
  # Names of the sections that are trained, in this order.
  stages=(),
  # The network: a record for salflax.models.MODELS. `backbone` and `text` are
  # records too, and say with `weights` what they start from.
  model={},
  # Seed of parameters, order of images and every random draw.
  seed=0,
  # 'float32' or 'bfloat16': what the network computes in.
  dtype='float32',
  # What the backward pass computes anew rather than keeps, for memory: 'none';
  # 'products' keeps convolutions and matrix products; 'blocks' keeps the ends
  # of residual and transformer blocks.
  remat='none',
  # Devices that share one copy of the parameters and of the optimiser's state;
  # 1 = each device has all of them.
  param_shards=1,
  # Where prepared data sets are; '' = $SALFLAX_DATA or ~/salflax_data.
  data_dir='',
  # Where features of frozen parts are kept; '' = <workdir>/cache.
  cache_dir='',
  # Threads, or with workers > 0 processes, that read images.
  threads=2,
  workers=0,
  # Steps between two lines of the log.
  log_every=50,
  # What is scored after the last stage.
  evaluate=EVALUATE,
)
PERCEPTUAL = dict(weights='', normalize='imagenet')
STAGE = dict(
  # Data sets, joined by '+', as named by salflax.data.
  data='',
  # Splits to train on, to pick the checkpoint by, and to report.
  split='fit',
  eval_split='val',
  test_split='test',
  # Text conditions to use; () = all of the data set.
  conditions=(),
  # Only so many rows of the training split, of the one that picks the
  # checkpoint, and of the one that is reported; 0 = all.
  limit=0,
  eval_limit=0,
  test_limit=0,
  # Images to leave out: a file of ids, or a packaged list's name.
  exclude='',
  # Preprocessing of training rows, and of rows that are scored.
  pp='',
  eval_pp='',
  # A sum of losses: '10*kld + 2*cc', or a preset's name.
  loss='',
  # Of the losses df and gm: VGG-16's weights ('@backbone': the network's
  # own), and how they expect pixels.
  perceptual=PERCEPTUAL,
  # What is added for images that go with their sentences: keys of
  # `contrast` below; {} = nothing.
  contrast={},
  # Optimiser, learning rate, its schedule, largest gradient norm (0 = any).
  optimizer='adam',
  lr=1e-5,
  schedule='constant',
  clip=0.0,
  # (path pattern, factor) pairs that scale the learning rate.
  lr_scale=(),
  # Rows of a batch over all devices; length in epochs or in steps.
  batch_size=8,
  # Above 1, that many rows of an image stand together in a batch, flipped
  # alike: losses such as 'difference' compare them. An epoch is then all
  # images.
  rows_per_image=1,
  # Parts of a batch that go through the network one after the other, for
  # memory: the step is that of the whole batch. Batch normalisation that
  # trains sees each part for itself.
  accumulate=1,
  epochs=0.0,
  steps=0,
  # Epochs between evaluations, each followed by a checkpoint.
  eval_epochs=1.0,
  # Which checkpoint is best, and evaluations without a better one that end
  # the stage (0 = never).
  score='mit/cc',
  patience=0,
  # '@name': start from that stage's best checkpoint; or the folder of a
  # run, to start from the best of its last stage.
  init='',
  # Patterns of parameters that keep their bits.
  freeze=(),
  # Attributes of the model that this stage sets otherwise.
  model={},
  # Whether features of frozen parts are stored and computed once.
  store=True,
)
CONTRAST = dict(
  # 'vsrn': cosine in a common space, mean over the batch; 'order', the
  # released code: order embedding in the tokens' own space, sum.
  kind='vsrn',
  # Weights of the triplet loss and of the sentence's likelihood; 0 = without.
  matching=1.0,
  caption=1.0,
  # By how much a pair should score above its negatives; whether the hardest
  # negative counts, or the sum of all.
  margin=0.2,
  hardest=True,
  # The map as a mask: 'max' divides it by its maximum, 'raw' does not,
  # 'released' neither, and leaves the mean colour where it is 0, not black.
  mask='max',
  # The masked image is shrunk by this factor.
  stride=1,
  # Width of the common space, and of the decoder that tells the sentence.
  dim=256,
  hidden=512,
  # Likelihood of a sentence: mean over its word pieces, or their sum.
  per_token=False,
  # What looks at the masked image: the network's own 'backbone', or a
  # tower that never trains: name, weights and attributes, e.g. of a 'vit';
  # normalize='...' where its pixels are not the pp string's; pool='first'
  # for a token that stands for the image.
  vision=dict(name='backbone'),
)
_POSITIVE = (
  *('lr', 'batch_size', 'eval_epochs', 'threads', 'log_every'),
  *('stride', 'dim', 'hidden'),
)
_STRINGS = ('stages', 'conditions', 'freeze')


def filled(what: str, defaults: Mapping, values: Mapping) -> dict[str, Any]:
  """Joins the defaults with these values.

  Raises:
    ValueError: for a key that is not among the defaults, with the nearest one.
  """
  for key in values:
    spec.lookup(f'key of {what}', defaults, key)
  return {**defaults, **values}


def merged(base: Mapping, override: Mapping) -> dict:
  """Merges the values of `override` into `base`, record by record."""
  out = dict(base)
  for key, value in override.items():
    deeper = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
    out[key] = merged(out[key], value) if deeper else value
  return out


def sections(config: Mapping[str, Any]) -> dict[str, Any]:
  """Finds the sections of stages, those that are not trained too."""
  stages = config['stages'] if 'stages' in config else ()
  return {
    k: v
    for k, v in config.items()
    if k not in RUN and _is_section(v, named=k in stages)
  }


def check(config: Mapping[str, Any]) -> None:
  """Raises ValueError for a key that is unknown, missing or of another kind.

  Args:
    config: as plain dicts and tuples.
  """
  of_stages = sections(config)
  rest = {k: v for k, v in config.items() if k not in of_stages}
  _check_keys('config', rest, RUN)
  _check_keys('config.evaluate', config['evaluate'], EVALUATE)
  if not config['stages']:
    raise ValueError('config.stages is empty: name at least one stage.')
  for name in config['stages']:
    spec.lookup('stage in config.stages', of_stages, name)
  for name, section in of_stages.items():
    _check_keys(f'config.{name}', section, STAGE)
    _check_pairs(f'config.{name}.lr_scale', section['lr_scale'])
    if section['contrast']:
      _check_keys(f'config.{name}.contrast', section['contrast'], CONTRAST)
    if section['perceptual']:
      where = f'config.{name}.perceptual'
      _check_keys(where, section['perceptual'], PERCEPTUAL)


def _is_section(value: Any, *, named: bool) -> bool:
  """Tells a stage's section from a misspelt key of the run."""
  if not isinstance(value, Mapping):
    return False
  return named or len(set(value) & set(STAGE)) > len(STAGE) / 2


def _check_keys(where: str, node: Any, defaults: Mapping[str, Any]) -> None:
  filled(where, defaults, node)
  for key, default in defaults.items():
    if key not in node:
      raise ValueError(
        f'{where} lacks {key!r}: begin with the functions of configs/common.py.'
      )
    _check_value(f'{where}.{key}', key, node[key], type(default))


def _check_value(where: str, key: str, value: Any, kind: type) -> None:
  fits = isinstance(value, (int, float) if kind is float else kind)
  if not fits or (isinstance(value, bool) and kind is not bool):
    hint = f' Write ({value!r},).' if kind is tuple else ''
    raise ValueError(
      f'{where} must be of type {kind.__name__}, found {value!r}.{hint}'
    )
  if key in ('matching', 'caption', 'margin') and value == float('inf'):
    raise ValueError(f'{where} must be finite, found {value!r}.')
  if kind in (int, float) and not value >= 0:
    raise ValueError(f'{where} must not be negative, found {value!r}.')
  if key in _POSITIVE and not 0 < value < float('inf'):
    raise ValueError(f'{where} must be positive, found {value!r}.')
  if key in _STRINGS and not all(isinstance(v, str) for v in value):
    raise ValueError(f'{where} must hold strings, found {value!r}.')


def _check_pairs(where: str, pairs: Sequence[Any]) -> None:
  for pair in pairs:
    good = isinstance(pair, tuple) and len(pair) == 2
    if not good or not isinstance(pair[0], str) or isinstance(pair[1], str):
      raise ValueError(
        f"{where} must hold pairs such as ('backbone/.*', 0.1), found {pair!r}."
      )


def check_model(node: Mapping[str, Any]) -> None:
  """Raises ValueError where a model record lacks what every one has."""
  for key in ('backbone', 'text'):
    if not isinstance(node.get(key), Mapping):
      raise ValueError(
        f'model.{key} must be a record such as dict(name=...), found '
        f'{node.get(key)!r}; its keys are {", ".join(sorted(node))}.'
      )
  text = node['text']
  if text.get('name', 'none') != 'none' and not text.get('weights'):
    raise ValueError(
      "model.text lacks 'weights': a name such as 'all-MiniLM-L6-v2', or a "
      'folder.'
    )
