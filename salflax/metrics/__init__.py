"""Scores of a predicted saliency map, one image at a time, in float64.

A metric is a function of one prediction f64 [h, w] >= 0, at the image's own
size, and of the parts of the ground truth that it names. The scale of a map
does not matter, whatever it is. docs/metrics.md has what each metric computes
by default, and its options.
"""

import hashlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from salflax.core import spec
from salflax.core.types import GroundTruth
from salflax.metrics import course, distribution, location, salicon
from salflax.metrics.arrays import Map, as_map
from salflax.metrics.arrays import note as note
from salflax.metrics.statistics import Paired as Paired
from salflax.metrics.statistics import interval as interval
from salflax.metrics.statistics import paired as paired


class Metric(NamedTuple):
  """A score of one image.

  Attributes:
    fn: `fn(pred [h, w], *needed, **options) -> float`.
    needs: fields of GroundTruth in order, and 'rng' for a numpy Generator.
    label: name in tables, e.g. 'AUC-J'.
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


_AT = ('fixations',)
_MAP = ('saliency',)
_OTHERS = ('fixations', 'other_fixations')

METRICS = {
  'auc': Metric(location.auc, _AT, 'AUC', True),
  'auc_nonfixated': Metric(location.auc_nonfixated, _AT, 'AUC-nf', True),
  'auc_judd': Metric(location.auc_judd, (*_AT, 'rng'), 'AUC-J', True),
  'auc_borji': Metric(location.auc_borji, (*_AT, 'rng'), 'AUC-B', True),
  'auc_shuffled': Metric(
    location.auc_shuffled, (*_OTHERS, 'rng'), 'sAUC', True
  ),
  'nss': Metric(location.nss, _AT, 'NSS', True),
  'ig': Metric(location.ig, (*_AT, 'baseline'), 'IG', True),
  'cc': Metric(distribution.cc, _MAP, 'CC', True),
  'sim': Metric(distribution.sim, _MAP, 'SIM', True),
  'kl': Metric(distribution.kl, _MAP, 'KL', False),
  'emd': Metric(distribution.emd, _MAP, 'EMD', False),
  'salicon_auc': Metric(
    salicon.salicon_auc, (*_AT, 'rng'), 'AUC-SALICON', True
  ),
  'salicon_sauc': Metric(salicon.salicon_sauc, _OTHERS, 'sAUC-SALICON', True),
  'salicon_cc': Metric(salicon.salicon_cc, _AT, 'CC-SALICON', True),
  'course_auc': Metric(course.course_auc, _MAP, 'AUC80', True),
  'course_sauc': Metric(course.course_sauc, (*_MAP, 'rng'), 'sAUC80', True),
  'course_cc': Metric(course.course_cc, _MAP, 'CC (course)', True),
  'course_nss': Metric(course.course_nss, _AT, 'NSS (course)', True),
}

_EXAMPLE = GroundTruth(
  np.eye(2), np.zeros((1, 2), int), np.ones((1, 2), int), np.ones((2, 2))
)

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
  """Binds the metrics of a protocol or a spec string.

  Args:
    text: `'mit'`, `'cc|nss|sim(minmax=True)'`, or both: `'mit|emd'`.

  Raises:
    ValueError: for an unknown metric, protocol or option, naming the nearest,
      for an option out of its range, and for a metric named twice, which would
      need two names in a row.
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
    if fn is not entry.fn:  # its options are checked by a first score
      score(np.eye(2), _EXAMPLE, bound[-1:], np.random.default_rng(0))
  keys = [b.key for b in bound]
  if twice := sorted({k for k in keys if keys.count(k) > 1}):
    raise ValueError(f'{text!r} has a metric twice: {", ".join(twice)}.')
  if 'emd' in keys:  # else a run would stop at its first evaluation
    distribution.require_solver()
  return bound


def bind_protocols(names: str | Iterable[str]) -> dict[str, list[BoundMetric]]:
  """Binds metrics by protocol: `{'mit': ...}`.

  Args:
    names: protocols, one string with commas or several, empty ones left out;
      `'mit|emd, course'` adds a metric to one, under the protocol's name.

  Raises:
    ValueError: for an unknown protocol, metric or option, naming the nearest,
      and for a protocol named twice.
    ImportError: for emd where POT is not installed.
  """
  protocols = {}
  for text in split_protocols(names):
    name = text.partition('|')[0].strip()
    spec.lookup('protocol', PROTOCOLS, name)
    if name in protocols:
      raise ValueError(f'The protocol {name!r} is named twice.')
    protocols[name] = bind_metrics(text)
  return protocols


def split_protocols(names: str | Iterable[str]) -> list[str]:
  """Splits a list of protocols at the commas between them.

  Args:
    names: e.g. 'mit|kl(eps=1e-7, floor=0), course', or several such strings.
  """
  texts = [names] if isinstance(names, str) else names
  return [part for text in texts for part in spec.split(text, ',') if part]


def image_rng(image_id: str | int, seed: int = 0) -> np.random.Generator:
  """Makes a generator that depends on the image and the seed alone.

  Args:
    image_id: id in the data set; 7 and '7' are the same image.
    seed: seed of the run, >= 0.
  """
  digest = hashlib.sha256(str(image_id).encode()).digest()
  return np.random.default_rng([seed, *np.frombuffer(digest, np.uint32)])


def _check(pred, truth: GroundTruth) -> tuple[Map, dict[str, Any]]:
  """Checks and scales the prediction and the fields of the truth."""
  pred, fields = as_map(pred, least=0), dict(vars(truth))
  for name in [k for k in ('saliency', 'baseline') if fields[k] is not None]:
    fields[name] = as_map(fields[name], name, least=0)
    if fields[name].shape != pred.shape:
      raise ValueError(
        f'The prediction is {pred.shape} but the {name} map '
        f"{fields[name].shape}: resize the prediction to the image's own size "
        'first.'
      )
  return pred, fields


def score(
  pred: np.ndarray,
  truth: GroundTruth,
  metrics: Sequence[BoundMetric],
  rng: np.random.Generator | None = None,
) -> dict[str, float]:
  """Scores one image.

  A score is NaN only where the truth lacks what the metric needs: the field is
  None, there is no fixation, or the map is zero everywhere (docs/metrics.md has
  the rest). Each metric that draws gets a generator of its own,
  so that its score does not depend on which others are asked for.

  Args:
    pred: f64 [h, w], finite and >= 0, at the image's own size, any scale; or
      what `as_map` made of it, for several calls to share, as the maps of
      `truth` may be, too.
    truth: gaze on this image.
    metrics: metrics from `bind_metrics`.
    rng: generator from `image_rng`; needed where a metric draws.

  Returns:
    Score by key of the metric.

  Raises:
    ValueError: for a prediction that is negative, not finite or of another size
      than the truth, for fixations outside it, and where a metric draws but
      `rng` is None.
  """
  pred, fields = _check(pred, truth)
  entropy = None if rng is None else int(rng.integers(2**63))
  scores = {}
  for metric in metrics:
    needed = []
    for name in metric.needs:
      if name != 'rng':
        needed.append(fields[name])
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
