"""Measures the speed of a DETR against the one in transformers.

    python tools/benchmark/detr.py --config=configs/detr/coco.py:r50 \\
        --against=transformers

Random images with as many objects as in COCO stay on the device. Measurements are
interleaved: `train` is a whole step with matching, losses, clipping and AdamW;
`network` is the gradient of the network alone; `predict` is prediction. `match` is the
matching of a step alone.

The other side is the DetrForObjectDetection of transformers with the same sizes (the
extra `parity`). On CUDA it is compiled except for its losses (which are of every layer,
as ours), with fused AdamW; in float32 both sides may use TF32. --profile shows how the
time of a step is spent. Prints JSON, and a short table on stderr.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import rich.box
import rich.console
import rich.table

from big_vision_like import cli, errors, spec
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.ops import matching
from big_vision_like.tasks import set_detection
from big_vision_like.weights import detr as weights

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark import step as benchmark
from tools.benchmark.parts import trace_bill

ROWS, MEAN_OBJECTS = 100, 7.3  # rows for objects of an image, mean number in COCO
WORKS = ('train', 'match', 'network', 'predict')
RATES = (1e-4, 1e-5)  # learning rates of other parameters and of the backbone


def drawn(batch_size: int, height: int, width: int, classes: int) -> dict[str, Any]:
  """Returns a batch of noise, partly padded, with objects."""
  rng = np.random.default_rng(0)
  shape = batch_size, ROWS
  sides_B2 = np.array([height, width])
  size_B2 = np.rint(rng.uniform(0.85, 1.0, (batch_size, 2)) * sides_B2)
  count_B = rng.geometric(1 / MEAN_OBJECTS, batch_size).clip(max=ROWS // 2)
  center_BK2 = rng.uniform(0.2, 0.8, (*shape, 2))
  half_BK2 = rng.uniform(0.02, 0.2, (*shape, 2))
  corners_BK4 = np.concatenate([center_BK2 - half_BK2, center_BK2 + half_BK2], axis=-1)
  inside_BHW = inside(size_B2, height, width)
  image_BHWC = rng.integers(0, 256, (batch_size, height, width, 3), np.uint8)
  return {
    'image': image_BHWC * inside_BHW[..., None],
    'size': size_B2.astype(np.int32),
    'boxes': (corners_BK4 * np.tile(size_B2[:, None, ::-1], 2)).astype(np.float32),
    'box_labels': rng.integers(0, classes, shape, np.int32),
    'box_mask': np.arange(ROWS) < count_B[:, None],
  }


def inside(size_B2: np.ndarray, height: int, width: int) -> np.ndarray:
  """Returns a mask of the pixels that are not padding: bool (B, H, W)."""
  rows_BH = np.arange(height) < size_B2[:, :1]
  columns_BW = np.arange(width) < size_B2[:, 1:]
  return rows_BH[:, :, None] & columns_BW[:, None]


class Ours:
  """A config's task: its step and its parts, compiled for one batch on the device."""

  def __init__(self, task: set_detection.Detection, batch: dict[str, Any]):
    self.task, self.batch, self.key = task, jax.device_put(batch), jax.random.key(0)
    self.state = jax.jit(task.init)(self.key, self.batch)

  @functools.cached_property
  def traced(self) -> Any:
    step = jax.jit(self.task.train_step, donate_argnums=0)
    return step.trace(self.state, self.batch, self.key)

  @functools.cached_property
  def step(self) -> Any:
    return self.traced.lower().compile()

  @functools.cached_property
  def gradient(self) -> Callable[..., Any]:
    def total(params: Any, state: Any, batch: Any) -> jax.Array:
      inputs = self.task.model_inputs(batch)
      outputs, _ = self.task.trained(
        self.task.optimizer.freeze(params), state.mutable, inputs, dropout=self.key
      )
      return outputs['logits'].sum() + outputs['boxes'].sum()

    return jax.jit(lambda state, batch: jax.grad(total)(state.params, state, batch))

  @functools.cached_property
  def prediction(self) -> Callable[..., Any]:
    def predict(state: Any, batch: Any) -> list[jax.Array]:
      found = self.task.predict(state, batch, self.key)
      return [found[name] for name in ('scores', 'labels', 'logits', 'boxes')]

    return jax.jit(predict)

  @functools.cached_property
  def to_match(self) -> tuple[jax.Array, jax.Array]:
    """The costs of all layers, each with the predictions of the last one."""
    *_, logits_BQC, boxes_BQ4 = self.prediction(self.state, self.batch)
    objects, costs = set_detection.objects_of(self.batch), self.task.costs
    cost_BKQ = set_detection.pair_costs(
      logits_BQC, boxes_BQ4, objects, set_detection.COSTS | costs
    )
    layers = self.task.model.decoder_depth if self.task.auxiliary else 1
    valid_BK = jnp.tile(objects.valid_BK, (layers, 1))
    return jnp.tile(cost_BKQ, (layers, 1, 1)), valid_BK

  @functools.cached_property
  def matching(self) -> Callable[..., Any]:
    return jax.jit(matching.match)

  def train(self, steps: int) -> None:
    for _ in range(steps):
      self.state, scalars = self.step(self.state, self.batch, self.key)
    jax.block_until_ready((self.state, scalars))

  def network(self, steps: int) -> None:
    self._repeated(steps, self.gradient, self.state, self.batch)

  def predict(self, steps: int) -> None:
    self._repeated(steps, self.prediction, self.state, self.batch)

  def match(self, steps: int) -> None:
    self._repeated(steps, self.matching, *self.to_match)

  def _repeated(self, steps: int, work: Callable[..., Any], *arguments: Any) -> None:
    for _ in range(steps):
      result = work(*arguments)
    jax.block_until_ready(result)


