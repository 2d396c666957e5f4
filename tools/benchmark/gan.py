"""Measures training steps of a GANsformer against plain PyTorch, on the CPU.

    python tools/benchmark/gan.py --size=64x16x8 --against=torch

The size is resolution x channels at this resolution x batch. Duplex attention with four
components of width 16, batches of noise, Adam for both networks. Measurements are
interleaved: `train` is a step of both networks without regularization, `regularize` an
update by R1, which training makes every 16 steps. `scaled` and `grouped` are the forms
of one modulated convolution, up to 4 times as many channels at a quarter of the
resolution, with gradients. The other side is `parts/torch_gan.py` (the extra `parity`),
whose images are first compared with ours. Prints JSON, and a table on stderr.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console

from big_vision_like import cli, errors, optim
from big_vision_like.layers import synthesis
from big_vision_like.models import discriminator, gansformer
from big_vision_like.ops import modulation
from big_vision_like.tasks import adversarial
from big_vision_like.weights import gansformer_names as names

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark

COMPONENTS, WIDTH, GAMMA = 4, 16, 10.0
EVERY = 16  # steps of training for an update by R1


@dataclasses.dataclass
class Job:
  """What the other side needs: arrays by published names, and a batch."""

  arrays: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
  positions: dict[int, np.ndarray]
  real: np.ndarray
  latents: tuple[int, int]
  gamma: float = GAMMA


class Ours:
  """Our task on a batch, and its compiled steps."""

  def __init__(self, resolution: int, channels: int, batch: int):
    size = dict(
      resolution=resolution,
      channel_base=channels * resolution,
      channel_max=8 * channels,
    )
    self.task = adversarial.Adversarial(
      generator=gansformer.Generator(
        components=COMPONENTS,
        latent_width=WIDTH,
        attention=dict(duplex=True, dropout=0.0),
        **size,
      ),
      discriminator=discriminator.Discriminator(dropout=0.0, **size),
      generator_optimizer=optim.adamw(0.002, b1=0.0, b2=0.99),
      discriminator_optimizer=optim.adamw(0.002, b1=0.0, b2=0.99),
      ema=optim.Ema(half_life=10_000, collections=('params',)),
      r1=GAMMA,
      r1_every=EVERY,
      mixing=0.0,
    )
    rng = np.random.default_rng(0)
    shape = batch, resolution, resolution, 3
    self.batch = {'image': rng.uniform(-1, 1, shape).astype(np.float32)}
    self.key = jax.random.key(0)
    self.state = jax.jit(self.task.init)(self.key, self.batch)
    plain = dataclasses.replace(self.task, r1=0.0)

    def regularized(state: Any, batch: Any, key: jax.Array) -> Any:
      return self.task._regularized(
        'r1', state.replace(step=0 * state.step), batch, key
      )

    self.step = jax.jit(plain.train_step)
    self.penalty = jax.jit(regularized)

  @property
  def job(self) -> Job:
    own = self.state.mutable[adversarial.GENERATOR]
    params = self.state.params
    generator = names.to_generator({'params': params['generator'], **own})
    judge = names.to_discriminator({'params': params['discriminator']})
    sides = synthesis.resolutions(self.task.generator.resolution)
    positions = {n: np.array(synthesis.grid_positions(n, WIDTH)) for n in sides}
    parts = [{k: np.array(x) for k, x in part.items()} for part in (generator, judge)]
    latents = self.task.generator.num_latents, WIDTH
    return Job(tuple(parts), positions, self.batch['image'], latents)

  def train(self, steps: int) -> None:
    for _ in range(steps):
      state, _ = self.step(self.state, self.batch, self.key)
    jax.block_until_ready(state)

  def regularize(self, steps: int) -> None:
    for _ in range(steps):
      state = self.penalty(self.state, self.batch, self.key)
    jax.block_until_ready(state)


class Torch:
  """The other side, made in PyTorch's process."""

  def __new__(cls, job: Job) -> Any:
    benchmark.import_beside_torch('torch')
    from tools.benchmark.parts import torch_gan

    return torch_gan.Side(job)


