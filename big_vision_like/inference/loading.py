"""A model with its parameters and its preprocessing, of published weights or a run."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections as mlc
import numpy as np

from big_vision_like import spec
from big_vision_like.data.sources import coco_classes
from big_vision_like.data.sources.base import fixed_size
from big_vision_like.data.transforms import boxes, image
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.evals import detection as detection_evals
from big_vision_like.evals import panoptic
from big_vision_like.inference import preprocessing
from big_vision_like.inference.preprocessing import (
  DetectionPreprocessing,
  Preprocessing,
)
from big_vision_like.ops import positions
from big_vision_like.ops.positions import Grid
from big_vision_like.run import checkpoint, experiment, init_from, provenance
from big_vision_like.tasks.task import Network, State, Task
from big_vision_like.weights import published

# What changes the sizes of pictures by chance, or whatever their aspect ratio.
RESHAPING = (
  *preprocessing.SIZING,
  boxes.RandomResizeShort,
  boxes.RandomSizeCrop,
  boxes.Either,
)

Variables = dict[str, Any]
# From pictures to what a model takes, of one that classifies them or finds objects.
Prepare = Preprocessing | DetectionPreprocessing


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
    config = spec.load(str(workdir / 'config.json'), root=experiment.Settings)
  # Schedules are built and not used: any length of an epoch does.
  plain = spec.in_steps(config)
  step, saved = checkpoint.load(workdir, step)
  state = State(step=jax.numpy.int32(step), opt_state=None, **saved)
  return LoadedRun(workdir, config, spec.build(plain['task'], 'config.task'), state)


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
  height and width) resizes learned positions to images of another size; for detectors
  it is the shorter side. `source_grid` (rows, columns) is the grid that these positions
  are for, if the run or the files beside the weights do not tell it.
  """
  path = pathlib.Path(path)
  if checkpoint.steps(path):
    run = load_run(path, step)
    model, variables, preprocess = _of_run(run)
    grid = provenance.chosen_grid(provenance.run_grid(run.config, model), source_grid)
  else:
    found = _read(path, step)
    model, variables, preprocess = _of_file(found, path, source_grid)
    grid = provenance.published_grid(found, source_grid)
  if image_size is not None:
    preprocess = preprocess.with_size(image_size)
    variables = _for_size(model, variables, grid, preprocess)
  return model, jax.device_put(variables), preprocess


