"""GANsformer in plain PyTorch, from arXiv:2103.01209 and arXiv:1912.04958.

The published code needs CUDA extensions, so the benchmark compares ours with this one.
Functions read parameters by the published names. Convolutions that resample are
transposed or strided, with a depthwise filter; modulated ones scale inputs and outputs.

Axes: B batch, K components, N pixels, C O channels, h w map, H heads, S width of a
head.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

HALF = math.sqrt(0.5)


class Arrays:
  """Parameters below a prefix of their names."""

  def __init__(self, flat: dict[str, torch.Tensor], prefix: str = ''):
    self.flat, self.prefix = flat, prefix

  def __getitem__(self, name: str) -> torch.Tensor:
    return self.flat[self.prefix + name]

  def at(self, name: str) -> 'Arrays':
    return Arrays(self.flat, f'{self.prefix}{name}.')

  def has(self, name: str) -> bool:
    return any(key.startswith(self.prefix + name) for key in self.flat)


def leaky(x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
  return functional.leaky_relu(x, 0.2) * (math.sqrt(2) * gain)


def dense(own: Arrays, x: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
  weight = own['weight'] * (factor / math.sqrt(own['weight'].shape[1]))
  return functional.linear(x, weight, own['bias'] * factor)


def filtered(
  x_BChw: torch.Tensor, pads: tuple[int, ...], stride: int = 1, gain: float = 1.0
) -> torch.Tensor:
  taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
  channels = x_BChw.shape[1]
  kernel = torch.outer(taps, taps) * (gain / 64)
  kernel = kernel.expand(channels, 1, 4, 4)
  padded = functional.pad(x_BChw, pads)
  return functional.conv2d(padded, kernel, stride=stride, groups=channels)


def convolve(
  x_BChw: torch.Tensor, weight: torch.Tensor, resample: str | None = None
) -> torch.Tensor:
  size = weight.shape[-1]
  weight = weight / math.sqrt(weight[0].numel())
  if size == 1:
    if resample == 'down':
      x_BChw = filtered(x_BChw, (1, 1, 1, 1), stride=2)
    y = functional.conv2d(x_BChw, weight)
    if resample == 'up':
      batch, channels, height, width = y.shape
      spread = y.new_zeros(batch, channels, 2 * height, 2 * width)
      spread[..., ::2, ::2] = y
      y = filtered(spread, (2, 1, 2, 1), gain=4.0)
    return y
  if resample == 'up':
    y = functional.conv_transpose2d(x_BChw, weight.transpose(0, 1), stride=2)
    return filtered(y, (1, 1, 1, 1), gain=4.0)
  if resample == 'down':
    return functional.conv2d(filtered(x_BChw, (2, 2, 2, 2)), weight, stride=2)
  return functional.conv2d(x_BChw, weight, padding=size // 2)


def modulated(
  own: Arrays,
  x_BChw: torch.Tensor,
  w_BW: torch.Tensor,
  resample: str | None = None,
  demodulate: bool = True,
) -> torch.Tensor:
  style_BC = dense(own.at('affine'), w_BW)
  weight = own['weight']
  y = convolve(x_BChw * style_BC[:, :, None, None], weight, resample)
  if demodulate:
    square_OC = weight.square().sum(dim=(2, 3)) / weight[0].numel()
    sum_BO = style_BC.square() @ square_OC.T
    y = y * (sum_BO + 1e-8).rsqrt()[:, :, None, None]
  return y


def attend(
  own: Arrays,
  x_BNC: torch.Tensor,
  y_BKW: torch.Tensor,
  x_position: torch.Tensor,
  y_position: torch.Tensor,
  integration: str,
) -> torch.Tensor:
  query = dense(own.at('to_queries'), x_BNC)
  value = dense(own.at('to_values'), y_BKW)
  where = dense(own.at('from_pos_map'), x_position)
  if own.has('centroids'):
    both = torch.cat([query, where.expand_as(query)], dim=-1)
    scores = (both * own['att_weight'][0]) @ own['centroids'][0, 0].T
  else:
    key = dense(own.at('to_keys'), y_BKW)
    key = key + dense(own.at('to_pos_map'), y_position)
    scores = (query + where) @ key.transpose(1, 2)
  share_BNK = (scores / math.sqrt(query.shape[-1])).softmax(dim=-1)
  control = dense(own.at('modulation'), share_BNK @ value)
  if integration == 'add':
    return x_BNC + control
  norm = (x_BNC.square().mean(dim=-1, keepdim=True) + 1e-8).rsqrt()
  return x_BNC * norm * (1 + control)


def mlp(own: Arrays, x: torch.Tensor, position: torch.Tensor | None) -> torch.Tensor:
  number = 0
  while own.has(f'l{number}.'):
    before = x
    if position is not None and own.has(f'sa{number}.'):
      x = attend(own.at(f'sa{number}'), x, x, position, position, 'add')
    x = leaky(dense(own.at(f'l{number}.fc0'), x, 0.01))
    x = functional.leaky_relu(dense(own.at(f'l{number}.fc1'), x, 0.01) + before, 0.2)
    number += 1
  return leaky(dense(own.at('out_layer'), x, 0.01))


def styles(own: Arrays, z_BKZ: torch.Tensor) -> torch.Tensor:
  def normalized(z: torch.Tensor) -> torch.Tensor:
    return z * (z.square().mean(dim=(1, 2), keepdim=True) + 1e-8).rsqrt()

  local = mlp(own.at('mapping.mlp'), normalized(z_BKZ[:, :-1]), own['pos'])
  last = mlp(own.at('mapping.global_mlp'), normalized(z_BKZ[:, -1:]), None)
  return torch.cat([local, last], dim=1)


def generate(
  own: Arrays, z_BKZ: torch.Tensor, positions: dict[int, torch.Tensor], noise: bool
) -> torch.Tensor:
  """Returns images (B, C, h, w); `positions` of pixels by resolution."""
  w_BKW = styles(own, z_BKZ)
  side, x = 4, own['synthesis.b4.const'].expand(len(z_BKZ), -1, -1, -1)

  def layer(
    block: Arrays, name: str, x: torch.Tensor, resample: str | None, gain: float
  ) -> torch.Tensor:
    layer = block.at(name)
    x = modulated(layer, x, w_BKW[:, -1], resample)
    flat = x.flatten(2).transpose(1, 2)
    told = w_BKW[:, :-1], positions[side], own['pos'], 'mul'
    flat = attend(layer.at('transformer'), flat, *told)
    x = flat.transpose(1, 2).reshape(x.shape)
    if noise:
      x = x + torch.randn(len(x), 1, side, side) * layer['noise_strength']
    return leaky(x + layer['biasAct.bias'][:, None, None], gain)

  x = layer(own.at('synthesis.b4'), 'conv1', x, None, 1.0)
  while own.has(f'synthesis.b{2 * side}.'):
    side *= 2
    block = own.at(f'synthesis.b{side}')
    skip = convolve(x, block['skip.weight'], 'up') * HALF
    x = layer(block, 'conv0', x, 'up', 1.0)
    x = layer(block, 'conv1', x, None, HALF) + skip
  x = modulated(block.at('conv_last'), x, w_BKW[:, -1])
  rgb = block.at('torgb')
  y = modulated(rgb, x, w_BKW[:, -1], demodulate=False)
  return y + rgb['biasAct.bias'][:, None, None]


def judge(own: Arrays, x: torch.Tensor, group: int = 4) -> torch.Tensor:
  """Returns logits (B,) of images (B, C, h, w)."""

  def conv(
    block: Arrays, name: str, x: torch.Tensor, down: bool = False, gain: float = 1.0
  ) -> torch.Tensor:
    y = convolve(x, block[f'{name}.weight'], 'down' if down else None)
    return leaky(y + block[f'{name}.biasAct.bias'][:, None, None], gain)

  side = x.shape[-1]
  x = conv(own.at(f'b{side}'), 'fromrgb', x)
  while side > 4:
    block = own.at(f'b{side}')
    skip = convolve(x, block['skip.weight'], 'down') * HALF
    x = conv(block, 'conv1', conv(block, 'conv0', x), True, HALF) + skip
    side //= 2
  rows = min(group, len(x))
  grouped = x.reshape(rows, -1, *x.shape[1:])
  deviation = (grouped.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
  plane = deviation.repeat(rows)[:, None, None, None].expand(-1, 1, 4, 4)
  x = conv(own.at('b4'), 'conv', torch.cat([x, plane], dim=1))
  x = leaky(dense(own.at('b4.fc'), x.flatten(1)))
  return dense(own.at('b4.out'), x)[:, 0]


class Side:
  """Training of both networks with Adam, from arrays of our networks."""

  def __init__(self, job: Any):
    self.torch = torch
    self.generator, self.discriminator = (
      {name: torch.from_numpy(x).requires_grad_() for name, x in arrays.items()}
      for arrays in job.arrays
    )
    self.positions = {n: torch.from_numpy(x) for n, x in job.positions.items()}
    self.real = torch.from_numpy(job.real).permute(0, 3, 1, 2).contiguous()
    self.latents, self.gamma = job.latents, job.gamma
    self.adams = [
      torch.optim.Adam(flat.values(), lr=0.002, betas=(0.0, 0.99), foreach=True)
      for flat in (self.generator, self.discriminator)
    ]

  def fakes(self) -> torch.Tensor:
    z = torch.randn(len(self.real), *self.latents)
    return generate(Arrays(self.generator), z, self.positions, noise=True)

  def losses(self) -> Iterator[torch.Tensor]:
    """Yields the losses of the generator and of the discriminator."""
    own = Arrays(self.discriminator)
    yield functional.softplus(-judge(own, self.fakes())).mean()
    with torch.no_grad():
      fake = self.fakes()
    real = functional.softplus(-judge(own, self.real))
    yield (real + functional.softplus(judge(own, fake))).mean()

  def train(self, steps: int) -> None:
    for _ in range(steps):
      flats = self.generator, self.discriminator
      for loss, flat, adam in zip(self.losses(), flats, self.adams, strict=True):
        grads = torch.autograd.grad(loss, list(flat.values()), allow_unused=True)
        self.update(flat, grads, adam)

  def regularize(self, steps: int) -> None:
    """Makes updates by R1."""
    flat = self.discriminator
    for _ in range(steps):
      real = self.real.detach().requires_grad_()
      logits = judge(Arrays(flat), real)
      (slope,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
      penalty = self.gamma / 2 * slope.square().sum(dim=(1, 2, 3)).mean()
      grads = torch.autograd.grad(penalty, list(flat.values()), allow_unused=True)
      self.update(flat, grads, self.adams[1])

  def update(self, flat: dict[str, Any], grads: tuple, adam: Any) -> None:
    for value, grad in zip(flat.values(), grads, strict=True):
      value.grad = grad
    adam.step()
