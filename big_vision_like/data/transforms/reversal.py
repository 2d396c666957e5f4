"""Clips played backwards."""

import dataclasses

from big_vision_like.data.transforms import labels
from big_vision_like.data.transforms.labels import Example, Names


@dataclasses.dataclass(frozen=True)
class Reversed(labels.Mapped):
  """The frames of `video` in reverse order.

  `classes[i]` is the class of a clip of class i played backwards.
  """

  def map(self, example: Example) -> Example:
    return super().map(example) | {'video': example['video'][::-1]}

  def renamed(self, names: Names) -> Names:
    """Returns the names of the labels, which still mean the same."""
    return names
