"""Converts weights of ViT, BiT, ResNet and DETR between the names of their sources.

    python tools/convert_weights.py IN OUT [--to published|big_vision|timm|transformers]

IN is a published .npz, a .safetensors or .pth file of another library, a folder with
one, or the folder of a run. OUT is a new .npz (published names, or big_vision's), a new
.safetensors (timm's names, or transformers'), or a new folder with model.safetensors
and config.json, which `timm.create_model('local-dir:OUT', pretrained=True)` or
`from_pretrained('OUT')` loads. ResNets and DETRs go into .safetensors, where timm's
names of a ResNet are torchvision's and published ones of a DETR facebookresearch's, or
into folders of transformers. No bit of a parameter changes, where both sides have the
same arrays.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import cli, errors
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.inference import loading, preprocessing
from big_vision_like.inference.preprocessing import (
  DetectionPreprocessing,
  Preprocessing,
)
from big_vision_like.models import detr as detr_models
from big_vision_like.ops import positions
from big_vision_like.run import checkpoint, provenance
from big_vision_like.weights import (
  bit,
  detr,
  files,
  published,
  timm_bit,
  timm_vit,
  torchvision_resnet,
  transformers_bit,
  transformers_vit,
  tree,
  vision_transformer,
)
from big_vision_like.weights.published import Published

FAMILIES = {kind: family for family, kind in provenance.MODELS.items()}
TO_NPZ = {
  ('published', 'vit'): vision_transformer.to_npz,
  ('published', 'bit'): bit.to_big_transfer,
  ('published', 'bit_v1'): bit.to_big_vision_v1,
  ('big_vision', 'vit'): vision_transformer.to_big_vision,
  ('big_vision', 'bit'): bit.to_big_vision_v2,
  ('big_vision', 'bit_v1'): bit.to_big_vision_v1,
}


def load(
  path: pathlib.Path,
  step: int | None,
  num_heads: int | None,
  asked: tuple[int, int] | None,
) -> tuple[Published, loading.Prepare, positions.Grid | None]:
  """Reads weights of a file, of a folder with one, or of a run.

  Returns them with the images that they know, and the grid of their positions, None if
  nothing tells it.
  """
  if not checkpoint.steps(path):
    found = published.read(path, num_heads=num_heads)
    grid = told = provenance.published_grid(found)
    count = provenance.num_positions(found.params)
    if told is None and count:
      told = provenance.model_of(found).grid(asked) if asked else square(count)
    return found, loading.preprocessing_of_file(found, path, told), grid
  run = loading.load_run(path, step)
  model = run.network.module
  if type(model) not in FAMILIES:
    known = ', '.join(model.__name__ for model in FAMILIES)
    raise UserError(
      f'{path} is a run of {type(model).__name__}: what is converted is {known}'
    )
  source = f'run, step {int(run.state.step):,}'
  if FAMILIES[type(model)] in ('resnet', 'detr'):
    return describe_frozen(run, model, source), loading.of_run(path, step)[2], None
  found = published.describe(run.params, FAMILIES[type(model)], str(path))
  # What shapes do not tell: computed positions, and those shared by all blocks.
  told = {name: getattr(model, name) for name in found.architecture}
  told = {
    k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
    for k, v in told.items()
  }
  found = dataclasses.replace(found, architecture=told, source=source, assumed=())
  return (
    found,
    loading.preprocessing_of(run, asked),
    provenance.run_grid(run.config, model),
  )


def describe_frozen(run: loading.LoadedRun, model: Any, source: str) -> Published:
  """Weights of a run of a ResNet or DETR with frozen norms."""
  backbone = model
  if isinstance(model, detr_models.DETR):
    backbone = model.backbone
    if tuple(model.positions_at) != detr_models.DETR.positions_at:
      raise UserError(f'no other code has positions_at={model.positions_at}')
    if not model.queries_attend:
      raise UserError('no other code has queries_attend=False')
  if getattr(backbone, 'norm', None) != 'frozen':
    raise UserError(f"{run.workdir}: the norms of its ResNet are not norm='frozen'")
  found = published.describe(
    run.params,
    FAMILIES[type(model)],
    str(run.workdir),
    constants=run.variables['constants'],
  )
  # What shapes do not tell.
  found.architecture.get('backbone', found.architecture)['dilated'] = backbone.dilated
  return dataclasses.replace(found, source=source)


def image_size(
  weights: Published,
  images: Preprocessing,
  asked: tuple[int, int] | None,
  grid: positions.Grid | None = None,
) -> tuple[int, int]:
  """Returns height and width of the images that the positions are for.

  `grid` is that of the positions, if a run or a file tells it.
  """
  architecture, params = weights.architecture, weights.params
  if weights.family != 'vit' or architecture['posemb'] == 'none':
    return asked or images.size
  height, width = provenance.model_of(weights).stride
  count = provenance.num_positions(params)
  if asked:
    rows, columns = asked[0] // height, asked[1] // width
    if (rows * height, columns * width) != asked:
      raise UserError(
        f'--image-size: {asked[0]}x{asked[1]} does not divide into tokens of'
        f' {height}x{width} pixels'
      )
    made = f'--image-size: {asked[0]}x{asked[1]} makes a grid of {rows}x{columns}'
    if count not in (None, rows * columns):
      raise UserError(
        f'{made}, the weights have {count} positions, which are not resized here'
      )
    if count is not None and grid not in (None, (rows, columns)):
      raise UserError(
        f'{made}, the positions of the weights are for one of {grid[0]}x{grid[1]}, and'
        ' they are not resized here'
      )
    return asked
  if architecture['posemb'] == 'sincos2d':
    raise UserError(
      'positions are computed from the size of images: say which with --image-size'
    )
  if architecture['posemb'] != 'learned':
    raise UserError(f'no other code has posemb={architecture["posemb"]!r}')
  rows, columns = grid or square(count)
  return rows * height, columns * width


def square(count: int) -> positions.Grid:
  """Returns the square grid with this number of positions."""
  side = math.isqrt(count)
  if side**2 != count:
    raise UserError(
      f'{count} positions are no square: say what images they are for with --image-size'
      ' HEIGHT WIDTH'
    )
  return side, side


def with_positions(weights: Published, size: tuple[int, int]) -> Published:
  """The same ViT with its computed positions as an array, which PyTorch's need."""
  architecture = weights.architecture
  if weights.family != 'vit' or architecture['posemb'] != 'sincos2d':
    return weights
  grid = provenance.model_of(weights).grid(size)
  pos_1ND = positions.sincos2d(*grid, architecture['width'])
  has_cls = int('cls' in weights.params)
  pos_1ND = np.pad(np.asarray(pos_1ND), ((0, 0), (has_cls, 0), (0, 0)))
  return dataclasses.replace(
    weights,
    params=weights.params | {'pos_embedding': pos_1ND},
    architecture=architecture | {'posemb': 'learned'},
  )


