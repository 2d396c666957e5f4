"""Measures a config's training step, prediction, and share of the peak throughput.

    python tools/benchmark/step.py --config=configs/vit/pretrain_glyphs.py

Prints JSON, and a short table on stderr. The config's first batch stays on the device,
so that input is not measured, unless --with-input is given. The peak is the throughput
of large square matrix products, measured in the same run.

--against timm also measures timm's ViT or Swin of the same sizes, interleaved with
ours: forward, backward, clipping and fused AdamW, compiled on CUDA. Only our side has
mixup and averages.
--profile FOLDER writes a trace and prints how the time of a step is spent.
--checkpoint measures how long saving delays training.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
import numpy as np
import rich.box
import rich.console
import rich.table

from big_vision_like import cli, errors, files
from big_vision_like.cost import flops
from big_vision_like.devices import chips
from big_vision_like.models import swin, vit
from big_vision_like.ops import sharding
from big_vision_like.run import checkpoint, experiment

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tools.benchmark.parts import trace_bill

REPEAT_SECONDS = 0.3  # duration of one measurement
TRACED_STEPS = 5

# A function that repeats its work n times, and returns when this is done.
Work = Callable[[int], None]


class Ours:
  """The compiled step and prediction of a config, for one batch on the devices."""

  def __init__(self, run: experiment.Experiment):
    self.run = run
    self.batch = sharding.put(run.example, run.mesh)
    self.state = run.init()
    traced = run.compiled_step.trace(self.state, self.batch)
    self.operations = flops.total(traced.jaxpr)
    self.step = traced.lower().compile()

    def predict(state, batch):
      with sharding.on_mesh(run.mesh):
        outputs = run.task.predict(state, batch, run.key)
      return outputs.get('logits', outputs)

    self.prediction = jax.jit(predict).lower(self.state, self.batch).compile()

  def train(self, steps: int) -> None:
    for _ in range(steps):
      self.state, scalars = self.step(self.state, self.batch)
    jax.block_until_ready((self.state, scalars))

  def predict(self, steps: int) -> None:
    for _ in range(steps):
      outputs = self.prediction(self.state, self.batch)
    jax.block_until_ready(outputs)

  def peak_memory(self) -> dict[str, Any]:
    """Returns the bytes of the first device, measured by the backend or compiled."""
    counted = self.run.mesh.devices.flat[0].memory_stats()
    if counted and 'peak_bytes_in_use' in counted:
      return {'bytes': counted['peak_bytes_in_use'], 'source': 'device statistics'}
    sizes = self.step.memory_analysis()
    planned = sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    planned += sizes.temp_size_in_bytes - sizes.alias_size_in_bytes
    return {'bytes': planned, 'source': 'memory analysis of the compiled step'}

  def loop(
    self, steps: int, inside: Callable[[], Any] = contextlib.nullcontext
  ) -> dict[str, Any]:
    """Trains on real input; returns seconds per step, and all waits of the host."""
    with contextlib.closing(self.run.batches()) as batches:
      self.train_on(batches, 2)  # starts the workers
      clocks = time.perf_counter, time.process_time, lambda: batches.cpu_seconds
      names = 'step_seconds', 'process_cpu_seconds', 'input_cpu_seconds'
      with inside():
        before = [clock() for clock in clocks]
        waits = self.train_on(batches, steps)
        spent = [(clock() - x) / steps for clock, x in zip(clocks, before, strict=True)]
    return dict(zip(names, spent, strict=True)) | {'waits': waits}

  def train_on(self, batches: Iterator, steps: int) -> list[float]:
    """Runs steps as in training: the host is one step ahead of the devices."""
    waits, late = [], None
    for n in range(steps):
      with jax.profiler.TraceAnnotation(trace_bill.INPUT):
        asked = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - asked)
      arrays = sharding.put(batch, self.run.mesh)
      with jax.profiler.StepTraceAnnotation('train', step_num=n):
        self.state, scalars = self.step(self.state, arrays)
      jax.block_until_ready(late)
      late = scalars
    jax.block_until_ready((self.state, late))
    return waits


@dataclasses.dataclass(frozen=True)
class Job:
  """Arguments of timm's process, as plain data.

  `model` are arguments of the class `name` in a module of `timm.models`.
  """

  name: tuple[str, str]
  model: dict[str, Any]
  dtype: str
  weight_decay: float
  clip_norm: float | None
  image: np.ndarray
  label: np.ndarray
  cuda: bool


def timm_job(run: experiment.Experiment) -> Job:
  """Returns the job of the same model and batch; `UserError` if not comparable."""
  model = getattr(run.task, 'model', None)
  if run.mesh.size > 1:
    raise errors.UserError(
      f'--against timm compares on one device, not {run.mesh.size}: hide the others'
      ' (CUDA_VISIBLE_DEVICES=0).'
    )
  image = run.example['image']
  if isinstance(model, vit.ViT) and not model.rep_size:
    name, arguments = ('vision_transformer', 'VisionTransformer'), timm_vit(model)
  elif isinstance(model, swin.Swin) and model.padding == 'none':
    name, arguments = ('swin_transformer', 'SwinTransformer'), timm_swin(model)
  else:
    raise errors.UserError(
      '--against timm compares a plain ViT (rep_size=0), or a Swin without padding.'
    )
  arguments |= dict(
    img_size=image.shape[1:3],
    in_chans=image.shape[3],
    patch_size=model.patch,
    num_classes=model.num_classes,
    drop_path_rate=model.drop_path,
  )
  return Job(
    name=name,
    model=arguments,
    dtype=model.dtype,
    weight_decay=run.task.optimizer.weight_decay,
    clip_norm=run.task.optimizer.clip_norm,
    image=np.array(image),
    label=np.array(run.example['label'], np.int64),
    cuda=jax.default_backend() == 'gpu',
  )


def timm_vit(model: vit.ViT) -> dict[str, Any]:
  """Returns the arguments of timm's ViT of the same sizes."""
  return dict(
    embed_dim=model.width,
    depth=model.depth,
    num_heads=model.num_heads,
    mlp_ratio=model.mlp_dim / model.width,
    class_token=model.pool == 'token',
    global_pool={'gap': 'avg'}.get(model.pool, model.pool),
    fc_norm=False,
    pos_embed='none' if model.posemb == 'none' else 'learn',
    pos_drop_rate=model.dropout,
    proj_drop_rate=model.dropout,
  )


