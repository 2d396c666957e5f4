"""The trunk of our BiTs and hybrid ViTs, as timm and transformers name its modules."""

from collections.abc import Sequence

Modules = dict[str, list[str]]


def modules(depths: Sequence[int], version: int, root: str, unit: str) -> Modules:
  """Our module behind each of theirs.

  `root` is what stands in front of the root's `conv` and `norm`, `unit` of those of a
  unit, with `{stage}` and `{unit}`, from 0.
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
