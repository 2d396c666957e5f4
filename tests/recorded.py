"""A small model, and a task that records the examples of its process."""

import json
import os
import signal
import time

import flax.linen as nn
import jax
from einops import rearrange
from jax.sharding import PartitionSpec as P

from big_vision_like.errors import UserError
from big_vision_like.run import preflight
from big_vision_like.tasks import classification

# Set for one process: the step at which it fails in this way, and the time of a step.
DIE_AT = int(os.environ.get('DIE_AT', 0))
FAIL_AT = int(os.environ.get('FAIL_AT', 0))
DRIFT_AT = int(os.environ.get('DRIFT_AT', 0))
SECONDS_PER_STEP = float(os.environ.get('SECONDS_PER_STEP', 0))


class Mlp(nn.Module):
  """A model of digits whose first kernel is large enough to be sharded."""

  num_classes: int = 10
  hidden: int = 1024

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    x_BD = rearrange(image_BHWC, 'B H W C -> B (H W C)')
    x_BD = nn.relu(nn.Dense(self.hidden, name='hidden')(x_BD))
    x_BD = nn.Dropout(0.1, name='dropout')(x_BD, deterministic=not train)
    return {'logits': nn.Dense(self.num_classes, name='head')(x_BD)}


class Recorded(classification.Classification):
  """A task that appends a line to `ids-PROCESS.jsonl` for each step.

  The first line belongs to no step.
  """

  def check(self, batch: dict) -> None:
    super().check(batch)
    if len(batch['id']) == preflight.SAMPLE:
      return  # a check before the run
    path = f'{os.environ["RECORD_TO"]}/ids-{jax.process_index()}.jsonl'
    with open(path, 'a') as lines:
      lines.write(json.dumps(batch['id'].tolist()) + '\n')
    global calls
    if calls and calls == DIE_AT:
      os.kill(os.getpid(), signal.SIGKILL)
    if calls and calls == FAIL_AT:
      raise UserError('this example is broken')
    calls += 1
    time.sleep(SECONDS_PER_STEP)

  def train_step(self, state, batch, key):
    state, scalars = super().train_step(state, batch, key)
    if DRIFT_AT:
      here, all_over = P(), jax.sharding.get_abstract_mesh()
      drift = jax.shard_map(
        _drifted, mesh=all_over, in_specs=(here, here), out_specs=here, check_vma=False
      )
      head = dict(state.params['head'])
      head['bias'] = drift(head['bias'], state.step)
      state = state.replace(params=dict(state.params) | {'head': head})
    return state, scalars


def _drifted(x, step):
  """Returns x with a small error on one device at one step."""
  data, fsdp = jax.lax.axis_index('data'), jax.lax.axis_index('fsdp')
  return x + 1e-6 * ((data == 1) & (fsdp == 0) & (step == DRIFT_AT))


calls = 0
