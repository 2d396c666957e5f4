"""Cells of published tables, the configs that reproduce them, and the runs that did.

configs/papers/PAPER/ has the published numbers: cells.csv, tables.csv (titles) and
models.csv (parameters and multiply-accumulates), which may have models of any paper.
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
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_vision_like import spec, upgrade
from big_vision_like.cost import flops
from big_vision_like.errors import UserError
from big_vision_like.files import read_json
from big_vision_like.report import runs as viz_runs
from big_vision_like.run import experiment, metrics, workdir

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
PAPERS = CONFIGS / 'papers'
# These factors convert metrics, most of which are shares, to the units of cells.
FACTORS = {'%': 100.0, 'fraction': 1.0, 'BLEU': 1.0, 'perplexity': 1.0}
# Arguments that may differ between runs of a cell, as may `workdir.SETTINGS`.
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
  """A published number, with the digits as printed.

  `private` names data that are not public. `mean_of` is the table whose column of the
  same name the cell averages. `config` is the config that reproduces the cell, if there
  is one, and `metric` the scalar that it reports.
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
  metric: str
  note: str

  @property
  def key(self) -> Key:
    """The position of the cell."""
    return self.paper, self.table, self.row, self.column

  @property
  def text(self) -> str:
    """The number as printed."""
    return f'{self.value} ± {self.spread}' if self.spread else self.value


@dataclasses.dataclass(frozen=True)
class Model:
  """A published model with 1000 classes, and its published size, if known.

  `symbol` is our class, with its `variant` and further `arguments`, or a config that
  has the model. `size` is a number of pixels, or height and width, such as 800x1066, or
  the frames, height and width of a clip, such as 8x224x224.
  """

  paper: str
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
  """A finished run: its folder, its saved config, and its results by cell."""

  folder: str
  config: Mapping[str, Any]
  found: Mapping[Key, float]


@dataclasses.dataclass(frozen=True)
class Ours:
  """Results of our runs for a cell: a value for each seed, and their provenance."""

  values: Mapping[int, float]
  folders: Sequence[str]
  differences: Sequence[str]  # relevant settings that differ from the config

  def text(self, cell: Cell) -> str:
    """Returns mean ± sample standard deviation (seeds), with the published digits."""
    values = list(self.values.values())
    mean, digits = statistics.fmean(values), len(cell.value.partition('.')[2])
    spread = f' ± {statistics.stdev(values):.{digits}f}' if len(values) > 1 else ''
    return f'{mean:.{digits}f}{spread} ({len(values)})'


@functools.cache
def read(name: str, kind: type) -> Sequence[Any]:
  """Returns the rows of the csv files with this name, of all papers."""
  rows = []
  for path in sorted(PAPERS.glob(f'*/{name}.csv')):
    with path.open(newline='', encoding='utf-8') as file:
      rows += [kind(paper=path.parent.name, **row) for row in csv.DictReader(file)]
  return rows


def tables() -> Sequence[Table]:
  """Returns all known tables."""
  return read('tables', Table)


def cells(paper: str) -> list[Cell]:
  """Returns the cells of a paper's tables, in order."""
  return [cell for cell in read('cells', Cell) if cell.paper == paper]


def models() -> list[Model]:
  """Returns all published sizes; raises if papers contradict each other."""
  known: dict[tuple[str, str], Model] = {}
  for model in read('models', Model):
    first = known.setdefault((model.model, model.size), model)
    if (first.parameters, first.gmacs) != (model.parameters, model.gmacs):
      raise UserError(
        f'{PAPERS}: {first.paper} and {model.paper} give different numbers for'
        f' {model.model} at {model.size} pixels.'
      )
  return list(known.values())


@functools.cache
def load(config: str) -> Any:
  """Loads a config by its path from the root of the repository."""
  return spec.load(str(CONFIGS.parent / config), root=experiment.Settings)


def reproduced(saved: Mapping[str, Any]) -> dict[Key, str]:
  """Returns the cells that a run reproduces, with the scalars that it reports for them.

  New runs save the name of their config; older runs saved the cells themselves.
  """
  if 'reproduces' in saved:
    names = ('paper', 'table', 'row', 'column')
    return {tuple(c[n] for n in names): c['metric'] for c in saved['reproduces']}
  name = saved.get('name')
  return {c.key: c.metric for c in read('cells', Cell) if name and c.config == name}


def find_runs(folders: Sequence[str]) -> tuple[list[Run], list[str]]:
  """Returns the finished runs in or below folders, and the problems of others."""
  found, unfinished = [], []
  for folder in folders:
    if not pathlib.Path(folder).is_dir():
      raise UserError(f'--runs: no folder {folder}.')
    for place, below, files in os.walk(folder):
      below.sort()
      if 'config.json' not in files:
        continue
      below.clear()
      saved = read_json(pathlib.Path(place) / 'config.json')
      wanted = reproduced(saved)
      if not wanted:
        continue
      scalars = metrics.last_evaluation(place)
      step = scalars.pop('step', 0)
      try:
        total = experiment.total_steps(spec.load(f'{place}/config.json'))
      except UserError as error:
        unfinished.append(f'{place}: it is unknown whether it is finished: {error}')
        continue
      if step < total:
        unfinished.append(f'{place}: at step {step:,} of {total:,}')
      else:
        here = {key: scalars[name] for key, name in wanted.items() if name in scalars}
        found.append(Run(place, upgrade.upgraded(saved), here))
  return found, unfinished


