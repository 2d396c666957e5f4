"""Tests of fine-tuning weights of every family that we write, with a new head."""

import jax
import numpy as np
import pytest
import random_weights
from random_weights import small_detr, small_regnet, small_resnet, variables_of

from big_vision_like import spec
from big_vision_like.errors import UserError
from big_vision_like.inference import finetuning
from big_vision_like.models import bit, deit, efficientnet, swin, t2t_vit, vit
from big_vision_like.run import init_from, provenance
from big_vision_like.tasks import classification
from big_vision_like.weights import family, files, published

SMALL = dict(num_classes=5, patch=8, width=24, depth=2, num_heads=3, mlp_dim=40)
HEAD = ('head/.*',)
# A model, its image size, and the parameters that are not loaded from its weights.
MODELS = {
  'vit': (vit.ViT(**SMALL), 48, HEAD),
  'vit_rep': (vit.ViT(**SMALL, rep_size=16), 48, (*HEAD, 'pre_logits/.*')),
  'vit_map': (vit.ViT(**SMALL, pool='map'), 48, HEAD),
  'hybrid': (vit.ViT(**SMALL | dict(patch=1), resnet=(2, 1)), 32, HEAD),
  'bit': (bit.BiT(num_classes=5, depths=(2, 1)), 64, HEAD),
  'resnet': (small_resnet(num_classes=5), 64, HEAD),
  'deit': (deit.DeiT(**SMALL), 48, (*HEAD, 'head_dist/.*')),
  'efficientnet': (
    efficientnet.EfficientNet(num_classes=5, **efficientnet.scaled(0.25, 0.5)),
    64,
    HEAD,
  ),
  'regnet': (small_regnet(), 64, HEAD),
  'swin': (
    swin.Swin(num_classes=5, width=8, depths=(2, 2), num_heads=(2, 4), window=2),
    16,
    HEAD,
  ),
  't2t': (
    t2t_vit.T2TViT(
      num_classes=5, width=24, depth=2, num_heads=3, mlp_dim=72, token_dim=4
    ),
    32,
    HEAD,
  ),
}


def write(model, size, folder, library=None):
  """Writes random weights of a model in the format of the first library that fits."""
  variables = random_weights.calm(variables_of(model, (size, size)))
  kind = next(x for x in family.families().values() if x.model is type(model))
  found = published.describe(family=kind.name, **variables)
  for source in kind.sources:
    for name, writer in source.writes.items():
      if library in (None, name):
        path = folder / f'model{source.suffixes[0]}'
        files.write(
          path, {k: np.ascontiguousarray(x) for k, x in writer(found).items()}
        )
        return str(path)
  pytest.skip(f'nothing writes {kind.name}')


@pytest.mark.parametrize('name', MODELS)
def test_everything_but_the_head_comes_from_the_weights(name, tmp_path, capsys):
  model, size, left_out = MODELS[name]
  path = write(model, size, tmp_path)
  start = finetuning.start(path, 3, size, scan=True, remat='dots')
  assert start.leave_out == left_out
  assert start.heads == tuple(x for x in left_out if 'pre_logits' not in x)
  new = spec.build(start.model)
  assert type(new) is type(model) and new.num_classes == 3
  theirs = published.read(path, getattr(new, 'num_heads', None) or None).model
  different = provenance.differences(
    provenance.architecture(theirs), provenance.architecture(new)
  )
  assert different.keys() <= {'rep_size', 'num_heads'}
  told = capsys.readouterr().out
  assert f'model     {type(model).__name__}: ' in told and 'for 3 classes' in told

  task = classification.Classification(
    model=new, optimizer=None, mean=start.images.mean, std=start.images.std
  )
  batch = dict(
    image=jax.ShapeDtypeStruct((1, size, size, 3), np.float32),
    label=jax.ShapeDtypeStruct((1,), np.int32),
  )
  shapes = jax.eval_shape(new.init, jax.random.key(0), batch['image'])
  variables = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  filled = init_from.fill(spec.build(start.init_from), variables, task, batch)
  empty = {
    path[1].key
    for path, x in jax.tree_util.tree_leaves_with_path(filled)
    if not np.any(x)
  }
  assert empty == {x.partition('/')[0] for x in start.heads}


def test_images_of_another_size(tmp_path):
  model, size, _ = MODELS['vit']
  start = finetuning.start(write(model, size, tmp_path), 3, 96)
  assert start.images.size == (96, 96)
  decode, crop, _ = start.train_transforms()
  assert decode.channels == 3 and crop.size == 96
  assert start.eval_transforms()[1]['size'] == 96


def test_one_override_corrects_an_unknown_number_of_heads(tmp_path, capsys):
  model, size, _ = MODELS['vit']
  start = finetuning.start(write(model, size, tmp_path, 'timm'), 3)
  told = 'num_heads=1 is assumed, as in published models; to change it, pass --config'
  assert told in capsys.readouterr().out
  assert start.model.activation == 'gelu_exact'
  start.weights.num_heads = 3
  assert start.model.num_heads == 3


def test_a_detector_keeps_everything_but_its_classes(tmp_path):
  path = write(small_detr(), 64, tmp_path, 'published')
  start = finetuning.start(path, 2)
  assert start.heads == start.leave_out == ('class_head/.*',)
  assert spec.build(start.model).num_classes == 2


def test_weights_that_are_not_there(tmp_path):
  (tmp_path / 'ViT-B_16.npz').touch()
  with pytest.raises(
    UserError, match=r'B16\.npz does not exist; did you mean .*ViT-B_16'
  ):
    finetuning.start(str(tmp_path / 'ViT-B16.npz'), 3)
  with pytest.raises(UserError, match=r'docs/weights.md lists the published files'):
    finetuning.start(str(tmp_path / 'x' / 'y.npz'), 3)
