"""Detection of copies of the state that drift apart, because a device computes wrongly.

Devices that hold the same part of a parameter must hold the same bits. Each device sums
its own part, so that comparing a state takes one number per leaf and device.

Axes: D F T the mesh (data, fsdp, tensor), L leaves, P parts of a leaf, R their copies.
"""

import collections
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.ops import sharding
from big_vision_like.ops.checksums import checksum


class Replicas:
  """Compares the copies of a state; `state` is abstract, with shardings."""

  def __init__(self, mesh: Mesh, state: Any):
    leaves = jax.tree_util.tree_leaves_with_path(state)
    self._mesh = mesh
    self._names = [optim.path_of(keys) for keys, _ in leaves]
    self._specs = [leaf.sharding.spec for _, leaf in leaves]
    self._copied = any(_parts(mesh, spec) < mesh.size for spec in self._specs)
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, state)
    local = jax.shard_map(
      _local_sums,
      mesh=mesh,
      in_specs=(specs,),
      out_specs=P(*sharding.AXES),
      check_vma=False,
    )
    self._sums = jax.jit(local, out_shardings=sharding.replicated(mesh))

  def sums(self, state: Any) -> jax.Array | None:
    """Starts summing the bits on each device, (D,F,T,L) uint32; None without copies."""
    return self._sums(state) if self._copied else None

  def check(
    self, step: int, sums_DFTL: np.ndarray | None, last_good: int | None
  ) -> None:
    """Raises unless all copies of a part have the same sum."""
    if sums_DFTL is None:
      return
    wrong = collections.defaultdict(list)  # names of leaves by problem
    for i, name in enumerate(self._names):
      if said := self._disagreement(self._specs[i], sums_DFTL[..., i]):
        wrong[said].append(name)
    if not wrong:
      return
    said, names = max(wrong.items(), key=lambda item: len(item[1]))
    more = f' (and {len(names) - 1} more)' if len(names) > 1 else ''
    kept = 'none was saved yet' if last_good is None else f'step {last_good:,} is kept'
    raise UserError(
      f'copies of the state drifted apart by step {step:,}: {said} in {names[0]}{more}.'
      f' Last good checkpoint: {kept}. Exclude that device or its machine, and rerun'
      ' the same command.'
    )

  def _disagreement(self, spec: P, sums_DFT: np.ndarray) -> str:
    """Returns which devices differ from most copies of the same part; '' if none."""
    split = _split_axes(spec)
    order = sorted(range(3), key=lambda i: sharding.AXES[i] not in split)
    parts = _parts(self._mesh, spec)
    sums_PR = sums_DFT.transpose(order).reshape(parts, -1)
    devices_PR = self._mesh.devices.transpose(order).reshape(parts, -1)
    for sums_R, devices_R in zip(sums_PR, devices_PR, strict=True):
      ((most, count), *others) = collections.Counter(sums_R.tolist()).most_common()
      if not others:
        continue
      if 2 * count > len(sums_R):
        wrong = [_name(device) for device in devices_R[sums_R != most]]
        verb = 'deviates' if len(wrong) == 1 else 'deviate'
        return f'{", ".join(wrong[:4])} {verb} from {count} others'
      if len(sums_R) == 2:
        return f'two devices disagree, {_name(devices_R[0])} and {_name(devices_R[1])},'
      return f'{len(sums_R)} devices disagree with no majority'
    return ''


def _split_axes(spec: P) -> set[str]:
  return {a for axes in spec for a in ([axes] if isinstance(axes, str) else axes or ())}


def _parts(mesh: Mesh, spec: P) -> int:
  return math.prod(mesh.shape[axis] for axis in _split_axes(spec))


def _local_sums(state: Any) -> jax.Array:
  """Returns a number per leaf that changes with any bit, and with their order."""
  return jnp.stack([checksum(leaf) for leaf in jax.tree.leaves(state)])[
    None, None, None
  ]


def _name(device: jax.Device) -> str:
  return f'device {device.id} of process {device.process_index}'
