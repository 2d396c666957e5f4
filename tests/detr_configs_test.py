"""Tests of the recipes of DETR's configs against the published code, written out here.

There AdamW has two groups; the rate of the backbone's is a tenth. A parameter in no
group, or without a gradient, does not change. StepLR lowers rates at the end of an
epoch.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import spec
from big_vision_like.models import detr, resnet
from big_vision_like.run import experiment
from big_vision_like.tasks import set_detection
from big_vision_like.weights import tree as trees

FOLDER = pathlib.Path(__file__).parent.parent / 'configs' / 'detr'
RATE, DECAY, CLIP = 1e-4, 1e-4, 0.1
COCO = 118_287
TINY = dict(
  num_classes=3,
  num_queries=4,
  width=16,
  encoder_depth=0,
  decoder_depth=1,
  num_heads=2,
  mlp_dim=8,
)


def load(name, examples=COCO, batch_size=None):
  config = spec.load(str(FOLDER / name), root=experiment.Settings)
  batch_size = batch_size or config.train_data.batch_size
  return spec.in_steps(config, examples, batch_size)


def optimizer_of(name):
  return spec.build(load(name)['task']['optimizer'])


@pytest.mark.parametrize(
  ('name', 'epochs', 'drop'),
  [
    ('coco.py:r50', 500, 400),
    ('coco.py:r101_dc5', 500, 400),
    ('coco.py:encoder_3', 300, 200),
    ('coco.py:r50_150', 150, 100),
    ('panoptic.py:stage1_r101', 300, 200),
    ('panoptic.py:stage2_r50', 25, 15),
  ],
)
def test_the_rate_follows_step_lr(name, epochs, drop):
  config = load(name, examples=28, batch_size=4)
  rate = spec.build(config['task']['optimizer']['rate'])
  found = [RATE * 0.1 ** (epoch // drop) for epoch in range(epochs) for _ in range(7)]
  assert config['total_steps'] == len(found)
  np.testing.assert_allclose(jax.vmap(rate)(jnp.arange(len(found))), found, rtol=1e-5)


def test_the_rate_of_coco_drops_at_the_right_step():
  rate = spec.build(load('coco.py:r50')['task']['optimizer']['rate'])
  first = round(400 * COCO / 64)
  np.testing.assert_allclose(
    jax.vmap(rate)(first + jnp.arange(-1, 2)), [RATE, RATE / 10, RATE / 10], rtol=1e-5
  )


@pytest.mark.parametrize(
  ('name', 'trained'),
  [
    # Counts of parameters whose requires_grad is set in the published code.
    ('coco.py:r50', 41_302_368),
    ('coco.py:r101', 60_242_272),
    ('panoptic.py:stage1_r50', 42_676_888 - 1_333_657),
    ('panoptic.py:stage2_r50', 1_333_657),
  ],
)
def test_as_many_parameters_are_trained_as_published(name, trained):
  task = load(name)['task']
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
  params = jax.eval_shape(spec.build(task['model']).init, jax.random.key(0), image)[
    'params'
  ]
  factors = trees.flatten(spec.build(task['optimizer']).rate_factor_of(params))
  sizes = {path: x.size for path, x in trees.flatten(params).items()}
  assert sum(size for path, size in sizes.items() if factors[path]) == trained
  for path, factor in factors.items():
    if factor:
      assert factor == (0.1 if path.startswith('backbone/') else 1.0), path


def test_updates_match_adamw_with_two_groups():
  rng = np.random.default_rng(0)
  names = {
    'backbone/conv_root/kernel': 0.0,
    'backbone/stage1/unit1/conv1/kernel': 0.0,
    'backbone/stage2/unit1/conv_proj/kernel': 0.1,
    'queries': 1.0,
    'class_head/bias': 1.0,
    'decoder/norm/scale': 1.0,
  }
  theirs = {name: rng.normal(size=(2, 3)) for name in names}
  nest = trees.unflatten
  ours = nest({name: jnp.asarray(x, jnp.float32) for name, x in theirs.items()})
  optimizer = optimizer_of('coco.py:r50')
  state = optimizer.init(ours)
  first = {name: np.zeros((2, 3)) for name in names}
  second = {name: np.zeros((2, 3)) for name in names}
  for step, scale in enumerate((3.0, 0.01, 0.0), start=1):
    grads = {n: scale * rng.normal(size=(2, 3)) * (f > 0) for n, f in names.items()}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    for name, factor in names.items():
      g = grads[name] * min(1.0, CLIP / (norm + 1e-6))
      first[name] = 0.9 * first[name] + 0.1 * g
      second[name] = 0.999 * second[name] + 0.001 * g**2
      mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.999**step)
      rate = RATE * factor
      theirs[name] = theirs[name] * (1 - rate * DECAY)
      theirs[name] -= rate * mean / (np.sqrt(square) + 1e-8)
    updates, state = optimizer.update(
      nest({n: jnp.asarray(g, jnp.float32) for n, g in grads.items()}), state, ours
    )
    ours = jax.tree.map(jnp.add, ours, updates)
  for name, x in trees.flatten(ours).items():
    np.testing.assert_allclose(x, theirs[name], rtol=2e-7, atol=2e-8, err_msg=name)


def test_a_step_leaves_frozen_parameters_and_norms_as_they_are():
  backbone = resnet.ResNet(
    depths=(1, 1), root=4, channels=(2, 3), norm='frozen', frozen_stages=1
  )
  task = set_detection.Detection(
    model=detr.DETR(backbone=backbone, **TINY), optimizer=optimizer_of('coco.py:r50')
  )
  batch = {
    'image': jax.random.uniform(jax.random.key(0), (2, 32, 48, 3)),
    'boxes': jnp.tile(jnp.array([5.0, 5.0, 15.0, 20.0]), (2, 1, 1)),
    'box_labels': jnp.ones((2, 1), jnp.int32),
    'box_mask': jnp.ones((2, 1), bool),
  }
  state = jax.jit(task.init)(jax.random.key(1), batch)
  after, _ = jax.jit(task.train_step)(state, batch, jax.random.key(2))
  jax.tree.map(np.testing.assert_array_equal, after.mutable, state.mutable)
  now = trees.flatten(after.params)
  still = {
    path
    for path, x in trees.flatten(state.params).items()
    # Decay alone changes less than a bit, and queries are still zeros in the first
    # block.
    if np.array_equal(x, now[path]) and not path.startswith('decoder/block_0/')
  }
  assert still == {
    path for path in now if path.startswith(('backbone/conv_root', 'backbone/stage1'))
  }


@pytest.mark.parametrize(
  ('name', 'differ'),
  [
    ('encoder_0', 'model.encoder_depth=0'),
    ('encoder_12', 'model.encoder_depth=12'),
    ('positions_none', "model.positions_at=('none', 'none', 'input')"),
    ('positions_learned', 'model.positions=learned'),
    ('losses_l1', 'costs.giou=0.0 weights.giou=0.0'),
    ('losses_giou', 'costs.l1=0.0 weights.l1=0.0'),
  ],
)
def test_ablations_differ_in_nothing_else(name, differ):
  def flat(node, path=''):
    if not isinstance(node, dict):
      return {path: node}
    parts = [flat(v, f'{path}.{k}' if path else k) for k, v in node.items()]
    return {k: v for part in parts for k, v in part.items()}

  base, other = (load(f'coco.py:{n}') for n in ('r50_300', name))
  assert {k for k in base if base[k] != other[k]} == {'task'}
  before, now = flat(base['task']), flat(other['task'])
  changed = {k: v for k, v in now.items() if before.get(k) != v}
  assert ' '.join(f'{k}={v}' for k, v in sorted(changed.items())) == differ
  assert before.keys() <= now.keys()
