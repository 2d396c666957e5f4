"""One program on one chip or a pod: the device mesh, and the layout of the state on it.

Parameters are split by ordered rules (path regex, axes by dimension): first the
config's, then the model's (`tensor`). The largest remaining dimension is split over
`fsdp`. Averages and the optimizer's moments are split like their parameters.
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
from big_vision_like.ops import sharding
from big_vision_like.ops.sharding import AXES, Axis

# Smaller leaves stay whole on each device: splitting them saves nothing.
MIN_FSDP_SIZE = 2**16

Rules = Sequence[tuple[str, Sequence[Axis]]]


def make_mesh(
  data: int = -1,
  fsdp: int = 1,
  tensor: int = 1,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """Returns a mesh over all devices (or these); one size may be -1 to take the rest.

  Neighbours along `tensor`, then `fsdp`, are neighbours in the hardware. Slices (or
  machines) joined only by a slow network are spread over `data` as far as possible.
  """
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
      f' {len(devices)} devices: the sizes must multiply to that number (-1: the rest)'
    )
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices == 1:
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
  else:
    outer = _across_slices(sizes, slices)
    inner = [size // n for size, n in zip(sizes, outer, strict=True)]
    grid = mesh_utils.create_hybrid_device_mesh(
      inner, outer, devices, allow_split_physical_axes=True
    )
  return Mesh(grid, AXES)


def _across_slices(sizes: Sequence[int], slices: int) -> list[int]:
  """Returns the number of slices that each axis spans."""
  outer, left = [], slices
  for size in sizes[:-1]:
    outer.append(math.gcd(size, left))
    left //= outer[-1]
  if left > 1:
    raise UserError(
      f'mesh of data={sizes[0]}, fsdp={sizes[1]}, tensor={sizes[2]} would split'
      f' `tensor` over slices: make data a multiple of the {slices} slices'
    )
  return [*outer, 1]


def state_shardings(
  mesh: Mesh, state: Any, rules: Rules = (), model_rules: Rules = ()
) -> Any:
  """Returns a sharding for each leaf of an (abstract) state with `params`.

  The first of `rules` that matches a parameter's whole path applies. Without one, the
  first matching rule of `model_rules` applies, with `fsdp` on the largest dimension
  that it leaves free. Both name the axes of one block: the leading axis of scanned
  blocks is added automatically and never split. A rule that matches nothing, or does
  not divide the shape, raises `UserError`.
  """
  params = {
    optim.path_of(keys): leaf
    for keys, leaf in jax.tree_util.tree_leaves_with_path(state.params)
  }
  for pattern, _ in rules:
    if not any(re.fullmatch(pattern, path) for path in params):
      raise UserError(
        f'config.sharding: the rule {pattern!r} matches no parameter (such as'
        f' {next(iter(params))!r})'
      )
  specs = {
    path: _spec(mesh, path, leaf.shape, rules, model_rules)
    for path, leaf in params.items()
  }

  def place(keys: Sequence[Any], leaf: Any) -> NamedSharding:
    parts = optim.path_of(keys).split('/')
    for i in range(len(parts)):  # 'opt_state/1/mu/head/kernel' uses 'head/kernel'
      path = '/'.join(parts[i:])
      if path in params and params[path].shape == leaf.shape:
        return NamedSharding(mesh, specs[path])
    return NamedSharding(mesh, _with_fsdp(mesh, leaf.shape, [None] * len(leaf.shape)))

  return jax.tree_util.tree_map_with_path(place, state)


def _spec(
  mesh: Mesh, path: str, shape: tuple[int, ...], rules: Rules, model_rules: Rules
) -> P:
  first = 1 if 'blocks' in path.split('/') else 0  # skips the axis of scanned blocks
  for pattern, axes in rules:
    if re.fullmatch(pattern, path):
      return _trimmed(_checked(mesh, path, shape, [None] * first + list(axes)))
  axes: list[Axis] = [None] * len(shape)
  for pattern, by_model in model_rules:
    if re.fullmatch(pattern, path) and mesh.shape[sharding.TENSOR] > 1:
      axes = _checked(mesh, path, shape, [None] * first + list(by_model))
      break
  return _with_fsdp(mesh, shape, axes, first)


def _with_fsdp(
  mesh: Mesh, shape: tuple[int, ...], axes: Sequence[Axis], first: int = 0
) -> P:
  """Puts `fsdp` on the largest free dimension it divides; small arrays stay whole."""
  size, axes = mesh.shape['fsdp'], list(axes)
  free = [i for i in range(first, len(shape)) if axes[i] is None]
  free = [i for i in free if shape[i] % size == 0]
  if free and size > 1 and math.prod(shape) >= MIN_FSDP_SIZE:
    axes[max(free, key=lambda i: shape[i])] = 'fsdp'
  return _trimmed(axes)


def _trimmed(axes: list[Axis]) -> P:
  while axes and axes[-1] is None:
    axes.pop()
  return P(*axes)


def _checked(
  mesh: Mesh, path: str, shape: tuple[int, ...], axes: Sequence[Axis]
) -> list[Axis]:
  """Returns one axis per dimension, or raises an error that names the parameter."""
  if len(axes) > len(shape):
    raise UserError(f'{path} of shape {shape} has fewer dimensions than {axes}')
  checked = []
  for n, axis in zip(shape, axes, strict=False):
    names = [axis] if isinstance(axis, str) else list(axis or ())
    for name in names:
      if name not in AXES:
        raise UserError(f'{path}: {name!r} is not one of the axes {", ".join(AXES)}')
    size = math.prod(mesh.shape[name] for name in names)
    if n % size:
      raise UserError(
        f'{path} of shape {shape}: {n} does not divide over {size} devices of axis'
        f' {"+".join(names)!r}; use another mesh, or give it a rule in config.sharding'
      )
    checked.append(tuple(names) if len(names) > 1 else (*names, None)[0])
  return checked + [None] * (len(shape) - len(axes))


def bytes_per_device(tree: Any) -> int:
  """Returns the bytes that one device holds of a tree of (abstract) sharded arrays."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def check_batch_size(mesh: Mesh, batch_size: int, where: str) -> None:
  """Raises unless a global batch splits evenly over the devices."""
  shards = sharding.num_shards(mesh)
  if batch_size % shards:
    lower = batch_size // shards * shards
    nearest = f'{lower} or {lower + shards}' if lower else f'{shards}'
    raise UserError(
      f'{where}={batch_size} does not divide over {shards} devices: use {nearest}.'
    )


def put_tree(tree: Any, shardings: Any) -> Any:
  """Converts whole host arrays (equal in every process) to sharded global arrays."""

  def place(x: np.ndarray, like: NamedSharding) -> jax.Array:
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, like, lambda index: x[index])

  return jax.tree.map(place, tree, shardings)
