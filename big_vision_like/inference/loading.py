"""Loading a model with its variables and preprocessing, from weights or a run."""

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

# No model is for images with a side longer than this.
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
    """The first network of the task, which is usually the wanted one."""
    return next(iter(self.task.networks().values()))

  @property
  def variables(self) -> Variables:
    """The variables of that network that predictions use."""
    return self.network.variables(self.state)

  @property
  def params(self) -> Any:
    """The parameters of that network."""
    return self.variables['params']


def load_run(
  workdir: str | pathlib.Path, step: int | None = None, config: mlc.ConfigDict = None
) -> LoadedRun:
  """Loads the parts of a run that prediction needs: task, weights and statistics."""
  workdir = pathlib.Path(workdir)
  if config is None:
    file = workdir / 'config.json'
    if not file.is_file():
      raise UserError(
        f'{workdir} has no config.json, which records the model of a run: restore it'
      )
    config = spec.load(str(file), root=experiment.Settings)
  # Schedules are built but not used: any epoch length works.
  plain = spec.in_steps(config)
  step, saved = checkpoint.load(workdir, step)
  state = State(step=jax.numpy.int32(step), opt_state=None, **saved)
  return LoadedRun(workdir, config, spec.build(plain['task'], 'config.task'), state)


def frozen(run: LoadedRun, batch: Mapping[str, Any]) -> dict[str, Any]:
  """Reads the networks that a run does not train, such as its teacher, by name.

  The run's config names their location. `batch` holds shapes and types of a batch.
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
  """Returns a model, its variables, and the preprocessing of its input.

      model, variables, preprocess = big_vision_like.load('weights/B_16.npz')
      logits = model.apply(variables, preprocess('cat.jpg')[None])['logits'][0]
      print(preprocess.top(logits))

  For a model that finds objects:

      image, size, original_size = preprocess('street.jpg')
      outputs = model.apply(variables, image[None], size[None])
      print(preprocess.objects(outputs, original_size))

  `path` is a weights file (`weights.published`), a folder with one, or the folder of a
  run (`step`: a checkpoint other than the newest). `image_size` (a side, or height and
  width) resizes learned positions, and the windows of a Swin, to images of another
  size; for detectors it is the shorter side. `source_grid` (rows, columns) is the grid
  that the positions are for, if the run or the files stored with the weights do not
  record it.
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
    help='the grid of tokens that learned positions are for, if no file records it',
  )


def _grid_of(text: str) -> Grid:
  match = re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', text)
  if match is None:
    raise argparse.ArgumentTypeError(f'{text} is not rows and columns, like 14x14')
  return int(match[1]), int(match[2])


def _read(path: pathlib.Path, step: int | None) -> published.Published:
  provenance.check_no_run(path)
  if step is not None:
    raise UserError(f'{path} is not a run: it has no checkpoint of step {step}')
  weights = published.read(path)
  for text in weights.assumed:
    say('assumed', text)
  return weights


def _of_file(
  weights: published.Published, path: pathlib.Path, source_grid: Grid | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  params, features = dict(weights.params), weights.family.features
  if not weights.num_classes and features is not None:
    # The model has a head anyway, with no outputs.
    params['head'] = {
      'kernel': np.zeros((features(weights.architecture), 0), np.float32),
      'bias': np.zeros(0, np.float32),
    }
  variables = weights.variables | {'params': params}
  return weights.model, variables, preprocessing_of_file(weights, path, source_grid)


def preprocessing_of(
  run: LoadedRun, image_size: tuple[int, int] | None = None
) -> Prepare:
  """Returns the preprocessing that a run uses in evaluation.

  It comes from the module of this folder named after what the task predicts.
  `image_size` is the height and width of images of one size, if no transform determines
  it.
  """
  kinds = {info.name for info in pkgutil.iter_modules([pathlib.Path(__file__).parent])}
  kind = run.task.predicts
  if kind not in kinds:
    raise UserError(
      f'{run.workdir} is a run of {type(run.task).__name__}: load() is for tasks whose'
      f' predictions have a module in big_vision_like/inference, not {kind!r}'
    )
  return importlib.import_module(f'{__package__}.{kind}').of_run(run, image_size)


def _model_for(model: nn.Module, size: tuple[int, int]) -> nn.Module:
  """Returns the model for images of this size; prints which arguments change."""
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
  """Resizes all tables in the variables for the images that `preprocess` makes."""
  if not getattr(model, 'resizes', None):
    return variables
  image = jax.ShapeDtypeStruct((1, *preprocess.input_shape), np.float32)
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
  """Returns the preprocessing of published weights that were read from `path`."""
  return weights.images(path.stem, published_size(weights, source_grid))


def published_size(
  weights: published.Published, source_grid: Grid | None = None
) -> tuple[int, int] | None:
  """Returns height and width of the images that learned positions are for.

  Returns None without such positions. If no file records their grid, it is a square.
  """
  model = weights.model
  count, grid = provenance.table_grid(model, weights.variables)
  if count is None and grid is None:
    return None
  grid = provenance.published_grid(weights, source_grid)
  if grid is None:
    positions.infer_grid(count, (1, 1))  # its error names the argument of `load`
    grid = provenance.square(count)
  return grid[0] * model.stride[0], grid[1] * model.stride[1]


def encoded_images(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """Returns the first input that decodes images, from evaluators if possible."""
  for nodes in (config.get('evals', {}), config.get('train_data', {})):
    for _, node in spec.calls(nodes):
      if provenance.decodes(node):
        return node
  raise UserError('no input of the config decodes images: they start with image.Decode')


def trained_names(run: LoadedRun, kind: str) -> tuple[str, ...]:
  """Returns `label_names` or `category_names` of the data that a run trained on.

  They come from the run. For an old run that stored none, they are read from its
  training data, which is reported, and are empty if the number of classes differs from
  the data's. Labels without a name are called by their number.
  """
  classes, stored = run.task.num_classes, learned.read(run.workdir) is not None
  for known in learned.known(run.workdir).values():
    names = known.names.get(learned.FIELDS[kind])
    if names and classes and max(names) < classes and (stored or len(names) == classes):
      return tuple(names.get(label, str(label)) for label in range(max(names) + 1))
  return ()


def attends(model: nn.Module) -> bool:
  """Returns whether a model has attention over a grid of tokens to visualize."""
  return getattr(model, 'attends', False)
