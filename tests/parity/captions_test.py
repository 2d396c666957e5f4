"""Scores of captions against pycocoevalcap, and the tutorial's model in PyTorch."""

import json
import sys
import types

import jax
import numpy as np
import pytest
import torch
from torch import nn

from big_vision_like.evals import caption_scores
from big_vision_like.weights import published

WORDS = 'a the dog cat man horse on mat red two runs sits with ball near'.split()


def made_up(seed, images=40):
  rng = np.random.default_rng(seed)

  def text(low, high):
    return ' '.join(rng.choice(WORDS, size=rng.integers(low, high)))

  references = [[text(2, 12) for _ in range(rng.integers(1, 6))] for _ in range(images)]
  # Some captions share words with a reference, in part of its order.
  captions = []
  for own in references:
    words = own[0].split() if rng.random() < 0.7 else text(1, 14).split()
    captions.append(' '.join(word for word in words if rng.random() < 0.8) or 'a')
  return captions, references


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_scores_are_those_of_pycocoevalcap(seed):
  bleu = pytest.importorskip('pycocoevalcap.bleu.bleu')
  from pycocoevalcap.cider import cider
  from pycocoevalcap.rouge import rouge

  captions, references = made_up(seed)
  theirs = (
    {i: own for i, own in enumerate(references)},
    {i: [text] for i, text in enumerate(captions)},
  )
  ours = [x.split() for x in captions], [[x.split() for x in o] for o in references]
  want, _ = bleu.Bleu(4).compute_score(*theirs, verbose=0)
  np.testing.assert_allclose(caption_scores.bleu(*ours).scores, want, rtol=1e-9)
  _, want = cider.Cider().compute_score(*theirs)
  np.testing.assert_allclose(caption_scores.cider_d(*ours), want, rtol=1e-9, atol=1e-12)
  _, want = rouge.Rouge().compute_score(*theirs)
  have = [caption_scores.rouge_l(*pair) for pair in zip(*ours, strict=True)]
  np.testing.assert_allclose(have, want, rtol=1e-9)


class Encoder(nn.Module):
  """The tutorial's encoder, a trunk of torchvision's ResNet."""

  def __init__(self, layers):
    super().__init__()
    self.enc_image_size = 14
    self.resnet = nn.Sequential(*layers)
    self.adaptive_pool = nn.AdaptiveAvgPool2d((14, 14))

  def forward(self, image):
    return self.adaptive_pool(self.resnet(image)).permute(0, 2, 3, 1)


class Attention(nn.Module):
  def __init__(self, encoder_dim, decoder_dim, attention_dim):
    super().__init__()
    self.encoder_att = nn.Linear(encoder_dim, attention_dim)
    self.decoder_att = nn.Linear(decoder_dim, attention_dim)
    self.full_att = nn.Linear(attention_dim, 1)
    self.relu, self.softmax = nn.ReLU(), nn.Softmax(dim=1)

  def forward(self, cells, h):
    keys = self.encoder_att(cells) + self.decoder_att(h).unsqueeze(1)
    alpha = self.softmax(self.full_att(self.relu(keys)).squeeze(2))
    return (cells * alpha.unsqueeze(2)).sum(dim=1), alpha


class DecoderWithAttention(nn.Module):
  def __init__(self, attention_dim, embed_dim, decoder_dim, vocab_size, encoder_dim):
    super().__init__()
    self.attention = Attention(encoder_dim, decoder_dim, attention_dim)
    self.embedding = nn.Embedding(vocab_size, embed_dim)
    self.dropout = nn.Dropout(p=0.5)
    self.decode_step = nn.LSTMCell(embed_dim + encoder_dim, decoder_dim)
    self.init_h = nn.Linear(encoder_dim, decoder_dim)
    self.init_c = nn.Linear(encoder_dim, decoder_dim)
    self.f_beta = nn.Linear(decoder_dim, encoder_dim)
    self.sigmoid = nn.Sigmoid()
    self.fc = nn.Linear(decoder_dim, vocab_size)

  def forward(self, features, ids):
    cells = features.flatten(1, 2)
    h, c = self.init_h(cells.mean(dim=1)), self.init_c(cells.mean(dim=1))
    logits, alphas = [], []
    for t in range(ids.shape[1]):
      context, alpha = self.attention(cells, h)
      context = self.sigmoid(self.f_beta(h)) * context
      h, c = self.decode_step(
        torch.cat([self.embedding(ids[:, t]), context], dim=1), (h, c)
      )
      logits.append(self.fc(self.dropout(h)))
      alphas.append(alpha)
    return torch.stack(logits, dim=1), torch.stack(alphas, dim=1)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize('zipped', [True, False])
