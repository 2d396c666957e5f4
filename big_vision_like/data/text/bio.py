"""Entities as tags of words: B-kind is a first word, I-kind a further one, O another.

An entity is (first word, last word, kind).
"""

from collections.abc import Sequence

from big_vision_like.errors import UserError

Entity = tuple[int, int, str]
OUTSIDE = 'O'
SCHEMES = ('bio', 'iob1')


def entities(
  tags: Sequence[str], scheme: str = 'bio', place: str = 'the sentence'
) -> list[Entity]:
  """Returns the entities of a sentence's tags.

  In 'bio' each entity begins with B. In 'iob1', the scheme of the original CoNLL-2003,
  it begins with I, and with B only right after another one of its kind. `place` names
  the sentence in messages.
  """
  found: list[list] = []
  open_kind = ''
  for word, tag in enumerate(tags):
    letter, dash, kind = tag.partition('-')
    if tag != OUTSIDE and (letter not in ('B', 'I') or not dash or not kind):
      raise UserError(
        f'{place}: word {word + 1} has the tag {tag!r}, not O, B-kind or I-kind'
      )
    if letter == 'I' and kind != open_kind and scheme == 'bio':
      raise UserError(
        f'{place}: word {word + 1} has the tag {tag!r} and the word before is not part'
        f' of a {kind!r}: entities begin with B; for tags that begin with I, as in the'
        " original CoNLL-2003, set scheme='iob1'"
      )
    if letter == 'B' or (letter == 'I' and kind != open_kind):
      found.append([word, word, kind])
    elif letter == 'I':
      found[-1][1] = word
    open_kind = kind
  return [tuple(entity) for entity in found]


def overlapping(found: Sequence[Entity]) -> tuple[Entity, Entity] | None:
  """Returns two entities that share a word, which tags cannot describe, or None."""
  last = None
  for entity in sorted(found):
    if last is not None and entity[0] <= last[1]:
      return last, entity
    if last is None or entity[1] > last[1]:
      last = entity
  return None