def timm_swin(model: swin.Swin) -> dict[str, Any]:
  """Returns the arguments of timm's Swin of the same sizes."""
  return dict(
    embed_dim=model.width,
    depths=tuple(model.depths),
    num_heads=tuple(model.num_heads),
    window_size=model.window,
    mlp_ratio=model.mlp_ratio,
  )


class OnTorch:
  """Base class of sides on PyTorch: `torch`, the other `library`, and the device."""

  def __init__(self, name: str, cuda: bool, dtype: str):
    self.torch, self.library = import_beside_torch(name)
    if cuda and not self.torch.cuda.is_available():
      raise errors.UserError(f'--against {name}: PyTorch finds no GPU, but JAX does.')
    self.device = self.torch.device('cuda' if cuda else 'cpu')
    self.autocast = functools.partial(
      self.torch.autocast,
      self.device.type,
      dtype=self.torch.bfloat16,
      enabled=dtype == 'bfloat16',
    )

  def wait(self) -> None:
    if self.device.type == 'cuda':
      self.torch.cuda.synchronize()


class Timm(OnTorch):
  """A model of timm with the same sizes, trained on the same batch by PyTorch."""

  def __init__(self, job: Job):
    super().__init__('timm', job.cuda, job.dtype)
    torch, timm = self.torch, self.library
    module, kind = job.name
    if kind == 'VisionTransformer':
      # timm's Swin has the GELU and the epsilon of ours.
      job.model['norm_layer'] = functools.partial(torch.nn.LayerNorm, eps=1e-6)
      job.model['act_layer'] = timm.layers.GELUTanh
    make = getattr(getattr(timm.models, module), kind)
    self.net = make(**job.model).to(self.device)
    self.call = torch.compile(self.net) if job.cuda else self.net
    self.clip_norm = job.clip_norm
    self.optimizer = torch.optim.AdamW(
      self.net.parameters(), lr=1e-4, weight_decay=job.weight_decay, fused=True
    )
    # As on our side: the batch as the input has it, on the device.
    self.image_BHWC = torch.from_numpy(job.image).to(self.device)
    self.label_B = torch.from_numpy(job.label).to(self.device)

  def logits(self) -> Any:
    image_BCHW = self.image_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    with self.autocast():
      return self.call(image_BCHW)

  def train(self, steps: int) -> None:
    functional = self.torch.nn.functional
    self.net.train()
    for _ in range(steps):
      self.optimizer.zero_grad(set_to_none=True)
      loss = functional.cross_entropy(self.logits().float(), self.label_B)
      loss.backward()
      if self.clip_norm is not None:
        self.torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.clip_norm)
      self.optimizer.step()
    self.wait()

  def predict(self, steps: int) -> None:
    self.net.eval()
    with self.torch.inference_mode():
      for _ in range(steps):
        self.logits()
    self.wait()


