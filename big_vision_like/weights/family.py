"""Families of published weights: each is declared once, in `weights/families`.

A module of that folder declares `FAMILY = Family(...)`. No other file names it: code
that reads, loads, converts or starts from weights scans the folder. The fields of
`Family` and `Source` are the contract; docs/weights.md has an example. Such a module
may import `models`, `inference` and `run`; only another family may import it.
"""

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import files, tf_checkpoint, tree
from big_vision_like.weights.beside import Beside

NPZ = ('.npz',)
TORCH = ('.safetensors', *files.TORCH)
# TensorFlow checkpoints, and their arrays as .npz.
TENSORFLOW = ('.npz', tf_checkpoint.SUFFIX)
Arrays = dict[str, np.ndarray]


class Read(NamedTuple):
  """The result of reading a file.

  `variables` are dicts by collection, with blocks unrolled. `told` are arguments of the
  model that shapes do not determine, by flat name. `assumed` describes those that no
  file records.
  """

  variables: tree.Tree
  told: Mapping[str, Any] = {}
  assumed: tuple[str, ...] = ()


Reader = Callable[[Mapping[str, np.ndarray], Beside], Read]


def with_size(weights: Any, images: Any, asked: Any, grid: Any) -> tuple[Any, Any]:
  """Returns weights, and their images at the requested size, if any."""
  return weights, images.with_size(asked) if asked else images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """The files of one library for a family.

  `differences(names)` returns the names that such files never have, and those missing:
  the source reads a file if both are empty. `read(arrays, beside)` returns a `Read`.
  `writes` maps the name of the library for `--to` to a function from
  `published.Published` to arrays. Sources that write .safetensors need
  `config(weights, images)`, which returns the JSON files of a folder by name, or raises
  a `UserError` that says why there are none. `fit(weights, images, asked, grid)`
  returns weights and images as they are written, for images of the size `asked` (None:
  not requested); `grid` is the grid of their positions, None if unknown. Names that end
  in one of `numbers` may be single numbers instead of arrays.
  """

  name: str
  suffixes: tuple[str, ...]
  differences: Callable[[Collection[str]], tree.Differences]
  read: Reader
  writes: Mapping[str, Callable[[Any], Arrays]] = dataclasses.field(
    default_factory=dict
  )
  config: Callable[[Any, Any], dict[str, dict[str, Any]]] | None = None
  fit: Callable[[Any, Any, Any, Any], tuple[Any, Any]] = with_size
  numbers: tuple[str, ...] = ()

  def __post_init__(self) -> None:
    if self.writes and '.safetensors' in self.suffixes and self.config is None:
      raise TypeError(
        f'source {self.name!r} writes for {" and ".join(self.writes)} without config'
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A kind of model with the published files of its weights.

  `name` is written into JSON files. `describe(variables, source)` derives the arguments
  of `model`, including `num_classes`, from the shapes of its variables. If shapes do
  not match each other, it raises a `UserError` that begins with `source`. `untold` are
  flat names of arguments that no shape determines. `choices(told)` gives the allowed
  values of some of them, given the arguments from shapes; others may have any value of
  their type. `build(**arguments)` makes the model, if not `model` itself.
  `images(metadata, name, size, num_classes, channels)` returns the
  `inference.preprocessing.Prepare` of weights with these JSON files, in a file of this
  name; `size` is the image size that learned positions are for, if there are any.

  `stem` lists modules that may read the image: the first existing one gives its
  channels, unless `channels(params)` does. `features(architecture)` is the width that a
  head reads; without it, weights without a head have a model without one.
  `adapt(images, params)` corrects the preprocessing by shapes of the parameters.
  `side(architecture)` is the side of images for which a published size is evaluated, if
  shapes determine it, else None. `check(model, source)` raises a `UserError` if no file
  can hold the model of a run. A `backbone` may become a part of other models.
  """

  name: str
  model: type
  sources: tuple[Source, ...]
  describe: Callable[[tree.Tree, str], dict[str, Any]]
  images: Callable[..., Any]
  stem: tuple[str, ...]
  untold: tuple[str, ...] = ()
  choices: Callable[[Mapping[str, Any]], Mapping[str, Collection[Any]]] | None = None
  build: Callable[..., Any] | None = None
  features: Callable[[Mapping[str, Any]], int] | None = None
  check: Callable[[Any, str], None] | None = None
  side: Callable[[Mapping[str, Any]], int | None] | None = None
  backbone: bool = False
  channels: Callable[[tree.Tree], int] | None = None
  adapt: Callable[[Any, tree.Tree], Any] | None = None


@functools.cache
def families(package: str = f'{__package__}.families') -> dict[str, Family]:
  """Returns all families by name; raises a `UserError` that names an incomplete one."""
  found: dict[str, Family] = {}
  sources: dict[str, str] = {}
  for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
    place = f'{package.replace(".", "/")}/{info.name}.py'
    try:
      module = importlib.import_module(f'{package}.{info.name}')
    except TypeError as error:
      raise UserError(f'{place}: FAMILY is incomplete: {error}') from error
    declared = getattr(module, 'FAMILY', None)
    if not isinstance(declared, Family):
      raise UserError(f'{place} declares no FAMILY = Family(...)')
    if declared.name in found or not declared.sources:
      why = 'of another family' if declared.sources else 'without sources'
      raise UserError(f'{place}: FAMILY has the name {declared.name!r} {why}')
    for source in declared.sources:
      if source.name in sources:
        raise UserError(
          f'{place}: FAMILY has a source {source.name!r}, which {sources[source.name]}'
          ' already has'
        )
      sources[source.name] = place
    found[declared.name] = declared
  return found


def of_params(read: Callable[..., tree.Tree], **arguments: Any) -> Reader:
  """Makes a `Source.read` from a reader of arrays only that returns parameters."""
  return lambda arrays, beside: Read(
    {'params': read(arrays, source=str(beside.path), **arguments)}
  )


def to_params(
  write: Callable[..., Arrays], **arguments: Any
) -> Callable[[Any], Arrays]:
  """Makes a function for `Source.writes` from one that takes parameters."""
  return lambda weights: write(weights.params, **arguments)


def no_config(weights: Any, images: Any) -> dict[str, dict[str, Any]]:
  """Raises; stands for `Source.config` if a library has no config.json."""
  raise UserError('this library has no config.json: write a .safetensors file')