def state_dict(weights: Published, library: str) -> dict[str, np.ndarray]:
  """The weights as timm, transformers or facebookresearch names them."""
  if weights.family == 'resnet':
    if library == 'timm':
      return torchvision_resnet.to_torchvision(weights.variables, 'frozen')
    return torchvision_resnet.to_transformers(weights.variables, 'frozen')
  if weights.family == 'detr':
    if library == 'published':
      return detr.to_facebook(weights.variables)
    # Transformers' own ResNet is never dilated.
    dilated = weights.architecture['backbone']['dilated']
    backbone = 'timm' if dilated else 'transformers'
    return detr.to_transformers(weights.variables, backbone)
  version = 1 if weights.family == 'bit_v1' else 2
  if library == 'timm':
    if weights.family == 'vit':
      return timm_vit.to_timm(weights.params)
    return timm_bit.to_timm(weights.params, version)
  if weights.family == 'vit':
    return transformers_vit.to_transformers(weights.params)
  return transformers_bit.to_transformers(weights.params, version)


def configs(
  weights: Published, images: loading.Prepare, library: str
) -> dict[str, dict[str, Any]]:
  """The JSON files beside a state dict, by name."""
  told = weights.architecture
  if library == 'transformers':
    return transformers_configs(weights, images)
  if weights.family in ('resnet', 'detr'):
    raise UserError(f'{library} has no config.json here: write a .safetensors file')
  sizes = weights.num_classes, images.size, weights.channels
  if weights.family == 'bit_v1':
    raise UserError(
      'timm has no function that makes a BiT v1: write a .safetensors file, for'
      " ResNetV2(preact=False, stem_type='same', ...)"
    )
  if weights.family == 'bit':
    made = timm_bit.config(told['depths'], told['width'], *sizes)
  else:
    made = timm_vit.config(told, *sizes)
  before = weights.metadata.get('config.json', {})
  if 'pretrained_cfg' in before:  # from timm: as it was there
    size = {'input_size': [weights.channels, *images.size]}
    made['pretrained_cfg'] |= before['pretrained_cfg'] | size
  else:
    made['pretrained_cfg'] |= preprocessing.to_timm(images)
  if 'label_names' in before:
    kept = ('label_names', 'label_descriptions')
    made |= {k: before[k] for k in kept if k in before}
  elif images.label_names:
    made['label_names'] = list(images.label_names)
  return {'config.json': made}


