"""Embedded scenes and their gaze as eye trackers' software exports it."""

import gzip
import pathlib

import numpy as np
from PIL import Image

from salflax.data import scenes

SIZE = (96, 128)  # height, width
SCREEN = (400, 300)  # width, height
OFFSET = np.array([(400 - 128) / 2, (300 - 96) / 2])


class Study:
  """Images, and fixations f64 [N, 2], (x, y), by image and subject.

  Attributes:
    raw: folder with images/.
    gaze: fixations by (image, subject); all lie on the image.
  """

  def __init__(self, raw: pathlib.Path, *, num: int = 3, most: int = 40):
    self.raw, self.gaze = raw, {}
    rng = np.random.default_rng(0)
    source = scenes.load('test', size=SIZE, num=num, conditions=('pure',))
    (raw / 'images').mkdir(parents=True)
    for row in source:
      name = row['image_id']
      Image.fromarray(row['image']).save(raw / 'images' / f'{name}.png')
      xy = row['fixations'][:most, ::-1] + rng.uniform(-0.4, 0.4, (most, 2))
      self.gaze[name, 'P01'], self.gaze[name, 'P02'] = np.split(xy, 2)

  def points(self) -> dict[str, list]:
    """Lists the (row, column) of each image in the order of `gaze`."""
    points = {}
    for (name, _), xy in self.gaze.items():
      rows = np.rint(xy[:, ::-1]).astype(int).tolist()
      points.setdefault(name, []).extend(rows)
    return points

  def write(
    self, name: str, head: str, rows, *, by='\t', comma=False, start=''
  ):
    """Writes a table of rows of cells under a head separated by commas."""
    text = [head.replace(',', by)]
    for row in rows:
      cells = [f'{c:.4f}' if isinstance(c, float) else str(c) for c in row]
      cells = [
        c.replace('.', ',') if comma and _number(c) else c for c in cells
      ]
      text.append(by.join(cells))
    path = self.raw / name
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (start + '\r\n'.join(text) + '\r\n').encode('utf-8')
    path.write_bytes(gzip.compress(content) if name.endswith('gz') else content)


def _number(cell):
  return cell.replace('.', '').replace('-', '').isdigit()


def tobii(study: Study) -> dict:
  """Pro Lab: a row a sample, decimal commas, BOM; saccades and lost eyes."""
  head = 'Recording timestamp [ms],Recording name,Presented Stimulus name,'
  head += 'Eye movement type,Eye movement type index,Fixation point X [DACS px]'
  head += ',Fixation point Y [DACS px],Gaze point X,Gaze point Y'
  rows = [[0, 'P01', 'Eyetracker Calibration', 'Fixation', 1, 5.0, 5.0, 1, 1]]
  rows += [[5, 'P01', '', 'Fixation', 2, 5.0, 5.0, 1, 1]]
  index = 3
  for (name, subject), xy in study.gaze.items():
    for x, y in xy:
      at = [subject, f'{name}.png']
      rows += [[index * 9, *at, 'Fixation', index, x, y, 1, 1]] * 2
      rows += [[index * 9, *at, 'Saccade', index, '', '', 1, 1]]
      rows += [[index * 9, *at, 'EyesNotFound', index, '', '', '', '']]
      index += 1
  study.write('data.tsv', head, rows, comma=True, start='\ufeff')
  return dict(tracker='tobii')


def eyelink(study: Study) -> dict:
  """Data Viewer's fixation report: positions on the screen, '.' for lost."""
  head = 'RECORDING_SESSION_LABEL,image,CURRENT_FIX_X,CURRENT_FIX_Y,'
  head += 'CURRENT_FIX_DURATION'
  rows = []
  for (name, subject), xy in study.gaze.items():
    rows += [[subject, f'{name}.png', *(p + OFFSET), 200] for p in xy]
    rows += [[subject, f'{name}.png', '.', '.', 90]]
    rows += [[subject, f'{name}.png', 3.0, 7.0, 90]]  # off the image
  study.write('reports/fixations.xls.txt', head, rows)
  return dict(tracker='eyelink', screen='400x300')


def pupil(study: Study) -> dict:
  """Pupil Cloud: a folder an image, normalised, off the surface marked."""
  head = 'section id,recording id,fixation id,start timestamp [ns],'
  head += 'fixation detected on surface,fixation x [normalized],'
  head += 'fixation y [normalized]'
  for name in study.points():
    rows = []
    for (other, subject), xy in study.gaze.items():
      if other == name:
        norm = (xy + 0.5) / SIZE[::-1]
        rows += [['s', subject, i, 1, True, *p] for i, p in enumerate(norm)]
        rows += [['s', subject, 99, 1, False, 0.5, 0.5]]
    study.write(f'{name}/fixations.csv', head, rows, by=',')
  return dict(tracker='pupil')


