"""The benchmarks: what they print, what they need, what they refuse."""

import dataclasses
import importlib.util
import json
import types

import jax
import numpy as np
import pytest
import tiny
import tiny_config

from salflax import cli
from salflax.cli import (
  bench,
  bench_compile,
  bench_cores,
  bench_metrics,
  bench_sides,
  bench_torch,
)
from salflax.config import resolve
from salflax.train import stage as stages_lib


def _run(*arguments):
  argv = ['salflax bench', *arguments]
  return cli.call(bench.define_flags, bench.execute, argv)


@pytest.mark.slow
def test_smoke_tries_every_benchmark(tmp_path, capsys):
  assert _run('--smoke', f'--out={tmp_path / "bench.json"}') == 0
  results = json.loads((tmp_path / 'bench.json').read_text())
  absent = {'pysaliency'}
  if importlib.util.find_spec('torch') is None:
    absent.add('torch')
  assert set(bench.BENCHMARKS) - absent == set(results) - {'where'}
  assert float(results['train'][0]['images/s']) > 0
  assert float(results['compile'][0]['peak GB']) > 0
  alone, anew, first, later = results['input'][:4]
  assert 0 < float(anew['of decoding alone']) < 1
  assert float(alone['ms an image']) < float(anew['ms an image'])
  assert float(later['ms an image']) < float(first['ms an image'])
  for whole in (anew, later):
    assert float(whole['MB after']) < 1.1 * float(whole['MB before'])
  assert [row['processes'] for row in results['cores']] == ['1', '1', '2']
  starts = {row['what']: float(row['s']) for row in results['start']}
  assert starts['import salflax'] < starts['salflax --help'] < 5
  printed = capsys.readouterr().out
  assert (
    '| `mit` | protocol |' in printed and f'jax {jax.__version__}' in printed
  )


def test_a_config_is_asked_for(capsys):
  assert _run('train') == cli.USAGE
  assert 'needs --config' in capsys.readouterr().err


@pytest.mark.parametrize(
  'topology, says',
  [
    ('v5f:2x2', 'v5e'),
    ('v5e', 'allowed: 1x1, 2x2'),
    ('cpu:0', 'allowed: 1, 2'),
    ('h100:9', 'allowed: 1 to 8'),
    ('cpu:64', '4 are here; allowed: 1 to 4'),
  ],
)
def test_a_topology_that_does_not_exist_is_named(topology, says):
  if topology.startswith('v5e'):
    pytest.importorskip('libtpu')
  with pytest.raises(ValueError, match=says):
    bench_compile.devices(topology)


@pytest.mark.skipif(
  importlib.util.find_spec('jax_plugins') is not None,
  reason='has a compiler for GPUs',
)
def test_a_compiler_that_is_not_there_has_its_command(capsys):
  config = '--config=configs/sjtu_tis.py:small'
  assert _run('compile', config, '--topology=h100:8') == cli.FAILED
  assert 'pip install "salflax[gpu]"' in capsys.readouterr().err


@pytest.fixture(scope='module')
def stage():
  return resolve.resolve(bench.small_config(), with_data=False)[-1]


@pytest.mark.parametrize(
  'key, value, says',
  [
    ('batch_size', 6, 'does not divide over 4 devices; use a multiple of 4'),
    ('accumulate', 3, 'accumulate 3 does not divide the 1 images'),
    ('param_shards', 3, 'does not divide 4 devices; allowed: 1, 2, 4'),
  ],
)
def test_what_does_not_divide_is_named(stage, key, value, says):
  wrong = dataclasses.replace(stage, **{key: value})
  with pytest.raises(ValueError, match=says):
    bench_compile.lower(wrong, jax.devices())


@pytest.mark.slow
def test_a_step_over_devices_sends_its_gradients(stage):
  numbers = bench_compile.measure(stage, 'cpu:4')
  trained = sum(
    x.size for x in jax.tree.leaves(stages_lib.abstract_state(stage).params)
  )
  assert numbers['chips'] == 4 and numbers['collectives'] >= 1
  assert numbers['MB sent'] >= 0.9 * 4e-6 * trained
  assert 0 < numbers['% scaling'] < 100


@pytest.mark.slow
def test_costs_do_not_depend_on_who_counts_nor_on_parts(stage):
  class Silent:
    cost_analysis = staticmethod(lambda: None)

  counts = []
  for parts in (1, 2):
    step = dataclasses.replace(stage, accumulate=parts, batch_size=8)
    compiled = bench_compile.lower(step, jax.devices()).compile()
    Silent.runtime_executable = staticmethod(compiled.runtime_executable)
    counts.append(bench_compile.costs(step, compiled, 4))
    counts.append(bench_compile.costs(step, Silent, 4))
  flops, moved = np.array(counts).T
  assert flops == pytest.approx(flops[0], rel=0.25)
  assert moved[::2] == pytest.approx(moved[1::2], rel=1e-6)


