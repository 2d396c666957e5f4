"""Tests of our ViT against transformers' with random weights.

Theirs is built with our GELU and epsilon, and with its own. transformers no longer has
a hybrid ViT.
"""

import itertools
import json

import jax
import numpy as np
import pytest
import torch
import transformers

from big_vision_like.inference.classes import Preprocessing
from big_vision_like.models import vit
from big_vision_like.weights import files, published, transformers_vit, tree

SIZES = dict(patch=8, width=36, depth=2, num_heads=3, mlp_dim=72)
COMPUTED = {'ours': ('gelu', 1e-6), 'theirs': ('gelu_exact', 1e-12)}
CLASSES = {
  'classifier': (transformers.ViTForImageClassification, dict(num_classes=7)),
  'pooler': (transformers.ViTModel, dict(num_classes=0, rep_size=20)),
}


@pytest.fixture(params=itertools.product(CLASSES, COMPUTED), ids='-'.join)
def theirs(request):
  torch.manual_seed(0)
  kind, whose = request.param
  made, args = CLASSES[kind]
  activation, epsilon = COMPUTED[whose]
  told = transformers_vit.config(
    SIZES
    | dict(activation=activation, epsilon=epsilon, rep_size=args.get('rep_size', 0)),
    args['num_classes'],
    (24, 24),
  )
  model = made(transformers.ViTConfig(**told)).eval()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  return model


def run(theirs, image_BHWC):
  outputs = theirs(torch.from_numpy(image_BHWC).permute(0, 3, 1, 2))
  name = 'logits' if hasattr(outputs, 'logits') else 'pooler_output'
  return outputs[name].detach()


def test_a_folder_to_logits_and_back(theirs, tmp_path):
  theirs.save_pretrained(tmp_path / 'theirs')
  weights = published.read(tmp_path / 'theirs')
  assert (weights.source, weights.assumed) == ('transformers ViT', ())
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (3, 24, 24, 3)).astype('float32')
  want = run(theirs, image_BHWC)
  params = dict(weights.params)
  classes, output = weights.num_classes, 'logits'
  if not classes:
    params['head'] = {'kernel': np.zeros((20, 1)), 'bias': np.zeros(1)}
    classes, output = 1, 'pre_logits'
  ours = vit.ViT(num_classes=classes, **weights.architecture)
  got = ours.apply({'params': params}, image_BHWC)[output]
  np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)

  from tools import convert_weights as tool

  words = [str(tmp_path / 'theirs'), str(tmp_path / 'back'), '--to=transformers']
  assert tool.main(words) == 0
  again = type(theirs).from_pretrained(tmp_path / 'back').eval()
  np.testing.assert_array_equal(run(again, image_BHWC), want)
  before, after = (
    files.read(tmp_path / name / 'model.safetensors') for name in ('theirs', 'back')
  )
  assert before.keys() == after.keys()
  assert all(np.array_equal(before[name], after[name]) for name in before)


def test_ours_in_transformers(tmp_path, key):
  """Checks that `from_pretrained` alone loads a file that we wrote."""
  ours = vit.ViT(num_classes=5, **SIZES)
  image_BHWC = np.random.default_rng(0).uniform(-1, 1, (2, 24, 24, 3)).astype('float32')
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: np.asarray(x) + 0.1 * rng.normal(size=x.shape).astype('float32'),
    jax.jit(ours.init)(key, image_BHWC)['params'],
  )
  from tools import convert_weights as tool

  out = tmp_path / 'out'
  weights = published.describe(tree.stack_blocks(params), 'vit')
  tool.write(weights, Preprocessing((24, 24)), out, 'transformers', None)
  theirs = transformers.ViTForImageClassification.from_pretrained(out).eval()
  want = ours.apply({'params': params}, image_BHWC)['logits']
  np.testing.assert_allclose(run(theirs, image_BHWC), want, rtol=0, atol=2e-5)
  assert json.loads((out / 'preprocessor_config.json').read_text())['size'] == {
    'height': 24,
    'width': 24,
  }
