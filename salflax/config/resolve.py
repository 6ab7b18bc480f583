"""A config becomes stages: names, arguments and cross-checks, once.

Nothing below this module sees a config. Everything that can be wrong is
checked here or in `checks.check`, before anything is built.
"""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections

from salflax import data as datasets
from salflax import losses, metrics
from salflax.config import contrast as contrast_lib
from salflax.config import network, ranges, schema
from salflax.config import saved as saved_lib
from salflax.config.schema import merged, plain
from salflax.core import files, paths, spec
from salflax.data import batches, pp
from salflax.train import optim
from salflax.train import stage as stages_lib
from salflax.train.stage import Stage

DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# Keys that a stage takes as its section, or the run, has them.
_AS_WRITTEN = (
  *('loss', 'pp', 'eval_pp', 'batch_size', 'score', 'patience', 'init'),
  *('lr_scale', 'freeze', 'rows_per_image', 'accumulate'),
)
_OF_RUN = (
  *('log_every', 'seed', 'threads', 'workers', 'remat', 'param_shards'),
)


def data_dir(path: str) -> str:
  """Chooses the folder of prepared data sets: `path`, or the default."""
  return os.path.expanduser(path or datasets.default_data_dir())


def load_rows(
  names: str,
  split: str,
  folder: str,
  conditions: Sequence[str] = (),
  *,
  exclude: str = '',
  limit: int = 0,
) -> Sequence[dict]:
  """Loads the rows of data sets joined by '+', one after another.

  Args:
    names: names of the data sets.
    split: split of each of them.
    folder: folder of prepared data sets.
    conditions: text conditions; () = all.
    exclude: list of image ids to leave out.
    limit: only the first rows; 0 = all.
  """
  options = {'conditions': tuple(conditions)} if conditions else {}
  options |= {'exclude': exclude} if exclude else {}
  names = [name.strip() for name in names.split('+')]
  parts = [datasets.load_source(n, split, folder, **options) for n in names]
  rows = parts[0] if len(parts) == 1 else batches.Joined(parts, names)
  return batches.Rows(rows, range(min(limit, len(rows)))) if limit else rows


def section_rows(
  node: Mapping[str, Any],
  folder: str,
  split: str = 'split',
  limit: str = 'limit',
) -> Sequence[dict]:
  """Loads rows of a stage's section, by default those that it trains on.

  Args:
    node: the section.
    folder: folder of prepared data sets.
    split: key of the split.
    limit: key of the number of rows.
  """
  return load_rows(
    node['data'],
    node[split],
    folder,
    node['conditions'],
    exclude=node['exclude'],
    limit=node[limit],
  )


def resolve(
  config: ml_collections.ConfigDict,
  workdir: str = '',
  *,
  with_data: bool = True,
  trained: bool = False,
) -> list[Stage]:
  """Binds and checks the stages that a config describes.

  Args:
    config: as `configs/common.py` lays it out.
    workdir: folder of the run; the cache is in it unless the config says
      otherwise.
    with_data: False leaves the sources out, for prediction without data.
    trained: whether all variables come from the run's checkpoints: then no
      file that it started from is read.

  Raises:
    ValueError: for what is unknown or does not fit together, with the nearest
      right name.
    FileNotFoundError: for weights or data that are not there.
  """
  config = plain(config)
  schema.check(config)
  ranges.check(config)
  try:
    if with_data:  # predicting needs no package of a metric
      metrics.bind_protocols(config['evaluate']['protocols'])
  except ValueError as e:
    raise ValueError(f'config.evaluate.protocols: {e}') from e
  stages = []
  for name in config['stages']:
    try:
      saved = _text_folder(workdir, name) if trained else ''
      stages.append(
        _stage(name, config, workdir, stages, saved, with_data=with_data)
      )
    except ValueError as e:
      raise ValueError(f'config.{name}: {e}') from e
  if with_data and config['evaluate']['protocols']:
    _check_test_split(config)
  return stages


def _text_folder(workdir: str, stage: str) -> str:
  return os.path.join(workdir, stage, 'text')


def save_texts(stages: Sequence[Stage], workdir: str) -> None:
  """Writes each stage's tokenizer and text encoder's sizes into the workdir.

  With them and its checkpoints a run predicts on any machine.
  """
  for stage in stages:
    network.save_text(
      stage.model, stage.tokenizer, _text_folder(workdir, stage.name)
    )


def _origin(init: str, earlier: Sequence[Stage], *, contrast: bool):
  """Loads the stage that another one starts from; None where `init` is ''.

  Raises:
    ValueError: `init` names no earlier stage and no run.
  """
  if not init:
    return None
  names = {f'@{s.name}': s for s in earlier}
  if not init.startswith('@') and paths.path(init).is_dir():
    origin, contrast = load_stages(init)[-1], False
  elif init in names:
    origin = names[init]
  else:
    raise spec.unknown('init', init, ['the folder of a run', *names])
  return origin if contrast else stages_lib.without_contrast(origin)


