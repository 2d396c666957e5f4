"""Networks whose features compare generated with real images, and their weights.

Configs name one as the `network` of an evaluator of `evals.generation`.

Axes: B batch, H W image, C channels, D features.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np

from big_vision_like import spec, upgrade
from big_vision_like.data.sources.base import digest
from big_vision_like.errors import UserError
from big_vision_like.evals.features import FeatureNetwork
from big_vision_like.files import read_json
from big_vision_like.ops import images, resampling
from big_vision_like.run import checkpoint, init_from
from big_vision_like.weights import published, tree

IMAGENET = images.Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Trained(FeatureNetwork):
  """A feature network whose weights are in a file or in a run."""

  def fingerprint(self) -> str:
    """Returns a digest of the class and of all weights."""
    if '_digest' not in self.__dict__:
      flat = sorted(tree.flatten(self.variables).items())
      arrays = [[name, np.asarray(array)] for name, array in flat]
      self.__dict__['_digest'] = digest(type(self).__qualname__, arrays)
    return self.__dict__['_digest']

  @staticmethod
  def stand_in(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the recorded call of a network without weights, for trials."""
    del node
    return spec.spec(Untrained)


def missing(path: str, what: str, remedy: str) -> list[str]:
  """Returns a sentence if a file is missing, else an empty list."""
  if pathlib.Path(path).expanduser().exists():
    return []
  return [f'{path}, {what}, does not exist: {remedy}']


@dataclasses.dataclass(frozen=True, eq=False)
class Inception(Trained):
  """The Inception of 2015-12-05, with which FID and Inception Score are published.

  `path` is a file of mseitzer/pytorch-fid, `pt_inception-2015-12-05-6726825d.pth` or
  the same arrays in .safetensors. As in TensorFlow's graph, images are resized to
  299x299 bilinearly from the first pixel and mapped to (x - 128) / 128. `logits` are
  without bias, as for the published scores. Grey images become RGB.
  """

  path: str

  @functools.cached_property
  def _found(self) -> published.Published:
    return of_family(self.path, 'inception')

  @property
  def variables(self) -> Any:
    return self._found.variables

  def outputs(self, variables: Any, image_BHWC: jax.Array) -> dict[str, jax.Array]:
    wide_BHWC = colored(image_BHWC).astype(jnp.float32)
    wide_BHWC = resampling.resize(wide_BHWC, (299, 299), 'tf1_bilinear')
    found = self._found.model.apply(variables, (wide_BHWC - 128.0) / 128.0)
    return {'features': found['pre_logits'], 'logits': found['logits_unbiased']}

  def problems(self) -> list[str]:
    remedy = 'download it from the releases of mseitzer/pytorch-fid'
    return missing(self.path, 'the weights of Inception', remedy)


@dataclasses.dataclass(frozen=True, eq=False)
class Vgg16(Trained):
  """A VGG16, with which precision and recall are published (arXiv:1904.06991).

  `path` is a file of torchvision, such as `vgg16-397923af.pth`. Features are the 4,096
  of the second fully connected layer, after its ReLU. Images are resized to 224x224
  bilinearly and normalized as for torchvision. (The published network is an export of
  the same architecture by its authors.)
  """

  path: str

  @functools.cached_property
  def _found(self) -> published.Published:
    found = of_family(self.path, 'vgg')
    if not found.num_classes:
      raise UserError(
        f'{self.path} has no fully connected layers, whose outputs are compared: take a'
        ' file with `classifier.*`'
      )
    return found

  @property
  def variables(self) -> Any:
    return self._found.variables

  def outputs(self, variables: Any, image_BHWC: jax.Array) -> dict[str, jax.Array]:
    wide_BHWC = colored(image_BHWC).astype(jnp.float32)
    wide_BHWC = resampling.resize(wide_BHWC, (224, 224), 'bilinear') / 255.0
    mean_C, std_C = (jnp.array(x, jnp.float32) for x in IMAGENET)
    found = self._found.model.apply(
      variables, (wide_BHWC - mean_C[None, None, None]) / std_C[None, None, None]
    )
    return {'features': found['pre_logits']}

  def problems(self) -> list[str]:
    return missing(self.path, 'the weights of VGG16', 'torchvision publishes it')


