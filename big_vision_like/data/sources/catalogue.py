"""Data sets that this package writes, and how TFDS learns about them."""

import importlib

# Data sets that this package knows how to write; importing the module tells TFDS.
OUR_BUILDERS = {
  'digits': 'big_vision_like.data.procedural.digits',
  'glyphs': 'big_vision_like.data.procedural.glyphs',
  'multi_dsprites': 'big_vision_like.data.procedural.multi_dsprites',
  'multi_object': 'big_vision_like.data.sources.multi_object',
  'scenes': 'big_vision_like.data.procedural.scenes',
  'solids': 'big_vision_like.data.procedural.solids',
  'tetrominoes': 'big_vision_like.data.procedural.tetrominoes',
}


def announce(name: str) -> None:
  """Tells TFDS of a data set that it would not find by itself."""
  family = name.partition('/')[0].partition(':')[0]
  if family in OUR_BUILDERS:
    importlib.import_module(OUR_BUILDERS[family])
  elif family.endswith('_translate'):
    # Where TensorFlow is missing, TFDS stops importing its catalogue at the first
    # module that needs it, long before this one, which does not.
    importlib.import_module('tensorflow_datasets.translate')
