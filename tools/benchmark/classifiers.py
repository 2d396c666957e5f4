"""Measures the speed of classifiers against the models of the same name in timm.

TimeSformers, `timesformer_base` and others, are measured against transformers', with
clips of --frames frames.

    python tools/benchmark/classifiers.py efficientnet_b0 --batch-size=8

Random images stay on the device. `train` is a whole step with cross-entropy and AdamW;
`predict` computes logits. Measurements of our side and of timm's on PyTorch (the extra
`parity`) are interleaved. Each side that --torch names has its own process: `default`,
`channels_last` (NHWC in memory), `compiled` (torch.compile) or
`compiled_channels_last`. Both frameworks use all cores. --profile shows how the time of
our step is spent. Prints JSON, and a short table on stderr.
"""

import argparse
import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import rich.console

from big_vision_like import errors, optim
from big_vision_like.cost import flops
from big_vision_like.devices import malloc
from big_vision_like.models import (
  deit,
  efficientnet,
  regnet,
  swin,
  t2t_vit,
  timesformer,
  vit,
)
from big_vision_like.tasks import classification

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark
from tools.benchmark.parts import trace_bill

CLASSES = 1000
WORKS = ('train', 'predict')
SIDES = ('default', 'channels_last', 'compiled', 'compiled_channels_last')


def symmetric(name: str) -> nn.Module:
  """Builds an EfficientNet with the padding and the norms of PyTorch."""
  return efficientnet.EfficientNet(
    CLASSES, padding='symmetric', epsilon=1e-5, **efficientnet.variant(name)
  )


def clips(size: str, attention: str) -> nn.Module:
  """Builds a TimeSformer as transformers does."""
  return timesformer.TimeSformer(
    CLASSES, **timesformer.variant(size), attention=attention, drop_path=0.0
  )


# Our models by their names in timm, without dropout on both sides.
MODELS: dict[str, Callable[[], nn.Module]] = {
  'deit_small_distilled_patch16_224': lambda: deit.DeiT(
    CLASSES, pool='token', **deit.variant('S/16')
  ),
  'deit_base_distilled_patch16_224': lambda: deit.DeiT(
    CLASSES, pool='token', **deit.variant('B/16')
  ),
  'efficientnet_b0': functools.partial(symmetric, 'B0'),
  'efficientnet_b4': functools.partial(symmetric, 'B4'),
  'swin_tiny_patch4_window7_224': lambda: swin.Swin(
    num_classes=CLASSES, **swin.variant('T')
  ),
  'swin_base_patch4_window7_224': lambda: swin.Swin(
    num_classes=CLASSES, **swin.variant('B')
  ),
  't2t_vit_14': lambda: t2t_vit.T2TViT(
    num_classes=CLASSES, pool='token', token_dropout=0.0, **t2t_vit.variant('14')
  ),
  'tf_efficientnet_b0': lambda: efficientnet.EfficientNet(
    CLASSES, **efficientnet.variant('B0')
  ),
  'regnety_040': lambda: regnet.RegNet(num_classes=CLASSES, **regnet.variant('Y-4GF')),
  'timesformer_base': functools.partial(clips, 'B/16', 'divided'),
  'timesformer_small': functools.partial(clips, 'S/16', 'divided'),
  'timesformer_joint_small': functools.partial(clips, 'S/16', 'joint'),
  'vit_small_patch16_224': lambda: vit.ViT(
    CLASSES, pool='token', activation='gelu_exact', **vit.variant('S/16')
  ),
}
# Their attention in transformers, whose models take clips.
OF_CLIPS = {
  name: f'{"joint" if "joint" in name else "divided"}_space_time'
  for name in MODELS
  if name.startswith('timesformer')
}
# Their other side is written in plain PyTorch, from the paper's equations.
NOT_IN_TIMM = ('t2t_vit_14',)


