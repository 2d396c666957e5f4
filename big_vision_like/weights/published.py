"""Published weights of any source: which source it is, and which model they are for.

A file belongs to the source whose names match exactly (see `weights.family`). Shapes
determine most of the architecture. The rest (heads in PyTorch's layout, computed
positions, whether the last stage of DETR's backbone is dilated) comes from the JSON
files stored with the weights. Otherwise it is assumed and listed in
`Published.assumed`.
"""

import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import beside, files, tree
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.family import Family, Source, families


@dataclasses.dataclass(frozen=True)
class Published:
  """Weights of one file, in the layout of our model.

  `architecture` has the arguments of the family's model except `num_classes`, which is
  0 without a head. `constants` is the collection with the variables of frozen norms,
  and `batch_stats` has the running statistics of batch norms. `metadata` are the JSON
  files stored with the weights, unchanged, by file name.
  """

  params: tree.Tree
  family: Family
  architecture: dict[str, Any]
  num_classes: int
  source: str = ''
  assumed: tuple[str, ...] = ()
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
  constants: tree.Tree = dataclasses.field(default_factory=dict)
  batch_stats: tree.Tree = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def model(self) -> nn.Module:
    """The model that the weights are for."""
    build = self.family.build or self.family.model
    return build(num_classes=self.num_classes, **self.architecture)

  @property
  def channels(self) -> int:
    """The number of image channels."""
    if self.family.channels is not None:
      return self.family.channels(self.params)
    flat = tree.flatten(self.params)
    kernels = [f'{module}/kernel' for module in self.family.stem]
    return next(flat[name].shape[-2] for name in kernels if name in flat)

  @property
  def variables(self) -> tree.Tree:
    """The variables of the model, by collection."""
    others = {'constants': self.constants, 'batch_stats': self.batch_stats}
    return {'params': self.params} | {name: x for name, x in others.items() if x}

  def images(self, name: str, size: tuple[int, int] | None = None) -> Any:
    """Returns the preprocessing of weights in a file of this name, see `Family`."""
    if size is None and self.family.side is not None:
      side = self.family.side(self.architecture)
      size = side and (side, side)
    told = self.metadata, name, size, self.num_classes, self.channels
    found = self.family.images(*told)
    adapt = self.family.adapt
    return found if adapt is None else adapt(found, self.params)


def read(
  path: str | os.PathLike,
  num_heads: int | None = None,
  no_embed_class: bool | None = None,
) -> Published:
  """Reads an .npz, .safetensors or .pth file, or a folder with a model.safetensors.

  `num_heads` and `no_embed_class` (as in timm) are for files that do not record them.
  Raises a `UserError` that says why a file is not read; nothing in it is executed.
  """
  found = beside.read(path)
  told = dict(num_heads=num_heads, no_embed_class=no_embed_class)
  arrays, others = files.read_told(found.path)
  weights = of_arrays(arrays, dataclasses.replace(found, **told))
  return dataclasses.replace(weights, assumed=others + weights.assumed)


def of_arrays(arrays: Mapping[str, np.ndarray], known: Beside) -> Published:
  """Returns the weights in the arrays of a file, which need not exist."""
  arrays, path, ours = files.without_counts(arrays), str(known.path), known.ours
  family, source, prefix = _source(arrays, known.path)
  arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
  files.check_finite(arrays, path)
  # The norm of a whole matrix is one number (torch's weight_norm with dim=None).
  numbers = [
    name
    for name, array in arrays.items()
    if not array.ndim and not name.endswith(('.weight_g', *source.numbers))
  ]
  if numbers:
    raise UserError(f'{path}: single numbers, not arrays: {files.listed(numbers)}')
  if ours and known.num_heads is None:
    num_heads = ours['architecture'].get('num_heads')
    known = dataclasses.replace(known, num_heads=num_heads)
  if ours and known.no_embed_class is None:  # as our writer stores it
    known = dataclasses.replace(known, no_embed_class=False)
  try:
    variables, told, assumed = source.read(arrays, known)
    found = describe(family=family.name, source=path, **variables)
  except UserError:
    raise
  except (ValueError, IndexError) as error:  # NumPy's, about shapes
    raise UserError(f'{path}: shapes that do not fit: {error}') from error
  architecture = tree.unflatten(tree.flatten(found.architecture) | dict(told))
  if ours:
    architecture = _same_model(ours['architecture'], architecture, family, path)
    assumed = tuple(ours['assumed'])
  if prefix:
    assumed = (f'names without the prefix {prefix!r}, which all names have', *assumed)
  return dataclasses.replace(
    found,
    architecture=architecture,
    source=source.name,
    assumed=assumed,
    metadata=dict(known.metadata),
  )


