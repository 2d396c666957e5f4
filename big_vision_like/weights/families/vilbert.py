"""Published ViLBERTs: jiasenlu/vilbert_beta and facebookresearch/vilbert-multi-task.

Their files record neither heads nor places of connections. The JSON file of the model,
stored next to the weights as config.json, has them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import pairs
from big_vision_like.layers import pairs as layers
from big_vision_like.models import vilbert
from big_vision_like.weights import family, shapes, tree, vilbert_names
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import bert

# Heads of published files: image, connections.
HEADS = {'v_num_attention_heads': 8, 'bi_num_attention_heads': 8}
UNTOLD = ('activation', 'image_activation', 'fusion', 'text_places', 'image_places')
KINDS = {
  kind.__name__: kind
  for kind in (
    layers.Words,
    layers.Regions,
    layers.Classes,
    layers.Answers,
    layers.NormedAnswers,
    layers.RegionScores,
    layers.WordScores,
  )
}


def head_of(name: str, params: Mapping[str, Any], width: int) -> dict[str, Any]:
  """Returns the class and the arguments of a head, from its parameters.

  `width` is that of the vector of a pair.
  """
  parts = {*params}
  if parts == {'words'}:
    return {'kind': 'Words'}
  if parts == {'score'}:
    return {'kind': 'WordScores' if name == 'word_scores' else 'RegionScores'}
  outputs = next(
    x['bias'].size for k, x in params.items() if k in ('classes', 'answers')
  )
  if parts == {'transform', 'norm', 'classes'}:
    return {'kind': 'Regions', 'num_outputs': outputs}
  if parts == {'classes'}:
    return {'kind': 'Classes', 'num_outputs': outputs}
  if 'scale' in params['hidden']:
    return {'kind': 'NormedAnswers', 'num_outputs': outputs}
  images = len(params['hidden']['kernel']) // width
  return {'kind': 'Answers', 'num_outputs': outputs, 'images': images}


def heads_of(params: Mapping[str, Any], width: int) -> dict[str, dict[str, Any]]:
  """Returns classes and arguments of all heads by name, from their parameters."""
  return {
    name.removeprefix('heads_'): head_of(name.removeprefix('heads_'), x, width)
    for name, x in params.items()
    if name.startswith('heads_')
  }


def made(heads: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """Returns the heads that `heads_of` describes."""
  return {
    name: KINDS[told['kind']](**{k: v for k, v in told.items() if k != 'kind'})
    for name, told in heads.items()
  }


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `ViLBERT`, from the shapes of its parameters."""
  params = variables['params']
  found = bert.encoder(params, 'text_embeddings', 'text_encoder')
  image = params['image_encoder']['block_0']
  connections = sum(name.startswith('connection_') for name in params)
  if not connections:
    raise UserError(f'{source}: a ViLBERT without connections is not written')
  joint = params['connection_0']['text']['cross_attention']['query']['kernel'].shape
  image_depth = sum(name.startswith('block_') for name in params['image_encoder'])
  found |= dict(
    image_width=params['image_embeddings']['norm']['bias'].size,
    image_depth=image_depth,
    image_heads=image['attention']['query']['kernel'].shape[1],
    image_mlp_dim=image['mlp']['fc1']['bias'].size,
    joint_width=joint[1] * joint[2],
    joint_heads=joint[1],
    text_places=tuple(range(found['depth'] - connections, found['depth'])),
    image_places=tuple(range(image_depth - connections, image_depth)),
    fusion='mul',
    num_tasks=len(params['text_embeddings'].get('task', {}).get('embedding', ())),
    image_activation='gelu_exact',
  )
  if heads := heads_of(params, found['joint_width']):
    found['heads'] = heads
  width = len(params['image_embeddings']['features']['kernel'])
  shapes.check(build(0, **found), inputs(width, 2), params, source)
  return found | {'num_classes': 0}


def inputs(width: int, batch: int) -> tuple[Any, ...]:
  """Returns inputs of the model with regions of this width."""
  tokens, seen = np.zeros((batch, 2), np.int32), np.ones((batch, 2), bool)
  regions = np.zeros((batch, 2, width), np.float32)
  locations = np.zeros((batch, 2, 5), np.float32)
  return tokens, tokens, seen, regions, locations, seen, tokens[:, 0]


def build(
  num_classes: int, heads: Mapping[str, Mapping[str, Any]] = {}, **arguments: Any
) -> vilbert.ViLBERT:
  """Makes the model with its heads; it has no classes."""
  del num_classes
  return vilbert.ViLBERT(heads=made(heads), **arguments)


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays in the published names."""
  source, config = str(beside.path), beside.config
  text, assumed = bert.heads_of(bert.width_of(arrays), beside)
  heads = [config.get(name, value) for name, value in HEADS.items()]
  missing = [f'{k}={v}' for k, v in HEADS.items() if k not in config]
  if missing:
    assumed += (f'{", ".join(missing)}: as published',)
  params = vilbert_names.from_state(arrays, (text, *heads), source)
  told, places = {}, {}
  for ours, theirs in (
    ('activation', 'hidden_act'),
    ('image_activation', 'v_hidden_act'),
  ):
    told[ours], guessed = bert.activation_of(config, theirs, source)
    assumed += guessed
  found = vilbert_names.depths(arrays)
  for ours, theirs, depth in (
    ('text_places', 't_biattention_id', found.text),
    ('image_places', 'v_biattention_id', found.image),
  ):
    last = tuple(range(depth - found.connections, depth))
    places[ours] = tuple(config.get(theirs, last))
    if theirs not in config:
      assumed += (f'{ours}={last}: before the last blocks, as published',)
  told |= places | {'fusion': config.get('fusion_method', 'mul')}
  if 'fusion_method' not in config:
    assumed += ("fusion='mul': as published",)
  if skipped := vilbert_names.skipped(arrays):
    assumed += (
      f'{skipped:,} parameters q_dense1 and q_dense2 are skipped: the published code'
      ' never uses them',
    )
  return family.Read({'params': params}, told, assumed)


def choices(told: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the possible values of arguments that shapes do not determine."""
  activations = {*bert.ACTIVATIONS.values()}
  return {
    'activation': activations,
    'image_activation': activations,
    'fusion': vilbert.FUSIONS,
  }


FAMILY = family.Family(
  name='vilbert',
  model=vilbert.ViLBERT,
  sources=(
    family.Source(
      name='ViLBERT',
      suffixes=family.TORCH,
      differences=vilbert_names.differences,
      read=read,
      writes={'published': family.to_params(vilbert_names.to_state)},
      config=family.no_config,
    ),
  ),
  describe=describe,
  untold=UNTOLD,
  choices=choices,
  build=build,
  images=pairs.of_file,
  stem=(),
  channels=lambda params: 0,
)
