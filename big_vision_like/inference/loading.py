"""A model with its parameters and its preprocessing, of published weights or a run."""

import argparse
import dataclasses
import importlib
import os
import pathlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, shape_text
from big_vision_like.inference.preprocessing import Prepare
from big_vision_like.ops import positions
from big_vision_like.ops.positions import Grid
from big_vision_like.run import (
  checkpoint,
  experiment,
  init_from,
  learned,
  provenance,
)
from big_vision_like.tasks import task as task_contract
from big_vision_like.tasks.task import Network, State, Task
from big_vision_like.weights import published

Variables = dict[str, Any]

# No model is for images with a longer side.
LARGEST = 2**15


@dataclasses.dataclass(frozen=True)
class LoadedRun:
  """A finished or running run, as evaluation and reports see it."""

  workdir: pathlib.Path
  config: mlc.ConfigDict
  task: Task
  state: State

  @property
  def network(self) -> Network:
    """The network of the task that is usually wanted."""
    return next(iter(self.task.networks().values()))

  @property
  def variables(self) -> Variables:
    """The variables of that network that predictions are made with."""
    return self.network.variables(self.state)

  @property
  def params(self) -> Any:
    """The parameters among them."""
    return self.variables['params']


def load_run(
  workdir: str | pathlib.Path, step: int | None = None, config: mlc.ConfigDict = None
) -> LoadedRun:
  """Loads what prediction needs of a run: task, parameters, averages, statistics."""
  workdir = pathlib.Path(workdir)
  if config is None:
    file = workdir / 'config.json'
    if not file.is_file():
      raise UserError(
        f'{workdir} has no config.json, which tells the model of a run: restore it'
      )
    config = spec.load(str(file), root=experiment.Settings)
  # Schedules are built and not used: any length of an epoch does.
  plain = spec.in_steps(config)
  step, saved = checkpoint.load(workdir, step)
  state = State(step=jax.numpy.int32(step), opt_state=None, **saved)
  return LoadedRun(workdir, config, spec.build(plain['task'], 'config.task'), state)


