"""Classifies images, finds objects, segments or describes them, and draws the result.

    python tools/predict.py --weights=weights/B_16.npz cat.jpg dog.png --out=looked
    python tools/predict.py --weights=weights/detr-r50-e632da11.pth a.jpg --out=looked

--weights is a published file (.npz, .safetensors, .pth), a folder with one, or the
directory of a run. Images are preprocessed as the weights expect; --image-size
overrides the size. Classes are named by the weights, by --labels (one name per line),
or by number.

With --out a picture NAME.png is written for each image. For a ViT it shows the input,
the input weighted by attention rollout (arXiv:2005.00928), and the rollout alone. For a
DETR it shows the objects; NAME-attention.png shows the decoder's attention for each of
them, and NAME-segments.png the segment of each pixel if the model predicts masks. For
a UPerNet or a semantic FPN it shows the class of each pixel, with a legend. For a
TimeSformer, which names videos, it shows the frames, lit by the attention of the class
token, and how much attention each frame gets; NAME-played.gif plays them. For
a captioner it shows the image for each word of the best caption, lit by attention.

--csv and --json write the predictions for other programs. Boxes are left, top, right,
bottom in pixels of the image; an image that cannot be read has its error in the JSON.
"""

from big_vision_like.devices import signals

if __name__ == '__main__':
  signals.catch()  # the imports below take seconds

import argparse
import csv
import dataclasses
import io
import json
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import rich.cells

from big_vision_like import cli, errors, files, inference, spec
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError, plural
from big_vision_like.inference import loading, preprocessing
from big_vision_like.viz import clips, images


def free_names(
  path: pathlib.Path, ends: Sequence[str], taken: Mapping[str, pathlib.Path]
) -> list[str]:
  """Returns NAME and the ends for an image NAME.jpg, or NAME-2, ... if one is taken."""
  number, names = 1, [path.stem + end for end in ends]
  while any(name in taken for name in names):
    number += 1
    names = [f'{path.stem}-{number}{end}' for end in ends]
  return names


def table(
  columns: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[str, ...]]]]
) -> str:
  """Returns each image on a line of its own, and its predictions below it.

  The first column is text; the others are numbers.
  """
  cells = [columns, *(line for _, found in rows for line in found)]
  widths = [
    max(map(rich.cells.cell_len, column)) for column in zip(*cells, strict=True)
  ]

  def aligned(line: Sequence[str]) -> str:
    gaps = [
      ' ' * (w - rich.cells.cell_len(x)) for x, w in zip(line, widths, strict=True)
    ]
    first, *others = zip(line, gaps, strict=True)
    return '    '.join(
      ['  ' + ''.join(first), *(gap + x for x, gap in others)]
    ).rstrip()

  lines = [aligned(columns)]
  for name, found in rows:
    lines += ['', name, *map(aligned, found)]
  return '\n'.join(lines)


