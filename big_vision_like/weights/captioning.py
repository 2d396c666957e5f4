"""Arrays of the captioning tutorial in PyTorch (arXiv:1502.03044, ReLU attention).

The encoder is the trunk of torchvision's ResNet in an `nn.Sequential`, so its parts
have numbers for names. An LSTM of PyTorch has two biases, of which ours is the sum.
"""

import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.weights import linear, tree

ENCODER, DECODER = 'encoder.', 'decoder.'
# Our module for each of theirs, without the LSTM.
_MODULES = {
  'attention.encoder_att': ['attention/cell'],
  'attention.decoder_att': ['attention/state'],
  'attention.full_att': ['attention/score'],
  'init_h': ['start/h'],
  'init_c': ['start/c'],
  'f_beta': ['selector/gate'],
  'fc': ['out/head'],
}
_LSTM = tuple(
  f'decode_step.{kind}_{of}' for kind in ('weight', 'bias') for of in ('ih', 'hh')
)
_EMBEDDING = 'embedding.weight'
# Parts of the encoder by number; others have no arrays.
_TRUNK = {'0': 'conv1', '1': 'bn1'} | {str(i + 3): f'layer{i}' for i in range(1, 5)}


def _table() -> linear.Table:
  found: linear.Table = {}
  for theirs, ours in _MODULES.items():
    found[f'{theirs}.weight'] = [f'{ours[0]}/kernel']
    found[f'{theirs}.bias'] = [f'{ours[0]}/bias']
  return found


DECODER_NAMES = frozenset({*_table(), *_LSTM, _EMBEDDING})


def decoder_from_torch(
  state: tree.Arrays, source: str = 'state dict'
) -> dict[str, np.ndarray]:
  """Converts arrays of the tutorial's decoder to flat parameters of ours.

  Raises a `UserError` that lists unknown and missing names, or shapes that do not fit.
  """
  tree.check_names(source, *tree.differences(state, DECODER_NAMES))
  flat = linear.from_state(state, _table(), num_heads=1)
  own = {name: tree.as_float32(name, state[name]) for name in (*_LSTM, _EMBEDDING)}
  for name, axes in {_LSTM[0]: 2, _LSTM[1]: 2, _LSTM[2]: 1, _LSTM[3]: 1}.items():
    if own[name].ndim != axes:
      raise UserError(f'{source}: {name} of shape {own[name].shape} is not of an LSTM')
  width = own[_EMBEDDING].shape[-1]
  flat['embedding'] = own[_EMBEDDING]
  flat['of_word/kernel'] = own[_LSTM[0]][:, :width].T
  flat['of_context/kernel'] = own[_LSTM[0]][:, width:].T
  flat['of_state/kernel'] = own[_LSTM[1]].T
  flat['of_word/bias'] = own[_LSTM[2]] + own[_LSTM[3]]
  return flat


def decoder_to_torch(flat: tree.Arrays) -> dict[str, np.ndarray]:
  """Converts flat parameters of our decoder to the tutorial's arrays.

  All of the LSTM's bias becomes the first of its two.
  """
  found = linear.to_state(flat, _table())
  both = [np.asarray(flat[f'of_{x}/kernel']).T for x in ('word', 'context')]
  bias = np.asarray(flat['of_word/bias'])
  return found | {
    _EMBEDDING: np.asarray(flat['embedding']),
    _LSTM[0]: np.concatenate(both, axis=1),
    _LSTM[1]: np.asarray(flat['of_state/kernel']).T,
    _LSTM[2]: bias,
    _LSTM[3]: np.zeros_like(bias),
  }
