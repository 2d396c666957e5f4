"""Answers questions about a picture and finds its objects, with a run of several tasks.

    python tools/ask.py runs/shape_world scene.png --text "what color is the square"
    python tools/ask.py runs/shape_world --text "there is a red disc" "the disc is red"

All tasks of the run that take the picture and the texts answer, with the same weights
(docs/unit.md). Without --text, the objects of the picture are listed.
"""

import argparse
import pathlib
from collections.abc import Sequence

from big_vision_like import cli, errors
from big_vision_like.errors import UserError, told_plainly
from big_vision_like.inference import asking, loading


def rows_of(args: argparse.Namespace) -> list[asking.Row]:
  """Returns the answers, or the objects."""
  picture = None
  if args.picture is not None:
    path = pathlib.Path(args.picture)
    if not path.is_file():
      raise UserError(f'there is no picture {path}')
    picture = path.read_bytes()
  asker = asking.Asker(loading.load_run(args.run))
  if args.text:
    return asker.ask(args.text, picture)
  if picture is None:
    raise UserError('give a picture, texts with --text, or both')
  return asker.find(picture, args.threshold)


@told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and prints a line for each result."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument('run', help='the folder of a run of several tasks')
  parser.add_argument('picture', nargs='?', help='the file of a picture')
  parser.add_argument('--text', nargs='+', help='a text, or two for tasks on pairs')
  parser.add_argument(
    '--threshold', type=float, default=0.7, help='the lowest score of listed objects'
  )
  args = parser.parse_args(argv)
  cli.set_up_jax()
  rows = rows_of(args)
  for row in rows:
    box = ', '.join(f'{x:.1f}' for x in row.box)
    print(f'{row.task}  {row.name}  {row.score:.3f}  {box}'.rstrip())
  if not rows:
    print(f'no object above {args.threshold:g}')


if __name__ == '__main__':
  raise SystemExit(main())