def import_beside_torch(name: str) -> tuple[Any, Any]:
  """Imports torch and a library; `UserError` with the extra to install."""
  try:
    import torch

    try:
      import torchvision  # noqa: F401 - timm and transformers import it
    except RuntimeError:  # its compiled part does not fit torch's
      boxes = 'Tensor dets, Tensor scores, float iou_threshold'
      library = torch.library.Library('torchvision', 'FRAGMENT')
      for operator in ('nms', 'qnms'):
        library.define(f'{operator}({boxes}) -> Tensor')
      torch.benchmark_library = library  # the operators live as long as it does
    return torch, importlib.import_module(name)
  except ImportError as error:
    raise errors.UserError(
      f"--against {name} needs the extra 'parity': pip install -e '.[parity]'"
      f' ({error}).'
    ) from error


def serve(connection: Connection, make: Callable[[Any], Any], job: Any) -> None:
  """Runs PyTorch's process: answers each (name of a method, count) when it is done."""
  try:
    side = make(job)
    connection.send(side.torch.__version__)
    while request := connection.recv():
      getattr(side, request[0])(request[1])
      connection.send(None)
  except errors.UserError as error:
    connection.send(error)
  except Exception as error:  # the other process has to report it, whatever it is
    connection.send(errors.UserError(f'PyTorch failed ({error!r}).'))


class Theirs:
  """A process that runs `make(job)`, so that both sides have their own threads."""

  def __init__(self, make: Callable[[Any], Any], job: Any):
    # On shared cores, OpenMP's busy waiting makes steps ten times as long.
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
    context = multiprocessing.get_context('spawn')
    self.connection, other = context.Pipe()
    self.process = context.Process(target=serve, args=(other, make, job), daemon=True)
    self.process.start()
    other.close()
    self.version = self.answer()

  def answer(self) -> Any:
    try:
      answer = self.connection.recv()
    except EOFError:
      answer = errors.UserError('the process of PyTorch ended without a message.')
    if isinstance(answer, errors.UserError):
      raise answer
    return answer

  def ask(self, name: str, count: int) -> None:
    self.connection.send((name, count))
    self.answer()

  def train(self, steps: int) -> None:
    self.ask('train', steps)

  def predict(self, steps: int) -> None:
    self.ask('predict', steps)

  def close(self) -> None:
    self.connection.send(None)
    self.process.join()


def measured(sides: Sequence[Work], repeats: int, steps: int | None) -> list[list]:
  """Returns the seconds of steps for each side; measurements are interleaved."""
  counts = []
  for side in sides:
    side(2)  # compiles, allocates
    started = time.perf_counter()
    side(1)
    seconds = time.perf_counter() - started
    counts.append(steps or max(1, min(200, round(REPEAT_SECONDS / seconds))))
  found: list[list] = [[] for _ in sides]
  for _ in range(repeats):
    for side, count, times in zip(sides, counts, found, strict=True):
      started = time.perf_counter()
      side(count)
      times.append((time.perf_counter() - started) / count)
  return found


