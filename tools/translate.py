"""Translates text, one line at a time, with a published Marian model or with a run.

    python tools/translate.py opus-mt-en-de --text "I saw a cat." --text "It slept."
    python tools/translate.py runs/wmt14_ende --file newstest2014.en > newstest2014.de
    echo ">>fra<< Good morning." | python tools/translate.py opus-mt-en-ROMANCE

FOLDER is a published `opus-mt-*` model (config.json, model.safetensors, vocab.json,
source.spm, target.spm), or the directory of a run whose config names a vocabulary.
Translations, and nothing else, are written to stdout, one per line.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from big_vision_like import cli, errors, files, spec
from big_vision_like.data.text import marian as marian_vocabulary
from big_vision_like.errors import UserError, listed, told_plainly
from big_vision_like.inference import loading
from big_vision_like.models import transformer
from big_vision_like.run import learned as facts
from big_vision_like.tasks import seq2seq
from big_vision_like.weights import marian

SHORTEST = 8  # sources are padded to this length times a power of two
ALPHA = 0.6  # for Marian models, whose length_penalty follows another formula
CHUNK = 32  # batches whose lines are sorted by length together


@dataclasses.dataclass(frozen=True)
class Translator:
  """A model for translation, with the vocabularies of both sides.

  Sources and translations have at most `max_length` tokens, including EOS. None means
  no limit.
  """

  task: seq2seq.Seq2Seq
  variables: Any
  source: Any
  target: Any
  max_length: int | None

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text followed by EOS; an empty list for an empty text."""
    ids = self.source.encode(text)
    return [*ids, self.task.eos_id] if ids else []

  def translate(self, sources: Sequence[list[int]], batch_size: int) -> list[list[int]]:
    """Returns the ids found for each source, in order; an empty list for an empty one.

    Sources of similar length are batched together, so that few shapes are compiled.
    """
    found: list[list[int]] = [[] for _ in sources]
    order = sorted(
      (i for i, ids in enumerate(sources) if ids), key=self._padded(sources)
    )
    for start in range(0, len(order), batch_size):
      rows = order[start : start + batch_size]
      length = self._padded(sources)(rows[-1])
      count = min(batch_size, _power_of_two(len(rows)))
      source_BS = np.full((count, length), self.task.model.pad_id, np.int32)
      source_BS[:, 0] = self.task.eos_id  # surplus rows are not quite empty
      for row, i in enumerate(rows):
        source_BS[row, : len(sources[i])] = sources[i]
      ids_BN = np.asarray(self._search(self.variables, source_BS))
      for row, i in enumerate(rows):
        found[i] = ids_BN[row].tolist()
    return found

  def _padded(self, sources: Sequence[list[int]]) -> Callable[[int], int]:
    limit = self.max_length or sys.maxsize
    return lambda i: min(max(SHORTEST, _power_of_two(len(sources[i]))), limit)

  @functools.cached_property
  def _search(self) -> Callable[[Any, np.ndarray], jax.Array]:
    def search(variables: Any, source_BS: jax.Array) -> jax.Array:
      extra = self.task.extra_length
      if self.max_length is not None:
        extra = min(extra, self.max_length - source_BS.shape[1])
      task = dataclasses.replace(self.task, extra_length=extra)
      if task.beams == 1:
        return task.search_greedy(variables, source_BS)
      return task.search_beams(variables, source_BS)[0][:, 0]

    return jax.jit(search)


def open_folder(folder: str, beams: int | None, alpha: float | None) -> Translator:
  """Opens a Marian model or a run; `UserError` if the folder is neither."""
  file = pathlib.Path(folder) / 'config.json'
  if not file.is_file():
    raise UserError(f'{folder} has no config.json: give the folder of a model or a run')
  fields = files.read_fields(file)
  if 'task' in fields:
    return _open_run(folder, beams, alpha)
  if 'model_type' in fields:
    return _open_marian(folder, beams, alpha)
  raise UserError(f'{file} belongs neither to a run (task) nor to a model (model_type)')


def _open_marian(folder: str, beams: int | None, alpha: float | None) -> Translator:
  config, params = marian.read_folder(folder)
  source, target = (
    marian_vocabulary.MarianVocabulary(folder, side) for side in ('source', 'target')
  )
  vocab_size = config.model_args['vocab_size']
  if max(source.ids.values()) >= vocab_size:
    raise UserError(
      f'{folder}/vocab.json has ids up to {max(source.ids.values())}, the model only'
      f' has {vocab_size}'
    )
  # Marian's own softmax has no padding token; it was added by the conversion.
  params['logits_bias'][config.model_args['pad_id']] = -1e9
  task = seq2seq.Seq2Seq(
    model=transformer.Transformer(**config.model_args),
    optimizer=None,  # not needed, since nothing is trained
    bos_id=config.bos_id,
    eos_id=config.eos_id,
    beams=beams or config.beams,
    alpha=ALPHA if alpha is None else alpha,
    never=config.never,
  )
  variables = jax.device_put({'params': params})
  return Translator(task, variables, source, target, config.max_length)


