"""Outputs of a run: progress lines, metrics.jsonl, TensorBoard."""

import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import files
from big_vision_like.devices import chips
from big_vision_like.devices.processes import say
from big_vision_like.run import progress
from big_vision_like.run.writers import Writer

# Each process prints this many of the records that it replaces.
BAD_RECORDS_PRINTED = 10
STEADY = 2.0  # seconds after which the live rate is that of the newest steps


class Metrics:
  """Writes one run's metrics; only process 0 writes and prints.

  `metrics.jsonl` holds one object per line: `step`, `kind` ('train', 'eval', 'info')
  and scalars. Lines after `start_step`, left by a killed run, are dropped. Messages
  about bad records go to `bad_records.txt`, one file per process.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    start_step: int,
    total_steps: int,
    batch_size: int,
    seconds: float = 0.0,
    writers: Sequence[Writer] = (),
  ):
    self._writers = writers
    self._total_steps, self._batch_size = total_steps, batch_size
    self._flops: dict[int, int] = {}
    self._start_step, self._before = start_step, seconds
    self._last = (start_step, time.perf_counter())
    self._paused = self._waited = 0.0
    self._input_cpu = self._input_cpu_before = self._input_cores = 0.0
    self._rate = self._wait_share = self._flops_rate = 0.0
    self._bad = 0
    self._started = time.perf_counter()
    index = jax.process_index()
    name = f'bad_records-{index}.txt' if index else 'bad_records.txt'
    self._bad_records = workdir / name
    _drop_bad_records(self._bad_records, start_step)
    self._active = index == 0
    self._bar = progress.Bar(total_steps) if index == 0 and progress.is_live() else None
    self._shown: dict[str, float] = {}  # scalars of the last progress line
    if self._active:
      import tensorboardX  # loads torch if that is installed

      path = workdir / 'metrics.jsonl'
      _drop_after(path, start_step)
      if not start_step:  # left by a start that saved no checkpoint
        shutil.rmtree(workdir / 'tensorboard', ignore_errors=True)
      self._lines = path.open('a')
      self._board = tensorboardX.SummaryWriter(
        str(workdir / 'tensorboard'), purge_step=start_step + 1 if start_step else None
      )

  def __enter__(self) -> 'Metrics':
    return self

  def __exit__(self, *_) -> None:
    self.finish()
    if self._active:
      self._lines.close()
      self._board.close()

  @property
  def seconds(self) -> float:
    """Seconds spent on this run so far, including interrupted sessions."""
    return self._before + time.perf_counter() - self._started

  def say(self, title: str, text: str) -> None:
    """Prints one line about the run."""
    say(title, text)

  def measure(self, step: int) -> None:
    """Restarts the throughput clock, after compilation."""
    self._last = (step, time.perf_counter())
    self._paused = self._waited = self._rate = self._flops_rate = 0.0
    self._input_cpu_before = self._input_cpu
    self._flops.clear()
    if self._bar is not None:
      self._bar.start()

  def tick(self, done: int) -> None:
    """Advances the bar on a terminal; uses only numbers that the host already has."""
    if self._bar is None or not self._bar.is_due():
      return
    last_done, last_time = self._last
    rate, elapsed = self._rate, time.perf_counter() - last_time - self._paused
    if done > last_done and (elapsed > STEADY or not rate):
      rate = (done - last_done) / max(elapsed, 1e-9)
    scalars = self._shown
    if rate:
      scalars = scalars | {'examples_per_second': rate * self._batch_size}
    left = (self._total_steps - done) / rate if rate else None
    self._bar.update(done, scalars, left)

  def finish(self, step: int | None = None) -> None:
    """Replaces the bar on a terminal by a line, before the last words of a run."""
    if self._bar is not None:
      self._bar.stop(step)

  def busy(self, text: str) -> None:
    """Shows on a terminal what the run does between two steps."""
    if self._bar is not None:
      self._bar.busy(text)

  def work(self, step: int, flops: int) -> None:
    """Records the number of operations of a step, which depends on batch shapes."""
    self._flops[step] = flops

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time inside as waiting for the input."""
    started = time.perf_counter()
    yield
    self._waited += time.perf_counter() - started

  def input_cpu(self, seconds: float) -> None:
    """Records the CPU seconds that this process's input has taken so far."""
    self._input_cpu = seconds

  def bad_records(self, step: int, news: Sequence[str]) -> None:
    """Appends replaced records to the file; each process prints its first ones."""
    if not news:
      return
    news = [' '.join(line.split()) for line in news]  # libraries use several lines
    with self._bad_records.open('a') as file:
      file.writelines(f'step {step}: {line}\n' for line in news)
    for line in news[: max(BAD_RECORDS_PRINTED - self._bad, 0)]:
      print(f'{"replaced":<10}{line}', flush=True)
    before, self._bad = self._bad, self._bad + len(news)
    if before < BAD_RECORDS_PRINTED <= self._bad:
      print(f'{"replaced":<10}others are in {self._bad_records}', flush=True)

  def pause(self, seconds: float) -> None:
    """Excludes time spent on evaluation or compilation from the throughput."""
    self._paused += seconds

  def train(
    self, step: int, scalars: Mapping[str, float], done: int | None = None
  ) -> None:
    """Logs the scalars of a training step and prints the progress line.

    `done` is the last step that the devices have finished, if not this one.
    """
    now, done = time.perf_counter(), done or step
    last_done, last_time = self._last
    if done > last_done:
      elapsed = max(now - last_time - self._paused, 1e-9)
      self._rate = (done - last_done) / elapsed
      finished = [number for number in self._flops if number <= done]
      self._flops_rate = sum(self._flops.pop(n) for n in finished) / elapsed
      self._wait_share = self._waited / elapsed
      self._input_cores = (self._input_cpu - self._input_cpu_before) / elapsed
      self._input_cpu_before = self._input_cpu
      self._last, self._paused, self._waited = (done, now), 0.0, 0.0
    scalars = dict(scalars)
    if self._bad:
      scalars['bad_records'] = self._bad
    if self._rate:
      scalars['examples_per_second'] = self._rate * self._batch_size
      scalars['input_wait'] = self._wait_share
      scalars['input_cpu'] = self._input_cores
      chip = chips.of(jax.devices()[0])
      if chip and self._flops_rate:
        peak = chip.peak_flops * jax.device_count()
        scalars['mfu'] = self._flops_rate / peak
    scalars['seconds'] = self.seconds
    self.write(step, 'train', scalars)
    # On CPUs, the input takes time from the step even if the step does not wait.
    if 'input_cpu' in scalars and jax.default_backend() == 'cpu':
      scalars = scalars | {'input_share': scalars['input_cpu'] / os.cpu_count()}
    self._shown = scalars
    left = (self._total_steps - done) / self._rate if self._rate else None
    if self._bar is not None:
      self._bar.update(done, scalars, left)
    elif self._active:
      print(progress.line(step, self._total_steps, scalars, left), flush=True)

  def evaluation(
    self, step: int, name: str, scalars: Mapping[str, float], seconds: float
  ) -> None:
    """Logs and prints the scalars of an evaluator."""
    named = {f'{name}/{key}': value for key, value in scalars.items()}
    self.write(step, 'eval', named)
    times = {'evaluation_seconds': seconds, 'seconds': self.seconds}
    self.write(step, 'info', times)
    self.say(name, f'{listed(scalars)}  ({seconds:.1f} s)')

  def write(self, step: int, kind: str, scalars: Mapping[str, float]) -> None:
    """Appends scalars to metrics.jsonl and TensorBoard, and passes them to writers."""
    if not self._active:
      return
    record = {'step': step, 'kind': kind} | {k: float(v) for k, v in scalars.items()}
    self._lines.write(json.dumps(record) + '\n')
    self._lines.flush()
    tagged = {
      key if kind == 'eval' else f'{kind}/{key}': float(value)
      for key, value in scalars.items()
    }
    for tag, value in tagged.items():
      self._board.add_scalar(tag, value, step)
    for writer in self._writers:
      writer.write(step, tagged)

  def texts(self, step: int, name: str, lines: Sequence[str]) -> None:
    """Writes lines, such as captions, to TensorBoard."""
    if self._active:
      self._board.add_text(name, '\n\n'.join(lines), step)

  def pictures(self, step: int, name: str, images_BHWC: np.ndarray) -> None:
    """Writes a sheet of uint8 images (B, H, W, 1 or 3) to TensorBoard."""
    if self._active:
      images_BHWC = np.repeat(images_BHWC, 3 // images_BHWC.shape[-1], axis=-1)
      self._board.add_images(name, images_BHWC, step, dataformats='NHWC')


class Unread:
  """Measurements of the last steps, left on the devices until they are needed.

  This way, the devices never wait for the host. The host must not run far ahead of the
  devices either, because batches take memory: `wait` keeps it at most `ahead` steps
  ahead.
  """

  def __init__(self, ahead: int = 2):
    self._ahead = ahead
    self._steps: collections.deque[tuple[int, Any, Any, Any]] = collections.deque()

  def add(self, step: int, position: Any, scalars: Any, sums: Any) -> None:
    """Keeps the arrays of a step, with the input's position before that step."""
    self._steps.append((step, position, scalars, sums))

  def wait(self) -> int:
    """Waits until all but the newest steps are done; returns the last step done."""
    if len(self._steps) > self._ahead:
      jax.block_until_ready(self._steps[-1 - self._ahead][2])
    return self._steps[-1][0] - self._ahead

  def take(self, until: int) -> list[tuple[int, Any, Any, Any]]:
    """Returns entries of the steps up to this one in order, fetched in one transfer."""
    taken = []
    while self._steps and self._steps[0][0] <= until:
      taken.append(self._steps.popleft())
    fetched = jax.device_get([entry[2:] for entry in taken])
    return [(*e[:2], *f) for e, f in zip(taken, fetched, strict=True)]


def listed(scalars: Mapping[str, float]) -> str:
  """Formats scalars as 'top1 0.9639  5-shot 0.887 +- 0.006', joining 'NAME std'."""
  parts = []
  for key, value in scalars.items():
    if not key.endswith(' std'):
      spread = f' +- {scalars[f"{key} std"]:.3f}' if f'{key} std' in scalars else ''
      parts.append(f'{key} {value:.4g}{spread}')
  return '  '.join(parts)


def process_seconds() -> float:
  """Returns the age of this process in seconds; 0 if the system does not provide it."""
  try:
    fields = pathlib.Path('/proc/self/stat').read_text().rpartition(')')[2].split()
    started = int(fields[19]) / os.sysconf('SC_CLK_TCK')
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
  except (OSError, AttributeError, ValueError):
    return 0.0


def read(workdir: pathlib.Path | str) -> list[dict]:
  """Returns the records of a run's metrics.jsonl; damaged lines are skipped."""
  return files.read_lines(pathlib.Path(workdir) / 'metrics.jsonl', _is_record)


def _is_record(value: Mapping[str, Any]) -> bool:
  """Returns whether a line has the fields that `Metrics.write` writes."""
  scalars = {k: v for k, v in value.items() if k not in ('step', 'kind')}
  return (
    type(value.get('step')) is int
    and value.get('kind') in ('train', 'eval', 'info')
    and all(type(scalar) in (int, float) for scalar in scalars.values())
  )


def total_steps(workdir: pathlib.Path | str) -> int | None:
  """Returns the last step of a run as training last logged it; None if it did not."""
  totals = [r['total_steps'] for r in read(workdir) if 'total_steps' in r]
  return int(totals[-1]) if totals else None


def last_evaluation(workdir: pathlib.Path | str) -> dict[str, float]:
  """Returns the step and all scalars of a run's last evaluation; empty if none."""
  records = [r for r in read(workdir) if r['kind'] == 'eval']
  last = max((r['step'] for r in records), default=0)
  found = {k: v for r in records if r['step'] == last for k, v in r.items()}
  return {k: v for k, v in found.items() if k != 'kind'}


def best(
  workdir: pathlib.Path, name: str, is_best: str, steps: Sequence[int]
) -> tuple[int, float] | None:
  """Returns the step among `steps` where an evaluation scalar was best, and its value.

  `is_best` is 'max' or 'min'. Of equal values the first wins. Returns None if there are
  no values.
  """
  found = [(r['step'], r[name]) for r in read(workdir) if name in r]
  found = [(s, v) for s, v in found if s in steps and not np.isnan(v)]
  sign = {'max': -1, 'min': 1}[is_best]
  return min(found, key=lambda pair: (sign * pair[1], pair[0]), default=None)


def _drop_after(path: pathlib.Path, step: int) -> None:
  if path.exists():
    kept = [json.dumps(r) + '\n' for r in read(path.parent) if r['step'] <= step]
    files.write(path, ''.join(kept))


def _drop_bad_records(path: pathlib.Path, step: int) -> None:
  if path.exists():
    # A truncated last line is dropped too.
    steps = re.finditer(
      r'^step (\d+): .*\n', path.read_text(errors='replace'), re.MULTILINE
    )
    files.write(path, ''.join(line[0] for line in steps if int(line[1]) <= step))


def shapes_of(batch: Any) -> tuple[str, ...]:
  """Formats shapes as 'image uint8[8, 32, 32, 3]'; nested names are joined by '/'."""
  return tuple(
    f'{jax.tree_util.keystr(keys, simple=True, separator="/")} {x.dtype}{list(x.shape)}'
    for keys, x in jax.tree_util.tree_leaves_with_path(batch)
  )


@contextlib.contextmanager
def compilations_told(metrics: Metrics, step: int, batch: Any) -> Iterator[None]:
  """Reports compilations inside, where none is expected, with the batch's shapes."""

  def heard(event: str, seconds: float, **details) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      shapes = ', '.join(shapes_of(batch))
      name = details.get('fun_name', 'a function')
      metrics.say(
        'compiled', f'{name} again at step {step:,} in {seconds:.1f} s for {shapes}'
      )
      metrics.write(step, 'info', {'recompile_seconds': seconds})

  jax.monitoring.register_event_duration_secs_listener(heard)
  try:
    yield
  finally:
    jax.monitoring.unregister_event_duration_listener(heard)