def summary(times: Sequence[float], batch_size: int) -> dict[str, Any]:
  """Returns median and spread, and the examples per second at the median."""
  low, median, high = np.percentile(times, [10, 50, 90])
  return {
    'step_seconds': {'median': median, 'p10': low, 'p90': high},
    'examples_per_second': batch_size / median,
  }


class Products:
  """Large square matrix products on one device, to measure its peak throughput."""

  def __init__(self, device: jax.Device, dtype: str):
    size, chained = (2048, 1) if device.platform == 'cpu' else (8192, 8)
    self.operations = 2 * chained * size**3
    # Random numbers, as chips clock higher on constants.
    x, w = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    self.x = jax.device_put(x.astype(dtype), device)
    self.w = jax.device_put((w / size**0.5).astype(dtype), device)

    @jax.jit
    def products(x, w):
      for _ in range(chained):
        x = x @ w
      return x

    self.products = products

  def multiply(self, times: int) -> None:
    for _ in range(times):
      result = self.products(self.x, self.w)
    jax.block_until_ready(result)


def dtype_of(run: experiment.Experiment) -> str:
  """Returns the dtype that a config computes in."""
  return getattr(getattr(run.task, 'model', None), 'dtype', 'float32')


def utilization(
  ours: Ours, step_seconds: float, peaks: dict[str, float]
) -> dict[str, Any]:
  """Returns the operations per second of all devices, and their share of the peaks."""
  device, count = ours.run.mesh.devices.flat[0], ours.run.mesh.size
  dtype = dtype_of(ours.run)
  rate, chip = ours.operations / step_seconds, chips.of(device)
  return {
    'operations_per_step': ours.operations,
    'operations_per_second': rate,
    'matmul_peak_per_device': peaks,
    'dtype': dtype,
    'mfu_of_measured_peak': rate / (peaks[dtype] * count),
    'mfu_of_data_sheet': rate / (chip.peak_flops * count) if chip else None,
  }


def with_input(ours: Ours, steps: int) -> dict[str, Any]:
  """Measures steps with the config's input: times, CPU times and the host's waits."""
  found = ours.loop(steps)
  waits, seconds = found.pop('waits'), found['step_seconds']
  return found | {
    'examples_per_second': ours.run.data.batch_size / seconds,
    'wait_seconds': {'mean': np.mean(waits), 'p90': np.percentile(waits, 90)},
    'wait_share': np.mean(waits) / seconds,
  }


@contextlib.contextmanager
def traced(folder: pathlib.Path) -> Iterator[None]:
  """Writes a trace of the enclosed loop to the folder."""
  options = jax.profiler.ProfileOptions()
  options.python_tracer_level = 0  # tracing Python's calls would slow down the host
  with jax.profiler.trace(str(folder), profiler_options=options):
    with jax.profiler.TraceAnnotation(trace_bill.LOOP):
      yield


def profile(ours: Ours, folder: pathlib.Path) -> dict[str, Any]:
  """Returns the time breakdown of a step with input; the trace stays in the folder."""
  ours.loop(TRACED_STEPS, functools.partial(traced, folder))
  sources = trace_bill.sources_of(ours.step.as_text())
  return trace_bill.bill(folder, TRACED_STEPS, sources)


def saving(
  ours: Ours, step_seconds: float, repeats: int, steps: int | None
) -> dict[str, Any]:
  """Returns the delay of the loop by a checkpoint, as medians over several.

  `call` is the time of `save` itself. `stall` is how much longer a second of steps (or
  `steps` of them) takes if it begins with a save that is written during the steps.
  """
  steps = steps or max(3, min(500, round(1.0 / step_seconds)))

  def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

  found = []
  with tempfile.TemporaryDirectory() as folder:
    with checkpoint.Checkpoints(pathlib.Path(folder)) as checkpoints:
      for n in range(repeats + 1):
        alone = seconds(lambda: ours.train(steps))
        save = functools.partial(checkpoints.save, 2 * n, ours.state, {}, 0.0)
        call = seconds(save)
        found.append((call, call + seconds(lambda: ours.train(steps)) - alone))
        checkpoints.save(2 * n + 1, ours.state, {}, 0.0, wait=True)
  call, stall = np.median(found[1:], axis=0)  # the first also sets up
  return {
    'call_seconds': call,
    'stall_seconds': stall,
    'stall_steps': stall / step_seconds,
    'bytes': sum(x.nbytes for x in jax.tree.leaves(ours.state)),
  }


