"""The sides of the comparison with PyTorch: the same task, ready to run.

A side starts a task, which puts its arrays in place and returns a function
that runs it once; waits for what that returns; and says its peak memory.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from salflax import cli
from salflax.cli import bench_compile, torch_network
from salflax.core import workers

LEARNING_RATE = 1e-5


class Task(NamedTuple):
  """What is timed: `what` in WHATS, `batch` images, `dtype` in DTYPES."""

  what: str
  batch: int
  dtype: str


def network(options: Any, dtype: str) -> Any:
  """Makes the published network, or a tiny one to try the command."""
  from salflax import models

  size = (options.height, options.width)
  node = dict(name='transalnet', size=size, backbone=dict(name='resnet'))
  if options.smoke:
    node['backbone'] |= dict(depths=(1, 2, 1, 1), width=4)
    node |= dict(levels=('1/16', '1/32'), widths=(8, 8), head_dim=4, depth=1)
    node['decoder_widths'] = (8, 8, 8, 4, 4)
  node['dtype'] = 'bfloat16' if dtype == 'bfloat16' else 'float32'
  return models.build(node)


def draw(shapes: Any) -> Any:
  """Draws a tree of parameters and statistics; hardly any is 0 or 1."""
  import jax

  from salflax.train import optim

  rng = np.random.default_rng(0)
  leaves, tree = jax.tree.flatten(shapes)
  arrays = []
  for name, leaf in zip(optim.path_names(shapes), leaves, strict=True):
    x = rng.standard_normal(leaf.shape, np.float32)
    if name.endswith('kernel'):
      x *= np.float32((2 / np.prod(leaf.shape[:-1])) ** 0.5)
    else:
      x = 0.1 * x + np.float32(name.endswith(('scale', 'var')))
    arrays.append(np.abs(x) if name.endswith('var') else x)
  return jax.tree.unflatten(tree, arrays)


@functools.lru_cache(maxsize=1)  # tasks of one batch follow each other
def example(batch: int, *size: int) -> dict[str, np.ndarray]:
  """Makes up normalised images, and saliency maps."""
  rng = np.random.default_rng(1)
  return {
    'image': rng.standard_normal((batch, *size, 3), np.float32),
    'saliency': rng.random((batch, *size), np.float32) ** 4,
  }


def adam() -> Any:
  """Makes the optimiser of our side."""
  from salflax.train import optim

  return optim.make('adam', schedule=lambda step: LEARNING_RATE)


def draw_state(options: Any) -> Any:
  """Draws the state at step 0, arrays of NumPy, the same at each call."""
  import jax

  from salflax.train import step

  model = network(options, 'float32')
  state = step.abstract_state(model, adam(), example(1, *model.size))
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state)
  drawn = {k: draw(tree) for k, tree in state.variables.items()}
  return zeros.replace(**drawn)


class Ours:
  """This library's side."""

  name = 'ours'

  def __init__(self, options: Any, *, gpu: bool):
    """Draws the variables."""
    import jax

    from salflax.core import parallel

    self.options, self.state = options, draw_state(options)
    self.calls = _calls(gpu)
    self.gpu, self._program = gpu, None
    self.mesh = parallel.make_mesh(jax.devices()[:1])

  def _compile(self, task):
    import jax

    from salflax import losses
    from salflax.train import step

    model = network(self.options, task.dtype)
    batch = example(task.batch, *model.size)
    precision = {'float32': 'highest', 'tf32': 'tensorfloat32'}.get(task.dtype)
    with jax.default_matmul_precision(precision):
      if task.what == 'forward':
        fn = step.make_predict_fn(model, self.mesh)
        lowered = fn.lower(self.state.variables, {'image': batch['image']})
      else:
        loss_fn = losses.make_loss(torch_network.LOSS)
        fn = step.make_train_step(model, loss_fn, adam(), self.mesh)
        lowered = fn.lower(self.state, batch, np.zeros(2, np.uint32))
    # One at a time: on a GPU the compiler times what it chooses from.
    begin = time.perf_counter()
    program = lowered.compile()
    took = f'compiled in {time.perf_counter() - begin:.1f} s'
    cli.say(f'{task.what}, {task.batch}, {task.dtype}: {took}')
    return program

  def start(self, task: Task) -> Callable[[], Any]:
    """Compiles a task, puts its arrays in place; returns what runs it once."""
    from salflax.core import parallel

    self._program = None
    self._program = program = self._compile(task)
    size = self.options.height, self.options.width
    batch = parallel.to_global(example(task.batch, *size), self.mesh)
    state = parallel.to_everywhere(self.state, self.mesh)
    if task.what == 'forward':
      image = {'image': batch['image']}
      return lambda: program(state.variables, image)
    key = parallel.to_everywhere(np.zeros(2, np.uint32), self.mesh)

    def call():
      nonlocal state
      state, measures = program(state, batch, key)
      return measures['loss']

    return call

  def wait(self, value: Any) -> None:
    """Waits until a value is computed."""
    value.block_until_ready()

  def array(self, value: Any) -> np.ndarray:
    """Copies a value into an array of NumPy."""
    return np.asarray(value)

  def memory(self, task: Task) -> float | None:
    """Reads the peak that the compiler plans, in GB; None on a CPU."""
    if not self.gpu or self._program is None:
      return None
    return bench_compile.peak_bytes(self._program) / 1e9


