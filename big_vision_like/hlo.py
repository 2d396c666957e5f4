"""What a compiled program does on one device, read from its text (optimised HLO).

Loop bodies count once per trip, of two branches the dearer one. Operations are those of
matrix products and convolutions, products with padding left out. `bytes` is traffic
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

from big_vision_like.chips import Chip

COLLECTIVES = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
# Names, views, and the second halves of what another instruction began.
FREE = set(
  'parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id'
  ' optimization-barrier add-dependency domain async-update'.split()
)
FREE_CALL = re.compile(r'"(AllocateBuffer|ConcatBitcast|Sharding|AsyncCollective\w+)"')
SLICES = ('slice', 'dynamic-slice', 'gather')
# Updates in place: which operand holds the new values.
UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}


@dataclasses.dataclass(frozen=True)
class Item:
  """A line of the bill: an instruction, `times` executed; the rest is for once.

  A collective has a `kind`, the size of the `group` of devices that take part, a
  `payload` (the larger of what one device puts in and gets out) and `link_bytes`, what
  each device sends around a ring. `overlapped` ones run beside what comes after them.
  """

  name: str
  op_name: str
  times: int
  flops: int = 0
  bytes: int = 0
  overlapped: bool = False
  kind: str = ''
  group: int = 1
  payload: int = 0
  link_bytes: float = 0.0

  def seconds(self, chip: Chip) -> float:
    """The least time that all executions take."""
    if self.kind:
      return self.times * self.link_bytes / chip.ring_bandwidth
    compute, memory = self.flops / chip.peak_flops, self.bytes / chip.hbm_bandwidth
    return self.times * max(compute, memory)


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of one kind, over groups of one size."""

  kind: str
  group: int
  overlapped: bool
  times: int
  payload: int
  link_bytes: float


