"""How arrays lie on the devices: axes of the mesh, constraints, batches to devices.

The mesh has three named axes: `data` splits the batch, `fsdp` splits batch and state,
`tensor` splits the state and, inside the layers, heads and hidden units.
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
  """The mesh that a function is being traced for (`on_mesh`), if it has our axes."""
  mesh = jax.sharding.get_abstract_mesh()
  return mesh if mesh.axis_names == AXES else None


def constrain(x: jax.Array, *axes: Axis) -> jax.Array:
  """`x` laid out by these mesh axes, one for each dimension (None: not split).

  Outside of such a mesh (`on_mesh`) it is `x` itself: a model knows no devices.
  """
  if current_mesh() is None:
    return x
  return jax.lax.with_sharding_constraint(x, P(*axes))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gathered(w: jax.Array, axes: tuple[Axis, ...]) -> jax.Array:
  """A weight brought together from the `fsdp` axis, split by these axes alone.

  Left to itself the compiler may rather move the activations, or loop over the parts of
  the weight. Its gradient is not constrained, so it is summed straight into the parts.
  """
  return constrain(w, *axes)


gathered.defvjp(
  lambda w, axes: (constrain(w, *axes), None), lambda axes, _, grad: (grad,)
)


def dot_general(*axes: Axis) -> Callable[..., jax.Array]:
  """For the `dot_general` of Linen layers: its right side, the kernel, `gathered`."""

  def dot(x: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    return jax.lax.dot_general(x, gathered(kernel, axes), *args, **kwargs)

  return dot


def on_mesh(mesh: Mesh | None) -> contextlib.AbstractContextManager:
  """A context, for use while a function is traced, in which `constrain` sees a mesh."""
  if mesh is None:
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds all of it."""
  return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis is split over all devices that hold different examples."""
  return NamedSharding(mesh, P(BATCH))


@functools.lru_cache(maxsize=8)
def local_shards(mesh: Mesh) -> tuple[int, ...]:
  """The parts of a batch, by number, that the devices of this process hold.

  Processes that share a `tensor` group hold the same part.
  """
  devices_ST = mesh.devices.reshape(-1, mesh.shape[TENSOR])
  here = jax.process_index()
  return tuple(
    n
    for n, devices in enumerate(devices_ST)
    if any(device.process_index == here for device in devices)
  )


def num_shards(mesh: Mesh | AbstractMesh) -> int:
  """Into how many parts a batch is split."""
  return math.prod(mesh.shape[axis] for axis in BATCH)


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Which rows of a global batch this process must read, in order."""
  size = batch_size // num_shards(mesh)
  starts = [n * size for n in local_shards(mesh)]
  return np.concatenate([np.arange(start, start + size) for start in starts])


def global_rows(mesh: Mesh, rows: int) -> int:
  """Returns the rows of a global batch of which this process reads so many."""
  return rows // len(local_shards(mesh)) * num_shards(mesh)


def num_rows(batch: Any) -> int:
  """Returns the number of examples in a batch, a pytree of arrays."""
  return jax.tree.leaves(batch)[0].shape[0]


def put(batch: Any, mesh: Mesh) -> Any:
  """This process's rows of a batch (a pytree) to its devices, of the global batch."""
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