class Torch:
  """PyTorch's side."""

  name = 'PyTorch'

  def __init__(self, options: Any, *, gpu: bool):
    """Takes the variables of ours."""
    import torch

    self.options, self.variables = options, draw_state(options).variables
    self.calls, self.gpu = _calls(gpu), gpu
    self.device = torch.device('cuda' if gpu else 'cpu')
    torch.set_num_threads(workers.cores())
    torch.backends.cudnn.benchmark = True

  def start(self, task: Task) -> Callable[[], Any]:
    """Puts a task's arrays in place; returns a function that runs it once."""
    import torch
    from flax import traverse_util

    self._prepare(task.dtype)
    flat = lambda tree: traverse_util.flatten_dict(tree, sep='/')
    net = torch_network.Network(
      *map(flat, (self.variables['params'], self.variables['batch_stats'])),
      head_dim=network(self.options, 'float32').head_dim,
      device=self.device,
    )
    batch = example(task.batch, self.options.height, self.options.width)
    place = lambda x: torch.from_numpy(x).to(self.device)
    image = place(batch['image']).permute(0, 3, 1, 2)  # lies as before
    truth = place(batch['saliency'])
    cast = lambda: torch.autocast(
      *(self.device.type, torch.bfloat16), enabled=task.dtype == 'bfloat16'
    )

    def forward():
      with torch.inference_mode(), cast():
        return net(image, train=False)

    if task.what == 'forward':
      return forward
    params = list(net.params.values())
    adam = torch.optim.Adam(params, LEARNING_RATE, fused=True)

    def call():
      adam.zero_grad(set_to_none=True)
      with cast():
        pred = net(image, train=True)
      value = torch_network.loss(pred, truth)
      value.backward()
      adam.step()
      return value.detach()

    return call

  def _prepare(self, dtype):
    import torch

    if self.gpu:
      torch.cuda.empty_cache()  # of tensors that are gone
      torch.cuda.reset_peak_memory_stats()
      torch.backends.cudnn.allow_tf32 = dtype == 'tf32'
      level = 'high' if dtype == 'tf32' else 'highest'
      torch.set_float32_matmul_precision(level)

  def wait(self, value: Any) -> None:
    """Waits until a value is computed."""
    import torch

    if self.gpu:
      torch.cuda.synchronize()

  def array(self, value: Any) -> np.ndarray:
    """Copies a value into an array of NumPy."""
    return value.cpu().numpy()

  def memory(self, task: Task) -> float | None:
    """Reads the most that tensors took since `start`, in GB; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 1e9 if self.gpu else None


def _calls(gpu) -> int:
  return 4 if gpu else 1  # a GPU works while the next call is prepared