def differences(run: Run, config: str) -> list[str]:
  """Returns the differences between a run's settings and those in a config."""
  now = viz_runs.flattened(run.config)
  before = viz_runs.flattened(json.loads(load(config).to_json()))
  return [
    f'{key}={now.get(key, "(absent)")} instead of {before.get(key, "(absent)")}'
    for key in sorted({*now, *before})
    if now.get(key) != before.get(key)
    and re.split(r'[.\[]', key)[0] not in workdir.SETTINGS
    and key.rpartition('.')[2] not in FREE_ARGUMENTS
  ]


def ours(cell: Cell, runs: Sequence[Run]) -> Ours | None:
  """Returns results of runs for a cell, with settings nearest to its config.

  For each seed the last run counts.
  """
  if not cell.config or cell.unit not in FACTORS:
    return None
  groups: dict[tuple[str, ...], list[Run]] = collections.defaultdict(list)
  for run in runs:
    if cell.key in run.found:
      groups[tuple(differences(run, cell.config))].append(run)
  if not groups:
    return None
  changes = min(groups, key=len)
  by_seed = {run.config['seed']: run for run in groups[changes]}
  values = {s: FACTORS[cell.unit] * run.found[cell.key] for s, run in by_seed.items()}
  return Ours(values, [run.folder for run in by_seed.values()], changes)


def column_of(cell: Cell) -> list[Cell]:
  """Returns the cells that a cell averages; an empty list for other cells."""
  at = (cell.mean_of, cell.column)
  return [part for part in cells(cell.paper) if (part.table, part.column) == at]


def all_ours(paper: str, runs: Sequence[Run]) -> dict[Key, Ours]:
  """Returns the results of runs for the cells of a paper that have any."""
  found = {cell.key: ours(cell, runs) for cell in cells(paper)}
  for cell in cells(paper):
    if parts := [found[part.key] for part in column_of(cell)]:
      found[cell.key] = None if None in parts else mean_of(parts)
  return {key: given for key, given in found.items() if given is not None}


def mean_of(parts: Sequence[Ours]) -> Ours | None:
  """Returns means over cells for each seed that all of them have."""
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
  """Returns the parameters of a model, and multiply-accumulates of its forward pass."""
  variables = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  operations = flops.count(lambda v, *x: model.apply(v, *x), variables, *inputs)
  sizes = [leaf.size for leaf in jax.tree.leaves(variables['params'])]
  return sum(sizes), operations // 2


def build(model: Model) -> Any:
  """Builds our version of a published model; raises if it is not implemented."""
  if model.symbol.startswith('configs/'):
    return spec.build(load(model.symbol).task.model, model.symbol)
  symbol = spec.symbol({'_fn': model.symbol}, model.model)
  variant = importlib.import_module(symbol.__module__).variant
  arguments = dict(pair.split('=') for pair in model.arguments.split())
  return symbol(num_classes=1000, **variant(model.variant), **arguments)


def counted(model: Model) -> tuple[int, int]:
  """Returns the `count` of our version of a published model."""
  sizes = [int(size) for size in model.size.split('x')]
  shape = 1, *(sizes * 2 if len(sizes) == 1 else sizes), 3
  return count(build(model), [jax.ShapeDtypeStruct(shape, jnp.float32)])


def shape_of(name: str) -> tuple[str, str] | None:
  """Returns texts that determine the size of a config's model, except its classes.

  Returns None for a config of several tasks or networks, none of which is its `model`.
  """
  config = json.loads(load(name).to_json())
  if 'model' not in config['task']:
    return None
  model = {k: v for k, v in config['task']['model'].items() if k != 'num_classes'}
  data = config['train_data']
  # Images of joined inputs have one size.
  first = next(iter(data['inputs'].values())) if 'inputs' in data else data
  return json.dumps(model), json.dumps(first.get('transforms'))


def counted_config(name: str) -> tuple[str, int, int]:
  """Returns pixels, parameters and multiply-accumulates of the model of a config."""
  run = experiment.make(load(name), planned_for=jax.devices())
  example = next(iter(run.data.parts.values())).example()
  batch = {k: jax.ShapeDtypeStruct((1, *x.shape), x.dtype) for k, x in example.items()}
  network = next(iter(run.task.networks().values()))
  inputs = jax.eval_shape(network.inputs, batch)
  return pixels_of(example), *count(network.module, inputs)


def pixels_of(example: Mapping[str, Any]) -> str:
  """Returns the size of an example's clip or image as text; empty without either."""
  if 'video' in example:
    return 'x'.join(map(str, example['video'].shape[:3]))
  if 'image' not in example:
    return ''
  height, width = example['image'].shape[:2]
  return str(height) if height == width else f'{height}x{width}'
