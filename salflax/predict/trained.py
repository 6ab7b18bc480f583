"""A finished run: its network with the best weights, and its data."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from salflax.config import resolve as config_lib
from salflax.config import saved
from salflax.core import files, parallel, paths, spec
from salflax.core.types import Example
from salflax.data import batches
from salflax.predict import programs, released
from salflax.train import checkpoint, step
from salflax.train import stage as stages_lib
from salflax.train.predictor import StagePredictor


class Run(NamedTuple):
  """A trained network and how its data is read.

  Attributes:
    workdir: folder of the run.
    config: config as plain dicts.
    stage: stage whose weights these are.
    variables: variables of its best checkpoint.
    at: step of that checkpoint.
  """

  workdir: str
  config: Mapping[str, Any]
  stage: stages_lib.Stage
  variables: step.Variables
  at: int

  @property
  def section(self) -> Mapping[str, Any]:
    """The stage's section of the config."""
    return self.config[self.stage.name]

  def predictor(
    self, *, store: bool = False, quick: bool = False
  ) -> StagePredictor:
    """Makes a predictor of the run.

    Args:
      store: whether rows of a source take stored features, which are kept in
        the run's cache.
      quick: whether the network's program is kept on the disk, so that other
        processes start quickly; for one device.
    """
    mesh = parallel.make_mesh()
    result = StagePredictor(self.stage, self.variables, mesh, store=store)
    if quick and mesh.size == 1:
      what = self.stage.model, sorted(self.stage.stored)
      result = result.replace(_predict=programs.kept(result._predict, what))
    return result

  def load_source(
    self,
    data: str = '',
    split: str = '',
    conditions: Sequence[str] = (),
    data_dir: str = '',
  ) -> Sequence[Example]:
    """Loads rows; what is left out is as in the stage's test split."""
    own = not data and not split
    return config_lib.load_rows(
      data or self.section['data'],
      split or self.section['test_split'],
      config_lib.data_dir(data_dir or self.config['data_dir']),
      conditions or (() if data else self.section['conditions']),
      limit=self.section['test_limit'] if own else 0,
    )

  def trained_on(
    self, data: str, source: Sequence[Example], data_dir: str = ''
  ) -> int:
    """Counts the images of a source that some stage was trained on.

    Stages of the run that this one started from count too.

    Args:
      data: data sets of the source, joined by '+'.
      source: rows.
      data_dir: folder of prepared data sets.
    """
    folder = config_lib.data_dir(data_dir or self.config['data_dir'])
    scored = dict.fromkeys(_images(data, source))
    seen = set()
    config = saved.with_origins(self.config)
    for section in (config[name] for name in config['stages']):
      try:
        rows = config_lib.section_rows(section, folder)
      except FileNotFoundError:  # prepared where it was trained, not here
        continue
      seen.update(_images(section['data'], rows))
    return sum(image in seen for image in scored)


def _images(data: str, source: Sequence[Example]) -> Iterator[tuple[str, str]]:
  """Yields (data set, image id) of each row."""
  names = [name.strip() for name in data.split('+')]
  for index in range(len(source)):
    meta = batches.meta(source, index)
    yield meta.get('joined', names[0]), meta['image_id']


def load(workdir: str | os.PathLike, *, stage: str = '') -> Run:
  """Loads a run with the best weights of a stage, by default of the last.

  Reads no data set: a network can predict where its data is not.

  Args:
    workdir: folder of a run, or of a released model, which has one stage.
    stage: name of the stage.

  Raises:
    FileNotFoundError: the folder is no run, the stage has no checkpoint, or a
      pip package with weights is not installed.
    ValueError: the run has no stage of that name, or a released model's file
      has another checksum.
  """
  workdir = paths.absolute(workdir)
  if released.is_folder(workdir):
    workdir = str(files.local_copy(workdir))
    released.read_about(workdir)  # before what it says is used
  config = saved.load(workdir)
  by_name = {s.name: s for s in config_lib.load_stages(workdir)}
  name = stage or [*by_name][-1]
  if name not in by_name:
    raise spec.unknown('stage', name, by_name)
  chosen = stages_lib.without_contrast(by_name[name])
  if released.is_folder(workdir):
    return Run(workdir, config, *released.read(workdir, chosen))
  variables, at = checkpoint.load_variables(
    os.path.join(workdir, name, 'checkpoints'),
    stages_lib.abstract_state(chosen),
    parallel.make_mesh(),
    higher_is_better=chosen.score_metric().higher_is_better,
  )
  return Run(workdir, config, chosen, variables, at)
