"""Writes the vocabulary of captions: the words that occur often enough.

  python tools/count_words.py data/coco/dataset_coco.json --out data/coco/words.json

CAPTIONS.json is a split file of Karpathy. Words of its training captions are counted,
in lower case and without punctuation. The result is a JSON object of ids by word: 0
padding, 1 start, 2 end, 3 unknown words, then the words, most frequent first.
"""

import pathlib
from collections.abc import Sequence

from big_vision_like import errors, files
from big_vision_like.errors import UserError


@errors.told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Counts words, writes the vocabulary, and prints a summary."""
  parser = errors.parser(__doc__)
  parser.add_argument('captions', metavar='CAPTIONS.json', help='split file')
  parser.add_argument(
    '--out', required=True, type=pathlib.Path, metavar='FILE', help='file to write'
  )
  parser.add_argument(
    '--splits',
    default='train+restval',
    help='splits to count, those that exist; default: %(default)s',
  )
  parser.add_argument(
    '--text',
    choices=('tokens', 'raw'),
    default='tokens',
    help='text of a caption to count; default: %(default)s',
  )
  parser.add_argument(
    '--least',
    type=int,
    default=5,
    metavar='N',
    help='least occurrences of a word; default: 5',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace an existing --out'
  )
  options = parser.parse_args(argv)
  if options.out.exists() and not options.overwrite:
    raise UserError(f'{options.out} already exists; --overwrite replaces it')
  from big_vision_like.data.sources import captions
  from big_vision_like.data.text import words

  wanted = options.splits.split('+')
  texts = [
    captions.text_of(sentence, options.text)
    for entry in captions.read(options.captions)
    if entry['split'] in wanted
    for sentence in entry['sentences']
  ]
  kept, unknown = words.frequent(texts, options.least)
  if not kept:
    raise UserError(
      f'no word occurs {options.least} times in the {len(texts):,} captions of'
      f' {options.captions} in the splits {options.splits}: correct --splits, or lower'
      ' --least'
    )
  files.write_json(options.out, words.numbered(kept), indent=None)
  print(
    f'{options.out}: {len(kept):,} words and {len(words.SPECIAL)} other ids, of'
    f' {len(texts):,} captions; {100 * unknown:.2f} % of their words are unknown'
  )


if __name__ == '__main__':
  raise SystemExit(main())
