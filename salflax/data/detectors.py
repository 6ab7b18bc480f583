"""Fixations in the samples of an eye tracker, detected by pymovements.

A detector takes positions f64 [N, 2] in pixels, without gaps, and the
milliseconds from one sample to the next, and lists the first and last sample
of each fixation, i64 [F, 2].
"""

from collections.abc import Callable

import numpy as np

from salflax.core import spec

_INSTALL = (
  'Detecting fixations needs pymovements: pip install "salflax[samples]", or '
  'pip install pymovements.'
)
# A stretch of samples ends where the tracker was silent for so long.
MAX_GAP = 3.0  # times the usual interval
HERTZ = 5.0, 10_000.0
Detector = Callable[[np.ndarray, float], np.ndarray]


def _library():
  try:
    from pymovements import events
  except ImportError as e:
    raise ImportError(_INSTALL) from e
  return events


def _in_samples(duration: float, interval: float) -> int:
  spec.check_number('duration', duration, 0, 10_000, above=True)
  return max(2, round(duration / interval))


def _detected(name, values, least, **options) -> np.ndarray:
  detect = getattr(_library(), name)
  frame = detect(values, minimum_duration=least, **options).frame
  return np.stack([frame['onset'].to_numpy(), frame['offset'].to_numpy()], 1)


def idt(
  positions: np.ndarray,
  interval: float,
  *,
  dispersion: float = 35.0,
  duration: float = 100.0,
) -> np.ndarray:
  """Detects stretches that stay together (I-DT, Salvucci and Goldberg, 2000).

  Args:
    positions: f64 [N, 2] in pixels.
    interval: milliseconds from sample to sample.
    dispersion: greatest width plus height of a fixation, in pixels.
    duration: least duration in milliseconds.
  """
  spec.check_number('idt: dispersion', dispersion, 0, 1e6, above=True)
  least = _in_samples(duration, interval)
  return _detected('idt', positions, least, dispersion_threshold=dispersion)


def ivt(
  positions: np.ndarray,
  interval: float,
  *,
  speed: float = 1050.0,
  duration: float = 100.0,
) -> np.ndarray:
  """Detects stretches that are slow (I-VT, Salvucci and Goldberg, 2000).

  Args:
    positions: f64 [N, 2] in pixels.
    interval: milliseconds from sample to sample.
    speed: what a fixation stays below, in pixels a second: 30 degrees, of 35
      pixels each.
    duration: least duration in milliseconds.
  """
  spec.check_number('ivt: speed', speed, 0, 1e9, above=True)
  velocities = np.gradient(positions, interval / 1000, axis=0)
  least = _in_samples(duration, interval) - 1
  return _detected('ivt', velocities, least, velocity_threshold=speed)


DETECTORS = {'idt': idt, 'ivt': ivt}


def build(text: str) -> Detector:
  """Builds the detector of `'idt(dispersion=50)'`.

  Raises:
    ValueError: for an unknown name or option.
    ImportError: where pymovements is missing; it has the command.
  """
  detector = spec.bind(DETECTORS, text, takes=2, kind='detector')
  _library()
  detector(np.zeros((8, 2)), 20.0)  # options out of range
  return detector


def _stretches(positions: np.ndarray, times: np.ndarray, gap: float):
  """Yields the slices without a lost sample, a gap or a step back in time."""
  lost = ~np.isfinite(positions).all(axis=1)
  steps = np.diff(times)
  cuts = np.flatnonzero((steps <= 0) | (steps > gap) | np.diff(lost)) + 1
  for start, end in zip([0, *cuts], [*cuts, len(times)]):
    if end - start >= 3 and not lost[start]:
      yield slice(start, end)


def usual_interval(times: np.ndarray) -> float:
  """Takes the median of the steps forward, in milliseconds.

  Raises:
    ValueError: where it is the interval of no eye tracker.
  """
  steps = np.diff(times)
  steps = steps[steps > 0]
  interval = float(np.median(steps)) if len(steps) else 0.0
  if not 1000 / HERTZ[1] <= interval <= 1000 / HERTZ[0]:
    raise ValueError(
      f'samples are {interval:.4g} ms apart, which no eye tracker records '
      f'({HERTZ[0]:g} to {HERTZ[1]:g} a second): --time says in what unit '
      'times are'
    )
  return interval


def detect(
  positions: np.ndarray,
  times: np.ndarray,
  detector: Detector,
  interval: float,
) -> np.ndarray:
  """Detects the fixations of one recording, f64 [F, 2], at their means.

  Args:
    positions: f64 [N, 2] in pixels; not finite where the eye was lost.
    times: f64 [N] in milliseconds; where they step back another view begins.
    detector: see `build`.
    interval: milliseconds from sample to sample.
  """
  means = [
    positions[part][first : last + 1].mean(axis=0)
    for part in _stretches(positions, times, MAX_GAP * interval)
    for first, last in detector(positions[part], interval)
  ]
  return np.reshape(means, (-1, 2))
