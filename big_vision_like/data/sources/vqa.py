"""Questions about images with answers: VQA v2 (arXiv:1612.00837) and GQA.

Examples have `question`, `image_id`, `id`, and `labels` and `scores`, the known answers
and their scores in [0, 1].

The answers of VQA are normalized and scored as by the published preparation of targets
that all models with 3,129 answers share (hengyuan-hu/bottom-up-attention-vqa). An
answer that c of ten people gave has the score 0.3, 0.6 or 0.9 for c = 1, 2 or 3, and 1
for more. This is also the official metric, min(1, others / 3) averaged over each nine
of the ten people.
"""

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import language
from big_vision_like.data.sources.base import Identified
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.errors import UserError

LEAST = 9  # occurrences of an answer in the vocabulary
NUMBERS = 'zero one two three four five six seven eight nine ten'.split()
DIGITS = {'none': '0'} | {word: str(i) for i, word in enumerate(NUMBERS)}
ARTICLES = ('a', 'an', 'the')
MARKS = ';/[]"{}()=+\\_-><@`,?!'
BETWEEN_DIGITS = re.compile(r'\d,\d')
# The published pattern, whose lookahead is meant as a lookbehind: it removes every
# period that no digit follows.
PERIOD = re.compile(r'(?!<=\d)\.(?!\d)')
# Words that get their apostrophes back. Those with two may lack either one.
APOSTROPHES = (
  "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd"
  " he's how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've"
  " needn't not've o'clock oughtn't shan't should've shouldn't somebody'll somebody's"
  " someone'd someone'll someone's something'd something'll that's there'd there're"
  " there's they'd they'll they're they've 'twas wasn't we've weren't what'll what're"
  " what's what've when's where'd where's where've who'd who'll who's who've why'll"
  " why're why's won't would've wouldn't y'all you'd you'll you're you've"
).split()
TWO_APOSTROPHES = (
  "couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've"
  " somebody'd've someone'd've something'd've there'd've they'd've we'd've who'd've"
  " wouldn't've y'all'll you'd've"
).split()
# Entries that follow no rule; "somebodyd" is what the published table has.
IRREGULAR = {
  "somebody'd": 'somebodyd',
  "ow's'at": "'ow's'at",
  "'ows'at": "'ow's'at",
  "'ow'sat": "'ow's'at",
  "yall'd've": "y'all'd've",
  "y'alld've": "y'all'd've",
  "y'all'dve": "y'all'd've",
}


def _contractions() -> dict[str, str]:
  """Returns words that lack an apostrophe, with the words they stand for."""
  found = {word.replace("'", ''): word for word in APOSTROPHES}
  for word in TWO_APOSTROPHES:
    first, second, third = word.split("'")
    found[f"{first}{second}'{third}"] = found[f"{first}'{second}{third}"] = word
  return found | IRREGULAR


CONTRACTIONS = _contractions()


def normalized(answer: str) -> str:
  """Returns an answer in the form of the vocabulary: '2', 'no parking', "isn't"."""
  text, keeps = answer, BETWEEN_DIGITS.search(answer) is not None
  for mark in MARKS:
    apart = f'{mark} ' in answer or f' {mark}' in answer
    text = text.replace(mark, '' if apart or keeps else ' ')
  # re.UNICODE, 32, is passed as the number of replacements in the published code.
  text = PERIOD.sub('', text, 32)
  found = [DIGITS.get(word, word) for word in text.lower().split()]
  found = [CONTRACTIONS.get(word, word) for word in found if word not in ARTICLES]
  return ' '.join(found).replace(',', '')


def score(count: int) -> float:
  """Returns the score of an answer that `count` of ten people gave."""
  return (0.0, 0.3, 0.6, 0.9)[count] if count < 4 else 1.0


def official_score(answer: str, given: Sequence[str]) -> float:
  """Returns the official accuracy of an answer, given those of ten people.

  It is the mean over all people of min(1, n / 3), where n of the other nine agree.
  """
  others = [sum(x == answer for x in given) - (x == answer) for x in given]
  return sum(min(1.0, n / 3) for n in others) / len(given)


def frequent(entries: Iterable[Mapping[str, Any]], least: int = LEAST) -> list[str]:
  """Returns the normalized most common answers of at least `least` questions.

  `entries` are annotations; the answers are in the order of their first occurrence.
  """
  counts: collections.Counter[str] = collections.Counter()
  seen: set[tuple[str, Any]] = set()
  for entry in entries:
    answer = normalized(entry['multiple_choice_answer'])
    if (answer, entry['question_id']) not in seen:
      seen.add((answer, entry['question_id']))
      counts[answer] += 1
  return [answer for answer, count in counts.items() if count >= least]


def annotations_in(path: str) -> list[dict[str, Any]]:
  """Returns the annotations of a file of VQA."""
  content = files.read_fields(os.path.expanduser(path))
  (found,) = language.fields(content, ['annotations'], path)
  for place, entry in enumerate(found):
    names = ('question_id', 'image_id', 'answers', 'multiple_choice_answer')
    language.fields(entry, names, f'annotation {place} of {path}')
  return found


