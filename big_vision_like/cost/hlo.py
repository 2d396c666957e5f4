"""Costs of a compiled program on one device, read from its text (optimised HLO).

Loop bodies count once per iteration; among several branches, the most expensive counts.
Only operations of matrix products and convolutions count, without products with
padding. Traffic is the number of bytes moved to and from the device's main memory
(HBM), in whole tiles of the arrays' layouts. Arrays that the compiler keeps in a faster
memory (`S(1)` in a layout) are free.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterator

import numpy as np

from big_vision_like.cost.hlo_text import Computation, Instruction, parse
from big_vision_like.devices.chips import Chip

SLICES = ('slice', 'dynamic-slice', 'gather')
# Operations that update an array in place, and the operand with the new values.
UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}


@dataclasses.dataclass(frozen=True)
class Item:
  """A line of the bill: an instruction and its costs for one of `times` executions.

  `cycles` is the compiler's own estimate, 0 if it has none. A collective has a `kind`,
  the size of the `group` of participating devices, a `payload` (the larger of one
  device's input and output, in bytes) and `link_bytes`, the bytes that each device
  sends around a ring. `overlapped` items run concurrently with the instructions after
  them.
  """

  name: str
  op_name: str
  times: int
  flops: int = 0
  bytes: int = 0
  cycles: int = 0
  overlapped: bool = False
  kind: str = ''
  group: int = 1
  payload: int = 0
  link_bytes: float = 0.0

  def seconds(self, chip: Chip, expected: bool = False) -> float:
    """Returns the least time of all executions, or the compiler's if `expected`."""
    if self.kind:
      return self.times * self.link_bytes / chip.ring_bandwidth
    if expected and self.cycles and chip.clock:
      return self.times * self.cycles / chip.clock
    compute, memory = self.flops / chip.peak_flops, self.bytes / chip.hbm_bandwidth
    return self.times * max(compute, memory)


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind over groups of one size, with their bytes summed."""

  kind: str
  group: int
  overlapped: bool
  times: int = 0
  payload: int = 0
  link_bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The seconds of a program on one device, in parts.

  `compute` is the sum over instructions, or the time of all traffic if that is longer
  (copies that run alongside instructions use the same memory). Collectives use a ring
  along one axis of a TPU's torus, in both directions. Overlapped collectives cost only
  the time by which they exceed `compute`.
  """

  compute: float
  collectives: float
  overlapped_collectives: float

  @property
  def total(self) -> float:
    exposed = max(0.0, self.overlapped_collectives - self.compute)
    return self.compute + self.collectives + exposed


@dataclasses.dataclass(frozen=True)
class Costs:
  """The costs of one device. `unknown_loops` count as if they made one iteration."""

  items: tuple[Item, ...]
  unknown_loops: tuple[str, ...] = ()

  @property
  def flops(self) -> int:
    """The operations of matrix products and convolutions."""
    return sum(item.times * item.flops for item in self.items)

  @property
  def bytes(self) -> int:
    """The traffic with the main memory in bytes."""
    return sum(item.times * item.bytes for item in self.items)

  @property
  def collectives(self) -> list[Collective]:
    """The total of collectives by kind, group size and overlap."""
    found = {}
    for i in self.items:
      if i.kind:
        key = (i.kind, i.group, i.overlapped)
        total = found.get(key, Collective(*key))
        found[key] = dataclasses.replace(
          total,
          times=total.times + i.times,
          payload=total.payload + i.times * i.payload,
          link_bytes=total.link_bytes + i.times * i.link_bytes,
        )
    return [found[key] for key in sorted(found)]

  def estimate(self, chip: Chip, expected: bool = False) -> Estimate:
    """Returns the least time (roofline), or the compiler's estimate if `expected`."""
    seconds = collections.Counter()
    for item in self.items:
      seconds[bool(item.kind), item.overlapped] += item.seconds(chip, expected)
    return Estimate(
      compute=max(seconds[False, False], self.bytes / chip.hbm_bandwidth),
      collectives=seconds[True, False],
      overlapped_collectives=seconds[True, True],
    )

  def bill(self, chip: Chip, expected: bool = False) -> list[tuple[float, Item]]:
    """Returns (seconds, item) for every instruction, the most expensive first."""
    lines = [(item.seconds(chip, expected), item) for item in self.items]
    return sorted(lines, key=lambda line: -line[0])


def costs(text: str) -> Costs:
  """Reads the costs of a scheduled module from the text of `compiled.as_text()`."""
  module = parse(text)
  loops = [i for c in module.values() for i in c.values() if i.op == 'while']
  unknown = [loop.name for loop in loops if _trips(loop) is None]
  return Costs(tuple(_items(module[module.entry], 1, False)), tuple(unknown))


def _items(home: Computation, times: int, overlapped: bool) -> Iterator[Item]:
  """Yields the costs of a computation; `overlapped` if it was started concurrently."""
  seen = set()
  for i in home.values():
    if i.op == 'while':
      trips = _trips(i) or 1
      yield from _items(i.called('condition'), times * trips, overlapped)
      yield from _items(i.called('body'), times * trips, overlapped)
    elif i.op == 'conditional':
      branches = [Costs(tuple(_items(b, times, overlapped))) for b in i.branches]
      yield from max(branches, key=lambda costs: (costs.flops, costs.bytes)).items
    elif i.op in ('call', 'async-start'):
      yield from _items(i.called(), times, overlapped or i.op == 'async-start')
    elif not i.free:
      item = Item(
        name=i.name,
        op_name=i.op_name,
        times=times,
        flops=_flops(i),
        bytes=_read(i) + _written(i),
        cycles=i.cycles,
        overlapped=overlapped or i.op.endswith('-start'),
      )
      if i.kind:
        yield _collective(item, i, i.kind)
        continue
      # One collective may be spread over several fusions that it overlaps with.
      fused = {j.attribute(r'channel_id=(\d+)') or j.name: j for j in _fused(i)}
      new = fused.keys() - seen
      seen |= new
      for key in sorted(new):
        yield _fused_collective(item, i, fused[key])
      if item.flops or not new and (item.bytes or item.cycles):
        yield item


def _trips(loop: Instruction) -> int | None:
  """Returns a loop's iterations, as noted or from its counter; None if unknown."""
  if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
    return int(match[1])
  test, body = loop.called('condition').root, loop.called('body').root
  before = loop.operands[0]
  start, stop, step = 0, None, None
  for value in (operand.source for operand in test.operands):
    if value.op == 'get-tuple-element' and body.op == 'tuple':
      n = int(value.attribute(r'index=(\d+)'))
      after = body.operands[n].source
      value = before.operands[n].source if before.op == 'tuple' else value
      if after.op == 'add':
        steps = [_integer(operand.source) for operand in after.operands]
        step = next((n for n in steps if n is not None), None)
        start = _integer(value) or 0
        continue
    stop = _integer(value)
  equal = {'LT': 0, 'LE': 1}.get(test.attribute(r'direction=(\w+)'))
  if stop is None or equal is None or not step or step < 0:
    return None
  return max(0, math.ceil((stop + equal - start) / step))


def _integer(i: Instruction) -> int | None:
  """Returns the value of an integer constant, otherwise None."""
  is_integer = i.op == 'constant' and re.fullmatch(r'-?\d+', i.inside)
  return int(i.inside) if is_integer else None


def _flops(i: Instruction) -> int:
  if i.op == 'fusion':
    return sum(_flops(j) for j in i.called().values())
  if i.op == 'dot':
    dims = i.operands[0].arrays[0].dims
    contracted = re.findall(r'\d+', i.attribute(r'lhs_contracting_dims=\{(.*?)\}'))
    size = math.prod(dims[int(n)] for n in contracted)
    return 2 * size * math.prod(i.arrays[0].dims)
  return 2 * _products(i) if i.op == 'convolution' else 0


def _products(i: Instruction) -> int:
  """Returns the number of products in a convolution, without padding and holes."""
  labels = re.split('_|->', i.attribute(r'dim_labels=([^,\s]+)'))
  arrays = (i.operands[0].arrays[0], i.operands[1].arrays[0], i.arrays[0])
  lhs, rhs, out = (
    dict(zip(names, array.dims, strict=True))
    for names, array in zip(labels, arrays, strict=True)
  )
  groups = int(i.attribute(r'batch_group_count=(\d+)') or 1)
  products = lhs['b'] // groups * rhs['i'] * rhs['o']
  window = re.findall(r'(\w+)=(\S+)', i.attribute(r'window=\{(.*?)\}'))
  window = {key: value.split('x') for key, value in window}
  for n, kernel in enumerate(window.get('size', ())):
    field = {key: values[n] for key, values in window.items()}
    products *= _positions(
      lhs[str(n)],
      int(kernel),
      out[str(n)],
      stride=int(field.get('stride', 1)),
      low=int(field.get('pad', '0').split('_')[0]),
      lhs_dilate=int(field.get('lhs_dilate', 1)),
      rhs_dilate=int(field.get('rhs_dilate', 1)),
    )
  return products


@functools.lru_cache(maxsize=4096)
def _positions(
  size: int,
  kernel: int,
  out: int,
  stride: int,
  low: int,
  lhs_dilate: int,
  rhs_dilate: int,
) -> int:
  """Counts (output, kernel) positions along one dimension that meet an input."""
  total, first = 0, np.arange(out) * stride - low
  for k in range(kernel):
    at = first + k * rhs_dilate
    inside = (at >= 0) & (at <= (size - 1) * lhs_dilate) & (at % lhs_dilate == 0)
    total += int(inside.sum())
  return total


def _read(i: Instruction) -> int:
  """Returns the bytes of its operands that an instruction reads from main memory."""
  total = 0
  for n, operand in enumerate(i.operands):
    whole = sum(a.tiled for a in operand.results if a.hbm)
    total += min(whole, _touched(i, n, whole)) if whole else 0
  return total


def _touched(i: Instruction, n: int, whole: int) -> int:
  """Returns the bytes that an instruction reads of operand `n`, of `whole` bytes."""
  if n == 0 and i.op.removesuffix('-start') in SLICES:
    return sum(a.tiled for a in i.results)
  if n == 0 and i.op in UPDATES:
    return 0
  return _used(i.called().parameters[n], whole) if i.op == 'fusion' else whole


def _used(value: Instruction, whole: int) -> int:
  """Returns the bytes of a value that later instructions in its fusion read."""
  total = 0
  for user, n in value.home.users[value.name]:
    if user.op == 'bitcast':
      total += whole if user is value.home.root else _used(user, whole)
    elif not user.kind and not user.free:
      total += _touched(user, n, whole)
  return min(total, whole)


def _written(i: Instruction) -> int:
  """Returns the bytes that an instruction writes to main memory."""
  if i.op != 'fusion':
    results = i.operands[UPDATES[i.op]].results if i.op in UPDATES else i.results
    return sum(a.tiled for a in results if a.hbm)
  root = i.called().root
  values = root.operands if root.op == 'tuple' else [root]
  pairs = zip(values, i.results, strict=False)
  return sum(_new(value, a.tiled) for value, a in pairs if a.hbm)


def _new(value: Instruction, whole: int) -> int:
  """Returns the bytes of a result computed in its fusion; for updates, the update's."""
  if value.op == 'bitcast':
    return _new(value.operands[0], whole)
  if value.op == 'fusion' and value.called().root.op != 'tuple':
    return _new(value.called().root, whole)
  if value.op in UPDATES and value.operands[0].source.op == 'parameter':
    return sum(a.tiled for a in value.operands[UPDATES[value.op]].results)
  return 0 if value.free or value.kind else whole


def _fused(i: Instruction) -> Iterator[Instruction]:
  """Yields the collectives in a fusion."""
  if i.op == 'fusion':
    for j in i.called().values():
      yield from [j] if j.kind else _fused(j)


def _collective(item: Item, i: Instruction, kind: str) -> Item:
  n = _group(i)
  payload = sum(a.size for operand in i.operands for a in operand.arrays)
  payload *= n if kind == 'all-gather' else 1
  return dataclasses.replace(
    item, kind=kind, group=n, payload=payload, link_bytes=payload * _sent(kind, n)
  )


def _fused_collective(item: Item, fusion: Instruction, i: Instruction) -> Item:
  """Returns the item of a collective that a fusion contains or starts."""
  root = i.home.root
  # On TPUs a reduce-scatter has this form.
  scatters = root.op == 'dynamic-slice' and root.operands[0].source is i
  arrays = [a for operand in i.operands for a in operand.results]
  item = dataclasses.replace(
    item,
    flops=0,
    cycles=0,
    bytes=sum(a.tiled for a in (*arrays, *fusion.results) if a.hbm),
    overlapped=any('"AsyncCollectiveStart"' in j.rest for j in i.home.values()),
  )
  return _collective(item, i, 'reduce-scatter' if scatters else i.kind)


def _group(i: Instruction) -> int:
  """Returns the number of devices in each group of a collective."""
  if match := re.search(r', replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}', i.rest):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
    axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
    return math.prod(int(part or sizes[axis]) for axis, part in axes)
  if match := re.search(r', replica_groups=\[\d+,(\d+)\]<=', i.rest):
    return int(match[1])
  if match := re.search(r', replica_groups=\{\{([\d,]+)\}', i.rest):
    return len(match[1].split(','))
  if match := re.search(r', source_target_pairs=\{(\{.*?\})\}', i.rest):
    return len(re.findall(r'\{\d+,\d+\}', match[1]))
  return i.home.module.devices


def _sent(kind: str, n: int) -> float:
  """Returns the bytes each of `n` devices in a ring sends, divided by the payload."""
  if kind == 'all-reduce':
    return 2 * (n - 1) / n
  if kind in ('all-gather', 'reduce-scatter'):
    return (n - 1) / n
  if kind.endswith('all-to-all'):
    return n * n // 4 / n  # a part to each other device, along the shorter way
  return float(n > 1)
