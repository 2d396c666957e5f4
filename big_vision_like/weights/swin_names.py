"""Names of the arrays of Swin Transformers, in our models and in other libraries.

Other libraries number blocks within a stage. In our models block 2 i is the part
`window` of `block_i`, and block 2 i + 1 its part `shifted`. Axes of patterns: D width
of a stage, G heads, K features of one, M hidden units, T relative positions.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import linear, tree, vit_names

_OURS = r'stage(\d+)/block_(\d+)/(window|shifted)/'
_PARTS = ('window', 'shifted')
_QKV = ['attention/query', 'attention/key', 'attention/value']
_LAYERS = ('norm1', *_QKV, 'attention/out', 'norm2', 'mlp/fc1', 'mlp/fc2')
_BIAS = 'relative_bias'
_SHAPES = [
  (r'.*/norm\d/(scale|bias)', 'D'),
  (r'.*/attention/(query|key|value)/kernel', 'DGK'),
  (r'.*/attention/(query|key|value)/bias', 'GK'),
  (r'.*/attention/out/kernel', 'GKD'),
  (r'.*/mlp/fc1/kernel', 'DM'),
  (r'.*/mlp/fc1/bias', 'M'),
  (r'.*/mlp/fc2/kernel', 'MD'),
  (r'.*/(attention/out|mlp/fc2)/bias', 'D'),
  (r'.*/relative_bias', 'TG'),
]


@dataclasses.dataclass(frozen=True)
class Layout:
  """A library's names for ours, with stages and blocks numbered from 0.

  `merge` names the merging after stage `stage`; the next stage is `following`. `norm`
  names a stage's own norm, by `stage` or by `number` from 1. Names that match `passed`
  are not parameters and are ignored.
  """

  top: Mapping[str, str]
  plain: Mapping[str, str]
  block: str
  layers: Mapping[str, Sequence[str]]
  bias: str
  merge: str
  norm: str
  passed: str

  def depths(self, names: Collection[str]) -> list[int]:
    """Returns the number of blocks of each stage."""
    pattern = re.escape(self.block).replace(r'\{stage\}', r'(\d+)')
    pattern = pattern.replace(r'\{block\}', r'(\d+)')
    return _depths(
      [(int(m[1]), int(m[2])) for name in names if (m := re.match(pattern, name))]
    )

  def table(self, depths: Sequence[int]) -> linear.Table:
    """Returns our arrays for each of theirs."""
    modules = {theirs: [ours] for theirs, ours in self.top.items()}
    plain = dict(self.plain)
    for stage, depth in enumerate(depths):
      for block in range(depth):
        theirs = self.block.format(stage=stage, block=block)
        ours = _block(stage, block)
        for name, pieces in self.layers.items():
          modules[theirs + name] = [ours + piece for piece in pieces]
        plain[theirs + self.bias] = ours + _BIAS
      merge = self.merge.format(stage=stage, following=stage + 1)
      for name in ('norm', 'reduction'):
        modules[f'{merge}.{name}'] = [f'merge{stage + 1}/{name}']
      norm = self.norm.format(stage=stage, number=stage + 1)
      modules[norm] = [f'norm{stage + 1}']
    found = linear.table(modules, plain)
    return {k: v for k, v in found.items() if not v[0].endswith('reduction/bias')}

  def kept(self, names: Collection[str]) -> list[str]:
    """Returns the names of parameters that our model has.

    Backbones of transformers have a last norm that they do not use.
    """
    unused = r'(swin\.)?layernorm\..*|' if _has_norms(names) else ''
    return [name for name in names if not re.fullmatch(unused + self.passed, name)]

  def differences(self, names: Collection[str]) -> tree.Differences:
    """Returns names unknown in a file of such a Swin, and names missing from it."""
    names = self.kept(names)
    known = self.table(self.depths(names) or [1])
    return linear.differences(names, known, unfit)

  def read(
    self, state: tree.Arrays, heads: Sequence[int] | None = None
  ) -> dict[str, np.ndarray]:
    """Returns our flat arrays; `heads` per stage are used if no bias shows them."""
    state = {name: state[name] for name in self.kept(state)}
    depths, flat = self.depths(state), {}
    known = self.table(depths)
    for stage in range(1, len(depths) + 1):
      part = {k: v for k, v in known.items() if v[0].startswith(f'stage{stage}/')}
      bias = next((k for k in part if k.endswith(self.bias) and k in state), None)
      if bias is not None:
        count = state[bias].shape[-1]
      elif heads is None:
        raise UserError(
          f'stage {stage} has no {self.bias}, so its number of heads is unknown'
        )
      else:
        count = heads[stage - 1]
      flat |= linear.from_state(state, part, count)
    rest = {k: v for k, v in known.items() if not v[0].startswith('stage')}
    return flat | linear.from_state(state, rest, 1)

  def written(self, flat: tree.Arrays) -> dict[str, np.ndarray]:
    """Returns their arrays; raises a `UserError` that lists names without a place."""
    return linear.written(flat, self.table(depths(flat)))


def _microsoft(merge: str, head: str) -> Layout:
  return Layout(
    top={
      'patch_embed.proj': 'embed',
      'patch_embed.norm': 'embed_norm',
      'norm': 'norm',
      head: 'head',
    },
    plain={'absolute_pos_embed': 'pos_embedding'},
    block='layers.{stage}.blocks.{block}.',
    layers={
      'norm1': ['norm1'],
      'attn.qkv': _QKV,
      'attn.proj': ['attention/out'],
      'norm2': ['norm2'],
      'mlp.fc1': ['mlp/fc1'],
      'mlp.fc2': ['mlp/fc2'],
    },
    bias='attn.relative_position_bias_table',
    merge=merge,
    norm='norm{stage}',
    passed=r'.*\.(attn\.relative_position_index|attn_mask)',
  )


MICROSOFT = _microsoft('layers.{stage}.downsample', 'head')
TIMM = _microsoft('layers.{following}.downsample', 'head.fc')


def _transformers(
  prefix: str, attention: Mapping[str, Sequence[str]], mlp: Sequence[str], bias: str
) -> Layout:
  return Layout(
    top={
      f'{prefix}embeddings.patch_embeddings.projection': 'embed',
      f'{prefix}embeddings.norm': 'embed_norm',
      f'{prefix}layernorm': 'norm',
      'classifier': 'head',
    },
    plain={f'{prefix}embeddings.position_embeddings': 'pos_embedding'},
    block=f'{prefix}encoder.layers.{{stage}}.blocks.{{block}}.',
    layers={
      'layernorm_before': ['norm1'],
      **{f'attention.{theirs}': ours for theirs, ours in attention.items()},
      'layernorm_after': ['norm2'],
      **{theirs: [f'mlp/fc{i}'] for i, theirs in enumerate(mlp, start=1)},
    },
    bias=f'attention.{bias}',
    merge=f'{prefix}encoder.layers.{{stage}}.downsample',
    norm='hidden_states_norms.stage{number}',
    passed=r'.*\.relative_position_index',
  )


def transformers(prefix: str) -> Layout:
  """Returns the layout of transformers 5; `prefix` is 'swin.' or empty."""
  parts = ('query', 'key', 'value', 'out')
  attention = {f'{part[0]}_proj': [f'attention/{part}'] for part in parts}
  bias = 'relative_position_bias.relative_position_bias_table'
  return _transformers(prefix, attention, ('mlp.fc1', 'mlp.fc2'), bias)


def old_transformers(prefix: str) -> Layout:
  """Returns the layout of transformers before 5, as in most published files."""
  attention = {f'self.{part.split("/")[1]}': [part] for part in _QKV}
  attention |= {'output.dense': ['attention/out']}
  mlp, bias = (
    ('intermediate.dense', 'output.dense'),
    'self.relative_position_bias_table',
  )
  return _transformers(prefix, attention, mlp, bias)


def flat_positions(
  flat: tree.Arrays,
) -> tuple[dict[str, np.ndarray], tuple[int, int] | None]:
  """Returns arrays with positions as a sequence, and their grid if they had one.

  Positions of models for detection and segmentation have shape (1, D, h, w).
  """
  pos = flat.get('pos_embedding')
  if pos is None or pos.ndim != 4:
    return dict(flat), None
  pos_1DN = pos.reshape(*pos.shape[:2], -1)
  return {**flat, 'pos_embedding': pos_1DN.swapaxes(1, 2)}, pos.shape[2:]


def depths(names: Collection[str]) -> list[int]:
  """Returns the number of blocks per stage from our names."""
  matches = [m for name in names if (m := re.match(_OURS, name))]
  return _depths([(int(m[1]) - 1, 2 * int(m[2]) + _PARTS.index(m[3])) for m in matches])


def maps(names: Collection[str]) -> tuple[int, ...]:
  """Returns the stages, from 1, that have their own norm in our names."""
  return tuple(i for i in range(1, len(depths(names)) + 1) if f'norm{i}/scale' in names)


def unfit(names: Collection[str]) -> tree.Differences:
  """Returns the names that no Swin has, and the names missing from these."""
  have, want = set(names), {'embed', 'embed_norm'}
  blocks = depths(have) or [1]
  parts = {name[m.end() :] for name in have if (m := re.match(_OURS, name))}
  without_content = 'attention/value/kernel' in parts and not any(
    part.startswith(('attention/query', 'attention/key')) for part in parts
  )
  left_out = _QKV[:2] if without_content else ()
  layers = [layer for layer in _LAYERS if layer not in left_out]
  for stage, depth in enumerate(blocks):
    for block in range(depth):
      want |= {_block(stage, block) + layer for layer in layers}
  want |= {f'norm{stage}' for stage in maps(have)} or {'norm'}
  want |= {f'merge{i}/norm' for i in range(1, len(blocks))}
  if have & {'head/kernel', 'head/bias'}:
    want.add('head')
  full = {f'{module}/{leaf}' for module in want for leaf in linear.leaves(module)}
  full |= {f'merge{i}/reduction/kernel' for i in range(1, len(blocks))}
  full |= have & {'pos_embedding'}
  if _BIAS in parts:
    for stage, depth in enumerate(blocks):
      full |= {_block(stage, block) + _BIAS for block in range(depth)}
  return have - full, full - have


def check_shapes(flat: tree.Arrays, source: str) -> list[dict[str, int]]:
  """Returns the sizes of each stage by letter; W is the side of its window.

  Raises a `UserError` that names shapes which do not match each other.
  """
  width, stages, wrong = flat['embed/bias'].size, [], []
  for stage in range(1, len(depths(flat)) + 1):
    part = {k: v for k, v in flat.items() if k.startswith(f'stage{stage}/')}
    sizes = {'D': width * 2 ** (stage - 1)}
    wrong += vit_names.collect_sizes(part, _SHAPES, sizes)
    if 'T' in sizes:
      sizes['W'] = (math.isqrt(sizes['T']) + 1) // 2
      if (2 * sizes['W'] - 1) ** 2 != sizes['T']:
        wrong.append(f'{sizes["T"]} relative positions are not of a square window')
    stages.append(sizes)
  patch = flat['embed/kernel'].shape[:2]
  if len({*patch}) > 1:
    wrong.append(f'embed/kernel {flat["embed/kernel"].shape} is not square')
  last = stages[-1]['D'] if stages else width
  for i, sizes in enumerate(stages[:-1], start=1):
    want = {'reduction/kernel': (4 * sizes['D'], 2 * sizes['D'])}
    want |= {f'norm/{leaf}': (4 * sizes['D'],) for leaf in ('scale', 'bias')}
    for name, shape in want.items():
      have = flat[f'merge{i}/{name}'].shape
      if have != shape:
        wrong.append(f'merge{i}/{name} {have} is not {shape}')
  if 'head/kernel' in flat and flat['head/kernel'].shape[:1] != (last,):
    wrong.append(f'head/kernel {flat["head/kernel"].shape} does not have {last} inputs')
  if len({sizes.get('M', 0) / sizes['D'] for sizes in stages}) > 1:
    wrong.append('the ratio of hidden units to width is not the same in all stages')
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return stages


def _has_norms(names: Collection[str]) -> bool:
  return any(name.startswith('hidden_states_norms.') for name in names)


def _block(stage: int, block: int) -> str:
  return f'stage{stage + 1}/block_{block // 2}/{_PARTS[block % 2]}/'


def _depths(found: Sequence[tuple[int, int]]) -> list[int]:
  """Returns blocks per stage; a file cannot have more stages or blocks than arrays."""
  found = [pair for pair in found if max(pair) < len(found)]
  stages = max((stage + 1 for stage, _ in found), default=0)
  most = [0] * stages
  for stage, block in found:
    most[stage] = max(most[stage], block + 1)
  return most
