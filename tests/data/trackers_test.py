"""Tables of eye trackers: one study in each export gives the same gaze."""

import sys

import fake_trackers
import numpy as np
import pytest

from salflax import cli, data
from salflax.cli import prepare as command
from salflax.data import detectors, gaze_layout, prepare, trackers


def _prepare(raw, out, **options):
  """Runs the command; returns its code."""
  flags = [f'--{name}={value}' for name, value in options.items()]
  return cli.call(
    command.define_flags,
    command.execute,
    [
      *('prepare', '--dataset=folder', '--name=mine', f'--raw={raw}'),
      *(f'--data_dir={out}', '--quiet', *flags),
    ],
  )


def _points(out):
  source = data.load_source('folder:mine', 'all', out)
  return {row['image_id']: row['fixations'].tolist() for row in source}


def _counts(out):
  folder = prepare.folder_of(out, 'folder', 'mine')
  return prepare.files.read_json(folder / 'report.json')['counts']


@pytest.mark.parametrize('name', fake_trackers.EXPORTS)
def test_every_export_gives_the_same_fixations(tmp_path, name):
  study = fake_trackers.Study(tmp_path / 'raw')
  options = fake_trackers.EXPORTS[name](study)
  assert _prepare(study.raw, tmp_path / 'out', **options) == 0
  ours = _points(tmp_path / 'out')
  theirs = study.points()
  if name == 'bids':
    theirs = {k.replace('_', ''): v for k, v in theirs.items()}
  assert {k: sorted(v) for k, v in ours.items()} == {
    k: sorted(v) for k, v in theirs.items()
  }
  counts = _counts(tmp_path / 'out')
  assert counts['fixations'] == 120
  assert counts['subjects'] == {'pupil_core': 3, 'plain': 1}.get(name, 2)


def test_every_tracker_has_its_export():
  assert set(fake_trackers.EXPORTS) == set(trackers.TRACKERS)


def test_what_is_left_out_is_counted(tmp_path, capsys):
  study = fake_trackers.Study(tmp_path / 'raw')
  options = fake_trackers.eyelink(study)
  assert _prepare(study.raw, tmp_path / 'out', **options) == 0
  counts = _counts(tmp_path / 'out')
  assert counts['left out, no position, as in blinks'] == 6
  assert counts['left out, off the image'] == 6
  assert 'left out, off the image: 6' in capsys.readouterr().out
  study = fake_trackers.Study(tmp_path / 'tobii')
  options = fake_trackers.tobii(study)
  assert _prepare(study.raw, tmp_path / 'out', overwrite=True, **options) == 0
  counts = _counts(tmp_path / 'out')
  assert counts['left out, Saccade (rows)'] == 120
  assert counts['left out, EyesNotFound (rows)'] == 120
  assert counts['left out, no image (rows)'] == 1
  assert 'Eyetracker Calibration: 1 rows' in capsys.readouterr().out


@pytest.mark.parametrize(
  'detect', ['idt(dispersion=4)', 'ivt(speed=600, duration=80)']
)
def test_fixations_are_detected_in_samples(tmp_path, detect):
  pytest.importorskip('pymovements')
  study = fake_trackers.Study(tmp_path / 'raw', most=12)
  options = fake_trackers.samples(study) | dict(detect=detect)
  assert _prepare(study.raw, tmp_path / 'out', **options) == 0
  ours, theirs = _points(tmp_path / 'out'), study.points()
  for name, points in theirs.items():
    near = np.abs(np.array(ours[name])[:, None] - np.array(points)).max(-1)
    assert near.min(axis=0).max() <= 2  # each is there
    assert len(ours[name]) <= len(points) + 2


def test_samples_without_the_library_name_the_command(
  tmp_path, monkeypatch, capsys
):
  monkeypatch.setitem(sys.modules, 'pymovements', None)
  study = fake_trackers.Study(tmp_path / 'raw', most=4)
  options = fake_trackers.samples(study)
  assert _prepare(study.raw, tmp_path / 'out', **options) == 1
  assert 'pip install "salflax[samples]"' in capsys.readouterr().err


def test_lost_samples_gaps_and_steps_back_cut_a_recording():
  positions = np.zeros((12, 2))
  positions[4] = np.nan
  times = np.array([0, 4, 8, 12, 16, 20, 24, 28, 90, 94, 98, 2.0])
  parts = []
  detectors.detect(
    positions, times, lambda xy, _: parts.append(len(xy)) or [], 4.0
  )
  assert parts == [4, 3, 3]


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(tracker='toby'), "Did you mean 'tobii'"),
    (dict(units='pixel'), "Did you mean 'px'"),
    (dict(columns='x'), "found 'x' without"),
    (dict(columns='z=a'), "Unknown role of a column 'z'"),
    (dict(screen='1920'), '1920x1080'),
    (dict(fit='contain'), '--screen'),
  ],
)
def test_wrong_options_are_named(tmp_path, capsys, options, words):
  assert _prepare(tmp_path, tmp_path / 'out', **options) == 2
  assert words in capsys.readouterr().err