def cells(found: dict[str, Any]) -> tuple[str, str, str]:
  """Returns a `summary` as text: the step, its spread, examples per second."""
  times = {name: 1e3 * seconds for name, seconds in found['step_seconds'].items()}
  return (
    f'{times["median"]:,.2f} ms',
    f'{times["p10"]:,.2f} - {times["p90"]:,.2f}',
    f'{found["examples_per_second"]:,.1f}',
  )


def comparison(result: dict[str, Any], unit: str) -> rich.table.Table:
  """Returns a table of one work of one model on several sides, ours first.

  `unit` is the heading of the column with examples per second.
  """
  rows = rich.table.Table(
    box=rich.box.SIMPLE_HEAD, title=f'{result["model"]}, {result["work"]}'
  )
  for name in ('', 'step', 'p10 - p90', unit, 'speedup of ours'):
    rows.add_column(name, justify='right' if name else 'left')
  for side, found in result['sides'].items():
    ratio = result['ratios'].get(side)
    rows.add_row(side, *cells(found), f'{ratio:.2f}' if ratio else '')
  return rows


def size(text: str, axes: str, example: str) -> tuple[int, int, int]:
  """Parses a size such as '64x10x12'; `axes` and `example` explain it in the error."""
  if not (found := re.fullmatch(r'([1-9]\d*)x([1-9]\d*)x([1-9]\d*)', text)):
    raise errors.UserError(f'{text!r} is not a size: write {axes}, such as {example}.')
  first, second, third = map(int, found.groups())
  return first, second, third


def table(result: dict[str, Any]) -> rich.table.Table:
  """Returns a table of the main numbers."""
  rows = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  rows.add_column('')
  for name in ('step', 'p10 - p90', 'examples/s'):
    rows.add_column(name, justify='right')
  theirs = result.get('timm', {})
  for title, found in [
    ('train', result['train']),
    ('train, timm', theirs.get('train')),
    ('predict', result['predict']),
    ('predict, timm', theirs.get('predict')),
  ]:
    if found:
      rows.add_row(title, *cells(found))
  if 'with_input' in result:
    found = result['with_input']
    rows.add_row(
      'train with input',
      f'{1e3 * found["step_seconds"]:,.2f} ms',
      f'waits {100 * found["wait_share"]:.1f} %',
      f'{found["examples_per_second"]:,.1f}',
    )
  return rows


def remarks(result: dict[str, Any]) -> Iterator[str]:
  """Yields the numbers that are not in the table, one per line."""
  used, memory = result['utilization'], result['peak_memory']
  peak = used['matmul_peak_per_device'][used['dtype']]
  yield (
    f'{used["operations_per_second"] / 1e12:.4g} TFLOP/s:'
    f' {100 * used["mfu_of_measured_peak"]:.1f} % of the {peak / 1e12:.4g} that'
    f' {used["dtype"]} products reach here'
  )
  if used['mfu_of_data_sheet'] is not None:
    yield f'{100 * used["mfu_of_data_sheet"]:.1f} % of the bfloat16 data sheet'
  yield f'{memory["bytes"] / 2**20:,.0f} MiB ({memory["source"]})'
  if 'with_input' in result:
    found = result['with_input']
    whole, own = found['process_cpu_seconds'], found['input_cpu_seconds']
    yield (
      f'a step with input takes {1e3 * whole:,.2f} ms of CPU time in this process;'
      f' {1e3 * own:,.2f} ms are spent on input'
    )
  if 'timm' in result:
    ratio = result['timm']['ratio']
    yield (
      f'speed relative to timm: train {ratio["train"]:.2f}, predict'
      f' {ratio["predict"]:.2f}'
    )
  if 'checkpoint' in result:
    found = result['checkpoint']
    yield (
      f'a checkpoint of {found["bytes"] / 2**20:,.1f} MiB delays training by'
      f' {1e3 * found["stall_seconds"]:,.1f} ms, {found["stall_steps"]:.2f} steps'
      f' ({1e3 * found["call_seconds"]:,.1f} ms in the call)'
    )
  if 'profile' in result:
    found = result['profile']
    whole = found['step_seconds']
    parts = [f'{name} {100 * s / whole:.1f} %' for name, s in found['parts'].items()]
    yield f'{1e3 * whole:,.2f} ms per step with input: ' + ', '.join(parts)
    for entry in found['operations']:
      yield (
        f'  {1e3 * entry["seconds"]:9.3f} ms {100 * entry["share"]:5.1f} % '
        f' {entry["name"]}'
      )


