"""Lists training runs with their step, state and last results.

    python tools/runs.py list                 # all runs below runs/
    python tools/runs.py list runs/sweeps --metric test/top1 --sort test/top1
    python tools/runs.py list --state failed --json

A run is `running` while a process trains in its folder, `failed` if its last training
ended with an error, which is printed below the table, `finished` if it reached its last
step, and `stopped` otherwise, such as after a signal or the loss of its machine.
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
# Files that training writes. A folder with a config and one of these is a run.
WRITTEN = {'metrics.jsonl', 'checkpoints'}


@dataclasses.dataclass(frozen=True)
class Run:
  """The state and the results of a run, read from its folder."""

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
  """Yields the folders of all runs in and below a folder, but not inside other runs."""
  for folder, folders, names in os.walk(top):
    begun = 'config.json' in names and WRITTEN & {*names, *folders}
    if begun or workdir.FAILURE in names:
      yield pathlib.Path(folder)
      folders.clear()
    folders.sort()


def read(folder: pathlib.Path) -> Run:
  """Reads a run from its folder; raises a `UserError` if its config is damaged."""
  path = folder / 'config.json'
  config = files.read_fields(path) if path.exists() else {}
  records = metrics.read(folder)
  steps = [record['step'] for record in records if record['kind'] == 'train']
  step = max([*steps, *checkpoint.steps(folder)], default=0)
  total = config.get('total_steps')
  if not isinstance(total, int):  # a number of epochs or examples
    total = metrics.total_steps(folder)
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
  """Returns runs sorted by a result, largest first; runs without it come last."""
  if name is None:
    return list(runs)
  known = sorted({key for run in runs for key in run.results})
  if name not in known:
    near = errors.nearest(name, known)
    advice = f'; did you mean {near[0]}?' if near else '.'
    raise UserError(f'no run has the result {name}{advice} Known: {listed(known)}')
  return sorted(runs, key=lambda run: -_sortable(run.results.get(name)))


def _sortable(value: float | None) -> float:
  return -math.inf if value is None or math.isnan(value) else value


def listed(names: Sequence[str]) -> str:
  """Returns the names of results as text, also if there are none."""
  return errors.listed(names) if names else 'none, since no run was evaluated yet'


def table(runs: Sequence[Run], names: Sequence[str], top: str) -> rich.table.Table:
  """Returns a table with a row for each run, and columns for the results `names`."""
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
    # Only the column of results may wrap, and only between results.
    parts = [part for cell in cells for part in cell.split('  ')]
    justify = 'right' if name in ('step', *names, 'updated') else 'left'
    width = max(map(len, [name, *parts]))
    whole = name != 'last results'
    made.add_column(name, min_width=width, justify=justify, no_wrap=whole)
  for row in zip(*columns.values(), strict=True):
    made.add_row(*row)
  return made


def progress(run: Run) -> str:
  """Returns progress as '1,200 of 1,500', or '1,200' if the total is unknown."""
  total = '' if run.total_steps is None else f' of {run.total_steps:,}'
  return f'{run.step:,}{total}'


def age(seconds: float) -> str:
  """Returns an age as '5 s ago', '3 min ago', '2 h ago' or '12 d ago'."""
  for size, unit in ((86_400, 'd'), (3_600, 'h'), (60, 'min')):
    if seconds >= size:
      return f'{seconds // size:.0f} {unit} ago'
  return f'{max(seconds, 0):.0f} s ago'


def record(run: Run) -> dict[str, Any]:
  """Returns a run as JSON data, with its time in ISO 8601 and NaN as None."""
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
    help='print a table of all runs in and below folders',
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  verb.add_argument(
    'folders', nargs='*', type=pathlib.Path, help='default: runs', metavar='FOLDER'
  )
  verb.add_argument(
    '--metric',
    metavar='NAME,...',
    help='results to show in separate columns, such as test/top1; default: one column',
  )
  verb.add_argument('--sort', metavar='NAME', help='result to sort by, largest first')
  verb.add_argument('--state', choices=STATES, help='list only runs in this state')
  verb.add_argument('--json', action='store_true', help='print JSON instead of a table')
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
    console.width = 200  # other programs get one line per run
  top = '' if len(folders) > 1 or runs[0].folder == str(folders[0]) else folders[0]
  made = table(runs, args.metric.split(',') if args.metric else [], str(top))
  # On a narrow terminal, lines are wrapped by the terminal and not truncated.
  needed = sum(column.min_width + 3 for column in made.columns)
  console.width = max(console.width, needed)
  console.print(made)
  for run in runs:
    if run.failure:
      say('failed', f'{run.folder}: {run.failure.splitlines()[0]}')


if __name__ == '__main__':
  raise SystemExit(main())
