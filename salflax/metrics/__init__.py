"""Scores of a predicted saliency map, one picture at a time, in float64.

A metric is a function of one prediction f64 [h, w] >= 0, at the picture's own
size and of any scale, and of the parts of the ground truth that it names. What
it computes by default and every option is in docs/metrics.md.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from salflax.core import spec
from salflax.core.types import GroundTruth
from salflax.metrics import course, distribution, location, salicon
from salflax.metrics.arrays import as_map
from salflax.metrics.statistics import Paired, interval, paired

__all__ = [
  'METRICS',
  'PROTOCOLS',
  'BoundMetric',
  'Metric',
  'Paired',
  'bind_metrics',
  'bind_protocols',
  'image_rng',
  'interval',
  'paired',
  'score',
]


class Metric(NamedTuple):
  """A score of one picture.

  Attributes:
    fn: `fn(pred [h, w], *needed, **options) -> float`.
    needs: fields of GroundTruth in order, and 'rng' for a numpy Generator.
    label: as printed in tables, e.g. 'AUC-J'.
    higher_is_better: direction.
  """

  fn: Callable[..., float]
  needs: tuple[str, ...]
  label: str
  higher_is_better: bool


class BoundMetric(NamedTuple):
  """A metric with its options filled in.

  Attributes:
    key: name in rows of results, e.g. 'auc_judd'.
    fn: `fn(pred [h, w], *needed) -> float`.
    needs: as in Metric.
    label: as in Metric.
    higher_is_better: as in Metric.
    text: the spec as written, e.g. 'sim(minmax=True)'.
  """

  key: str
  fn: Callable[..., float]
  needs: tuple[str, ...]
  label: str
  higher_is_better: bool
  text: str


_FIXED = ('fixations',)
_MAP = ('saliency',)
_OTHERS = ('fixations', 'other_fixations')

METRICS = {
  'auc': Metric(location.auc, _FIXED, 'AUC', True),
  'auc_nonfixated': Metric(location.auc_nonfixated, _FIXED, 'AUC-nf', True),
  'auc_judd': Metric(location.auc_judd, (*_FIXED, 'rng'), 'AUC-J', True),
  'auc_borji': Metric(location.auc_borji, (*_FIXED, 'rng'), 'AUC-B', True),
  'auc_shuffled': Metric(
    location.auc_shuffled, (*_OTHERS, 'rng'), 'sAUC', True
  ),
  'nss': Metric(location.nss, _FIXED, 'NSS', True),
  'ig': Metric(location.ig, (*_FIXED, 'baseline'), 'IG', True),
  'cc': Metric(distribution.cc, _MAP, 'CC', True),
  'sim': Metric(distribution.sim, _MAP, 'SIM', True),
  'kl': Metric(distribution.kl, _MAP, 'KL', False),
  'emd': Metric(distribution.emd, _MAP, 'EMD', False),
  'salicon_auc': Metric(
    salicon.salicon_auc, (*_FIXED, 'rng'), 'AUC-SALICON', True
  ),
  'salicon_sauc': Metric(salicon.salicon_sauc, _OTHERS, 'sAUC-SALICON', True),
  'salicon_cc': Metric(salicon.salicon_cc, _FIXED, 'CC-SALICON', True),
  'course_auc': Metric(course.course_auc, _MAP, 'AUC80', True),
  'course_sauc': Metric(course.course_sauc, (*_MAP, 'rng'), 'sAUC80', True),
  'course_cc': Metric(course.course_cc, _MAP, 'CC (course)', True),
  'course_nss': Metric(course.course_nss, _FIXED, 'NSS (course)', True),
  'course_sim': Metric(course.course_sim, _MAP, 'SIM (course)', True),
}

PROTOCOLS = {
  'mit': (
    'auc_judd|auc_borji|auc_shuffled|nss(ddof=1, unique=True)|cc'
    '|sim(minmax=True)|kl|ig(minmax=True, unique=True)'
  ),
  'tuebingen': (
    'auc|auc_shuffled(exact=True)|nss|cc|sim|kl(eps=2.2204e-16)'
    '|ig(eps=2.2204e-16)'
  ),
  'salicon': 'salicon_auc|salicon_sauc|nss|salicon_cc',
  'course': 'course_auc|course_sauc|course_cc|course_nss',
}


def bind_metrics(text: str) -> list[BoundMetric]:
  """Returns the metrics of a protocol or a spec string, checked.

  Args:
    text: `'mit'`, `'cc|nss|sim(minmax=True)'`, or both: `'mit|emd'`.

  Raises:
    ValueError: for an unknown metric, protocol or option, naming the nearest,
      and for a metric given twice, which would need two names in a row.
    ImportError: for emd where POT is not installed.
  """
  parts = []
  for part in spec.split_chain(text):
    parts += spec.split_chain(PROTOCOLS.get(part, part))
  bound = []
  for part in parts:
    name = spec.parse(part).name
    entry = spec.lookup('metric or protocol', {**PROTOCOLS, **METRICS}, name)
    if not isinstance(entry, Metric):
      raise ValueError(
        f'{name!r} is a protocol and takes no options: {part!r}.'
      )
    fn = spec.bind(METRICS, part, takes=1 + len(entry.needs), kind='metric')
    bound.append(BoundMetric(name, fn, *entry[1:], text=part))
  keys = [b.key for b in bound]
  if twice := sorted({k for k in keys if keys.count(k) > 1}):
    raise ValueError(f'{text!r} has a metric twice: {", ".join(twice)}.')
  if 'emd' in keys:  # else a run would stop at its first evaluation
    distribution.require_solver()
  return bound


def bind_protocols(names: Iterable[str]) -> dict[str, list[BoundMetric]]:
  """Returns bound metrics by protocol: `{'mit': ...}`.

  Args:
    names: of protocols, empty ones left out; `'mit|emd'` adds a metric to one,
      under the protocol's name.

  Raises:
    ValueError: for an unknown protocol, metric or option, naming the nearest.
    ImportError: for emd where POT is not installed.
  """
  found = {}
  for text in filter(None, map(str.strip, names)):
    name = text.partition('|')[0].strip()
    spec.lookup('protocol', PROTOCOLS, name)
    found[name] = bind_metrics(text)
  return found


def image_rng(image_id: str | int, seed: int = 0) -> np.random.Generator:
  """Returns a generator that depends on the picture and the seed alone.

  Args:
    image_id: as in the data set; 7 and '7' are the same picture.
    seed: of the run, >= 0.
  """
  digest = hashlib.sha256(str(image_id).encode()).digest()
  return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])


def _check(pred: np.ndarray, truth: GroundTruth) -> np.ndarray:
  """Returns the prediction as f64 [h, w], or raises ValueError."""
  pred = as_map(pred)
  maps = {'prediction': pred}
  for name in ('saliency', 'baseline'):
    if (value := getattr(truth, name)) is not None:
      maps[name] = as_map(value, name)
  for name, value in maps.items():
    if value.shape != pred.shape:
      raise ValueError(
        f'The prediction is {pred.shape} but the {name} map {value.shape}: '
        "resize the prediction to the picture's own size first."
      )
    if (low := value.min()) < 0:
      raise ValueError(f'The {name} map has negative values, down to {low:g}.')
  return pred


def score(
  pred: np.ndarray,
  truth: GroundTruth,
  metrics: Sequence[BoundMetric],
  rng: np.random.Generator | None = None,
) -> dict[str, float]:
  """Returns the scores of one picture by key.

  A score is NaN only where the truth lacks what the metric needs: the field is
  None, there is no fixation, or the map is zero everywhere (the metrics'
  docstrings name the rest). Each metric that draws gets a generator of its own,
  so that its score does not depend on which others are asked for.

  Args:
    pred: f64 [h, w], finite and >= 0, at the picture's own size, any scale.
    truth: what people did on this picture.
    metrics: from `bind_metrics`.
    rng: from `image_rng`; needed where a metric draws.

  Raises:
    ValueError: for a prediction that is negative, not finite or of another size
      than the truth, for fixations outside it, and where a metric draws but
      `rng` is None.
  """
  pred = _check(pred, truth)
  entropy = None if rng is None else int(rng.integers(2**63))
  scores = {}
  for metric in metrics:
    needed = []
    for name in metric.needs:
      if name != 'rng':
        needed.append(getattr(truth, name))
      elif entropy is None:
        needed.append(None)
      else:
        own = [entropy, zlib.crc32(metric.key.encode())]
        needed.append(np.random.default_rng(own))
    lacking = any(
      value is None and name != 'rng'
      for name, value in zip(metric.needs, needed)
    )
    scores[metric.key] = float('nan') if lacking else metric.fn(pred, *needed)
  return scores