@dataclasses.dataclass(frozen=True)
class Answers(Identified):
  """A vocabulary of answers: a text file with one answer per line, or a JSON list.

  tools/build_answers.py writes it.
  """

  path: str

  @functools.cached_property
  def names(self) -> list[str]:
    """The answers, in order."""
    path = os.path.expanduser(self.path)
    if not os.path.isfile(path):
      raise UserError(
        f'there is no vocabulary of answers {self.path}. Make it with: python'
        f' tools/build_answers.py ANNOTATIONS.json ... --out {self.path}'
      )
    if path.endswith('.json'):
      found = files.read_json(path)
      if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise UserError(f'{self.path} is not a list of answers')
    else:
      found = files.read_bytes(path).decode().splitlines()
    if len({*found}) < len(found):
      twice = next(x for x, n in collections.Counter(found).items() if n > 1)
      raise UserError(f'{self.path} lists the answer {twice!r} twice')
    return found

  @functools.cached_property
  def labels(self) -> dict[str, int]:
    """The label of each answer."""
    return {name: label for label, name in enumerate(self.names)}

  def fingerprint(self) -> str:
    """Returns a digest of the answers."""
    return files.sha256(self.names)[:32]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vqa(Annotations):
  """VQA's questions, with the scores of their answers that `answers` has.

  `questions` and `annotations` are files of equal order, such as those of train2014 and
  val2014; without annotations, as for the test, examples have no scores. The last
  `held_out` questions by id of the last file are the published `minval` (3,000 of
  val2014): they are left out, or with `only_held_out` the only ones. Questions none of
  whose answers is in the vocabulary are kept, with the score 0 for every answer.
  """

  questions: Sequence[str]
  annotations: Sequence[str]
  answers: Answers
  held_out: int = 0
  only_held_out: bool = False

  tiny = Annotations.tiny | dict(held_out=0)

  def __post_init__(self) -> None:
    if self.annotations and len(self.annotations) != len(self.questions):
      raise UserError(
        f'annotations={list(self.annotations)} must have one file for each of'
        f' questions={list(self.questions)}'
      )

  @property
  def paths(self) -> Sequence[str]:
    return [*self.questions, *self.annotations]

  def identified_by(self) -> Sequence[Any]:
    return [self.answers]

  def read(self) -> Read:
    examples, left_out = [], collections.Counter()
    for place, path in enumerate(self.questions):
      answered = None
      if self.annotations:
        annotations = annotations_in(self.annotations[place])
        answered = {entry['question_id']: entry for entry in annotations}
      found = self._of_file(path, answered, left_out)
      if self.held_out and place == len(self.questions) - 1:
        cut = max(len(found) - self.held_out, 0)
        found = found[cut:] if self.only_held_out else found[:cut]
      elif self.only_held_out:
        found = []
      examples += found
    return Read(examples, left_out)

  def _of_file(
    self, path: str, answered: dict[Any, Any] | None, left_out: collections.Counter
  ) -> list[Example]:
    content = files.read_fields(os.path.expanduser(path))
    (entries,) = language.fields(content, ['questions'], path)
    examples = []
    for place, entry in enumerate(entries):
      where = f'question {place} of {path}'
      key, text = language.fields(entry, ('question_id', 'question'), where)
      image = entry.get('image_id')
      if image is None:
        left_out['questions without an image'] += 1
      elif not isinstance(text, str) or not text.strip():
        left_out['questions without words'] += 1
      elif answered is not None and key not in answered:
        left_out['questions without answers'] += 1
      else:
        example = {'question': text, 'image_id': language.image_id(image), 'id': key}
        if answered is not None:
          example |= self._scored(answered.pop(key))
        examples.append(example)
    if answered:
      left_out['answers without a question'] += len(answered)
    return sorted(examples, key=lambda example: example['id'])

  def _scored(self, entry: Mapping[str, Any]) -> Example:
    # As published, the answers of people are compared as they are.
    counts = collections.Counter(answer['answer'] for answer in entry['answers'])
    known = {
      self.answers.labels[a]: n for a, n in counts.items() if a in self.answers.labels
    }
    return {
      'labels': np.array([*known], np.int64),
      'scores': np.array([score(n) for n in known.values()], np.float32),
    }

  def remarks(self) -> list[str]:
    """Returns the number of questions without a known answer."""
    if self.made_up or not self.annotations:
      return []
    return unknown(self)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    labels = np.array([index % 4, 4], np.int64)
    scores = np.array([1.0, 0.3], np.float32)
    return {'question': language.words(rng), 'labels': labels, 'scores': scores}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gqa(Annotations):
  """GQA's questions (arXiv:1902.09506), a JSON object of them by id.

  Each has one answer, with the score 1 if `answers` has it.
  """

  path: str
  answers: Answers

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def identified_by(self) -> Sequence[Any]:
    return [self.answers]

  def read(self) -> Read:
    content = files.read_fields(os.path.expanduser(self.path))
    examples, left_out = [], collections.Counter()
    for key, entry in content.items():
      where = f'question {key} of {self.path}'
      text, image = language.fields(entry, ('question', 'imageId'), where)
      if not image:
        left_out['questions without an image'] += 1
        continue
      if not text.strip():
        left_out['questions without words'] += 1
        continue
      label = self.answers.labels.get(entry.get('answer'))
      known = [] if label is None else [label]
      examples.append(
        {
          'question': text,
          'image_id': language.image_id(image),
          'id': len(examples),
          'labels': np.array(known, np.int64),
          'scores': np.ones(len(known), np.float32),
        }
      )
    return Read(examples, left_out)

  def remarks(self) -> list[str]:
    """Returns the number of questions without a known answer."""
    return [] if self.made_up else unknown(self)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    labels, scores = np.array([index % 4], np.int64), np.ones(1, np.float32)
    return {'question': language.words(rng), 'labels': labels, 'scores': scores}


def unknown(source: Annotations) -> list[str]:
  """Returns a remark with the number of questions none of whose answers is known."""
  count = sum(not len(example['labels']) for example in source)
  if not count:
    return []
  return [
    f'{count:,} of {len(source):,} questions have no answer in the vocabulary; every'
    ' answer to them has the score 0'
  ]
