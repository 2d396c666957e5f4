"""Arrays of the captioning tutorial in PyTorch (arXiv:1502.03044, ReLU attention).

The encoder is the trunk of torchvision's ResNet in an `nn.Sequential`, so its parts
have numbers for names. An LSTM of PyTorch has two biases, of which ours is the sum.
"""

import re
from collections.abc import Collection

import numpy as np

from big_vision_like.errors import UserError, listed
from big_vision_like.weights import (
  files,
  linear,
  resnet_names,
  torchvision_resnet,
  tree,
)

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


def torchvision_names(names: Collection[str]) -> dict[str, str]:
  """Returns torchvision's name of each of the encoder's arrays, without step counts."""
  found = {}
  for name in names:
    match = re.fullmatch(r'encoder\.resnet\.(\d+)\.(.+)', name)
    if match and match[1] in _TRUNK:
      found[name] = f'{_TRUNK[match[1]]}.{match[2]}'
  return found


def differences(names: Collection[str]) -> tree.Differences:
  """Returns names unknown in a file of the tutorial, and names missing from it."""
  encoder = torchvision_names(names)
  theirs = {ours: name for name, ours in encoder.items()}
  unknown, missing = torchvision_resnet.differences(theirs)
  own = {f'{DECODER}{name}' for name in DECODER_NAMES}
  others = {name for name in names if name not in encoder}
  strange, lacking = tree.differences(others, own)
  return (
    strange | {theirs[name] for name in unknown},
    lacking | {theirs.get(name, f'{ENCODER}{name}') for name in missing},
  )


def from_tutorial(state: tree.Arrays, source: str = 'state dict') -> tree.Tree:
  """Converts the tutorial's arrays to variables of our `Captioner`, by collection."""
  state = files.without_counts(state)
  tree.check_names(source, *differences(state))
  names = torchvision_names(state)
  found = torchvision_resnet.from_torchvision(
    {ours: state[name] for name, ours in names.items()}, 'frozen', source
  )
  own = {
    name.removeprefix(DECODER): array
    for name, array in state.items()
    if name.startswith(DECODER)
  }
  variables = {collection: {'encoder': part} for collection, part in found.items()}
  decoder = tree.unflatten(decoder_from_torch(own, source))
  return variables | {'params': variables['params'] | {'decoder': decoder}}


def to_tutorial(variables: tree.Tree) -> dict[str, np.ndarray]:
  """Inverts `from_tutorial`, without step counts."""
  parts = {name: x['encoder'] for name, x in variables.items() if 'encoder' in x}
  numbers = {ours: number for number, ours in _TRUNK.items()}
  found = {}
  for name, array in torchvision_resnet.to_torchvision(parts, 'frozen').items():
    first, _, rest = name.partition('.')
    found[f'{ENCODER}resnet.{numbers[first]}.{rest}'] = array
  decoder = decoder_to_torch(tree.flatten(variables['params']['decoder']))
  return found | {f'{DECODER}{name}': array for name, array in decoder.items()}


def decoder_architecture(flat: tree.Arrays, source: str) -> dict[str, int]:
  """Returns the sizes of our decoder in the tutorial's form, and of its cells.

  Raises a `UserError` that names shapes which do not match each other.
  """
  words, width = np.shape(flat['embedding'])
  cell, attention = np.shape(flat['attention/cell/kernel'])
  units = np.shape(flat['of_state/kernel'])[0]
  inputs = {
    'attention/cell': (cell, attention),
    'attention/state': (units, attention),
    'attention/score': (attention, 1),
    'start/c': (cell, units),
    'start/h': (cell, units),
    'selector/gate': (units, cell),
    'of_word': (width, 4 * units),
    'out/head': (units, words),
  }
  want: dict[str, tuple[int, ...]] = {
    'embedding': (words, width),
    'of_context/kernel': (cell, 4 * units),
    'of_state/kernel': (units, 4 * units),
  }
  for name, sides in inputs.items():
    want[f'{name}/kernel'], want[f'{name}/bias'] = sides, sides[1:]
  wrong = resnet_names.wrong_shapes(flat, want)
  if wrong:
    raise UserError(f'{source}: shapes that do not fit: {listed(wrong)}')
  return dict(
    vocab_size=words,
    word_width=width,
    units=units,
    attention_width=attention,
    cell_width=cell,
  )