@dataclasses.dataclass(frozen=True)
class Estimate:
  """The least seconds of a program on one device, in parts.

  `compute` is the sum over instructions of max(operations, traffic) at full speed, or
  the time of all traffic where that is more (copies beside the instructions use the
  same memory). Collectives run around a ring that is one axis of a TPU's torus, both
  ways; those that overlap take time only as far as they exceed `compute`.
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
  """What one device does. `unknown_loops` were counted as if they made one trip."""

  items: tuple[Item, ...]
  unknown_loops: tuple[str, ...]

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
    """Totals by kind, size of the group, and whether they overlap."""
    totals = collections.defaultdict(lambda: np.zeros(3))
    for i in self.items:
      if i.kind:
        total = np.array([1, i.payload, i.link_bytes]) * i.times
        totals[i.kind, i.group, i.overlapped] += total
    return [
      Collective(*key, times=int(times), payload=int(payload), link_bytes=link_bytes)
      for key, (times, payload, link_bytes) in sorted(totals.items())
    ]

  def estimate(self, chip: Chip) -> Estimate:
    """The least time on such chips."""
    seconds = collections.Counter()
    for item in self.items:
      seconds[bool(item.kind), item.overlapped] += item.seconds(chip)
    return Estimate(
      compute=max(seconds[False, False], self.bytes / chip.hbm_bandwidth),
      collectives=seconds[True, False],
      overlapped_collectives=seconds[True, True],
    )

  def bill(self, chip: Chip) -> list[tuple[float, Item]]:
    """(seconds, item), the dearest first."""
    lines = [(item.seconds(chip), item) for item in self.items]
    return sorted(lines, key=lambda line: -line[0])


def costs(text: str) -> Costs:
  """Reads `compiled.as_text()` of a compiled, scheduled module."""
  reader = _Reader(text)
  items = tuple(reader.items(reader.computations[reader.entry], 1, False))
  return Costs(items, tuple(dict.fromkeys(reader.unknown_loops)))


# dtype[dims]{minor to major:T(tile)...S(memory space)}
_ARRAY = re.compile(r'(\w+)\[([\d,<=]*)\](?:\{([\d,]*):?(?:T\(([\d,]*)\))?([^}]*)\})?')


@dataclasses.dataclass(frozen=True)
class _Array:
  dims: tuple[int, ...]
  size: int  # bytes
  tiled: int  # bytes in whole tiles
  hbm: bool  # whether it lies in the main memory


@functools.lru_cache(maxsize=4096)
def _arrays(shape: str) -> tuple[_Array, ...]:
  """The arrays of a shape such as '(f32[2,3]{1,0:T(8,128)S(1)}, token[])'."""
  found = []
  for dtype, *numbers, rest in _ARRAY.findall(shape):
    dims, order, tile = ([int(n) for n in re.findall(r'\d+', t)] for t in numbers)
    bits = re.match(r'(?:bf|[fsuc])(\d+)', dtype)
    bits = 8 if dtype == 'pred' else int(bits[1]) if bits else 0
    padded = [1] * (len(tile) - len(dims)) + [dims[i] for i in reversed(order)]
    for i, n in enumerate(reversed(tile), 1):
      padded[-i] = -(-padded[-i] // n) * n
    size, tiled = (math.ceil(math.prod(d) * bits / 8) for d in (dims, padded or dims))
    found.append(_Array(tuple(dims), size, tiled, 'S(' not in rest))
  return tuple(found)


@dataclasses.dataclass(frozen=True)
class _Instruction:
  name: str
  op: str
  arrays: tuple[_Array, ...]
  operands: list[str]
  inside: str  # the parentheses: of a constant its value
  rest: str  # attributes, metadata, the backend's configuration

  def attribute(self, pattern: str) -> str:
    """The group of a pattern, or ''."""
    match = re.search(rf', {pattern}', self.rest)
    return match[1] if match else ''

  @property
  def kind(self) -> str:
    """The collective that this is or starts, or ''."""
    name = self.op.removesuffix('-start')
    return name if name in COLLECTIVES else ''

  @property
  def free(self) -> bool:
    free_call = self.op == 'custom-call' and FREE_CALL.search(self.rest)
    return bool(self.op in FREE or free_call or self.op.endswith('-done'))

  @property
  def results(self) -> tuple[_Array, ...]:
    """What it gives; what begins a transfer gives its operands, results and flags."""
    n = len(self.operands)
    if self.op == 'copy-start':
      return self.arrays[:1]
    if self.op.endswith('-start') and self.op != 'all-reduce-start':
      return self.arrays[n : 2 * n]
    return self.arrays

  @property
  def tiled(self) -> int:
    return sum(array.tiled for array in self.results)


class _Computation(dict[str, _Instruction]):
  """Instructions by name; `root` is the one whose value it returns."""

  root: _Instruction

  @functools.cached_property
  def parameters(self) -> dict[int, str]:
    return {int(i.inside): i.name for i in self.values() if i.op == 'parameter'}

  @functools.cached_property
  def users(self) -> dict[str, list[tuple[_Instruction, int]]]:
    """Who uses a value, and as which operand."""
    found = collections.defaultdict(list)
    for instruction in self.values():
      for n, operand in enumerate(instruction.operands):
        found[operand].append((instruction, n))
    return found

  def source(self, name: str) -> _Instruction:
    """The instruction of this name, looked at through copies and views."""
    while self[name].op in ('copy', 'bitcast', 'convert', 'reshape'):
      name = self[name].operands[0]
    return self[name]


def _instruction(name: str, text: str) -> _Instruction:
  """Reads 'SHAPE op(OPERANDS), attributes'."""
  end = _closing(text) if text.startswith('(') else text.index(' ')
  start = text.index('(', end)
  stop = start + _closing(text[start:])
  inside = text[start + 1 : stop - 1]
  operands = re.findall(r'%([\w.\-]+)', inside)
  op = text[end:start].strip()
  return _Instruction(name, op, _arrays(text[:end]), operands, inside, text[stop:])


def _closing(text: str) -> int:
  """Just after the parenthesis that closes the first one."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return match.end()
  return len(text)


