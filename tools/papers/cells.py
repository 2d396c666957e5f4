"""Cells of published tables, the configs that reproduce them, and the runs that did.

configs/papers/ holds the numbers as published: PAPER.csv the cells, tables.csv their
titles, models.csv parameters and multiply-accumulates of models.
"""

import collections
import csv
import dataclasses
import functools
import importlib
import json
import os
import pathlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like import spec, upgrade
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.report import runs as viz_runs
from big_vision_like.run import checkpoint, experiment, metrics

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
PAPERS = CONFIGS / 'papers'
# A metric is a share; the factor makes it what the unit of a cell counts.
FACTORS = {'%': 100.0, 'fraction': 1.0}
# What may differ between runs of one cell: fields of the config, and arguments.
FREE = {*checkpoint.BESIDE, 'log_every', 'checkpoint_every', 'check_replicas_every'}
FREE |= {'keep_last', 'keep_every', 'keep_best'}
FREE_ARGUMENTS = {'seed', 'workers', 'threads', 'data_dir', 'scan', 'remat'}

Key = tuple[str, str, str, str]  # paper, table, row, column


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of a paper."""

  paper: str
  paper_title: str
  table: str
  title: str


@dataclasses.dataclass(frozen=True)
class Cell:
  """A published number, digits as printed.

  `private` names data that nobody else has; `mean_of` the table whose column of the
  same name it is the mean of; `config` what reproduces it, where there is a config.
  """

  paper: str
  table: str
  row: str
  column: str
  value: str
  spread: str
  unit: str
  model: str
  private: str
  mean_of: str
  config: str
  note: str

  @property
  def key(self) -> Key:
    """Where it stands."""
    return self.paper, self.table, self.row, self.column

  @property
  def text(self) -> str:
    """As printed."""
    return f'{self.value} ± {self.spread}' if self.spread else self.value


@dataclasses.dataclass(frozen=True)
class Model:
  """A published model (of 1000 classes) and what was said of its size, if anything.

  `symbol` is our class, with its `variant` and more `arguments`; or a config, whose own
  model it is. `size` are pixels, or height and width, such as 800x1066.
  """

  model: str
  size: str
  parameters: str
  gmacs: str
  symbol: str
  variant: str
  arguments: str
  note: str


@dataclasses.dataclass(frozen=True)
class Run:
  """A finished run: its folder, its config as saved, and what it found at its end."""

  folder: str
  config: Mapping[str, Any]
  scalars: Mapping[str, float]

  def finds(self, key: Key) -> float | None:
    """What it found of a cell that it reproduces."""
    for cell in self.config['reproduces']:
      if key_of(cell) == key:
        return self.scalars.get(cell['metric'])
    return None


@dataclasses.dataclass(frozen=True)
class Ours:
  """What our runs give for a cell: a value for each seed, and how they were made."""

  values: Mapping[int, float]
  folders: Sequence[str]
  differences: Sequence[str]  # from the config, settings that matter

  def text(self, cell: Cell) -> str:
    """Mean ± sample standard deviation (seeds), digits as in the published number."""
    values = list(self.values.values())
    mean, digits = statistics.fmean(values), len(cell.value.partition('.')[2])
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{mean:.{digits}f}{spread} ({len(values)})'


def read(path: pathlib.Path, kind: type) -> list[Any]:
  """The rows of a csv file."""
  with path.open(newline='', encoding='utf-8') as file:
    return [kind(**row) for row in csv.DictReader(file)]


def tables() -> list[Table]:
  """All tables known."""
  return read(PAPERS / 'tables.csv', Table)


def models() -> list[Model]:
  """All published sizes known."""
  return read(PAPERS / 'models.csv', Model)


def cells(paper: str) -> list[Cell]:
  """The cells of a paper's tables, in order."""
  return read(PAPERS / f'{paper}.csv', Cell)


def key_of(cell: Mapping[str, Any]) -> Key:
  """Where a cell stands that a config names."""
  return cell['paper'], cell['table'], cell['row'], cell['column']


@functools.cache
def load(config: str) -> Any:
  """A config by its name from the top of the repository."""
  return spec.load(str(CONFIGS.parent / config), root=experiment.Settings)


def configs() -> list[str]:
  """The configs that are worth running, and those that the tables name."""
  files = sorted(CONFIGS.glob('*/*.py'))
  names = [name for file in files for name in spec.variants(file)]
  named = [cell.config for paper in papers() for cell in cells(paper) if cell.config]
  names = [str(pathlib.Path(n).relative_to(CONFIGS.parent)) for n in names]
  return list(dict.fromkeys([*names, *named]))


def papers() -> list[str]:
  """The papers whose tables are known."""
  return list(dict.fromkeys(table.paper for table in tables()))


def reproducing(names: Iterable[str]) -> dict[Key, list[str]]:
  """The configs that name each cell."""
  found = collections.defaultdict(list)
  for name in names:
    for cell in experiment.Settings(**load(name)).reproduces:
      found[key_of(cell)].append(name)
  return found


