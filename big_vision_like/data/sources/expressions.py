"""Expressions that refer to one object of an image: RefCOCO, RefCOCO+ and RefCOCOg."""

import collections
import dataclasses
import io
import os
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from big_vision_like import files
from big_vision_like.data.sources import language
from big_vision_like.data.sources.language import Annotations, Example, Read
from big_vision_like.errors import UserError, listed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expressions(Annotations):
  """The expressions of a split, one example for each.

  `references` is the published `refs(unc).p`, or a JSON list of the same entries, and
  `instances` the `instances.json` next to it, which has the boxes. Examples have
  `expression`, `box`, left, top, right, bottom in pixels, `image_id` and `id`. The
  pickle is read as plain data: lists, dicts, texts and numbers. One that names any
  class or function, which loading would call, is refused.
  """

  references: str
  instances: str
  split: str

  @property
  def paths(self) -> Sequence[str]:
    return [self.references, self.instances]

  def read(self) -> Read:
    path = os.path.expanduser(self.references)
    content = files.read_bytes(path)
    is_json = path.endswith('.json')
    entries = (files.parse_json if is_json else plain_pickle)(content, self.references)
    if not isinstance(entries, list):
      raise UserError(f'{self.references} is not a list of references')
    instances = files.read_fields(os.path.expanduser(self.instances))
    (annotations,) = language.fields(instances, ['annotations'], self.instances)
    boxes = {
      key: box
      for place, entry in enumerate(annotations)
      for key, box in [
        language.fields(
          entry, ('id', 'bbox'), f'annotation {place} of {self.instances}'
        )
      ]
    }
    examples, left_out, splits = [], collections.Counter(), set()
    for place, entry in enumerate(entries):
      where = f'reference {place} of {self.references}'
      needed = ('split', 'ann_id', 'image_id', 'sentences')
      split, object_id, image, sentences = language.fields(entry, needed, where)
      splits.add(split)
      if split != self.split:
        continue
      for sentence in sentences:
        text = sentence.get('raw') or sentence.get('sent') or ''
        box = boxes.get(object_id)
        if box is None:
          left_out['expressions without a box'] += 1
        elif not text.strip():
          left_out['expressions without words'] += 1
        else:
          left, top, width, height = box
          corners = np.array([left, top, left + width, top + height], np.float32)
          examples.append(
            {
              'expression': text,
              'box': corners,
              'image_id': language.image_id(image),
              'id': len(examples),
            }
          )
    if not examples and self.split not in splits:
      raise UserError(
        f'{self.references} has no split {self.split!r}; it has'
        f' {listed(sorted(map(str, splits)))}'
      )
    return Read(examples, left_out)

  def trial(self, index: int, rng: np.random.Generator) -> Example:
    place = index % language.region_features.FEW
    box = language.region_features.made_up(place, 4)['boxes'][0]
    return {'expression': language.words(rng), 'box': box}


class _Plain(pickle.Unpickler):
  """An unpickler of lists, dicts, texts and numbers, which calls nothing."""

  def find_class(self, module: str, name: str) -> Any:
    raise pickle.UnpicklingError(f'it would run {module}.{name}')


def plain_pickle(content: bytes, source: str) -> Any:
  """Returns the plain data of a pickle, of Python 2 or 3; refuses anything else."""
  try:
    return _Plain(io.BytesIO(content), encoding='latin-1').load()
  except Exception as error:  # damaged pickles raise many types
    raise UserError(
      f'{source} is not a pickle of plain data ({error}): write the list of references'
      ' as JSON instead'
    ) from error
