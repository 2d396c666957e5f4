"""Golden files of TimeSformers, from facebookresearch/TimeSformer."""

import jax
import jax.numpy as jnp
import numpy as np

from big_vision_like.errors import UserError
from big_vision_like.models import timesformer
from big_vision_like.ops import losses
from big_vision_like.weights import timesformer_names, tree
from tools.golden.common import (
  LAYER,
  LOGITS,
  LOSS,
  Check,
  Fields,
  Results,
  Tolerance,
  captured,
  choice,
  fit_parameters,
  float_name,
  gradient_results,
  loss_and_gradients,
  select,
  two,
  widened,
)

NAMES = timesformer_names.PUBLISHED
KINDS = {
  'divided_space_time': 'divided',
  'joint_space_time': 'joint',
  'space_only': 'space_only',
}
# With positions of another clip, features pass through more rounding.
FEATURES = Tolerance(relative=1e-4)


def classifier(description: Fields, arrays: Fields) -> Results:
  """Computes a TimeSformer: tokens, blocks, logits, loss and gradients."""
  video_BTHWC = np.asarray(arrays['input/video']).transpose(0, 2, 3, 4, 1)
  patch = two(description['patch_size'])
  grid = tuple(s // p for s, p in zip(video_BTHWC.shape[2:4], patch, strict=True))
  params = NAMES.read(select(arrays, 'param/'), description['num_heads'])
  places = params['pos_embedding'].shape[1] - 1
  side = tuple(s // p for s, p in zip(two(description['img_size']), patch, strict=True))
  if places != side[0] * side[1]:
    raise UserError(
      f'pos_embed has {places} positions, but img_size makes a grid of {side}'
    )
  if grid[0] * grid[1] == places:  # used as they are, whatever their grid
    side = None
  width = description['embed_dim']
  model = timesformer.TimeSformer(
    num_classes=description['num_classes'],
    patch=patch,
    width=width,
    depth=description['depth'],
    num_heads=description['num_heads'],
    mlp_dim=int(width * description['mlp_ratio']),
    attention=choice(description, 'attention_type', KINDS),
    pos_frames=description['num_frames'],
    pos_grid=side,
    drop_path=0.0,
    dtype=float_name(),
  )
  params = widened(params)
  fit_parameters(model, params, video_BTHWC)
  label_B = arrays['input/label']

  def loss(params: tree.Tree) -> tuple[jax.Array, tuple]:
    outputs, modules = captured(model, {'params': params}, video_BTHWC)
    target_BC = jax.nn.one_hot(label_B, model.num_classes)
    value = losses.softmax_cross_entropy(outputs['logits'], target_BC).mean()
    return value, (outputs, modules)

  value, (outputs, modules), gradients = loss_and_gradients(loss, params)

  def ordered(x_BND: jax.Array) -> jax.Array:
    """Orders tokens place by place, as the published code does."""
    if model.attention == 'space_only':
      return x_BND
    batch, frames = video_BTHWC.shape[:2]
    x_BTPD = x_BND[:, 1:].reshape(batch, frames, -1, width)
    rest_BND = x_BTPD.swapaxes(1, 2).reshape(batch, -1, width)
    return jnp.concatenate([x_BND[:, :1], rest_BND], axis=1)

  results = {
    'loss/cross_entropy': (value, LOSS),
    'output/tokens': (ordered(modules['with_position']), LAYER),
    'output/features': (outputs['features'], FEATURES),
    'output/logits': (outputs['logits'], LOGITS),
  }
  for i in range(model.depth):
    block_BND = ordered(modules[f'encoder/block_{i}'])
    results[f'output/block{i}'] = (block_BND, LAYER)
  return results | gradient_results(gradients, NAMES.written)


CHECKS = (
  Check(
    classifier,
    'facebookresearch/TimeSformer',
    ('attention_type', 'embed_dim', 'num_frames', 'patch_size'),
  ),
)
