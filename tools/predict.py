"""Names what is in pictures, and shows where the model looked.

    python tools/predict.py --weights=weights/B_16.npz cat.jpg dog.png --out=looked

--weights is a published file (.npz, .safetensors), a folder with one, or that of a run.
Images are prepared as the weights want them, at another size with --image-size. Classes
have the names that come with the weights, those of --labels (one a line), or numbers.
With --out a picture NAME.png is written for each image: the input, the input lit where
the output draws from (attention rollout, arXiv:2005.00928), the same weights alone.
"""

import argparse
import dataclasses
import pathlib
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any

import cv2
import jax
import numpy as np
import rich.box
import rich.console
import rich.table

from big_vision_like import errors, experiment, loading
from big_vision_like.data import preprocessing
from big_vision_like.data.preprocessing import Preprocessing
from big_vision_like.errors import UserError
from big_vision_like.metrics import say
from big_vision_like.viz import attention, images

SIDE = 384  # pixels of each part of a picture, at most
SOWN = ('encoder', 'map_head', 'with_position')  # what the rollout is made of


class Predictor:
  """A model that names pictures, compiled once."""

  def __init__(self, model: Any, variables: Any, preprocess: Preprocessing):
    if not model.num_classes:
      raise UserError('these weights have no head: there are no classes to name')
    self.model, self.variables, self.preprocess = model, variables, preprocess
    self.attends = loading.attends(model)
    self._apply = jax.jit(self._run)

  def _run(self, variables: Any, image_BHWC: jax.Array) -> tuple[jax.Array, Any]:
    if not self.attends:
      return self.model.apply(variables, image_BHWC)['logits'], {}
    outputs, collected = self.model.apply(
      variables, image_BHWC, mutable=['intermediates']
    )
    sown = collected['intermediates']
    return outputs['logits'], {k: sown[k] for k in SOWN if k in sown}

  def __call__(self, sized_HWC: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits (C,) of a picture of the model's size, and the rollout (h, w) if any."""
    image_BHWC = self.preprocess.normalized(sized_HWC[None])
    logits_BC, sown = self._apply(self.variables, image_BHWC)
    if not self.attends:
      return np.asarray(logits_BC[0]), None
    pool, registers = self.model.pool, self.model.registers
    rollout_BP = attention.rollout(
      attention.stack_attention(sown),
      attention.output_weights(sown, pool, registers),
      num_prefix=registers + int(pool == 'token'),
    )
    grid = loading.grid_of(self.model, sized_HWC.shape[:2])
    return np.asarray(logits_BC[0]), rollout_BP[0].reshape(grid)


def picture(sized_HWC: np.ndarray, rollout_hw: np.ndarray) -> np.ndarray:
  """The input, the input lit by attention, and attention alone: RGB, side by side."""
  input_HWC = images.fit(images.to_rgb(sized_HWC), SIDE)
  height, width = input_HWC.shape[:2]
  coloured_hwC = images.colormap(rollout_hw, rollout_hw.min(), rollout_hw.max())
  coloured_HWC = cv2.resize(
    coloured_hwC, (width, height), interpolation=cv2.INTER_NEAREST
  )
  parts = [input_HWC, images.highlight(input_HWC, rollout_hw), coloured_HWC]
  return images.tile(np.stack(parts), columns=3, gap=8)


def free_name(path: pathlib.Path, taken: Collection[str]) -> str:
  """NAME.png of an image NAME.jpg, or NAME-2.png and so on."""
  name, number = path.stem, 1
  while name in taken:
    number += 1
    name = f'{path.stem}-{number}'
  return name


def table(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> rich.table.Table:
  """Images with their best classes."""
  made = rich.table.Table(box=rich.box.SIMPLE_HEAD)
  made.add_column('image', overflow='fold')
  made.add_column('class', overflow='fold')
  made.add_column('score', justify='right')
  for i, (name, best) in enumerate(rows):
    if i:
      made.add_section()
    for rank, (label, score) in enumerate(best):
      made.add_row(name if rank == 0 else '', label, f'{score:.4f}')
  return made


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table; status 1 where an image could not be read."""
  parser = argparse.ArgumentParser(
    description=__doc__,
    allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('images', metavar='IMAGE', type=pathlib.Path, nargs='+')
  parser.add_argument('--weights', required=True, help='a file, or the folder of a run')
  parser.add_argument(
    '--image-size', help='a side, or HEIGHTxWIDTH; default what the weights want'
  )
  parser.add_argument('--labels', help='a file with the name of a class on each line')
  parser.add_argument('--top', type=int, default=5, help='classes shown (%(default)s)')
  parser.add_argument('--step', type=int, help="a run's checkpoint; default the newest")
  parser.add_argument('--out', type=pathlib.Path, help='where pictures are written')
  args = parser.parse_args(argv)
  if args.top < 1:
    raise UserError(f'--top={args.top} is not positive')
  size = args.image_size and sides(args.image_size)
  experiment.set_up_jax()
  model, variables, preprocess = loading.load(args.weights, size, args.step)
  if args.labels is not None:
    names = named(args.labels, model.num_classes)
    preprocess = dataclasses.replace(preprocess, label_names=names)
  predictor = Predictor(model, variables, preprocess)
  say('images', f'{preprocess} ({preprocess.source})')
  if args.out is not None and predictor.attends:
    try:
      args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f'--out={args.out} is no folder: {error.strerror}') from error
  elif args.out is not None:
    say('pictures', f'none: a {type(model).__name__} has no attention to draw')
  rows, written, status = [], {}, 0
  for path in args.images:
    try:
      sized_HWC = preprocess.sized(path)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      status = 1
      continue
    logits_C, rollout_hw = predictor(sized_HWC)
    rows.append((str(path), preprocess.top(logits_C, args.top)))
    if args.out is not None and rollout_hw is not None:
      name = free_name(path, written)
      written[name] = args.out / f'{name}.png'
      written[name].write_bytes(images.png(picture(sized_HWC, rollout_hw)))
  if rows:
    rich.console.Console().print(table(rows))
  for path in written.values():
    say('written', str(path))
  return status


def sides(text: str) -> tuple[int, int]:
  """Height and width in '384' or '384x512'."""
  match = re.fullmatch(r'([1-9]\d*)(?:x([1-9]\d*))?', text)
  if match is None:
    raise UserError(f'--image-size={text} is neither 384 nor 384x512, or the like')
  return int(match[1]), int(match[2] or match[1])


def named(path: str, num_classes: int) -> tuple[str, ...]:
  """The names in a file, which must be as many as classes."""
  names = preprocessing.read_names(path)
  if len(names) != num_classes:
    raise UserError(
      f'--labels={path} has {len(names)} lines, the model {num_classes} classes'
    )
  return names


if __name__ == '__main__':
  raise SystemExit(main())
