"""Random parameters of models, none of them zero, made without compiling."""

import jax
import numpy as np

from big_vision_like import spec
from big_vision_like.models import bit, detr, regnet, resnet, vit
from big_vision_like.run import checkpoint
from big_vision_like.tasks.task import State

VIT = dict(patch=8, width=36, depth=2, num_heads=3, mlp_dim=72)


def params_of(model, image_size=(24, 24), channels=3, seed=0):
  return variables_of(model, image_size, channels, seed)['params']


def variables_of(model, image_size=(64, 96), channels=3, seed=0):
  image = jax.ShapeDtypeStruct((1, *image_size, channels), 'float32')
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype('float32'), shapes)


def save_run(folder, config, params, **state):
  """Writes the folder of a run with one checkpoint, of step 7."""
  folder.mkdir()
  (folder / 'config.json').write_text(config.to_json())
  state = State(step=np.int32(7), params=params, opt_state=None, **state)
  with checkpoint.Checkpoints(folder) as checkpoints:
    checkpoints.save(7, state, {'examples': 7}, seconds=1.0, wait=True)


def run_of(config, folder, size=(8, 8)):
  """Saves a run whose average differs from its parameters; returns the average."""
  model = spec.build(config.task.to_dict()['model'], 'model')
  params, average = (params_of(model, size, 1, seed) for seed in (0, 1))
  save_run(folder, config, params, ema={'params': average})
  return average


def small_vit(num_classes=5, **kwargs):
  model = vit.ViT(num_classes=num_classes, **VIT | kwargs)
  stride = 1 if model.resnet is None else 4 * 2 ** max(len(model.resnet) - 1, 0)
  side = 3 * model.patch * stride
  return params_of(model, (side, side))


def small_bit(family='bit', depths=(2, 1), num_classes=5):
  kind = bit.BiTv1 if family == 'bit_v1' else bit.BiT
  model = kind(num_classes=num_classes, depths=depths)
  return params_of(model, (32, 32))


def small_resnet(bottleneck=True, norm='frozen', num_classes=0):
  """Returns a ResNet with units of all kinds."""
  return resnet.ResNet(
    (1, 2, 1, 1), bottleneck, num_classes, root=4, channels=(4, 3, 3, 4), norm=norm
  )


def small_regnet(num_classes=5, **arguments):
  """Returns a RegNet with a stage of a single group; all its widths differ."""
  sizes = dict(depths=(1, 2), widths=(8, 24), group_width=12, root=10)
  return regnet.RegNet(**sizes | arguments, num_classes=num_classes)


def small_detr(bottleneck=True, **arguments):
  """Returns a DETR with a small ResNet."""
  sizes = dict(
    num_queries=7, width=32, encoder_depth=1, decoder_depth=2, num_heads=4, mlp_dim=24
  )
  backbone = small_resnet(bottleneck)
  return detr.DETR(num_classes=5, backbone=backbone, **sizes | arguments)


def calm(variables):
  """Returns variables with which activations stay small and variances are positive."""

  def scaled(path, x):
    return 1 + abs(x) if path[-1].key == 'var' else 0.2 * x

  return jax.tree_util.tree_map_with_path(scaled, variables)


def assert_same(a, b):
  """Checks that two trees or flat dicts have equal names, types and bits."""
  a, b = (dict(jax.tree_util.tree_flatten_with_path(x)[0]) for x in (a, b))
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    np.testing.assert_array_equal(a[name], b[name], err_msg=str(name))
