"""Writes one self-contained HTML page about training runs, or about weights.

  python tools/report.py runs/digits
  python tools/report.py runs/small runs/large --out=comparison.html
  python tools/report.py --weights=B_16.npz --images cat.jpg dog.jpg

The page shows configs, final metrics, curves, inputs as the model sees them, and
predictions. Runs of some models have sections of their own:

- Vision transformers: patch filters, position embeddings and attention
  (arXiv:2010.11929, figures 6, 7 and 11).
- Sequence to sequence: the attention between tokens, head by head.
- Slot Attention: what each slot holds, iteration by iteration (arXiv:2006.15055,
  figures 3 and 6), or the predicted objects alongside the true ones.
- DETR: the predicted boxes alongside the true ones, the attention of the decoder, the
  distribution of the boxes of each query, and precision (arXiv:2005.12872, figures 6
  and 7).

Several runs are shown side by side, and their curves share axes. Sections that a run
cannot fill are replaced by the reason.

With --weights, a published file (.npz, .safetensors) or a run, the page has the
sections of a vision transformer, computed on your own images.
"""

from big_vision_like.devices import signals

if __name__ == '__main__':
  signals.catch()  # the imports below take seconds

import argparse
import pathlib
from collections.abc import Sequence

from big_vision_like import cli, errors, files
from big_vision_like.devices.processes import say
from big_vision_like.errors import UserError
from big_vision_like.report import compose


@errors.told_plainly
def main(arguments: Sequence[str] | None = None) -> None:
  """Parses the command line and writes the page."""
  parser = errors.parser(__doc__.splitlines()[0])
  parser.add_argument('runs', nargs='*', help='run directories (--workdir of train)')
  parser.add_argument(
    '--out', help='page to write; default: in the first run, or next to --weights'
  )
  parser.add_argument('--step', type=int, help='checkpoint to show; default: the last')
  parser.add_argument(
    '--evaluator',
    default='',
    help='evaluator whose examples are shown; default: the first that fits',
  )
  parser.add_argument(
    '--examples', type=int, default=1024, help='number of examples to predict (1024)'
  )
  parser.add_argument(
    '--weights', help='a weights file, a folder with one, or a run; instead of runs'
  )
  parser.add_argument('--images', nargs='+', default=[], help='images for --weights')
  parser.add_argument(
    '--image-size',
    type=int,
    nargs='+',
    metavar='PIXELS',
    help='side, or height and width, of --images; default: from the weights',
  )
  options = parser.parse_args(arguments)
  cli.set_up_jax()
  if options.weights:
    out, text = about_weights(options)
  else:
    out, text = about_runs(options)
  files.write(out, text)
  say('written', str(out))


def about_runs(options: argparse.Namespace) -> tuple[pathlib.Path, str]:
  """Returns the path of a page about runs, and its HTML."""
  if not options.runs:
    raise UserError('name the folders of runs, or --weights.')
  if options.images or options.image_size:
    raise UserError('--images and --image-size are for --weights.')
  if options.examples < 1:
    raise UserError(f'--examples={options.examples}: give at least 1.')
  out = pathlib.Path(options.out or pathlib.Path(options.runs[0]) / 'report.html')
  text = compose.of_runs(
    options.runs, options.step, options.examples, options.evaluator
  )
  return out, text


def about_weights(options: argparse.Namespace) -> tuple[pathlib.Path, str]:
  """Returns the path of a page about weights, in or next to them, and its HTML."""
  if options.runs:
    raise UserError(f'--weights cannot be combined with {", ".join(options.runs)}.')
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
