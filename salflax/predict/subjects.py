"""Finished runs and folders of maps as subjects of an evaluation."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from salflax import metrics
from salflax.config import resolve
from salflax.core import paths
from salflax.data import batches
from salflax.evaluate import map_folder
from salflax.evaluate import run as run_lib
from salflax.predict import trained

DEFAULT_PROTOCOLS = ('mit', 'course')


class Subject(NamedTuple):
  """What is evaluated: arguments of `evaluate.run.run`, and where it goes.

  Attributes:
    predictor: see `scorer.maps_of`.
    source: rows to score.
    protocols: names of protocols.
    label: name in tables.
    baselines: training rows for the centre prior; None for none.
    whole: rows of the split in all conditions.
    controls: whether references and other sentences are scored.
    about: head of summary.json.
    folder: folder of the files.
  """

  predictor: Any
  source: Sequence[Any]
  protocols: Sequence[str]
  label: str
  baselines: Sequence[Any] | None
  whole: Sequence[Any]
  controls: bool
  about: dict[str, Any]
  folder: pathlib.Path


def _label(run: trained.Run) -> str:
  """Names a run in tables; seeds go by their setting."""
  workdir = pathlib.Path(run.workdir)
  seeded = workdir.name.startswith('seed')
  return f'{workdir.parent.name}/{workdir.name}' if seeded else workdir.name


def of_run(
  run: trained.Run,
  *,
  data: str = '',
  split: str = '',
  train_split: str = '',
  conditions: Sequence[str] = (),
  protocols: Sequence[str] = (),
  controls: bool | None = None,
  store: bool = False,
  seed: int = 0,
  data_dir: str = '',
) -> Subject:
  """Makes a finished run the subject of an evaluation.

  What is left out is as in the run's config; what differs names the folder.

  Args:
    run: see `trained.load`.
    data, split, conditions: rows to score.
    train_split: split for the centre prior; 'none' for no prior.
    protocols: names of protocols.
    controls: whether references and other sentences are scored.
    store: whether features of frozen parts are stored.
    seed: seed of the exchange of sentences.
    data_dir: where prepared data sets are.
  """
  asked, section, label = run.config['evaluate'], run.section, _label(run)
  usual = metrics.split_protocols(asked['protocols']) or [*DEFAULT_PROTOCOLS]
  with_controls = asked['controls'] if controls is None else controls
  names, part = data or section['data'], split or section['test_split']
  source = run.load_source(data, split, conditions, data_dir)
  where = resolve.data_dir(data_dir or run.config['data_dir'])
  # The centre bias is that of the images scored, wherever the model learnt.
  limit = 0 if data or train_split else section['limit']
  train = train_split or section['split']
  name = run_lib.folder_name(
    data,
    stage='' if run.stage.name == run.config['stages'][-1] else run.stage.name,
    split=split,
    conditions=conditions,
    protocols=protocols if list(protocols) != usual else (),
    train_split=train_split,
    controls='' if with_controls == asked['controls'] else with_controls,
    seed=seed or '',
  )
  own = () if data else section['conditions']
  rows = {'data': names, 'split': part, 'conditions': tuple(conditions) or own}
  rows['trained_on'] = run.trained_on(names, source, data_dir)
  return Subject(
    predictor=run.predictor(store=store),
    source=source,
    protocols=protocols or usual,
    label=label,
    baselines=_baselines(names, train, where, limit=limit),
    whole=resolve.load_rows(names, part, where),
    controls=with_controls,
    about={'run': label, 'stage': run.stage.name, 'step': run.at} | rows,
    folder=paths.path(run.workdir) / 'evaluate' / name,
  )


def _baselines(data, split, folder, *, limit=0):
  """Opens the rows of the centre prior; None for the split 'none'."""
  if split == 'none':
    return None
  return resolve.load_rows(data, split, folder, limit=limit)


def of_maps(
  maps: str | os.PathLike,
  *,
  data: str,
  split: str = 'test',
  train_split: str = 'train',
  conditions: Sequence[str] = (),
  protocols: Sequence[str] = (),
  controls: bool = False,
  partial: bool = False,
  threads: int | None = None,
  data_dir: str = '',
) -> tuple[Subject, list[str]]:
  """Makes a folder of maps the subject of an evaluation; with notes.

  Args:
    maps: folder of the maps: see `evaluate.map_folder`.
    data, split, conditions: rows that they are maps of.
    train_split: split for the centre prior; 'none' for no prior.
    protocols: names of protocols.
    controls: whether references are scored.
    partial: whether usable maps are scored where others are missing or broken.
    threads: threads that read maps.
    data_dir: folder of prepared data sets.

  Raises:
    FileNotFoundError: there is no such folder, or no map in it.
    ValueError: maps are missing or broken, named each.
  """
  folder = pathlib.Path(os.path.abspath(maps))
  where = resolve.data_dir(data_dir)
  source = resolve.load_rows(data, split, where, conditions)
  good, notes = _usable(folder, source, partial=partial, threads=threads)
  name = run_lib.folder_name(
    f'{folder.name}-scores-{data}',
    split='' if split == 'test' else split,
    conditions=conditions,
    protocols=protocols,
    train_split='' if train_split == 'train' else train_split,
    controls=controls or '',
  )
  subject = Subject(
    predictor=map_folder.MapFolder(dict(enumerate(good.values()))),
    source=batches.Rows(source, list(good)),
    protocols=protocols or DEFAULT_PROTOCOLS,
    label=folder.name,
    baselines=_baselines(data, train_split, where),
    whole=resolve.load_rows(data, split, where),
    controls=controls,
    about={
      'maps': folder.name,
      'scored': len(good),
      'rows': len(source),
      'data': data,
      'split': split,
      'conditions': conditions,
    },
    folder=folder.with_name(name),
  )
  return subject, notes


def _usable(folder, source, *, partial, threads):
  """Matches maps with rows: {row: path of its map}, and notes."""
  matched = map_folder.match(folder, source)
  checked = map_folder.check(matched, source, threads=threads)
  faults = map_folder.faults(matched, checked)
  good = {
    index: path
    for index, path in matched.paths.items()
    if index not in checked.unusable
  }
  if faults and not (partial and good):
    raise ValueError(
      '\n  '.join([f'{folder}: these maps cannot be scored:', *faults])
      + ('\nMend them, or give --partial to score the others.' if good else '')
    )
  return good, map_folder.notes(matched, checked) + faults
