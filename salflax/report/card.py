"""Model cards: Markdown with the head that the Hugging Face Hub reads."""

import csv
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from salflax import data
from salflax.core import files
from salflax.evaluate import rows as rows_lib
from salflax.report import tables

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
  path = pathlib.Path(path)
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
  about = {
    'head': _head(name, config),
    'use': _use(name, packages),
    'Data': _data(config),
    'Protocol': _protocol(config, members),
    'Scores': '\n\n'.join(scores) or 'Not scored.',
    'Text encoder': _text(config),
    'Licences': _licences(config),
    'Versions': _listed(rows_lib.versions()),
    'Config': f'```json\n{json.dumps(config, indent=1)}\n```',
  }
  parts = [about.pop('head'), about.pop('use')]
  parts += [f'## {title}\n\n{text.strip()}\n' for title, text in about.items()]
  files.write_text(pathlib.Path(folder) / 'README.md', '\n'.join(parts))


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


def _head(name: str, config: Mapping[str, Any]) -> str:
  import huggingface_hub

  names = _data_sets(config)
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
  return f'---\n{head.to_yaml()}\n---\n'


def _use(name: str, packages: Sequence[str]) -> str:
  install = f'pip install --no-deps {" ".join(packages)}\n' if packages else ''
  return f"""# {name}

Predicts where people look in an image, given an English sentence that they
read before; an empty sentence is free viewing.

```bash
{install}salflax predict --run=FOLDER street.jpg "the red umbrella"
```

```python
from salflax.predict import Predictor

saliency = Predictor.load('FOLDER')('street.jpg', 'the red umbrella')
```

FOLDER is this folder, or the name of its repository on the Hugging Face Hub.
The map is a float32 array of the image's size, not a density.
"""


def _data(config: Mapping[str, Any]) -> str:
  head = ('Stage', 'Data', 'Trained on', 'Checkpoint by', 'Conditions')
  rows = []
  for stage in config['stages']:
    node = config[stage]
    split = node['split'] + (f', {node["limit"]} rows' if node['limit'] else '')
    split += f', without {node["exclude"]}' if node['exclude'] else ''
    chosen = f'{node["score"]} on {node["eval_split"]}'
    conditions = ', '.join(node['conditions']) or 'all'
    rows.append((stage, node['data'], split, chosen, conditions))
  table = tables.Table('Stages of training', head, rows).markdown()
  sets = {k: _data_set(k) for k in _data_sets(config)}
  editions = {name: about[0] for name, about in sets.items() if about[0]}
  return f'{table}\nEditions:\n\n{_listed(editions)}'


def _protocol(config: Mapping[str, Any], members: int) -> str:
  last = config[config['stages'][-1]]
  protocols = config['evaluate']['protocols'] or 'none'
  many = f' The maps of {members} members are averaged.' if members > 1 else ''
  reported = (
    'No image of the last stage was kept back: the scores are of other '
    'networks of this config, on images that they were not trained on.'
  )
  if last['test_split']:
    reported = (
      f'Reported split: {last["test_split"]} of {last["data"]}; protocols: '
      f'{protocols}.'
    )
  return (
    f'{reported} Scores are means over images at their own size, with 95 % '
    'bootstrap intervals over images. Controls are the same model with another '
    "image's sentence, with the same image's other sentence, and with none: "
    f'what they lose is what the sentence gives.{many}'
  )


def _text(config: Mapping[str, Any]) -> str:
  text = config['model']['text']
  if text.get('name', 'none') == 'none':
    return 'None: the network reads no sentence.'
  return (
    f'{text["weights"]}, for English. A sentence without any word that it has, '
    'or in another script, is refused.'
  )


def _licences(config: Mapping[str, Any]) -> str:
  result = {'salflax': 'Apache-2.0'}
  for name in _data_sets(config):
    result[name] = _data_set(name)[1]
  for part in ('backbone', 'text'):
    if weights := str(config['model'][part].get('weights', '')):
      licences = [v for k, v in WEIGHTS.items() if k in weights.lower()]
      result[weights] = (licences or ["its publisher's"])[0]
  text = _listed(result)
  if 'sjtu_tis' in result:
    text += '\nTrained on SJTU-TIS: these weights are for research use.\n'
  return text


def _listed(items: Mapping[str, str]) -> str:
  return ''.join(f'* {key}: {value}\n' for key, value in items.items())
