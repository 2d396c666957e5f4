"""Lists training runs: how far they are, their state and their last results.

    python tools/runs.py list                 # all below runs/
    python tools/runs.py list runs/sweeps --metric test/top1 --sort test/top1
    python tools/runs.py list --state failed --json

A run is `running` while a process trains in its folder, `failed` if its last training
ended with an error, which is printed below the table, `finished` at its last step, and
`stopped` otherwise: by a signal, or by the loss of its machine.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table

from big_vision_like import errors, files
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.run import checkpoint, metrics, workdir

STATES = ('running', 'failed', 'finished', 'stopped')
# What training writes: one of these beside a config makes a folder that of a run.
WRITTEN = {'metrics.jsonl', 'checkpoints'}


@dataclasses.dataclass(frozen=True)
class Run:
  """What the folder of a run says about it."""

  folder: str
  config: str
  state: str
  step: int
  total_steps: int | None
  updated: float  # seconds since 1970
  results: Mapping[str, float]  # of the last evaluation
  results_step: int | None
  failure: str = ''


def find(top: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yields the folders of runs in and below a folder, without looking inside runs."""
  for folder, folders, names in os.walk(top):
    begun = 'config.json' in names and WRITTEN & {*names, *folders}
    if begun or workdir.FAILURE in names:
      yield pathlib.Path(folder)
      folders.clear()
    folders.sort()


def read(folder: pathlib.Path) -> Run:
  """Reads what a folder says; raises a `UserError` where its config is damaged."""
  path = folder / 'config.json'
  config = files.read_fields(path) if path.exists() else {}
  records = metrics.read(folder)
  steps = [record['step'] for record in records if record['kind'] == 'train']
  step = max([*steps, *checkpoint.steps(folder)], default=0)
  total = config.get('total_steps')
  totals = [r['total_steps'] for r in records if 'total_steps' in r]
  if not isinstance(total, int):  # a number of epochs, or of examples
    total = int(totals[-1]) if totals else None
  note = folder / workdir.FAILURE
  failure = note.read_text(errors='replace').strip() if note.exists() else ''
  if workdir.is_owned(folder):
    state, failure = 'running', ''
  elif failure:
    state = 'failed'
  else:
    state = 'finished' if total is not None and step >= total else 'stopped'
  results = metrics.last_evaluation(folder)
  results_step = results.pop('step', None)
  touched = [note, path, folder / 'metrics.jsonl', folder / 'checkpoints']
  updated = max(p.stat().st_mtime for p in touched if p.exists())
  return Run(
    folder=str(folder),
    config=str(config.get('name', '')),
    state=state,
    step=step,
    total_steps=total,
    updated=updated,
    results=results,
    results_step=results_step,
    failure=failure,
  )


def ordered(runs: Sequence[Run], name: str | None) -> list[Run]:
  """Returns runs by a result, the largest first; runs without it last, in order."""
  if name is None:
    return list(runs)
  known = sorted({key for run in runs for key in run.results})
  if name not in known:
    near = errors.nearest(name, known)
    advice = f'; did you mean {near[0]}?' if near else ''
    raise UserError(f'no run has the result {name}{advice} Known: {listed(known)}')
  return sorted(runs, key=lambda run: -_sortable(run.results.get(name)))


def _sortable(value: float | None) -> float:
  return -math.inf if value is None or math.isnan(value) else value


def listed(names: Sequence[str]) -> str:
  """Returns the names, or that there are none."""
  return errors.listed(names) if names else 'none, as nothing was evaluated yet'


