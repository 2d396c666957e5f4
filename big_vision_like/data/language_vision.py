"""Inputs of questions, statements, expressions and captions, as parts of configs.

The regions of images are stored features (docs/language_tasks.md), and texts become the
word pieces of BERT.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import ml_collections as mlc

from big_vision_like.data.input import pipeline
from big_vision_like.data.sources import (
  caption_texts,
  expressions,
  language,
  region_features,
  statements,
  vcr,
  vqa,
)
from big_vision_like.data.text import wordpiece
from big_vision_like.data.transforms import labels, questions, regions
from big_vision_like.spec import spec

VOCABULARY = 'vocabularies/bert_base_uncased.txt'
TEXT = ('tokens', 'token_types', 'token_mask')
IMAGE = ('regions', 'locations', 'region_mask')
# Number of answers of the published heads.
VQA_ANSWERS, GQA_ANSWERS = 3129, 1533
VQA_HELD_OUT = 3000
VQA_COUNTS = {'train': 443_757, 'val': 214_354}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts:
  """Texts about images for a model of pairs, by name of their part: 'train', 'val'.

  `parts` are sources. `words` are transforms to word pieces and targets, which come
  before the regions; `rows` is the number of rows of regions with the whole image.
  `answer` is the feature with the right answer. `images=2` is for pairs of images.
  `task` is the number of the task for models that get it, see `numbered`.
  """

  parts: Mapping[str, mlc.ConfigDict]
  words: Sequence[mlc.ConfigDict]
  rows: int
  answer: str
  truncate: bool = False
  images: int = 1
  task: int | None = None

  def transforms(self) -> list[mlc.ConfigDict]:
    """Returns all transforms."""
    fit = dict(rows=self.rows, truncate=self.truncate)
    suffixes = ('', '_2')[: self.images]
    rows = [spec(regions.Regions, **fit, suffix=suffix) for suffix in suffixes]
    if self.images > 1:
      rows.append(spec(questions.Paired))
    names = (*TEXT, *IMAGE, *_own(self.task), self.answer)
    keep = spec(labels.Keep, names=names)
    parts = [*self.words, *rows, keep]
    return [copy.deepcopy(part) for part in parts]

  def train_input(
    self, batch_size: int, part: str = 'train', **options: int
  ) -> mlc.ConfigDict:
    """Returns the input of training batches."""
    return spec(
      pipeline.TrainInput,
      source=self.parts[part],
      transforms=self.transforms(),
      batch_size=batch_size,
      **options,
    )

  def eval_input(self, part: str, batch_size: int, **options: int) -> mlc.ConfigDict:
    """Returns the input of a part for evaluation."""
    return spec(
      pipeline.EvalInput,
      source=self.parts[part],
      transforms=self.transforms(),
      batch_size=batch_size,
      **options,
    )

  def numbered(self, task: int) -> 'Texts':
    """Returns the same data for a model that gets the number of the task."""
    words = [copy.deepcopy(part) for part in self.words]
    words[-1].task = task
    return dataclasses.replace(self, words=words, task=task)


def vocabulary() -> mlc.ConfigDict:
  """Returns the vocabulary of bert-base-uncased."""
  return spec(wordpiece.WordPiece, path=VOCABULARY)


def stored(name: str, split: str, images: int) -> mlc.ConfigDict:
  """Returns the stored regions of a number of images."""
  return spec(region_features.RegionFeatures, name=name, split=split, examples=images)


def words(text: str, length: int, task: int | None = None) -> mlc.ConfigDict:
  """Returns the transform of a text to word pieces, and perhaps a task's number."""
  fit = dict(text=text, length=length, task=task)
  return spec(questions.Words, vocabulary=vocabulary(), **fit)


def vqa_v2(length: int = 16) -> Texts:
  """Returns VQA v2 on train2014 and val2014, less the 3,000 questions of `minval`."""

  def source(only_held_out: bool, count: int) -> mlc.ConfigDict:
    form = 'data/vqa/v2_{}mscoco_{}2014_{}.json'
    return spec(
      language.WithRegions,
      annotations=spec(
        vqa.Vqa,
        questions=[form.format('OpenEnded_', x, 'questions') for x in VQA_COUNTS],
        annotations=[form.format('', x, 'annotations') for x in VQA_COUNTS],
        answers=spec(vqa.Answers, path='vocabularies/vqa_answers.txt'),
        held_out=VQA_HELD_OUT,
        only_held_out=only_held_out,
        examples=count,
      ),
      regions=stored('coco_regions', 'trainval', 123_287),
    )

  return Texts(
    parts=dict(
      train=source(False, sum(VQA_COUNTS.values()) - VQA_HELD_OUT),
      minval=source(True, VQA_HELD_OUT),
    ),
    words=[
      spec(questions.Answers, num_answers=VQA_ANSWERS),
      words('question', length),
    ],
    rows=101,
    answer='target',
  )


def gqa(length: int = 26) -> Texts:
  """Returns the balanced questions of GQA."""

  def source(part: str, count: int) -> mlc.ConfigDict:
    return spec(
      language.WithRegions,
      annotations=spec(
        vqa.Gqa,
        path=f'data/gqa/{part}_balanced_questions.json',
        answers=spec(vqa.Answers, path='vocabularies/gqa_answers.txt'),
        examples=count,
      ),
      regions=stored('gqa_regions', 'trainval', 82_374),
    )

  return Texts(
    parts=dict(train=source('train', 943_000), val=source('val', 132_062)),
    words=[spec(questions.Answers, num_answers=GQA_ANSWERS), words('question', length)],
    rows=101,
    answer='target',
  )