def difference(ours: Ours) -> float:
  """Returns the largest difference of images of the same latents, without noise."""
  torch, _ = benchmark.import_beside_torch('torch')
  from tools.benchmark.parts import torch_gan

  job = ours.job
  z = np.random.default_rng(1).normal(size=(2, *job.latents)).astype(np.float32)
  arrays = {name: torch.from_numpy(x) for name, x in job.arrays[0].items()}
  where = {n: torch.from_numpy(x) for n, x in job.positions.items()}
  own = torch_gan.Arrays(arrays)
  theirs = torch_gan.generate(own, torch.from_numpy(z), where, noise=False)
  state = ours.state
  variables = {'params': state.params['generator'], **state.mutable['generator']}
  found = jax.jit(ours.task.generator.apply, static_argnames='noise')(
    variables, z, noise='none'
  )['image']
  return float(np.abs(theirs.permute(0, 2, 3, 1).numpy() - found).max())


def forms(resolution: int, channels: int, batch: int, repeats: int) -> dict[str, Any]:
  """Measures both forms of a modulated convolution with its gradients."""
  side, width = max(4, resolution // 4), 4 * channels
  keys = jax.random.split(jax.random.key(0), 3)
  x = jax.random.normal(keys[0], (batch, side, side, width))
  kernel = jax.random.normal(keys[1], (3, 3, width, width)) / (3 * width**0.5)
  style = jax.random.normal(keys[2], (batch, width))
  works = []
  for form in modulation.FORMS:

    def loss(
      x: jax.Array, kernel: jax.Array, style: jax.Array, form: str = form
    ) -> Any:
      return jnp.square(modulation.modulated_conv(x, kernel, style, form=form)).sum()

    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))

    def work(times: int, program: Callable = program) -> None:
      for _ in range(times):
        found = program(x, kernel, style)
      jax.block_until_ready(found)

    works.append(work)
  times = benchmark.measured(works, repeats, None)
  sides = {
    form: benchmark.summary(own, batch)
    for form, own in zip(modulation.FORMS, times, strict=True)
  }
  return {'model': f'modulated 3x3, {width} channels', 'work': 'gradient'} | {
    'sides': sides,
    'ratios': {'grouped': float(np.median(times[1]) / np.median(times[0]))},
  }


def compared(ours: Ours, theirs: Any, repeats: int, name: str) -> list[dict[str, Any]]:
  """Returns measurements of each kind of step on both sides."""
  batch, found, medians = len(ours.batch['image']), [], []
  for work in ('train', 'regularize'):
    sides = {'ours': getattr(ours, work)}
    if theirs is not None:
      sides['PyTorch'] = lambda steps, work=work: theirs.ask(work, steps)
    times = benchmark.measured(list(sides.values()), repeats, None)
    medians.append([float(np.median(own)) for own in times])
    ratios = {'PyTorch': medians[-1][1] / medians[-1][0]} if theirs else {}
    summaries = {
      side: benchmark.summary(own, batch)
      for side, own in zip(sides, times, strict=True)
    }
    found.append(dict(model=name, work=work, sides=summaries, ratios=ratios))
  if theirs is not None:
    ours_s, torch_s = (a + b / EVERY for a, b in zip(*medians, strict=True))
    found[0]['ratio_with_r1'] = torch_s / ours_s
  return found


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    '--size', default='64x16x8', help='resolution x channels x batch; %(default)s'
  )
  parser.add_argument('--against', choices=('torch',), help='the other side, if any')
  parser.add_argument(
    '--repeats', type=int, default=7, help='number of measurements; %(default)s'
  )
  parser.add_argument('--output', metavar='FILE', help='file for the JSON, not stdout')
  args = parser.parse_args(argv)
  size = benchmark.size(args.size, 'resolution x channels x batch', '64x16x8')
  if args.repeats < 1:
    raise errors.UserError('--repeats must be 1 or more.')
  cli.set_up_jax()
  ours, theirs, result = Ours(*size), None, {}
  if args.against:
    result['largest_difference'] = difference(ours)
    theirs = benchmark.Theirs(Torch, ours.job)
  name = f'GANsformer {args.size}'
  found = compared(ours, theirs, args.repeats, name) + [forms(*size, args.repeats)]
  if theirs is not None:
    theirs.close()
    result['torch'] = theirs.version
  console = rich.console.Console(stderr=True, width=88, highlight=False)
  for own in found:
    console.print(benchmark.comparison(own, 'images/s'))
  device = {'device': jax.devices()[0].device_kind, 'jax': jax.__version__}
  benchmark.write(device | result | {'works': found}, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