@dataclasses.dataclass(frozen=True, eq=False)
class Classifier(Trained):
  """A classifier of a run of this package, for small data.

  `workdir` is the folder of the run; `step` selects one of its checkpoints. Features
  are the output `feature` of its model. Images are normalized as in its task, but not
  resized. `config` is the config that trains it, for the message if there is no run.
  """

  workdir: str
  step: int | None = None
  feature: str = 'pre_logits'
  config: str = ''

  @functools.cached_property
  def _module(self) -> tuple[nn.Module, images.Normalization]:
    config = upgrade.upgraded(read_json(pathlib.Path(self.workdir) / 'config.json'))
    task = spec.build(spec.in_steps(config['task']), 'config.task')
    network = next(iter(task.networks().values()))
    if network.images is None:
      raise UserError(f'{self.workdir}: its model takes no images')
    return network.module, network.images

  @functools.cached_property
  def variables(self) -> Any:
    if sentences := self.problems():
      raise UserError(sentences[0])
    return init_from.from_run(self.workdir, self.step).variables

  def outputs(self, variables: Any, image_BHWC: jax.Array) -> dict[str, jax.Array]:
    module, normalization = self._module
    found = module.apply(variables, images.normalize(image_BHWC, *normalization))
    if self.feature not in found:
      raise UserError(
        f'the model of {self.workdir} returns no {self.feature!r}; it returns'
        f' {", ".join(found)}'
      )
    classes = {'logits': found['logits']} if 'logits' in found else {}
    return {'features': found[self.feature], **classes}

  def problems(self) -> list[str]:
    if checkpoint.steps(self.workdir):
      return []
    own = f' --config={self.config}' if self.config else ''
    return [
      f'{self.workdir} has no checkpoint of a classifier, whose features compare'
      f' images: run python -m big_vision_like.train{own} --workdir={self.workdir}'
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class Untrained(FeatureNetwork):
  """Random projections of 4x4 mean colours, in place of a network without weights."""

  width: int = 8
  classes: int = 10

  @property
  def variables(self) -> Any:
    rng = np.random.default_rng(0)
    return rng.standard_normal((48, self.width + self.classes), np.float32)

  def outputs(self, variables: Any, image_BHWC: jax.Array) -> dict[str, jax.Array]:
    small = resampling.adaptive_average(colored(image_BHWC).astype(jnp.float32), 4)
    found = small.reshape(len(small), -1) @ variables / 128.0
    return {'features': found[:, : self.width], 'logits': found[:, self.width :]}

  def fingerprint(self) -> str:
    """Returns a digest of the arguments, which determine the projections."""
    return digest('Untrained', self.width, self.classes)


def of_family(path: str, name: str) -> published.Published:
  """Reads published weights; raises a UserError for another kind of model."""
  found = published.read(path)
  if found.family.name != name:
    raise UserError(f'{path} is a {found.source}, not weights of {name}')
  return found


def colored(image_BHWC: jax.Array) -> jax.Array:
  """Returns images with three channels; grey is repeated."""
  if image_BHWC.shape[-1] not in (1, 3):
    raise UserError(
      f'images have {image_BHWC.shape[-1]} channels; the network takes 1 or 3'
    )
  return jnp.broadcast_to(image_BHWC, (*image_BHWC.shape[:-1], 3))


def digits16(workdir: str = 'runs/digits16_classifier') -> mlc.ConfigDict:
  """Returns the classifier of digits of 16x16 pixels, for evaluators of configs."""
  return spec.spec(Classifier, workdir=workdir, config='configs/vgg/digits16.py')
