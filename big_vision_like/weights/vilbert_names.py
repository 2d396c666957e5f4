"""Names of ViLBERT's arrays in jiasenlu/vilbert_beta and vilbert-multi-task.

Matrices are (out, in). In connections, 1 is the image and 2 the text. `q_dense1` and
`q_dense2` exist in each connection and are never used: they are skipped, and written
as zeros.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from big_vision_like.weights import bert_names, linear, tree

UNUSED = r'.*\.biOutput\.q_dense[12]\.(weight|bias)'
PASSED = rf'{bert_names.PASSED}|{UNUSED}'
_CONNECTION = {
  'biattention.query1': 'image/cross_attention/query',
  'biattention.key1': 'text/cross_attention/key',
  'biattention.value1': 'text/cross_attention/value',
  'biattention.query2': 'text/cross_attention/query',
  'biattention.key2': 'image/cross_attention/key',
  'biattention.value2': 'image/cross_attention/value',
  'biOutput.dense1': 'image/cross_attention/out',
  'biOutput.LayerNorm1': 'image/norm1',
  'biOutput.dense2': 'text/cross_attention/out',
  'biOutput.LayerNorm2': 'text/norm1',
  'v_intermediate.dense': 'image/mlp/fc1',
  'v_output.dense': 'image/mlp/fc2',
  'v_output.LayerNorm': 'image/norm2',
  't_intermediate.dense': 'text/mlp/fc1',
  't_output.dense': 'text/mlp/fc2',
  't_output.LayerNorm': 'text/norm2',
}
_TOP = {
  'bert.v_embeddings.image_embeddings': 'image_embeddings/features',
  'bert.v_embeddings.image_location_embeddings': 'image_embeddings/locations',
  'bert.v_embeddings.LayerNorm': 'image_embeddings/norm',
  'bert.t_pooler.dense': 'text_pooler',
  'bert.v_pooler.dense': 'image_pooler',
}
_TASK = 'bert.embeddings.task_embeddings.weight'
# The misspelt name is theirs.
_HEADS = {
  'cls.imagePredictions.transform.dense': 'heads_regions/transform',
  'cls.imagePredictions.transform.LayerNorm': 'heads_regions/norm',
  'cls.imagePredictions.decoder': 'heads_regions/classes',
  'cls.bi_seq_relationship': 'heads_alignment/classes',
  'vil_logit': 'heads_match/classes',
  'vil_tri_prediction': 'heads_entailment/classes',
  'vision_logit': 'heads_region_scores/score',
  'linguisic_logit': 'heads_word_scores/score',
}
_ANSWERS = {
  'vil_prediction': 'heads_vqa',
  'vil_prediction_gqa': 'heads_gqa',
  'vil_binary_prediction': 'heads_nlvr2',
}
_LAYERS = {'logit_fc.0': 'hidden', 'logit_fc.2': 'norm', 'logit_fc.3': 'answers'}
# With weight norm: `weight_g` is the norm of the whole matrix.
_NORMED = {
  f'vil_prediction.main.{number}.{theirs}': f'heads_vqa/{layer}/{ours}'
  for number, layer in ((0, 'hidden'), (3, 'answers'))
  for theirs, ours in (('weight_v', 'kernel'), ('weight_g', 'scale'), ('bias', 'bias'))
}


class Depths(NamedTuple):
  """The numbers of blocks of the text and the image, and of connections."""

  text: int
  image: int
  connections: int


def depths(names: Collection[str]) -> Depths:
  """Returns the depths of a file from its names."""
  parts = ('layer', 'v_layer', 'c_layer')
  return Depths(*(bert_names.depth(names, f'bert.encoder.{part}.') for part in parts))


def table(found: Depths, normed: bool = False) -> linear.Table:
  """Returns the table of a model with all heads.

  `normed` selects the form of the head for answers that has weight norm.
  """
  modules = {theirs: [ours] for theirs, ours in (_TOP | _HEADS).items()}
  modules |= bert_names.blocks('bert.encoder.layer.', 'text_encoder', found.text)
  modules |= bert_names.blocks('bert.encoder.v_layer.', 'image_encoder', found.image)
  for i in range(found.connections):
    for theirs, ours in _CONNECTION.items():
      modules[f'bert.encoder.c_layer.{i}.{theirs}'] = [f'connection_{i}/{ours}']
  for theirs, ours in _ANSWERS.items():
    if not (normed and theirs == 'vil_prediction'):
      modules |= {f'{theirs}.{x}': [f'{ours}/{own}'] for x, own in _LAYERS.items()}
  plain = {_TASK: 'text_embeddings/task/embedding'}
  return (
    bert_names.embeddings('bert.embeddings.', 'text_embeddings')
    | bert_names.words('heads_words/words')
    | linear.table(modules, plain | (_NORMED if normed else {}))
  )


def differences(found: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of ViLBERT, and names missing from it."""
  text, image, connections = depths(found)
  known = table(Depths(max(text, 1), max(image, 1), connections), is_normed(found))
  heads = {ours[0].split('/')[0] for ours in known.values()}
  starts = [f'{name}/' for name in heads if name.startswith('heads_')]
  groups = bert_names.optional(known, *starts, 'text_embeddings/task/')
  return bert_names.compared(found, known, groups, PASSED)


def is_normed(names: Collection[str]) -> bool:
  """Returns whether the head for answers has weight norm."""
  return any(name.startswith('vil_prediction.main.') for name in names)


def skipped(arrays: tree.Arrays) -> int:
  """Returns the number of parameters that are never used, and not read."""
  return sum(x.size for name, x in arrays.items() if re.fullmatch(UNUSED, name))


def from_state(
  arrays: tree.Arrays,
  num_heads: tuple[int, int, int],
  source: str = 'state dict',
) -> tree.Tree:
  """Converts a state dict to parameters of our `ViLBERT`, float32.

  `num_heads` are those of text, image and connections.
  """
  arrays = bert_names.renamed(arrays)
  bert_names.check_tied(arrays, 'bert.embeddings.word_embeddings.weight', source)
  known, flat = table(depths(arrays), is_normed(arrays)), {}
  kinds = zip(('text_', 'image_', 'connection_'), num_heads, strict=True)
  for start, heads in kinds:
    part = {k: v for k, v in known.items() if v[0].startswith(start)}
    flat |= linear.from_state(arrays, part, heads)
  rest = {k: v for k, v in known.items() if v[0].startswith('heads_')}
  return tree.unflatten(flat | linear.from_state(arrays, rest, 1))


def to_state(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Converts parameters of our `ViLBERT` to a state dict of theirs."""
  flat = tree.flatten(tree.unstack_blocks(params))
  starts = ('text_encoder/block_', 'image_encoder/block_', 'connection_')
  counted = (
    len({name[len(start) :].split('/')[0] for name in flat if name.startswith(start)})
    for start in starts
  )
  found, normed = Depths(*counted), 'heads_vqa/hidden/scale' in flat
  state = linear.written(flat, table(found, normed))
  for i in range(found.connections):
    for number in (1, 2):
      place = f'bert.encoder.c_layer.{i}.biOutput.'
      for leaf in ('weight', 'bias'):
        like = state[f'{place}dense{number}.{leaf}']
        state[f'{place}q_dense{number}.{leaf}'] = np.zeros_like(like)
  return state