class Ours:
  """The training step and prediction of a model, compiled for a batch on the device."""

  def __init__(self, model: nn.Module, batch: dict[str, np.ndarray]):
    self.task = classification.Classification(
      model=model,
      inputs=[name for name in batch if name != 'label'],
      optimizer=optim.adamw(1e-4, weight_decay=0.05),
    )
    self.batch, self.key = jax.device_put(batch), jax.random.key(0)
    self.state = jax.jit(self.task.init)(self.key, self.batch)

  @functools.cached_property
  def traced(self) -> Any:
    step = jax.jit(self.task.train_step, donate_argnums=0)
    return step.trace(self.state, self.batch, self.key)

  @functools.cached_property
  def step(self) -> Any:
    return self.traced.lower().compile()

  @functools.cached_property
  def prediction(self) -> Callable[..., Any]:
    def logits(state: Any, batch: Any) -> jax.Array:
      return self.task.predict(state, batch, self.key)['logits']

    return jax.jit(logits)

  def train(self, steps: int) -> None:
    for _ in range(steps):
      self.state, scalars = self.step(self.state, self.batch, self.key)
    jax.block_until_ready((self.state, scalars))

  def predict(self, steps: int) -> None:
    for _ in range(steps):
      result = self.prediction(self.state, self.batch)
    jax.block_until_ready(result)


@dataclasses.dataclass(frozen=True)
class Job:
  """Arguments of timm's process, as plain data."""

  name: str
  side: str
  image: np.ndarray
  label: np.ndarray
  cuda: bool
  dtype: str


class Timm(benchmark.OnTorch):
  """A model of timm, trained on the same batch by PyTorch."""

  def __init__(self, job: Job):
    super().__init__('timm', job.cuda, job.dtype)
    torch = self.torch
    self.format = torch.contiguous_format
    if job.side.endswith('channels_last'):
      self.format = torch.channels_last
    self.net = self.made(job).to(self.device, memory_format=self.format)
    for module in self.net.modules():
      if isinstance(module, torch.nn.Dropout):
        module.p = 0.0
    self.call = torch.compile(self.net) if 'compiled' in job.side else self.net
    self.optimizer = torch.optim.AdamW(
      self.net.parameters(), lr=1e-4, weight_decay=0.05, fused=True
    )
    self.image_BHWC = torch.from_numpy(job.image).to(self.device)
    self.label_B = torch.from_numpy(job.label.astype(np.int64)).to(self.device)

  def made(self, job: Job) -> Any:
    """Builds the timm model, or the plain PyTorch one where timm has none."""
    if job.name in NOT_IN_TIMM:
      from tools.benchmark.parts import torch_t2t_vit

      size = job.image.shape[1]
      return torch_t2t_vit.make(job.name.removeprefix('t2t_vit_'), CLASSES, size)
    if job.name in OF_CLIPS:
      return self.of_clips(job)
    return self.library.create_model(job.name, pretrained=False, num_classes=CLASSES)

  def of_clips(self, job: Job) -> Any:
    """Builds the model of transformers for clips, with the sizes of ours."""
    import transformers

    ours, (_, frames, size, *_) = MODELS[job.name](), job.image.shape
    config = transformers.TimesformerConfig(
      image_size=size,
      patch_size=ours.patch,
      num_frames=frames,
      hidden_size=ours.width,
      num_hidden_layers=ours.depth,
      num_attention_heads=ours.num_heads,
      intermediate_size=ours.mlp_dim,
      attention_type=OF_CLIPS[job.name],
      drop_path_rate=0,
      num_labels=CLASSES,
    )
    return transformers.TimesformerForVideoClassification(config)

  def logits(self) -> Any:
    if self.image_BHWC.ndim == 5:
      video_BTCHW = self.image_BHWC.permute(0, 1, 4, 2, 3).float() / 127.5 - 1.0
      with self.autocast():
        return self.call(video_BTCHW.contiguous()).logits
    image_BCHW = self.image_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with self.autocast():
      return self.call(image_BCHW.contiguous(memory_format=self.format))

  def train(self, steps: int) -> None:
    functional = self.torch.nn.functional
    self.net.train()
    for _ in range(steps):
      self.optimizer.zero_grad(set_to_none=True)
      loss = functional.cross_entropy(self.logits().float(), self.label_B)
      loss.backward()
      self.optimizer.step()
    self.wait()

  def predict(self, steps: int) -> None:
    self.net.eval()
    with self.torch.inference_mode():
      for _ in range(steps):
        self.logits()
    self.wait()