@dataclasses.dataclass(frozen=True)
class Job:
  """Arguments of the process of transformers, as plain data.

  `config` are fields of DetrConfig; `objects` are classes and boxes of each image.
  """

  config: dict[str, Any]
  dtype: str
  weight_decay: float
  clip_norm: float
  image: np.ndarray
  inside: np.ndarray
  objects: Sequence[tuple[np.ndarray, np.ndarray]]
  mean: Sequence[float]
  std: Sequence[float]
  cuda: bool
  compiled: bool


def job(
  task: set_detection.Detection, batch: dict[str, np.ndarray], compiled: bool
) -> Job:
  """Returns the job of the same model and batch; `UserError` if not supported."""
  model, backbone = task.model, task.model.backbone
  lacks = {
    'masks': model.masks,
    'a dilated backbone': backbone.dilated,
    "norm='pre'": model.norm != 'post',
    "positions other than sine at 'attention'": model.positions != 'sine'
    or set(model.positions_at) != {'attention'},
  }
  if any(lacks.values()):
    listed = ', '.join(name for name, wanted in lacks.items() if wanted)
    raise UserError(f'--against transformers: cannot compare {listed}.')
  told = fields(model) | {'backbone': fields(backbone)}
  dropouts = ('dropout', 'attention_dropout', 'activation_dropout')
  costs = set_detection.COSTS | dict(task.costs)
  objects = jax.device_get(set_detection.objects_of(batch))
  return Job(
    config=weights.config(told, model.num_classes)
    | dict.fromkeys(dropouts, model.dropout)
    | dict(
      auxiliary_loss=task.auxiliary,
      class_cost=int(costs['class']),
      bbox_cost=int(costs['l1']),
      giou_cost=int(costs['giou']),
    ),
    dtype=model.dtype,
    weight_decay=task.optimizer.weight_decay,
    clip_norm=task.optimizer.clip_norm,
    image=batch['image'],
    inside=inside(batch['size'], *batch['image'].shape[1:3]),
    objects=[
      (label_K[valid_K].astype(np.int64), boxes_K4[valid_K])
      for boxes_K4, label_K, valid_K in zip(*objects, strict=True)
    ],
    mean=task.mean,
    std=task.std,
    cuda=jax.default_backend() == 'gpu',
    compiled=compiled,
  )


def fields(module: nn.Module) -> dict[str, Any]:
  """Returns the arguments of a module, including defaults."""
  return {f.name: getattr(module, f.name) for f in dataclasses.fields(module)}


