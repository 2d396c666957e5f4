"""Visual Commonsense Reasoning (arXiv:1811.10830): questions with four options."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like.data.sources import language
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.errors import UserError, check_one_of

STAGES = ('answer', 'rationale')
# Names of people, by their position in an image; the published list of names is drawn
# from at random, and is not part of the data.
PEOPLE = (
  'casey riley jessie jackie avery jaime peyton kerry jody kendall skyler frankie pat'
  ' quinn'
).split()
OPTIONS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vcr(Annotations):
  """The lines of train.jsonl or val.jsonl; `stage` is 'answer' or 'rationale'.

  Examples have `question`, `options`, four texts, `label`, the right one, `image_id`
  (`img_id` of the line) and `id`. In the stage 'rationale', `question` is a list of the
  question and its right answer, and options are rationales. Objects that texts refer to
  by number become their class; people get the `PEOPLE`'s names. Both stages of a file
  have the same examples in the same order: entries that cannot be used in one of them
  are left out in both.
  """

  path: str
  stage: str = 'answer'

  def __post_init__(self) -> None:
    check_one_of(STAGES, stage=self.stage)

  @property
  def paths(self) -> Sequence[str]:
    return [self.path]

  def read(self) -> Read:
    examples, left_out = [], collections.Counter()
    needed = ('question', 'answer_choices', 'rationale_choices', 'img_id', 'objects')
    for where, entry in language.lines_of(self.path):
      question, answers, rationales, image, objects = language.fields(
        entry, needed, where
      )
      labels = language.fields(entry, ('answer_label', 'rationale_label'), where)
      names = named(objects)
      for choices, label in zip((answers, rationales), labels, strict=True):
        if len(choices) != OPTIONS or label not in range(OPTIONS):
          raise UserError(
            f'{where} has {len(choices)} choices with the right one {label!r}, not'
            f' {OPTIONS} with one of 0 to {OPTIONS - 1}'
          )
      texts = [question, *answers, *rationales]
      question, *choices = [text_of(text, names, where) for text in texts]
      if not all((question, *choices)):
        left_out['questions or choices without words'] += 1
      elif not image:
        left_out['questions without an image'] += 1
      else:
        right = choices[labels[0]]
        first = self.stage == 'answer'
        examples.append(
          {
            'question': question if first else [question, right],
            'options': choices[:OPTIONS] if first else choices[OPTIONS:],
            'label': labels[0 if first else 1],
            'image_id': language.image_id(image),
            'id': len(examples),
          }
        )
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    return {
      'question': language.words(rng),
      'options': [language.words(rng) for _ in range(OPTIONS)],
      'label': index % OPTIONS,
    }


def named(objects: Sequence[str]) -> list[str]:
  """Returns the word for each object: its class, or the name of a person."""
  people = 0
  found = []
  for name in objects:
    found.append(PEOPLE[people % len(PEOPLE)] if name == 'person' else name)
    people += name == 'person'
  return found


def text_of(parts: Any, names: Sequence[str], where: str) -> str:
  """Returns the text of a list of words and of lists of numbers of objects."""
  found = []
  for part in parts:
    for item in part if isinstance(part, list) else [part]:
      if isinstance(item, str):
        found.append(item)
      elif type(item) is int and 0 <= item < len(names):
        found.append(names[item])
      else:
        raise UserError(
          f'{where} refers to the object {item!r} of {len(names)} objects'
        )
  return ' '.join(found).strip()
