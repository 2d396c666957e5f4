"""One program on one chip or a pod: device mesh, shardings, host <-> global arrays.

The mesh has three named axes: `data` splits the batch, `fsdp` splits batch and state,
`tensor` splits the state only. Replicated data parallelism is the mesh `data=-1`.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_like import optim
from big_vision_like.errors import UserError

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')

# Leaves smaller than this stay whole on each device: splitting them saves nothing.
MIN_FSDP_SIZE = 2**16

Rules = Sequence[tuple[str, Sequence[str | None]]]


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh over all devices (or these); one size may be -1 and takes what is left."""
  devices = jax.devices() if devices is None else devices
  sizes = [data, fsdp, tensor]
  if sizes.count(-1) > 1:
    raise UserError(f'mesh={sizes}: only one axis can be -1')
  known = math.prod(n for n in sizes if n != -1)
  if -1 in sizes and known and len(devices) % known == 0:
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise UserError(
      f'mesh of data={data}, fsdp={fsdp}, tensor={tensor} does not fit'
      f' {len(devices)} devices: the sizes must multiply to that number (-1 fills)'
    )
  return Mesh(mesh_utils.create_device_mesh(sizes, devices), AXES)


def state_shardings(mesh: Mesh, state: Any, rules: Rules = ()) -> Any:
  """A sharding for each leaf of an (abstract) state.

  The first rule (path regex, axes of the mesh by dimension) that matches a leaf's path
  counts; other leaves are split over `fsdp` along their largest divisible dimension.
  """

  def sharding(keys: Sequence[Any], leaf: Any) -> NamedSharding:
    path = optim.path_of(keys)
    for pattern, axes in rules:
      if re.fullmatch(pattern, path):
        return NamedSharding(mesh, P(*_checked(mesh, path, leaf.shape, axes)))
    return NamedSharding(mesh, _fsdp(leaf.shape, mesh.shape['fsdp']))

  return jax.tree_util.tree_map_with_path(sharding, state)


def _fsdp(shape: tuple[int, ...], size: int) -> P:
  if size == 1 or math.prod(shape) < MIN_FSDP_SIZE:
    return P()
  divisible = [i for i, n in enumerate(shape) if n % size == 0]
  if not divisible:
    return P()
  largest = max(divisible, key=lambda i: shape[i])
  return P(*[None] * largest, 'fsdp')


def _checked(
  mesh: Mesh, path: str, shape: tuple[int, ...], axes: Sequence[str | None]
) -> Sequence[str | None]:
  if len(axes) > len(shape):
    raise UserError(f'{path} of shape {shape} has fewer dimensions than {axes}')
  for n, axis in zip(shape, axes, strict=False):
    if axis is not None and axis not in AXES:
      raise UserError(f'{path}: {axis!r} is not one of the axes {", ".join(AXES)}')
    if axis is not None and n % mesh.shape[axis]:
      raise UserError(
        f'{path} of shape {shape}: {n} does not divide over {mesh.shape[axis]}'
        f' devices of axis {axis!r}'
      )
  return axes


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over all devices that hold different examples."""
  return NamedSharding(mesh, P(BATCH))


def check_batch_size(mesh: Mesh, batch_size: int, where: str) -> None:
  """Raises unless a global batch splits evenly over the devices."""
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size % shards:
    lower = batch_size // shards * shards
    nearest = f'{lower} or {lower + shards}' if lower else f'{shards}'
    raise UserError(
      f'{where}={batch_size} does not divide over {shards} devices: use {nearest}.'
    )


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
  """This process's rows of a batch to the devices, as part of the global batch."""
  sharding = batch_sharding(mesh)
  return {
    k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()
  }


def put_tree(tree: Any, shardings: Any) -> Any:
  """Whole host arrays (the same in every process) to sharded global arrays."""

  def place(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

  return jax.tree.map(place, tree, shardings)