class Transformers(benchmark.OnTorch):
  """The DETR of transformers with the same sizes, trained on the same batch."""

  def __init__(self, job: Job):
    super().__init__('transformers', job.cuda, job.dtype)
    torch, transformers = self.torch, self.library
    torch.set_float32_matmul_precision('high')
    torch.backends.cudnn.benchmark = True
    config = transformers.DetrConfig.from_dict(job.config)
    self.net = transformers.DetrForObjectDetection(config).to(self.device)
    groups: list[list] = [[], []]
    for name, parameter in self.net.named_parameters():
      # By default it freezes more than the published code: root and first stage only.
      in_backbone = '.backbone.' in name
      parameter.requires_grad_('.embedder.' not in name and '.stages.0.' not in name)
      if parameter.requires_grad:
        groups[in_backbone].append(parameter)
    self.learned = sum(groups, [])
    self.optimizer = torch.optim.AdamW(
      [dict(params=group, lr=rate) for group, rate in zip(groups, RATES, strict=True)],
      weight_decay=job.weight_decay,
      fused=True,
    )
    self.clip_norm = job.clip_norm
    if job.cuda and job.compiled:
      # Not the losses: these match on the host, where the compiler gives up.
      self.net.model.compile()
    # As on our side: the batch as the input has it, on the device.
    self.image_BHWC, self.inside_BHW = map(self._put, (job.image, job.inside))
    self.mean, self.std = (
      torch.tensor(x, device=self.device)[:, None, None] for x in (job.mean, job.std)
    )
    self.objects = [
      {'class_labels': self._put(labels), 'boxes': self._put(boxes)}
      for labels, boxes in job.objects
    ]

  def _put(self, array: np.ndarray) -> Any:
    return self.torch.from_numpy(np.array(array)).to(self.device)

  def outputs(self, labels: list | None = None) -> Any:
    image_BCHW = self.image_BHWC.permute(0, 3, 1, 2).float() / 255.0
    image_BCHW = (image_BCHW - self.mean) / self.std * self.inside_BHW[:, None]
    with self.autocast():
      return self.net(image_BCHW, pixel_mask=self.inside_BHW.long(), labels=labels)

  def train(self, steps: int) -> None:
    self.net.train()
    for _ in range(steps):
      self.optimizer.zero_grad(set_to_none=True)
      self.outputs(self.objects).loss.backward()
      self.torch.nn.utils.clip_grad_norm_(self.learned, self.clip_norm)
      self.optimizer.step()
    self.wait()

  def network(self, steps: int) -> None:
    self.net.train()
    for _ in range(steps):
      self.optimizer.zero_grad(set_to_none=True)
      outputs = self.outputs()
      (outputs.logits.float().sum() + outputs.pred_boxes.float().sum()).backward()
    self.wait()

  def predict(self, steps: int) -> None:
    self.net.eval()
    with self.torch.inference_mode():
      for _ in range(steps):
        self.outputs()
    self.wait()


def task_of(config: mlc.ConfigDict) -> set_detection.Detection:
  """Returns the task of a config; its data and weights are not needed."""
  plain = spec.in_steps(config)
  task = spec.build(plain['task'], 'config.task')
  if not isinstance(task, set_detection.Detection):
    raise UserError(f'config.task is a {type(task).__name__}, not Detection.')
  return task