def test_the_tutorials_checkpoint(zipped, tmp_path, monkeypatch):
  from torchvision.models import resnet

  torch.manual_seed(0)
  trunk = resnet.ResNet(resnet.BasicBlock, [1, 2, 1, 1])
  for module in trunk.modules():
    if isinstance(module, nn.BatchNorm2d):
      module.running_mean.normal_(0, 0.1)
      module.running_var.uniform_(0.5, 1.5)
  # The tutorial saves whole objects of classes in its module `models`.
  home = types.ModuleType('models')
  for kind in (Encoder, Attention, DecoderWithAttention):
    monkeypatch.setattr(kind, '__module__', 'models')
    setattr(home, kind.__name__, kind)
  monkeypatch.setitem(sys.modules, 'models', home)
  encoder = Encoder([*trunk.children()][:-2]).eval()
  decoder = DecoderWithAttention(5, 6, 7, 9, 512).eval()
  optimizer = torch.optim.Adam(decoder.parameters())
  decoder(torch.zeros(1, 2, 2, 512), torch.ones((1, 2), dtype=int))[0].sum().backward()
  optimizer.step()
  path = tmp_path / 'BEST.pth.tar'
  content = {'epoch': 3, 'bleu-4': 0.24, 'encoder': encoder, 'decoder': decoder}
  content |= {'encoder_optimizer': None, 'decoder_optimizer': optimizer}
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  names = ['<pad>', *'abcde', '<unk>', '<start>', '<end>']
  (tmp_path / 'words.json').write_text(json.dumps({w: i for i, w in enumerate(names)}))

  image, ids = torch.randn(2, 3, 64, 96), torch.tensor([[7, 1, 2, 3], [7, 4, 4, 5]])
  with torch.no_grad():
    logits, alphas = decoder(encoder(image), ids)
  found = published.read(path)
  outputs = jax.jit(found.model.apply)(
    found.variables, image.permute(0, 2, 3, 1).numpy(), ids.numpy()
  )
  np.testing.assert_allclose(outputs['logits'], logits, atol=1e-5)
  np.testing.assert_allclose(outputs['attention'], alphas, atol=1e-6)
  count = sum(x.numel() for m in (encoder, decoder) for x in m.parameters())
  ours = sum(np.size(x) for x in jax.tree.leaves(found.variables['params']))
  # Ours has one bias of the LSTM, and constants of norms.
  norms = sum(
    x.numel()
    for m in encoder.modules()
    if isinstance(m, nn.BatchNorm2d)
    for x in m.parameters()
  )
  assert count == ours + 4 * 7 + norms


def test_torchvisions_vgg(tmp_path):
  from torchvision.models import vgg

  torch.manual_seed(0)
  cfg = [4, 'M', 6, 6, 'M', 8, 'M', 8, 8, 8, 'M', 8, 'M']
  model = vgg.VGG(vgg.make_layers(cfg), num_classes=5, init_weights=False).eval()
  # As torchvision's own, which has 512 channels and 4,096 units whatever `cfg` says.
  model.classifier[0] = torch.nn.Linear(8 * 7 * 7, 16)
  model.classifier[3] = torch.nn.Linear(16, 16)
  model.classifier[6] = torch.nn.Linear(16, 5)
  path = tmp_path / 'vgg.pth'
  torch.save(model.state_dict(), path)
  image = torch.randn(2, 3, 96, 64)
  found = published.read(path)
  outputs = jax.jit(found.model.apply)(
    found.variables, image.permute(0, 2, 3, 1).numpy()
  )
  with torch.no_grad():
    want = model(image)
    last = model.features[:-1](image).permute(0, 2, 3, 1)
    # Up to the ReLU after the second layer, whose units evaluators of samples compare.
    units = model.avgpool(model.features(image)).flatten(1)
    units = model.classifier[:5](units)
  np.testing.assert_allclose(outputs['logits'], want, atol=1e-5)
  np.testing.assert_allclose(outputs['pre_logits'], units, atol=1e-5)
  np.testing.assert_allclose(outputs['stage5'], last, atol=1e-5)
