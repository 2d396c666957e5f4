"""What a run will need on a machine that nobody has to own.

    python -m big_vision_like.plan --config=configs/vit/i21k.py:L/16 --topology=v5e:16x16

Compiles the config's real training step for that TPU slice, from shapes alone, and
prints whether it fits, how long a step takes by what the program itself does, and what
the whole recipe costs. `--topology=cpu:8` takes simulated devices. `--sweep` tries
meshes, remat policies and batches, and prints the config of what fits and is fastest.
"""

import contextlib
import dataclasses
import functools
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from big_vision_like import chips, experiment, flops, hlo, spec
from big_vision_like import mesh as meshes
from big_vision_like.errors import UserError

GIB = 2**30

# Slices that the cloud offers; cores of the host's processor for each chip.
SLICES = {
  'v4': ('2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x12 8x8x16 8x16x16', 60),
  'v5e': ('1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16', 28),
  'v5p': (
    '2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16',
    52,
  ),
  'v6e': ('1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16', 45),
}

# libtpu looks for the TPU it drives and says at length that there is none.
QUIET = {
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_STDERR_LOG_LEVEL': '3',
  'TPU_MIN_LOG_LEVEL': '3',
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """A training step on a slice; bytes are those of one chip, `flops` those of all.

  `needed` is None where the compiler does not tell; `costs` where it did not compile.
  """

  topology: str
  overrides: tuple[str, ...]
  chips: int
  hosts: int
  mesh: dict[str, int]
  batch_size: int
  total_steps: int
  flops: int
  parameters: int
  optimizer: int
  needed: int
  chip: chips.Chip | None
  costs: hlo.Costs | None
  compile_seconds: float

  @property
  def fits(self) -> bool:
    """Whether the compiler found room for all."""
    return self.costs is not None

  @property
  def temporaries(self) -> int:
    """What is neither parameters nor optimizer: activations, gradients, the batch."""
    return self.needed - self.parameters - self.optimizer

  @functools.cached_property
  def roofline(self) -> hlo.Estimate | None:
    """The least time of the program: matmuls, bytes, collectives, loops unrolled."""
    return self.costs.estimate(self.chip) if self.fits and self.chip else None

  @functools.cached_property
  def expected(self) -> hlo.Estimate | None:
    """The time of the program with the compiler's own cycles for its instructions."""
    if self.roofline is None:
      return None
    return self.costs.estimate(self.chip, expected=True)

  @property
  def seconds(self) -> float | None:
    """One step: what the compiler expects, and no less than the roofline."""
    if self.roofline is None:
      return None
    return max(self.roofline.total, self.expected.total)

  @property
  def mfu(self) -> float | None:
    """Useful operations over what the chips could do meanwhile."""
    if self.seconds is None:
      return None
    return self.flops / self.seconds / self.chips / self.chip.peak_flops

  def record(self) -> dict[str, Any]:
    """As plain data."""
    record = {
      name: getattr(self, name)
      for name in (
        'topology chips hosts batch_size total_steps flops fits needed parameters'
        ' optimizer temporaries seconds mfu compile_seconds'
      ).split()
    }
    record |= {'overrides': list(self.overrides), 'mesh': dict(self.mesh)}
    if self.fits:
      record['traffic'] = self.costs.bytes
      record['collectives'] = [dataclasses.asdict(c) for c in self.costs.collectives]
    if self.roofline is not None:
      record['roofline_seconds'] = self.roofline.total
    return record


def slice_devices(topology: str, slices: int = 1) -> Sequence[Any]:
  """The devices of `'v5e:16x16'`, compile-only, or of `'cpu:8'`, simulated."""
  family, _, shape = topology.partition(':')
  if family == 'cpu' and shape.isdigit():
    with contextlib.suppress(RuntimeError):  # where JAX has already started
      jax.config.update('jax_num_cpu_devices', int(shape))
    devices = jax.devices('cpu')[: int(shape)]
    if len(devices) < int(shape):
      raise UserError(f'{topology}: this process has only {len(devices)} devices')
    return devices
  if family not in SLICES or not re.fullmatch(r'\d+(x\d+){1,2}', shape):
    raise UserError(f'unknown topology {topology!r}. {_known()}')
  for name, value in QUIET.items():
    os.environ.setdefault(name, value)
  options = {'num_slices': slices} if slices > 1 else {}
  if family in ('v4', 'v5p'):
    options['chip_config_name'] = 'megacore'  # both cores of a chip are one device
  try:
    return topologies.get_topology_desc(topology, 'tpu', **options).devices
  except jax.errors.JaxRuntimeError as error:
    raise UserError(f'no topology {topology!r} ({error}). {_known()}') from error
  except (ImportError, RuntimeError) as error:
    raise UserError(
      f"plans for TPUs need the package libtpu (pip install '.[tpu]'): {error}"
    ) from error


def _known() -> str:
  lines = [f'  {family}: {shapes}' for family, (shapes, _) in SLICES.items()]
  return '\n'.join(['Known ones:', *lines, '  cpu: any number, such as cpu:8'])


def plan(
  path: str, topology: str, slices: int = 1, overrides: Sequence[str] = ()
) -> Plan:
  """Compiles the step of a config file, with these fields overridden, for a slice."""
  config = spec.load(path, overrides, root=experiment.Settings)
  devices = slice_devices(topology, slices)
  run = experiment.make(config, planned_for=devices)
  traced = run.compiled_step.trace(run.abstract_state, run.abstract_batch)
  state = run.abstract_state
  parameters = meshes.bytes_per_device(state.params)
  held = meshes.bytes_per_device(state)
  started = time.perf_counter()
  try:
    compiled = traced.lower().compile()
    sizes = compiled.memory_analysis()
    needed = (
      sizes.argument_size_in_bytes
      + sizes.output_size_in_bytes
      + sizes.temp_size_in_bytes
      - sizes.alias_size_in_bytes
    )
    costs = hlo.costs(compiled.as_text())
  except jax.errors.JaxRuntimeError as error:
    costs, needed = None, _asked_for(str(error), held)
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
    optimizer=held - parameters,
    needed=needed,
    chip=chips.of(devices[0]),
    costs=costs,
    compile_seconds=time.perf_counter() - started,
  )


def _asked_for(message: str, held: int) -> int:
  """The bytes that did not fit, from what the compiler says of it; or it raises."""
  unit = {'K': 2**10, 'M': 2**20, 'G': 2**30}
  if match := re.search(r'Used ([\d.]+)([KMG]) of [\d.]+[KMG]', message):
    return int(float(match[1]) * unit[match[2]])
  if match := re.search(r'temporaries \(([\d.]+)([KMG])\) exceeds', message):
    return int(float(match[1]) * unit[match[2]]) + held
  raise UserError(f'the compiler gave up: {message[:2000]}')
