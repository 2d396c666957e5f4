"""Published VGGs without batch norm, arXiv:1409.1556, in torchvision's files."""

from functools import partial
from typing import Any

from big_vision_like.inference import hub_json
from big_vision_like.models import vgg
from big_vision_like.weights import family, tree
from big_vision_like.weights import vgg as names
from big_vision_like.weights.families import resnet


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `VGG`, from the shapes of its parameters."""
  found = names.architecture(tree.flatten(variables['params']), source)
  return {'hidden': vgg.VGG.hidden} | found


FAMILY = family.Family(
  name='vgg',
  model=vgg.VGG,
  sources=(
    family.Source(
      name='torchvision VGG',
      suffixes=family.TORCH,
      differences=names.differences,
      read=family.of_params(names.from_torchvision),
      writes={'torchvision': family.to_params(names.to_torchvision)},
      config=family.no_config,
    ),
  ),
  describe=describe,
  images=partial(hub_json.classifier_images, published=resnet.as_torchvision),
  stem=('stage1_conv1',),
  backbone=True,
)
