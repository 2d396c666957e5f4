"""Converts weights between the formats of their sources.

    python tools/convert_weights.py IN OUT [--to published|big_vision|timm|transformers]

IN is a published .npz, a .safetensors or .pth file of another library, a folder with
one, or the directory of a run. OUT is a new .npz (published names, or big_vision's), a
new .safetensors (names of timm or transformers), or a new folder with model.safetensors
and config.json, which `timm.create_model('local-dir:OUT', pretrained=True)` or
`from_pretrained('OUT')` loads. ResNets and DETRs are written to .safetensors, or to
folders for transformers. In .safetensors, timm's names of a ResNet are torchvision's,
and the published names of a DETR are facebookresearch's.

Parameters are converted without changing a bit wherever both formats have the same
arrays. The exception is `--fold-normalization 0.5 0.5`, which folds another mean and
deviation of images into the first layer, for example the ones of Google's ViTs into the
first layer of a DeiT.
"""

import argparse
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np

from big_vision_like import cli, errors
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.files import atomic, write_json
from big_vision_like.inference import loading
from big_vision_like.inference.preprocessing import Prepare
from big_vision_like.ops.positions import Grid
from big_vision_like.run import checkpoint, provenance
from big_vision_like.weights import (
  beside,
  family,
  files,
  folding,
  published,
  tree,
)
from big_vision_like.weights.published import Published


def load(
  path: pathlib.Path,
  step: int | None,
  num_heads: int | None,
  asked: tuple[int, int] | None,
  source_grid: Grid | None = None,
) -> tuple[Published, Prepare, Grid | None]:
  """Loads weights from a file, from a folder with one, or from a run.

  Returns the weights with their preprocessing, and the grid of their positions, or None
  if it is unknown.
  """
  if not checkpoint.steps(path):
    provenance.check_no_run(path)
    found = published.read(path, num_heads=num_heads)
    grid = provenance.published_grid(found, source_grid)
    grid = grid or _unknown_grid(found.model, found.variables, asked)
    return found, loading.preprocessing_of_file(found, path, grid), grid
  run = loading.load_run(path, step)
  model, families = run.network.module, family.families().values()
  kind = next((one for one in families if type(model) is one.model), None)
  if kind is None:
    known = ', '.join(one.model.__name__ for one in families)
    raise UserError(
      f'{path} is a run of {type(model).__name__}, which cannot be converted;'
      f' models that can: {known}'
    )
  if kind.check is not None:
    kind.check(model, str(path))
  others = {name: run.variables.get(name) for name in ('constants', 'batch_stats')}
  found = published.describe(run.params, kind.name, str(path), **others)
  told = {
    name: functools.reduce(getattr, name.split('/'), model) for name in kind.untold
  }
  found = dataclasses.replace(
    found,
    architecture=tree.unflatten(tree.flatten(found.architecture) | told),
    source=f'run, step {int(run.state.step):,}',
  )
  known = provenance.run_grid(run.config, model, path)
  grid = provenance.chosen_grid(known, source_grid)
  grid = grid or _unknown_grid(model, run.variables, asked)
  return found, loading.preprocessing_of(run, asked), grid


def _unknown_grid(
  model: nn.Module, variables: Mapping[str, Any], asked: tuple[int, int] | None
) -> Grid | None:
  """Returns the grid of positions if neither a run nor a file records it."""
  count, _ = provenance.table_grid(model, variables)
  if not count:
    return None
  return model.grid(asked) if asked else provenance.square(count)