def load_stages(workdir: str | os.PathLike) -> list[Stage]:
  """Loads the stages of a run, without data.

  What it started from is not asked for: the checkpoints have every tensor, and
  those files may be gone.

  Raises:
    FileNotFoundError: the folder is no run.
  """
  node = saved_lib.load(workdir)
  for name in node['stages']:
    contrast = contrast_lib.without_files(node[name]['contrast'])
    node[name] = dict(node[name], contrast=contrast, perceptual={})
    if not node[name]['init'].startswith('@'):
      node[name]['init'] = ''
  return resolve(node, str(workdir), with_data=False, trained=True)


def _check_test_split(config: Mapping) -> None:
  """Raises ValueError now, rather than when the training has ended."""
  name = config['stages'][-1]
  node = config[name]
  folder = data_dir(config['data_dir'])
  try:
    load_rows(node['data'], node['test_split'], folder, node['conditions'])
  except ValueError as e:
    raise ValueError(f'config.{name}.test_split: {e}') from e


def _stage(
  name: str,
  config: Mapping[str, Any],
  workdir: str,
  earlier: Sequence[Stage],
  saved: str,
  *,
  with_data: bool,
) -> Stage:
  node = dict(config[name])
  record = merged(config['model'], node['model'])
  schema.check_model(record)
  model, weights, tokenizer = network.make(
    record, spec.lookup('dtype', DTYPES, config['dtype']), saved=saved
  )
  model, more, contrast_fn, frozen = contrast_lib.attach(
    node['contrast'], model, node['pp'], tokenizer
  )
  _check_text(model, tokenizer, contrast_fn)
  _check_pp(node, tuple(model.size))
  node['freeze'] = (*node['freeze'], *frozen)
  contrast, stored = contrast_fn is not None, frozenset()
  if node['store']:
    stored = stages_lib.frozen_parts(
      model, node['freeze'], node['pp'], tokenizer, contrast=contrast
    )
  vgg = network.make_features(node['perceptual'], record['backbone'])
  train = scored = None
  rows = node['batch_size']
  if with_data:
    folder = data_dir(config['data_dir'])
    train = section_rows(node, folder)
    scored = section_rows(node, folder, 'eval_split', 'eval_limit')
    rows = batches.count_rows(train, node['rows_per_image'])
  steps, epoch = _length(node, rows)
  cache = config['cache_dir'] or files.on_disk(workdir) / 'cache'
  stage = Stage(
    name=name,
    model=model,
    loss_fn=losses.make_loss(node['loss'], vgg=vgg),
    contrast_fn=contrast_fn,
    make_tx=_make_tx(node, steps, epoch),
    train_source=train,
    eval_source=scored,
    steps=steps,
    epoch=epoch,
    eval_every=max(1, round(node['eval_epochs'] * epoch)),
    protocols=_score_metrics(node['score']),
    origin=_origin(node['init'], earlier, contrast=contrast),
    weights=(*weights, *more),
    tokenizer=tokenizer,
    stored=stored,
    cache_dir=os.path.expanduser(cache),
    **{key: node[key] for key in _AS_WRITTEN},
    **{key: config[key] for key in _OF_RUN},
  )
  contrast_lib.check(stage)
  if with_data:
    ranges.check_rows(node, rows)
  return stage


def _check_text(model: Any, tokenizer: Any, contrast_fn: Any) -> None:
  """Raises ValueError for a text encoder that nothing reads."""
  if tokenizer is None or contrast_fn is not None:
    return
  for key in ('fuse', 'gate'):
    if not getattr(model, key, True):
      raise ValueError(
        f'model.text is a text encoder, but nothing reads it: set model.{key} '
        f'(found {getattr(model, key)!r}), or contrast, or leave model.text '
        "'none'."
      )


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


def _score_metrics(score: str) -> dict[str, list[metrics.BoundMetric]]:
  """Binds the quick metrics of the score's protocol, the score among them."""
  protocol, _, key = score.partition('/')
  spec.lookup('protocol in score', metrics.PROTOCOLS, protocol)
  every = {m.key: m for m in metrics.bind_metrics(protocol)}
  spec.lookup(f'metric of {protocol} in score', every, key)
  quick = (key, 'cc', 'nss', 'sim')
  return {protocol: [m for k, m in every.items() if k in quick]}


def _length(node: Mapping, rows: int) -> tuple[int, int]:
  """Counts (steps of the stage, steps of an epoch)."""
  if bool(node['steps']) == bool(node['epochs']):
    raise ValueError(
      f'set exactly one of steps and epochs; found steps={node["steps"]}, '
      f'epochs={node["epochs"]}.'
    )
  epoch = max(1, rows // node['batch_size'])
  return node['steps'] or max(1, round(node['epochs'] * epoch)), epoch


def _check_pp(node: Mapping, size: tuple[int, ...]) -> None:
  for key in ('pp', 'eval_pp'):
    text = node[key]
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
  if pp.is_random(node['eval_pp']):
    raise ValueError(f'eval_pp must not draw: {node["eval_pp"]!r}.')
  if pp.shrink_factor(node['eval_pp']) > 1:
    raise ValueError(
      f"eval_pp must not shrink: scores are measured at the image's own size; "
      f'found {node["eval_pp"]!r}.'
    )
  targets = losses.targets(node['loss'])
  if 'fixations' in targets and 'rasterize' not in node['pp']:
    raise ValueError(f'loss {node["loss"]!r} needs rasterize in pp.')
