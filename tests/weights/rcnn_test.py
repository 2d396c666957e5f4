"""Axes: C channels, P Q bins, F features."""

import pathlib

import jax
import numpy as np
import pytest

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.models import rcnn as models
from big_vision_like.models import resnet, swin
from big_vision_like.weights import published, rcnn, tree
from big_vision_like.weights.beside import Beside

RNG = np.random.default_rng(0)
SWIN = swin.Swin(
  width=8, depths=(2, 2, 2, 1), num_heads=(2, 2, 2, 2), window=3, maps=(1, 2, 3, 4),
  padding='dense',
)  # fmt: skip
COMMON = dict(num_classes=3, channels=8, hidden=12)


def variables(model):
  image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), image)
  return jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(np.float32), shapes)


def rpn(**changes):
  return models.RPN(channels=8, **changes)


@pytest.mark.parametrize('cascade', (False, True))
def test_mmdetection_and_back(cascade):
  heads = dict(stds=models.CASCADE_STDS, convs=2, fcs=1) if cascade else {}
  model = models.RCNN(backbone=SWIN, rpn=rpn(), masks=True, **COMMON, **heads)
  ours = variables(model)
  theirs = rcnn.to_mmdetection(ours)
  number = '.0' if cascade else ''
  first = f'roi_head.bbox_head{number}.'
  assert theirs[f'{first}fc_cls.weight'].shape == (4, 12)
  assert theirs[f'{first}shared_fcs.0.weight'].shape == (12, 8 * 49)
  assert theirs[f'roi_head.mask_head{number}.upsample.weight'].shape == (8, 8, 2, 2)
  assert theirs['neck.lateral_convs.3.conv.weight'].shape == (8, 64, 1, 1)
  assert theirs['backbone.norm3.weight'].shape == (64,)
  if cascade:
    assert theirs[f'{first}shared_convs.1.bn.running_var'].shape == (8,)
  counts = {f'{first}shared_convs.0.bn.num_batches_tracked': np.array(3)}
  weights = published.of_arrays(
    theirs | counts, Beside(pathlib.Path('mask_rcnn_swin.pth'))
  )
  assert weights.family.name == 'rcnn'
  assert weights.source == 'mmdetection R-CNN with Swin'
  made = weights.model
  assert made.clone(backbone=SWIN) == model
  for name, array in tree.flatten(weights.variables).items():
    np.testing.assert_array_equal(array, tree.flatten(ours)[name], err_msg=name)


def test_mmdetection_flattens_regions_channels_first():
  model = models.RCNN(backbone=SWIN, rpn=rpn(), **COMMON)
  ours = variables(model)
  theirs = rcnn.to_mmdetection(ours)['roi_head.bbox_head.shared_fcs.0.weight']
  region_PQC = RNG.normal(size=(7, 7, 8))
  kernel = ours['params']['features_0']['fc1']['kernel']
  np.testing.assert_allclose(
    region_PQC.ravel() @ kernel, theirs @ region_PQC.transpose(2, 0, 1).ravel(),
    rtol=1e-5, atol=1e-5,
  )  # fmt: skip