def vcr_stage(stage: str) -> Texts:
  """Returns one of the stages of VCR, with given and detected regions."""

  def source(part: str, count: int, images: int) -> mlc.ConfigDict:
    return spec(
      language.WithRegions,
      annotations=spec(
        vcr.Vcr, path=f'data/vcr/{part}.jsonl', stage=stage, examples=count
      ),
      regions=stored('vcr_regions', part, images),
      given=stored('vcr_given_regions', part, images),
    )

  length = {'answer': 60, 'rationale': 80}[stage]
  return Texts(
    parts=dict(
      train=source('train', 212_923, 80_418), val=source('val', 26_534, 9_929)
    ),
    words=[
      spec(questions.Options, vocabulary=vocabulary(), length=length, text='question')
    ],
    rows=101,
    truncate=True,
    answer='label',
  )


def refcoco_plus() -> Texts:
  """Returns RefCOCO+, trained on given and detected regions, tested on detected ones.

  Regions for testing are the detections of MAttNet (arXiv:1801.08186).
  """
  counts = dict(train=120_191, val=10_758, testA=5_726, testB=4_889)

  def source(split: str) -> mlc.ConfigDict:
    train = split == 'train'
    name = 'refcoco_plus_regions' if train else 'refcoco_plus_mattnet_regions'
    given = stored('refcoco_plus_given_regions', 'train', 16_992)
    return spec(
      language.WithRegions,
      annotations=spec(
        expressions.Expressions,
        references='data/refcoco+/refs(unc).p',
        instances='data/refcoco+/instances.json',
        split=split,
        examples=counts[split],
      ),
      regions=stored(name, 'train' if train else 'test', 16_992 if train else 3_000),
      given=given if train else None,
    )

  return Texts(
    parts={split: source(split) for split in counts},
    words=[
      spec(regions.OverlapTargets, rows=101),
      words('expression', 20),
    ],
    rows=101,
    truncate=True,
    answer='target',
  )


def nlvr2() -> Texts:
  """Returns NLVR2, with two images for each sentence."""

  def source(part: str, count: int, images: int) -> mlc.ConfigDict:
    return spec(
      language.WithRegions,
      annotations=spec(
        statements.Nlvr2, path=f'data/nlvr2/{part}.json', examples=count
      ),
      regions=stored('nlvr2_regions', part, images),
    )

  return Texts(
    parts=dict(train=source('train', 86_373, 103_170), dev=source('dev', 6_982, 8_102)),
    words=[words('sentence', 40)],
    rows=101,
    answer='label',
    images=2,
  )


def snli_ve() -> Texts:
  """Returns SNLI-VE: whether an image of Flickr30k entails a sentence."""

  def source(part: str, count: int) -> mlc.ConfigDict:
    return spec(
      language.WithRegions,
      annotations=spec(
        statements.SnliVe,
        path=f'data/snli_ve/snli_ve_{part}.jsonl',
        examples=count,
        tolerated=0.1,
      ),
      regions=stored('flickr30k_regions', 'all', 31_783),
    )

  return Texts(
    parts=dict(train=source('train', 529_527), dev=source('dev', 17_858)),
    words=[words('sentence', 56)],
    rows=101,
    answer='label',
  )


# Captions and images of the splits of Karpathy.
FLICKR30K = {'train': (145_000, 29_000), 'val': (5_070, 1_014), 'test': (5_000, 1_000)}


def flickr30k(split: str) -> mlc.ConfigDict:
  """Returns the captions of a split of Flickr30k."""
  return spec(
    caption_texts.Karpathy,
    path='data/flickr30k/dataset_flickr30k.json',
    split=split,
    examples=FLICKR30K[split][0],
  )


def retrieval_train(
  batch_size: int, task: int | None = None, **options: int
) -> mlc.ConfigDict:
  """Returns the input of four pairs for each caption of Flickr30k; one is right."""
  source = spec(
    language.WithRegions,
    annotations=flickr30k('train'),
    regions=stored('flickr30k_regions', 'all', 31_783),
  )
  transforms = [
    spec(questions.Distractors, captions=source),
    spec(questions.Options, vocabulary=vocabulary(), length=30, task=task),
    spec(regions.Regions, rows=101),
    spec(regions.Regions, rows=101, suffix='_2'),
    spec(questions.Paired, order=(0, 0, 1, 0)),
    spec(labels.Keep, names=(*TEXT, *IMAGE, *_own(task), 'label')),
  ]
  return spec(
    pipeline.TrainInput,
    source=source,
    transforms=transforms,
    batch_size=batch_size,
    **options,
  )


def retrieval_eval(
  split: str, batch_size: int, task: int | None = None, **options: int
) -> dict[str, mlc.ConfigDict]:
  """Returns the inputs `data` and `images` of captions and images of Flickr30k."""
  images = spec(
    language.ImagesOf,
    captions=flickr30k(split),
    regions=stored('flickr30k_regions', 'all', 31_783),
  )
  fit = spec(regions.Regions, rows=101)
  own = (*TEXT, *_own(task), 'image_number')
  inputs = {
    'data': (flickr30k(split), [words('caption', 30, task)], own),
    'images': (images, [fit], (*IMAGE, 'image_number')),
  }
  return {
    name: spec(
      pipeline.EvalInput,
      source=source,
      transforms=[*transforms, spec(labels.Keep, names=names)],
      batch_size=batch_size,
      **options,
    )
    for name, (source, transforms, names) in inputs.items()
  }


def _own(task: int | None) -> Sequence[str]:
  return () if task is None else ('task',)
