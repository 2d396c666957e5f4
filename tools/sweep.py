"""Trains configs over values and seeds, one run after the other; picks on validation.

    python tools/sweep.py configs/vit/transfer.py:cifar10,B/16 \\
        configs/vit/transfer.py:pets,B/16 --seeds=0,1,2 --out=runs/sweeps/b16 \\
        --over=task.optimizer.rate.peak_value=0.001,0.003,0.01,0.03

For each config, the sweep first tunes: it trains CONFIG,tune, or the config itself if
it has no such variant, with every combination of the values and the first seed.
--metric=EVALUATOR/SCALAR chooses among them: the last SCALAR that this evaluator of the
config measures, on its own data. The evaluator knows whether more or less is better;
the first wins ties. The sweep then trains the config with the chosen values and each
seed, and reports mean and sample standard deviation of --test. It warns if both scalars
come from the same data. Without --over nothing is tuned. Any field of all runs can be
overridden: --config.total_steps=500.

Every run is a separate process with its own folder. Rerun the same command to resume
the sweep: failed runs are tried again, results of finished runs are read.
"""

import dataclasses
import itertools
import json
import math
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import rich.box
import rich.console
import rich.table

from big_vision_like import cli, errors, files, spec
from big_vision_like.data import benchmarks
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, plural
from big_vision_like.run import experiment, metrics, progress, workdir


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run: its config, overrides, seed, folder and the scalar it reports."""

  config: str
  fixed: Sequence[str]
  values: Mapping[str, str]
  seed: str
  folder: pathlib.Path
  scalar: str

  @property
  def overrides(self) -> list[str]:
    """All overrides of the config: common ones, values of this run, and the seed."""
    own = [f'{field}={value}' for field, value in self.values.items()]
    return [*self.fixed, *own, f'seed={self.seed}']

  def load(self) -> Any:
    """Loads the config with overrides; raises for unknown fields and evaluators."""
    config = spec.load(self.config, self.overrides, root=experiment.Settings)
    evals = experiment.Settings(**config).evals
    if self.scalar.partition('/')[0] not in evals:
      listed = ', '.join(evals) or 'none'
      raise UserError(
        f'{self.config} has no evaluator for {self.scalar!r}: it has {listed}. Give'
        ' --metric=EVALUATOR/SCALAR, which chooses values, and --test=EVALUATOR/SCALAR,'
        ' which is reported.'
      )
    workdir.claim(self.folder, config)
    return config

  def command(self) -> list[str]:
    """Returns the command that starts or resumes the training."""
    words = ['-m', 'big_vision_like.train', f'--config={self.config}']
    words += [f'--workdir={self.folder}', *(f'--config.{o}' for o in self.overrides)]
    return [sys.executable, *words]


class Sweep:
  """The runs of one command and their results so far (results.json in its folder)."""

  def __init__(self, command: Mapping[str, Any], out: pathlib.Path):
    if command['test'] is None:
      command = {**command, 'test': default_test(command)}
    self.command, self.out = command, out
    self.variants = {config: config for config in command['configs']}
    if command['over']:
      self.variants = {c: tuning_variant(c) for c in self.variants}
    self.over = [read_values(text) for text in command['over']]
    self.file = out / 'results.json'
    self.known: dict[str, dict[str, Any]] = {}
    self.results: list[dict[str, Any]] = []
    self.failed: dict[str, str] = {}
    self.number, self.started = 0, time.perf_counter()
    self._better: dict[str, str] = {}
    if self.file.exists():
      saved = files.read_json(self.file)
      check_same(saved['command'], command, out)
      self.known = saved['runs']

  @property
  def total(self) -> int:
    """The number of all runs."""
    tuned = math.prod(len(values) for _, values in self.over) if self.over else 0
    return len(self.command['configs']) * (tuned + len(self.command['seeds']))

  def tuning(self, config: str) -> list[Run]:
    """Returns the runs that choose values for a config: one for each combination."""
    if not self.over:
      return []
    fields = [field for field, _ in self.over]
    return [
      self.run(self.variants[config], config, 'tune', values, self.command['seeds'][0])
      for combination in itertools.product(*(values for _, values in self.over))
      for values in [dict(zip(fields, combination, strict=True))]
    ]

  def final(self, config: str, values: Mapping[str, str]) -> list[Run]:
    """Returns the runs that are reported, one for each seed."""
    seeds = self.command['seeds']
    return [self.run(config, config, 'final', values, seed) for seed in seeds]

  def run(
    self, config: str, name: str, phase: str, values: Mapping[str, str], seed: str
  ) -> Run:
    """Returns a run of a config (or its variant for tuning) with some of the values."""
    place = ','.join([f'{field}={value}' for field, value in values.items()])
    return Run(
      config,
      self.command['overrides'],
      values,
      seed,
      self.out / file_name(name) / phase / file_name(f'{place},seed={seed}'.strip(',')),
      self.command['metric' if phase == 'tune' else 'test'],
    )

  def check(self) -> None:
    """Raises for anything wrong with a config before a run is started."""
    folders = {file_name(config) for config in self.command['configs']}
    if len(folders) < len(self.command['configs']):
      raise UserError('a config is given twice: name each once.')
    fields = [field for field, _ in self.over]
    if twice := [field for field in fields if fields.count(field) > 1]:
      raise UserError(f'--over names {twice[0]} twice: give all its values at once.')
    # The values of the final runs are not known yet, but their fields are.
    some = {field: values[0] for field, values in self.over}
    for config in self.command['configs']:
      for run in [*self.tuning(config), *self.final(config, some)]:
        run.load()
      if self.over:
        self.better(config)

  def better(self, config: str) -> str:
    """Returns 'max' or 'min': which values of --metric are best, for a config."""
    if config not in self._better:
      metric, first = self.command['metric'], self.tuning(config)[0]
      name = metric.partition('/')[0]
      node = experiment.Settings(**first.load()).evals[name]
      evaluators = {name: spec.build(node, f'config.evals.{name}')}
      self._better[config] = experiment.best_is(metric, evaluators, '--metric')
    return self._better[config]

  def rules(self) -> list[tuple[str, str]]:
    """Returns titles and sentences about the choice of values, and the report."""
    command, told = self.command, []
    for config in command['configs'] if self.over else ():
      most = {'max': 'highest', 'min': 'lowest'}[self.better(config)]
      value = f'the values with the {most} {command["metric"]}'
      place = f'of {self.variants[config]}, seed {command["seeds"][0]}'
      told.append(('chooses', f'{value} {place}'))
      if self.on_same_data(config):
        told.append(
          (
            'warning',
            f'{command["metric"]} chooses on the data on which {command["test"]} is'
            ' measured, so results are optimistic: give a --metric on other data',
          )
        )
    listed = ', '.join(command['seeds'])
    seeds = f'seed{"s" if len(command["seeds"]) > 1 else ""} {listed}'
    return [*told, ('reports', f'{command["test"]} with {seeds}')]

  def on_same_data(self, config: str) -> bool:
    """Returns whether values are chosen on the data of the reported results."""
    seen = []
    for name, scalar in ((self.variants[config], 'metric'), (config, 'test')):
      loaded = spec.load(name, self.command['overrides'], root=experiment.Settings)
      evaluator = loaded.evals[self.command[scalar].partition('/')[0]]
      data = json.loads(evaluator.to_json()).get('data')
      seen.append(data and data.get('source'))
    return seen[0] == seen[1]

  def value(self, run: Run) -> float | None:
    """Returns the scalar of a run, training it first if needed; None if it failed."""
    self.number += 1
    key = str(run.folder.relative_to(self.out))
    elapsed = progress.duration(time.perf_counter() - self.started)
    count = f'[{self.number:>{len(str(self.total))}}/{self.total}]'
    what = f'{run.config}  {shortly({**run.values, "seed": run.seed})}'
    print(f'{count}  {elapsed:>7}  {what}', end='  ', flush=True)
    entry = self.known.get(key, {})
    if 'error' in entry or not metrics.last_evaluation(run.folder):
      entry = {}
    how = 'read' if entry else ''
    if not entry:
      before = time.perf_counter()
      error = train(run)
      entry = {'config': run.config, 'overrides': run.overrides}
      entry['seconds'] = time.perf_counter() - before
      entry |= {'error': error} if error else {'scalars': scalars(run.folder)}
      self.known[key] = entry
      self.save()
      how = progress.duration(entry['seconds'])
    if 'error' in entry:
      self.failed[key] = entry['error']
      print(f'FAILED ({how}): {entry["error"]}', flush=True)
      return None
    if run.scalar not in entry['scalars']:
      print(flush=True)
      raise UserError(
        f'{run.folder} has no {run.scalar!r}, only {", ".join(entry["scalars"])}.'
      )
    print(f'{run.scalar} {entry["scalars"][run.scalar]:.4f}  ({how})', flush=True)
    return entry['scalars'][run.scalar]

  def do(self, config: str) -> None:
    """Tunes a config, then runs it with each seed."""
    result = {'config': config, 'chosen': {}, 'validation': None, 'test': []}
    runs = self.tuning(config)
    found = [(self.value(run), run) for run in runs]
    good = [(value, run) for value, run in found if value is not None]
    if runs and not good:
      self.number += len(self.command['seeds'])
      print(f'{config}: all of its tuning runs failed, so it is not run.')
    else:
      if good:
        sign = {'max': 1, 'min': -1}[self.better(config)]
        result['validation'], best = max(good, key=lambda pair: sign * pair[0])
        result['chosen'] = best.values
      tests = [self.value(run) for run in self.final(config, result['chosen'])]
      result['test'] = [value for value in tests if value is not None]
    self.results.append(result | spread(result['test']))
    self.save()

  def save(self) -> None:
    """Writes results.json atomically."""
    saved = {'command': self.command, 'runs': self.known, 'results': self.results}
    saved['groups'] = groups(self.results)
    files.write_json(self.file, saved)


def train(run: Run) -> str | None:
  """Runs the training as a process; returns an error message, or None."""
  run.folder.mkdir(parents=True, exist_ok=True)
  log = run.folder / 'train.log'
  with log.open('ab') as file:
    start = file.tell()
    # In a process group of its own, the training hears of Ctrl-C only below: a second
    # signal would end it before it has saved.
    process = subprocess.Popen(
      run.command(), stdout=file, stderr=subprocess.STDOUT, process_group=0
    )
    try:
      status = process.wait()
    except BaseException:  # the training saves its state before it stops
      process.terminate()
      process.wait()
      raise
  said = log.read_bytes()[start:].decode(errors='replace').splitlines()
  if status < 0:
    return f'killed by {signal.Signals(-status).name}, see {log}'
  if status:
    said = [line for line in said if line.strip()] or [f'exit status {status}']
    told = [line for line in said if line.startswith('error: ')] or said
    return told[-1].removeprefix('error: ').strip()
  step = metrics.last_evaluation(run.folder).get('step', 0)
  total = experiment.total_steps(spec.load(str(run.folder / 'config.json')))
  return None if step == total else f'stopped at step {step:,} of {total:,}'


def scalars(folder: pathlib.Path) -> dict[str, float]:
  """Returns the scalars of the last evaluation of a finished run."""
  return {k: v for k, v in metrics.last_evaluation(folder).items() if k != 'step'}


def spread(values: Sequence[float]) -> dict[str, float | None]:
  """Returns mean and sample standard deviation; None if there are too few values."""
  return {
    'mean': statistics.fmean(values) if values else None,
    'std': statistics.stdev(values) if len(values) > 1 else None,
  }


def read_values(text: str) -> tuple[str, list[str]]:
  """Parses 'a.b=1,2,(3, 4)' into ('a.b', ['1', '2', '(3, 4)'])."""
  field, equals, rest = text.partition('=')
  values = [v.strip() for v in re.split(r',(?![^(\[]*[)\]])', rest)]
  if not equals or not all(values):
    raise UserError(f'{text!r}: write FIELD=VALUE,VALUE.')
  return field, list(dict.fromkeys(values))


def tuning_variant(config: str) -> str:
  """Returns the config for tuning: CONFIG,tune if it has one, or itself."""
  spec.load(config)  # raises if the config itself is wrong
  file, argument = spec.split_argument(config)
  if not argument and not spec.takes_argument(file):
    return config
  variant = f'{config}{"," if argument else ":"}tune'
  try:
    spec.load(variant)
  except Exception:  # a config may reject an argument by any error
    return config
  return variant


def default_test(command: Mapping[str, Any]) -> str:
  """Returns test/top1 if all configs have an evaluator `test`, otherwise --metric."""
  loaded = [
    spec.load(config, command['overrides'], root=experiment.Settings)
    for config in command['configs']
  ]
  known = all('test' in experiment.Settings(**config).evals for config in loaded)
  return 'test/top1' if known else command['metric']


def check_same(saved: Mapping[str, Any], now: Mapping[str, Any], out: Any) -> None:
  """Raises if a folder belongs to a sweep with another command."""
  changes = [f'{k}: {saved[k]} -> {now[k]}' for k in now if saved[k] != now[k]]
  if changes:
    raise UserError(
      f'--out={out} belongs to another sweep ({"; ".join(changes)}): name another.'
    )


def shortly(values: Mapping[str, str]) -> str:
  """Returns 'peak_value=0.1' for a value of 'task.optimizer.rate.peak_value'."""
  return ' '.join(f'{field.rpartition(".")[2]}={v}' for field, v in values.items())


def file_name(text: str) -> str:
  """Returns a config, or values, as the name of a folder."""
  text = text.removeprefix('configs/').replace('.py', '')
  return re.sub(r'[^\w.,=+()-]+', '-', text).strip('-')


def cells(result: Mapping[str, Any]) -> list[str]:
  """Returns the cells of a row of the final table."""
  validation = '' if result['validation'] is None else f'{result["validation"]:.4f}'
  chosen = shortly(result['chosen'])
  return [result['config'], chosen, validation, *mean_cells(result)]


def mean_cells(result: Mapping[str, Any]) -> list[str]:
  """Returns the cells for mean, standard deviation and number of runs."""
  if result['mean'] is None:
    return ['failed', '', '0']
  std = '' if result['std'] is None else f'{result["std"]:.4f}'
  return [f'{result["mean"]:.4f}', std, str(len(result['test']))]


def groups(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """Returns means over VTAB-1k and its groups, for vtab configs with all tasks.

  A mean is taken for each seed; the standard deviation is taken over the seeds.
  """
  tasks: dict[tuple[str, str], dict[str, Sequence[float]]] = {}
  for result in results:
    file, _, argument = result['config'].partition(':')
    task, _, rest = argument.partition(',')
    if pathlib.Path(file).stem.endswith('vtab'):
      tasks.setdefault((file, rest), {})[task] = result['test']
  rows = []
  for (file, rest), tests in tasks.items():
    if (
      tests.keys() == benchmarks.VTAB.keys() and len(set(map(len, tests.values()))) == 1
    ):
      each = [
        benchmarks.vtab_means(dict(zip(tests, values, strict=True)))
        for values in zip(*tests.values(), strict=True)
      ]
      for group in each[0] if each else []:
        values = [means[group] for means in each]
        row = {'config': f'{file}: {rest} {group}', 'chosen': {}, 'validation': None}
        rows.append(row | {'test': values} | spread(values))
  return rows


def tell(sweep: Sweep) -> None:
  """Prints the table of results and writes it to results.md."""
  command, title = sweep.command, str(sweep.out)
  header = ['config', 'chosen', command['metric'], command['test'], 'std', 'runs']
  rows = [cells(result) for result in [*sweep.results, *groups(sweep.results)]]
  table = rich.table.Table(title=title, title_justify='left', box=rich.box.SIMPLE)
  for name in header:
    table.add_column(name, justify='left' if name in header[:2] else 'right')
  for row in rows:
    table.add_row(*row)
  console = rich.console.Console()
  console.width = max(console.width, 120)  # better to wrap lines than to truncate cells
  console.print(table)
  text = f'# {title}\n\n'
  for line in [header, ['---'] * len(header), *rows]:
    text += f'| {" | ".join(line)} |\n'
  for name, why in sweep.failed.items():
    text += f'\nFailed: {name}: {why}\n'
  files.write(sweep.out / 'results.md', text)
  print(f'written    {sweep.file}, {sweep.out / "results.md"}')


def parse(argv: Sequence[str] | None) -> tuple[dict[str, Any], pathlib.Path]:
  """Returns the command as plain data, and the folder of the sweep."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument('configs', nargs='+', metavar='CONFIG', help='FILE.py[:ARGUMENT]')
  parser.add_argument(
    '--over',
    action='append',
    default=[],
    help='FIELD=VALUE,VALUE: values to choose from; may be repeated',
  )
  parser.add_argument('--seeds', default='0,1,2', help='seeds; default: %(default)s')
  parser.add_argument(
    '--metric',
    default='val/top1',
    metavar='EVALUATOR/SCALAR',
    help='scalar that chooses values; default: %(default)s',
  )
  parser.add_argument(
    '--test',
    metavar='EVALUATOR/SCALAR',
    help='scalar to report; default: test/top1, or --metric if a config has no'
    ' evaluator `test`',
  )
  parser.add_argument('--out', required=True, help='folder of the sweep')
  args, rest = parser.parse_known_intermixed_args(argv)
  for word in rest:
    if not word.startswith('--config.') or '=' not in word:
      raise UserError(f'unknown argument {word!r}; see --help.')
  command = vars(args) | {
    'seeds': read_values(f'seeds={args.seeds}')[1],
    'overrides': [word.removeprefix('--config.') for word in rest],
  }
  return command, pathlib.Path(command.pop('out'))


def stop(number: int, _: Any) -> NoReturn:
  """Ends the sweep on a signal as on Ctrl-C: the current run is stopped first."""
  raise SystemExit(128 + number)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> int:
  """Parses the command line and runs the sweep."""
  jax.config.update('jax_platforms', 'cpu')  # the accelerators are for the runs
  cli.set_up_jax()
  signal.signal(signal.SIGTERM, stop)
  if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
    signal.signal(signal.SIGHUP, stop)  # the terminal was closed
  sweep = Sweep(*parse(argv))
  sweep.check()
  sweep.save()  # from now on the folder belongs to this sweep
  print(f'{plural(sweep.total, "run")} in {sweep.out}', flush=True)
  for title, text in sweep.rules():
    say(title, text)
  for config in sweep.command['configs']:
    sweep.do(config)
  tell(sweep)
  for name, why in sweep.failed.items():
    print(f'failed: {name}: {why}', file=sys.stderr)
  if sweep.failed:
    raise UserError(f'{len(sweep.failed)} of {sweep.total} runs failed, see above.')
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
