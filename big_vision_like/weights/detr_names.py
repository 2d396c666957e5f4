"""Arguments of our DETR, from the flat names and shapes of its unrolled variables."""

from collections.abc import Mapping
from typing import Any

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import (
  linear,
  resnet_names,
  torchvision_resnet,
  tree,
  vit_names,
)

BACKBONE = 'backbone/'
# Learned positions have this many rows and columns.
_CELLS = 50
# Axes: Q queries, D width, H heads, K features of one, M hidden units, C classes with
# "no object", 4 coordinates.
_SHAPES = [
  *vit_names.BLOCK_SHAPES,
  (r'queries', 'QD'),
  (r'input_proj/bias', 'D'),
  (r'class_head/kernel', 'DC'),
  (r'class_head/bias', 'C'),
  (r'box_head/fc[12]/kernel', 'DD'),
  (r'box_head/fc[12]/bias', 'D'),
  (r'box_head/fc3/kernel', 'D4'),
  (r'box_head/fc3/bias', '4'),
]


def architecture(variables: tree.Arrays, source: str = 'variables') -> dict[str, Any]:
  """Returns the arguments of our `DETR` without `num_classes`, from flat variables.

  Raises a `UserError` that names shapes which do not match each other.
  """
  backbone = torchvision_resnet.architecture(variables, source, BACKBONE)
  flat = {
    name.removeprefix('params/'): array
    for name, array in variables.items()
    if name.startswith('params/') and not name.startswith(f'params/{BACKBONE}')
  }
  blocks = linear.depths(flat, r'(encoder|decoder)/block_(\d+)/')
  if not blocks['decoder']:
    raise UserError(f'{source}: there is no block of the decoder')
  sizes = {'4': 4}
  most = {name: x for name, x in flat.items() if not name.startswith('mask_head/')}
  wrong = vit_names.collect_sizes(most, _SHAPES, sizes)
  if not wrong:
    wrong = resnet_names.wrong_shapes(flat, _others(sizes, backbone))
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return dict(
    num_queries=sizes['Q'],
    width=sizes['D'],
    encoder_depth=blocks['encoder'],
    decoder_depth=blocks['decoder'],
    num_heads=sizes['H'],
    mlp_dim=sizes['M'],
    norm='pre' if 'encoder/norm/scale' in flat else 'post',
    positions='learned' if 'pos_rows' in flat else 'sine',
    masks='mask_head/out/kernel' in flat,
    backbone=backbone,
  )


def _others(
  sizes: Mapping[str, int], backbone: Mapping[str, Any]
) -> resnet_names.Shapes:
  """Returns names and shapes of arrays outside blocks and heads; some may be absent."""
  width, half = sizes['D'], sizes['D'] // 2
  stages = torchvision_resnet.widths(backbone)
  shapes: resnet_names.Shapes = {
    'input_proj/kernel': (1, 1, stages[-1], width),
    'pos_rows': (_CELLS, half),
    'pos_columns': (_CELLS, half),
  }

  def add(name: str, size: int, before: int, after: int) -> None:
    shapes[f'mask_head/{name}/kernel'] = (size, size, before, after)
    shapes[f'mask_head/{name}/bias'] = (after,)
    norm = name.replace('conv', 'norm')
    if norm != name:
      shapes[f'mask_head/{norm}/scale'] = shapes[f'mask_head/{norm}/bias'] = (after,)

  before = width + sizes['H']
  for i, after in enumerate((before, *(width // 2**i for i in range(1, 5))), start=1):
    add(f'conv{i}', 3, before, after)
    before = after
  add('out', 3, before, 1)
  for i, before in enumerate(stages[-2:-5:-1], start=1):
    add(f'adapter{i}', 1, before, width // 2**i)
  return shapes
