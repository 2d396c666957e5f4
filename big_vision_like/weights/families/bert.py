"""Published BERTs, arXiv:1810.04805, in the files of transformers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.inference import pairs
from big_vision_like.models import bert
from big_vision_like.weights import bert_names, family, shapes, tree
from big_vision_like.weights.beside import Beside

# Our activation for each of theirs.
ACTIVATIONS = {
  'gelu': 'gelu_exact',
  'gelu_new': 'gelu',
  'gelu_pytorch_tanh': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
}


def encoder(params: tree.Tree, embeddings: str, stack: str) -> dict[str, Any]:
  """Returns the arguments that describe a text stream, from its shapes."""
  tables, block = params[embeddings], params[stack]['block_0']
  vocab_size, width = tables['word']['embedding'].shape
  return dict(
    vocab_size=vocab_size,
    width=width,
    depth=sum(name.startswith('block_') for name in params[stack]),
    num_heads=block['attention']['query']['kernel'].shape[1],
    mlp_dim=block['mlp']['fc1']['bias'].size,
    max_length=len(tables['position']['embedding']),
    num_types=len(tables['token_type']['embedding']),
    activation='gelu_exact',
  )


def describe(variables: tree.Tree, source: str) -> dict[str, Any]:
  """Returns the arguments of our `Bert`, from the shapes of its parameters."""
  params = variables['params']
  found = encoder(params, 'embeddings', 'encoder')
  found['pooler'] = 'pooler' in params
  if heads := tuple(name for name in bert.HEADS if name in params):
    found['heads'] = heads
  tokens = np.zeros((1, 2), np.int32)
  shapes.check(bert.Bert(**found), (tokens,), params, source)
  return found | {'num_classes': 0}


def build(num_classes: int, **arguments: Any) -> bert.Bert:
  """Makes the model, which has no classes."""
  del num_classes
  return bert.Bert(**arguments)


def heads_of(width: int, beside: Beside) -> tuple[int, tuple[str, ...]]:
  """Returns the number of heads, and the assumptions made for it."""
  told = beside.num_heads or beside.config.get('num_attention_heads')
  if told:
    return int(told), ()
  heads = max(width // 64, 1)
  return heads, (
    f'num_heads={heads}: as in published BERTs of width {width}; neither the file nor a'
    ' config.json records it',
  )


def activation_of(
  config: Mapping[str, Any], field: str, source: str
) -> tuple[str, tuple[str, ...]]:
  """Returns our name of the activation in a config, and the assumptions made for it."""
  told = config.get(field)
  if told is None:
    return 'gelu_exact', (f"{field}='gelu': the default of BERTs",)
  if told not in ACTIVATIONS:
    known = ', '.join(ACTIVATIONS)
    raise UserError(f'{source}: config.json: {field}={told!r} is not one of {known}')
  return ACTIVATIONS[told], ()


def width_of(arrays: tree.Arrays) -> int:
  """Returns the width of the embeddings in a file."""
  end = 'embeddings.word_embeddings.weight'
  return next(x.shape[-1] for name, x in arrays.items() if name.endswith(end))


def read(arrays: tree.Arrays, beside: Beside) -> family.Read:
  """Reads arrays in the names of transformers, new or old."""
  source = str(beside.path)
  heads, assumed = heads_of(width_of(arrays), beside)
  activation, guessed = activation_of(beside.config, 'hidden_act', source)
  params = bert_names.from_state(arrays, heads, source)
  told = {'activation': activation}
  return family.Read({'params': params}, told, assumed + guessed)


def config(weights: Any, images: Any) -> dict[str, dict[str, Any]]:
  """Returns transformers' config.json for a folder."""
  told = weights.architecture
  heads = told.get('heads', ())
  if heads and set(heads) != set(bert.HEADS):
    kind = 'BertForMaskedLM' if heads == ('words',) else 'BertForNextSentencePrediction'
  else:
    kind = 'BertForPreTraining' if heads else 'BertModel'
  activation = next(k for k, v in ACTIVATIONS.items() if v == told['activation'])
  return {
    'config.json': {
      'architectures': [kind],
      'model_type': 'bert',
      'vocab_size': told['vocab_size'],
      'hidden_size': told['width'],
      'num_hidden_layers': told['depth'],
      'num_attention_heads': told['num_heads'],
      'intermediate_size': told['mlp_dim'],
      'max_position_embeddings': told['max_length'],
      'type_vocab_size': told['num_types'],
      'hidden_act': activation,
      'layer_norm_eps': 1e-12,
    }
  }


FAMILY = family.Family(
  name='bert',
  model=bert.Bert,
  sources=(
    family.Source(
      name='transformers BERT',
      suffixes=family.TORCH,
      differences=bert_names.differences,
      read=read,
      writes={'transformers': family.to_params(bert_names.to_state)},
      config=config,
    ),
  ),
  describe=describe,
  untold=('activation',),
  choices=lambda told: {'activation': {*ACTIVATIONS.values()}},
  build=build,
  images=pairs.of_file,
  stem=(),
  channels=lambda params: 0,
)
