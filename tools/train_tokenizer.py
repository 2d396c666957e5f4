"""Trains a vocabulary of word pieces on the texts of a data set.

  python tools/train_tokenizer.py wmt14_translate/de-en --features de en \\
      --size 37000 --out vocabularies/wmt14_ende_37k.model
  python tools/train_tokenizer.py --text train.de train.en --size 8000 --out pair.model

Texts are drawn at random from the whole split, or from files with one sentence per
line, up to --max-characters from each feature or file. The ids are 0 padding, 1 BOS, 2
EOS, 3 unknown, then the pieces of sentencepiece. With --model-type wordpiece, the file
is a vocab.txt as of BERT, whose texts are lower-cased: [PAD], [UNK], [CLS], [SEP],
[MASK], then the pieces. The same command writes the same file.
"""

import argparse
import logging
import pathlib
import time
from collections.abc import Callable, Sequence

from big_vision_like import errors
from big_vision_like.errors import UserError, listed

MODEL_TYPES = ('bpe', 'unigram', 'wordpiece')


def _reader(options: argparse.Namespace) -> Callable[[], dict[str, list[str]]]:
  """Returns a function that reads the texts; `UserError` for conflicting arguments."""
  if bool(options.name) == bool(options.text):
    raise UserError('give either the name of a data set or --text with files.')
  if options.seed < 0:
    raise UserError(f'--seed={options.seed}: it must not be negative')
  from big_vision_like.data.prepare import tokenizer

  if options.text:
    return lambda: tokenizer.texts_of_files(
      options.text, options.max_characters, options.seed
    )
  if not options.features:
    raise UserError('--features is missing: name the features with texts, as de en')
  from big_vision_like.data.sources import tfds

  source = tfds.Tfds(options.name, options.split, options.data_dir)
  known = source.builder.info.features
  for name in options.features:
    if name not in known:
      raise UserError(
        f'{options.name} has no feature {name!r}; it has {listed(known)}.'
      )
  return lambda: tokenizer.texts_of_data_set(
    source, options.features, options.max_characters, options.seed
  )


def make(options: argparse.Namespace) -> None:
  """Reads the texts, trains and writes the vocabulary, and prints a summary."""
  from big_vision_like import files
  from big_vision_like.data.prepare import tokenizer
  from big_vision_like.data.text import vocabulary, wordpiece

  out = pathlib.Path(options.out).expanduser()
  if out.exists() and not options.overwrite:
    raise UserError(f'{out} already exists; --overwrite replaces it.')
  read = _reader(options)
  start = time.perf_counter()
  texts = read()
  for name, found in texts.items():
    print(f'{name}: {len(found):,} texts, {sum(map(len, found)):,} characters')
  everything = [line for found in texts.values() for line in found]
  if options.model_type == 'wordpiece':
    model, kind = wordpiece.train(everything, options.size), wordpiece.WordPiece
  else:
    told = options.size, options.model_type, options.character_coverage
    model, kind = tokenizer.train(everything, *told), vocabulary.SentencePiece
  files.write(out, model)
  made = kind(str(out))
  seconds = time.perf_counter() - start
  print(f'{out}: {made.size:,} pieces, {options.model_type}, in {seconds:.1f} s')
  for found in texts.values():
    sample = next((line for line in found if line.strip()), '')[:200]
    print(f'  {sample}\n  {" ".join(made.pieces(made.encode(sample)))}')


def main(arguments: Sequence[str] | None = None) -> None:
  """Trains one vocabulary."""
  parser = errors.parser(__doc__)
  parser.add_argument('name', nargs='?', help='data set, as wmt14_translate/de-en')
  parser.add_argument(
    '--features', nargs='+', metavar='NAME', help='features with the texts, as de en'
  )
  parser.add_argument(
    '--text', nargs='+', metavar='FILE', help='text files, instead of a data set'
  )
  parser.add_argument(
    '--out', required=True, metavar='FILE', help='vocabulary to write'
  )
  parser.add_argument('--size', type=int, required=True, help='number of pieces')
  parser.add_argument('--split', default='train', help='default: %(default)s')
  parser.add_argument(
    '--max-characters',
    type=int,
    default=10_000_000,
    metavar='N',
    help='read from each feature or file; default: 10,000,000',
  )
  parser.add_argument(
    '--model-type',
    choices=MODEL_TYPES,
    default='bpe',
    help='algorithm; default: %(default)s',
  )
  parser.add_argument(
    '--character-coverage',
    type=float,
    default=1.0,
    metavar='SHARE',
    help='share of the characters with a piece of their own, of sentencepiece;'
    ' default: 1.0',
  )
  parser.add_argument(
    '--seed', type=int, default=0, help='seed for drawing texts; default: 0'
  )
  parser.add_argument(
    '--data-dir', help='default: $TFDS_DATA_DIR, else ~/tensorflow_datasets'
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace an existing --out'
  )
  options = parser.parse_args(arguments)
  logging.getLogger('absl').setLevel(logging.ERROR)
  try:
    make(options)
  except UserError as error:
    parser.exit(1, f'{error}\n')
  except OSError as error:  # the disk is full or read-only
    parser.exit(1, f'{error.filename or options.out}: {error.strerror or error}\n')
  except KeyboardInterrupt:
    parser.exit(130, 'Interrupted; nothing was written.\n')


if __name__ == '__main__':
  main()
