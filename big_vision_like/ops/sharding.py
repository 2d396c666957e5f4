"""Sharding of arrays over devices: mesh axes, constraints, placement of batches.

The mesh has three named axes: `data` shards the batch, `fsdp` shards batch and state,
`tensor` shards the state and, inside the layers, heads and hidden units.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_like.errors import UserError

AXES = ('data', 'fsdp', 'tensor')
BATCH = ('data', 'fsdp')
TENSOR = 'tensor'

Axis = str | tuple[str, ...] | None


def current_mesh() -> AbstractMesh | None:
  """Returns the mesh a function is traced for (`on_mesh`), or None without our axes."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if mesh.axis_names == AXES else None


def constrain(x: jax.Array, *axes: Axis) -> jax.Array:
  """Constrains `x` to these mesh axes, one for each dimension (None: not sharded).

  Outside such a mesh (`on_mesh`) it returns `x` itself, so models need not know about
  devices.
  """
  if current_mesh() is None:
    return x
  return jax.lax.with_sharding_constraint(x, P(*axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(w: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
  """All-gathers a weight from the `fsdp` axis, so that only these axes shard it.

  Without this the compiler may instead move the activations, or loop over the shards of
  the weight. The gradient is not constrained, so it is summed directly into the shards.
  """
  return constrain(w, *axes)


gathered.defvjp(
  lambda w, axes: (constrain(w, *axes), None), lambda axes, _, grad: (grad,)
)


def dot_general(*axes: Axis) -> Callable[..., jax.Array]:
  """Returns a `dot_general` for Linen layers that all-gathers its kernel."""

  def dot(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    return jax.lax.dot_general(x, gathered(kernel, axes), *args, **kwargs)

  return dot


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
  """Returns a context for tracing a function, in which `constrain` uses the mesh."""
  if mesh is None:
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns a sharding in which every device holds the whole array."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Returns a sharding of the first axis over all devices with different examples."""
  return NamedSharding(mesh, P(BATCH))


@functools.lru_cache(maxsize=8)
def local_shards(mesh: Mesh) -> tuple[int, ...]:
  """Returns the numbers of the batch shards that this process's devices hold.

  Processes that share a `tensor` group hold the same shard.
  """
  devices_ST = mesh.devices.reshape(-1, mesh.shape[TENSOR])
  here = jax.process_index()
  return tuple(
    n
    for n, devices in enumerate(devices_ST)
    if any(device.process_index == here for device in devices)
  )


def num_shards(mesh: Mesh | AbstractMesh) -> int:
  """Returns the number of shards of a batch."""
  return math.prod(mesh.shape[axis] for axis in BATCH)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Returns the rows of a global batch that this process must read, in order."""
  size = batch_size // num_shards(mesh)
  starts = [n * size for n in local_shards(mesh)]
  return np.concatenate([np.arange(start, start + size) for start in starts])


def global_rows(mesh: Mesh, rows: int) -> int:
  """Returns the number of rows of a global batch, given the rows of this process."""
  return rows // len(local_shards(mesh)) * num_shards(mesh)


def num_rows(batch: Any) -> int:
  """Returns the number of examples in a batch, a pytree of arrays."""
  return jax.tree.leaves(batch)[0].shape[0]


def put(batch: Any, mesh: Mesh) -> Any:
  """Places this process's rows of a batch (a pytree) on devices, as a global batch."""
  shards = local_shards(mesh)

  def place(keys: tuple[Any, ...], x: np.ndarray) -> jax.Array:
    size, rest = divmod(len(x), len(shards))
    if rest:
      name = jax.tree_util.keystr(keys, simple=True, separator='/')
      raise UserError(
        f'{len(x)} rows of {name!r} do not divide over {len(shards)} devices'
      )
    first = {n * size: i * size for i, n in enumerate(shards)}

    def part(index: tuple[slice, ...]) -> np.ndarray:
      start = first[index[0].start or 0]
      return x[start : start + size]

    shape = (size * num_shards(mesh), *x.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)

  return jax.tree_util.tree_map_with_path(place, batch)
