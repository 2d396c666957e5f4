"""Progress of training: a live bar on a terminal, and lines everywhere else."""

import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import rich.console
import rich.live
import rich.progress_bar
import rich.segment
import rich.text

SECONDS = 0.5  # between two drawings of the bar
WIDEST, NARROWEST = 30, 8  # of the bar, in letters


class Part(NamedTuple):
  """A part of a line; narrow terminals lose those with the highest `rank` first."""

  text: str
  rank: int = 0


class _Console(rich.console.Console):
  """A console that never hides the cursor, because a killed run could not restore it.

  It leaves long lines to the terminal, as `print` does.
  """

  def __init__(self):
    super().__init__(soft_wrap=True, highlight=False)

  def show_cursor(self, show: bool = True) -> bool:
    del show
    return False


class Bar:
  """A line at the bottom of a terminal; whatever else is printed appears above it.

  The thread that trains draws it, and only when there is something new to show.
  """

  def __init__(self, total: int):
    self._total, self._step = total, 0
    self._scalars: Mapping[str, float] = {}
    self._left: float | None = None
    self._busy = ''
    self._next = 0.0
    self._live = rich.live.Live(
      self,
      console=_Console(),
      auto_refresh=False,
      transient=True,
      redirect_stderr=sys.stderr.isatty(),
    )

  def start(self) -> None:
    """Starts to draw."""
    self._live.start(refresh=True)

  def stop(self, step: int | None = None) -> None:
    """Removes the bar, and leaves the progress at the last step as a line."""
    if self._live.is_started:
      self._live.stop()
      if self._scalars:
        step = self._step if step is None else step
        print(line(step, self._total, self._scalars, None), flush=True)

  def is_due(self) -> bool:
    """Returns whether the bar was last drawn long enough ago."""
    return time.perf_counter() >= self._next

  def update(
    self, step: int, scalars: Mapping[str, float], seconds_left: float | None
  ) -> None:
    """Draws the bar at a step that the devices have finished."""
    self._step, self._scalars, self._left = step, scalars, seconds_left
    self.busy('')

  def busy(self, text: str) -> None:
    """Draws the bar with a text about the work that keeps it from advancing."""
    self._busy = text
    if self._live.is_started:
      self._live.refresh()
    self._next = time.perf_counter() + SECONDS

  def __rich_console__(
    self, console: rich.console.Console, options: rich.console.ConsoleOptions
  ) -> rich.console.RenderResult:
    made = parts(self._step, self._total, self._scalars, self._left)
    if self._busy:
      made.append(Part(self._busy, 1))
    width = console.width - 3  # room for the ^C that the terminal echoes
    text = fitted(made, width)
    room = min(width - rich.text.Text(text).cell_len - 2, WIDEST)
    if room >= NARROWEST:
      done = min(self._step, self._total)
      yield rich.progress_bar.ProgressBar(self._total, done, width=room)
      yield rich.segment.Segment('  ')
    yield rich.text.Text(text, no_wrap=True, overflow='crop')


def is_live() -> bool:
  """Returns whether standard output is a terminal on which a line can be redrawn."""
  console = rich.console.Console()
  return sys.stdout.isatty() and console.is_terminal and not console.is_dumb_terminal


def parts(
  step: int, total: int, scalars: Mapping[str, float], seconds_left: float | None
) -> list[Part]:
  """Returns the parts of a line about a step, in order."""
  width = len(f'{total:,}')
  found = [
    Part(f'step {step:>{width},}/{total:,}'),
    Part(f'{100 * step // total:>3} %'),
  ]
  for name, rank in (('loss', 2), ('top1', 5)):
    if name in scalars:
      found.append(Part(f'{name} {scalars[name]:.4f}', rank))
  if 'rate' in scalars:
    found.append(Part(f'lr {scalars["rate"]:.3g}', 4))
  if 'examples_per_second' in scalars:
    found.append(Part(f'{scalars["examples_per_second"]:,.0f} examples/s', 3))
  if 'mfu' in scalars:
    found.append(Part(f'MFU {100 * scalars["mfu"]:.1f} %', 6))
  if scalars.get('input_wait', 0.0) >= 0.01:
    found.append(Part(f'{100 * scalars["input_wait"]:.0f} % waiting for input', 7))
  if (share := scalars.get('input_share', 0.0)) >= 0.05:
    found.append(Part(f'input takes {100 * share:.0f} % of the CPU', 7))
  if seconds_left is not None:
    found.append(Part(f'ETA {duration(seconds_left)}', 1))
  return found


def fitted(made: list[Part], width: int) -> str:
  """Joins parts, without the least important ones if they do not fit a width."""
  kept = list(made)
  while True:
    text = '  '.join(part.text for part in kept)
    last = max(kept, key=lambda part: part.rank)
    if len(text) <= width or last.rank == 0:
      return text[: max(width, 0)]
    kept.remove(last)


def line(
  step: int, total: int, scalars: Mapping[str, float], seconds_left: float | None
) -> str:
  """Returns a line such as 'step   200/1,500  13 %  loss 1.234  ...  ETA 1:23'."""
  return '  '.join(part.text for part in parts(step, total, scalars, seconds_left))


def duration(seconds: float) -> str:
  """Formats seconds as '1:02:03' or '4:05'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'
