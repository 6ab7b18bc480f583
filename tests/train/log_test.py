"""What a run writes down, also after it was cut off."""

import json
import logging
import math
import shutil
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from salflax.train import log


def _rows(folder):
  with open(folder / 'metrics.jsonl', encoding='utf-8') as f:
    return [json.loads(line) for line in f]


def _write(folder, steps, *, start_step=0):
  writer = log.Writer(str(folder), start_step=start_step)
  for step in steps:
    writer.write(step, {'loss': step / 10})
  writer.close()


def _events(path):
  """Reads a TensorBoard file: length, its checksum, bytes, their checksum."""
  data = path.read_bytes()
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    yield event_pb2.Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]


def test_lines_are_json_with_their_step(tmp_path):
  writer = log.Writer(str(tmp_path / 'a' / 'b'))
  writer.write(5, {'loss': np.float32(0.5), 'eval/mit/cc': 0.25})
  writer.write(10, {'loss': math.nan, 'x': math.inf, 'n': 3})
  # A line is there as soon as it is written.
  assert _rows(tmp_path / 'a' / 'b') == [
    {'step': 5, 'loss': 0.5, 'eval/mit/cc': 0.25},
    {'step': 10, 'loss': None, 'x': None, 'n': 3.0},
  ]
  writer.close()
  (events,) = (tmp_path / 'a' / 'b' / 'tensorboard').iterdir()
  assert events.name.startswith('events.out.tfevents.')
  scalars = [
    (e.step, v.tag, v.simple_value)
    for e in _events(events)
    for v in e.summary.value
  ]
  assert scalars[:2] == [(5, 'loss', 0.5), (5, 'eval/mit/cc', 0.25)]
  assert [x[:2] for x in scalars[2:]] == [(10, 'loss'), (10, 'x'), (10, 'n')]


def test_other_processes_write_nothing(tmp_path):
  writer = log.Writer(str(tmp_path / 'a'), active=False)
  writer.write(1, {'loss': 1.0})
  writer.close()
  assert not list(tmp_path.iterdir())


def test_a_resumed_run_drops_the_lines_after_its_checkpoint(tmp_path):
  _write(tmp_path, [10, 20, 30])
  _write(tmp_path, [25, 35], start_step=20)
  assert [r['step'] for r in _rows(tmp_path)] == [10, 20, 25, 35]
  _write(tmp_path, [1], start_step=0)
  assert [r['step'] for r in _rows(tmp_path)] == [1]


@pytest.mark.parametrize(
  'rest', ['{"step": 2', '{', '7', '[1]', 'null', '{"loss": 1}', '\x00\x00']
)
def test_a_line_cut_short_by_a_kill_goes_away(tmp_path, rest):
  _write(tmp_path, [1])
  with open(tmp_path / 'metrics.jsonl', 'a', encoding='utf-8') as f:
    f.write(rest)
  _write(tmp_path, [3], start_step=2)
  assert [r['step'] for r in _rows(tmp_path)] == [1, 3]


def test_a_line_without_its_end_stays_a_line(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1}\n{"step": 2}')
  _write(tmp_path, [3], start_step=2)
  assert [r['step'] for r in _rows(tmp_path)] == [1, 2, 3]


def test_the_clock_leaves_out_what_was_no_step(monkeypatch):
  now = [100.0]
  monkeypatch.setattr(log.time, 'perf_counter', lambda: now[0])
  clock = log.Clock(10, 110)
  now[0] = 105.0
  clock.waited += 1.0
  assert clock.tick(20) == pytest.approx((2.0, 0.2, 45.0))
  now[0] = 1005.0  # an evaluation of 895 s, then 5 s of 20 steps
  clock.skip(895.0)
  clock.waited += 2.0
  rate, wait, left = clock.tick(40)
  assert rate == pytest.approx(4.0)
  assert wait == pytest.approx(0.4) and clock.waited == 3.0
  assert left == pytest.approx(70 / 3)
  # Steps that took no time.
  assert np.isfinite(log.Clock(0, 10).tick(0)).all()
  assert np.isfinite(log.Clock(0, 10).tick(10)).all()


@pytest.mark.usefixtures('console')
def test_a_full_disk_ends_the_run_with_the_path(small_disk, capfd):
  writer = log.Writer(str(small_disk))
  writer.write(1, {'loss': 1.0})
  (small_disk / 'other').write_bytes(bytes(shutil.disk_usage(small_disk).free))
  with pytest.raises(OSError, match=f'{small_disk}.*: No space left'):
    for step in range(2, 400):
      writer.write(step, {'loss': 1.0, 'loss/cc': 2.0})
  writer.close()
  assert capfd.readouterr().err == ''


def test_memory_is_plausible():
  # The interpreter and NumPy take tens of MB; no test machine has a TB.
  assert 20 < log.peak_memory_mb() < 1 << 20


@pytest.mark.usefixtures('console')
def test_the_console_shows_ours_and_warnings_of_others(capsys):
  log.to_console()  # once more does not double the lines
  logging.getLogger('salflax').info('hello %d', 3)
  logging.getLogger('salflax.x').debug('details')
  logging.getLogger('jax').info('chatter')
  text = capsys.readouterr().err
  assert text.count('hello 3') == 1
  assert 'details' not in text and 'chatter' not in text