def benchmark(run: experiment.Experiment, args: argparse.Namespace) -> dict[str, Any]:
  """Takes all measurements that the command line requests."""
  theirs = Theirs(Timm, timm_job(run)) if args.against else None
  ours, size = Ours(run), run.data.batch_size
  sides = [ours, theirs] if theirs else [ours]
  device = run.mesh.devices.flat[0]
  # Interleaved with the steps, as the speed of a shared machine varies over time.
  names = sorted({'bfloat16', 'float32', dtype_of(run)})
  products = [Products(device, name) for name in names]
  works = [s.train for s in sides] + [p.multiply for p in products]
  trained = measured(works, args.repeats, args.steps)
  best = map(min, trained[len(sides) :])
  peaks = {
    name: product.operations / seconds
    for name, product, seconds in zip(names, products, best, strict=True)
  }
  predicted = measured([s.predict for s in sides], args.repeats, args.steps)
  if theirs:
    theirs.close()
  result = {
    'config': args.config,
    'device': device.device_kind,
    'devices': run.mesh.size,
    'jax': jax.__version__,
    'batch_size': size,
    'train': summary(trained[0], size),
    'predict': summary(predicted[0], size),
    'peak_memory': ours.peak_memory(),
  }
  seconds = result['train']['step_seconds']['median']
  result['utilization'] = utilization(ours, seconds, peaks)
  if theirs:
    result['timm'] = {
      'torch': theirs.version,
      'train': summary(trained[1], size),
      'predict': summary(predicted[1], size),
      'ratio': {
        'train': np.median(trained[1]) / np.median(trained[0]),
        'predict': np.median(predicted[1]) / np.median(predicted[0]),
      },
    }
  if args.with_input:
    steps = args.steps or max(10, min(500, round(3.0 / seconds)))
    result['with_input'] = with_input(ours, steps)
  if args.checkpoint:
    result['checkpoint'] = saving(ours, seconds, args.repeats, args.steps)
  if args.profile:
    result['profile'] = profile(ours, pathlib.Path(args.profile))
  return result


def write(result: Mapping[str, Any], output: str | None) -> None:
  """Writes JSON to a file or, without one, to stdout."""
  text = json.dumps(result, indent=2, default=float) + '\n'
  if output:
    files.write(output, text)
  else:
    sys.stdout.write(text)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, measures, and prints the results."""
  parser = errors.parser(__doc__, allow_abbrev=False)
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
    '--with-input', action='store_true', help='measure steps with input, too'
  )
  parser.add_argument(
    '--against', choices=['timm'], help='also measure the same model in timm'
  )
  parser.add_argument(
    '--profile', metavar='FOLDER', help='write a trace there, print a breakdown of time'
  )
  parser.add_argument(
    '--checkpoint', action='store_true', help='measure the delay by saving'
  )
  parser.add_argument(
    '--output', metavar='FILE', help='file for the JSON; default: stdout'
  )
  args, config = cli.parse(parser, argv)
  for name in ('repeats', 'steps'):
    if getattr(args, name) is not None and getattr(args, name) < 1:
      raise errors.UserError(f'--{name} must be 1 or more.')
  if args.against:
    # Both frameworks share the GPU; JAX would allocate three quarters of it at once.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  result = benchmark(experiment.make(config, planned_for=jax.devices()), args)
  write(result, args.output)
  console = rich.console.Console(stderr=True, soft_wrap=True, highlight=False)
  console.print(table(result))
  for line in remarks(result):
    console.print(line, markup=False)


if __name__ == '__main__':
  raise SystemExit(main())
