"""Published engines of algorithms, arXiv:2006.08084."""

import re
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import algorithms
from big_vision_like.models import neural_execution as models
from big_vision_like.weights import family, shapes, tree
from big_vision_like.weights import neural_execution as names
from big_vision_like.weights.beside import Beside

# The published code counts slots only where it adds or multiplies, with 9 or 12 bits.
COUNTING = (24, 28)


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `Engine`, in nested dicts, from shapes."""
  params = variables['params']
  own = params['subroutine']
  bits, width = own['embed']['kernel'].shape
  found: dict[str, Any] = {
    'subroutine': dict(
      bits=bits,
      width=width,
      depth=sum(bool(re.fullmatch(r'block_\d+', name)) for name in own['encoder']),
      hidden=own['score']['last'].shape[0],
    )
  }
  if 'mask' in params:
    found['mask'] = dict(filters=params['mask']['conv']['bias'].size)
  numbers_111 = np.zeros((1, 1, 1), np.int32)
  inputs = numbers_111, numbers_111 > 0, numbers_111[0]
  shapes.check(build(0, **found), inputs, params, source)
  return found | {'num_classes': 0}


def build(
  num_classes: int, subroutine: dict[str, Any], mask: dict[str, Any] | None = None
) -> models.Engine:
  """Makes the engine, which has no classes."""
  del num_classes
  masker = None if mask is None else models.MaskNetwork(**mask)
  return models.Engine(models.Subroutine(**subroutine), masker)


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads an engine; of several in a file, the one that selects."""
  params, others = names.engine(arrays, str(beside.path))
  width = params['subroutine']['embed']['kernel'].shape[1]
  counts = width in COUNTING
  assumed = (
    f'subroutine/positions={counts}: as in published engines of width {width}',
  )
  if others:
    assumed += (f'{", ".join(others)}: other networks of the file are not read',)
  return family.Read({'params': params}, {'subroutine/positions': counts}, assumed)


def check(model: models.Engine, source: str) -> None:
  """Raises for an engine that published checkpoints cannot hold."""
  own = model.subroutine
  if own.scores != 'mlp' or own.numbers != 'bits':
    raise UserError(
      f"{source}: only engines with scores='mlp' and numbers='bits' are written"
    )


FAMILY = family.Family(
  name='neural_execution',
  model=models.Engine,
  sources=(
    family.Source(
      name='checkpoints of Neural Execution Engines',
      suffixes=family.TENSORFLOW,
      differences=names.differences,
      read=read,
      writes={'neural-execution': family.to_params(names.written)},
    ),
  ),
  describe=describe,
  untold=('subroutine/positions', 'subroutine/residual'),
  build=build,
  images=algorithms.of_file,
  stem=(),
  channels=lambda params: 0,
  check=check,
)
