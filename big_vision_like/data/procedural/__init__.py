"""Procedurally drawn data sets; importing this package registers them with TFDS."""

from big_vision_like.data.procedural.glyphs import Glyphs

__all__ = ['Glyphs']