def pupil_core(study: Study) -> dict:
  """Pupil Player: y goes up, a fixation is repeated frame by frame."""
  head = 'world_timestamp,world_index,fixation_id,start_timestamp,norm_pos_x,'
  head += 'norm_pos_y,on_surf'
  for name, points in study.points().items():
    rows = []
    for i, (row, column) in enumerate(points):
      p = (column + 0.5) / SIZE[1], 1 - (row + 0.5) / SIZE[0]
      rows += [[1.0, 1, i, 1.0, *p, True]] * 3
      rows += [[1.0, 1, 1000 + i, 1.0, 1.5, 0.5, False]]
    path = f'surfaces/fixations_on_surface_{name}.csv'
    study.write(path, head, rows, by=',')
  return dict(tracker='pupil_core')


def smi(study: Study) -> dict:
  """BeGaze: notes on top, blinks and saccades as rows, '-' for nothing."""
  head = 'Trial,Stimulus,Participant,Category,Fixation Position X [px],'
  head += 'Fixation Position Y [px]'
  rows = []
  for (name, subject), xy in study.gaze.items():
    at = ['Trial001', f'{name}.png', subject]
    rows += [[*at, 'Fixation', x, y] for x, y in xy]
    rows += [[*at, 'Saccade', '-', '-'], [*at, 'Blink', '-', '-']]
  start = '## [BeGaze]\r\n## Date: 1,2;3\r\n'
  study.write('events.txt', head, rows, by=';', comma=True, start=start)
  return dict(tracker='smi')


def psychopy(study: Study) -> dict:
  """Events of ioHub: pixels from the middle of the screen, y goes up."""
  head = 'participant,image_file,time,average_gaze_x,average_gaze_y,duration'
  rows = []
  for (name, subject), xy in study.gaze.items():
    at = (xy + OFFSET - (np.array(SCREEN) - 1) / 2) * (1, -1)
    rows += [[subject, f'stimuli/{name}.png', 0.5, *p, 0.2] for p in at]
  study.write('events.csv', head, rows, by=',')
  return dict(tracker='psychopy', screen='400x300')


def bids(study: Study) -> dict:
  """A compressed table a subject and an image, named by BIDS's entities."""
  for (name, subject), xy in study.gaze.items():
    rows = [[0.1, 'fixation', *p] for p in xy]
    rows += [[0.1, 'saccade', 1.0, 1.0], [0.2, 'fixation', 'n/a', 'n/a']]
    # An entity's value holds letters and digits alone.
    path = (
      f'sub-{subject}/sub-{subject}_stim-{name.replace("_", "")}_fix.tsv.gz'
    )
    study.write(path, 'onset,trial_type,x,y', rows)
  for path in (study.raw / 'images').iterdir():
    path.rename(path.with_name(path.name.replace('_', '')))
  return dict(tracker='bids')


def plain(study: Study) -> dict:
  """Columns of the experimenter's own."""
  rows = [[n, *p] for (n, _), xy in study.gaze.items() for p in xy]
  study.write('mine.csv', 'Bild,Blick x,Blick y', rows, by=';', comma=True)
  return dict(columns='image=Bild,x=Blick x,y=Blick y')


EXPORTS = dict(
  tobii=tobii,
  eyelink=eyelink,
  pupil=pupil,
  pupil_core=pupil_core,
  smi=smi,
  psychopy=psychopy,
  bids=bids,
  plain=plain,
)


def samples(study: Study, *, hertz: int = 250) -> dict:
  """EyeLink's sample report: 200 ms a fixation, blinks and quick saccades."""
  head = 'RECORDING_SESSION_LABEL,image,TIMESTAMP,RIGHT_GAZE_X,RIGHT_GAZE_Y'
  rng, rows, time = np.random.default_rng(1), [], 1000.0
  for (name, subject), xy in study.gaze.items():
    at = [subject, f'{name}.png']
    for i, p in enumerate(xy):
      for _ in range(hertz // 5):
        rows.append([*at, time, *(p + rng.normal(0, 0.2, 2))])
        time += 1000 / hertz
      for _ in range(3):  # a saccade, or a blink
        jump = ['.', '.'] if i % 5 == 0 else rng.uniform(0, 96, 2).tolist()
        rows.append([*at, time, *jump])
        time += 1000 / hertz
  study.write('samples.tsv', head, rows)
  return dict(tracker='eyelink', detect='idt(dispersion=4)')
