"""TranSalNet with a ResNet in PyTorch, to be timed beside ours.

Written from the papers, with nothing of ours but the parameters and their
names. The image's layout is PyTorch's faster one, channels_last.

References:
  Lou et al., TranSalNet: Towards perceptually relevant visual saliency
    prediction, Neurocomputing 2022.
  He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

LOSS = '10*kld + 2*cc'  # what `loss` computes, in our words
EPS = 2.2204e-16


class Network:
  """The network as functions of named tensors.

  Attributes:
    f: torch.nn.functional.
    heads_of: channels of one attention head.
    tensors: parameters and running statistics by name; kernels lie as PyTorch
      has them, [out, in, h, w] and [out, in].
    params: those of them that train.
  """

  def __init__(
    self,
    params: Mapping[str, np.ndarray],
    statistics: Mapping[str, np.ndarray],
    *,
    head_dim: int,
    device: Any,
  ):
    """Takes the parameters and running statistics of ours, by path."""
    from torch.nn import functional

    self.f, self.head_dim = functional, head_dim
    place = lambda tree: {k: _tensor(v, device) for k, v in tree.items()}
    self.params = place(params)
    for x in self.params.values():
      x.requires_grad_()
    self.tensors = self.params | place(statistics)

  def __call__(self, image: Any, *, train: bool) -> Any:
    """Computes saliency f32 [B, H, W] of images [B, 3, H, W]."""
    f = self.f
    x = self._conv(image, 'backbone/conv1', stride=2)
    x = f.relu(self._norm(x, 'backbone/bn1', train), inplace=True)
    x = f.max_pool2d(x, 3, 2, 1)
    levels = {}
    for stage in (1, 2, 3, 4):
      for i in itertools.count():
        name = f'backbone/layer{stage}_{i}'
        if f'{name}/conv1/kernel' not in self.tensors:
          break
        x = self._bottleneck(x, name, 2 if stage > 1 and i == 0 else 1, train)
      levels[2 ** (stage + 1)] = x
    return self._decode(levels, train).float().sigmoid()[:, 0]

  def _conv(self, x, name, stride=1):
    kernel = self.tensors[f'{name}/kernel']
    bias = self.tensors.get(f'{name}/bias')
    return self.f.conv2d(x, kernel, bias, stride, kernel.shape[-1] // 2)

  def _norm(self, x, name, train):
    t = self.tensors
    statistics = t[f'{name}/mean'], t[f'{name}/var']
    affine = t[f'{name}/scale'], t[f'{name}/bias']
    return self.f.batch_norm(x, *statistics, *affine, train, 0.1, 1e-5)

  def _bottleneck(self, x, name, stride, train):
    relu = lambda y: self.f.relu(y, inplace=True)
    y = relu(self._norm(self._conv(x, f'{name}/conv1'), f'{name}/bn1', train))
    y = self._conv(y, f'{name}/conv2', stride)
    y = relu(self._norm(y, f'{name}/bn2', train))
    y = self._norm(self._conv(y, f'{name}/conv3'), f'{name}/bn3', train)
    if f'{name}/downsample_0/kernel' in self.tensors:
      x = self._conv(x, f'{name}/downsample_0', stride)
      x = self._norm(x, f'{name}/downsample_1', train)
    return relu(y + x)

  def _linear(self, x, name):
    t = self.tensors
    return self.f.linear(x, t[f'{name}/kernel'], t[f'{name}/bias'])

  def _layer_norm(self, x, name):
    affine = self.tensors[f'{name}/scale'], self.tensors[f'{name}/bias']
    return self.f.layer_norm(x, x.shape[-1:], *affine, 1e-6)

  def _encode(self, x, name):
    x = self._conv(x, f'{name}/patch_embeddings')
    cells = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    x = x + self.tensors[f'{name}/position_embeddings']
    for i in itertools.count():
      block = f'{name}/layer_{i}'
      if f'{block}/ffn/fc1/kernel' not in self.tensors:
        break
      y = self._layer_norm(x, f'{block}/attention_norm')
      x = x + self._attend(y, f'{block}/attn')
      y = self._layer_norm(x, f'{block}/ffn_norm')
      y = self.f.gelu(self._linear(y, f'{block}/ffn/fc1'))
      x = x + self._linear(y, f'{block}/ffn/fc2')
    x = self._layer_norm(x, f'{name}/encoder_norm')
    return x.transpose(1, 2).unflatten(2, cells)

  def _attend(self, x, name):
    parts = (
      self._linear(x, f'{name}/{k}')
      .unflatten(-1, (-1, self.head_dim))
      .transpose(1, 2)
      for k in ('query', 'key', 'value')
    )
    y = self.f.scaled_dot_product_attention(*parts)
    return self._linear(y.transpose(1, 2).flatten(2), f'{name}/out')

  def _decode(self, levels, train):
    x = None
    for number in range(1, 7):
      name = f'encoder_{64 >> number}'
      level = None
      if f'{name}/position_embeddings' in self.tensors:
        level = self._encode(levels[64 >> number], name)
      if x is None:
        x = level
      else:
        x = self.f.interpolate(x, scale_factor=2, mode='nearest')
        x = x if level is None else self.f.relu(x * level, inplace=True)
      x = self._conv(x, f'decoder/conv{number}')
      x = self._norm(x, f'decoder/batchnorm{number}', train)
      x = self.f.relu(x, inplace=True)
    return self._conv(x, 'decoder/conv7')


def _tensor(x: np.ndarray, device: Any) -> Any:
  """Copies an array of ours into a tensor, kernels turned."""
  import torch

  x = torch.tensor(x)
  if x.ndim == 4:
    x = x.permute(3, 2, 0, 1)
    return x.to(device).contiguous(memory_format=torch.channels_last)
  return (x.T if x.ndim == 2 else x).to(device).contiguous()


def loss(pred: Any, truth: Any) -> Any:
  """Computes `LOSS`, the mean over maps [B, H, W]."""
  p, s = pred.flatten(1), truth.flatten(1)
  p1, s1 = (x / x.sum(1, keepdim=True) for x in (p, s))
  kld = (s1 * (EPS + s1 / (p1 + EPS)).log()).sum(1)
  p0, s0 = (x - x.mean(1, keepdim=True) for x in (p, s))
  cc = (p0 * s0).sum(1) / (p0.norm(dim=1) * s0.norm(dim=1))
  return (10 * kld + 2 * (1 - cc)).mean()