def of_file(
  path: pathlib.Path, step: int | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  """Loads published weights, see `load`; prints what had to be assumed."""
  return _of_file(_read(path, step), path)


def of_run(
  path: pathlib.Path, step: int | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  """Loads a run that classifies images or finds objects in them, see `load`."""
  return _of_run(load_run(path, step))


def _read(path: pathlib.Path, step: int | None) -> published.Published:
  if step is not None:
    raise UserError(f'{path} is no run: it has no checkpoint of step {step}')
  weights = published.read(path)
  for text in weights.assumed:
    say('assumed', text)
  return weights


def _of_file(
  weights: published.Published, path: pathlib.Path, source_grid: Grid | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  params = dict(weights.params)
  if not weights.num_classes and weights.family != 'resnet':
    # The model has a head all the same, with no outputs.
    params['head'] = {
      'kernel': np.zeros((_width(weights), 0), np.float32),
      'bias': np.zeros(0, np.float32),
    }
  variables = weights.variables | {'params': params}
  preprocess = preprocessing_of_file(weights, path, source_grid)
  return provenance.model_of(weights), variables, preprocess


def _of_run(run: LoadedRun) -> tuple[nn.Module, Variables, Prepare]:
  if run.task.predicts not in PREPROCESSING:
    raise UserError(
      f'{run.workdir} is a run of {type(run.task).__name__}: load() is for tasks that'
      f' predict {" or ".join(PREPROCESSING)}'
    )
  preprocess = PREPROCESSING[run.task.predicts](run)
  return run.network.module, run.variables, preprocess


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
  tokens = provenance.num_positions(variables['params'])
  weights = init_from.Weights(variables, grid=grid, tokens=tokens)
  return init_from.complete(weights, like, *init_from.tables_of(model, image))


def preprocessing_of_file(
  weights: published.Published, path: pathlib.Path, source_grid: Grid | None = None
) -> Prepare:
  """Returns what published weights that were read from `path` say of images."""
  return preprocessing.of_weights(
    weights.metadata,
    path.stem,
    published_size(weights, source_grid),
    weights.num_classes,
    weights.channels,
    weights.family,
  )


def published_size(
  weights: published.Published, source_grid: Grid | None = None
) -> tuple[int, int] | None:
  """Returns height and width of the images that learned positions are for.

  None without such positions. If nothing tells their grid, it is a square.
  """
  model, count = provenance.model_of(weights), provenance.num_positions(weights.params)
  grid = provenance.published_grid(weights, source_grid)
  if grid is None and count is not None:
    grid = positions.infer_grid(count, (1, 1))
  if grid is None or not weights.architecture.get('posemb', '').startswith('learned'):
    return None
  return grid[0] * model.stride[0], grid[1] * model.stride[1]


def preprocessing_of(
  run: LoadedRun, image_size: tuple[int, int] | None = None
) -> Preprocessing:
  """What a run that classifies images does with them when it evaluates.

  `image_size` is their height and width, where no transform makes them so.
  """
  node = encoded_images(run.config)
  decode, *rest = [spec.build(n, 'transforms') for n in node['transforms']]
  size, resize, method, rounding = sizing(rest)
  if size is None:
    size = image_size or provenance.trained_size(run.config)
    size = size or provenance.first_size(node)
  mean, std = _normalization(run.network, decode.channels)
  return Preprocessing(
    size=size,
    resize=resize,
    interpolation=method,
    rounding=rounding,
    mean=mean,
    std=std,
    label_names=_label_names(run.config, run.task.num_classes),
    scores=spec.held(run.config['task'], 'loss_type') or Preprocessing.scores,
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


def detection_preprocessing_of(run: LoadedRun) -> DetectionPreprocessing:
  """What a run that finds objects does with images when it evaluates."""
  node = encoded_images(run.config)
  decode, *rest = [spec.build(n, 'transforms') for n in node['transforms']]
  sizing = detection_sizing(rest)
  if sizing.keys() == {'shapes'} and sizing['shapes'] == (_shape(node['source']),):
    # Nothing was ever padded, so nothing is to be.
    sizing = {'size': sizing['shapes'][0]}
  mean, std = _normalization(run.network, decode.channels)
  things = [
    node['num_things']
    for _, node in spec.calls(run.config.get('evals', {}))
    if spec.symbol(node) is panoptic.PanopticQuality
  ]
  return DetectionPreprocessing(
    **sizing,
    mean=mean,
    std=std,
    label_names=_object_names(run.config, rest, run.task.num_classes),
    num_things=things[0] if things else None,
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


# What prepares pictures, by what a task predicts.
PREPROCESSING = {'classes': preprocessing_of, 'objects': detection_preprocessing_of}


def encoded_images(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """The first input of a config, of its evaluators if possible, that decodes images."""
  for nodes in (config.get('evals', {}), config.get('train_data', {})):
    for _, node in spec.calls(nodes):
      if provenance.decodes(node):
        return node
  raise UserError('no input of the config decodes images: they start with image.Decode')


def sizing(
  steps: Sequence[Any],
) -> tuple[tuple[int, int] | None, str | int | tuple[int, int], str, tuple[str, str]]:
  """`size`, `resize`, `interpolation` and `rounding` that these transforms come to.

  Other transforms are the data set's business, or training's. Without any that size
  images, `size` is None.
  """
  found = [step for step in steps if isinstance(step, preprocessing.SIZING)]
  kinds = [type(step) for step in found]
  rounding = Preprocessing.rounding
  if not kinds:
    return None, 'squash', 'bilinear', rounding
  if kinds == [image.Resize]:
    return _two(found[0].size), 'squash', found[0].method, rounding
  first, last = found[0], found[-1]
  if kinds == [image.Resize, image.CentralCrop]:
    rounding = (rounding[0], last.rounding)
    return _two(last.size), _two(first.size), first.method, rounding
  if kinds == [image.ResizeSmall, image.CentralCrop]:
    rounding = (first.rounding, last.rounding)
    return _two(last.size), first.size, first.method, rounding
  names = ', '.join(kind.__name__ for kind in kinds)
  raise UserError(
    f'images of one size come of Resize, or of Resize or ResizeSmall and CentralCrop,'
    f' not of {names}'
  )


def detection_sizing(steps: Sequence[Any]) -> dict[str, Any]:
  """`short`, `longest` and `shapes` that these transforms come to."""
  found: dict[str, Any] = {}
  for step in steps:
    if isinstance(step, RESHAPING):
      raise UserError(
        'pictures to find objects in are resized by ResizeShort and padded by Pad, not'
        f' by {type(step).__name__}: take a config whose evaluators do so'
      )
    if isinstance(step, boxes.ResizeShort):
      found |= {'short': step.size, 'longest': step.longest}
    if isinstance(step, boxes.Pad):
      found['shapes'] = tuple(tuple(shape) for shape in step.sizes)
  return found


def attends(model: nn.Module) -> bool:
  """Returns whether a model has attention of tokens on a grid to look at."""
  return getattr(model, 'attends', False)


def _width(weights: published.Published) -> int:
  """Of what a head would read."""
  architecture = weights.architecture
  if weights.family == 'vit':
    return architecture['rep_size'] or architecture['width']
  return int(64 * architecture['width']) * 2 ** (len(architecture['depths']) + 1)


def _label_names(config: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
  """Of the data trained on, where they are prepared and as many as classes."""
  try:
    source = spec.build(config['train_data']['source'], 'config.train_data.source')
    names = source.label_names
  except UserError:
    return ()
  return tuple(names) if names and len(names) == num_classes else ()


def _object_names(
  config: Mapping[str, Any], steps: Sequence[Any], num_classes: int
) -> tuple[str, ...]:
  """Those that evaluators show, else COCO's or the data set's."""
  for _, node in spec.calls(config.get('evals', {})):
    if spec.symbol(node) is detection_evals.CocoAP and spec.held(node, 'names'):
      return tuple(node['names'])
  kinds = boxes.Objects, boxes.Panoptic
  ids = [tuple(step.ids) for step in steps if isinstance(step, kinds) and step.ids]
  if ids and ids[0] in (coco_classes.IDS, coco_classes.PANOPTIC_IDS):
    return coco_classes.class_names(num_classes)
  if ids:
    return ()
  try:
    source = spec.build(config['train_data']['source'], 'config.train_data.source')
    names = source.category_names
  except UserError:
    return ()
  return tuple(names) if len(names) == num_classes else ()


def _shape(node: Mapping[str, Any]) -> tuple[int, int] | None:
  """Height and width of all images of a data set, where its description says them."""
  try:
    return fixed_size(spec.build(node, 'source').features)
  except UserError:
    return None


def _normalization(network: Network, channels: int) -> list[tuple[float, ...]]:
  """Mean and deviation of each channel."""
  return [tuple(np.broadcast_to(x, channels).tolist()) for x in network.images]


def _two(size: int | Sequence[int]) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else (size[0], size[1])
