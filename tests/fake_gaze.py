"""Tiny raw folders of the free-viewing datasets, in their published layouts."""

import pathlib

import fake_data
import numpy as np
import scipy.io
from PIL import Image

SIZE = fake_data.SIZE


def salicon_mat(
  path: pathlib.Path,
  observers: list[np.ndarray],
  *,
  samples: int = 7,
  size=SIZE,
) -> None:
  """Writes a file of fixations of SALICON's challenges.

  Args:
    path: the file.
    observers: the fixations of each, [N, 2], x and y from 1.
    samples: mouse positions of each observer.
    size: height and width that the file states.
  """
  gaze = np.zeros(
    (len(observers), 1),
    [('location', 'O'), ('timestamp', 'O'), ('fixations', 'O')],
  )
  for i, fixations in enumerate(observers):
    gaze[i, 0]['location'] = np.full((samples, 2), 4.0)
    gaze[i, 0]['timestamp'] = np.arange(samples)[:, None] * 10.0
    gaze[i, 0]['fixations'] = np.asarray(fixations, np.uint16).reshape(-1, 2)
  content = {'image': path.stem, 'resolution': np.array([size]), 'gaze': gaze}
  path.parent.mkdir(parents=True, exist_ok=True)
  scipy.io.savemat(path, content, do_compression=True)


def salicon(
  root: pathlib.Path,
  *,
  train: int = 3,
  val: int = 2,
  maps: bool = True,
  fixations: str = '.mat',
  samples: int = 7,
) -> pathlib.Path:
  """Writes images of training and validation with maps and fixations.

  Args:
    root: the folder.
    train: training images, COCO_train2014_000000000000 and so on.
    val: validation images.
    maps: write maps/, too.
    fixations: '.mat', or the ending of two-valued images.
    samples: mouse positions of each of the three observers.
  """
  rng = np.random.default_rng(5)
  for part, count in (('train', train), ('val', val)):
    for i in range(count):
      name = f'COCO_{part}2014_{i:012d}'
      pixels = fake_data.image(rng)
      fake_data.save(root / 'images' / part / f'{name}.jpg', pixels)
      points, saliency = fake_data.gaze(rng)
      if maps:
        fake_data.save(root / 'maps' / part / f'{name}.png', saliency)
      path = root / 'fixations' / part / f'{name}{fixations}'
      if fixations == '.mat':
        observers = [np.array([[1, 1], [32, 24]]), [], np.array([[5, 7]])]
        salicon_mat(path, observers, samples=samples)
      else:
        fake_data.save(path, points[..., 0])
  return root


def points_of(size=SIZE) -> np.ndarray:
  """Lists fixated pixels [4, 2] of the fake MIT1003, (row, column)."""
  height, width = size
  return np.array([[0, 0], [5, 7], [height - 1, width - 1], [11, 20]])


def mit1003(root: pathlib.Path, names: list[str]) -> pathlib.Path:
  """Writes stimuli and, as JPEG, maps and fixated pixels."""
  rng = np.random.default_rng(6)
  for name in names:
    pixels = fake_data.image(rng)
    fake_data.save(root / 'ALLSTIMULI' / f'{name}.jpeg', pixels)
    points = np.zeros(SIZE, np.uint8)
    points[tuple(points_of().T)] = 255
    folder = root / 'ALLFIXATIONMAPS'
    folder.mkdir(exist_ok=True)
    blurred = np.tile(np.linspace(0, 255, SIZE[1]), (SIZE[0], 1))
    for kind, array in (('fixPts', points), ('fixMap', blurred)):
      path = folder / f'{name}_{kind}.jpg'
      Image.fromarray(array.astype(np.uint8)).save(path, quality=75)
  return root


def recording(path: pathlib.Path, stops: list[tuple], *, rng=None) -> None:
  """Writes what the eye tracker of MIT1003 recorded for one observer.

  Args:
    path: the file, <observer>/<image>.mat.
    stops: x, y and duration in samples at 240 Hz of each fixation; negative
      positions are blinks.
    rng: draws the jitter by half a pixel; none if None.
  """
  track = np.concatenate([np.tile([x, y], (n, 1)) for x, y, n in stops])
  track = track.astype(float)
  if rng is not None:
    track += rng.uniform(-0.5, 0.5, track.shape)
  trial = {'imgName': f'{path.stem}.jpeg', 'DATA': {'eyeData': track}}
  path.parent.mkdir(parents=True, exist_ok=True)
  scipy.io.savemat(path, {path.stem[:63]: trial}, long_field_names=True)


def cat2000(root: pathlib.Path, *, count: int = 3) -> pathlib.Path:
  """Writes trainSet with two categories and their folders Output."""
  rng = np.random.default_rng(7)
  for category in ('Action', 'OutdoorManMade'):
    for i in range(1, count + 1):
      points, saliency = fake_data.gaze(rng)
      base = root / 'trainSet'
      name = f'{category}/{i:03d}'
      pixels = fake_data.image(rng)
      fake_data.save(base / 'Stimuli' / f'{name}.jpg', pixels)
      display = f'{category}/Output/{i:03d}_SaliencyMap.jpg'
      fake_data.save(base / 'Stimuli' / display, pixels)
      fake_data.save(base / 'FIXATIONMAPS' / f'{name}.jpg', saliency)
      path = base / 'FIXATIONLOCS' / f'{name}.mat'
      path.parent.mkdir(parents=True, exist_ok=True)
      locations = (points[..., 0] > 0).astype(np.uint8)
      scipy.io.savemat(path, {'fixLocs': locations})
  return root


def fiwi(root: pathlib.Path, names: list[str]) -> pathlib.Path:
  """Writes pages and their fixated pixels."""
  rng = np.random.default_rng(8)
  for name in names:
    fake_data.save(root / 'stimuli' / f'{name}.png', fake_data.image(rng))
    points, _ = fake_data.gaze(rng)
    path = root / 'eyeMaps' / 'all5' / f'{name}.png'
    fake_data.save(path, points[..., 0])
  return root
