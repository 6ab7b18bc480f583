"""A config becomes stages: names, arguments and cross-checks, once.

Nothing below this module sees a config. Everything that can be wrong is
checked here or in `stage.check`, before anything is built.
"""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from salflax import data as datasets
from salflax import losses, metrics
from salflax.config import contrast as contrast_lib
from salflax.config import network, schema
from salflax.config.schema import merged, plain
from salflax.core import spec
from salflax.data import batches, pp
from salflax.evaluate import rows as rows_lib
from salflax.train import optim
from salflax.train import stage as stages_lib
from salflax.train.stage import Stage

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# What may differ when a run goes on: none of it changes a number.
FREE = ('data_dir', 'cache_dir', 'threads', 'workers', 'log_every', 'evaluate')


def data_dir(given: str) -> str:
  """Returns where prepared data sets are."""
  default = os.environ.get('SALFLAX_DATA', '~/salflax_data')
  return os.path.expanduser(given or default)


def load_rows(
  names: str,
  split: str,
  folder: str,
  conditions: Sequence[str] = (),
  *,
  exclude: str = '',
  limit: int = 0,
) -> Sequence[dict]:
  """Returns the rows of data sets joined by '+', one after another.

  Args:
    names: of the data sets.
    split: of each of them.
    folder: where they are.
    conditions: text conditions; () = all.
    exclude: list of picture ids to leave out.
    limit: only the first rows; 0 = all.
  """
  options = {'conditions': tuple(conditions)} if conditions else {}
  options |= {'exclude': exclude} if exclude else {}
  parts = [
    datasets.load_source(name.strip(), split, folder, **options)
    for name in names.split('+')
  ]
  rows = parts[0] if len(parts) == 1 else batches.Joined(parts)
  return batches.Rows(rows, range(min(limit, len(rows)))) if limit else rows


def resolve(
  config: ml_collections.ConfigDict,
  workdir: str = '',
  *,
  with_data: bool = True,
) -> list[Stage]:
  """Returns the stages that a config describes, bound and checked.

  Args:
    config: as `configs/common.py` lays it out.
    workdir: of the run; where the cache is unless the config says otherwise.
    with_data: False leaves the sources out, for prediction without data.

  Raises:
    ValueError: for what is unknown or does not fit together, with the nearest
      right name.
    FileNotFoundError: for weights or data that are not there.
  """
  config = plain(config)
  schema.check(config)
  try:
    metrics.bind_protocols(config['evaluate']['protocols'].split(','))
  except ValueError as e:
    raise ValueError(f'config.evaluate.protocols: {e}') from e
  stages = []
  for name in config['stages']:
    try:
      stage = _stage(name, config, workdir, with_data)
    except ValueError as e:
      raise ValueError(f'config.{name}: {e}') from e
    stages.append(stage._replace(origin=_origin(stage, stages)))
  if with_data and config['evaluate']['protocols']:
    _check_test_split(config)
  return stages


def _origin(stage: Stage, earlier: Sequence[Stage]) -> Stage | None:
  """Returns the stage that another one starts from.

  Raises:
    ValueError: `init` names no earlier stage and no run.
  """
  if not stage.init:
    return None
  if not stage.init.startswith('@') and os.path.isdir(stage.init):
    return stages_lib.without_contrast(load_stages(stage.init)[-1])
  names = {f'@{s.name}': s for s in earlier}
  if stage.init in names:
    origin = names[stage.init]
    return origin if stage.contrast_fn else stages_lib.without_contrast(origin)
  raise spec.unknown(
    f'config.{stage.name}.init',
    stage.init,
    ['', 'the folder of a run', *names],
  )


def load_stages(workdir: str | os.PathLike) -> list[Stage]:
  """Returns the stages of a run, without data.

  What it started from is not asked for: the checkpoints have every tensor, and
  those files may be gone.

  Raises:
    FileNotFoundError: the folder is no run.
  """
  node = load(workdir)
  model = node['model']
  backbone = dict(model['backbone'], weights='')
  node['model'] = dict(model, weights='', backbone=backbone)
  for name in node['stages']:
    contrast = contrast_lib.without_files(node[name]['contrast'])
    node[name] = dict(node[name], contrast=contrast, perceptual={})
    if not node[name]['init'].startswith('@'):
      node[name]['init'] = ''
  return resolve(node, str(workdir), with_data=False)


def _check_test_split(config: Mapping) -> None:
  """Raises ValueError now, rather than when the training has ended."""
  name = config['stages'][-1]
  node = config[name]
  folder = data_dir(config['data_dir'])
  try:
    load_rows(node['data'], node['test_split'], folder, node['conditions'])
  except ValueError as e:
    raise ValueError(f'config.{name}.test_split: {e}') from e