def run(task: set_detection.Detection, args: argparse.Namespace) -> dict[str, Any]:
  """Takes all measurements; prints each at once, since compilation takes minutes."""
  height, width = args.image_size
  batch = drawn(args.batch_size, height, width, task.model.num_classes)
  task.check(batch)
  theirs = None
  if args.against:
    theirs = benchmark.Theirs(Transformers, job(task, batch, not args.eager))
  ours = Ours(task, batch)
  result: dict[str, Any] = {
    'config': args.config,
    'device': jax.devices()[0].device_kind,
    'jax': jax.__version__,
    'dtype': task.model.dtype,
    'batch_size': args.batch_size,
    'image_size': [height, width],
    'parameters': sum(x.size for x in jax.tree.leaves(ours.state.params)),
  }
  if theirs:
    result |= {'torch': theirs.version, 'eager': args.eager}
  for work in args.only:
    sides = {'ours': getattr(ours, work)}
    if theirs and work != 'match':
      sides['transformers'] = functools.partial(theirs.ask, work)
    times = measured(list(sides.values()), args.repeats, args.steps)
    found = {
      name: benchmark.summary(seconds, args.batch_size)
      for name, seconds in zip(sides, times, strict=True)
    }
    if len(times) == 2:
      found['ratio'] = np.median(times[1]) / np.median(times[0])
    result[work] = found
    console().print(table(work, found))
    if work == 'train':
      result['operations_per_step'] = flops.total(ours.traced.jaxpr)
    if work == 'train' and args.profile:
      result['profile'] = profile(ours, pathlib.Path(args.profile))
      for entry in result['profile']['operations']:
        console().print(f'{1e3 * entry["seconds"]:9.3f} ms  {entry["name"]}')
  if theirs:
    theirs.close()
  return result


def measured(sides: Sequence[Callable], repeats: int, steps: int | None) -> list[list]:
  """Measures as `benchmark.measured`, but compiles all sides at the same time."""

  def first(number: int) -> None:
    started = time.perf_counter()
    sides[number](1)
    seconds = time.perf_counter() - started
    console().print(
      f'{"ours" if number == 0 else "theirs"}: first after {seconds:.0f} s'
    )

  with concurrent.futures.ThreadPoolExecutor() as pool:
    list(pool.map(first, range(len(sides))))
  return benchmark.measured(sides, repeats, steps)


def profile(ours: Ours, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the breakdown of a step's time; the trace stays in the folder."""
  with benchmark.traced(folder):
    ours.train(benchmark.TRACED_STEPS)
  sources = trace_bill.sources_of(ours.step.as_text())
  return trace_bill.bill(folder, benchmark.TRACED_STEPS, sources)


def table(work: str, found: dict[str, Any]) -> rich.table.Table:
  """Returns a table of the measurements of one work."""
  rows = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  for name in (work, 'step', 'p10 - p90', 'images/s'):
    rows.add_column(name, justify='left' if name == work else 'right')
  for side in ('ours', 'transformers'):
    if side in found:
      rows.add_row(side, *benchmark.cells(found[side]))
  if 'ratio' in found:
    rows.add_row('', f'{found["ratio"]:.2f} times as fast', '', '')
  return rows


def console() -> rich.console.Console:
  return rich.console.Console(stderr=True, soft_wrap=True, highlight=False)


def size_of(text: str) -> tuple[int, int]:
  """Parses height and width in '768x1024'."""
  height, by, width = text.partition('x')
  if not (by and height.isdigit() and width.isdigit() and int(height) * int(width)):
    raise argparse.ArgumentTypeError(f'{text} is not HEIGHTxWIDTH')
  return int(height), int(width)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    '--batch-size', type=int, default=16, help='examples per step; default: %(default)s'
  )
  parser.add_argument(
    '--image-size',
    type=size_of,
    default=(768, 1024),
    help='HEIGHTxWIDTH of padded images; default: 768x1024',
  )
  parser.add_argument(
    '--repeats',
    type=int,
    default=10,
    help='number of measurements; default: %(default)s',
  )
  parser.add_argument(
    '--steps', type=int, help='steps per measurement; default: about 0.3 s'
  )
  parser.add_argument(
    '--only', nargs='+', choices=WORKS, default=WORKS, help='works to measure'
  )
  parser.add_argument(
    '--against', choices=['transformers'], help='also measure the DETR of this library'
  )
  parser.add_argument(
    '--eager', action='store_true', help='do not compile on the side of PyTorch'
  )
  parser.add_argument(
    '--profile', metavar='FOLDER', help='write a trace there, print a breakdown of time'
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args, config = cli.parse(parser, argv)
  for name in ('batch_size', 'repeats', 'steps'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise UserError(f'--{name.replace("_", "-")} must be 1 or more.')
  if args.against:
    # Both frameworks share the GPU; JAX would allocate three quarters of it at once.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  result = run(task_of(config), args)
  benchmark.write(result, args.output)


if __name__ == '__main__':
  raise SystemExit(main())
