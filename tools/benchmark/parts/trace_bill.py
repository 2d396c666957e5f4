"""Breakdown of the time of a step, read from a trace of the profiler.

A trace has one line of events for every stream of a device. On a CPU, operations are on
the lines of the threads that ran them. Times are in seconds, of one step on one device.
"""

import collections
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from big_vision_like.errors import UserError

# Annotations of the traced loop: the whole loop, and the waits for a batch in it.
LOOP = 'traced loop'
INPUT = 'wait for input'

COLLECTIVE = re.compile(
  'all-reduce|all-gather|reduce-scatter|all-to-all|collective-|^nccl', re.IGNORECASE
)

Span = tuple[float, float]


class Operation(NamedTuple):
  """One run of one operation; `line` is the stream or thread that ran it."""

  name: str
  span: Span
  line: str


def bill(
  folder: pathlib.Path, steps: int, sources: Mapping[str, str] | None = None
) -> dict[str, Any]:
  """Returns the parts of a step, which sum to the whole, and ten longest operations.

  `compute` and `collectives` keep the device busy (both at once count as compute).
  While the device is idle, it waits for `input`, or in `gaps` for the host to dispatch.
  `sources` maps operations to their place in the program (see `sources_of`).
  """
  data = _read(folder)
  window, waits = _annotations(data)
  found = [o for o in operations(data) if _clip(o.span, window)]
  if not found:
    raise UserError(f'the trace in {folder} has no operations of a device')
  compute = merge(_clip(o.span, window) for o in found if not COLLECTIVE.search(o.name))
  busy = merge(_clip(o.span, window) for o in found)
  idle = subtract([window], busy)
  gaps = subtract(idle, merge(waits))
  parts = {
    'compute': length(compute),
    'collectives': length(busy) - length(compute),
    'input': length(idle) - length(gaps),
    'gaps': length(gaps),
  }
  own = collections.Counter()
  for name, seconds in own_times(found):
    own[(sources or {}).get(name, re.sub(r'[.\d]+$', '', name))] += seconds
  total = sum(own.values())
  return {
    'steps': steps,
    'step_seconds': length([window]) / steps,
    'parts': {name: seconds / steps for name, seconds in parts.items()},
    'operations': [
      {'name': name, 'seconds': seconds / steps, 'share': seconds / total}
      for name, seconds in own.most_common(10)
    ],
  }


def _read(folder: pathlib.Path) -> jax.profiler.ProfileData:
  files = sorted(folder.rglob('*.xplane.pb'), key=lambda path: path.stat().st_mtime)
  if not files:
    raise UserError(f'the profiler left no trace in {folder}')
  return jax.profiler.ProfileData.from_file(str(files[-1]))


def _annotations(data: jax.profiler.ProfileData) -> tuple[Span, list[Span]]:
  """Returns the span of the traced loop, and the waits for input in it."""
  loops, waits = [], []
  for plane in data.planes:
    if plane.name.startswith('/host:'):
      for line in plane.lines:
        for event in line.events:
          if event.name == LOOP:
            loops.append(_span(event))
          elif event.name == INPUT:
            waits.append(_span(event))
  if not loops:
    raise UserError(f'the trace has no {LOOP!r}')
  return loops[-1], waits


def operations(data: jax.profiler.ProfileData) -> Iterator[Operation]:
  """Yields all operations that the first device of this process ran."""
  devices = [p for p in data.planes if re.match(r'/device:(GPU|TPU):\d', p.name)]
  if devices:
    device = min(devices, key=lambda plane: plane.name)
    lines = list(device.lines)
    chosen = [line for line in lines if line.name == 'XLA Ops']
    for line in chosen or [line for line in lines if line.name.startswith('Stream')]:
      for event in line.events:
        name = dict(event.stats).get('hlo_op', event.name)
        # TPUs have '%fusion.3 = ...'; for NCCL the name of the kernel is clearer.
        kernel = event.name if event.name.startswith('nccl') else str(name)
        name = re.match(r'%?([^\s(=]*)', kernel)[1]
        yield Operation(name, _span(event), line.name)
    return
  for plane in data.planes:
    for line in plane.lines if plane.name.startswith('/host:') else ():
      for event in line.events:
        stats = dict(event.stats)
        if 'hlo_op' in stats and stats.get('device_ordinal', 0) == 0:
          yield Operation(str(stats['hlo_op']), _span(event), line.name)


def _span(event: Any) -> Span:
  return event.start_ns * 1e-9, (event.start_ns + event.duration_ns) * 1e-9


def own_times(found: Iterable[Operation]) -> Iterator[tuple[str, float]]:
  """Yields each operation's seconds, less the operations that ran inside it."""
  lines = collections.defaultdict(list)
  for operation in found:
    lines[operation.line].append(operation)
  for line in lines.values():
    stack: list[list] = []  # [name, end, own seconds]
    for name, (start, end), _ in sorted(line, key=lambda o: (o.span[0], -o.span[1])):
      while stack and stack[-1][1] <= start:
        done = stack.pop()
        yield done[0], done[2]
      if stack:
        stack[-1][2] -= min(end, stack[-1][1]) - start
      stack.append([name, end, end - start])
    yield from ((name, seconds) for name, _, seconds in stack)


def sources_of(hlo: str) -> dict[str, str]:
  """Maps operations to the scopes they were written in, given a compiled program.

  Blocks of a stack share one name: 'encoder/block_*/mlp/fc1/dot_general, backward'.
  """
  pattern = r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{[^}]*op_name="([^"]*)"'
  found = re.findall(pattern, hlo, re.MULTILINE)
  return {name: _readable(scope) for name, scope in found}


def _readable(scope: str) -> str:
  parts = [p for p in scope.split('/') if not p.startswith(('jit(', 'while', 'body'))]
  backward = ', backward' if any(p.startswith('transpose(') for p in parts) else ''
  plain = [re.sub(r'\w+\(|\)', '', part) for part in parts]
  return re.sub(r'_\d+', '_*', '/'.join(p for p in plain if p)) + backward


def merge(spans: Iterable[Span | None]) -> list[Span]:
  """Returns the union of spans, in order and without overlaps."""
  merged: list[Span] = []
  for start, end in sorted(span for span in spans if span):
    if merged and start <= merged[-1][1]:
      merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
    else:
      merged.append((start, end))
  return merged


def subtract(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
  """Returns the parts of the merged `spans` outside of the merged `holes`."""
  left, i = [], 0
  for start, end in spans:
    while i < len(holes) and holes[i][1] <= start:
      i += 1
    at, k = start, i
    while k < len(holes) and holes[k][0] < end:
      if holes[k][0] > at:
        left.append((at, holes[k][0]))
      at = max(at, holes[k][1])
      k += 1
    if at < end:
      left.append((at, end))
  return left


def length(spans: Iterable[Span]) -> float:
  """Returns the total seconds of spans."""
  return sum(end - start for start, end in spans)


def _clip(span: Span, window: Span) -> Span | None:
  start, end = max(span[0], window[0]), min(span[1], window[1])
  return (start, end) if start < end else None
