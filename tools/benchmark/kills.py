"""Kills trainings at random moments, restarts them, and compares how they end.

  python tools/benchmark/kills.py --runs=3 --times=4 --json=kills.json

Each run is interrupted `--times` times at random moments, including start-up, by
SIGKILL, SIGTERM or Ctrl-C, which is sent to one process or to all of them with their
workers. Then it is allowed to finish. Parameters, averages and losses are compared bit
by bit with an undisturbed run. Prints a table of problems: tracebacks, failures without
one sentence, hangs, and leftovers: living processes, files in /dev/shm, temporary files
and folders.
"""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any, TextIO

# Other modules of tools, if this file is started as a script.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from big_vision_like import cli, errors, files
from big_vision_like.run import checkpoint, metrics

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path('/dev/shm')
SECONDS = 60.0  # time for all processes to end after a signal
SIGNALS = {'kill': signal.SIGKILL, 'SIGTERM': signal.SIGTERM, 'Ctrl-C': signal.SIGINT}
WAYS = [*itertools.product(SIGNALS, ('one process', 'all'))]
WRONG = (
  'traceback',
  'no sentence',
  'hang',
  'processes left',
  'files left',
  'not equal',
)


@dataclasses.dataclass
class Started:
  """The processes of a run and their output; `tag` is set in their environment."""

  processes: list[subprocess.Popen]
  printed: list[TextIO]
  tag: str

  @property
  def running(self) -> bool:
    """Whether any of the processes is still running."""
    return any(process.poll() is None for process in self.processes)

  def texts(self) -> list[str]:
    """Returns the output of each process."""
    for file in self.printed:
      file.seek(0)
    return [file.read() for file in self.printed]

  def living(self) -> list[int]:
    """Returns the ids of all processes of the run that are alive, including workers."""
    found, tag = [], f'KILLS={self.tag}'.encode()
    for folder in pathlib.Path('/proc').iterdir():
      with contextlib.suppress(OSError):
        name = folder.name
        if name.isdigit() and tag in (folder / 'environ').read_bytes().split(b'\0'):
          found.append(int(name))
    return found

  def wait(self, seconds: float) -> bool:
    """Waits until all processes have ended; returns whether they did so in time."""
    end = time.monotonic() + seconds
    while self.running and time.monotonic() < end:
      time.sleep(0.02)
    return not self.running