def torchvision_state(masks=True):
  """Returns arrays under the names of torchvision's published files, and ours."""
  model = models.RCNN(
    backbone=resnet.ResNet(depths=(1, 1, 1, 1), root=4, channels=(4, 4, 4, 4),
                           norm='frozen'),
    rpn=rpn(), masks=masks, **COMMON,
  )  # fmt: skip
  ours = variables(model)
  flat = tree.flatten(ours)
  known = rcnn._torchvision(
    [
      *(f'backbone.body.layer{s}.0.conv3.weight' for s in (1, 2, 3, 4)),
      'backbone.body.layer1.0.downsample.0.weight',
      *(['roi_heads.mask_head.0.0.weight'] if masks else []),
    ]
  )  # fmt: skip
  state = {}
  for name, [mine] in known.items():
    array = flat[mine]
    if array.ndim == 4 and 'double' not in mine:
      array = array.transpose(3, 2, 0, 1)
    elif array.ndim == 4:
      array = array.transpose(0, 3, 1, 2)
    elif mine.endswith('fc1/kernel'):
      array = array.reshape(7, 7, 8, -1).transpose(2, 0, 1, 3).reshape(array.shape).T
    elif mine.endswith('kernel'):
      array = array.T
    if 'cls_score' in name:
      array = np.roll(array, 1, axis=0)
    elif 'bbox_pred' in name and 'roi_heads' in name:
      array = np.concatenate([np.full_like(array[:4], 7), array])
    elif 'mask_fcn_logits' in name:
      array = np.concatenate([np.full_like(array[:1], 7), array])
    name = name.replace('rpn.head.conv.0.0', 'rpn.head.conv')
    for part in ('inner_blocks', 'layer_blocks'):
      if part in name:
        name = name.replace('.0.weight', '.weight').replace('.0.bias', '.bias')
        name = name.replace(f'{part}.weight', f'{part}.0.weight')
        name = name.replace(f'{part}.bias', f'{part}.0.bias')
    for i in range(4):
      name = name.replace(f'mask_head.{i}.0.', f'mask_head.mask_fcn{i + 1}.')
    state[name] = array
  return state, flat


@pytest.mark.parametrize('masks', (False, True))
def test_torchvision(masks):
  state, flat = torchvision_state(masks)
  assert 'backbone.fpn.inner_blocks.0.weight' in state and 'rpn.head.conv.bias' in state
  weights = published.of_arrays(state, Beside(pathlib.Path('detector.pth')))
  assert weights.source == 'torchvision R-CNN' and weights.num_classes == 3
  assert weights.model.samples == 2 and not weights.model.aligned
  assert weights.model.rpn.rounded and weights.model.masks == masks
  found = tree.flatten(weights.variables)
  assert found.keys() == flat.keys()
  for name, array in found.items():
    np.testing.assert_array_equal(array, flat[name], err_msg=name)


def test_published_files_of_torchvision_have_no_epsilon():
  state, flat = torchvision_state()
  name = 'maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth'
  weights = published.of_arrays(state, Beside(pathlib.Path(name)))
  variance = tree.flatten(weights.variables)['constants/backbone/norm_root/var']
  np.testing.assert_allclose(
    variance + 1e-5, flat['constants/backbone/norm_root/var'], rtol=1e-6
  )
  assert 'epsilon of 0' in weights.assumed[0]


def test_a_head_of_another_size_is_named():
  state, _ = torchvision_state()
  state['roi_heads.box_predictor.bbox_pred.weight'] = np.zeros((20, 12), np.float32)
  with pytest.raises(UserError, match='box_heads_0/move'):
    published.of_arrays(state, Beside(pathlib.Path('detector.pth')))


def test_load_prepares_and_names_objects(tmp_path):
  from safetensors.numpy import save_file

  state, _ = torchvision_state()
  path = tmp_path / 'detector.safetensors'
  save_file({k: np.ascontiguousarray(x) for k, x in state.items()}, path)
  model, loaded, preprocess = big_vision_like.load(str(path))
  picture = RNG.integers(0, 256, (40, 60, 3)).astype(np.uint8)
  prepared = preprocess(picture)
  assert prepared.image_HWC.shape == (800, 1216, 3)  # padded to multiples of 32
  assert prepared.size.tolist() == [800, 1200]
  outputs = {
    'boxes': np.float32([[[0.5, 0.5, 0.2, 0.5], [0, 0, 0, 0]]]),
    'scores': np.float32([[0.9, 0.0]]),
    'labels': np.int32([[2, -1]]),
  }
  [found] = preprocess.objects(outputs, prepared.original_size)
  assert found.label == 2 and found.score == pytest.approx(0.9)
  np.testing.assert_allclose(found.box, [24, 10, 36, 30], rtol=1e-5)
  assert preprocess.objects(outputs, prepared.original_size, threshold=-1.0) == [found]
