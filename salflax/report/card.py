"""Model cards: Markdown with the head that the Hugging Face Hub reads."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from salflax import data
from salflax.core import files, paths
from salflax.evaluate import rows as rows_lib
from salflax.report import page, tables

# Licences of published weights, by a part of their name.
WEIGHTS = {
  'efficientnet-lite': 'Apache-2.0',
  'minilm': 'Apache-2.0',
  'bert-base-uncased': 'Apache-2.0',
  'blip': 'BSD-3-Clause',
}
METRICS = ('cc', 'nss')
KINDS = ('summary.json', '.csv', '.md', 'a folder of salflax evaluate')


def score_tables(path: str | os.PathLike) -> list[str]:
  """Reads tables for a card, as Markdown.

  Args:
    path: folder of an evaluation, its summary.json or per_image.csv: CC and
      NSS with intervals, references, controls, paired tests. Any other .csv,
      and .md, as they are.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is of another kind.
  """
  path = paths.path(path)
  if path.is_dir():
    path = path / 'summary.json'
  elif path.name.startswith('per_image') and path.suffix == '.csv':
    path = path.with_name('summary.json')
  if not path.is_file():
    raise FileNotFoundError(f'No scores: {path}')
  if path.suffix == '.md':
    return [path.read_text('utf-8').strip()]
  if path.suffix == '.csv':
    with path.open(encoding='utf-8-sig', newline='') as f:
      head, *lines = [line for line in csv.reader(f) if line]
    return [tables.Table(path.stem, head, lines).markdown()]
  result = files.read_json(path) if path.suffix == '.json' else {}
  if not {'scores', 'protocols'} <= set(result):
    raise ValueError(
      f'{path} has no scores of salflax evaluate; allowed: {", ".join(KINDS)}.'
    )
  return [t.markdown() for t in _tables(result)]


def _tables(result: Mapping[str, Any]) -> list[tables.Table]:
  """Makes the tables of CC and NSS under the first protocol."""
  name = 'mit' if 'mit' in result['protocols'] else [*result['protocols']][0]
  about = result['protocols'][name]
  metrics = {k: v for k, v in about['metrics'].items() if k in METRICS}
  metrics = metrics or about['metrics']
  short = dict(result, protocols={name: dict(about, metrics=metrics)})
  return tables.score_tables(short) + tables.paired_tables(short)


def write(
  folder: str | os.PathLike,
  config: Mapping[str, Any],
  scores: Sequence[str],
  *,
  name: str,
  members: int = 1,
  packages: Sequence[str] = (),
) -> None:
  """Writes README.md, the card of a run or of a released model.

  Args:
    folder: its folder.
    config: config of the run.
    scores: tables, as Markdown.
    name: name of the model.
    members: runs whose maps are averaged.
    packages: pip packages that have the rest of its weights.
  """
  sets = {name: _data_set(name) for name in _data_sets(config)}
  text = page.render(
    'card.md',
    head=_head(name, [*sets]),
    name=name,
    packages=packages,
    stages=_stages(config),
    sets=sets,
    weights=_weights(config['model']),
    last=config[config['stages'][-1]],
    members=members,
    scores=scores,
    versions=rows_lib.versions(),
    config=config,
    json=json.dumps(config, indent=1),
  )
  files.write_text(paths.path(folder) / 'README.md', text + '\n')


def _data_sets(config: Mapping[str, Any]) -> list[str]:
  names = [config[k]['data'].split('+') for k in config['stages']]
  return list(dict.fromkeys(n.strip() for part in names for n in part))


def _data_set(name: str) -> tuple[str, str]:
  """Describes a data set, and names its licence."""
  if name in data.GENERATED:
    return 'scenes that salflax draws', 'Apache-2.0'
  if name not in data.DATASETS:
    return '', "its owner's"
  dataset = data.DATASETS[name]()
  return dataset.summary.rstrip('.'), dataset.licence.rstrip('.')


def _head(name: str, names: Sequence[str]) -> str:
  import huggingface_hub

  # Nothing else would warn those who find the model on the Hub.
  licence = {'license': 'apache-2.0'}
  if names != ['scenes']:
    licence = {'license': 'other', 'license_name': 'research-use'}
  head = huggingface_hub.ModelCardData(
    **licence,
    language='en',
    library_name='salflax',
    model_name=name,
    tags=['saliency', 'text-guided-saliency', 'eye-tracking', 'jax', 'flax'],
    datasets=names,
    metrics=list(METRICS),
  )
  return head.to_yaml()


def _stages(config: Mapping[str, Any]) -> tables.Table:
  head = ('Stage', 'Data', 'Trained on', 'Checkpoint by', 'Conditions')
  rows = []
  for stage in config['stages']:
    node = config[stage]
    split = node['split'] + (f', {node["limit"]} rows' if node['limit'] else '')
    split += f', without {node["exclude"]}' if node['exclude'] else ''
    chosen = f'{node["score"]} on {node["eval_split"]}'
    conditions = ', '.join(node['conditions']) or 'all'
    rows.append((stage, node['data'], split, chosen, conditions))
  return tables.Table('Stages of training', head, rows)


def _weights(model: Mapping[str, Any]) -> dict[str, str]:
  """Names the licences of the published weights of a network."""
  result = {}
  for part in ('backbone', 'text'):
    if weights := str(model[part].get('weights', '')):
      licences = [v for k, v in WEIGHTS.items() if k in weights.lower()]
      result[weights] = (licences or ["its publisher's"])[0]
  if 'things' in model.get('levels', ()):
    result['NanoDet, of salflax; trained on COCO'] = 'Apache-2.0'
  return result
