"""Files of Swin Transformers, made up: read, written, resized, refused."""

import json

import big_vision_like
import jax
import numpy as np
import pytest
import random_weights
import safetensors.numpy

from big_vision_like.errors import UserError
from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import swin
from big_vision_like.run import init_from
from big_vision_like.weights import published, swin_names, tree
from tools import convert_weights

SMALL = dict(width=8, depths=(2, 3), num_heads=(2, 4), window=2, mlp_ratio=2.0)
LAYOUTS = {
  'microsoft/Swin-Transformer': swin_names.MICROSOFT,
  'timm Swin': swin_names.TIMM,
  'transformers Swin': swin_names.transformers('swin.'),
  'old transformers Swin': swin_names.old_transformers('swin.'),
}


def small(size=(16, 16), **arguments):
  model = swin.Swin(**{'num_classes': 5} | SMALL | arguments)
  return model, random_weights.params_of(model, size)


def saved(path, params, layout):
  """A file with the names of a layout, and with buffers that are no parameters."""
  state = layout.written(tree.flatten(params))
  state['layers.0.blocks.1.attn_mask'] = np.zeros((4, 4, 4), np.float32)
  if layout is swin_names.old_transformers('swin.'):
    state = layout.written(tree.flatten(params))
  safetensors.numpy.save_file(state, path)
  return path