def start(
  workdir: pathlib.Path, home: pathlib.Path, count: int, workers: int
) -> Started:
  """Starts a training run in `count` processes, as a launcher would."""
  tag = f'{os.getpid()}-{time.monotonic_ns()}'
  (home / 'tmp').mkdir(parents=True, exist_ok=True)
  environment = os.environ | {
    'KILLS': tag,
    'HOME': str(home),
    'TMPDIR': str(home / 'tmp'),
    'XLA_FLAGS': cli.QUICK_COMPILATION,
    'JAX_PLATFORMS': 'cpu',
    'JAX_COMPILATION_CACHE_DIR': str(workdir.parent / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  command = [sys.executable, '-m', 'big_vision_like.train']
  command += ['--config=tools/faults/run_config.py', f'--workdir={workdir}']
  command.append(f'--config.train_data.workers={workers}')
  if count > 1:
    with socket.create_server(('127.0.0.1', 0)) as probe:
      port = probe.getsockname()[1]
    command += [f'--coordinator=127.0.0.1:{port}', f'--num-processes={count}']
    command += ['--heartbeat-seconds=10', '--start-seconds=20']
  run = Started([], [], tag)
  for index in range(count):
    run.printed.append(tempfile.TemporaryFile('w+'))
    run.processes.append(
      subprocess.Popen(
        command + [f'--process-id={index}'] * (count > 1),
        env=environment,
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=run.printed[-1],
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
    )
  return run


def interrupt(run: Started, way: tuple[str, str], rng: random.Random) -> None:
  """Sends a signal to one process, or to all processes and their workers."""
  name, whom = way
  if whom == 'one process':
    rng.choice(run.processes).send_signal(SIGNALS[name])
    return
  for process in run.processes:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(process.pid, SIGNALS[name])


def left_in(workdir: pathlib.Path, home: pathlib.Path, shared: set[str]) -> list[str]:
  """Returns the files that a finished run should not have left behind."""
  marks = ('.part', '.tmp', 'orbax-checkpoint-tmp')
  folders = [*workdir.rglob('*'), *(home / '.cache').rglob('*')]
  found = [str(p) for p in folders if any(mark in p.name for mark in marks)]
  found += [str(path) for path in (home / 'tmp').iterdir()]
  return found + [str(SHARED / name) for name in {*os.listdir(SHARED)} - shared]


def judged(run: Started, ended: bool) -> dict[str, str]:
  """Returns the problems after an interruption, each with a line about it."""
  wrong = {} if ended else {'hang': f'still alive {SECONDS:g} s after the signal'}
  end = time.monotonic() + 3  # workers check every half second
  while run.living() and time.monotonic() < end:
    time.sleep(0.05)
  if ended and (living := run.living()):
    wrong['processes left'] = f'{len(living)} processes'
  for process, text in zip(run.processes, run.texts(), strict=True):
    if 'Traceback' in text:
      wrong['traceback'] = text[-600:]
    # A process that was not killed prints why it ended.
    told = [line for line in text.splitlines() if 'error:' in line]
    if process.returncode == 1 and len(told) != 1:
      wrong['no sentence'] = text[-600:]
  return wrong


def outcome(workdir: pathlib.Path) -> tuple[Any, ...]:
  """Returns all results that must not depend on interruptions."""
  step, saved = checkpoint.load(workdir)
  losses = [
    (r['step'], r['loss']) for r in metrics.read(workdir) if r['kind'] == 'train'
  ]
  found = [
    (r['step'], r['val/top1']) for r in metrics.read(workdir) if r['kind'] == 'eval'
  ]
  return step, checkpoint.checksums(saved), losses, found


def kill(run: Started) -> None:
  """Kills the remaining processes of a run."""
  for pid in run.living():
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
  for process in run.processes:
    process.wait()


class Campaign:
  """Runs with one number of processes and workers, and the problems found in them."""

  def __init__(self, folder: pathlib.Path, count: int, workers: int, seed: int):
    self.top, self.count, self.workers = folder, count, workers
    self.rng = random.Random(f'{seed} {count} {workers}')
    self.counts: collections.Counter[str] = collections.Counter()
    self.stories: list[str] = []
    began = time.monotonic()
    first = start(folder / 'whole', folder / 'home', count, 0)
    if not first.wait(300) or any(p.returncode for p in first.processes):
      raise errors.UserError(f'the undisturbed run fails: {first.texts()}')
    self.seconds = time.monotonic() - began
    self.wanted = outcome(folder / 'whole')

  def note(self, what: str, story: str) -> None:
    """Counts a problem and keeps its description."""
    self.counts[what] += 1
    self.stories.append(f'{self.count} processes, {self.workers} workers: {story}')

  def run(self, number: int, times: int) -> None:
    """Interrupts a run `times` times, lets it finish, and compares the results."""
    workdir, home = self.top / f'run-{number}', self.top / f'home-{number}'
    shared = {*os.listdir(SHARED)}
    for _ in range(times):
      way, run = self.rng.choice(WAYS), start(workdir, home, self.count, self.workers)
      at = self.rng.uniform(0, self.seconds)
      run.wait(at)
      if run.running:
        interrupt(run, way, self.rng)
        self.counts['interrupted'] += 1
      for what, told in judged(run, run.wait(SECONDS)).items():
        self.note(what, f'{" ".join(way)} at {at:.1f} s: {what}: {told}')
      kill(run)
    run = start(workdir, home, self.count, self.workers)
    finished = run.wait(300) and not any(p.returncode for p in run.processes)
    self.counts['runs'] += 1
    if not finished or outcome(workdir) != self.wanted:
      self.note('not equal', f'run {number}: {run.texts()}')
    if left := left_in(workdir, home, shared):
      self.note('files left', f'run {number}: {", ".join(left)}')
    kill(run)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table of problems; returns 1 if there are any, else 0."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    '--runs', type=int, default=2, help='runs of each kind; %(default)s'
  )
  parser.add_argument(
    '--times', type=int, default=4, help='interruptions of each run; %(default)s'
  )
  parser.add_argument(
    '--processes',
    type=int,
    nargs='+',
    default=[1, 2],
    help='numbers of processes per run; default: 1 2',
  )
  parser.add_argument(
    '--workers',
    type=int,
    nargs='+',
    default=[0, 2],
    help='numbers of input workers; default: 0 2',
  )
  parser.add_argument('--seed', type=int, default=0, help='default: %(default)s')
  parser.add_argument('--json', help='file for the problems')
  args = parser.parse_args(argv)
  cli.set_up_jax()
  columns = ('runs', 'interrupted', *WRONG)
  print(f'{"":22}' + '  '.join(columns))
  found, stories = [], []
  for count, workers in itertools.product(args.processes, args.workers):
    with tempfile.TemporaryDirectory() as folder:
      campaign = Campaign(pathlib.Path(folder), count, workers, args.seed)
      for number in range(args.runs):
        campaign.run(number, args.times)
    counts = campaign.counts
    name = f'{count} processes, {workers} workers'
    cells = '  '.join(f'{counts[c] or "-":>{len(c)}}' for c in columns)
    print(f'{name:22}{cells}', flush=True)
    found.append({'processes': count, 'workers': workers, **counts})
    stories += campaign.stories
  print(*stories, sep='\n')
  if args.json:
    files.write_json(args.json, {'counts': found, 'wrong': stories})
  return int(bool(stories))


if __name__ == '__main__':
  raise SystemExit(main())