def csv_text(predictions: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str:
  """Returns a line for each class or object: its image, and these fields."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator='\n')
  writer.writerow(['image', *fields])
  for one in predictions:
    for found in one.get('predictions', ()):
      plain = [value for key, value in found.items() if key != 'box']
      writer.writerow([one['image'], *plain, *found.get('box', ())])
  return out.getvalue()


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> int:
  """Prints a table of predictions; returns 1 if an image could not be read, else 0."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    'images',
    metavar='IMAGE',
    type=pathlib.Path,
    nargs='+',
    help='pictures or videos',
  )
  parser.add_argument(
    '--weights', required=True, help='a weights file or a run directory'
  )
  parser.add_argument(
    '--image-size',
    help='side (the shorter one, for detectors), or HEIGHTxWIDTH; default: from the'
    ' weights',
  )
  loading.add_source_grid(parser)
  parser.add_argument('--labels', help='file with one class name per line')
  parser.add_argument(
    '--top', type=int, help='number of classes to show, or captions; default: 5, 3'
  )
  parser.add_argument(
    '--threshold',
    type=float,
    help='smallest score of objects to show; default: 0.7',
  )
  parser.add_argument(
    '--share',
    type=float,
    help='smallest share of pixels for a class of a segmented image to be listed;'
    ' default: 0.005',
  )
  parser.add_argument(
    '--step', type=int, help="step of the run's checkpoint; default: the newest"
  )
  parser.add_argument('--out', type=pathlib.Path, help='folder to write pictures to')
  parser.add_argument('--csv', metavar='FILE', help='also write predictions as CSV')
  parser.add_argument('--json', metavar='FILE', help='also write predictions as JSON')
  args = parser.parse_args(argv)
  size = args.image_size and sides(args.image_size)
  cli.set_up_jax()
  model, variables, preprocess = loading.load(
    args.weights, size, args.step, args.source_grid
  )
  if args.labels is not None:
    names = named(args.labels, model.num_classes)
    preprocess = dataclasses.replace(preprocess, label_names=names)
  predictor = predictor_of(model, variables, preprocess, args)
  say('images', f'{preprocess} ({preprocess.source})')
  if args.out is not None and predictor.undrawn:
    say('pictures', f'none: {predictor.undrawn}')
  elif args.out is not None:
    try:
      args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise UserError(f'--out={args.out} is not a folder: {error.strerror}') from error
  rows, predictions, written, status = [], [], {}, 0
  for path in args.images:
    try:
      lines, found, pictures = predictor(path)
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      predictions.append({'image': str(path), 'error': str(error)})
      status = 1
      continue
    rows.append((str(path), lines))
    predictions.append({'image': str(path), 'predictions': found})
    if args.out is None:
      continue
    names = free_names(path, list(pictures), written)
    for name, picture in zip(names, pictures.values(), strict=True):
      played = picture.ndim == 4  # frames of an animation
      written[name] = args.out / f'{name}.{"gif" if played else "png"}'
      files.write(written[name], (clips.gif if played else images.png)(picture))
  if rows:
    print(table(predictor.columns, rows))
  if args.csv is not None:
    files.write(args.csv, csv_text(predictions, predictor.fields))
    say('written', args.csv)
  if args.json is not None:
    text = json.dumps(predictions, indent=2, ensure_ascii=False)
    files.write(args.json, f'{text}\n')
    say('written', args.json)
  for path in written.values():
    say('written', str(path))
  return status


def predictor_of(
  model: Any, variables: Any, preprocess: Any, args: argparse.Namespace
) -> Any:
  """Returns the object that prints and draws predictions for this preprocessing.

  It is an instance of the class in `inference` whose `prepares` is the class of
  `preprocess`, with the value of the flag that the class names as `option`.
  """
  kinds = spec.declared(inference, 'prepares')
  own = kinds[type(preprocess)]
  for kind in kinds.values():
    if kind.option != own.option and getattr(args, kind.option) is not None:
      raise UserError(
        f'--{kind.option} is for weights that {kind.does}; these {own.does}:'
        f' --{own.option} {own.explained}'
      )
  given = getattr(args, own.option)
  options = {} if given is None else {own.option: given}
  predictor = own(model, variables, preprocess, **options)
  predictor.draws = args.out is not None
  return predictor


def sides(text: str) -> int | tuple[int, int]:
  """Parses '384' as a side, or '384x512' as height and width."""
  match = re.fullmatch(r'([1-9]\d*)(?:x([1-9]\d*))?', text)
  if match is None:
    raise UserError(
      f'--image-size={text} is neither a side nor HEIGHTxWIDTH: 384, 384x512'
    )
  return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def named(path: str, num_classes: int) -> tuple[str, ...]:
  """Reads the names in a file; `UserError` unless there is one for each class."""
  names = preprocessing.read_names(path)
  if len(names) != num_classes:
    raise UserError(
      f'--labels={path} has {plural(len(names), "line")}, the model {num_classes}'
      ' classes'
    )
  return names


if __name__ == '__main__':
  raise SystemExit(main())
