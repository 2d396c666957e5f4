"""Generates images with a trained generator: samples, attention, interpolation, swaps.

    python tools/generate.py --run=runs/gan_digits16 --seeds=0-15 --out=looked
    python tools/generate.py --weights=ffhq.npz --seeds=3,7 --truncation=1,0.7,0.5

Writes samples.png (a row for each value of --truncation, a column for each seed), each
image as its own file with --each, interpolation.gif (a loop through all seeds),
swapped.png (the first image with one component of the second each), and, if the
generator attends to components, attention.png. Seeds always give the same latents;
local noise is constant.
"""

import pathlib
import re

import numpy as np

from big_vision_like import cli, errors, files
from big_vision_like.errors import UserError
from big_vision_like.inference import generating, loading
from big_vision_like.viz import clips, generation, images
from big_vision_like.weights import published

MOST = 256  # seeds of one call


def seeds_of(text: str) -> list[int]:
  """Parses seeds such as '0-15' or '3,7,20-22'."""
  found: list[int] = []
  for part in text.split(','):
    if not (match := re.fullmatch(r'(\d+)(?:-(\d+))?', part)):
      raise UserError(f'--seeds={text}: {part!r} is neither a number nor a range 0-15')
    first, last = match[1], match[2] or match[1]
    found += range(int(first), int(last) + 1)
  if not 0 < len(found) <= MOST:
    raise UserError(f'--seeds={text} names {len(found)} seeds; take 1 to {MOST}')
  return found


def values_of(text: str) -> list[float]:
  """Parses values of truncation such as '1,0.7'."""
  try:
    return [float(part) for part in text.split(',')]
  except ValueError:
    raise UserError(f'--truncation={text} is not a list of numbers: 1,0.7') from None


def generator(weights: str | None, run: str | None) -> generating.Synthesis:
  """Returns the generator of a weights file or of a run's folder."""
  if run is not None:
    loaded = loading.load_run(run)
    return generating.of_run(loaded.task, loaded.state)
  found = published.read(weights)
  if not generating.has_styles(found.model):
    raise UserError(f'{weights} has a {found.family.name}, which generates no images')
  return generating.Synthesis(found.model, found.variables)


def drawn(
  synthesis: generating.Synthesis, seeds: list[int], values: list[float], steps: int
) -> dict[str, bytes]:
  """Returns the contents of all files by name."""
  w_BKW = np.concatenate([synthesis.styles(1, seed) for seed in seeds])
  rows_PBHWC = synthesis.by_truncation(w_BKW, tuple(values))
  found = {'samples.png': images.png(generation.by_truncation(rows_PBHWC))}
  outputs = synthesis.images(w_BKW)
  if 'attention' in outputs:
    sheet_HWC = generation.attention(outputs['image'], outputs['attention'])
    found['attention.png'] = images.png(sheet_HWC)
  if len(seeds) > 1:
    frames = synthesis.interpolated(w_BKW, steps)
    pictures = generation.interpolation(frames[:, None])
    found['interpolation.gif'] = clips.gif(np.stack(pictures), 0.1)
    swapped_KHWC = synthesis.swapped(w_BKW[0], w_BKW[1])
    own, other = outputs['image'][:2]
    found['swapped.png'] = images.png(generation.swapped(own, other, swapped_KHWC))
  return found


@errors.told_plainly
def main(arguments: list[str] | None = None) -> int:
  parser = errors.parser(__doc__)
  source = parser.add_mutually_exclusive_group(required=True)
  source.add_argument('--weights', help='a file with a published generator')
  source.add_argument('--run', help='the folder of a run that trained a generator')
  parser.add_argument('--seeds', default='0-15', help='such as 0-15 or 3,7,20-22')
  parser.add_argument(
    '--truncation',
    default='1,0.7',
    help='factors of the distance to the average style: 1 is no truncation',
  )
  parser.add_argument(
    '--steps', type=int, default=8, help='frames from each image to the next'
  )
  parser.add_argument(
    '--each', action='store_true', help='also write each image as its own file'
  )
  parser.add_argument(
    '--out',
    type=pathlib.Path,
    default=pathlib.Path('generated'),
    help='folder to write',
  )
  told = parser.parse_args(arguments)
  seeds, values = seeds_of(told.seeds), values_of(told.truncation)
  if told.steps < 1:
    raise UserError(f'--steps={told.steps} is not at least 1')
  cli.set_up_jax()
  synthesis = generator(told.weights, told.run)
  found = drawn(synthesis, seeds, values, told.steps)
  if told.each:
    for seed in seeds:
      image_HWC = synthesis.images(synthesis.styles(1, seed), values[0])['image'][0]
      found[f'seed{seed}.png'] = images.png(generation.rgb(image_HWC))
  told.out.mkdir(parents=True, exist_ok=True)
  for name, content in found.items():
    files.write(told.out / name, content)
  print(f'{errors.plural(len(seeds), "seed")}: wrote {", ".join(found)} to {told.out}')
  return 0


if __name__ == '__main__':
  raise SystemExit(main())
