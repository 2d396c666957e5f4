"""Names that timm and transformers give the trunk of our BiTs and hybrid ViTs."""

from collections.abc import Sequence

Modules = dict[str, list[str]]


def modules(depths: Sequence[int], version: int, root: str, unit: str) -> Modules:
  """Returns our module for each of theirs.

  `root` is the prefix of the root's `conv` and `norm`. `unit` is the prefix in a unit,
  with `{stage}` and `{unit}` to be filled, from 0.
  """
  found = {f'{root}conv': ['resnet/conv_root']}
  if version == 1:
    found[f'{root}norm'] = ['resnet/norm_root']
  for i, depth in enumerate(depths):
    for j in range(depth):
      theirs = unit.format(stage=i, unit=j)
      ours = f'resnet/stage{i + 1}/unit{j + 1}/'
      for n in (1, 2, 3):
        found[f'{theirs}conv{n}'] = [f'{ours}conv{n}']
        found[f'{theirs}norm{n}'] = [f'{ours}norm{n}']
      if j == 0:
        found[f'{theirs}downsample.conv'] = [f'{ours}conv_proj']
        if version == 1:
          found[f'{theirs}downsample.norm'] = [f'{ours}norm_proj']
  return found
