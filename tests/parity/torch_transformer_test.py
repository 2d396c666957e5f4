"""Tests of our Transformer against torch.nn.Transformer with random weights.

Runs under `make parity`, where torch is installed.
"""

import jax
import numpy as np
import pytest
import torch

from big_vision_like.models import transformer
from big_vision_like.weights import torch_transformer, tree

# The warning is that norm_first rules out the path for nested tensors.
pytestmark = pytest.mark.filterwarnings('ignore:enable_nested_tensor:UserWarning')

VOCABULARY, PAD = 17, 0
SOURCE = np.array(
  [[3, 4, 5, 6, 7, 8, 9], [9, 3, 12, 4, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0]]
)
TARGET = np.array([[1, 5, 6, 7, 8], [1, 9, 10, 0, 0], [1, 2, 0, 0, 0]])


@pytest.fixture(params=[False, True], ids=['post', 'pre'])
def models(request):
  """Returns models, theirs in train mode: eval has another code path for padding."""
  torch.manual_seed(0)
  theirs = torch.nn.Transformer(
    32, 4, 2, 3, 64, dropout=0.0, batch_first=True, norm_first=request.param
  ).train()
  with torch.no_grad():  # biases and norms start at constants: change them, too
    for parameter in theirs.parameters():
      parameter.add_(0.1 * torch.randn_like(parameter))
  embedding = torch.randn(VOCABULARY, 32)
  state = {name: x.numpy() for name, x in theirs.state_dict().items()}
  state['shared.weight'] = embedding.numpy()
  ours = transformer.Transformer(
    vocab_size=VOCABULARY,
    width=32,
    depth=2,
    decoder_depth=3,
    num_heads=4,
    mlp_dim=64,
    norm='pre' if request.param else 'post',
    pad_id=PAD,
    **transformer.STYLES['torch'],
  )
  return theirs, embedding, ours, state


def test_encoder_and_decoder(models):
  theirs, embedding, ours, state = models
  source, target = torch.from_numpy(SOURCE), torch.from_numpy(TARGET)
  hidden_source = source == PAD  # their masks are true for hidden tokens
  causal = torch.nn.Transformer.generate_square_subsequent_mask(5) < 0
  with torch.no_grad():
    memory = theirs.encoder(embedding[source], src_key_padding_mask=hidden_source)
    want = theirs(
      embedding[source],
      embedding[target],
      tgt_mask=causal,
      src_key_padding_mask=hidden_source,
      tgt_key_padding_mask=target == PAD,
      memory_key_padding_mask=hidden_source,
    )
  params = torch_transformer.from_torch(state, num_heads=4)
  got = jax.jit(ours.apply)({'params': params}, SOURCE, TARGET)
  for mine, other, real in (
    (got['memory'], memory, SOURCE != PAD),
    (got['features'], want, TARGET != PAD),
    (got['logits'], want @ embedding.T, TARGET != PAD),
  ):
    error = np.abs(np.asarray(mine) - other.numpy())[real]
    assert error.max() < 2e-5
    assert np.abs(other.numpy()).max() > 1  # not all compared values are small


def test_state_dicts_round_trip(models):
  theirs, _, _, state = models
  params = torch_transformer.from_torch(state, num_heads=4)
  back = torch_transformer.to_torch(tree.stack_blocks(params))
  assert back.keys() == state.keys()
  for name in state:
    np.testing.assert_array_equal(back[name], state[name], err_msg=name)
  del back['shared.weight']
  theirs.load_state_dict({name: torch.from_numpy(x) for name, x in back.items()})
