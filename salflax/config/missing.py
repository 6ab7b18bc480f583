"""All that a config needs and this machine lacks, with what brings it."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

from salflax import data as datasets
from salflax import metrics
from salflax.config import network
from salflax.config.schema import merged
from salflax.core import hub, paths
from salflax.models.weights import pretrained


def check(config: Mapping[str, Any]) -> None:
  """Raises FileNotFoundError that lists everything missing, if anything is."""
  if texts := collect(config):
    raise FileNotFoundError(
      '\n'.join([f'{len(texts)} missing:', *(f'* {t}' for t in texts)])
    )


def collect(config: Mapping[str, Any]) -> list[str]:
  """Lists every missing data set, weight, run and package, in lines.

  Args:
    config: plain dicts and tuples that `schema.check` has passed. Names that
      are wrong are left to `resolve`.
  """
  texts = []
  lookups = {what: call for what, *call in _lookups(config)}
  for what, (lookup, *arguments) in lookups.items():
    try:
      lookup(*arguments)
    except (FileNotFoundError, ImportError) as e:
      texts.append(f'{what}: {e}')
    except ValueError:
      continue
  return texts


def _lookups(config) -> Iterator[tuple]:
  """Yields each thing needed, with a call that raises where it is not there."""
  folder = config['data_dir'] or datasets.default_data_dir()
  for name in config['stages']:
    node = config[name]
    for part in map(str.strip, node['data'].split('+')):
      if part.partition(':')[0] not in datasets.GENERATED:
        yield f'data set {part}', datasets.load_source, part, 'all', folder
    if '/' in node['init'] and not node['init'].startswith('@'):
      yield f'run {node["init"]}', _find_run, name, node['init']
    record = merged(config['model'], node['model'])
    for key, source, files in _weights(record, node):
      find = functools.partial(hub.locate, files=files)
      yield f'{key}={source}', find, source
  protocols = config['evaluate']['protocols']
  yield 'package', metrics.bind_protocols, protocols


def _weights(record, node) -> Iterator[tuple[str, str, tuple[str, ...]]]:
  """Yields key and value of weights, with the names of files that would do."""
  backbone, text = network.BACKBONE_FILES, pretrained.WEIGHT_FILES
  for key, part, files in (
    ('model.weights', record, network.WHOLE_FILES),
    ('model.backbone.weights', record.get('backbone'), backbone),
    ('model.text.weights', record.get('text'), text),
    ('contrast.vision.weights', node['contrast'].get('vision'), backbone),
    ('perceptual.weights', node['perceptual'], backbone),
  ):
    source = part.get('weights') if isinstance(part, Mapping) else ''
    unused = key == 'model.text.weights' and part.get('name') in (None, 'none')
    if source and isinstance(source, str) and source[0] != '@' and not unused:
      yield key, source, files


def _find_run(stage: str, folder: str) -> None:
  if not paths.path(folder).is_dir():
    raise FileNotFoundError(
      f'config.{stage}.init starts from it, and there is no such folder. '
      f'Train it first: salflax train --config=... --workdir={folder}'
    )
