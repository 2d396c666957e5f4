"""Names of the arrays of mmf's UniT, which holds several tasks.

Our tree is that of a `MultiTask`: {'shared': ..., task: ...}, with the published names
of tasks, such as 'detection_coco', 'vqa2' and 'glue_sst2'.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.weights import (
  bert_names,
  linear,
  torch_transformer,
  torchvision_resnet,
  tree,
)

BASE = 'unit_base_model.'
OLD_BASE = 'detr_model.'
BERT = 'bert_model.module.'
# The kinds of tasks: on images, on both, on texts.
KINDS = ('detection', 'vl', 'glue')
# Not read: BERT's embeddings under a second name, ids that old versions stored, and
# the weights of classes in the loss.
PASSED = (
  r'bert_model\.(embeddings\..*|module\.embeddings\.position_ids)'
  r'|det_losses\..*\.empty_weight|.*\.num_batches_tracked'
)
_SHARED, _OWN = 'params/shared/', 'params/{}/'
_SHARED_MODULES = {
  f'{BASE}transformer.enc2dec_proj': 'image_proj',
  f'{BASE}transformer.pos_embed_proj': 'image_position_proj',
  f'{BASE}input_proj': 'input_proj',
  'bert_projection': 'text_proj',
  'bert_pos_projection': 'text_position_proj',
}
_TASK_TABLES = {
  f'{BASE}transformer.task_embeddings_enc.weight': 'image_task/embedding',
  'task_embeddings_lang.weight': 'text_task/embedding',
}
_DETECTION = {'class_embeds.{}': 'head/class_head'} | {
  f'bbox_embeds.{{}}.layers.{i}': f'head/box_head/fc{i + 1}' for i in range(3)
}
_ATTRIBUTES = {
  f'det_losses.{{}}.attribute_head.attr_linear{i}': f'head/attribute_head/fc{i}'
  for i in (1, 2)
}
_LABELS = {'0.dense': 'transform', '0.LayerNorm': 'norm', '1': 'labels'}


class Parts(NamedTuple):
  """The parts of a file: tasks with their kinds, stacks with their depths, and others.

  `attributes` are the tasks with a head for attributes. `separate` tells whether each
  task has its own decoder.
  """

  tasks: Mapping[str, str]
  depths: Mapping[str, int]
  text_depth: int
  separate: bool
  attributes: frozenset[str]
  encoder_norm: bool
  task_tokens: bool
  pooler: bool
  projections: bool
  resnet: torchvision_resnet.Sizes | None


def renamed(arrays: tree.Arrays) -> dict[str, np.ndarray]:
  """Returns arrays under the names of new files."""
  return {new_name(name): array for name, array in arrays.items()}


def new_name(name: str) -> str:
  """Returns the name of an array in new files."""
  name = bert_names.new_name(name)
  if name.startswith(OLD_BASE):
    name = BASE + name.removeprefix(OLD_BASE)
  return name


def parts_of(names: Collection[str]) -> Parts:
  """Returns the parts that the names of a file show."""
  names = {*map(new_name, names)}
  base = re.escape(BASE)
  tasks, depths = {}, {'encoder': 0, 'decoder': 0}
  separate = not any(name.startswith(f'{BASE}transformer.decoder.') for name in names)
  for name in names:
    if found := re.fullmatch(rf'{base}query_embeds\.(\w+)\.(\w+)\.weight', name):
      tasks[found[2]] = found[1]
    stack = rf'{base}transformer\.(encoder|decoder)(?:s\.\w+\.\w+)?\.layers\.(\d+)\.'
    if (found := re.match(stack, name)) and int(found[2]) < len(names):
      depths[found[1]] = max(depths[found[1]], int(found[2]) + 1)
  order = [*sorted(tasks, key=lambda task: (KINDS + (tasks[task],)).index(tasks[task]))]
  sizes = torchvision_resnet.sizes(
    names, torchvision_resnet.TORCHVISION, f'{BASE}backbone.0.body.'
  )
  return Parts(
    {task: tasks[task] for task in order},
    depths,
    bert_names.depth(names, f'{BERT}encoder.layer.'),
    separate,
    frozenset(
      task
      for task in tasks
      if f'det_losses.{task}.attribute_head.cls_embed.weight' in names
    ),
    f'{BASE}transformer.encoder.norm.weight' in names,
    any(name in names for name in _TASK_TABLES),
    f'{BERT}pooler.dense.weight' in names,
    f'{BASE}transformer.enc2dec_proj.weight' in names,
    sizes if sizes.depths else None,
  )


def images_and_heads(parts: Parts) -> linear.Table:
  """Returns our arrays for each of theirs, except for those of BERT's encoder."""
  modules, plain = {}, {}
  kinds = {*parts.tasks.values()}
  seen, read = kinds & {'detection', 'vl'}, kinds & {'glue', 'vl'}
  for theirs, ours in _SHARED_MODULES.items():
    if ours.startswith('text_') and not read or ours.startswith('image_') and not seen:
      continue
    if parts.projections or not ours.startswith('image_'):
      modules[theirs] = [_SHARED + ours]
  if parts.task_tokens:
    for theirs, ours in _TASK_TABLES.items():
      if seen if ours.startswith('image_') else read:
        plain[theirs] = _SHARED + ours
  for theirs, ours in torch_transformer.modules(parts.depths).items():
    stack, _, rest = theirs.partition('.')
    last = rest.split('.')[-2]
    if stack == 'encoder':
      lacks = last in ('norm3',) or 'multihead_attn' in rest
      if not lacks and (rest != 'norm.' or parts.encoder_norm) and seen:
        modules |= _stack(f'{BASE}transformer.{theirs}', _SHARED, ours)
    elif not parts.separate:
      modules |= _stack(f'{BASE}transformer.{theirs}', _SHARED, ours)
    else:
      for task, kind in parts.tasks.items():
        start = f'{BASE}transformer.decoders.{kind}.{task}.{rest}'
        modules |= _stack(start, _OWN.format(task), ours)
  for task, kind in parts.tasks.items():
    own = _OWN.format(task)
    plain[f'{BASE}query_embeds.{kind}.{task}.weight'] = f'{own}queries'
    heads = _DETECTION
    if task in parts.attributes:
      heads = _DETECTION | _ATTRIBUTES
      start = f'det_losses.{task}.attribute_head'
      plain[f'{start}.cls_embed.weight'] = f'{own}head/attribute_head/classes/embedding'
    if kind != 'detection':
      heads = {
        f'classifiers.{kind}.{{}}.{theirs}': f'head/{ours}'
        for theirs, ours in _LABELS.items()
      }
    modules |= {theirs.format(task): [own + ours] for theirs, ours in heads.items()}
  packed = {name: ours for name, ours in modules.items() if name[-1] in '._'}
  others = {name: ours for name, ours in modules.items() if name[-1] not in '._'}
  found = linear.table(packed, plain, dot='') | linear.table(others, {})
  if parts.resnet is not None:
    found |= torchvision_resnet.table(
      parts.resnet,
      torchvision_resnet.TORCHVISION,
      'frozen',
      f'{BASE}backbone.0.body.',
      'shared/backbone/',
    )
  return found


