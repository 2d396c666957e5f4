"""Writes one self-contained HTML page about training runs, or about weights.

  python tools/report.py runs/digits
  python tools/report.py runs/small runs/large --out=comparison.html
  python tools/report.py --weights=B_16.npz --images cat.jpg dog.jpg

The page shows configs and final metrics, curves, inputs as the model sees them and
predictions. Of a vision transformer it shows what it learned: patch filters, position
embeddings, attention (arXiv:2010.11929, figures 6, 7 and 11); of a sequence to sequence
run the attention between tokens, head by head; of Slot Attention what each slot holds,
iteration by iteration (arXiv:2006.15055, figures 3 and 6), or the objects that it
predicts beside the true ones; of DETR the boxes that it finds beside the true ones,
where it looked for them, where the boxes of each query lie, and precision
(arXiv:2005.12872, figures 6 and 7). Several runs stand side by side, and their curves
share axes. What a run cannot show is left out with a reason.

Of weights, which may be published ones (.npz, .safetensors) or a run's, the page shows
the same of a vision transformer, with images of one's own.
"""

from big_vision_like.devices import signals

if __name__ == '__main__':
  signals.catch()  # what is imported below takes seconds

import argparse
import pathlib
from collections.abc import Sequence

from big_vision_like import cli, errors, files
from big_vision_like.errors import UserError
from big_vision_like.report import compose


@errors.told_plainly
def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and writes the page."""
  parser = errors.parser(__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='*', help='folders of runs (--workdir of train)')
  parser.add_argument(
    '--out', help='the page; default: report.html in the first run, or by the weights'
  )
  parser.add_argument('--step', type=int, help='checkpoint to show; default: the last')
  parser.add_argument(
    '--evaluator', default='', help='whose examples to show; default: the first fitting'
  )
  parser.add_argument(
    '--examples', type=int, default=1024, help='how many evaluation examples to predict'
  )
  parser.add_argument(
    '--weights', help='a file of weights, a folder with one or a run, instead of runs'
  )
  parser.add_argument('--images', nargs='+', default=[], help='what --weights look at')
  parser.add_argument(
    '--image-size',
    type=int,
    nargs='+',
    metavar='PIXELS',
    help='of --images: a side, or height and width; default what the weights want',
  )
  options = parser.parse_args(arguments)
  cli.set_up_jax()
  if options.weights:
    out, text = about_weights(options)
  else:
    out, text = about_runs(options)
  files.write(out, text)
  print(out)


def about_runs(options: argparse.Namespace) -> tuple[pathlib.Path, str]:
  """Where the page goes, and the page."""
  if not options.runs:
    raise UserError('name the folders of runs, or --weights.')
  if options.images or options.image_size:
    raise UserError('--images and --image-size are for --weights.')
  if options.examples < 1:
    raise UserError(f'--examples={options.examples}: at least one is needed.')
  out = pathlib.Path(options.out or pathlib.Path(options.runs[0]) / 'report.html')
  text = compose.of_runs(
    options.runs, options.step, options.examples, options.evaluator
  )
  return out, text


def about_weights(options: argparse.Namespace) -> tuple[pathlib.Path, str]:
  """The same of weights: the page lies in or beside them."""
  if options.runs:
    raise UserError(f'--weights stands alone, without {", ".join(options.runs)}.')
  weights, size = pathlib.Path(options.weights), options.image_size
  if size is not None and len(size) > 2:
    raise UserError('--image-size takes a side, or height and width.')
  size = size and (size[0], size[-1])
  text = compose.of_weights(options.weights, options.images, size, options.step)
  if options.out:
    out = pathlib.Path(options.out)
  elif weights.is_dir():
    out = weights / 'report.html'
  else:
    out = weights.with_suffix('.html')
  return out, text


if __name__ == '__main__':
  raise SystemExit(main())
