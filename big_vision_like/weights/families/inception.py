"""Published weights of FID's Inception (`pt_inception-2015-12-05-6726825d.pth`)."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.inference import hub_json
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import inception
from big_vision_like.weights import family, tree
from big_vision_like.weights import inception as names
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.resnet_names import Shapes, wrong_shapes


def places() -> list[str]:
  """Returns the names of all convolutions of our model."""
  return [place for place, *_ in convolutions(1.0, 3)]


def convolutions(
  width: float, channels: int
) -> Iterator[tuple[str, inception.Conv, int]]:
  """Yields the name of each convolution, the convolution, and its input channels."""
  before = channels
  for name, conv in inception.STEM.items():
    if conv is not None:
      conv = inception.scaled(conv, width)
      yield name, conv, before
      before = conv.channels
  for name, block in inception.BLOCKS.items():
    after = 0
    for branch in block.branches:
      inner, ends = before, []
      for own, conv in branch.items():
        conv = inception.scaled(conv, width)
        yield f'{name}/{own}', conv, inner
        if own.endswith(('a', 'b')):
          ends.append(conv.channels)
        else:
          inner = conv.channels
      after += sum(ends) or inner
    if block.pooled:
      conv = inception.scaled(inception.Conv(block.pooled), width)
      yield f'{name}/branch_pool', conv, before
      after += conv.channels
    else:
      after += before
    before = after


def shapes(width: float, channels: int) -> Shapes:
  """Returns names and shapes of all variables except the head's."""
  want: Shapes = {}
  for place, conv, inputs in convolutions(width, channels):
    want[f'params/{place}/conv/kernel'] = *conv.size, inputs, conv.channels
    for leaf in ('params/{}/norm/scale', 'params/{}/norm/bias'):
      want[leaf.format(place)] = (conv.channels,)
    for leaf in ('batch_stats/{}/norm/mean', 'batch_stats/{}/norm/var'):
      want[leaf.format(place)] = (conv.channels,)
  return want


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `Inception`, from the shapes of its variables."""
  flat = tree.flatten(variables)
  first = np.shape(flat['params/conv2d_1a_3x3/conv/kernel'])
  width = first[-1] / inception.STEM['conv2d_1a_3x3'].channels
  wrong = wrong_shapes(flat, shapes(width, first[-2]))
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  classes = len(flat.get('params/head/bias', ()))
  if classes == 1000:
    raise UserError(
      f'{source}: 1,000 classes are those of torchvision, whose Inception has other'
      ' pools: FID needs the network of 2015-12-05 with 1,008 classes'
    )
  return dict(width=width, num_classes=classes)


def differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of pytorch-fid, and names missing from it."""
  head = any(name.startswith('fc.') for name in found)
  return tree.differences(found, names.table(places(), head))


def read(arrays: family.Arrays, beside: Beside) -> family.Read:
  """Reads the arrays of a file of pytorch-fid."""
  return family.Read(names.from_pytorch_fid(arrays, places(), str(beside.path)))


def as_published(
  name: str, size: tuple[int, int] | None, channels: int
) -> Preprocessing:
  """Returns the preprocessing of TensorFlow's graph, which resizes whole images."""
  del name, size
  return Preprocessing(
    (inception.SIDE,) * 2,
    interpolation='bilinear',
    mean=(0.5,) * channels,
    std=(0.5,) * channels,
    source='as in classify_image_graph_def.pb',
  )


def images(metadata: Mapping[str, Any], *told: Any) -> Preprocessing:
  """Returns preprocessing as `Family.images`; classes exclude each other."""
  found = hub_json.classifier_images(metadata, *told, published=as_published)
  return dataclasses.replace(found, scores='softmax')


FAMILY = family.Family(
  name='inception',
  model=inception.Inception,
  sources=(
    family.Source(
      name='pytorch-fid Inception',
      suffixes=family.TORCH,
      differences=differences,
      read=read,
      writes={'pytorch-fid': lambda x: names.to_pytorch_fid(x.variables, places())},
      config=family.no_config,
    ),
  ),
  describe=describe,
  images=images,
  stem=('conv2d_1a_3x3/conv',),
)