def _stage(name, config, workdir, with_data) -> Stage:
  node = config[name]
  record = merged(config['model'], node['model'])
  schema.check_model(record)
  model, weights, tokenizer = network.make(
    record, spec.lookup('dtype', DTYPES, config['dtype'])
  )
  model, more, contrast_fn, frozen = contrast_lib.attach(
    node['contrast'], model, node['pp'], tokenizer
  )
  node = dict(node, freeze=(*node['freeze'], *frozen))
  vgg = network.make_features(node['perceptual'], record['backbone'])
  train = held_out = None
  if with_data:
    train, held_out = _sources(node, data_dir(config['data_dir']))
  steps, epoch = _length(node, len(train) if with_data else node['batch_size'])
  protocol, _, key = node['score'].partition('/')
  bound = _select(protocol, key)
  stage = Stage(
    name=name,
    model=model,
    loss=node['loss'],
    loss_fn=losses.make_loss(node['loss'], vgg=vgg),
    contrast_fn=contrast_fn,
    make_tx=_make_tx(node, steps, epoch),
    freeze=node['freeze'],
    train_source=train,
    eval_source=held_out,
    pp=node['pp'],
    eval_pp=node['eval_pp'],
    batch_size=node['batch_size'],
    steps=steps,
    epoch=epoch,
    eval_every=max(1, round(node['eval_epochs'] * epoch)),
    log_every=config['log_every'],
    protocols={protocol: bound},
    score=node['score'],
    patience=node['patience'],
    init=node['init'],
    origin=None,
    lr_scale=node['lr_scale'],
    weights=(*weights, *more),
    tokenizer=tokenizer,
    store_taps=False,
    store_text=False,
    cache_dir=os.path.expanduser(
      config['cache_dir'] or os.path.join(workdir, 'cache')
    ),
    seed=config['seed'],
    threads=config['threads'],
    workers=config['workers'],
  )
  _cross_check(stage)
  contrast_lib.check(stage)
  frozen = stages_lib.frozen_parts(stage) if node['store'] else set()
  return stage._replace(
    store_taps='backbone' in frozen,
    store_text='text' in frozen,
  )


def _sources(node: Mapping, folder: str) -> list[Sequence[dict]]:
  """Returns the rows to train on and those that pick the checkpoint."""
  return [
    load_rows(
      node['data'],
      node[split],
      folder,
      node['conditions'],
      exclude=node['exclude'],
      limit=node[limit],
    )
    for split, limit in (('split', 'limit'), ('eval_split', 'eval_limit'))
  ]


def _make_tx(node: Mapping, steps: int, epoch: int) -> Callable:
  optim.bind_optimizer(node['optimizer'])
  return functools.partial(
    optim.make,
    node['optimizer'],
    schedule=optim.bind_schedule(node['schedule'])(node['lr'], steps, epoch),
    clip=node['clip'],
    freeze=node['freeze'],
    lr_scale=node['lr_scale'],
  )


def _select(protocol: str, key: str) -> list[metrics.BoundMetric]:
  """Returns the quick metrics of a protocol, `key` among them."""
  spec.lookup('protocol in score', metrics.PROTOCOLS, protocol)
  every = {m.key: m for m in metrics.bind_metrics(protocol)}
  spec.lookup(f'metric of {protocol} in score', every, key)
  return [m for k, m in every.items() if k == key or k in ('cc', 'nss', 'sim')]


def _length(node: Mapping, rows: int) -> tuple[int, int]:
  """Returns (steps of the stage, steps of an epoch)."""
  if bool(node['steps']) == bool(node['epochs']):
    raise ValueError(
      f'set exactly one of steps and epochs; found steps={node["steps"]}, '
      f'epochs={node["epochs"]}.'
    )
  epoch = max(1, rows // node['batch_size'])
  return node['steps'] or max(1, round(node['epochs'] * epoch)), epoch


def _cross_check(stage: Stage) -> None:
  size = tuple(stage.model.size)
  for key in ('pp', 'eval_pp'):
    text = getattr(stage, key)
    pp.make(text)
    names = [spec.parse(p).name for p in spec.split_chain(text)]
    for op in ('resize_pad', 'normalize'):
      if op not in names:
        raise ValueError(f'{key} lacks {op}: {text!r}.')
    if pp.frame(text) != size:
      raise ValueError(
        f'{key} resizes to {pp.frame(text)}, the model has size {size}: they '
        'must be the same.'
      )
  if pp.is_random(stage.eval_pp):
    raise ValueError(f'eval_pp must not draw: {stage.eval_pp!r}.')
  if 'fixations' in losses.targets(stage.loss) and 'rasterize' not in stage.pp:
    raise ValueError(f'loss {stage.loss!r} needs rasterize in pp.')


def save(config: ml_collections.ConfigDict, workdir: str) -> None:
  """Writes the config into the workdir, or checks it against the one there.

  A config that stopped before its first checkpoint makes room for another.

  Raises:
    ValueError: the workdir is another config's; names the keys that differ.
  """
  path = pathlib.Path(workdir) / 'config.json'
  ours = plain(config)
  begun = any(p.name.isdigit() for p in path.parent.glob('*/checkpoints/*'))
  if begun and not path.exists():
    raise ValueError(
      f'{workdir} has checkpoints but no config.json: which config they are of '
      'is not known. Put it back, or take another --workdir.'
    )
  if begun:
    theirs = load(workdir)
    differ = [
      f'{k}: {a!r} there, {b!r} now'
      for k, a, b in _differences(theirs, ours)
      if k.split('.')[0] not in FREE
    ]
    if differ:
      raise ValueError(
        f'{workdir} is the workdir of another config. It differs in '
        f'{"; ".join(differ[:6])}. Take another --workdir, or empty this one.'
      )
  if jax.process_index() == 0:
    rows_lib.write_json(path, ours)


def _differences(a: Any, b: Any, at: str = ''):
  if isinstance(a, Mapping) and isinstance(b, Mapping):
    for key in sorted({*a, *b}):
      deeper = f'{at}.{key}'.lstrip('.')
      yield from _differences(a.get(key), b.get(key), deeper)
  elif a != b:
    yield at, a, b


def load(workdir: str | os.PathLike) -> dict:
  """Returns the config that a run was made with.

  Raises:
    FileNotFoundError: the folder is no run.
  """
  path = pathlib.Path(workdir) / 'config.json'
  if not path.is_file():
    raise FileNotFoundError(
      f'{workdir} is not a run: it has no config.json. A run is the --workdir '
      'of python -m salflax.main.'
    )
  with open(path, encoding='utf-8') as f:
    node = plain(json.load(f))
  later = {k: {**schema.LATER, **node[k]} for k in node['stages']}
  later['evaluate'] = {**schema.LATER_EVALUATE, **node['evaluate']}
  return node | later
