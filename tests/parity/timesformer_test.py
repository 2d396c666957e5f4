"""Our TimeSformer against transformers' at random weights, read and written back.

Runs under `make parity`, where torch and transformers are installed.
"""

import json

import numpy as np
import pytest
import torch
import transformers

from big_vision_like.models import timesformer
from big_vision_like.weights import published, timesformer_names
from tools import convert_weights as tool

SIZES = dict(
  hidden_size=24,
  num_hidden_layers=3,
  num_attention_heads=3,
  intermediate_size=40,
  image_size=16,
  patch_size=4,
  num_frames=5,
  num_labels=7,
  drop_path_rate=0,  # an int: this library rejects 0.0
  hidden_act='gelu',
)
KINDS = {'divided_space_time': 'divided', 'joint_space_time': 'joint'}


def theirs_of(attention_type, **options):
  torch.manual_seed(0)
  config = transformers.TimesformerConfig(
    attention_type=attention_type, **SIZES | options
  )
  model = transformers.TimesformerForVideoClassification(config)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model.eval()


def clips(size=16, frames=5):
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (2, frames, size, size, 3)).astype('float32')


def on_torch(video_BTHWC):
  return torch.from_numpy(video_BTHWC).permute(0, 1, 4, 2, 3)


@pytest.mark.parametrize('attention_type', KINDS)
def test_transformers(attention_type, tmp_path):
  """Folders are read with equal logits and gradients, and written back bit by bit."""
  theirs = theirs_of(attention_type)
  theirs.save_pretrained(tmp_path / 'theirs')
  found = published.read(tmp_path / 'theirs')
  assert isinstance(found.model, timesformer.TimeSformer)
  assert found.model.attention == KINDS[attention_type]
  assert not found.assumed
  video_BTHWC = clips()
  with torch.no_grad():
    want = theirs(on_torch(video_BTHWC)).logits
  got = found.model.apply(found.variables, video_BTHWC)['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)

  tool.main([str(tmp_path / 'theirs'), str(tmp_path / 'ours'), '--to', 'transformers'])
  kind = transformers.TimesformerForVideoClassification
  again = kind.from_pretrained(tmp_path / 'ours').eval()
  assert again.config.attention_type == attention_type
  for name, value in theirs.state_dict().items():
    assert torch.equal(again.state_dict()[name], value), name
  processor = json.loads((tmp_path / 'ours' / 'preprocessor_config.json').read_text())
  assert processor['image_mean'] == [0.45] * 3
  with torch.no_grad():
    assert torch.equal(again(on_torch(video_BTHWC)).logits, want)


@pytest.mark.parametrize('attention_type', KINDS)
def test_published_code(attention_type, tmp_path):
  """Writes a .pyth file with the names of the published code."""
  theirs = theirs_of(attention_type)
  theirs.save_pretrained(tmp_path / 'theirs')
  found = published.read(tmp_path / 'theirs')
  state = timesformer_names.PUBLISHED.written(found.params)
  arrays = {f'model.{k}': torch.from_numpy(v.copy()) for k, v in state.items()}
  file = tmp_path / 'TimeSformer_divST_5x32_16_K400.pyth'
  torch.save({'epoch': 3, 'model_state': arrays, 'cfg': 'NUM_GPUS: 8'}, file)
  again = published.read(file, num_heads=3)
  assert again.source == 'facebookresearch/TimeSformer'
  video_BTHWC = clips()
  with torch.no_grad():
    want = theirs(on_torch(video_BTHWC)).logits
  got = again.model.apply(again.variables, video_BTHWC)['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_nesterov_is_that_of_torch():
  """Compares five steps of SGD with weight decay on all parameters."""
  import jax.numpy as jnp

  from big_vision_like import optim

  rng = np.random.default_rng(0)
  start, grads = rng.normal(size=(3,)), rng.normal(size=(5, 3))
  weight = torch.nn.Parameter(torch.tensor(start))
  theirs = torch.optim.SGD(
    [weight], lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01
  )
  ours = optim.momentum(0.05, nesterov=True, l2=0.01)
  params = {'bias': jnp.asarray(start)}
  state = ours.init(params)
  for grad in grads:
    weight.grad = torch.tensor(grad)
    theirs.step()
    updates, state = ours.update({'bias': jnp.asarray(grad)}, state, params)
    params = {'bias': params['bias'] + updates['bias']}
  np.testing.assert_allclose(params['bias'], weight.detach(), rtol=1e-5)
