"""Tests of our RegNets against timm's and transformers' with random weights."""

import json

import jax
import numpy as np
import pytest
import timm
import torch
import transformers
from random_weights import calm, small_regnet, variables_of
from timm.models import regnet as timm_regnet

from big_vision_like.models import regnet
from big_vision_like.weights import files, published, torch_regnet
from big_vision_like.weights.families import regnet as families

# A rule with four stages, as timm requires.
RULE = dict(depth=6, w0=16, wa=14.0, wm=1.7)
SIZES = regnet.sizes(*RULE.values(), group_width=12)
IMAGE = np.random.default_rng(0).uniform(-1, 1, (3, 61, 47, 3)).astype('float32')


def moved(model):
  """Returns the model with all its arrays random, including statistics."""
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
    for name, statistic in model.named_buffers():
      if name.endswith('running_mean'):
        statistic.normal_(0, 0.2)
      elif name.endswith('running_var'):
        statistic.uniform_(0.5, 2)
  return model.eval()


def timm_model(squeeze, num_classes=7):
  config = timm_regnet.RegNetCfg(**RULE, group_size=12, se_ratio=squeeze, stem_width=20)
  return moved(timm_regnet.RegNet(config, num_classes=num_classes))


def transformers_model(squeeze, num_classes=7):
  told = dict(SIZES, root=20, squeeze=squeeze)
  made = transformers.RegNetForImageClassification
  config = transformers.RegNetConfig(**torch_regnet.config(told, num_classes))
  if not num_classes:
    made = transformers.RegNetModel
  return moved(made(config))


def state_of(model):
  state = {name: x.detach().numpy().copy() for name, x in model.state_dict().items()}
  return files.without_counts(state)


def run(model, image_BHWC=IMAGE):
  outputs = model(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2))
  if isinstance(outputs, torch.Tensor):
    return outputs.detach().numpy()
  name = 'logits' if hasattr(outputs, 'logits') else 'pooler_output'
  return outputs[name].detach().numpy().reshape(len(image_BHWC), -1)


LIBRARIES = {
  'timm': (timm_model, torch_regnet.TIMM),
  'transformers': (transformers_model, torch_regnet.TRANSFORMERS),
}


@pytest.mark.parametrize('squeeze', [0.25, 0.0])
@pytest.mark.parametrize('library', LIBRARIES)
def test_logits_and_back(library, squeeze):
  make, names = LIBRARIES[library]
  theirs = make(squeeze)
  state = state_of(theirs)
  variables = torch_regnet.read(state, names)
  model = regnet.RegNet(**SIZES, root=20, squeeze=squeeze, num_classes=7)
  got = jax.jit(model.apply)(variables, IMAGE)['logits']
  want = run(theirs)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
  back = torch_regnet.write(variables, names)
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name])


def test_training_and_statistics():
  theirs = timm_model(0.25).train()
  variables = torch_regnet.read(state_of(theirs))
  model = regnet.RegNet(**SIZES, root=20, num_classes=7)

  @jax.jit
  def train(variables):
    def loss(params):
      outputs, changed = model.apply(
        variables | {'params': params}, IMAGE, train=True, mutable=['batch_stats']
      )
      return (outputs['logits'] ** 2).mean(), (outputs, changed)

    return jax.grad(loss, has_aux=True)(variables['params'])

  gradients, (outputs, changed) = train(variables)
  logits = theirs(torch.from_numpy(IMAGE).permute(0, 3, 1, 2))
  (logits**2).mean().backward()
  want = logits.detach().numpy()
  largest = np.abs(want).max()
  np.testing.assert_allclose(outputs['logits'], want, rtol=0, atol=1e-4 * largest)
  after = torch_regnet.write(jax.device_get({'params': gradients} | changed))
  wanted = {n: x for n, x in state_of(theirs).items() if 'running' in n}
  wanted |= {n: x.grad.numpy() for n, x in theirs.named_parameters()}
  assert after.keys() == wanted.keys()
  most = max(float(x.grad.abs().max()) for x in theirs.parameters())
  for name, array in wanted.items():
    scale = max(np.abs(array).max(), 1e-3 * most)
    np.testing.assert_allclose(
      after[name], array, rtol=0, atol=1e-3 * scale, err_msg=name
    )