def describe(
  params: Mapping[str, Any],
  family: str,
  source: str = 'parameters',
  constants: Mapping[str, Any] | None = None,
  batch_stats: Mapping[str, Any] | None = None,
) -> Published:
  """Describes parameters in our naming (unrolled or scanned) by their shapes.

  `constants` belong to frozen norms, and `batch_stats` are statistics of batch norms.
  Raises a `UserError` that names shapes which do not match each other.
  """
  collections = dict(params=params, constants=constants, batch_stats=batch_stats)
  variables = {name: tree.unstack_blocks(x or {}) for name, x in collections.items()}
  kind = families()[family]
  told = kind.describe(variables, source)
  num_classes = told.pop('num_classes')
  return Published(family=kind, architecture=told, num_classes=num_classes, **variables)


def _source(names: Collection[str], path: pathlib.Path) -> tuple[Family, Source, str]:
  """Finds the source that these names match; an error lists the differences to one.

  All names may have a prefix for a part of a program (`module.`, `model.`,
  `_orig_mod.`), which is the third result.
  """
  nearest, differs, known = '', (), {}
  for prefix in _prefixes(names):
    rest = [name.removeprefix(prefix) for name in names]
    for family in families().values():
      for source in family.sources:
        if path.suffix not in source.suffixes:
          continue
        unknown, missing = source.differences(rest)
        if not unknown and not missing:
          return family, source, prefix
        known[source.name] = None
        # The nearest source has the fewest unknown names, and then the fewest missing.
        if not differs or (len(unknown), len(missing)) < tuple(map(len, differs)):
          differs = [[prefix + name for name in sorted(x)] for x in (unknown, missing)]
          nearest = source.name
  unknown, missing = differs
  most = max(5, 10 - len(missing))  # leaves room for both kinds
  lines = [f'unknown {name}' for name in unknown[:most]]
  lines += [f'missing {name}' for name in missing[: 10 - len(lines)]]
  listed = '\n  '.join(lines)
  raise UserError(
    f'{path} has weights of an unknown architecture: of the known ones'
    f' ({", ".join(known)}) it is nearest to {nearest}. Names that differ:'
    f' {len(unknown) + len(missing)}, starting with:\n  {listed}'
  )


def _prefixes(names: Collection[str]) -> list[str]:
  """Returns the prefixes of whole parts that all names share, '' first."""
  common = os.path.commonprefix([*names])
  return ['', *(common[: match.end()] for match in re.finditer(r'[./]', common))][:8]


def _same_model(
  told: Mapping[str, Any], found: Mapping[str, Any], family: Family, path: str
) -> dict[str, Any]:
  """Returns the architecture in our writer's file; raises if shapes contradict it."""
  file, flat = beside.sidecar(path), tree.flatten(told)
  if any(not value for value in told.values() if isinstance(value, dict)):
    raise UserError(f'{file}: architecture has fields without a value')
  told = {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items()}
  made = tree.flatten(found)
  choices = family.choices(found) if family.choices else {}
  for name, value in (dict.fromkeys(told) | made).items():
    known = told.get(name)
    if name in family.untold:
      if name not in told:  # written before this argument existed
        continue
      if type(known) is type(value) and known in choices.get(name, (known,)):
        made[name] = known
        continue
      raise UserError(f'{file}: {name} is {known!r:.99}, which the weights cannot have')
    if known != value or type(known) is not type(value) or name not in made:
      raise UserError(
        f'{file}: {name} is {known!s:.99}, but {value} in the weights next to it'
      )
  return tree.unflatten(made)
