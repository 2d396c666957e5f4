"""Drawn data sets; importing this package makes their names known to TFDS."""

from big_vision_like.data.procedural.glyphs import Glyphs

__all__ = ['Glyphs']
