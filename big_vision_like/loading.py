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

from big_vision_like import checkpoint, experiment, spec
from big_vision_like.data import coco, preprocessing
from big_vision_like.data.preprocessing import DetectionPreprocessing, Preprocessing
from big_vision_like.data.source import fixed_size
from big_vision_like.data.transforms import boxes, image
from big_vision_like.errors import UserError
from big_vision_like.evals import detection as detection_evals
from big_vision_like.evals import panoptic
from big_vision_like.metrics import say
from big_vision_like.models import bit, detr, resnet, vit
from big_vision_like.ops import positions
from big_vision_like.tasks import classification, detection
from big_vision_like.tasks.task import Network, State, Task
from big_vision_like.weights import published

MODELS = {
  'vit': vit.ViT,
  'bit': bit.BiT,
  'bit_v1': bit.BiTv1,
  'resnet': resnet.ResNet,
  'detr': detr.DETR,
}
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
  plain = spec.in_steps(config, experiment.NOMINAL_EPOCH, 1)
  step, saved = checkpoint.load(workdir, step)
  state = State(step=jax.numpy.int32(step), opt_state=None, **saved)
  return LoadedRun(workdir, config, spec.build(plain['task'], 'config.task'), state)


def load(
  path: str | os.PathLike,
  image_size: int | Sequence[int] | None = None,
  step: int | None = None,
) -> tuple[nn.Module, Variables, Prepare]:
  """A model, its variables, and what makes its input of a picture.

      model, variables, preprocess = big_vision_like.load('weights/B_16.npz')
      logits = model.apply(variables, preprocess('cat.jpg')[None])['logits'][0]
      print(preprocess.top(logits))

  and of one that finds objects

      image, size, original_size = preprocess('street.jpg')
      outputs = model.apply(variables, image[None], size[None])
      print(preprocess.objects(outputs, original_size))

  `path` is a file of weights (`weights.published`), a folder with one, or that of a run
  (`step`: of a checkpoint that is not the newest). `image_size` (a side, or height and
  width) resizes learned positions to images of another size; where objects are found,
  it is the shorter side.
  """
  path = pathlib.Path(path)
  made = of_run(path, step) if checkpoint.steps(path) else of_file(path, step)
  model, variables, preprocess = made
  if image_size is not None:
    before, preprocess = preprocess, preprocess.with_size(image_size)
    if attends(model):
      params = resized(model, variables['params'], before.size, preprocess.size)
      variables = variables | {'params': params}
  return model, jax.device_put(variables), preprocess