def find_runs(folders: Sequence[str]) -> tuple[list[Run], list[str]]:
  """Finished runs in or below these folders, and what is wrong with the others."""
  found, unfinished = [], []
  for folder in folders:
    if not pathlib.Path(folder).is_dir():
      raise UserError(f'--runs: no folder {folder}.')
    for place, below, files in os.walk(folder):
      below.sort()
      if 'config.json' not in files:
        continue
      below.clear()
      saved = (pathlib.Path(place) / 'config.json').read_text()
      config = upgrade.upgraded(json.loads(saved))
      if not config.get('reproduces'):
        continue
      scalars = metrics.last_evaluation(place)
      step = scalars.pop('step', 0)
      try:
        total = experiment.total_steps(spec.load(f'{place}/config.json'))
      except UserError as error:
        unfinished.append(f'{place}: cannot tell whether it is finished: {error}')
        continue
      if step < total:
        unfinished.append(f'{place}: at step {step:,} of {total:,}')
      else:
        found.append(Run(place, config, scalars))
  return found, unfinished


def differences(run: Run, names: Sequence[str]) -> list[str]:
  """How a run's settings differ from those of the nearest of these configs."""
  now = viz_runs.flattened(run.config)
  found = []
  for name in names:
    before = viz_runs.flattened(json.loads(load(name).to_json()))
    changes = [
      f'{key}={now.get(key, "(absent)")} instead of {before.get(key, "(absent)")}'
      for key in sorted({*now, *before})
      if now.get(key) != before.get(key)
      and re.split(r'[.\[]', key)[0] not in FREE
      and key.rpartition('.')[2] not in FREE_ARGUMENTS
    ]
    found.append(changes)
  return min(found, key=len, default=[])


def ours(cell: Cell, runs: Sequence[Run], names: Sequence[str]) -> Ours | None:
  """What runs give for a cell: those with the config's settings, or the nearest ones.

  Of runs with the same seed the last counts.
  """
  groups: dict[tuple[str, ...], list[Run]] = collections.defaultdict(list)
  for run in runs:
    if run.finds(cell.key) is not None:
      groups[tuple(differences(run, names))].append(run)
  if not groups or cell.unit not in FACTORS:
    return None
  changes = min(groups, key=len)
  by_seed = {run.config['seed']: run for run in groups[changes]}
  values = {s: FACTORS[cell.unit] * run.finds(cell.key) for s, run in by_seed.items()}
  return Ours(values, [run.folder for run in by_seed.values()], changes)


def mean_of(parts: Sequence[Ours]) -> Ours | None:
  """The mean over cells for each seed that all of them have."""
  seeds = set.intersection(*(set(part.values) for part in parts))
  if not seeds:
    return None
  values = {
    s: statistics.fmean(part.values[s] for part in parts) for s in sorted(seeds)
  }
  return Ours(
    values,
    [folder for part in parts for folder in part.folders],
    list(dict.fromkeys(text for part in parts for text in part.differences)),
  )


def count(model: Any, inputs: Sequence[jax.ShapeDtypeStruct]) -> tuple[int, int]:
  """Parameters of a model, and multiply-accumulates of its forward pass."""
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  operations = flops.count(lambda v, *x: model.apply(v, *x), variables, *inputs)
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  return sum(sizes), operations // 2


def build(model: Model) -> Any:
  """Our own of a published model; raises where it is not here yet."""
  if model.symbol.startswith('configs/'):
    return spec.build(load(model.symbol).task.model, model.symbol)
  symbol = spec.symbol({'_fn': model.symbol}, model.model)
  variant = importlib.import_module(symbol.__module__).variant
  arguments = dict(pair.split('=') for pair in model.arguments.split())
  return symbol(num_classes=1000, **variant(model.variant), **arguments)


def counted(model: Model) -> tuple[int, int]:
  """`count` of our own of a published model."""
  height, _, width = model.size.partition('x')
  shape = 1, int(height), int(width or height), 3
  return count(build(model), [jax.ShapeDtypeStruct(shape, jnp.float32)])


def shape_of(name: str) -> tuple[str, str]:
  """What the size of a config's model depends on but for the number of classes."""
  config = json.loads(load(name).to_json())
  model = {k: v for k, v in config['task']['model'].items() if k != 'num_classes'}
  return json.dumps(model), json.dumps(config['train_data']['transforms'])


def counted_config(name: str) -> tuple[str, int, int]:
  """Pixels, parameters and multiply-accumulates of the model that a config trains."""
  run = experiment.make(load(name), planned_for=jax.devices())
  example = run.data.example()
  batch = {k: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for k, x in example.items()}
  network = next(iter(run.task.networks().values()))
  inputs = jax.eval_shape(network.inputs, batch)
  height, width = example['image'].shape[:2]
  pixels = str(height) if height == width else f'{height}x{width}'
  return pixels, *count(network.module, inputs)
