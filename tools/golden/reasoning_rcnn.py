"""Golden checks of Reasoning-RCNN: reasoning between two heads, from each golden file.

Axes: B batch, N regions of an image, F features, C classes, h w maps.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import rcnn, reasoning_rcnn
from big_vision_like.weights import linear, tree
from big_vision_like.weights import reasoning_rcnn as names
from tools.golden.common import (
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  float_name,
  loss_and_gradients,
  select,
  widened,
)

OUTPUT = Tolerance(absolute=1e-5)
GRADIENT = Tolerance(relative=1e-4)
# Absolute tolerance as a share of the largest gradient in a file.
ROUNDING = 1e-7


class TwoHeads(nn.Module):
  """Two heads with reasoning in between, for features that are given."""

  classes: int
  groups: int
  width: int
  reduced: int
  dtype: str = 'float32'

  def setup(self) -> None:
    self.enhance = reasoning_rcnn.Reasoning(self.width, self.reduced, self.dtype)
    self.box_heads = [
      rcnn.BoxHead(self.classes, self.groups, self.dtype) for _ in range(2)
    ]

  def __call__(
    self, levels: Sequence[jax.Array], first_BNF: jax.Array, second_BNF: jax.Array
  ) -> dict[str, jax.Array]:
    logits_BNC, deltas_BNG4 = self.box_heads[0](first_BNF)
    more_BNE = self.enhance(
      levels, second_BNF, *self.box_heads[0].classifier(), logits_BNC
    )
    last = self.box_heads[1](jnp.concatenate([second_BNF, more_BNE], axis=-1))
    return {
      'enhanced': more_BNE,
      'cls_stage0': logits_BNC,
      'reg_stage0': deltas_BNG4,
      'cls_stage1': last[0],
      'reg_stage1': last[1],
    }


def head(description: Fields, arrays: Fields) -> Results:
  """Computes reasoning, both heads and gradients, in the file's order of classes."""
  known = names.heads()
  state = select(arrays, 'param/')
  tree.check_names('its parameters', *tree.differences(state, known))
  flat = linear.from_state(state, known, 1)
  edges_CC = arrays['input/adjacency']
  variables = widened(tree.unflatten(flat | {names.OUR_GRAPH: edges_CC}))
  batch, each = description['batch'], description['rois_per_image']
  levels = [
    jnp.moveaxis(arrays[f'input/{name}'], 1, -1)
    for name in sorted(select(arrays, 'input/'))
    if name.startswith('fpn_')
  ]
  first_BNF, second_BNF = (
    arrays[f'input/roi_feat_stage{i}'].reshape(batch, each, -1) for i in range(2)
  )
  outputs_4 = len(flat['params/box_heads_0/move/bias'])
  if outputs_4 % 4:
    raise UserError(f'fc_reg has {outputs_4} outputs, which are not groups of four')
  model = TwoHeads(
    description['classes_with_background'],
    outputs_4 // 4,
    description['graph_dim'],
    description['reduced'],
    float_name(),
  )
  weight_NC = arrays['input/loss_weight']
  constants = {'constants': variables['constants']}

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(
      model, {'params': params} | constants, levels, first_BNF, second_BNF
    )
    by_region = {name: joined(x, each * batch) for name, x in outputs.items()}
    value = (by_region['cls_stage1'] * weight_NC).sum()
    return value + (by_region['reg_stage1'] ** 2).sum(), (by_region, modules)

  _, (by_region, modules), gradients = loss_and_gradients(loss, variables['params'])
  found = linear.to_state(tree.flatten({'params': gradients}), known)
  largest = max(float(np.abs(x).max()) for x in found.values())
  tolerance = GRADIENT._replace(absolute=ROUNDING * largest)
  results: Results = {f'output/{name}': (x, OUTPUT) for name, x in by_region.items()}
  for name in ('image_descriptor', 'class_attention', 'graph_embedding'):
    results[f'output/{name}'] = (modules[f'enhance/{name}'], OUTPUT)
  return results | {f'grad/{name}': (x, tolerance) for name, x in found.items()}


def joined(x_BNX: jax.Array, count: int) -> jax.Array:
  """Returns the rows of all images as one array of two axes."""
  return x_BNX.reshape(count, -1)


CHECKS = (
  Check(
    head,
    'semantic pool of Reasoning-RCNN',
    fields=('classes_with_background', 'graph_dim', 'rois_per_image'),
  ),
)