def transformers_configs(
  weights: Published, images: loading.Prepare
) -> dict[str, dict[str, Any]]:
  """config.json and preprocessor_config.json for transformers."""
  told, classes, channels = weights.architecture, weights.num_classes, weights.channels
  if weights.family == 'vit':
    made = transformers_vit.config(told, classes, images.size, channels)
  elif weights.family == 'resnet':
    made = torchvision_resnet.config(told, classes, channels)
  elif weights.family == 'detr':
    made = detr.config(told, classes, channels)
  else:
    version = 1 if weights.family == 'bit_v1' else 2
    made = transformers_bit.config(
      told['depths'], told['width'], version, classes, channels
    )
  before = weights.metadata.get('config.json', {})
  if 'id2label' in before:  # from transformers: as it was there
    made = {k: v for k, v in made.items() if k != 'num_labels'}
    made |= {k: before[k] for k in ('id2label', 'label2id')}
  elif images.label_names:
    made = {k: v for k, v in made.items() if k != 'num_labels'}
    named = {str(i): name for i, name in enumerate(images.label_names)}
    made |= {'id2label': named, 'label2id': {v: int(k) for k, v in named.items()}}
  processor = weights.metadata.get('preprocessor_config.json', {})
  if isinstance(images, Preprocessing):
    processor = processor | preprocessing.to_transformers(images)
  else:
    processor = processor | detection_processor(images)
  return {'config.json': made, 'preprocessor_config.json': processor}


def detection_processor(images: DetectionPreprocessing) -> dict[str, Any]:
  """The preprocessor_config.json of a detector."""
  if images.short is None:
    raise UserError(
      'transformers resizes by the shorter side: write a .safetensors file'
    )
  longest = {'longest_edge': images.longest} if images.longest else {}
  return dict(
    image_processor_type='DetrImageProcessor',
    do_resize=True,
    size={'shortest_edge': images.short, **longest},
    resample=2,
    do_rescale=True,
    do_normalize=True,
    image_mean=list(images.mean),
    image_std=list(images.std),
    do_pad=True,
  )


def write(
  weights: Published,
  images: loading.Prepare,
  out: pathlib.Path,
  to: str,
  asked: tuple[int, int] | None,
  grid: positions.Grid | None = None,
) -> list[pathlib.Path]:
  """Writes the new file or folder, whole or not at all; returns its files."""
  if weights.family == 'vit' and weights.architecture['posemb_at'] != 'stem':
    raise UserError(
      f'posemb_at={weights.architecture["posemb_at"]!r}: no other code adds positions'
      ' in front of every block'
    )
  out.parent.mkdir(parents=True, exist_ok=True)
  if out.suffix == '.npz':
    if asked:
      images = images.with_size(image_size(weights, images, asked, grid))
    return write_file(weights, images, out, TO_NPZ[to, weights.family](weights.params))
  if weights.family != 'detr':
    images = images.with_size(image_size(weights, images, asked, grid))
    weights = with_positions(weights, images.size)
  arrays = state_dict(weights, to)
  if out.suffix == '.safetensors':
    return write_file(weights, images, out, arrays)
  beside = configs(weights, images, to)
  part = out.with_name(f'{out.name}.part')
  shutil.rmtree(part, ignore_errors=True)
  part.mkdir()
  try:
    files.write(part / 'model.safetensors', arrays)
    for name, content in beside.items():
      write_json(part / name, content)
    part.rename(out)
  finally:
    shutil.rmtree(part, ignore_errors=True)
  return sorted(out.iterdir())


