"""Input of published benchmarks, as parts of configs."""

import ml_collections as mlc

from big_vision_like.data import packing, pipeline, sources, vocabulary
from big_vision_like.data.transforms import text
from big_vision_like.spec import spec


def sentence_pieces(data_set: str, size: int) -> mlc.ConfigDict:
  """A vocabulary shared by both languages of a TFDS translation data set."""
  languages = data_set.rpartition('/')[2].split('-')
  name = data_set.replace('/', '_').replace('-', '_')
  return spec(
    vocabulary.SentencePiece,
    path=f'vocabularies/{name}_{size}.model',
    recipe=f'{data_set} --features {" ".join(languages)} --size {size}',
  )


def translation_train(
  data_set: str,
  source: str,
  target: str,
  words: mlc.ConfigDict,
  batch_size: int,
  length: int = 256,
  rows: int | None = None,
  seed: int = 0,
) -> mlc.ConfigDict:
  """Rows of `length` source and target tokens, filled with whole sentence pairs.

  `source` and `target` are languages of the TFDS data set, `words` their vocabulary;
  longer pairs are left out. `rows` is about how many rows there are, for plans.
  """
  return spec(
    pipeline.TrainInput,
    source=spec(
      packing.Packed,
      source=spec(sources.Tfds, name=data_set, split='train'),
      tokenize=spec(text.Tokenize, vocabulary=words, source=source, target=target),
      source_length=length,
      target_length=length,
      rows=rows,
    ),
    batch_size=batch_size,
    workers=4,
    seed=seed,
  )


def translation_eval(
  data_set: str,
  split: str,
  source: str,
  target: str,
  words: mlc.ConfigDict,
  batch_size: int,
  length: int = 256,
) -> mlc.ConfigDict:
  """A sentence pair in each row, cut to `length` tokens."""
  return spec(
    pipeline.EvalInput,
    source=spec(sources.Tfds, name=data_set, split=split),
    transforms=[
      spec(text.Tokenize, vocabulary=words, source=source, target=target),
      spec(text.Pad, source_length=length, target_length=length, truncate=True),
    ],
    batch_size=batch_size,
  )