@pytest.mark.parametrize(
  'options, words',
  [
    (dict(tracker='eyelink', detect='idd'), "Did you mean 'idt'"),
    (dict(tables='*.dat'), 'no table of gaze fits --tables=*.dat'),
    (dict(tracker='smi'), 'it fits --tracker=eyelink'),
    (dict(columns='x=CURRENT_FX_X'), "nearest is 'CURRENT_FIX_X'"),
    (dict(tracker='eyelink', units='norm'), '--units=px says so'),
    (dict(tracker='eyelink'), 'lie off the image of 128 x 96'),
    (dict(tracker='eyelink', screen='4000x3000'), 'lie off the image'),
  ],
)
def test_options_that_do_not_fit_the_table_are_named(
  tmp_path, capsys, options, words
):
  study = fake_trackers.Study(tmp_path / 'raw', num=1)
  fake_trackers.eyelink(study)
  assert _prepare(study.raw, tmp_path / 'out', **options) == 1
  assert words in capsys.readouterr().err


_X = [f'a,{i / 40},{i / 50}' for i in range(40)]
_MIDDLE = [f'a,{i - 20},{20 - i}' for i in range(40)]


@pytest.mark.parametrize(
  'text, words',
  [
    ('', 'is empty'),
    ('\n\n', 'is empty'),
    ('image,x,y\n', 'holds no row below its head'),
    ('image,x,y\n,,\n', 'holds no row below its head'),
    ('image,x,y\na,1\n', 'line 2: x='),
    ('image,x,y\na,1,2,3\n', 'line 2: more cells'),
    ('image,x,y\na,1,2\na,1,2,3,4\n', 'line 3, saw 5'),
    ('image,x,y\na,1,five\n', "line 2: x='1', y='five'"),
    ('image,x,y\na,inf,5\n', "line 2: x='inf'"),
    ('image,x,y\nb,1,5\n', 'b: 1 rows: no such file in images/'),
    ('image,x,x_norm,y\nb,1,1,5\n', 'b: 1 rows'),
    ('image,x [px],x (MCSnorm),y\nb,1,1,5\n', 'may all be x'),
    ('x,y\n1,5\n', 'none is image'),
    ('\n'.join(['image,x,y', *_X]), '--units=norm says so'),
    ('\n'.join(['image,x,y', *_MIDDLE]), '--units=centre_px says so'),
    ('image,x,y\n' + 'a,7,9\n' * 30, 'all 30 positions are x=7, y=9'),
    ('image,x,y\n' + 'a,.,.\n' * 30, 'no position, as in blinks: 30'),
    ('image,x,y\na,\xe9,2\n', 'UTF-8'),
  ],
)
def test_tables_that_cannot_be_trusted_are_named(tmp_path, capsys, text, words):
  raw = fake_trackers.Study(tmp_path / 'raw', num=1).raw
  next((raw / 'images').iterdir()).rename(raw / 'images' / 'a.png')
  (raw / 'gaze.csv').write_bytes(text.encode('latin-1'))
  assert _prepare(raw, tmp_path / 'out', tracker='plain') == 1
  message = capsys.readouterr().err
  assert words in message and 'Traceback' not in message
  assert not (tmp_path / 'out' / 'folder').exists()


def test_other_datasets_have_no_trackers(tmp_path):
  argv = ['prepare', '--dataset=osie', f'--raw={tmp_path}', '--tracker=smi']
  assert cli.call(command.define_flags, command.execute, argv) == 2


def test_samples_in_the_wrong_unit_are_named(tmp_path, capsys):
  pytest.importorskip('pymovements')
  study = fake_trackers.Study(tmp_path / 'raw', num=1, most=4)
  options = fake_trackers.samples(study) | dict(time='s')
  assert _prepare(study.raw, tmp_path / 'out', **options) == 1
  assert '--time says in what unit' in capsys.readouterr().err


@pytest.mark.parametrize('units', gaze_layout.UNITS)
@pytest.mark.parametrize('fit', gaze_layout.FITS)
def test_the_middle_is_the_middle(units, fit):
  middle = {'px': [[199.5, 149.5]], 'norm': [[0.5, 0.5]]}
  middle |= {'norm_up': [[0.5, 0.5]]}
  xy = np.array(middle.get(units, [[0, 0]]), float)
  got = gaze_layout.to_pixels(
    xy, (96, 128), units=units, screen=(400, 300), fit=fit
  )
  np.testing.assert_allclose(got, [[63.5, 47.5]], atol=1e-6)


def test_corners_are_the_first_and_the_last_pixel():
  corners = np.array([[0, 0], [1, 1.0]])
  for fit in ('own', 'stretch'):
    screen = None if fit == 'own' else (400, 300)
    got = gaze_layout.to_pixels(
      corners, (96, 128), units='norm', screen=screen, fit=fit
    )
    assert np.rint(got).tolist() == [[0, 0], [127, 95]]


@pytest.mark.parametrize(
  'name, plain, unit',
  [
    ('Fixation point X [MCS px]', 'fixation point x', 'px'),
    ('FixationPointX (MCSpx)', 'fixationpointx', 'px'),
    ('Fixation point X (MCSnorm)', 'fixation point x', 'norm'),
    ('fixation x [normalized]', 'fixation x', 'norm'),
    ('Recording timestamp [\u03bcs]', 'recording timestamp', 'us'),
    ('start timestamp [ns]', 'start timestamp', 'ns'),
    ('Mapped fixation X [street]', 'mapped fixation x [street]', ''),
    ('Fixation point X (DACSmm)', 'fixation point x (dacsmm)', ''),
    ('CURRENT_FIX_X', 'current_fix_x', ''),
  ],
)
def test_units_in_names(name, plain, unit):
  assert trackers.split_unit(name) == (plain, unit)
