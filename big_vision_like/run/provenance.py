"""Provenance of weights: their model, and the images it was trained on.

The grid of a model's tables follows from the size of these images. It is derived from
the number of tokens alone only if no other record exists.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from big_vision_like import spec
from big_vision_like.data.transforms import image
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, shape_text
from big_vision_like.files import read_fields
from big_vision_like.ops.positions import GIVE_GRID, Grid
from big_vision_like.run import checkpoint, learned
from big_vision_like.weights import beside, published

# Transforms that give images their `size`, and others that change sizes.
SIZED = (
  image.Resize,
  image.InceptionCrop,
  image.EfficientNetCrop,
  image.RandomResizedCrop,
  image.CentralCrop,
  image.EfficientNetCentralCrop,
  image.RandomCrop,
)
UNSIZED = (image.ResizeSmall, image.ReflectPad, image.ZeroPad)
# Arguments of models about how they are trained and computed, and about the classes of
# a head, which is usually replaced.
UNSEEN = (
  'parent',
  'name',
  'momentum',
  'scan',
  'remat',
  'dtype',
  'dropout',
  'drop_path',
  'head_bias',
  'layer_scale',
  'frozen_stages',
  'norm_groups',
  'num_classes',
)


def check_no_run(path: str | os.PathLike) -> None:
  """Raises if a folder is a run without a checkpoint, rather than one of weights."""
  config = pathlib.Path(path) / 'config.json'
  started = (pathlib.Path(path) / 'checkpoints').is_dir()
  if not started and config.is_file():
    started = {'task', 'train_data'} <= read_fields(config).keys()
  if started and not checkpoint.steps(path):
    raise UserError(
      f'{path} is the folder of a run without a checkpoint: it was stopped before its'
      ' first one; train it further, or name other weights'
    )


def published_grid(
  weights: published.Published, source_grid: Grid | None = None
) -> Grid | None:
  """Returns the position grid of published weights, None if unknown.

  The image size comes from the JSON files stored with the weights, or else the grid
  from `source_grid` (rows, columns). Raises if no size recorded in the files matches
  the number of tokens.
  """
  model = weights.model
  if not hasattr(model, 'grid'):
    return None
  count, grid = table_grid(model, weights.variables)
  if grid is not None:
    return chosen_grid(grid, source_grid)
  sizes = beside.told_sizes(weights.metadata)
  grids = [model.grid(size) for size in sizes]
  for grid in grids:
    if count in (None, math.prod(grid)):
      return chosen_grid(grid, source_grid)
  if source_grid is not None or not grids:
    return chosen_grid(None, source_grid)
  (height, width), (rows, columns) = sizes[0], grids[0]
  raise UserError(
    f'the JSON files of the weights record images of {height}x{width}, a grid of'
    f' {rows}x{columns}, but there are {count} positions: give their grid, {GIVE_GRID}'
  )


def chosen_grid(known: Grid | None, source_grid: Grid | None) -> Grid | None:
  """Returns the grid that the user gives, or else the known one.

  Raises if the two differ but have the same number of tokens: positions would be
  resized from the wrong grid.
  """
  if source_grid is None:
    return known
  given = tuple(source_grid)
  if known is not None and known != given and math.prod(known) == math.prod(given):
    raise UserError(
      f'source_grid={given}, but the weights are for a grid of {known[0]}x{known[1]}:'
      ' leave it out'
    )
  return given


def table_grid(
  model: nn.Module, variables: Mapping[str, Any]
) -> tuple[int | None, Grid | None]:
  """Returns `model.table_grid`, or (None, None) for models without a grid."""
  return model.table_grid(variables) if hasattr(model, 'grid') else (None, None)


def architecture(model: nn.Module) -> dict[str, Any]:
  """Returns the arguments of a model that affect its predictions, by flat name.

  Arguments of a nested module follow the name of the argument that holds it.
  """
  found: dict[str, Any] = {}
  for field in dataclasses.fields(model):
    value = getattr(model, field.name)
    if field.name in UNSEEN:
      continue
    if isinstance(value, nn.Module):
      inner = architecture(value)
      found |= {f'{field.name}/{name}': each for name, each in inner.items()}
    else:
      found[field.name] = value
  return found


def differences(
  theirs: Mapping[str, Any], ours: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
  """Returns the pairs of values in which two architectures differ, by name.

  Arguments that only one of them has are ignored.
  """
  pairs = {name: (theirs[name], ours[name]) for name in theirs if name in ours}
  return {
    name: (one, other)
    for name, (one, other) in pairs.items()
    if name not in UNSEEN and _plain(one) != _plain(other)
  }


def _plain(value: Any) -> Any:
  """Converts lists, which JSON configs have, to tuples."""
  return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def square(count: int) -> Grid:
  """Returns a square grid for positions of unknown grid, and reports the assumption."""
  side = math.isqrt(count)
  if side**2 != count:
    raise UserError(
      f'{count} positions do not form a square: give the size of their images with'
      ' --image-size HEIGHT WIDTH, or their grid with --source-grid ROWSxCOLUMNS'
    )
  say('grid', f'{side}x{side} tokens: a square, as no other grid is recorded')
  return side, side


def run_grid(
  config: Mapping[str, Any],
  model: nn.Module,
  workdir: str | os.PathLike,
  network: str = '',
) -> Grid | None:
  """Returns the grid of a run's model; None if it has none, or it is unknown.

  `network` is the name of the model among the networks of the task.
  """
  if not hasattr(model, 'grid'):
    return None
  size = run_size(config, workdir, network)
  return None if size is None else model.grid(size)


def run_size(
  config: Mapping[str, Any], workdir: str | os.PathLike, network: str = ''
) -> tuple[int, int] | None:
  """Returns the height and width of a run's training images, as the run stored them.

  If the run stored no size, it comes from the config.
  """
  facts = learned.read(workdir)
  size = None if facts is None else learned.image_size(facts, network)
  return size or trained_size(config)


def check_evaluated(
  config: Mapping[str, Any], model: nn.Module, variables: Mapping[str, Any], grid: Grid
) -> None:
  """Raises if an evaluator's images make a different grid with equally many tokens.

  The learned positions of the model are for `grid`; no shape shows the difference.
  """
  count, _ = table_grid(model, variables)
  for name, node in spec.calls(config.get('evals', {}), 'config.evals'):
    size = made_size(node) if count and decodes(node) else None
    theirs = size and model.grid(size)
    if theirs and theirs != grid and math.prod(theirs) == math.prod(grid):
      raise UserError(
        f'{name} has images of {shape_text(size)}, a grid of {shape_text(theirs)}'
        f' tokens, but the positions of the model are for {shape_text(grid)}: change'
        ' their size, or load weights with --image-size or --source-grid'
      )


def trained_size(config: Mapping[str, Any]) -> tuple[int, int] | None:
  """Returns the height and width of a config's training images, None if unknown.

  The size comes from the transforms, or else from the first image of the data, if the
  data exist.
  """
  nodes = [node for _, node in spec.calls(config.get('train_data', {}))]
  node = next(filter(decodes, nodes), None)
  return None if node is None else made_size(node)


def made_size(node: Mapping[str, Any]) -> tuple[int, int] | None:
  """Returns the height and width of a recorded input's images, None if unknown."""
  size, untouched = None, True
  for step in node['transforms']:
    kind = spec.symbol(step)
    if kind is image.DecodeCrop:
      size = spec.held(step['crop'], 'size')
    elif kind in SIZED:
      size = spec.held(step, 'size')
    elif kind in UNSIZED:
      size = None
    untouched = untouched and size is None and kind not in UNSIZED
  if not untouched:
    return beside.size_of(size)
  try:
    return first_size(node)
  except (UserError, OSError):  # the data have been moved
    return None


def decodes(node: Mapping[str, Any]) -> bool:
  """Returns whether a recorded call is an input whose first transform decodes."""
  steps = node.get('transforms') or ()
  return bool(steps) and spec.symbol(steps[0]) in (image.Decode, image.DecodeCrop)


def first_size(node: Mapping[str, Any]) -> tuple[int, int]:
  """Returns height and width of the first image of a recorded input that decodes."""
  source = spec.build(node['source'], 'source')
  decode = spec.build(node['transforms'][0], 'transforms[0]')
  return decode.map(source[0])['image'].shape[:2]
