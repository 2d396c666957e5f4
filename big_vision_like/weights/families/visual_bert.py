"""Published VisualBERTs, arXiv:1908.03557, in the files of transformers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from big_vision_like.errors import UserError
from big_vision_like.inference import pairs
from big_vision_like.models import visual_bert
from big_vision_like.weights import family, shapes, tree, visual_bert_names
from big_vision_like.weights.beside import Beside
from big_vision_like.weights.families import bert, vilbert


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `VisualBert`, from the shapes of its parameters."""
  params = variables['params']
  found = bert.encoder(params, 'embeddings', 'encoder')
  found['locations'] = 'region_locations' in params
  if heads := vilbert.heads_of(params, found['width']):
    found['heads'] = heads
  width = len(params['region_features']['kernel'])
  model = build(0, **found)
  shapes.check(model, vilbert.inputs(width, 2)[:-1], params, source)
  return found | {'num_classes': 0}


def build(
  num_classes: int, heads: Mapping[str, Mapping[str, Any]] = {}, **arguments: Any
) -> visual_bert.VisualBert:
  """Makes the model with its heads; it has no classes."""
  del num_classes
  return visual_bert.VisualBert(heads=vilbert.made(heads), **arguments)


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays in the names of transformers."""
  source = str(beside.path)
  heads, assumed = bert.heads_of(bert.width_of(arrays), beside)
  activation, guessed = bert.activation_of(beside.config, 'hidden_act', source)
  params = visual_bert_names.from_state(arrays, heads, source)
  told = {'activation': activation}
  return family.Read({'params': params}, told, assumed + guessed)


def check(model: visual_bert.VisualBert, source: str) -> None:
  """Raises for a model that no other library can hold."""
  if model.locations:
    raise UserError(f'{source}: a VisualBERT with locations=True has no other library')


def config(weights: Any, images: Any) -> dict[str, dict[str, Any]]:
  """Returns transformers' config.json for a folder."""
  told = dict(weights.architecture)
  heads = told.pop('heads', {})
  plain = dataclasses.replace(weights, architecture=told)
  found = bert.config(plain, images)['config.json']
  width = len(weights.params['region_features']['kernel'])
  kind = 'VisualBertForPreTraining' if heads else 'VisualBertModel'
  found |= {'architectures': [kind], 'model_type': 'visual_bert'}
  return {'config.json': found | {'visual_embedding_dim': width}}


FAMILY = family.Family(
  name='visual_bert',
  model=visual_bert.VisualBert,
  sources=(
    family.Source(
      name='transformers VisualBERT',
      suffixes=family.TORCH,
      differences=visual_bert_names.differences,
      read=read,
      writes={'transformers': family.to_params(visual_bert_names.to_state)},
      config=config,
    ),
  ),
  describe=describe,
  untold=('activation',),
  choices=lambda told: {'activation': {*bert.ACTIVATIONS.values()}},
  build=build,
  images=pairs.of_file,
  stem=(),
  channels=lambda params: 0,
  check=check,
)