def _open_run(workdir: str, beams: int | None, alpha: float | None) -> Translator:
  run = loading.load_run(workdir)
  if not isinstance(run.task, seq2seq.Seq2Seq):
    raise UserError(f'{workdir} is a run of {type(run.task).__name__}, not of Seq2Seq')
  for path, node in spec.calls(run.config):
    symbol = spec.symbol(node, path)
    if all(hasattr(symbol, name) for name in ('encode', 'decode', 'eos_id')):
      vocabulary = spec.build(node, path)
      facts.check_tokenizer(workdir, vocabulary)
      break
  else:
    raise UserError(
      f'the config of {workdir} names no vocabulary: the run has ids, but no text'
    )
  task = run.task
  alpha = task.alpha if alpha is None else alpha
  task = dataclasses.replace(task, beams=beams or task.beams, alpha=alpha)
  learned = task.model.positions == 'learned'
  return Translator(
    task,
    run.state.variables,
    vocabulary,
    vocabulary,
    task.model.max_length if learned else None,
  )


def translations(
  translator: Translator, texts: Sequence[str], batch_size: int
) -> Iterator[str]:
  """Yields the translation of each text in order; notes are printed to stderr."""
  sources = [translator.encode(text) for text in texts]
  limit = translator.max_length
  for number, ids in enumerate(sources, start=1):
    if limit is not None and len(ids) > limit:
      raise UserError(
        f'text {number} has {len(ids)} tokens, but the model takes at most {limit}:'
        ' split it'
      )
  for note in _notes(translator, texts, sources):
    print(f'note: {note}', file=sys.stderr)
  for start in range(0, len(texts), CHUNK * batch_size):
    chunk = sources[start : start + CHUNK * batch_size]
    found = translator.translate(chunk, batch_size)
    for number, ids in enumerate(found, start=start + 1):
      if ids and translator.task.eos_id not in ids:
        print(
          f'note: text {number}: not finished after {len(ids)} tokens: truncated',
          file=sys.stderr,
        )
      elif ids:
        ids = ids[: ids.index(translator.task.eos_id)]
      yield ' '.join(translator.target.decode(ids).splitlines()) if ids else ''


def _notes(
  translator: Translator, texts: Sequence[str], sources: Sequence[list[int]]
) -> Iterator[str]:
  empty = [number for number, ids in enumerate(sources, start=1) if not ids]
  if empty:
    yield f'empty texts have empty translations: text {listed(empty)}'
  languages = getattr(translator.source, 'languages', [])
  if languages:
    codes = [marian_vocabulary.split_language(text)[0] for text in texts]
    lost = [n for n, code in enumerate(codes, start=1) if code not in languages]
    lost = [n for n in lost if n not in empty]
    if lost:
      yield (
        'the model translates into several languages; begin each text with one of'
        f' {listed(languages)} (missing in text {listed(lost)})'
      )


def _power_of_two(number: int) -> int:
  """Returns the smallest power of two that is not smaller than a number."""
  return 1 << (number - 1).bit_length()


def _read_lines(file: str | None) -> list[str]:
  """Returns the lines of a file, or of stdin."""
  try:
    data = sys.stdin.buffer.read() if file is None else files.read_bytes(file)
    text = data.decode('utf-8-sig')
  except OSError as error:
    raise UserError(f'--file={file}: {error.strerror}') from error
  except UnicodeDecodeError as error:
    raise UserError(f'{file or "stdin"} is not UTF-8: {error}') from error
  # Only split at line feeds: str.splitlines splits at characters that belong to texts.
  lines = text.replace('\r\n', '\n').split('\n')
  return lines[:-1] if lines[-1] == '' else lines


@told_plainly
def main(argv: Sequence[str] | None = None) -> None:
  """Parses the command line and prints the translations."""
  parser = errors.parser(__doc__, allow_abbrev=False)
  parser.add_argument(
    'folder', metavar='FOLDER', help='a run, or a translation model of Marian'
  )
  given = parser.add_mutually_exclusive_group()
  given.add_argument(
    '--text', action='append', help='text to translate; may be repeated'
  )
  given.add_argument('--file', help='file with one text per line; default: stdin')
  parser.add_argument(
    '--beams', type=int, help="beam size, 1 is greedy; default: the model's own"
  )
  parser.add_argument(
    '--alpha',
    type=float,
    help=f"exponent of the length penalty; default: the run's own, or {ALPHA}",
  )
  parser.add_argument(
    '--batch-size', type=int, default=16, help='texts per batch (%(default)s)'
  )
  args = parser.parse_args(argv)
  for name in 'beams', 'batch_size':
    if (value := getattr(args, name)) is not None and value < 1:
      raise UserError(f'--{name.replace("_", "-")}={value} is not positive')
  cli.set_up_jax()
  translator = open_folder(args.folder, args.beams, args.alpha)
  texts = _read_lines(args.file) if args.text is None else args.text
  for line in translations(translator, texts, args.batch_size):
    print(line, flush=True)


if __name__ == '__main__':
  raise SystemExit(main())