def table(runs: Sequence[Run], names: Sequence[str], top: str) -> rich.table.Table:
  """Returns a row for each run; `names` are results with columns of their own."""
  columns = {
    'run': [os.path.relpath(run.folder, top) if top else run.folder for run in runs],
    'config': [run.config.removeprefix('configs/') for run in runs],
    'state': [run.state for run in runs],
    'step': [progress(run) for run in runs],
  }
  for name in names:
    found = [run.results.get(name) for run in runs]
    columns[name] = ['' if value is None else f'{value:.4g}' for value in found]
  if not names:
    columns['last results'] = [metrics.listed(run.results) for run in runs]
  columns['updated'] = [age(time.time() - run.updated) for run in runs]
  made = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False)
  for name, cells in columns.items():
    # Only results may take several lines, and are broken between them.
    parts = [part for cell in cells for part in cell.split('  ')]
    justify = 'right' if name in ('step', *names, 'updated') else 'left'
    width = max(map(len, [name, *parts]))
    whole = name != 'last results'
    made.add_column(name, min_width=width, justify=justify, no_wrap=whole)
  for row in zip(*columns.values(), strict=True):
    made.add_row(*row)
  return made


def progress(run: Run) -> str:
  """Returns '1,200 of 1,500', or '1,200' where the total is not known."""
  total = '' if run.total_steps is None else f' of {run.total_steps:,}'
  return f'{run.step:,}{total}'


def age(seconds: float) -> str:
  """Returns '5 s', '3 min', '2 h' or '12 d' ago."""
  for size, unit in ((86_400, 'd'), (3_600, 'h'), (60, 'min')):
    if seconds >= size:
      return f'{seconds // size:.0f} {unit} ago'
  return f'{max(seconds, 0):.0f} s ago'


def record(run: Run) -> dict[str, Any]:
  """Returns a run as plain data, with its time in ISO 8601."""
  when = datetime.datetime.fromtimestamp(run.updated, datetime.UTC)
  fields = dataclasses.asdict(run) | {'updated': when.isoformat(timespec='seconds')}
  # JSON has no NaN.
  results = {k: v if math.isfinite(v) else None for k, v in run.results.items()}
  return fields | {'results': results}


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and prints the table."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  verbs = parser.add_subparsers(dest='verb', metavar='list', required=True)
  verb = verbs.add_parser(
    'list',
    help='a table of all runs in and below folders',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  verb.add_argument(
    'folders', nargs='*', type=pathlib.Path, help='default: runs', metavar='FOLDER'
  )
  verb.add_argument(
    '--metric',
    metavar='NAME,...',
    help='results with columns of their own, such as test/top1; default: all in one',
  )
  verb.add_argument('--sort', metavar='NAME', help='a result; the largest comes first')
  verb.add_argument('--state', choices=STATES, help='only runs in this state')
  verb.add_argument('--json', action='store_true', help='print JSON')
  args = parser.parse_args(argv)
  folders = args.folders or [pathlib.Path('runs')]
  runs = []
  for folder in folders:
    if not folder.is_dir():
      raise UserError(f'{folder} is not a folder: name one that has runs below it')
    for path in find(folder):
      try:
        runs.append(read(path))
      except UserError as error:
        print(f'left out  {error}', file=sys.stderr)
  runs = ordered(runs, args.sort)
  runs = [run for run in runs if args.state in (None, run.state)]
  if args.json:
    print(json.dumps([record(run) for run in runs], indent=2))
    return
  if not runs:
    kind = f'{args.state} run' if args.state else 'run'
    print(f'no {kind} in or below {errors.listed(folders)}')
    return
  console = rich.console.Console()
  if not console.is_terminal:
    console.width = 200  # a line for each run, for other programs
  top = '' if len(folders) > 1 or runs[0].folder == str(folders[0]) else folders[0]
  made = table(runs, args.metric.split(',') if args.metric else [], str(top))
  # On a narrow terminal lines are folded rather than cut.
  needed = sum(column.min_width + 3 for column in made.columns)
  console.width = max(console.width, needed)
  console.print(made)
  for run in runs:
    if run.failure:
      say('failed', f'{run.folder}: {run.failure.splitlines()[0]}')


if __name__ == '__main__':
  raise SystemExit(main())