def of_file(
  path: pathlib.Path, step: int | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  """The same of published weights; prints what had to be assumed."""
  if step is not None:
    raise UserError(f'{path} is no run: it has no checkpoint of step {step}')
  weights = published.read(path)
  for text in weights.assumed:
    say('assumed', text)
  params = dict(weights.params)
  if not weights.num_classes and weights.family != 'resnet':
    # The model has a head all the same, with no outputs.
    params['head'] = {
      'kernel': np.zeros((_width(weights), 0), np.float32),
      'bias': np.zeros(0, np.float32),
    }
  variables = weights.variables | {'params': params}
  return model_of(weights), variables, preprocessing_of_file(weights, path)


def model_of(weights: published.Published) -> nn.Module:
  """The model that published weights are of."""
  arguments = dict(weights.architecture)
  if 'backbone' in arguments:
    arguments['backbone'] = resnet.ResNet(**arguments['backbone'])
  return MODELS[weights.family](num_classes=weights.num_classes, **arguments)


def preprocessing_of_file(weights: published.Published, path: pathlib.Path) -> Prepare:
  """What published weights that were read from `path` say of images."""
  model = model_of(weights)
  return preprocessing.of_weights(
    weights.metadata,
    path.stem,
    positions_size(model, weights.params) if attends(model) else None,
    weights.num_classes,
    weights.channels,
    weights.family,
  )


def of_run(
  path: pathlib.Path, step: int | None = None
) -> tuple[nn.Module, Variables, Prepare]:
  """The same of a run that classifies images, or finds objects in them."""
  run = load_run(path, step)
  if isinstance(run.task, classification.Classification):
    preprocess = preprocessing_of(run)
  elif isinstance(run.task, detection.Detection):
    preprocess = detection_preprocessing_of(run)
  else:
    raise UserError(
      f'{path} is a run of {type(run.task).__name__}: load() is for Classification and'
      ' Detection'
    )
  variables = {'params': run.params, **run.state.mutable}
  return run.task.model, variables, preprocess


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
    size = image_size or positions_size(run.task.model, run.params)
    size = size or _first_size(node, decode)
  mean, std = _normalization(run.task, decode.channels)
  return Preprocessing(
    size=size,
    resize=resize,
    interpolation=method,
    rounding=rounding,
    mean=mean,
    std=std,
    label_names=_label_names(run.config, run.task.model.num_classes),
    scores=run.task.loss_type,
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
  mean, std = _normalization(run.task, decode.channels)
  things = [
    node['num_things']
    for _, node in spec.calls(run.config.get('evals', {}))
    if spec.symbol(node) is panoptic.PanopticQuality
  ]
  return DetectionPreprocessing(
    **sizing,
    mean=mean,
    std=std,
    label_names=_object_names(run.config, rest, run.task.model.num_classes),
    num_things=things[0] if things else None,
    source=f'{run.workdir}, step {int(run.state.step):,}',
  )


def encoded_images(config: Mapping[str, Any]) -> Mapping[str, Any]:
  """The first input of a config, of its evaluators if possible, that decodes images."""
  for nodes in (config.get('evals', {}), config.get('train_data', {})):
    for _, node in spec.calls(nodes):
      if decodes(node):
        return node
  raise UserError('no input of the config decodes images: they start with image.Decode')


def decodes(node: Mapping[str, Any]) -> bool:
  """Whether a recorded call is an input whose first transform decodes."""
  steps = node.get('transforms') or ()
  return bool(steps) and spec.symbol(steps[0]) in (image.Decode, image.DecodeCrop)


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


def grid_of(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
  """Rows and columns of a ViT's tokens, of images of this height and width."""
  rows, columns = (-(-side // _trunk_stride(model)) for side in size)
  patch = _two(model.patch)
  return rows // patch[0], columns // patch[1]


def stride(model: nn.Module) -> tuple[int, int]:
  """Pixels of one token of a ViT, down and across."""
  trunk, patch = _trunk_stride(model), _two(model.patch)
  return trunk * patch[0], trunk * patch[1]


def positions_size(
  model: nn.Module, params: Mapping[str, Any]
) -> tuple[int, int] | None:
  """Height and width of the images that learned positions are for.

  None where there are no such positions, or their grid is not square.
  """
  if 'pos_embedding' not in params:
    return None
  count = params['pos_embedding'].shape[1] - int('cls' in params)
  side = round(count**0.5)
  if side**2 != count:
    return None
  height, width = stride(model)
  return side * height, side * width


def resized(
  model: nn.Module,
  params: Mapping[str, Any],
  before: tuple[int, int],
  after: tuple[int, int],
) -> dict[str, Any]:
  """The same with learned positions, if any, for images of another height and width."""
  grid_from, grid_to = (
    grid_of(model, size) for size in (positions_size(model, params) or before, after)
  )
  if 'relative_keys' in params and grid_from != grid_to:
    raise UserError('relative positions are not resized')
  if 'pos_rows' in params:
    tables = {
      name: positions.resize(params[name], (size_from, 1), (size_to, 1))
      for name, size_from, size_to in zip(
        ('pos_rows', 'pos_columns'), grid_from, grid_to, strict=True
      )
    }
    return dict(params) | tables
  if 'pos_embedding' not in params:
    return dict(params)
  table_LND, prefix = np.asarray(params['pos_embedding']), int('cls' in params)
  fits = [table_LND.shape[1] == prefix + g[0] * g[1] for g in (grid_from, grid_to)]
  if fits == [False, True]:  # positions of no square grid: that of these images
    return dict(params)
  if table_LND.shape[1] != prefix + grid_from[0] * grid_from[1]:
    raise UserError(
      f'{table_LND.shape[1]} positions are not those of images of'
      f' {before[0]}x{before[1]}, which make a grid of {grid_from[0]}x{grid_from[1]}'
    )
  table_LND = positions.resize(table_LND, grid_from, grid_to, prefix)
  return dict(params) | {'pos_embedding': table_LND}


def attends(model: nn.Module) -> bool:
  """Whether there is attention of tokens on a grid to look at."""
  return isinstance(model, vit.ViT)


def _width(weights: published.Published) -> int:
  """Of what a head would read."""
  architecture = weights.architecture
  if weights.family == 'vit':
    return architecture['rep_size'] or architecture['width']
  return int(64 * architecture['width']) * 2 ** (len(architecture['depths']) + 1)


def _trunk_stride(model: nn.Module) -> int:
  """Of the ResNet of a hybrid: its root has 4, each stage after the first 2."""
  resnet = model.resnet
  return 1 if resnet is None else 4 * 2 ** max(len(resnet) - 1, 0)


def _first_size(node: Mapping[str, Any], decode: image.Decode) -> tuple[int, int]:
  source = spec.build(node['source'], 'source')
  return decode.map(source[0])['image'].shape[:2]


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
  if ids and ids[0] in (coco.IDS, coco.PANOPTIC_IDS):
    return coco.class_names(num_classes)
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


def _normalization(task: Task, channels: int) -> list[tuple[float, ...]]:
  """Mean and deviation of each channel."""
  return [tuple(np.broadcast_to(x, channels).tolist()) for x in (task.mean, task.std)]


def _two(size: int | Sequence[int]) -> tuple[int, int]:
  return (size, size) if isinstance(size, int) else (size[0], size[1])
