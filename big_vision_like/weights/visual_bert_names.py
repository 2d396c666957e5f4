"""Names of VisualBERT's arrays in transformers; those of BERT, and of regions."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from big_vision_like.weights import bert_names, linear, tree

_START = 'visual_bert.'


def _prefix(names: Collection[str]) -> str:
  return _START if any(name.startswith(_START) for name in names) else ''


def table(prefix: str, count: int) -> linear.Table:
  """Returns the table of a whole VisualBERT with the heads of pretraining."""
  place = f'{prefix}embeddings.'
  regions = {
    f'{place}visual_token_type_embeddings.weight': 'region_type/embedding',
    f'{place}visual_position_embeddings.weight': 'region_position/embedding',
  }
  modules = {
    f'{place}visual_projection': ['region_features'],
    f'{prefix}pooler.dense': ['pooler'],
    'cls.seq_relationship': ['heads_alignment/classes'],
  }
  blocks = bert_names.blocks(f'{prefix}encoder.layer.', 'encoder', count)
  return (
    bert_names.embeddings(place, 'embeddings')
    | bert_names.words('heads_words/words')
    | linear.table(modules | blocks, regions)
  )


def differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of VisualBERT, and names missing from it."""
  prefix = _prefix(found)
  known = table(prefix, max(bert_names.depth(found, f'{prefix}encoder.layer.'), 1))
  groups = bert_names.optional(known, 'heads_words/', 'heads_alignment/')
  return bert_names.compared(found, known, groups, bert_names.PASSED)


def from_state(
  arrays: tree.Arrays, num_heads: int, source: str = 'state dict'
) -> tree.Tree:
  """Converts a state dict to parameters of our `VisualBert`, float32."""
  arrays = bert_names.renamed(arrays)
  prefix = _prefix(arrays)
  bert_names.check_tied(arrays, f'{prefix}embeddings.word_embeddings.weight', source)
  known = table(prefix, bert_names.depth(arrays, f'{prefix}encoder.layer.'))
  return tree.unflatten(linear.from_state(arrays, known, num_heads))


def to_state(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts parameters of our `VisualBert` to a state dict."""
  flat = tree.flatten(tree.unstack_blocks(params))
  prefix = _START if any(name.startswith('heads_') for name in flat) else ''
  count = len([name for name in flat if re.fullmatch(r'.*/norm1/scale', name)])
  return linear.written(flat, table(prefix, count))
