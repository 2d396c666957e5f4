"""Makes a vocabulary of word pieces (sentencepiece) from a data set's own texts.

  python tools/train_tokenizer.py wmt14_translate/de-en --features de en \\
      --size 37000 --out vocabularies/wmt14_ende_37k.model
  python tools/train_tokenizer.py --text train.de train.en --size 8000 --out pair.model

Texts are drawn at random from the whole split, or from files with one sentence a line,
up to --max-characters of each feature or file. Ids are 0 padding, 1 BOS, 2 EOS, 3
unknown, then pieces. The same command makes the same file.
"""

import argparse
import io
import logging
import os
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from big_vision_like.errors import UserError

MODEL_TYPES = ('bpe', 'unigram')
# Examples read at once.
CHUNK = 1000


def texts_of_data_set(
  source: Any, features: Sequence[str], max_characters: int, seed: int
) -> dict[str, list[str]]:
  """Texts of each feature of a `Tfds` source, drawn from all of it."""
  from big_vision_like.data.transforms import text

  texts: dict[str, list[str]] = {name: [] for name in features}
  wanted = dict.fromkeys(features, max_characters)
  order = _shuffled(len(source), seed)
  for start in range(0, len(order), CHUNK):
    for example in source.__getitems__(order[start : start + CHUNK]):
      for name in features:
        found = text.text_of(example, name)
        if wanted[name] > 0:
          texts[name].append(found)
          wanted[name] -= len(found)
    if max(wanted.values()) <= 0:
      break
  return texts


def texts_of_files(
  files: Sequence[str], max_characters: int, seed: int
) -> dict[str, list[str]]:
  """Lines of each file, drawn from all of it."""
  texts = {}
  for name in files:
    try:
      lines = pathlib.Path(name).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(f'{name} cannot be read: {error}') from error
    texts[name], left = [], max_characters
    for i in _shuffled(len(lines), seed):
      if left <= 0:
        break
      texts[name].append(lines[i])
      left -= len(lines[i])
  return texts


def _shuffled(count: int, seed: int) -> list[int]:
  import numpy as np

  return np.random.default_rng(seed).permutation(count).tolist()


def train(texts: Iterable[str], size: int, model_type: str, coverage: float) -> bytes:
  """The sentencepiece model of `size` pieces; `UserError` if the texts do not do."""
  from big_vision_like.data.text import vocabulary

  trainer = vocabulary.library().SentencePieceTrainer
  model = io.BytesIO()
  try:
    trainer.train(
      sentence_iterator=iter(texts),
      model_writer=model,
      vocab_size=size,
      model_type=model_type,
      character_coverage=coverage,
      pad_id=0,
      bos_id=1,
      eos_id=2,
      unk_id=3,
      minloglevel=2,  # errors, which become exceptions
    )
  except RuntimeError as error:
    raise UserError(_explained(str(error), size)) from error
  return model.getvalue()


def _explained(error: str, size: int) -> str:
  most = re.search(r'Vocabulary size too high .* <= (\d+)', error)
  if most:
    return (
      f'the texts are too few for --size {size}: they give at most {most[1]} pieces.'
    )
  least = re.search(r'smaller than required_chars\. \d+ vs (\d+)', error)
  if least:
    return (
      f'--size {size} is too small for the characters of the texts: take {least[1]} at'
      ' least, or a lower --character-coverage.'
    )
  if 'sentences_.empty()' in error:
    return 'there is no text to learn from.'
  return f'sentencepiece gave up: {error}'


def write(model: bytes, file: pathlib.Path) -> None:
  """All of it or nothing."""
  file.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as part:
    part.write(model)
  os.chmod(part.name, 0o644)
  os.replace(part.name, file)


def _reader(options: argparse.Namespace) -> Callable[[], dict[str, list[str]]]:
  """What reads the texts; `UserError` for words that do not go together."""
  if bool(options.name) == bool(options.text):
    raise UserError('name either a data set or, with --text, files.')
  if options.text:
    return lambda: texts_of_files(options.text, options.max_characters, options.seed)
  if not options.features:
    raise UserError('say which features are the texts: --features de en')
  from big_vision_like.data.sources import tfds

  source = tfds.Tfds(options.name, options.split, options.data_dir)
  known = source.builder.info.features
  for name in options.features:
    if name not in known:
      raise UserError(f'{options.name} has no feature {name!r}; it has {_list(known)}.')
  return lambda: texts_of_data_set(
    source, options.features, options.max_characters, options.seed
  )


def _list(names: Iterable[str]) -> str:
  return ', '.join(names)


def make(options: argparse.Namespace) -> None:
  """Reads, trains, writes and tells."""
  from big_vision_like.data.text import vocabulary

  out = pathlib.Path(options.out).expanduser()
  if out.exists() and not options.overwrite:
    raise UserError(f'{out} is there already; --overwrite replaces it.')
  read = _reader(options)
  start = time.perf_counter()
  texts = read()
  for name, found in texts.items():
    print(f'{name}: {len(found):,} texts, {sum(map(len, found)):,} characters')
  everything = [line for found in texts.values() for line in found]
  coverage = options.character_coverage
  write(train(everything, options.size, options.model_type, coverage), out)
  made = vocabulary.SentencePiece(str(out))
  seconds = time.perf_counter() - start
  print(f'{out}: {made.size:,} pieces, {options.model_type}, in {seconds:.1f} s')
  for found in texts.values():
    sample = next((line for line in found if line.strip()), '')[:200]
    print(f'  {sample}\n  {" ".join(made.pieces(made.encode(sample)))}')


def main(arguments: Sequence[str] | None = None) -> None:
  """Makes one vocabulary."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('name', nargs='?', help='a data set: wmt14_translate/de-en')
  parser.add_argument('--features', nargs='+', metavar='NAME', help='its texts: de en')
  parser.add_argument('--text', nargs='+', metavar='FILE', help='files instead')
  parser.add_argument('--out', required=True, metavar='FILE', help='the model to write')
  parser.add_argument('--size', type=int, required=True, help='how many pieces')
  parser.add_argument('--split', default='train', help='default: train')
  parser.add_argument(
    '--max-characters',
    type=int,
    default=10_000_000,
    metavar='N',
    help='of each feature or file; default: 10,000,000',
  )
  parser.add_argument('--model-type', choices=MODEL_TYPES, default='bpe')
  parser.add_argument(
    '--character-coverage',
    type=float,
    default=1.0,
    metavar='SHARE',
    help='of all characters that get a piece of their own; default: 1.0',
  )
  parser.add_argument('--seed', type=int, default=0, help='of what is drawn')
  parser.add_argument(
    '--data-dir', help='default: $TFDS_DATA_DIR, else ~/tensorflow_datasets'
  )
  parser.add_argument('--overwrite', action='store_true')
  options = parser.parse_args(arguments)
  logging.getLogger('absl').setLevel(logging.ERROR)
  try:
    make(options)
  except UserError as error:
    parser.exit(1, f'{error}\n')
  except KeyboardInterrupt:
    parser.exit(130, 'Interrupted; nothing was written.\n')


if __name__ == '__main__':
  main()