@pytest.mark.parametrize('name', regnet.SIZES)
def test_sizes_and_rates_of_timm(name):
  sizes = regnet.variant(name)
  told = families.timm_config(sizes | dict(squeeze=0.25, root=32), 1000, 3)
  with torch.device('meta'):
    theirs = timm.create_model(told['architecture'], drop_path_rate=0.1)
  stages = [getattr(theirs, f's{i + 1}') for i in range(4)]
  assert tuple(len(list(stage.children())) for stage in stages) == sizes['depths']
  convs = [stage.b1.conv2.conv for stage in stages]
  assert tuple(conv.out_channels for conv in convs) == sizes['widths']
  for conv in convs:
    width = conv.out_channels // conv.groups
    assert width == min(sizes['group_width'], conv.out_channels)
  rates = [getattr(x.drop_path, 'drop_prob', 0.0) for s in stages for x in s.children()]
  np.testing.assert_allclose(rates, np.linspace(0, 0.1, len(rates)), atol=1e-7)
  model = regnet.RegNet(**sizes, num_classes=1000)
  image = jax.ShapeDtypeStruct((1, 64, 64, 3), 'float32')
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  ours = sum(x.size for x in jax.tree.leaves(variables['params']))
  assert ours == sum(x.numel() for x in theirs.parameters())


def test_a_folder_runs_in_timm_and_back(tmp_path):
  """Checks the smallest model of timm, written like a file of DeiT."""
  from tools import convert_weights as tool

  theirs = moved(timm.create_model('regnety_002', num_classes=3))
  file, out = tmp_path / 'regnety_002.pth', tmp_path / 'out'
  torch.save({'model': theirs.state_dict()}, file)
  assert tool.main([str(file), str(out)]) == 0
  told = json.loads((out / 'config.json').read_text())
  assert told['architecture'] == 'regnety_002'
  assert told['pretrained_cfg']['crop_pct'] == pytest.approx(0.875)
  again = timm.create_model(f'local-dir:{out}', pretrained=True).eval()
  before, after = state_of(theirs), state_of(again)
  assert before.keys() == after.keys()
  assert all(np.array_equal(before[name], after[name]) for name in before)
  weights = published.read(out)
  assert weights.source == 'timm RegNet'
  got = jax.jit(weights.model.apply)(weights.variables, IMAGE)['logits']
  want = run(again)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize('num_classes', [7, 0])
def test_a_folder_of_transformers_and_back(tmp_path, num_classes):
  from tools import convert_weights as tool

  theirs = transformers_model(0.25, num_classes)
  theirs.save_pretrained(tmp_path / 'theirs')
  weights = published.read(tmp_path / 'theirs')
  assert (weights.source, weights.assumed) == ('transformers RegNet', ())
  outputs = jax.jit(weights.model.apply)(weights.variables, IMAGE)
  got, want = outputs['logits' if num_classes else 'features'], run(theirs)
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
  words = [str(tmp_path / 'theirs'), str(tmp_path / 'back'), '--to=transformers']
  assert tool.main(words) == 0
  again = type(theirs).from_pretrained(tmp_path / 'back').eval()
  np.testing.assert_array_equal(run(again), want)


def test_ours_in_transformers(tmp_path):
  """Checks that `from_pretrained` alone loads our model with a narrow stage."""
  from tools import convert_weights as tool

  ours = small_regnet()
  variables = calm(variables_of(ours))
  weights = published.describe(family='regnet', **variables)
  images = weights.images('regnet')
  tool.write(weights, images, tmp_path / 'out', 'transformers', None)
  made = transformers.RegNetForImageClassification
  theirs = made.from_pretrained(tmp_path / 'out').eval()
  got, want = run(theirs), ours.apply(variables, IMAGE)['logits']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())
