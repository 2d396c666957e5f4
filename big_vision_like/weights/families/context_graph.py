"""Published models of actors with a context graph, arXiv:2107.13648, and baselines."""

from collections.abc import Mapping
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference.actions import ActorPreprocessing
from big_vision_like.models import context_graph as models
from big_vision_like.models import i3d as i3d_models
from big_vision_like.weights import acgcn_names, family, tree
from big_vision_like.weights.beside import Beside


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of `context_graph.published`, from shapes of variables."""
  return acgcn_names.architecture(tree.flatten(variables), source)


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays in the names of micts/acgcn."""
  return family.Read(tree.unflatten(acgcn_names.read(arrays)))


def written(weights: Any) -> family.Arrays:
  """Returns the arrays of micts/acgcn."""
  return acgcn_names.written(tree.flatten(weights.variables))


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> ActorPreprocessing:
  """Returns the published preprocessing: clips in [-1, 1], classes of DALY."""
  half = (0.5,) * channels
  names = DALY if num_classes == len(DALY) else ()
  return ActorPreprocessing(
    mean=half, std=half, label_names=names, source='as published by micts/acgcn'
  )


def check(model: models.ActorModel, source: str) -> None:
  """Raises for a model that no file holds."""
  kinds = i3d_models.I3D, models.InceptionActor
  if not all(map(isinstance, (model.backbone, model.actor), kinds)):
    raise UserError(
      f'{source}: files hold models with an I3D as backbone, and its last layers for'
      ' actors'
    )
  same = models.published(model.num_classes)
  for name in ('endpoint', 'pool', 'side'):
    if getattr(model, name) != getattr(same, name):
      raise UserError(
        f'{source}: {name}={getattr(model, name)!r}, but no file can record another'
        f' value than {getattr(same, name)!r}'
      )


DALY = (
  *('Background', 'ApplyingMakeUpOnLips', 'BrushingTeeth', 'CleaningFloor'),
  *('CleaningWindows', 'Drinking', 'FoldingTextile', 'Ironing', 'Phoning'),
  *('PlayingHarmonica', 'TakingPhotosOrVideos'),
)
FAMILY = family.Family(
  name='context_graph',
  model=models.ActorModel,
  sources=(
    family.Source(
      name='micts/acgcn',
      suffixes=family.TORCH,
      differences=acgcn_names.differences,
      read=read,
      writes={'published': written},
      config=family.no_config,
    ),
  ),
  describe=describe,
  build=models.published,
  images=images,
  stem=('backbone/conv_1a/conv',),
  check=check,
)
