"""What a compiled program does on one device, read from its text (optimised HLO).

Loop bodies count once per trip, of several branches the dearest. Operations are those
of matrix products and convolutions, products with padding left out. Traffic is that
with the device's main memory (HBM), in whole tiles as the arrays lie there; what the
compiler keeps in a faster memory (`S(1)` in a layout) is free.
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
# What updates an array in place, and which operand holds the new values.
UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}


@dataclasses.dataclass(frozen=True)
class Item:
  """A line of the bill: an instruction, `times` executed; the rest is for once.

  `cycles` is the compiler's own estimate, 0 where it has none. A collective has a
  `kind`, the size of the `group` of devices that take part, a `payload` (the larger of
  what one device puts in and gets out) and `link_bytes`, what each device sends around
  a ring. What is `overlapped` runs beside the instructions after it.
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
    """The least time all executions take, or what the compiler expects if it tells."""
    if self.kind:
      return self.times * self.link_bytes / chip.ring_bandwidth
    if expected and self.cycles and chip.clock:
      return self.times * self.cycles / chip.clock
    compute, memory = self.flops / chip.peak_flops, self.bytes / chip.hbm_bandwidth
    return self.times * max(compute, memory)


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind over groups of one size, their bytes summed up."""

  kind: str
  group: int
  overlapped: bool
  times: int = 0
  payload: int = 0
  link_bytes: float = 0.0


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds of a program on one device, in parts.

  `compute` is the sum over instructions, or the time of all traffic where that is more
  (copies beside the instructions use the same memory). Collectives go around a ring
  that is one axis of a TPU's torus, both ways; those that overlap cost what they exceed
  `compute` by.
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
  """What one device does. `unknown_loops` count as if they made one trip."""

  items: tuple[Item, ...]
  unknown_loops: tuple[str, ...] = ()

  @property
  def flops(self) -> int:
    """Operations of matrix products and convolutions."""
    return sum(item.times * item.flops for item in self.items)

  @property
  def bytes(self) -> int:
    """Traffic with the main memory."""
    return sum(item.times * item.bytes for item in self.items)

  @property
  def collectives(self) -> list[Collective]:
    """Totals by kind, size of the group and overlap."""
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
    """The least time (roofline), or what the compiler expects as far as it tells."""
    seconds = collections.Counter()
    for item in self.items:
      seconds[bool(item.kind), item.overlapped] += item.seconds(chip, expected)
    return Estimate(
      compute=max(seconds[False, False], self.bytes / chip.hbm_bandwidth),
      collectives=seconds[True, False],
      overlapped_collectives=seconds[True, True],
    )

  def bill(self, chip: Chip, expected: bool = False) -> list[tuple[float, Item]]:
    """(seconds, item) of every instruction that takes time, the dearest first."""
    lines = [(item.seconds(chip, expected), item) for item in self.items]
    return sorted(lines, key=lambda line: -line[0])


def costs(text: str) -> Costs:
  """Reads what `compiled.as_text()` gives of a scheduled module."""
  module = parse(text)
  loops = [i for c in module.values() for i in c.values() if i.op == 'while']
  unknown = [loop.name for loop in loops if _trips(loop) is None]
  return Costs(tuple(_items(module[module.entry], 1, False)), tuple(unknown))


def _items(home: Computation, times: int, overlapped: bool) -> Iterator[Item]:
  """What a computation costs; `overlapped` if it was started beside others."""
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
      # One collective may be spread over the fusions that it runs beside.
      fused = {j.attribute(r'channel_id=(\d+)') or j.name: j for j in _fused(i)}
      new = fused.keys() - seen
      seen |= new
      for key in sorted(new):
        yield _fused_collective(item, i, fused[key])
      if item.flops or not new and (item.bytes or item.cycles):
        yield item


def _trips(loop: Instruction) -> int | None:
  """How often a loop runs: as noted, or while its counter is less than a constant."""
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
  """The value of a constant."""
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
  """Products in a convolution, those with padding and holes left out."""
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
  """How many (output, kernel) positions along one dimension meet an input element."""
  total, first = 0, np.arange(out) * stride - low
  for k in range(kernel):
    at = first + k * rhs_dilate
    inside = (at >= 0) & (at <= (size - 1) * lhs_dilate) & (at % lhs_dilate == 0)
    total += int(inside.sum())
  return total


def _read(i: Instruction) -> int:
  """Bytes of its operands that an instruction reads from the main memory."""
  total = 0
  for n, operand in enumerate(i.operands):
    whole = sum(a.tiled for a in operand.results if a.hbm)
    total += min(whole, _touched(i, n, whole)) if whole else 0
  return total


def _touched(i: Instruction, n: int, whole: int) -> int:
  """Bytes that an instruction looks at of its operand `n`, which has `whole` bytes."""
  if n == 0 and i.op.removesuffix('-start') in SLICES:
    return sum(a.tiled for a in i.results)
  if n == 0 and i.op in UPDATES:
    return 0
  return _used(i.called().parameters[n], whole) if i.op == 'fusion' else whole


def _used(value: Instruction, whole: int) -> int:
  """Bytes of a value that what follows in its fusion looks at."""
  total = 0
  for user, n in value.home.users[value.name]:
    if user.op == 'bitcast':
      total += whole if user is value.home.root else _used(user, whole)
    elif not user.kind and not user.free:
      total += _touched(user, n, whole)
  return min(total, whole)


def _written(i: Instruction) -> int:
  """Bytes that an instruction writes to the main memory."""
  if i.op != 'fusion':
    results = i.operands[UPDATES[i.op]].results if i.op in UPDATES else i.results
    return sum(a.tiled for a in results if a.hbm)
  root = i.called().root
  values = root.operands if root.op == 'tuple' else [root]
  pairs = zip(values, i.results, strict=False)
  return sum(_new(value, a.tiled) for value, a in pairs if a.hbm)


def _new(value: Instruction, whole: int) -> int:
  """Bytes of a result that are computed in its fusion: of an update the update."""
  if value.op == 'bitcast':
    return _new(value.operands[0], whole)
  if value.op == 'fusion' and value.called().root.op != 'tuple':
    return _new(value.called().root, whole)
  if value.op in UPDATES and value.operands[0].source.op == 'parameter':
    return sum(a.tiled for a in value.operands[UPDATES[value.op]].results)
  return 0 if value.free or value.kind else whole


def _fused(i: Instruction) -> Iterator[Instruction]:
  """The collectives in a fusion."""
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
  """A collective that a fusion makes, or starts."""
  root = i.home.root
  # The form that reduce-scatter has on TPUs.
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
  """How many devices take part with one another."""
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
  """What each of `n` devices in a ring sends, as a multiple of the payload."""
  if kind == 'all-reduce':
    return 2 * (n - 1) / n
  if kind in ('all-gather', 'reduce-scatter'):
    return (n - 1) / n
  if kind.endswith('all-to-all'):
    return n * n // 4 / n  # a part to each other device, the shorter way around
  return float(n > 1)