class _Reader:
  """The computations of a module, and what they cost."""

  def __init__(self, text: str):
    self.computations: dict[str, _Computation] = {}
    self.unknown_loops: list[str] = []
    self.entry = ''
    computation = _Computation()
    for line in text.splitlines():
      if match := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
        computation = self.computations[match[2]] = _Computation()
        self.entry = match[2] if match[1] else self.entry
      elif match := re.match(r'\s+(ROOT )?%?([\w.\-]+) = (.*)', line):
        instruction = computation[match[2]] = _instruction(match[2], match[3])
        if match[1]:
          computation.root = instruction
    sizes = re.findall(r'(?:num_partitions|replica_count)=(\d+)', text.split('\n', 1)[0])
    self.devices = math.prod(int(n) for n in sizes)

  def called(self, i: _Instruction, role: str = '(?:calls|to_apply)') -> _Computation:
    return self.computations[i.attribute(rf'{role}=%?([\w.\-]+)')]

  def items(self, within: _Computation, times: int, beside: bool) -> Iterator[Item]:
    """What a computation costs; all `beside` others where it was started so."""
    seen = set()
    for i in within.values():
      if i.op == 'while':
        trips = times * self.trips(within, i)
        yield from self.items(self.called(i, 'condition'), trips, beside)
        yield from self.items(self.called(i, 'body'), trips, beside)
      elif i.op == 'conditional':
        names = i.attribute(r'branch_computations=\{(.*?)\}') or ' '.join(
          re.findall(r'(?:true|false)_computation=(%?[\w.\-]+)', i.rest)
        )
        branches = [
          Costs(tuple(self.items(self.computations[name], times, beside)), ())
          for name in re.findall(r'[\w.\-]+', names)
        ]
        yield from max(branches, key=lambda costs: (costs.flops, costs.bytes)).items
      elif i.op in ('call', 'async-start'):
        yield from self.items(self.called(i), times, beside or i.op == 'async-start')
      elif not i.free:
        item = Item(
          name=i.name,
          op_name=self.op_name(i),
          times=times,
          flops=self.flops(within, i),
          bytes=self.read(within, i) + self.written(within, i),
          overlapped=beside or i.op.endswith('-start'),
        )
        if i.kind:
          item = self.collective(item, within, i)
        # One collective may be spread over the fusions that it runs beside.
        fused = {
          j.attribute(r'channel_id=(\d+)') or j.name: (inner, j)
          for inner, j in self.fused_collectives(i)
        }
        for key in fused.keys() - seen:
          yield self.fused_collective(item, i, *fused[key])
        if item.kind or item.flops or item.bytes and fused.keys() <= seen:
          yield item
        seen |= fused.keys()

  def op_name(self, i: _Instruction) -> str:
    """Where in the program an instruction comes from."""
    match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', i.rest)
    if not match and i.op == 'fusion':
      return next(filter(None, map(self.op_name, self.called(i).values())), '')
    return match[1] if match else ''

  def fused_collectives(
    self, i: _Instruction
  ) -> Iterator[tuple[_Computation, _Instruction]]:
    if i.op == 'fusion':
      inner = self.called(i)
      for j in inner.values():
        yield from [(inner, j)] if j.kind else self.fused_collectives(j)

  def fused_collective(
    self, item: Item, fusion: _Instruction, within: _Computation, i: _Instruction
  ) -> Item:
    """A collective that a fusion makes, or starts."""
    source, root = within.source, within.root
    # The form in which TPUs have reduce-scatter.
    scatters = root.op == 'dynamic-slice' and source(root.operands[0]) is i
    found = self.collective(item, within, i, 'reduce-scatter' if scatters else i.kind)
    arrays = [a for name in i.operands for a in within[name].arrays]
    return dataclasses.replace(
      found,
      flops=0,
      bytes=sum(a.tiled for a in (*arrays, *fusion.results) if a.hbm),
      overlapped=any('"AsyncCollectiveStart"' in j.rest for j in within.values()),
    )

  def collective(
    self, item: Item, within: _Computation, i: _Instruction, kind: str = ''
  ) -> Item:
    kind, n = kind or i.kind, self.group(i)
    payload = sum(a.size for name in i.operands for a in within[name].arrays)
    payload *= n if kind == 'all-gather' else 1
    link_bytes = payload * _sent(kind, n)
    return dataclasses.replace(
      item, kind=kind, group=n, payload=payload, link_bytes=link_bytes
    )

  def group(self, i: _Instruction) -> int:
    """How many devices take part with one another."""
    if match := re.search(r', replica_groups=mesh\[(.*?)\][^{]*\{(.*?)\}', i.rest):
      sizes = dict(re.findall(r"'([^']+)'=(\d+)", match[1]))
      axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", match[2])
      return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if match := re.search(r', replica_groups=\[\d+,(\d+)\]<=', i.rest):
      return int(match[1])
    if match := re.search(r', replica_groups=\{\{([\d,]+)\}', i.rest):
      return match[1].count(',') + 1
    pairs = re.findall(r'\{(\d+),\d+\}', i.attribute(r'source_target_pairs=\{(.*?)\}\}'))
    return len(pairs) + 1 if pairs else self.devices

  def flops(self, within: _Computation, i: _Instruction) -> int:
    if i.op == 'fusion':
      inner = self.called(i)
      return sum(self.flops(inner, j) for j in inner.values())
    if i.op == 'dot':
      dims = within[i.operands[0]].arrays[0].dims
      contracted = re.findall(r'\d+', i.attribute(r'lhs_contracting_dims=\{(.*?)\}'))
      products = math.prod(dims[int(n)] for n in contracted)
      return 2 * products * math.prod(i.arrays[0].dims)
    if i.op == 'convolution':
      return 2 * _products(i, *(within[name].arrays[0].dims for name in i.operands))
    return 0

  def read(self, within: _Computation, i: _Instruction) -> int:
    """Bytes of its operands that an instruction reads from the main memory."""
    total = 0
    for n, name in enumerate(i.operands):
      whole = sum(a.tiled for a in within[name].results if a.hbm)
      total += min(whole, self.touched(i, n, whole)) if whole else 0
    return total

  def touched(self, i: _Instruction, n: int, whole: int) -> int:
    """Bytes of the operand `n`, of `whole` bytes, that an instruction looks at."""
    if n == 0 and i.op.removesuffix('-start') in SLICES:
      return i.tiled
    if n == 0 and i.op in UPDATES:
      return 0
    if i.op == 'fusion':
      inner = self.called(i)
      return min(whole, self.used(inner, inner.parameters[n], whole))
    return whole

  def used(self, within: _Computation, name: str, whole: int) -> int:
    """Bytes of a value, of `whole` bytes, that its users look at."""
    total = 0
    for user, n in within.users[name]:
      if user.op == 'bitcast':
        is_root = user is within.root
        total += whole if is_root else self.used(within, user.name, whole)
      elif not user.kind and not user.free:
        total += self.touched(user, n, whole)
    return total

  def written(self, within: _Computation, i: _Instruction) -> int:
    """Bytes that an instruction writes to the main memory."""
    if i.op != 'fusion':
      return sum(self.stored(within, i.name, a.tiled) for a in i.results if a.hbm)
    inner = self.called(i)
    names = inner.root.operands if inner.root.op == 'tuple' else [inner.root.name]
    return sum(
      self.stored(inner, name, a.tiled)
      for name, a in zip(names, i.results, strict=False)
      if a.hbm
    )

  def stored(self, within: _Computation, name: str, whole: int) -> int:
    """Bytes of a result, of `whole` bytes, that are new."""
    i = within[name]
    if i.op == 'bitcast':
      return self.stored(within, i.operands[0], whole)
    if i.op == 'fusion':
      inner = self.called(i)
      return self.stored(inner, inner.root.name, whole)
    if i.op in UPDATES:
      return within[i.operands[UPDATES[i.op]]].tiled
    return 0 if i.free else whole

  def trips(self, within: _Computation, loop: _Instruction) -> int:
    """How often a loop runs: as noted, or as its counter goes up to a constant."""
    if match := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest):
      return int(match[1])
    condition, body = self.called(loop, 'condition'), self.called(loop, 'body')
    test = condition.root
    direction = test.attribute(r'direction=(\w+)')
    start, stop, step = 0, None, 1
    for name in test.operands:
      value = condition.source(name)
      if value.op == 'get-tuple-element':
        index = int(value.attribute(r'index=(\d+)'))
        value = within.source(within[loop.operands[0]].operands[index])
        after = body.source(body.root.operands[index])
        if after.op == 'add':
          steps = [body.source(operand) for operand in after.operands]
          step = next((int(s.inside) for s in steps if s.op == 'constant'), 1)
          start = int(value.inside) if value.op == 'constant' else 0
          continue
      if value.op == 'constant':
        stop = int(value.inside)
    if stop is None or step < 1 or direction not in ('LT', 'LE'):
      self.unknown_loops.append(loop.name)
      return 1
    return max(0, -(-(stop + (direction == 'LE') - start) // step))


def _sent(kind: str, n: int) -> float:
  """What each of `n` devices in a ring sends, as a multiple of the payload."""
  if kind == 'all-reduce':
    return 2 * (n - 1) / n
  if kind in ('all-gather', 'reduce-scatter'):
    return (n - 1) / n
  if kind.endswith('all-to-all'):
    return (n * n // 4) / n  # to each other device, the shorter way, through others
  return float(n > 1)


def _products(i: _Instruction, lhs: tuple[int, ...], rhs: tuple[int, ...]) -> int:
  """Products in a convolution, those with padding and holes left out."""
  labels = i.attribute(r'dim_labels=([^,\s]+)')
  lhs_labels, rhs_labels, out_labels = re.split('_|->', labels)
  window = dict(re.findall(r'(\w+)=([^\s}]+)', i.attribute(r'window=\{(.*?)\}')))
  groups = int(i.attribute(r'batch_group_count=(\d+)') or 1)
  products = lhs[lhs_labels.index('b')] // groups * math.prod(rhs[rhs_labels.index(c)] for c in 'io')
  for n, kernel in enumerate(window.get('size', '').split('x') if window else ()):
    field = lambda name, default: (window.get(name) or 'x'.join([default] * 9)).split('x')[n]
    products *= _positions(
      size=lhs[lhs_labels.index(str(n))],
      kernel=int(kernel),
      out=i.arrays[0].dims[out_labels.index(str(n))],
      stride=int(field('stride', '1')),
      low=int(field('pad', '0_0').split('_')[0]),
      lhs_dilate=int(field('lhs_dilate', '1')),
      rhs_dilate=int(field('rhs_dilate', '1')),
    )
  return products


@functools.lru_cache(maxsize=4096)
def _positions(
  size: int, kernel: int, out: int, stride: int, low: int, lhs_dilate: int, rhs_dilate: int
) -> int:
  """How many (output, kernel) positions of one dimension meet an input element."""
  total = 0
  first = np.arange(out) * stride - low
  for k in range(kernel):
    at = first + k * rhs_dilate
    inside = (at >= 0) & (at <= (size - 1) * lhs_dilate) & (at % lhs_dilate == 0)
    total += int(inside.sum())
  return total