def test_collectives_are_read_from_a_program():
  text = """
  %a = f32[64]{0} all-reduce(f32[64]{0} %x), replica_groups={}
  %b = (bf16[2,3]{1,0}, f32[]) all-reduce-done(%c)
  %c = (f32[8], f32[8]) all-reduce-start(%x)
  ROOT %d = f32[8,4] all-gather(%y)
  """
  assert bench_compile.collectives(text) == {
    'all-reduce': (2, 64 * 4 + 6 * 2 + 4),
    'all-gather': (1, 8 * 4 * 4),
  }


def test_the_estimate_is_the_slower_of_work_and_memory_and_the_links():
  chip = bench_compile.Chip(100, 10, 5, 1, '')
  assert bench_compile.estimate(chip, 200, 10, {}, 1) == (2, 0)
  assert bench_compile.estimate(chip, 200, 40, {}, 1) == (4, 0)
  sent = {'all-reduce': (1, 10)}
  assert bench_compile.estimate(chip, 200, 10, sent, 2) == (4, 2)


def test_what_does_not_fit_is_halved_until_it_does(stage, monkeypatch):
  def measure(stage, topology):
    if stage.batch_size > 12:
      raise MemoryError('too much')
    return stage.batch_size

  monkeypatch.setattr(bench_compile, 'measure', measure)
  assert bench_compile.largest(stage, 'cpu:1') == 8


def test_numbers_are_those_of_pysaliency():
  pytest.importorskip('pysaliency')
  options = types.SimpleNamespace(data='', maps=2, height=48, width=64)
  (row,) = bench_metrics.compare(options)
  assert row['images'] == 2 and row['largest difference'] < 1e-6


def test_cores_must_give_the_same_scores(monkeypatch):
  options = types.SimpleNamespace(
    data='', data_dir='', maps=2, height=8, width=8, processes=3
  )
  clock = lambda _, processes, threads: (
    6 / processes / threads,
    [{'cc': 0.5}, {'cc': float('nan')}],
  )
  monkeypatch.setattr(bench_cores, '_clock', clock)
  rows = bench_cores.measure(options)
  assert [row['times as fast'] for row in rows] == [1, 3, 3]
  other = lambda _, processes, threads: (1, [{'cc': 0.5 + processes}])
  monkeypatch.setattr(bench_cores, '_clock', other)
  with pytest.raises(ValueError, match='3 cores give other scores'):
    bench_cores.measure(options)


@pytest.mark.slow
def test_a_train_step_is_timed_on_stored_features(tmp_path):
  folder = tiny.bert_folder(tmp_path / 'bert')
  config = tiny_config.get_config(f'bert={folder},data=no such data')
  config.model.backbone.bn = 'frozen'
  config.only.freeze = ('backbone/.*', 'text/.*')
  options = types.SimpleNamespace(
    what='train', config=config, repeats=1, smoke=False
  )
  (row,) = bench.train(options)
  assert row['batch'] == 4


@pytest.mark.slow
def test_the_network_in_torch_is_ours():
  pytest.importorskip('torch')
  options = types.SimpleNamespace(smoke=True, height=32, width=64)
  tasks = [bench_sides.Task(what, 3, 'float32') for what in bench_torch.WHATS]
  sides = (
    bench_sides.Ours(options, gpu=False),
    bench_sides.Torch(options, gpu=False),
  )
  for task in tasks:
    calls = [side.start(task) for side in sides]
    for _ in range(3):  # steps of Adam
      ours, theirs = (s.array(c()) for s, c in zip(sides, calls))
      np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
  assert ours.shape == (3, 32, 64) and ours.std() > 0.03  # no flat maps


@pytest.mark.parametrize(
  'option, says',
  [
    ('--dtypes=float16', "Unknown dtype 'float16'"),
    ('--batches=0', '--batches=0'),
    ('--batches=4', 'pip install "salflax[torch]"'),
  ],
)
def test_what_torch_is_timed_on_is_checked(option, says, capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert _run('torch', option) == cli.FAILED
  assert says in capsys.readouterr().err


def test_what_finds_no_memory_is_said_and_not_timed():
  task = bench_sides.Task('forward', 2, 'float32')

  class Full:
    calls = 1

    def start(self, task):
      raise RuntimeError('RESOURCE_EXHAUSTED: out of memory')

    def memory(self, task):
      return 99.0

  (full,) = bench_torch.measure([Full()], task, 2)
  assert full == bench_torch.Result(None, 99.0, None)
  row = bench_torch.row(task, 'a GPU', full, full)
  assert row['images/s'] == row['PyTorch, images/s'] == 'out of memory'
