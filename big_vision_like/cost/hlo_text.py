"""A parser for the text of compiled programs (optimised HLO)."""

import collections
import dataclasses
import functools
import math
import re

COLLECTIVES = set(
  'all-reduce all-gather reduce-scatter all-to-all ragged-all-to-all'
  ' collective-permute collective-broadcast'.split()
)
# Names, views, and second halves of asynchronous instructions.
FREE = set(
  'parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id'
  ' optimization-barrier add-dependency domain async-update'.split()
)
FREE_CALLS = re.compile(r'"(AllocateBuffer|ConcatBitcast|Sharding|AsyncCollective\w+)"')

# dtype[dims]{minor to major:T(tile)...S(memory space)}
_ARRAY = re.compile(r'(\w+)\[([\d,<=]*)\](?:\{([\d,]*):?(?:T\(([\d,]*)\))?([^}]*)\})?')


@dataclasses.dataclass(frozen=True)
class Array:
  dims: tuple[int, ...]
  size: int  # bytes
  tiled: int  # bytes in whole tiles
  hbm: bool  # whether it is in the main memory


@functools.lru_cache(maxsize=4096)
def _arrays(shape: str) -> tuple[Array, ...]:
  """Returns the arrays of a shape such as '(f32[2,3]{1,0:T(8,128)S(1)}, token[])'."""
  found = []
  for dtype, *numbers, rest in _ARRAY.findall(shape):
    dims, order, tile = ([int(n) for n in re.findall(r'\d+', t)] for t in numbers)
    bits = re.match(r'(?:bf|[fsuc])(\d+)', dtype)
    bits = 8 if dtype == 'pred' else int(bits[1]) if bits else 0
    padded = [1] * (len(tile) - len(dims)) + [dims[i] for i in reversed(order)]
    for i, n in enumerate(reversed(tile), 1):
      padded[-i] = -(-padded[-i] // n) * n
    size, tiled = (math.ceil(math.prod(d) * bits / 8) for d in (dims, padded or dims))
    found.append(Array(tuple(dims), size, tiled, 'S(' not in rest))
  return tuple(found)


@dataclasses.dataclass(frozen=True, eq=False)
class Instruction:
  name: str
  op: str
  arrays: tuple[Array, ...]
  inside: str  # the text in parentheses: operands, or a constant's value
  rest: str  # attributes, metadata, the backend's configuration
  home: 'Computation'

  @functools.cached_property
  def operands(self) -> list['Instruction']:
    names = re.findall(r'%([\w.\-]+)', self.inside)
    return [self.home[name] for name in names if name in self.home]

  @property
  def source(self) -> 'Instruction':
    """The instruction that computes the value, behind copies and views."""
    through = self.op in ('copy', 'bitcast', 'convert', 'reshape')
    return self.operands[0].source if through else self

  def attribute(self, pattern: str) -> str:
    """Returns the group of a pattern in the attributes, or ''."""
    match = re.search(rf', {pattern}', self.rest)
    return match[1] if match else ''

  def called(self, role: str = '(?:calls|to_apply)') -> 'Computation':
    return self.home.module[self.attribute(rf'{role}=%?([\w.\-]+)')]

  @property
  def branches(self) -> list['Computation']:
    names = self.attribute(r'branch_computations=\{(.*?)\}').split(', ')
    either = re.findall(r'(?:true|false)_computation=([^\s,]+)', self.rest)
    return [self.home.module[name.lstrip('%')] for name in either or names]

  @property
  def op_name(self) -> str:
    """The instruction's place in the traced program."""
    if match := re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest):
      return match[1]
    inside = self.called().values() if self.op == 'fusion' else ()
    return next((i.op_name for i in inside if i.op_name), '')

  @property
  def cycles(self) -> int:
    match = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
    return int(match[1]) if match else 0

  @property
  def kind(self) -> str:
    """The collective that the instruction is or starts, or ''."""
    name = self.op.removesuffix('-start')
    return name if name in COLLECTIVES else ''

  @property
  def free(self) -> bool:
    free_call = self.op == 'custom-call' and FREE_CALLS.search(self.rest)
    return bool(self.op in FREE or free_call or self.op.endswith('-done'))

  @property
  def results(self) -> tuple[Array, ...]:
    """The resulting arrays; starts of transfers return operands, results and flags."""
    n = len(self.operands)
    if self.op == 'copy-start':
      return self.arrays[:1]
    if self.op.endswith('-start') and self.op != 'all-reduce-start':
      return self.arrays[n : 2 * n]
    return self.arrays


class Computation(dict[str, Instruction]):
  """Instructions by name; `root` is the one whose value the computation returns."""

  root: Instruction

  def __init__(self, module: 'Module'):
    self.module = module

  @functools.cached_property
  def parameters(self) -> dict[int, Instruction]:
    return {int(i.inside): i for i in self.values() if i.op == 'parameter'}

  @functools.cached_property
  def users(self) -> dict[str, list[tuple[Instruction, int]]]:
    """The users of each value, with the operand's position."""
    found = collections.defaultdict(list)
    for i in self.values():
      for n, operand in enumerate(i.operands):
        found[operand.name].append((i, n))
    return found


class Module(dict[str, Computation]):
  """A compiled program: computations by name."""

  entry: str
  devices: int


def parse(text: str) -> Module:
  """Parses the text of `compiled.as_text()`."""
  module = Module()
  sizes = re.findall(r'(?:num_partitions|replica_count)=(\d+)', text.split('\n', 1)[0])
  module.devices = math.prod(int(n) for n in sizes)
  for line in text.splitlines():
    if match := re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line):
      home = module[match[2]] = Computation(module)
      module.entry = match[2]  # comes last
    elif match := re.match(r'\s+(ROOT )?%?([\w.\-]+) = (.*)', line):
      instruction = home[match[2]] = _instruction(home, match[2], match[3])
      if match[1]:
        home.root = instruction
  return module


def _instruction(home: Computation, name: str, text: str) -> Instruction:
  """Parses 'SHAPE op(OPERANDS), attributes'."""
  end = _closing(text) if text.startswith('(') else text.index(' ')
  start = text.index('(', end)
  stop = start + _closing(text[start:])
  return Instruction(
    name=name,
    op=text[end:start].strip(),
    arrays=_arrays(text[:end]),
    inside=text[start + 1 : stop - 1],
    rest=text[stop:],
    home=home,
  )


def _closing(text: str) -> int:
  """Returns the position after the parenthesis that closes the first one."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return match.end()
  return len(text)
