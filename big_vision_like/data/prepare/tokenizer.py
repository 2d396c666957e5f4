"""Training of a vocabulary of word pieces (sentencepiece) on texts."""

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.text import vocabulary
from big_vision_like.data.transforms import text
from big_vision_like.errors import UserError

# Number of examples read at once.
CHUNK = 1000


def texts_of_data_set(
  source: Any, features: Sequence[str], max_characters: int, seed: int
) -> dict[str, list[str]]:
  """Returns texts of each feature, drawn at random from a whole `Tfds` source."""
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
  names: Sequence[str], max_characters: int, seed: int
) -> dict[str, list[str]]:
  """Returns lines of each file, drawn at random from the whole file."""
  texts = {}
  for name in names:
    try:
      lines = files.read_bytes(name).decode().splitlines()
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
  return np.random.default_rng(seed).permutation(count).tolist()


def train(texts: Iterable[str], size: int, model_type: str, coverage: float) -> bytes:
  """Trains a sentencepiece model of `size` pieces; raises `UserError` if it fails."""
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
      minloglevel=2,  # log only errors, which become exceptions
    )
  except (RuntimeError, ValueError) as error:
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
      f'--size {size} is too small for the characters of the texts: use at least'
      f' {least[1]}, or a lower --character-coverage.'
    )
  if 'sentences_.empty()' in error:
    return 'there is no text to learn from.'
  return f'sentencepiece failed: {error}'
