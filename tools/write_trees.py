"""Writes the words and the symbols of trees as lines of text, to train a vocabulary.

  python tools/write_trees.py 'data/wsj/{02..21}/*.mrg' --out data/wsj_parsing.txt

FILES have trees in brackets, as in the Penn Treebank. Each tree becomes two lines: the
words, and the brackets and tags that a parser writes, without functions and traces.
"""

import pathlib
from collections.abc import Sequence

from big_vision_like import errors, files
from big_vision_like.errors import UserError, plural


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Reads trees, writes their texts, and prints a summary."""
  parser = errors.parser(__doc__)
  parser.add_argument('files', metavar='FILES', nargs='+', help='patterns of files')
  parser.add_argument(
    '--out', required=True, type=pathlib.Path, metavar='FILE', help='file to write'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace an existing --out'
  )
  options = parser.parse_args(argv)
  if options.out.exists() and not options.overwrite:
    raise UserError(f'{options.out} already exists; --overwrite replaces it')
  from big_vision_like.data.sources import base, treebank

  source = treebank.Treebank(patterns=options.files)
  lines = [line for example in source for line in (example['words'], example['tree'])]
  files.write(options.out, '\n'.join(lines) + '\n')
  left_out = base.counted(source.left_out)
  note = f'; left out: {left_out}' if left_out else ''
  print(f'{options.out}: {plural(len(source), "tree")}{note}')


if __name__ == '__main__':
  raise SystemExit(main())
