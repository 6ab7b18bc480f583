"""A finished run: its model with the best weights, and its data."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.config import resolve as config_lib
from salflax.core import parallel
from salflax.core.types import Batch, Example
from salflax.data import batches, pp
from salflax.train import checkpoint, features, step
from salflax.train import stage as stages_lib


class Run(NamedTuple):
  """A trained model and how its data is read.

  Attributes:
    workdir: of the run.
    config: as plain dicts.
    stage: the stage whose weights these are.
    variables: of its best checkpoint.
    at: the step of that checkpoint.
    predict_fn: (variables, batch) -> [B, H, W].
    finish: what turns a preprocessed example into model inputs.
  """

  workdir: str
  config: Mapping[str, Any]
  stage: stages_lib.Stage
  variables: step.Variables
  at: int
  predict_fn: Any
  finish: tuple

  @property
  def protocols(self) -> list[str]:
    """Protocols that the config reports."""
    return self.config['evaluate']['protocols'].split(',')

  @property
  def section(self) -> Mapping[str, Any]:
    """The stage's section of the config."""
    return self.config[self.stage.name]

  def load_source(
    self,
    data: str = '',
    split: str = '',
    conditions: Sequence[str] = (),
    data_dir: str = '',
  ) -> Sequence[Example]:
    """Returns rows; what is not said is as in the stage's test split."""
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
    """Returns how many pictures of a source some stage was trained on.

    Args:
      data: the data set of the source.
      source: the rows.
      data_dir: where prepared data sets are.
    """
    folder = config_lib.data_dir(data_dir or self.config['data_dir'])
    ids = {batches.meta(source, i)['image_id'] for i in range(len(source))}
    seen = set()
    for name in self.config['stages']:
      node = self.config[name]
      if data in (n.strip() for n in node['data'].split('+')):
        rows = config_lib.load_rows(data, node['split'], folder)
        seen |= {batches.meta(rows, i)['image_id'] for i in range(len(rows))}
    return len(ids & seen)

  def eval_batches(
    self, source: Sequence[Example], *, store: bool = False
  ) -> Iterator[Batch]:
    """Yields this process's share of a source, once and in order.

    Args:
      source: the rows.
      store: keeps features of what was frozen in the run's cache; those that
        are there already are not computed.
    """
    finish = self.finish
    if store:
      finish = stages_lib.finishers(
        self.stage, self.variables, source, self.stage.eval_pp
      )
    return batches.eval_batches(
      source,
      pp.make(self.stage.eval_pp),
      batch_size=self.stage.batch_size,
      shard=parallel.shard(),
      finish=finish,
      threads=self.stage.threads,
    )

  def preprocess(self, image: np.ndarray, text: str = '') -> Batch:
    """Returns a batch of one picture u8 [h, w, 3] and one sentence."""
    example = {'image': image, 'text': text, 'condition': '', 'image_id': ''}
    prepare = batches.Prepare(
      [example], pp.make(self.stage.eval_pp), self.finish
    )
    return {k: np.asarray(v)[None] for k, v in prepare(0, None).items()}


def load(workdir: str | os.PathLike, *, stage: str = '') -> Run:
  """Returns a run with the best weights of a stage, by default of the last.

  Reads no data set: a model can predict where its data is not.

  Raises:
    FileNotFoundError: the folder is no run, or the stage has no checkpoint.
    ValueError: the run has no stage of that name.
  """
  workdir = os.path.abspath(workdir)
  config = config_lib.load(workdir)
  by_name = {s.name: s for s in config_lib.load_stages(workdir)}
  name = stage or [*by_name][-1]
  if name not in by_name:
    raise config_lib.spec.unknown('stage', name, by_name)
  found = stages_lib.without_contrast(by_name[name])
  mesh = parallel.make_mesh()
  variables, at = checkpoint.load_variables(
    os.path.join(workdir, name, 'checkpoints'),
    stages_lib.abstract_state(found),
    mesh,
    higher_is_better=found.score_metric().higher_is_better,
  )
  predict = step.make_predict_fn(found.model, mesh, round_taps=found.store_taps)

  def predict_fn(variables, batch):
    inputs = stages_lib.model_keys(batch)
    return predict(variables, parallel.to_global(inputs, mesh))

  finish = (features.Tokenize(found.tokenizer),) if found.tokenizer else ()
  return Run(workdir, config, found, variables, at, predict_fn, finish)