def folded(
  weights: Published, images: Prepare, mean: Sequence[float], std: Sequence[float]
) -> tuple[Published, Prepare]:
  """Folds a normalization into weights, so that they take images with another one.

  `mean` and `std` have one number, or one for each channel. The returned weights
  compute the same function, and the JSON files next to them have the new numbers.
  """
  channels = images.channels
  after = []
  for values in (mean, std):
    if len(values) not in (1, channels):
      raise UserError(
        f'--fold-normalization: {len(values)} numbers for images of {channels} channels'
      )
    after.append(tuple(values) * (channels // len(values)))
  before = images.mean, images.std
  params = folding.fold(weights.params, weights.family.stem, before, tuple(after))
  images = dataclasses.replace(images, mean=after[0], std=after[1])
  metadata = dict(weights.metadata)
  told = dict(zip(('mean', 'std'), map(list, after), strict=True))
  config = metadata.get('config.json', {})
  if config.get('pretrained_cfg') is not None:
    metadata['config.json'] = config | {
      'pretrained_cfg': config['pretrained_cfg'] | told
    }
  if 'preprocessor_config.json' in metadata:
    new = {f'image_{name}': value for name, value in told.items()}
    new |= {'do_normalize': True}
    metadata['preprocessor_config.json'] = metadata['preprocessor_config.json'] | new
  return dataclasses.replace(weights, params=params, metadata=metadata), images


def numbers(text: str) -> tuple[float, ...]:
  """Parses numbers separated by commas."""
  try:
    return tuple(map(float, text.split(',')))
  except ValueError:
    message = f'{text} is neither one number nor one for each channel: 0.5, 0.5,0.4,0.4'
    raise argparse.ArgumentTypeError(message) from None


def target(
  out: pathlib.Path, to: str | None, kind: family.Family
) -> tuple[str, family.Source]:
  """Returns the library whose names are written, and its source, if they fit OUT."""
  if out.suffix not in ('', '.npz', '.safetensors'):
    raise UserError(f'{out}: OUT must end in .npz or .safetensors, or be a folder')
  suffix = out.suffix or '.safetensors'
  fitting = {
    library: source
    for source in kind.sources
    if suffix in source.suffixes
    for library in source.writes
  }
  if not fitting:
    there = {s for source in kind.sources if source.writes for s in source.suffixes}
    others = (
      '.safetensors or a folder' if '.safetensors' in there else 'no supported format'
    )
    raise UserError(f'{out}: a {kind.name} can be written to {others}')
  to = to or next(iter(fitting))
  if to not in fitting:
    raise UserError(f'--to={to} cannot be written to {out}: use {" or ".join(fitting)}')
  return to, fitting[to]


def write(
  weights: Published,
  images: Prepare,
  out: pathlib.Path,
  to: str | None,
  asked: tuple[int, int] | None,
  grid: Grid | None = None,
) -> list[pathlib.Path]:
  """Writes the new file or folder atomically; returns its files."""
  to, source = target(out, to, weights.family)
  weights, images = source.fit(weights, images, asked, grid)
  arrays = source.writes[to](weights)
  if out.suffix:
    return write_file(weights, images, out, arrays)
  contents = source.config(weights, images)
  with atomic(out) as part:
    part.mkdir()
    files.write(part / 'model.safetensors', arrays)
    for name, content in contents.items():
      write_json(part / name, content)
  return sorted(out.iterdir())


def write_file(
  weights: Published,
  images: Prepare,
  out: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
) -> list[pathlib.Path]:
  """Writes arrays to a file, and the fields it cannot hold to a JSON next to it."""
  about = {
    'family': weights.family.name,
    'architecture': weights.architecture,
    'num_classes': weights.num_classes,
    'assumed': weights.assumed,
    'preprocessing': images.to_json(),
    'metadata': weights.metadata,
  }
  write_json(beside.sidecar(out), about)
  try:
    files.write(out, arrays)
  except BaseException:
    beside.sidecar(out).unlink()  # otherwise it would be read with a new OUT
    raise
  return [out, beside.sidecar(out)]


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Converts one set of weights; refuses to overwrite OUT."""
  parser = errors.parser(__doc__)
  parser.add_argument(
    'source', metavar='IN', type=pathlib.Path, help='weights, or a run directory'
  )
  parser.add_argument(
    'out', metavar='OUT', type=pathlib.Path, help='new .npz, .safetensors or folder'
  )
  parser.add_argument(
    '--to',
    help='names to write: published, big_vision, timm or transformers; default: the'
    ' first that OUT can hold',
  )
  parser.add_argument(
    '--image-size',
    type=int,
    nargs='+',
    metavar='PIXELS',
    help='height and width, if positions are computed or the grid is not square',
  )
  loading.add_source_grid(parser)
  parser.add_argument(
    '--num-heads', type=int, help='number of heads, if IN does not have it'
  )
  parser.add_argument(
    '--fold-normalization',
    type=numbers,
    nargs=2,
    metavar=('MEAN', 'STD'),
    help='normalization of images in [0, 1] to fold into the first layer',
  )
  parser.add_argument(
    '--step', type=int, help="step of the run's checkpoint; default: the newest"
  )
  args = parser.parse_args(argv)
  cli.set_up_jax()
  there = [args.out, *([beside.sidecar(args.out)] if args.out.suffix else [])]
  for path in there:
    if path.exists():
      raise UserError(f'{path} already exists: name a new OUT')
  if args.image_size and (len(args.image_size) > 2 or min(args.image_size) < 1):
    given = ' '.join(map(str, args.image_size))
    raise UserError(f'--image-size {given} must be a side, or height and width')
  asked = args.image_size and (args.image_size[0], args.image_size[-1])
  weights, images, grid = load(
    args.source, args.step, args.num_heads, asked, args.source_grid
  )
  target(args.out, args.to, weights.family)
  if args.fold_normalization:
    mean, std = args.fold_normalization
    if not all(np.isfinite([*mean, *std])) or not min(std) > 0:
      raise UserError(
        '--fold-normalization: deviations must be above 0, and all numbers finite'
      )
    weights, images = folded(weights, images, mean, std)
  sizes = ', '.join(f'{k}={v}' for k, v in weights.architecture.items())
  count = sum(array.size for array in tree.flatten(weights.params).values())
  say('read', f'{args.source}: {weights.source}')
  say(weights.family.name, sizes)
  say('', f'{weights.num_classes:,} classes, {count:,} parameters')
  for text in weights.assumed:
    say('assumed', text)
  say('images', str(images))
  for path in write(weights, images, args.out, args.to, asked, grid):
    say('written', f'{path} ({path.stat().st_size:,} bytes)')


if __name__ == '__main__':
  raise SystemExit(main())
