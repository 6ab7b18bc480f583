"""Every run-level key and every key of a stage, with defaults and meaning."""

import difflib
import re

import ml_collections

_SWITCH = {'': True, '1': True, 'true': True, '0': False, 'false': False}


def get_config() -> ml_collections.ConfigDict:
  """Returns the keys of a run; a config fills in stages and model."""
  config = ml_collections.ConfigDict()
  # Names of the sections that are trained, in this order.
  config.stages = ()
  # The network: a record for salflax.models.MODELS. `backbone` and `text` are
  # records too, and say with `weights` what they start from.
  config.model = ml_collections.ConfigDict()
  # Seed of parameters, order of pictures and every random draw.
  config.seed = 0
  # 'float32' or 'bfloat16': what the network computes in.
  config.dtype = 'float32'
  # Where prepared data sets are; '' = $SALFLAX_DATA or ~/salflax_data.
  config.data_dir = ''
  # Where features of frozen parts are kept; '' = <workdir>/cache.
  config.cache_dir = ''
  # Threads, or with workers > 0 processes, that read pictures.
  config.threads = 2
  config.workers = 0
  # Steps between two lines of the log.
  config.log_every = 50
  # What is scored after the last stage.
  config.evaluate = ml_collections.ConfigDict()
  # Protocols, separated by commas: mit, tuebingen, salicon, course.
  config.evaluate.protocols = 'mit,course'
  # Beside the model: reference predictors, wrong and no sentence.
  config.evaluate.controls = True
  # Pictures drawn with their maps.
  config.evaluate.pictures = 6
  # Whether every scored map is kept, as a grey picture.
  config.evaluate.keep_maps = False
  # Whether what is frozen is stored for scored pictures, too: many runs that
  # share a backbone and a cache then compute it once.
  config.evaluate.store = False
  return config


def stage(**given) -> ml_collections.ConfigDict:
  """Returns the keys of one stage, `given` ones set.

  Raises:
    ValueError: for a key that no stage has.
  """
  keys = dict(
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
    # Pictures to leave out: a file of ids, or a packaged list's name.
    exclude='',
    # Preprocessing of training rows, and of rows that are scored.
    pp='',
    eval_pp='',
    # A sum of losses: '10*kld + 2*cc', or a preset's name.
    loss='',
    # Of the losses df and gm: VGG-16's weights ('@backbone': the network's
    # own), and how they expect pixels.
    perceptual={},
    # What is added for pictures that go with their sentences: keys of
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
    model=ml_collections.ConfigDict(),
    # Whether what is frozen is computed once and stored.
    store=True,
  )
  keys = _filled('a stage', keys, given)
  if keys['contrast']:
    keys['contrast'] = contrast(**keys['contrast'])
  default = dict(weights='', normalize='imagenet')
  keys['perceptual'] = _filled('perceptual', default, keys['perceptual'])
  return ml_collections.ConfigDict(keys)


def contrast(**given) -> ml_collections.ConfigDict:
  """Returns the keys of a contrastive loss, `given` ones set.

  The paper's scheme 3: the picture, dimmed by its predicted map, should match
  its sentence better than other sentences, and tell it.

  Raises:
    ValueError: for a key that it does not have.
  """
  keys = dict(
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
    # The masked picture is shrunk by this factor.
    stride=1,
    # Width of the common space, and of the decoder that tells the sentence.
    dim=256,
    hidden=512,
    # Likelihood of a sentence: mean over its word pieces, or their sum.
    per_token=False,
    # What looks at the masked picture: the network's own 'backbone', or a
    # tower that never trains: name, weights and attributes, e.g. of a 'vit';
    # normalize='...' where its pixels are not the pp string's; pool='first'
    # for a token that stands for the picture.
    vision=dict(name='backbone'),
  )
  if given.get('kind') == 'order':
    keys.update(caption=0.0, margin=0.0, hardest=False, mask='released')
  return ml_collections.ConfigDict(_filled('a contrast', keys, given))


def _filled(what, keys, given):
  """Returns `keys` with the values of `given`."""
  for key in given:
    if key not in keys:
      near = difflib.get_close_matches(key, keys, n=1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise ValueError(
        f'Unknown key of {what}: {key!r}.{hint} Allowed: {sorted(keys)}.'
      )
  return {**keys, **given}


def text_encoder(weights: str) -> dict:
  """Returns the record of a BERT that takes 35 word pieces, as BLIP's does."""
  record = dict(name='bert', weights=weights, length=35)
  if weights == 'all-MiniLM-L6-v2':
    record.update(pool='mean', normalize=True)
  return record


def transalnet() -> dict:
  """Returns the record of the published network, without a sentence's part."""
  return dict(
    name='transalnet',
    size=(288, 384),
    backbone=dict(name='resnet50', weights='timm/resnet50.tv_in1k', bn='train'),
    levels=('1/8', '1/16', '1/32'),
    widths=(512, 768, 768),
    depth=2,
    head_dim=64,
    mlp_ratio=4,
    decoder_widths=(256, 128, 64, 32),
    out_stride=1,
    bn='train',
  )


def choice(key: str, value: str, allowed) -> None:
  """Raises ValueError where an option's value is not one of those allowed."""
  if value not in allowed:
    near = difflib.get_close_matches(value, allowed, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'Unknown {key} {value!r}.{hint} Allowed: {", ".join(allowed)}.'
    )


def options(arg: str, defaults: dict) -> ml_collections.ConfigDict:
  """Returns the options in a config's argument, `'scheme=token,fold=1'`.

  Args:
    arg: what follows the colon in --config=configs/x.py:arg.
    defaults: every option with its default; values take its type. An option
      that is a bool may be given by its name alone.

  Raises:
    ValueError: for an option that is not in `defaults`.
  """
  out = ml_collections.ConfigDict(defaults)
  # Commas inside parentheses belong to a value: fusion=token(dim=96, heads=4).
  for part in re.split(r',(?![^(]*\))', arg or ''):
    if not part.strip():
      continue
    key, _, value = (p.strip() for p in part.partition('='))
    if key not in defaults:
      near = difflib.get_close_matches(key, defaults, n=1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise ValueError(
        f'Unknown option {key!r} in the config argument {arg!r}.{hint} '
        f'Allowed: {sorted(defaults)}.'
      )
    kind = type(defaults[key])
    try:
      out[key] = _SWITCH[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as e:
      raise ValueError(
        f'Option {key} in the config argument {arg!r}: {value!r} is no '
        f'{kind.__name__}.'
      ) from e
  return out
