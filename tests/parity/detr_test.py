"""Tests of our DETR and ResNet against transformers, timm and PyTorch.

All weights are random.
"""

import jax
import numpy as np
import pytest
import timm
import torch
import transformers

from big_vision_like.models import detr, resnet
from big_vision_like.weights import detr as weights
from big_vision_like.weights import files, torchvision_resnet, tree

SIZES = [(96, 90), (50, 130)]
CHANNELS = (8, 12, 16, 20)


def varied(model):
  """Returns the model in eval mode, all its parameters away from special values."""
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
      if name.endswith(('running_mean', 'running_var', 'weight', 'bias')):
        buffer.add_(0.3 * torch.rand_like(buffer))
  return model.eval()


def config(backbone):
  return transformers.DetrConfig(
    use_timm_backbone=False,
    backbone=None,
    backbone_config=backbone,
    use_pretrained_backbone=False,
    num_labels=5,
    num_queries=7,
    d_model=128,
    encoder_layers=2,
    decoder_layers=3,
    encoder_attention_heads=8,
    decoder_attention_heads=8,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
  )


def own_backbone():
  return transformers.ResNetConfig(
    layer_type='bottleneck',
    embedding_size=6,
    hidden_sizes=[4 * c for c in CHANNELS],
    depths=[1, 2, 1, 1],
    out_features=['stage1', 'stage2', 'stage3', 'stage4'],
  )


def timm_backbone():
  return transformers.TimmBackboneConfig(
    backbone='resnet18', use_pretrained_backbone=False, out_indices=[1, 2, 3, 4]
  )


BACKBONES = {
  'transformers': (
    own_backbone,
    resnet.ResNet((1, 2, 1, 1), root=6, channels=CHANNELS, norm='frozen'),
  ),
  'timm': (timm_backbone, resnet.ResNet(**resnet.variant('R18'), norm='frozen')),
}


@pytest.fixture(scope='module', params=BACKBONES)
def models(request):
  torch.manual_seed(0)
  theirs, ours = BACKBONES[request.param]
  model = varied(transformers.DetrForSegmentation(config(theirs())))
  ours = detr.DETR(
    num_classes=5,
    backbone=ours,
    num_queries=7,
    width=128,
    encoder_depth=2,
    decoder_depth=3,
    mlp_dim=48,
    masks=True,
  )
  return request.param, model, ours


def inputs():
  image = np.random.default_rng(0).normal(size=(2, 96, 130, 3)).astype('float32')
  seen = np.zeros(image.shape[:3], np.int64)
  for i, (height, width) in enumerate(SIZES):
    seen[i, :height, :width] = 1
  return image * seen[..., None], seen


def test_a_folder_to_all_outputs(models, tmp_path):
  library, theirs, ours = models
  theirs.save_pretrained(tmp_path)
  state = files.read(tmp_path / 'model.safetensors')
  variables = weights.from_transformers(state)
  image, seen = inputs()
  with torch.no_grad():
    want = theirs(
      torch.from_numpy(image.astype('float32')).permute(0, 3, 1, 2),
      pixel_mask=torch.from_numpy(seen),
    )
  with jax.default_matmul_precision('highest'):
    got = jax.jit(ours.apply)(variables, image, np.array(SIZES, np.int32))
  memory = want.encoder_last_hidden_state.numpy().reshape(got['memory'].shape)
  for name, other in (
    ('logits', want.logits),
    ('boxes', want.pred_boxes),
    ('features', want.last_hidden_state),
    ('mask_logits', want.pred_masks),
    ('memory', memory),
  ):
    other, largest = np.asarray(other), np.abs(np.asarray(other)).max()
    np.testing.assert_allclose(got[name], other, atol=1e-4 * largest, err_msg=name)
    assert np.std(other) > 1e-3, name
  back = weights.to_transformers(variables, library)
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)


def test_without_masks(models, tmp_path):
  library, theirs, _ = models
  theirs.detr.save_pretrained(tmp_path)
  state = files.read(tmp_path / 'model.safetensors')
  assert 'class_labels_classifier.weight' in state
  variables = weights.from_transformers(state)
  assert not any(name.startswith('mask') for name in variables['params'])
  assert weights.to_transformers(variables, library).keys() == state.keys()


@pytest.mark.parametrize('name', ['R18', 'R50'])
def test_resnets_of_timm_in_evaluation_and_training(name):
  torch.manual_seed(0)
  theirs = varied(timm.create_model(f'resnet{name[1:]}', num_classes=7))
  state = {name: x.numpy().copy() for name, x in theirs.state_dict().items()}
  variables = torchvision_resnet.from_torchvision(state)
  ours = resnet.ResNet(num_classes=7, **resnet.variant(name))
  image = np.random.default_rng(0).normal(size=(3, 65, 90, 3)).astype('float32')
  tensor = torch.from_numpy(image).permute(0, 3, 1, 2)
  with torch.no_grad(), jax.default_matmul_precision('highest'):
    want = theirs(tensor).numpy()
    got = jax.jit(ours.apply)(variables, image)['logits']
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())
    want = theirs.train()(tensor).numpy()
    got, changed = jax.jit(
      lambda v, x: ours.apply(v, x, train=True, mutable=['batch_stats'])
    )(variables, image)
  np.testing.assert_allclose(got['logits'], want, atol=1e-3 * np.abs(want).max())
  means = tree.flatten(changed['batch_stats'])
  theirs_mean = theirs.state_dict()['layer1.0.bn1.running_mean'].numpy()
  ours_mean = means['stage1/unit1/norm1/mean']
  np.testing.assert_allclose(
    ours_mean, theirs_mean, atol=1e-4 * np.abs(theirs_mean).max()
  )
  back = torchvision_resnet.to_torchvision(variables)
  counts = {name for name in state if name.endswith('num_batches_tracked')}
  assert back.keys() == state.keys() - counts
  for name in back:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)


@pytest.mark.parametrize('archive', [True, False], ids=['archive', 'old'])
def test_files_of_torch_without_pickle_code(archive, tmp_path):
  theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
  shared = torch.arange(12.0).reshape(3, 4)
  state = theirs.state_dict() | {
    'turned': shared.T,
    'part': shared[1:, ::2],
    'parameter': torch.nn.Parameter(shared),
    **{
      str(dtype): torch.ones(2, dtype=dtype)
      for dtype in (torch.float16, torch.bfloat16, torch.bool, torch.uint8)
    },
  }
  path = tmp_path / 'model.pth'
  torch.save({'model': state, 'epoch': 3}, path, _use_new_zipfile_serialization=archive)
  got = files.read(path)
  assert got.keys() == state.keys()
  for name, want in state.items():
    array = got[name].astype('float32')
    np.testing.assert_array_equal(array, want.detach().float().numpy(), err_msg=name)