def run(name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """Yields all measurements of one model."""
  rng = np.random.default_rng(0)
  size, of_clips = args.image_size, name in OF_CLIPS
  shape = (args.frames, size, size, 3) if of_clips else (size, size, 3)
  batch = {
    'video' if of_clips else 'image': rng.integers(
      0, 256, (args.batch_size, *shape), np.uint8
    ),
    'label': rng.integers(0, CLASSES, args.batch_size, np.int32),
  }
  ours = Ours(MODELS[name]().clone(dtype=args.dtype), batch)
  cuda = jax.default_backend() == 'gpu'
  jobs = [Job(name, side, *batch.values(), cuda, args.dtype) for side in args.torch]
  with contextlib.ExitStack() as stack:
    theirs = [benchmark.Theirs(Timm, job) for job in jobs]
    for side in theirs:
      stack.callback(side.close)
    for work in args.only:
      sides = [getattr(ours, work), *(getattr(side, work) for side in theirs)]
      times = benchmark.measured(sides, args.repeats, args.steps)
      library = 'PyTorch' if name in NOT_IN_TIMM else 'timm'
      library = 'transformers' if of_clips else library
      names = 'ours', *(f'{library}, {side}' for side in args.torch)
      found = {
        side: benchmark.summary(seconds, args.batch_size)
        for side, seconds in zip(names, times, strict=True)
      }
      medians = [np.median(seconds) for seconds in times]
      result = {
        'model': name,
        'work': work,
        'batch_size': args.batch_size,
        'image_size': size,
        **({'frames': args.frames} if of_clips else {}),
        'dtype': args.dtype,
        'device': jax.devices()[0].device_kind,
        'jax': jax.__version__,
        'torch': theirs[0].version if theirs else None,
        'sides': found,
        'ratios': {
          side: seconds / medians[0]
          for side, seconds in zip(names[1:], medians[1:], strict=True)
        },
      }
      if work == 'train':
        result['operations_per_step'] = flops.total(ours.traced.jaxpr)
        if args.profile:
          result['profile'] = profile(ours, pathlib.Path(args.profile) / name)
      yield result


def profile(ours: Ours, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the breakdown of a step's time; the trace stays in the folder."""
  with benchmark.traced(folder):
    ours.train(benchmark.TRACED_STEPS)
  sources = trace_bill.sources_of(ours.step.as_text())
  return trace_bill.bill(folder, benchmark.TRACED_STEPS, sources)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    'models', nargs='+', choices=MODELS, metavar='MODEL', help='one of %(choices)s'
  )
  parser.add_argument(
    '--batch-size', type=int, default=8, help='examples per step; default: %(default)s'
  )
  parser.add_argument(
    '--image-size', type=int, default=224, help='side in pixels; default: %(default)s'
  )
  parser.add_argument(
    '--frames', type=int, default=8, help='frames of a clip; default: %(default)s'
  )
  parser.add_argument(
    '--dtype',
    choices=['float32', 'bfloat16'],
    default='float32',
    help='type of activations; default: %(default)s',
  )
  parser.add_argument(
    '--repeats',
    type=int,
    default=5,
    help='number of measurements; default: %(default)s',
  )
  parser.add_argument(
    '--steps', type=int, help='steps per measurement; default: about 0.3 s'
  )
  parser.add_argument(
    '--only', nargs='+', choices=WORKS, default=WORKS, help='works to measure'
  )
  parser.add_argument(
    '--torch', nargs='*', choices=SIDES, default=SIDES[:2], help='variants of timm'
  )
  parser.add_argument(
    '--profile', metavar='FOLDER', help='write traces there, print a breakdown of time'
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args = parser.parse_args(argv)
  for name in ('batch_size', 'image_size', 'frames', 'repeats', 'steps'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise errors.UserError(f'--{name.replace("_", "-")} must be 1 or more.')
  # As in training. PyTorch's processes keep their default allocator.
  malloc.keep_memory()
  # Both frameworks share the GPU; JAX would allocate three quarters of it at once.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  console = rich.console.Console(stderr=True, soft_wrap=True, highlight=False)
  results = []
  for name in args.models:
    for result in run(name, args):
      console.print(benchmark.comparison(result, 'images/s'))
      for entry in result.get('profile', {}).get('operations', ()):
        console.print(
          f'{1e3 * entry["seconds"]:9.3f} ms  {entry["name"]}', markup=False
        )
      results.append(result)
  benchmark.write({'results': results}, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