def _stack(theirs: str, start: str, ours: list[str]) -> dict[str, list[str]]:
  return {theirs: [start + module for module in ours]}


def texts(parts: Parts) -> linear.Table:
  """Returns our arrays for each of theirs in BERT's encoder."""
  if not parts.text_depth:
    return {}
  ours = f'{_SHARED}text/'
  found = bert_names.embeddings(f'{BERT}embeddings.', f'{ours}embeddings')
  blocks = bert_names.blocks(
    f'{BERT}encoder.layer.', f'{ours}encoder', parts.text_depth
  )
  if parts.pooler:
    blocks[f'{BERT}pooler.dense'] = [f'{ours}pooler']
  return found | linear.table(blocks, {})


def passed(parts: Parts, name: str) -> bool:
  """Returns whether an array is not read: it is stored twice, or is no parameter.

  With a shared decoder, files hold it again under the name of each task.
  """
  twice = f'{BASE}transformer.decoders.'
  shared = not parts.separate and name.startswith(twice)
  return shared or re.fullmatch(PASSED, name) is not None


def differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file, and names missing from it."""
  parts = parts_of(found)
  known = images_and_heads(parts) | texts(parts)
  have = {name for name in map(new_name, found) if not passed(parts, name)}
  return have - known.keys(), known.keys() - have


def from_mmf(
  arrays: tree.Arrays, num_heads: int, text_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to variables of our `MultiTask`, float32.

  Raises a `UserError` that lists unknown and missing names.
  """
  tree.check_names(source, *differences(arrays))
  arrays = renamed(arrays)
  parts = parts_of(arrays)
  flat = linear.from_state(arrays, images_and_heads(parts), num_heads)
  flat |= linear.from_state(arrays, texts(parts), text_heads)
  return tree.unflatten(flat)


def to_mmf(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Inverts `from_mmf`, without the arrays that files hold twice."""
  flat = tree.flatten(tree.unstack_blocks(variables))
  parts = parts_of_ours(flat)
  return linear.written(flat, images_and_heads(parts) | texts(parts))


def parts_of_ours(flat: tree.Arrays) -> Parts:
  """Returns the parts that the names of our variables show."""
  shared = {name.removeprefix(_SHARED) for name in flat if name.startswith(_SHARED)}
  own = {name.split('/')[1] for name in flat if name.startswith('params/')}
  tasks = {task: _kind(task, flat) for task in own - {'shared'}}
  first = next(iter(tasks))
  separate = f'params/{first}/decoder/norm/scale' in flat
  start = rf'params/(?:shared|{re.escape(first)})/(encoder|decoder)/block_(\d+)/'
  sizes = torchvision_resnet.sizes(flat, torchvision_resnet.OURS, f'{_SHARED}backbone/')
  return Parts(
    tasks,
    linear.depths(flat, start),
    len({x for x in shared if re.fullmatch(r'text/encoder/block_\d+/norm1/scale', x)}),
    separate,
    frozenset(t for t in tasks if f'params/{t}/head/attribute_head/fc1/bias' in flat),
    'encoder/norm/scale' in shared,
    any(name in shared for name in _TASK_TABLES.values()),
    'text/pooler/bias' in shared,
    'image_proj/bias' in shared,
    sizes if sizes.depths else None,
  )


def _kind(task: str, flat: tree.Arrays) -> str:
  """Returns the kind of a task; published names of tasks on texts start with 'glue'."""
  if f'params/{task}/head/class_head/bias' in flat:
    return 'detection'
  return 'glue' if task.startswith('glue_') else 'vl'
