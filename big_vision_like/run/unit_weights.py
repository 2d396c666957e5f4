"""Weights of mmf's UniT, for a run of the same tasks to start from."""

from big_vision_like.run.init_from import Weights
from big_vision_like.weights import files, unit_names

# Normalization of images: ImageNet's.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_mmf(path: str, num_heads: int = 8, text_heads: int = 12) -> Weights:
  """Reads all tasks of a file of mmf, under the names of a `MultiTask`.

  Files do not record the numbers of heads: the defaults are those of all published
  models. Arrays that a file holds twice, such as a shared decoder, are read once.
  """
  arrays = files.read(path)
  variables = unit_names.from_mmf(arrays, num_heads, text_heads, path)
  assumed = (
    f'num_heads={num_heads} and text.num_heads={text_heads}: as in published UniTs; the'
    ' file does not record them',
  )
  return Weights(variables, MEAN, STD, assumed=assumed)
