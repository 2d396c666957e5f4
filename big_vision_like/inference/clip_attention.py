"""The attention of a TimeSformer to the places and the frames of a clip.

Axes: B clips, T frames, h w map of patches, R groups of tokens with the class token, M
tokens of such a group, S groups along time, G heads.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from big_vision_like.models import timesformer


def collected(
  model: timesformer.TimeSformer, variables: Any, video_BTHWC: jax.Array
) -> tuple[jax.Array, Mapping[str, Any]]:
  """Returns the logits and the attention of the last block, for `maps`; jittable."""
  outputs, others = model.apply(variables, video_BTHWC, mutable=['intermediates'])
  encoder = others['intermediates']['encoder']
  if 'blocks' in encoder:  # scanned
    block = jax.tree.map(lambda x: x[-1], encoder['blocks'])
  else:
    block = encoder[f'block_{model.depth - 1}']
  own = {name: part['probs'][0] for name, part in block.items() if 'probs' in part}
  return outputs['logits'], own


def maps(
  model: timesformer.TimeSformer,
  probs: Mapping[str, np.ndarray],
  clip: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the weights of places, (B, T, h, w), and of frames, (B, T).

  Weights of places are the class token's in the last block, averaged over heads. They
  sum to 1 over a frame, or over the whole clip with 'joint'. Weights of frames sum to
  1: those that patches give each other along time, if the block has such an attention,
  otherwise the sums of the weights of places.
  """
  cls_RM = np.asarray(probs['attention'], np.float32).mean(axis=1)[:, 0, 1:]
  kinds = timesformer.SCHEMES[model.attention]
  last = kinds[-1] if kinds else 'space'
  if model.attention == 'joint':
    map_BThw = cls_RM.reshape(-1, *clip)
  else:
    groups = timesformer.groups_of(last, clip)
    map_BThw = np.asarray(groups.joined(cls_RM[..., None], clip))[..., 0]
    axes = tuple(axis for axis in (2, 3) if map_BThw.shape[axis] > 1)
    total = map_BThw.sum(axis=axes, keepdims=True)
    map_BThw = map_BThw / np.maximum(total, np.finfo(np.float32).tiny)
  if 'temporal_attention' in probs:
    given_SGTT = np.asarray(probs['temporal_attention'], np.float32)
    places = math.prod(clip[1:])
    weight_ST = given_SGTT.mean(axis=(1, 2))
    weight_BT = weight_ST.reshape(-1, places, clip[0]).mean(axis=1)
  else:
    weight_BT = map_BThw.sum(axis=(2, 3))
  return map_BThw, weight_BT / weight_BT.sum(axis=1, keepdims=True)
