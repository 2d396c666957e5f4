"""Timing breakdown of an input pipeline: each stage of its work, on one core."""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import jax
import numpy as np

from big_vision_like.data.input import mixture, order, pipeline
from big_vision_like.data.input.prepared import Prepared
from big_vision_like.errors import BadRecordError, UserError
from big_vision_like.run import preflight

WARM_UP, AT_LEAST = 8, 32  # examples before measuring, and smallest number to measure
TIMES = 5  # repetitions of the work on a whole batch
Step = tuple[str, grain.transforms.Map | grain.transforms.RandomMap]


@dataclasses.dataclass
class Stage:
  """Seconds that a stage took, for the examples that needed it.

  `examples` counts all examples; `on_host` is whether the stage uses cores of the host.
  """

  name: str
  seconds: list[float] = dataclasses.field(default_factory=list)
  examples: int = 0
  on_host: bool = True

  @property
  def median_ms(self) -> float:
    return 1e3 * float(np.median(self.seconds))

  @property
  def mean_ms(self) -> float:
    """The mean over all examples, including those that did not need the stage."""
    return 1e3 * sum(self.seconds) / self.examples


@dataclasses.dataclass(frozen=True)
class Stream:
  """A source of an input: the index of each record, and the steps applied to it."""

  source: Any
  index: Callable[[int], int]
  steps: Sequence[Step]
  added: dict[str, Any]


def measure(
  data: Any, device: Callable[..., Any], batch: pipeline.Batch, seconds: float
) -> list[Stage]:
  """Measures all stages in order; `device` runs a compiled function on a batch."""
  return [*of_examples(data, seconds), *of_a_batch(device, batch)]


def of_examples(data: Any, seconds: float) -> list[Stage]:
  """Measures reading and each transform, in the order of a run, for about `seconds`."""
  parts, found = streams(data), {}
  mixed = isinstance(data.source, mixture.Mixture)
  training = isinstance(data, pipeline.TrainInput)
  rng = np.random.default_rng(data.seed if training else 0)
  count = position = 0
  started = time.perf_counter()

  def enough() -> bool:
    return count >= AT_LEAST and time.perf_counter() - started >= seconds

  while not enough():
    size = AT_LEAST if position else WARM_UP
    places = [
      data.source.place(i) if mixed else (0, i)
      for i in range(position, position + size)
    ]
    position += size
    for part, record, reading in read(parts, places):
      if enough():
        break
      try:
        took = {'read': reading} | one_by_one(parts[part], record, rng)
      except BadRecordError as error:
        if position > 10 * (count + AT_LEAST):
          raise UserError(f'nearly all records are bad: {error}') from error
        continue
      if position == WARM_UP:
        started = time.perf_counter()
        continue
      count += 1
      for name, value in took.items():
        found.setdefault(name, Stage(name)).seconds.append(value)
  for stage in found.values():
    stage.examples = count
  return list(found.values())


def read(
  parts: Sequence[Stream], places: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, Any, float]]:
  """Yields the part, the record or its error, and the seconds of reading it.

  The records of each part are read at once, as in a run.
  """
  for number, part in enumerate(parts):
    indices = [part.index(place) for own, place in places if own == number]
    if not indices:
      continue
    reader = Prepared(part.source, (), keep_mib=0.0, added=part.added)
    before = time.perf_counter()
    records = reader.take(indices)
    each = (time.perf_counter() - before) / len(indices)
    for record in records:
      yield number, record, each


def one_by_one(
  stream: Stream, record: Any, rng: np.random.Generator
) -> dict[str, float]:
  """Returns the seconds of each transform for one record; raises its error."""
  if isinstance(record, BadRecordError):
    raise record
  took, example = {}, record
  for name, transform in stream.steps:
    before = time.perf_counter()
    example = preflight.applied(transform, example, rng)
    took[name] = time.perf_counter() - before
  return took


def streams(data: Any) -> list[Stream]:
  """Returns the streams of an input: one, or one for each part of a mixture."""
  mixed = isinstance(data.source, mixture.Mixture)
  parts = data.source.parts if mixed else {'': mixture.Part(source=data.source)}
  made = []
  for number, (name, part) in enumerate(parts.items()):
    steps = [(f'{name}: {type(t).__name__}', t) for t in part.transforms]
    steps += [(type(t).__name__, t) for t in data.transforms]
    if isinstance(data, pipeline.TrainInput):
      index = order.Order(part.source, data.seed, data.repeats, data.window).index
    else:
      index = functools.partial(_in_turn, len(part.source))
    added = {'part': np.int32(number)} if mixed else {}
    if isinstance(data, pipeline.EvalInput):
      added['mask'] = np.True_
    made.append(Stream(part.source, index, numbered(steps), added))
  return made


def _in_turn(length: int, place: int) -> int:
  return place % length


def numbered(steps: Sequence[Step]) -> list[Step]:
  """Numbers steps with the same name, from the second on."""
  seen, result = collections.Counter(), []
  for name, transform in steps:
    seen[name] += 1
    result.append((name if seen[name] == 1 else f'{name} {seen[name]}', transform))
  return result


def of_a_batch(device: Callable[..., Any], batch: pipeline.Batch) -> list[Stage]:
  """Measures stacking, transfer and work on the device, per example of a batch."""
  size = len(next(iter(batch.values())))
  rows = [{name: x[i] for name, x in batch.items()} for i in range(size)]
  arrays = jax.device_put(batch)
  work = {
    'stack': lambda: pipeline.stack([dict(row) for row in rows]),
    'to the device': lambda: jax.device_put(batch),
    'on the device': lambda: device(arrays),
  }
  made = []
  for name, call in work.items():
    made.append(Stage(name, examples=TIMES, on_host=name == 'stack'))
    for time_ in range(TIMES + 1):  # the first call may compile
      before = time.perf_counter()
      jax.block_until_ready(call())
      if time_:
        made[-1].seconds.append((time.perf_counter() - before) / size)
  return made
