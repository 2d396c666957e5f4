"""Pretrains on glyphs, transfers to digits, prints the table, writes the report.

    python tools/demo.py [--runs runs/demo]

The second half of `make train`, which prepares the data sets first. Rerun the command
to resume. Every part is an ordinary run of the training loop.
"""

import pathlib
from collections.abc import Mapping, Sequence

import rich.box
import rich.console
import rich.table

from big_vision_like import cli, errors, files, spec, train
from big_vision_like.devices import processes
from big_vision_like.report import compose
from big_vision_like.run import experiment, metrics, progress

# Phases before the first step, as `metrics.jsonl` names them; compilation is the last.
START = ('import', 'data', 'init', 'restore', 'compile')
PRETRAIN = 'configs/vit/pretrain_glyphs.py'
TRANSFER = 'configs/vit/transfer_digits.py'
# name of the run: (labels, overrides of the transfer config)
BUDGETS = {
  'all': ('1,347', ['total_steps=600']),
  '100': ('100', ['total_steps=300', 'train_data.source.split=train[:100]']),
}


def random_weights(run: experiment.Experiment) -> dict[str, float]:
  """Returns the scalars of the linear probe before the first training step."""
  evaluator = run.evaluators['digits']
  predict = evaluator.prediction(run.task)
  found = evaluator.run(predict, run.init(), run.mesh).scalars
  processes.say('digits', metrics.listed(found))
  return {f'digits/{key}': value for key, value in found.items()}


def table(rows: Sequence[tuple[str, str, float, float]]) -> rich.table.Table:
  """Returns the table of top-1 with random and with pretrained weights, in percent."""
  result = rich.table.Table(
    title='digits: 1,797 real scans, 450 of them for testing, top-1 %',
    title_justify='left',
    box=rich.box.SIMPLE_HEAD,
  )
  result.add_column('method')
  for name in ('labels', 'random weights', 'pretrained', 'gain'):
    result.add_column(name, justify='right')
  for method, labels, *found in rows:
    before, after = (round(100 * value, 1) for value in found)
    # The difference of the numbers as shown, so that the row adds up.
    gain = f'{after - before:+.1f}'
    result.add_row(method, labels, f'{before:.1f}', f'{after:.1f}', gain)
  return result


def times(runs: Mapping[str, Sequence[pathlib.Path]]) -> rich.table.Table:
  """Returns a table of the time that groups of runs took, by phase."""
  result = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  result.add_column('time')
  for name in ('start', 'steps', 'evaluations', 'total'):
    result.add_column(name, justify='right')
  for title, workdirs in runs.items():
    spent = [phases(metrics.read(workdir)) for workdir in workdirs]
    total = [sum(seconds) for seconds in zip(*spent, strict=True)]
    result.add_row(title, *map(progress.duration, [*total, sum(total)]))
  return result


def phases(records: Sequence[Mapping[str, float]]) -> tuple[float, float, float]:
  """Returns the seconds of a run before its first step, in steps and in evaluators."""
  start = evaluations = 0.0
  for record in records:
    if record['kind'] == 'info':
      start += sum(record.get(f'{name}_seconds', 0.0) for name in START)
      evaluations += record.get('evaluation_seconds', 0.0)
  compiling = sum(record.get('compile_seconds', 0.0) for record in records)
  whole = max(record.get('seconds', 0.0) for record in records)
  return start, whole - compiling - evaluations, evaluations


def first_result(records: Sequence[Mapping[str, float]]) -> float:
  """Returns the seconds from the start of a program to its first evaluation."""
  before = sum(r.get(f'{name}_seconds', 0.0) for r in records for name in START[:-1])
  return before + next(r['seconds'] for r in records if 'evaluation_seconds' in r)


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Runs the five trainings and the probe."""
  parser = errors.parser(__doc__.splitlines()[0])
  parser.add_argument(
    '--runs', default='runs', help='folder of the runs; default: %(default)s'
  )
  parser.add_argument(
    '--override', action='append', default=[], help='FIELD=VALUE, for every config'
  )
  args = parser.parse_args(argv)
  runs, import_seconds = pathlib.Path(args.runs), metrics.process_seconds()
  cli.set_up_jax()

  print('\n1. Pretraining on glyphs: 62 classes of drawn characters\n')
  pretrained = runs / 'pretrain_glyphs'
  config = spec.load(PRETRAIN, args.override, root=experiment.Settings)
  train.train(config, pretrained, import_seconds)

  print('\n2. Linear probe on digits, from random weights\n')
  found = metrics.last_evaluation(pretrained)
  random = random_weights(experiment.make(config))
  rows = [
    (f'{k}-shot linear probe', f'{10 * k}', random[name], found[name])
    for k in (1, 5, 10, 25)
    if (name := f'digits/{k}-shot') in found
  ]

  tuned = []
  for number, (name, (labels, overrides)) in enumerate(BUDGETS.items(), start=3):
    print(f'\n{number}. Fine-tuning on {labels} labels, pretrained and from scratch\n')
    results = []
    for start, source in [
      ('scratch', 'init_from=None'),
      ('pretrained', f'init_from.weights.workdir={pretrained}'),
    ]:
      workdir = runs / f'digits_{name}_{start}'
      config = spec.load(
        TRANSFER, [*overrides, *args.override, source], root=experiment.Settings
      )
      train.train(config, workdir)
      tuned.append(workdir)
      results.append(metrics.last_evaluation(workdir)['test/top1'])
      print()
    rows.append(('fine-tuning', labels, *results))

  console = rich.console.Console()
  console.print(table(rows))
  print(f'glyphs   top-1 {100 * found["val/top1"]:.1f} % of 4,960 test characters')
  console.print(times({'pretraining': [pretrained], 'fine-tuning': tuned}))
  first = progress.duration(first_result(metrics.read(pretrained)))
  total = progress.duration(metrics.process_seconds())
  print(f'time     {total}; the first result came after {first}')
  # After the time is printed: the pictures are not part of training.
  shown = [pretrained, runs / 'digits_all_scratch', runs / 'digits_all_pretrained']
  page = runs / 'report.html'
  files.write(page, compose.of_runs([*map(str, shown)]))
  processes.say('written', str(page))


if __name__ == '__main__':
  raise SystemExit(main())
