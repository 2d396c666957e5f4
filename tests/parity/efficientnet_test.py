"""Tests of EfficientNets against timm's and transformers' with random weights."""

import json

import jax
import numpy as np
import PIL.Image
import pytest
import timm
import torch
import transformers

from big_vision_like.errors import UserError
from big_vision_like.models import efficientnet as models
from big_vision_like.weights import efficientnet, files, published, tree
from big_vision_like.weights.families import efficientnet as families

# With these sides, layers with strides have odd and even inputs.
SIZES = ((64, 64), (75, 92))


def random_state(theirs):
  """Sets random weights that keep activations near 1, and statistics with an effect."""
  generator = torch.Generator().manual_seed(0)
  for name, x in theirs.state_dict().items():
    if not x.is_floating_point():
      continue
    noise = torch.randn(x.shape, generator=generator)
    if name.endswith('running_var'):
      x.copy_(1 + noise.abs())
    elif x.ndim == 1:
      # Scales are near 1.5: otherwise branches would vanish.
      x.copy_(0.2 * noise + (1.5 if name.endswith('weight') else 0))
    else:
      x.copy_(noise / x[0].numel() ** 0.5)
  return {k: x.numpy() for k, x in theirs.state_dict().items()}


def compared(theirs, ours, variables, size):
  image = np.random.default_rng(1).normal(size=(2, *size, 3)).astype(np.float32)
  with torch.no_grad():
    want = theirs(torch.tensor(image).permute(0, 3, 1, 2))
  name = 'logits' if 'head' in variables['params'] else 'features'
  want = getattr(want, 'logits', getattr(want, 'pooler_output', want)).numpy()
  got = np.asarray(jax.jit(ours.apply)(variables, image)[name])
  assert want.std() > 0.1
  np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize(
  'name', ['tf_efficientnet_b0', 'efficientnet_b0', 'tf_efficientnet_b3']
)
def test_logits_of_timm(name, size, tmp_path):
  theirs = timm.create_model(name, num_classes=7).eval()
  state = random_state(theirs)
  files.write(tmp_path / f'{name}.safetensors', state)
  weights = published.read(tmp_path / f'{name}.safetensors')
  assert weights.source == 'timm EfficientNet'
  compared(theirs, weights.model, weights.variables, size)


@pytest.mark.parametrize('padding', ['same', 'symmetric'])
def test_timm_reads_what_is_written(padding, tmp_path):
  theirs = timm.create_model('tf_efficientnet_b1', num_classes=7)
  variables = efficientnet.from_timm(files.without_counts(random_state(theirs)))
  weights = published.describe(
    variables['params'], 'efficientnet', batch_stats=variables['batch_stats']
  )
  weights.architecture['padding'] = padding
  images = families.as_published('name', None, 3)
  folder = tmp_path / 'b1'
  folder.mkdir()
  files.write(folder / 'model.safetensors', efficientnet.to_timm(weights.variables))
  (told,) = weights.family.sources[1].config(weights, images).values()
  (folder / 'config.json').write_text(json.dumps(told))
  made = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
  compared(made, weights.model, weights.variables, (65, 90))
  again = published.read(folder)
  assert again.architecture == weights.architecture
  assert not again.assumed


@pytest.mark.parametrize('name', ['b8', 'l2'])
def test_arrays_of_the_largest(name):
  with torch.device('meta'):
    theirs = timm.create_model(f'tf_efficientnet_{name}').state_dict()
  theirs = {k: tuple(x.shape) for k, x in theirs.items() if x.is_floating_point()}
  model = models.EfficientNet(num_classes=1000, **models.variant(name.upper()))
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')
  ours = tree.flatten(jax.eval_shape(model.init, jax.random.key(0), image))
  known = efficientnet.table(efficientnet.TIMM, model.depths, head=True)
  # Views of a single number in all shapes.
  whole = {name: np.broadcast_to(np.float32(0), x.shape) for name, x in ours.items()}
  assert known.keys() == theirs.keys()
  assert {*known.values()} == ours.keys()
  for their_name, our_name in known.items():
    converted = efficientnet.to_torch(our_name, whole[our_name])
    assert converted.shape == theirs[their_name], their_name


@pytest.mark.parametrize('size', [(64, 96), (66, 98), (76, 76)])
@pytest.mark.parametrize('head', [True, False])
def test_logits_of_transformers(head, size, tmp_path):
  depths = models.scaled(0.5, 1.1)['depths']
  config = transformers.EfficientNetConfig(
    width_coefficient=0.5,
    depth_coefficient=1.1,
    hidden_dim=640,
    image_size=size,
    num_labels=7,
    depthwise_padding=families.evenly_padded(depths, models.STRIDES, size[0]),
  )
  kind = 'ForImageClassification' if head else 'Model'
  theirs = getattr(transformers, f'EfficientNet{kind}')(config).eval()
  random_state(theirs)
  theirs.save_pretrained(tmp_path)
  weights = published.read(tmp_path)
  assert weights.source == 'transformers EfficientNet'
  assert weights.architecture['channels'] == models.scaled(0.5, 1.1)['channels']
  assert weights.num_classes == (7 if head else 0)
  compared(theirs, weights.model, weights.variables, size)
  config.depthwise_padding = [2]
  config.save_pretrained(tmp_path)
  with pytest.raises(UserError, match=r'depthwise_padding=\[2\] does not match images'):
    published.read(tmp_path)


def test_preprocessing_of_transformers():
  """Checks that its image processor normalizes twice."""
  processor = transformers.EfficientNetImageProcessor(
    size=dict(height=40, width=40),
    resample=3,
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.47853944, 0.4732864, 0.47434163],
  )
  picture = np.random.default_rng(0).integers(0, 256, (50, 61, 3), np.uint8)
  want = processor(PIL.Image.fromarray(picture), return_tensors='np')['pixel_values'][0]
  told = {'preprocessor_config.json': json.loads(processor.to_json_string())}
  images = families.images(told, 'weights', None, 5, 3)
  # They resize with torchvision, whose pixels may differ by one of 255.
  np.testing.assert_allclose(images(picture), want.transpose(1, 2, 0), atol=0.02)
