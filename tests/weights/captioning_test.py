"""The captioning tutorial's checkpoint; tests/parity compares its outputs."""

import json

import battery
import jax
import numpy as np
import pytest
import torch_archives

import big_vision_like
from big_vision_like.errors import UserError
from big_vision_like.models import captioning, resnet, vgg
from big_vision_like.weights import captioning as names
from big_vision_like.weights import published, torch_files, tree
from big_vision_like.weights import vgg as vgg_names

WORDS = ['<pad>', 'a', 'dog', 'runs', '<unk>', '<start>', '<end>']


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Returns a small captioner, its variables, and its file with words next to it."""
  encoder = resnet.ResNet(
    (1, 1, 1, 1), bottleneck=False, root=4, channels=(4, 4, 4, 8), norm='frozen'
  )
  sizes = dict(word_width=6, units=9, attention_width=5)
  decoder = captioning.RecurrentDecoder(
    vocab_size=len(WORDS), **captioning.variant('tutorial') | sizes
  )
  model = captioning.Captioner(encoder, decoder, read='stage4', side=14)
  image, ids = battery.images(1, 64, 64, 3), np.array([[5, 1, 2]])
  variables = jax.device_get(battery.variables(model, image, ids))
  folder = tmp_path_factory.mktemp('captioner')
  torch_archives.save(folder / 'best.pth', names.to_tutorial(variables))
  content = {word: i for i, word in enumerate(WORDS)}
  (folder / 'words.json').write_text(json.dumps(content))
  return folder, model, variables


def test_the_two_biases_of_an_lstm_are_summed(saved):
  folder, _, variables = saved
  state = dict(torch_files.read_told(folder / 'best.pth')[0])
  rng = np.random.default_rng(0)
  moved = rng.normal(size=36).astype(np.float32)
  state['decoder.decode_step.bias_ih'] = state['decoder.decode_step.bias_ih'] - moved
  state['decoder.decode_step.bias_hh'] = moved
  read = names.from_tutorial(state)
  have = read['params']['decoder']['of_word']['bias']
  want = variables['params']['decoder']['of_word']['bias']
  np.testing.assert_allclose(have, want, atol=1e-6)


def test_a_file_is_read_and_written_unchanged(saved):
  folder, model, variables = saved
  found = published.read(folder / 'best.pth')
  assert found.source == "the captioning tutorial's checkpoint" and not found.assumed
  jax.tree.map(np.testing.assert_array_equal, found.variables, variables)
  image, ids = battery.images(1, 64, 64, 3), np.array([[5, 1, 2]])
  want = model.apply(variables, image, ids)['logits']
  have = found.model.apply(found.variables, image, ids)['logits']
  np.testing.assert_allclose(have, want, atol=1e-6)
  written = found.family.sources[0].writes['published'](found)
  stored = torch_files.read_told(folder / 'best.pth')[0]
  assert written.keys() == stored.keys()
  for name, array in written.items():
    np.testing.assert_array_equal(array, stored[name])


def test_words_next_to_the_weights_are_used(saved, tmp_path):
  folder, *_ = saved
  _, _, preprocess = big_vision_like.load(folder / 'best.pth')
  assert preprocess.words([5, 1, 2, 6, 3]) == ['a', 'dog']
  assert preprocess(np.zeros((9, 7, 3), np.uint8)).shape == (256, 256, 3)
  alone = tmp_path / 'best.pth'
  alone.write_bytes((folder / 'best.pth').read_bytes())
  assert 'words are called by their ids' in published.read(alone).assumed[0]
  _, _, preprocess = big_vision_like.load(alone)
  assert preprocess.words([5, 1, 2, 6, 3]) == ['1', '2']
  (tmp_path / 'words.json').write_text(
    json.dumps({'<pad>': 0, '<unk>': 1, '<start>': 2, '<end>': 3})
  )
  with pytest.raises(UserError, match='has 4 words, but the weights have 7'):
    big_vision_like.load(alone)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda x: x.pop('decoder.fc.bias'), 'missing decoder.fc.bias'),
    (lambda x: x.update(strange=np.zeros(1)), 'unknown strange'),
    (
      lambda x: x.update({'decoder.fc.bias': np.zeros(3, np.float32)}),
      'out/head/bias',
    ),
    (
      lambda x: x.update({'decoder.decode_step.weight_hh': np.zeros(3, np.float32)}),
      r'weight_hh of shape \(3,\) is not of an LSTM',
    ),
  ],
)
def test_other_files_are_refused(change, message, saved):
  folder, *_ = saved
  state = dict(torch_files.read_told(folder / 'best.pth')[0])
  change(state)
  with pytest.raises(UserError, match=message):
    published.describe(family='captioning', **names.from_tutorial(state, 'best.pth'))


def test_other_captioners_are_not_written(saved):
  from big_vision_like.weights.families import captioning as family

  _, model, _ = saved
  family.check(model, 'run')
  with pytest.raises(UserError, match='only captioners in the form of the tutorial'):
    family.check(model.clone(decoder=model.decoder.clone(hard=True)), 'run')
  with pytest.raises(UserError, match='side=14'):
    family.check(model.clone(side=7), 'run')


def test_modules_in_a_file_are_read_as_their_arrays(tmp_path):
  """Pickles a module, whose class is named and never imported."""

  def module(home, attributes):
    return b'c%s\n)\x81}%sb' % (home, attributes)

  def entry(name, pickled):
    return b'X' + len(name).to_bytes(4, 'little') + name + pickled + b's'

  numbers = np.arange(6, dtype=np.float32)
  tensor = torch_archives.tensor(0, 'float32', 6, 0, (2, 3), (3, 1))
  linear = module(
    b'torch.nn.modules.linear\nLinear',
    entry(b'_parameters', b'}' + entry(b'weight', tensor) + entry(b'bias', b'N')),
  )
  outer = module(b'models\nAttention', entry(b'_modules', b'}' + entry(b'fc', linear)))
  path = tmp_path / 'whole.pth.tar'
  pickled = b'\x80\x02}' + entry(b'epoch', b'I3\n') + entry(b'decoder', outer) + b'.'
  torch_archives.write(path, pickled, [numbers.tobytes()])
  arrays, told = torch_files.read_told(path)
  assert [*arrays] == ['decoder.fc.weight'] and told == ()
  np.testing.assert_array_equal(arrays['decoder.fc.weight'], numbers.reshape(2, 3))
  other = pickled.replace(b'models\nAttention', b'mymodel\nAttention')
  torch_archives.write(path, other, [numbers.tobytes()])
  with pytest.raises(UserError, match='holds a mymodel.Attention, which is not read'):
    torch_files.read_told(path)


def test_vggs_of_torchvision():
  model = vgg.VGG((1, 2), channels=(4, 6), hidden=8, num_classes=5)
  params = jax.device_get(battery.variables(model, battery.images(1, 14, 14, 3)))
  state = vgg_names.to_torchvision(params['params'])
  assert [*state][:6:2] == [
    'features.0.weight',
    'features.3.weight',
    'features.5.weight',
  ]
  again = vgg_names.from_torchvision(state)
  jax.tree.map(np.testing.assert_array_equal, again, params['params'])
  told = vgg_names.architecture(tree.flatten(again), 'x')
  assert told == dict(depths=(1, 2), channels=(4, 6), hidden=8, num_classes=5)
  # The map enters the first hidden layer channels first in theirs.
  kernel = params['params']['fc1']['kernel']
  np.testing.assert_array_equal(state['classifier.0.weight'][:, 1], kernel[6])
  assert vgg_names.differences([*state, 'x']) == ({'x'}, set())
  state['features.3.bias'] = np.zeros(9, np.float32)
  with pytest.raises(UserError, match='stage2_conv1/bias'):
    vgg_names.architecture(tree.flatten(vgg_names.from_torchvision(state)), 'x')
