"""Runs of `python -m salflax.main` in processes of their own, for tests."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import fake_data
import numpy as np

from salflax import data
from salflax.data import prepare

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 900  # seconds for what takes ten on a machine with nothing else to do


def prepared(folder: pathlib.Path) -> pathlib.Path:
  """Prepares a folder with the data set 'folder:mine', 24 small images."""
  rng = np.random.default_rng(0)
  rows = [
    (f'p{i}.png', 0, *map(float, rng.uniform(2, 20, 2)))
    for i in range(24)
    for _ in range(12)
  ]
  raw = fake_data.folder(folder / 'raw', rows, count=24)
  prepare.prepare(data.DATASETS['folder'](), raw, folder / 'data', name='mine')
  return folder / 'data'


class Run:
  """Commands for one workdir.

  Args:
    workdir: workdir of the run.
    data_dir: folder of `prepared`.
    *options: options of the command line.
  """

  def __init__(self, workdir, data_dir, *options):
    self.workdir, self.data_dir, self.options = workdir, data_dir, options
    workdir.mkdir(parents=True, exist_ok=True)

  def start(self, *options, devices=1, process=0) -> subprocess.Popen:
    """Starts a process; its output goes to log<process>.txt."""
    env = dict(
      os.environ,
      JAX_PLATFORMS='cpu',
      JAX_DISABLE_MOST_OPTIMIZATIONS='1',
      # Runs of one data set have the same programs: compiled once.
      JAX_COMPILATION_CACHE_DIR=str(self.data_dir.parent / 'xla'),
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
      JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1',
      XLA_FLAGS=f'--xla_force_host_platform_device_count={devices}',
    )
    log = self.workdir.parent / f'{self.workdir.name}-log{process}.txt'
    with open(log, 'ab') as f:
      return subprocess.Popen(
        [
          *(sys.executable, '-m', 'salflax.main'),
          '--config=tests/tiny_config.py:data=folder:mine',
          f'--workdir={self.workdir}',
          f'--config.data_dir={self.data_dir}',
          *self.options,
          *options,
        ],
        cwd=ROOT,
        env=env,
        stdout=f,
        stderr=subprocess.STDOUT,
      )

  def start_all(self, count: int) -> list[subprocess.Popen]:
    """Starts the processes of one run, a device each."""
    with socket.socket() as s:
      s.bind(('127.0.0.1', 0))
      port = s.getsockname()[1]
    shared = f'--coordinator=127.0.0.1:{port}', f'--processes={count}'
    return [
      self.start(*shared, f'--process={i}', process=i) for i in range(count)
    ]

  def output(self, process: int = 0) -> str:
    """Reads the output so far of the processes of a number."""
    log = self.workdir.parent / f'{self.workdir.name}-log{process}.txt'
    return log.read_text(encoding='utf-8', errors='replace')

  def lines(self) -> int:
    """Counts the lines in metrics.jsonl."""
    path = self.workdir / 'only' / 'metrics.jsonl'
    return len(path.read_text().splitlines()) if path.exists() else 0

  def wait_for_lines(self, process: subprocess.Popen, number: int) -> None:
    """Waits until metrics.jsonl has so many lines.

    Raises:
      AssertionError: the process ended before, or it took too long.
    """
    end = time.monotonic() + LIMIT
    while self.lines() < number:
      assert process.poll() is None, self.output()
      assert time.monotonic() < end
      time.sleep(0.02)


def ended(*processes: subprocess.Popen) -> list[int]:
  """Waits for processes; returns their exit codes."""
  try:
    return [p.wait(LIMIT) for p in processes]
  finally:
    for p in processes:
      p.kill()