def frozen(run: LoadedRun, batch: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the networks that a run does not train, such as its teacher, by name.

  They are where the config of the run says; `batch` are shapes and types of a batch.
  """
  example = task_contract.zeros_of(batch)
  abstract = jax.eval_shape(lambda: task_contract.frozen_shapes(run.task, example))
  return experiment.read_frozen(run.config.frozen, run.task, abstract or {}, batch)


def load(
  path: str | os.PathLike,
  image_size: int | Sequence[int] | None = None,
  step: int | None = None,
  source_grid: Grid | None = None,
) -> tuple[nn.Module, Variables, Prepare]:
  """Returns a model, its variables, and what makes its input of a picture.

      model, variables, preprocess = big_vision_like.load('weights/B_16.npz')
      logits = model.apply(variables, preprocess('cat.jpg')[None])['logits'][0]
      print(preprocess.top(logits))

  and of one that finds objects

      image, size, original_size = preprocess('street.jpg')
      outputs = model.apply(variables, image[None], size[None])
      print(preprocess.objects(outputs, original_size))

  `path` is a file of weights (`weights.published`), a folder with one, or the folder of
  a run (`step`: of a checkpoint that is not the newest). `image_size` (a side, or
  height and width) resizes learned positions to images of another size, and the windows
  of a Swin; for detectors it is the shorter side. `source_grid` (rows, columns) is the
  grid that these positions are for, if the run or the files beside the weights do not
  tell it.
  """
  path = pathlib.Path(path).expanduser()
  sides = np.ravel(0 if image_size is None else image_size)
  if sides.dtype.kind not in 'iu' or sides.max(initial=0) > LARGEST:
    raise UserError(
      f'image_size={image_size} is not a positive height and width, of whole pixels up'
      f' to {LARGEST:,}'
    )
  if checkpoint.steps(path):
    run = load_run(path, step)
    model, variables = run.network.module, run.variables
    preprocess = preprocessing_of(run)
    known = provenance.run_grid(run.config, model, path)
    grid = provenance.chosen_grid(known, source_grid)
    count, of_table = provenance.table_grid(model, run.variables)
    if image_size is not None and count and not (grid or of_table):
      grid = provenance.square(count)
  else:
    found = _read(path, step)
    model, variables, preprocess = _of_file(found, path, source_grid)
    grid = provenance.published_grid(found, source_grid)
  if image_size is not None:
    preprocess = preprocess.with_size(image_size)
    model = _model_for(model, preprocess.size)
    variables = _for_size(model, variables, grid, preprocess)
  return model, jax.device_put(variables), preprocess


def add_source_grid(parser: argparse.ArgumentParser) -> None:
  """Adds `--source-grid` to the flags of a program that loads weights."""
  parser.add_argument(
    '--source-grid',
    type=_grid_of,
    metavar='ROWSxCOLUMNS',
    help='the grid of tokens that learned positions are for, where nothing tells it',
  )


def _grid_of(text: str) -> Grid:
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
  if match is None:
    raise argparse.ArgumentTypeError(f'{text} is not rows and columns, like 14x14')
  return int(match[1]), int(match[2])


def _read(path: pathlib.Path, step: int | None) -> published.Published:
  provenance.check_no_run(path)
  if step is not None:
    raise UserError(f'{path} is no run: it has no checkpoint of step {step}')
  weights = published.read(path)
  for text in weights.assumed:
    say('assumed', text)
  return weights


def _of_file(
  weights: published.Published, path: pathlib.Path, source_grid: Grid | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  params, features = dict(weights.params), weights.family.features
  if not weights.num_classes and features is not None:
    # The model has a head all the same, with no outputs.
    params['head'] = {
      'kernel': np.zeros((features(weights.architecture), 0), np.float32),
      'bias': np.zeros(0, np.float32),
    }
  variables = weights.variables | {'params': params}
  return weights.model, variables, preprocessing_of_file(weights, path, source_grid)


def preprocessing_of(
  run: LoadedRun, image_size: tuple[int, int] | None = None
) -> Prepare:
  """Returns what a run does with images when it evaluates.

  The module of this folder that is named after what the task predicts tells it.
  `image_size` are height and width of images of one size, if no transform makes it.
  """
  kinds = {info.name for info in pkgutil.iter_modules([pathlib.Path(__file__).parent])}
  kind = run.task.predicts
  if kind not in kinds:
    raise UserError(
      f'{run.workdir} is a run of {type(run.task).__name__}: load() is for tasks that'
      f' predict what big_vision_like/inference has a module for, not {kind!r}'
    )
  return importlib.import_module(f'{__package__}.{kind}').of_run(run, image_size)


def _model_for(model: nn.Module, size: tuple[int, int]) -> nn.Module:
  """Returns the model for images of this size; prints what in it becomes another."""
  if not hasattr(model, 'for_images'):
    return model
  other = model.for_images(size)
  before, now = map(provenance.architecture, (model, other))
  for name, (old, new) in provenance.differences(before, now).items():
    say('model', f'{name} {old!r} -> {new!r} for images of {shape_text(size)}')
  return other


def _for_size(
  model: nn.Module, variables: Variables, grid: Grid | None, preprocess: Prepare
) -> Variables:
  """Returns the variables with all tables for the images that `preprocess` makes."""
  if not getattr(model, 'resizes', None):
    return variables
  shape = (1, *preprocess.size, preprocess.channels)
  image = jax.ShapeDtypeStruct(shape, np.float32)
  like = jax.eval_shape(model.init, jax.random.key(0), image)
  like = {name: like[name] for name in variables}
  tables, grid_to = init_from.tables_of(model, image)
  tokens, _ = provenance.table_grid(model, variables)
  if grid is None and tokens is not None:
    grid = positions.infer_grid(tokens, grid_to)
  weights = init_from.Weights(variables, grid=grid)
  return init_from.complete(weights, like, tables, grid_to)


def preprocessing_of_file(
  weights: published.Published, path: pathlib.Path, source_grid: Grid | None = None
) -> Prepare:
  """Returns what published weights that were read from `path` say of images."""
  return weights.images(path.stem, published_size(weights, source_grid))


def published_size(
  weights: published.Published, source_grid: Grid | None = None
) -> tuple[int, int] | None:
  """Returns height and width of the images that learned positions are for.

  None without such positions. If nothing tells their grid, it is a square.
  """
  model = weights.model
  count, grid = provenance.table_grid(model, weights.variables)
  if count is None and grid is None:
    return None
  grid = provenance.published_grid(weights, source_grid)
  if grid is None:
    positions.infer_grid(count, (1, 1))  # an error names what may be given to `load`
    grid = provenance.square(count)
  return grid[0] * model.stride[0], grid[1] * model.stride[1]


def encoded_images(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """Finds the first input that decodes images, of evaluators if possible."""
  for nodes in (config.get('evals', {}), config.get('train_data', {})):
    for _, node in spec.calls(nodes):
      if provenance.decodes(node):
        return node
  raise UserError('no input of the config decodes images: they start with image.Decode')


def trained_names(run: LoadedRun, kind: str) -> tuple[str, ...]:
  """Returns `label_names` or `category_names` of the data that a run trained on.

  They are those that the run has stored. Of an old run without any they are read from
  its training data and told to be so, and none if there are as many classes as these
  data do not have. Labels in between without a name are called by their number.
  """
  classes, stored = run.task.num_classes, learned.read(run.workdir) is not None
  for known in learned.known(run.workdir).values():
    names = known.names.get(learned.FIELDS[kind])
    if names and classes and max(names) < classes and (stored or len(names) == classes):
      return tuple(names.get(label, str(label)) for label in range(max(names) + 1))
  return ()


def attends(model: nn.Module) -> bool:
  """Returns whether a model has attention of tokens on a grid to look at."""
  return getattr(model, 'attends', False)
