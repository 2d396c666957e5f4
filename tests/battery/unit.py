import numpy as np

from battery import Case, images, tokens
from big_vision_like.models import bert, resnet, unit

# The softmax over keys cancels a constant added to all of them. Values start as zeros
# in the first layer of the decoder: it does not matter what queries attend to there.
# Texts have an encoder without blocks, which have their own `scan`, and so they do not
# meet the token of the task.
CANCELLED = (
  '.*key/bias',
  'decoder/block_0/attention/(query|key)/.*',
  'decoder/block_0/attention/value/kernel',
  'text_task/embedding',
)

SIZES = np.array([[16, 32], [16, 24], [12, 32], [8, 16]], np.int32)
TEXT = (
  tokens(4, 6, vocab_size=20),
  tokens(4, 6, vocab_size=2),
  np.arange(6)[None] < np.array([[6], [5], [4], [6]]),
)
ARGUMENTS = dict(
  num_queries=5,
  task=1,
  num_tasks=2,
  width=12,
  decoder_width=24,
  encoder_depth=1,
  decoder_depth=2,
  num_heads=3,
  mlp_dim=20,
)


def backbone():
  return resnet.ResNet(depths=(1, 1), root=4, channels=(4, 6), norm='frozen')


def text(depth=1):
  return bert.Bert(20, 16, depth, 2, 24, max_length=6, pooler=False)


OBJECTS = Case(
  unit.UniT(unit.Objects(4, 12, 24), backbone=backbone(), **ARGUMENTS),
  (images(4, 16, 32, 3), SIZES),
  ('logits', 'boxes', 'attributes'),
)

CASES = {
  'unit_answers': Case(
    unit.UniT(unit.Labels(6), backbone=backbone(), text=text(0), **ARGUMENTS),
    (images(4, 16, 32, 3), SIZES, *TEXT),
  ),
}