def write_file(
  weights: Published,
  images: loading.Prepare,
  out: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
) -> list[pathlib.Path]:
  """Writes arrays, and beside them what they do not tell."""
  about = {
    'family': weights.family,
    'architecture': weights.architecture,
    'num_classes': weights.num_classes,
    'assumed': weights.assumed,
    'preprocessing': images.to_json(),
    'metadata': weights.metadata,
  }
  write_json(published.sidecar(out), about)
  try:
    files.write(out, arrays)
  except BaseException:
    published.sidecar(out).unlink()  # else it would be taken for that of a new OUT
    raise
  return [out, published.sidecar(out)]


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """Writes a JSON file that appears when it is complete."""
  part = path.with_name(f'{path.name}.part')
  part.write_text(json.dumps(content, indent=2) + '\n')
  os.replace(part, path)


def target(out: pathlib.Path, to: str | None, family: str) -> str:
  """Whose names are written, if they go into such a file."""
  if out.suffix not in ('', '.npz', '.safetensors'):
    raise UserError(f'{out}: OUT ends in .npz or .safetensors, or is a folder')
  fitting = (
    ('published', 'big_vision') if out.suffix == '.npz' else ('timm', 'transformers')
  )
  if family in ('resnet', 'detr') and out.suffix == '.npz':
    raise UserError(f'{out}: a {family} goes into .safetensors or a folder')
  if family == 'detr':
    fitting = ('transformers', 'published')
  to = to or fitting[0]
  if to not in fitting:
    raise UserError(f'--to={to} does not go into {out}: {" or ".join(fitting)} does')
  return to


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Converts one file; what exists is left alone."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    'source', metavar='IN', type=pathlib.Path, help='weights or a run'
  )
  parser.add_argument(
    'out', metavar='OUT', type=pathlib.Path, help='new, .npz or other'
  )
  parser.add_argument(
    '--to',
    choices=('published', 'big_vision', 'timm', 'transformers'),
    help='whose names; default published for .npz, transformers for DETR, else timm',
  )
  parser.add_argument(
    '--image-size',
    type=int,
    nargs='+',
    metavar='PIXELS',
    help='height and width, where positions are computed or the grid is not square',
  )
  parser.add_argument('--num-heads', type=int, help='where IN does not tell')
  parser.add_argument('--step', type=int, help="a run's checkpoint; default the newest")
  args = parser.parse_args(argv)
  cli.set_up_jax()
  there = [args.out] + [published.sidecar(args.out)] * bool(args.out.suffix)
  for path in there:
    if path.exists():
      raise UserError(f'{path} is there already: name a new OUT')
  if args.image_size and (len(args.image_size) > 2 or min(args.image_size) < 1):
    given = ' '.join(map(str, args.image_size))
    raise UserError(f'--image-size {given} is no side, or height and width')
  asked = args.image_size and (args.image_size[0], args.image_size[-1])
  weights, images, grid = load(args.source, args.step, args.num_heads, asked)
  to = target(args.out, args.to, weights.family)
  if asked and weights.family == 'detr':
    raise UserError('--image-size: a DETR takes images of any size')
  sizes = ', '.join(f'{k}={v}' for k, v in weights.architecture.items())
  count = sum(array.size for array in tree.flatten(weights.params).values())
  say('read', f'{args.source}: {weights.source}')
  say(weights.family, sizes)
  say('', f'{weights.num_classes:,} classes, {count:,} parameters')
  for text in weights.assumed:
    say('assumed', text)
  say('images', str(images))
  for path in write(weights, images, args.out, to, asked, grid):
    say('written', f'{path} ({path.stat().st_size:,} bytes)')


if __name__ == '__main__':
  raise SystemExit(main())
