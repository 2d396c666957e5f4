"""Weights of Slot Attention in the names of google-research's slot_attention (Keras).

Names are attribute paths, such as `slot_attention/project_q/kernel`. Arrays equal ours,
including the kernels of transposed convolutions (kh, kw, out, in).
"""

import re
from collections.abc import Mapping

import numpy as np

from big_vision_like.weights import tree

_ATTENTION = {
  'slot_attention/slots_mu': 'attention/mu',
  'slot_attention/slots_log_sigma': 'attention/log_sigma',
  'slot_attention/project_q': 'attention/query',
  'slot_attention/project_k': 'attention/key',
  'slot_attention/project_v': 'attention/value',
  'slot_attention/norm_inputs': 'attention/norm_inputs',
  'slot_attention/norm_slots': 'attention/norm_slots',
  'slot_attention/norm_mlp': 'attention/norm_mlp',
  'slot_attention/gru': 'attention/gru',
  'slot_attention/mlp/0': 'attention/mlp/fc1',
  'slot_attention/mlp/1': 'attention/mlp/fc2',
}
_MODULES = _ATTENTION | {
  'encoder_pos/dense': 'encoder/position/dense',
  'layer_norm': 'encoder/norm',
  'mlp/0': 'encoder/mlp/fc1',
  'mlp/1': 'encoder/mlp/fc2',
  'decoder_pos/dense': 'decoder/position/dense',
  'mlp_classifier/0': 'head_fc1',
  'mlp_classifier/1': 'head_fc2',
}
_OURS = {ours: theirs for theirs, ours in _MODULES.items()}
_LEAVES = {'gamma': 'scale', 'beta': 'bias'}


def from_keras(flat: tree.Arrays, source: str = 'weights') -> tree.Tree:
  """Converts arrays by name to parameters of our `AutoEncoder` or `SetClassifier`.

  Raises a ValueError that lists unknown names.
  """
  found, unknown = {}, []
  for name, array in flat.items():
    ours = our_name(name)
    if ours is None:
      unknown.append(name)
    else:
      found[ours] = tree.as_float32(name, array)
  tree.check_names(source, unknown)
  return tree.unflatten(found)


def to_keras(params: Mapping[str, object]) -> dict[str, np.ndarray]:
  """Inverts `from_keras`: converts our parameters or gradients to Keras's names."""
  flat = tree.flatten(params)
  return {their_name(name): np.asarray(array) for name, array in flat.items()}


def our_name(name: str) -> str | None:
  """Returns our name of one of their arrays; None if there is none."""
  if name in _MODULES:
    return _MODULES[name]
  module, _, leaf = name.rpartition('/')
  conv = re.fullmatch(r'(encoder|decoder)_cnn/(\d+)', module)
  if conv:
    return f'{conv[1]}/conv_{conv[2]}/{leaf}'
  if module not in _MODULES:
    return None
  return f'{_MODULES[module]}/{_LEAVES.get(leaf, leaf)}'


def their_name(name: str) -> str:
  """Returns their name of one of our arrays."""
  if name in _OURS:
    return _OURS[name]
  module, _, leaf = name.rpartition('/')
  conv = re.fullmatch(r'(encoder|decoder)/conv_(\d+)', module)
  if conv:
    return f'{conv[1]}_cnn/{conv[2]}/{leaf}'
  theirs = _OURS[module]
  if 'norm' in theirs and leaf in ('scale', 'bias'):
    leaf = {'scale': 'gamma', 'bias': 'beta'}[leaf]
  return f'{theirs}/{leaf}'
