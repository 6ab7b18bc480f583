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


def _label(workdir: pathlib.Path) -> str:
  """Names a run in tables; seeds go by their setting."""
  setting = f'{workdir.parent.name}/' if workdir.name.startswith('seed') else ''
  return setting + workdir.name


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

  What is left out is as in the run's config; only what differs from it is in
  the name of the folder, so that no evaluation overwrites another.

  Args:
    run: see `trained.load`.
    data, split: rows to score.
    train_split: split for the centre prior; 'none' for no prior.
    conditions: conditions to score.
    protocols: names of protocols.
    controls: whether references and other sentences are scored.
    store: whether features of frozen parts are stored.
    seed: seed of the exchange of sentences.
    data_dir: folder of prepared data sets.
  """
  asked = run.config['evaluate']
  usual = metrics.split_protocols(asked['protocols']) or [*DEFAULT_PROTOCOLS]
  with_controls = asked['controls'] if controls is None else controls
  source = run.load_source(data, split, conditions, data_dir)
  names, part = data or run.section['data'], split or run.section['test_split']
  folder = resolve.data_dir(data_dir or run.config['data_dir'])
  # The centre bias is that of the images scored, wherever the model learnt.
  own = not data and not train_split
  train = train_split or run.section['split']
  limit = run.section['limit'] if own else 0
  name = run_lib.folder_name(
    data,
    stage=_unless_last(run),
    split=split,
    conditions=conditions,
    protocols=protocols if list(protocols) != usual else (),
    train_split=train_split,
    controls='' if with_controls == asked['controls'] else with_controls,
    seed=seed or '',
  )
  own_conditions = () if data else run.section['conditions']
  return Subject(
    predictor=run.predictor(store=store),
    source=source,
    protocols=protocols or usual,
    label=_label(paths.path(run.workdir)),
    baselines=_baselines(names, train, folder, limit=limit),
    whole=resolve.load_rows(names, part, folder),
    controls=with_controls,
    about=_about(run)
    | {
      'data': names,
      'split': part,
      'conditions': tuple(conditions) or own_conditions,
      'trained_on': run.trained_on(names, source, data_dir),
    },
    folder=paths.path(run.workdir).joinpath('evaluate', name),
  )


def _unless_last(run: trained.Run) -> str:
  last = run.stage.name == run.config['stages'][-1]
  return '' if last else run.stage.name


def _about(run: trained.Run) -> dict[str, Any]:
  label = _label(paths.path(run.workdir))
  return {'run': label, 'stage': run.stage.name, 'step': run.at}


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
    data, split: rows that they are maps of.
    train_split: split for the centre prior; 'none' for no prior.
    conditions: conditions to score.
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
  paths, notes = _usable(folder, source, partial=partial, threads=threads)
  name = run_lib.folder_name(
    f'{folder.name}-scores-{data}',
    split='' if split == 'test' else split,
    conditions=conditions,
    protocols=protocols,
    train_split='' if train_split == 'train' else train_split,
    controls=controls or '',
  )
  subject = Subject(
    predictor=map_folder.MapFolder(dict(enumerate(paths.values()))),
    source=batches.Rows(source, list(paths)),
    protocols=protocols or DEFAULT_PROTOCOLS,
    label=folder.name,
    baselines=_baselines(data, train_split, where),
    whole=resolve.load_rows(data, split, where),
    controls=controls,
    about={
      'maps': folder.name,
      'scored': len(paths),
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
  paths = {
    index: path
    for index, path in matched.paths.items()
    if index not in checked.unusable
  }
  if faults and not (partial and paths):
    raise ValueError(
      '\n  '.join([f'{folder}: these maps cannot be scored:', *faults])
      + ('\nMend them, or give --partial to score the others.' if paths else '')
    )
  return paths, map_folder.notes(matched, checked) + faults
