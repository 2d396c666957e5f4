"""Parts of a config to fine-tune weights: the model, its images, and a new head."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import ml_collections as mlc

from big_vision_like.data.transforms import image
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, listed, nearest
from big_vision_like.inference import adapt, loading
from big_vision_like.inference.clips import ClipPreprocessing
from big_vision_like.inference.preprocessing import Prepare
from big_vision_like.run import checkpoint, init_from, provenance
from big_vision_like.spec import spec
from big_vision_like.weights import published, tree

# The smallest share of an image that a training crop covers.
LEAST_AREA = 0.25
NAMED = 10  # number of classes that are printed


@dataclasses.dataclass(frozen=True)
class Start:
  """A model to fine-tune, as parts of a config.

  `model` and `weights` are recorded calls. `heads` are regular expressions that match
  the parameters with shapes that depend on the number of classes; these are newly
  initialized. `leave_out` also matches arrays of the weights that the model does not
  have.
  """

  model: mlc.ConfigDict
  weights: mlc.ConfigDict
  images: Prepare
  heads: tuple[str, ...]
  leave_out: tuple[str, ...]

  @property
  def init_from(self) -> mlc.ConfigDict:
    """The recorded call of `InitFrom` that loads the weights."""
    return spec(
      init_from.InitFrom, weights=self.weights, leave_out=list(self.leave_out)
    )

  @property
  def decode(self) -> mlc.ConfigDict:
    """The recorded first transform, which decodes images."""
    return spec(image.Decode, channels=self.images.channels)

  def train_transforms(self) -> list[mlc.ConfigDict]:
    """Returns the transforms of training: random crops to the image size, and flips."""
    (height, width), method = self.images.size, self.images.interpolation
    if height == width:
      crop = spec(
        image.RandomResizedCrop, size=height, area=(LEAST_AREA, 1.0), method=method
      )
    else:
      crop = spec(image.Resize, size=(height, width), method=method)
    return [self.decode, crop, spec(image.Flip)]

  def eval_transforms(self) -> list[mlc.ConfigDict]:
    """Returns the transforms that the weights were evaluated with."""
    steps = (spec(type(x), **dataclasses.asdict(x)) for x in self.images.transforms)
    return [self.decode, *steps]


def start(
  path: str, num_classes: int, image_size: int | None = None, **computes: Any
) -> Start:
  """Reads published weights, or the weights of a run, for a model of `num_classes`.

  The architecture (with its activation, norms and heads) and the size and normalization
  of images are read from the weights and printed. `image_size` is another side of
  images; position embeddings are resized to it. `computes` are arguments such as `scan`
  and `remat`; they are used only if the model has all of them.
  """
  model, images, weights, source = _read(path)
  if not hasattr(model, 'num_classes'):
    raise UserError(f'{path} is a {type(model).__name__}, which has no classes')
  if isinstance(images, ClipPreprocessing):
    raise UserError(
      f'{path} is a {type(model).__name__}, which takes videos: fine-tune it with a'
      ' config such as configs/timesformer/finetune.py'
    )
  if image_size is not None:
    images = images.with_size(image_size)
    if hasattr(model, 'for_images'):
      model = model.for_images(images.size)
  heads = heads_of(model, images)
  leave_out = heads
  if getattr(model, 'rep_size', 0):  # a layer that is used only in pre-training
    model = model.clone(rep_size=0)
    leave_out = (*heads, 'pre_logits/.*')
  model = model.clone(num_classes=num_classes)
  known = all(hasattr(model, name) for name in computes)
  node = adapt.like(model, computes if known else {})
  if 'num_heads' in weights:  # so that one override corrects both
    node.num_heads = weights.get_ref('num_heads')
  arguments = provenance.architecture(model).items()
  told = ', '.join(f'{k}={v!r}' for k, v in arguments if v is not None)
  say('weights', f'{path}, {source}')
  say('model', f'{type(model).__name__}: {told}')
  if 'num_heads' in weights:
    heads_assumed = f'num_heads={weights.num_heads} is assumed, as in published models'
    say(
      '', f'{heads_assumed}; to change it, pass --config.init_from.weights.num_heads=N'
    )
  say('images', f'{images} ({images.source})')
  say(
    'head',
    f'new, for {num_classes:,} classes; not from the weights: {listed(leave_out)}',
  )
  return Start(node, weights, images, heads, leave_out)


def _read(path: str) -> tuple[nn.Module, Prepare, mlc.ConfigDict, str]:
  """Returns the model, its preprocessing, the recorded reader and the source."""
  file = pathlib.Path(path).expanduser()
  if checkpoint.steps(file):
    run = loading.load_run(file)
    images = loading.preprocessing_of(run)
    node = spec(init_from.from_run, workdir=str(file))
    return run.network.module, images, node, 'a run'
  if not file.exists():
    raise UserError(missing(file))
  provenance.check_no_run(file)
  found = published.read(file)
  images = loading.preprocessing_of_file(found, file)
  node = spec(init_from.from_file, path=str(file))
  heads = found.architecture.get('num_heads')
  if isinstance(heads, int) and any('num_heads=' in text for text in found.assumed):
    node.num_heads = heads
  return found.model, images, node, f'of {found.source}'


def missing(file: pathlib.Path) -> str:
  """Returns an error message for weights that do not exist."""
  there = os.listdir(file.parent) if file.parent.is_dir() else []
  if close := nearest(file.name, there):
    advice = f'did you mean {file.parent / close[0]}?'
  elif there and file.parent.name == 'weights':
    advice = f'{file.parent} holds {listed(sorted(there), 5)}'
  else:
    advice = 'docs/weights.md lists the published files that can be used'
  return f'{file} does not exist; {advice}'


def heads_of(model: nn.Module, images: Prepare) -> tuple[str, ...]:
  """Returns regular expressions for parameters that depend on the number of classes."""
  size = getattr(images, 'size', None) or (256, 256)
  picture = jax.ShapeDtypeStruct((1, *size, images.channels), 'float32')

  def shapes(num_classes: int) -> dict[str, Any]:
    made = model.clone(num_classes=num_classes)
    variables = jax.eval_shape(made.init, jax.random.key(0), picture)
    return {k: x.shape for k, x in tree.flatten(variables['params']).items()}

  two, three = shapes(2), shapes(3)
  owners = {
    name.rpartition('/')[0] for name, shape in two.items() if shape != three[name]
  }
  return tuple(f'{re.escape(owner)}/.*' for owner in sorted(owners))


def tell_data(counts: Mapping[str, int], classes: Sequence[str]) -> None:
  """Prints the number of images of each part, and the classes."""
  uses = {'train': 'training', 'val': 'validation'}
  texts = [f'{count:,} for {uses.get(part, part)}' for part, count in counts.items()]
  say('data', f'{sum(counts.values()):,} images: {", ".join(texts)}')
  say('classes', f'{len(classes):,}: {listed(classes, NAMED)}')
