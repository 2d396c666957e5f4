"""Data sets of photographs with captions, as inputs for configs.

The split files are Karpathy's (dataset_coco.json and so on), and vocabularies are made
of the words that occur at least five times:

    python tools/count_words.py data/coco/dataset_coco.json \
        --out data/coco/words.json
"""

import dataclasses
from collections.abc import Sequence

import ml_collections as mlc

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import captions as sources
from big_vision_like.data.text import words
from big_vision_like.data.transforms import captions as transforms
from big_vision_like.spec import spec

# Longest captions in the tutorial; longer ones are left out, and counted.
MOST_WORDS = 50


@dataclasses.dataclass(frozen=True)
class Photographs:
  """A data set in a folder, `train` its training splits, and its numbers of captions.

  `ids` is the size of the vocabulary, whose file is words.json.
  """

  folder: str
  file: str
  ids: int
  captions: int
  images: int
  train: str = 'train'

  @property
  def vocabulary(self) -> mlc.ConfigDict:
    """The recorded call of the vocabulary."""
    return spec(words.Words, path=f'{self.folder}/words.json')

  def train_input(
    self,
    batch_size: int,
    steps: Sequence[mlc.ConfigDict],
    seed: int = 0,
    workers: int = 8,
  ) -> mlc.ConfigDict:
    """Returns the training input, in which each caption is an example.

    `steps` decode images and give them one size.
    """
    return spec(
      pipeline.TrainInput,
      source=self._source(self.train, each='caption', max_words=MOST_WORDS),
      transforms=[*steps, self._encode()],
      batch_size=batch_size,
      seed=seed,
      workers=workers,
    )

  def eval_input(
    self,
    batch_size: int,
    steps: Sequence[mlc.ConfigDict],
    split: str,
    text: str = 'raw',
    workers: int = 8,
  ) -> mlc.ConfigDict:
    """Returns the images of 'val' or 'test', each with all of its captions."""
    source = self._source(split, text=text)
    source.examples = self.images
    steps = [step.copy_and_resolve_references() for step in steps]
    return spec(
      pipeline.EvalInput,
      source=source,
      transforms=[*steps, self._encode(truncate=True)],
      batch_size=batch_size,
      workers=workers,
    )

  def _source(self, split: str, **options: object) -> mlc.ConfigDict:
    return spec(
      sources.Captions,
      file=f'{self.folder}/{self.file}',
      images=f'{self.folder}/images',
      split=split,
      examples=self.captions,
      **options,
    )

  def _encode(self, **options: object) -> mlc.ConfigDict:
    return spec(
      transforms.Encode, vocabulary=self.vocabulary, length=MOST_WORDS + 1, **options
    )


PHOTOGRAPHS = {
  'coco': Photographs(
    'data/coco', 'dataset_coco.json', 10_000, 566_747, 5_000, 'train+restval'
  ),
  'flickr8k': Photographs(
    'data/flickr8k', 'dataset_flickr8k.json', 10_000, 30_000, 1_000
  ),
  'flickr30k': Photographs(
    'data/flickr30k', 'dataset_flickr30k.json', 10_000, 145_000, 1_000
  ),
}
