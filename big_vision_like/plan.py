"""The memory, time and cost of a run on a TPU slice, without owning one.

    python -m big_vision_like.plan --topology=v5e:16x16 --config=configs/vit/i21k.py

compiles the config's real training step for that TPU slice, from shapes alone. It
prints whether the step fits in memory, how long it takes according to the compiled
program, and the cost of the whole recipe. `--topology=cpu:8` uses simulated devices.
`--sweep` tries meshes, remat policies and batch sizes, and prints the fastest config
that fits.
"""

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import os
import pathlib
import re
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import jax
import ml_collections as mlc
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from big_vision_like import cli, errors, files, spec
from big_vision_like.cost import flops, hlo
from big_vision_like.data.input import base, grouping
from big_vision_like.devices import chips
from big_vision_like.devices import mesh as meshes
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.ops import sharding
from big_vision_like.run import experiment

# The number of batches that are read to estimate how often each signature occurs.
FIRST_BATCHES = 4 * grouping.WINDOW

# The largest number of batch signatures that get a line each.
MOST_SIGNATURES = 8

# Slices that Google Cloud offers, by TPU family.
SLICES = {
  'v4': '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x12 8x8x16 8x16x16',
  'v5e': '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16',
  'v5p': '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16',
  'v6e': '1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16',
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """A training step on a slice. Bytes are per chip; `flops` are for all chips.

  `needed` is the memory in bytes; `costs` is None if the step did not compile. If
  batches have several signatures (shapes or tasks), the plan is for the step with the
  most operations, on `examples` examples. `signatures` maps each label to its share of
  the steps and the operations of its step. `padded_share` is None if all images have
  one shape.
  """

  topology: str
  overrides: tuple[str, ...]
  chips: int
  hosts: int
  mesh: dict[str, int]
  batch_size: float
  examples: int
  total_steps: int
  flops: int
  parameters: int
  optimizer: int
  frozen: int
  needed: int
  chip: chips.Chip | None
  costs: hlo.Costs | None
  compile_seconds: float
  signatures: Mapping[str, tuple[float, int]]
  padded_share: float | None

  @property
  def fits(self) -> bool:
    """Whether the compiler could allocate all memory."""
    return self.costs is not None

  @property
  def temporaries(self) -> int:
    """The bytes that are not state: activations, gradients, the batch."""
    return self.needed - self.parameters - self.optimizer - self.frozen

  @functools.cached_property
  def roofline(self) -> hlo.Estimate | None:
    """The lower bound of the time, from matmuls, bytes, collectives and loop trips."""
    return self.costs.estimate(self.chip) if self.fits and self.chip else None

  @functools.cached_property
  def expected(self) -> hlo.Estimate | None:
    """The time estimated from the compiler's own cycle counts of instructions."""
    if self.roofline is None:
      return None
    return self.costs.estimate(self.chip, expected=True)

  @property
  def seconds(self) -> float | None:
    """The time of one step: the compiler's estimate, but at least the roofline."""
    if self.roofline is None:
      return None
    return max(self.roofline.total, self.expected.total)

  @property
  def mean_share(self) -> float:
    """The operations of the mean step divided by the operations of this one."""
    return sum(share * flops for share, flops in self.signatures.values()) / self.flops

  @property
  def mean_seconds(self) -> float | None:
    """The time of the mean step, assuming that times scale with operations."""
    return None if self.seconds is None else self.seconds * self.mean_share

  @property
  def mfu(self) -> float | None:
    """The model FLOPs utilization: useful operations divided by the chips' peak."""
    if self.seconds is None:
      return None
    return self.flops / self.seconds / self.chips / self.chip.peak_flops

  def record(self) -> dict[str, Any]:
    """Returns the plan as plain data."""
    record = {
      name: getattr(self, name)
      for name in (
        'topology chips hosts batch_size examples total_steps flops fits needed'
        ' parameters optimizer frozen temporaries seconds mean_seconds mfu'
        ' compile_seconds padded_share'
      ).split()
    }
    record['signatures'] = [
      {'label': label, 'share': share, 'flops': flops}
      for label, (share, flops) in self.signatures.items()
    ]
    record |= {'overrides': list(self.overrides), 'mesh': dict(self.mesh)}
    if self.fits:
      record['compiled_flops'] = self.costs.flops * self.chips
      record['traffic'] = self.costs.bytes
      record['collectives'] = [dataclasses.asdict(c) for c in self.costs.collectives]
    if self.roofline is not None:
      record['roofline_seconds'] = self.roofline.total
    return record


def slice_devices(topology: str, slices: int = 1) -> Sequence[Any]:
  """Returns the devices of `'v5e:16x16'` (compile-only) or `'cpu:8'` (simulated)."""
  family, _, shape = topology.partition(':')
  if family == 'cpu' and shape.isdigit() and int(shape):
    with contextlib.suppress(RuntimeError):  # where JAX has already started
      jax.config.update('jax_num_cpu_devices', int(shape))
    devices = jax.devices('cpu')[: int(shape)]
    if len(devices) < int(shape):
      raise UserError(f'{topology}: this process has only {len(devices)} devices')
    return devices
  if family not in SLICES or not re.fullmatch(r'\d+(x\d+){1,2}', shape):
    raise UserError(f'unknown topology {topology!r}. {_known()}')
  os.environ.update(cli.QUIET_LIBTPU)
  options = {'num_slices': slices} if slices > 1 else {}
  if family in ('v4', 'v5p'):
    options['chip_config_name'] = 'megacore'  # one device for both cores of a chip
  try:
    return topologies.get_topology_desc(topology, 'tpu', **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise UserError(f'no topology {topology!r} ({error}). {_known()}') from error
  except (ImportError, RuntimeError) as error:
    raise UserError(
      f"plans for TPUs need the package libtpu (pip install '.[tpu]'): {error}"
    ) from error


def _known() -> str:
  lines = [f'  {family}: {shapes}' for family, shapes in SLICES.items()]
  return '\n'.join(['Known ones:', *lines, '  cpu: any number, such as cpu:8'])


def plan(
  path: str, topology: str, slices: int = 1, overrides: Sequence[str] = ()
) -> Plan:
  """Compiles the training step of a config file, with overrides, for a slice."""
  config = spec.load(path, overrides, root=experiment.Settings)
  devices = slice_devices(topology, slices)
  run = experiment.make(config, planned_for=devices)
  work = works_of(run)
  largest = max(work, key=lambda signature: work[signature][1])
  batch = run.abstract_batch_of(largest)
  traced = run.compiled_step.trace(run.abstract_state, batch)
  by_work = sorted(work.items(), key=lambda item: (item[1][1], item[0]))
  parameters = meshes.bytes_per_device(run.abstract_state.params)
  frozen = meshes.bytes_per_device(run.abstract_state.frozen)
  held = meshes.bytes_per_device(run.abstract_state)
  started = time.perf_counter()
  costs = None
  try:
    with _uncached():
      compiled = traced.lower().compile()
  except jax.errors.JaxRuntimeError as error:
    needed = _asked_for(str(error), held)
  else:
    sizes = compiled.memory_analysis()
    needed = (
      sizes.argument_size_in_bytes
      + sizes.output_size_in_bytes
      + sizes.temp_size_in_bytes
      - sizes.alias_size_in_bytes
    )
    costs = hlo.costs(compiled.as_text())
  return Plan(
    topology=topology if slices == 1 else f'{slices} x {topology}',
    overrides=tuple(overrides),
    chips=len(devices),
    hosts=len({(d.process_index, getattr(d, 'slice_index', 0)) for d in devices}),
    mesh=dict(run.mesh.shape),
    batch_size=run.data.batch_size,
    total_steps=run.settings.total_steps,
    flops=flops.total(traced.jaxpr),
    parameters=parameters,
    optimizer=held - parameters - frozen,
    frozen=frozen,
    examples=sharding.num_rows(batch),
    needed=needed,
    chip=chips.of(devices[0]),
    costs=costs,
    compile_seconds=time.perf_counter() - started,
    signatures={run.data.label(signature): each for signature, each in by_work},
    padded_share=padded_share(run.data),
  )


def padded_share(data: base.Input) -> float | None:
  """Returns the share of pixels that are padding; None if images have one shape."""
  with contextlib.suppress(UserError):
    return data.padded_share(FIRST_BATCHES)
  return None


def works_of(run: experiment.Experiment) -> dict[Hashable, tuple[float, int]]:
  """Returns the share of steps and the operation count of each batch signature."""

  @functools.cache
  def work(signature: Hashable) -> int:
    batch = run.abstract_batch_of(signature)
    return flops.total(run.compiled_step.trace(run.abstract_state, batch).jaxpr)

  shares = run.data.signatures(FIRST_BATCHES)

  def counted(signature: Hashable) -> Hashable:
    upright = _upright(signature)
    return upright if upright in shares else signature

  return {s: (share, work(counted(s))) for s, share in shares.items()}


def _upright(signature: Hashable) -> Hashable:
  """Returns a shape with the smaller side first: rotated images cost the same."""
  if isinstance(signature, tuple) and all(type(side) is int for side in signature):
    return tuple(sorted(signature))
  if isinstance(signature, tuple):
    name, inner = signature
    return name, _upright(inner)
  return signature


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
  """Disables the compilation cache: programs for absent chips cannot be reloaded."""
  before = jax.config.jax_enable_compilation_cache
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()  # JAX reads the setting only once
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', before)
    compilation_cache.reset_cache()


def _asked_for(message: str, held: int) -> int:
  """Returns the bytes that did not fit, from the compiler's message, or raises."""
  unit = {'K': 2**10, 'M': 2**20, 'G': 2**30}
  if match := re.search(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG]', message):
    return int(float(match[1]) * unit[match[2]])
  if match := re.search(r'temporaries \(([\d.]+)([KMG])\) exceeds', message):
    return int(float(match[1]) * unit[match[2]]) + held
  raise UserError(f'the compiler gave up: {message[:2000]}')


def variants(
  config: mlc.ConfigDict, chips: int, batches: Sequence[int] = ()
) -> Iterator[tuple[str, ...]]:
  """Yields overrides worth trying, cheapest in communication and operations first."""
  grids = [{'data': chips}, {'data': 1, 'fsdp': chips}]
  if chips > 16:
    grids.append({'data': chips // 16, 'fsdp': 16})
  if chips > 2:
    grids.append({'data': 1, 'fsdp': chips // 2, 'tensor': 2})
  given = {axis: 1 for axis in config.get('mesh', {})}  # resets axes that are set
  meshed = [
    [f'mesh.{axis}={size}' for axis, size in (given | grid).items()] for grid in grids
  ]
  modules = [
    path.removeprefix('config.')
    for path, node in spec.calls(config.task, 'config.task')
    if 'remat' in inspect.signature(spec.symbol(node, path)).parameters
  ]
  recomputing = [
    [f'{path}.remat={name}' for path in modules]
    for name in (('none', 'dots', 'full') if modules else ('none',))
  ]
  sizes = [[f'train_data.batch_size={n}'] for n in batches] or [[]]
  for parts in itertools.product(sizes, meshed, recomputing):
    yield tuple(itertools.chain(*parts))


def nearest(
  path: str, topology: str, slices: int, overrides: Sequence[str], chips: int
) -> Plan | None:
  """Returns the first variant that fits, if necessary with gradient accumulation."""
  config = spec.load(path, overrides, root=experiment.Settings)
  tries = list(variants(config, chips))
  smallest = [extra for extra in tries if f'mesh.fsdp={chips}' in extra][-1]
  if 'accumulate' in inspect.signature(spec.symbol(config.task)).parameters:
    tries += [(*smallest, f'task.accumulate={n}') for n in (2, 4, 8)]
  for extra in tries:
    with contextlib.suppress(UserError):  # for sizes that do not divide
      found = plan(path, topology, slices, [*overrides, *extra])
      if found.fits:
        return found
  return None


def host_rate(path: str, overrides: Sequence[str], seconds: float = 1.0) -> float:
  """Returns the examples per second that one local core reads, decodes and transforms.

  If the data are not prepared, it decodes a synthetic picture that is as expensive as a
  photograph.
  """
  config = spec.load(path, overrides, root=experiment.Settings)
  data = experiment.train_input(config, planned=True)
  seconds_per_step = 0.0
  for name, part in data.parts.items():
    part.example()  # imports, caches
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds / len(data.parts):
      part.example(count)
      count += 1
    each = (time.perf_counter() - started) / count
    seconds_per_step += each * part.batch_size * data.exact_shares[name]
  return data.batch_size / seconds_per_step


def gib(size: float) -> str:
  """Returns a size such as '1.23 GiB', in MiB below a hundredth of a GiB."""
  unit, name = (chips.GIB, 'GiB') if size >= chips.GIB / 100 else (2**20, 'MiB')
  return f'{size / unit:.2f} {name}'


def tell(plan: Plan, price: float | None, rate: float, given: bool) -> None:
  """Prints a plan, one or two lines per topic."""
  axes = ' '.join(f'{axis}={size}' for axis, size in plan.mesh.items())
  each = plan.batch_size / plan.chips
  if plan.batch_size == plan.examples:
    batch = f'batch {plan.examples:,}'
  else:
    batch = f'mean batch {plan.batch_size:,.1f}'
  say('mesh', f'{axes}; {batch}, {each:g} per chip')
  tell_signatures(plan)
  if plan.chip is None:
    say('memory', f'{gib(plan.needed)} per device')
  elif plan.fits:
    room = plan.chip.hbm_bytes - plan.needed
    limit = gib(plan.chip.hbm_bytes)
    say(
      'memory',
      f'{gib(plan.needed)} of {limit} per chip: fits, {gib(room)} to spare',
    )
  else:
    over, limit = plan.needed - plan.chip.hbm_bytes, gib(plan.chip.hbm_bytes)
    say(
      'memory',
      f'{gib(plan.needed)} per chip: does NOT fit, {gib(over)} over {limit}',
    )
  say(
    '',
    f'parameters {gib(plan.parameters)}, optimizer {gib(plan.optimizer)},'
    f'{f" frozen networks {gib(plan.frozen)}," if plan.frozen else ""}'
    f' temporaries {gib(plan.temporaries)}',
  )
  if not plan.fits:
    return
  again = plan.costs.flops * plan.chips / plan.flops
  say(
    'work',
    f'{plan.flops / 1e12:,.4g} TFLOP per step, {plan.flops / plan.examples / 1e9:,.4g}'
    f' GFLOP per example; {again:.2f}x including recomputation',
  )
  say('traffic', f'{gib(plan.costs.bytes)} between chip and memory per step')
  for c in plan.costs.collectives:
    how = 'overlapped' if c.overlapped else 'exposed'
    say('network', f'{c.times:,} {c.kind} over {c.group}: {gib(c.payload)}, {how}')
  if plan.costs.unknown_loops:
    count = len(plan.costs.unknown_loops)
    say('', f'loops of unknown length, counted as one iteration each: {count}')
  if plan.seconds is None:
    say('time', f'no estimate: there is no data sheet for {plan.topology}')
  else:
    tell_time(plan, price, rate, given)


def tell_signatures(plan: Plan) -> None:
  """Prints the batch signatures, if there are several."""
  if len(plan.signatures) == 1:
    return
  labels = list(plan.signatures)
  if len(labels) > MOST_SIGNATURES:
    say('batches', f'{len(labels)} signatures, {labels[0]} to {labels[-1]}')
  else:
    for i, (label, (share, flops)) in enumerate(plan.signatures.items()):
      text = f'{label}: {100 * share:.1f} % of the steps, {flops / 1e12:,.4g} TFLOP'
      say('' if i else 'batches', text)
  if plan.padded_share is not None:
    say('', f'{100 * plan.padded_share:.1f} % of the pixels are padding')
  say(
    '',
    f'the step below is for {labels[-1]}; the mean step has'
    f' {plan.mean_share:.2f} of its operations',
  )


def tell_time(plan: Plan, price: float | None, rate: float, given: bool) -> None:
  """Prints the time and cost of the recipe, and the input rate that hosts need."""
  best, milli = plan.roofline, 1e3
  say(
    'time',
    f'{milli * plan.seconds:,.1f} ms per step expected by the compiler;'
    f' {milli * best.total:,.1f} at best',
  )
  say(
    '',
    f'(compute {milli * best.compute:,.1f}, network {milli * best.collectives:,.1f}'
    f' exposed and {milli * best.overlapped_collectives:,.1f} overlapped)',
  )
  if len(plan.signatures) > 1:
    say('', f'{milli * plan.mean_seconds:,.1f} ms for the mean step, by operations:')
  speed = plan.batch_size / plan.mean_seconds
  say(
    'speed',
    f'{speed / plan.chips:,.1f} examples/s per chip, {speed:,.0f} in total, MFU'
    f' {100 * plan.mfu:.1f} %',
  )
  hours = plan.total_steps * plan.mean_seconds / 3600
  chip_hours = hours * plan.chips
  cost = f', {price * chip_hours:,.0f} at {price:g} per chip-hour' if price else ''
  say(
    'recipe',
    f'{plan.total_steps:,} steps: {hours:,.1f} hours, {chip_hours:,.0f} chip-hours'
    f'{cost}',
  )
  need = speed / plan.hosts
  hosts = f'each of {plan.hosts} hosts' if plan.hosts > 1 else 'the host'
  if given:
    bound = need / rate
    verdict = f'input-bound by {bound:.1f}x' if bound > 1 else 'not input-bound'
    against = f'{rate:,.0f} given: {verdict}'
  else:
    against = f'one local core does {rate:,.0f}; cores needed: {math.ceil(need / rate)}'
  say('input', f'{hosts} must prepare {need:,.0f} examples/s; {against}')


def sweep(
  path: str,
  topology: str,
  slices: int,
  overrides: Sequence[str],
  batches: Sequence[int],
) -> Plan:
  """Tries every variant, prints a line for each, and returns the fastest that fits."""
  config = spec.load(path, overrides, root=experiment.Settings)
  chips = len(slice_devices(topology, slices))
  best, fastest = None, 0.0
  for extra in variants(config, chips, batches):
    label = ' '.join(extra)
    try:
      found = plan(path, topology, slices, [*overrides, *extra])
    except UserError as error:
      say('skipped', f'{label}: {error}')
      continue
    if not found.fits:
      say('too large', f'{label}: {gib(found.needed)}')
      continue
    speed = found.batch_size / found.seconds if found.seconds else 0.0
    say(
      'fits',
      f'{label}: {gib(found.needed)}, {speed / found.chips:,.1f} examples/s per chip',
    )
    if best is None or speed > fastest:
      best, fastest = found, speed
  if best is None:
    raise UserError('nothing fits: use more chips or a smaller batch (--batch).')
  return best


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line, compiles, and prints the plan."""
  jax.config.update('jax_platforms', 'cpu')
  parser = errors.parser(
    __doc__, prog='python -m big_vision_like.plan', allow_abbrev=False
  )
  parser.add_argument(
    '--topology', required=True, help='v4:2x2x1, v5e:16x16, v5p:4x4x4, v6e:4x4, cpu:8'
  )
  parser.add_argument('--slices', type=int, default=1, help='number of slices')
  parser.add_argument('--price', type=float, help='price of a chip-hour')
  parser.add_argument(
    '--host-rate', type=float, help='examples/s that a host prepares; default: measured'
  )
  parser.add_argument(
    '--bill', action='store_true', help='print the ten most expensive instructions'
  )
  parser.add_argument('--sweep', action='store_true', help='find the fastest that fits')
  parser.add_argument(
    '--batch', type=int, nargs='+', default=[], help='batch sizes for --sweep'
  )
  parser.add_argument('--json', type=pathlib.Path, help='also write the plan to a file')
  args, _ = cli.parse(parser, argv)
  where = args.topology if args.slices == 1 else f'{args.slices} x {args.topology}'
  devices = slice_devices(args.topology, args.slices)
  say('plan', f'{args.config} on {where}, {len(devices)} x {devices[0].device_kind}')
  if args.sweep:
    made = sweep(args.config, args.topology, args.slices, args.overrides, args.batch)
    say('best', ' '.join(f'--config.{text}' for text in made.overrides))
  else:
    made = plan(args.config, args.topology, args.slices, args.overrides)
  given = args.host_rate is not None
  rate = args.host_rate if given else host_rate(args.config, args.overrides)
  tell(made, args.price, rate, given)
  if args.bill and made.roofline is not None:
    for seconds, item in made.costs.bill(made.chip, expected=True)[:10]:
      say('', f'{1e3 * seconds:8.2f} ms  {item.times:>4} x {item.op_name or item.name}')
  if args.json is not None:
    files.write_json(args.json, made.record())
  if not made.fits:
    say('nearest', 'looking for settings that fit')
    found = nearest(args.config, args.topology, args.slices, args.overrides, made.chips)
    if found is None:
      raise UserError('no mesh or remat policy fits: use more chips.')
    say('fits', ' '.join(f'--config.{text}' for text in found.overrides))
    tell(found, args.price, rate, given)


if __name__ == '__main__':
  raise SystemExit(main())
