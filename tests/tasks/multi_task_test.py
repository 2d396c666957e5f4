"""Tests of several tasks with shared parameters."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.ops.augmentation import Augment
from big_vision_like.tasks import classification, multi_task

KEY = jax.random.key(0)


class Small(nn.Module):
  """A trunk with a batch norm, and a head."""

  num_classes: int
  width: int = 5

  @nn.compact
  def __call__(self, image_BHWC, train=False):
    x_BD = image_BHWC.reshape(len(image_BHWC), -1)
    x_BD = nn.tanh(nn.Dense(self.width, name='trunk')(x_BD))
    x_BD = nn.BatchNorm(use_running_average=not train, momentum=0.5, name='norm')(x_BD)
    return {'logits': nn.Dense(self.num_classes, name='head')(x_BD)}


def part(classes, **options):
  model = Small(classes, options.pop('width', 5))
  return classification.Classification(model=model, optimizer=None, **options)


def make(**options):
  options = {
    'tasks': {'digit': part(4), 'parity': part(2, augment=Augment(flip=True))},
    'optimizer': optim.momentum(0.1),
    'ema': optim.Ema(decay=0.5),
    **options,
  }
  return multi_task.MultiTask(**options)


@pytest.fixture(scope='module')
def batches():
  rng = np.random.default_rng(0)
  return {
    name: dict(
      image=rng.integers(0, 256, (8, 2, 2, 1), dtype=np.uint8),
      label=rng.integers(0, classes, 8).astype(np.int32),
    )
    for name, classes in (('digit', 4), ('parity', 2))
  }


@pytest.fixture(scope='module')
def state(batches):
  return jax.jit(make().init)(KEY, batches)


def names(tree):
  return {
    jax.tree_util.keystr(k, simple=True, separator='/')
    for k, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


def test_tasks_share_all_but_their_own(state):
  assert names(state.params) == {
    'shared/trunk/kernel',
    'shared/trunk/bias',
    'shared/norm/scale',
    'shared/norm/bias',
    'digit/head/kernel',
    'digit/head/bias',
    'parity/head/kernel',
    'parity/head/bias',
  }
  assert names(state.mutable) == {
    'batch_stats/shared/norm/mean',
    'batch_stats/shared/norm/var',
  }
  assert state.params['digit']['head']['kernel'].shape == (5, 4)


def test_a_step_matches_the_task_alone(batches, state):
  this, step = make(), jax.jit(make().train_step)
  alone = classification.Classification(
    model=Small(4), optimizer=optim.momentum(0.1), ema=optim.Ema(decay=0.5)
  )
  own = this.state_of('digit', state)
  single = jax.jit(alone.init)(KEY, batches['digit']).replace(
    params=own.params, mutable=own.mutable, ema=own.ema
  )
  want, scalars = jax.jit(alone.train_step)(single, batches['digit'], KEY)
  after, found = step(state, {'digit': batches['digit']}, KEY)
  got = this.state_of('digit', after)
  for a, b in (
    (got.params, want.params),
    (got.mutable, want.mutable),
    (got.ema, want.ema),
  ):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, b)
  np.testing.assert_allclose(found['loss'], scalars['loss'], rtol=1e-6)
  assert found.keys() == {'loss', 'gradient_norm', 'rate', 'digit/loss', 'digit/top1'}
  # The step changes the trunk, but not the other head.
  jax.tree.map(
    np.testing.assert_array_equal, after.params['parity'], state.params['parity']
  )
  before = state.params['shared']['trunk']['kernel']
  assert not np.allclose(after.params['shared']['trunk']['kernel'], before)
  assert jax.tree.structure(after) == jax.tree.structure(state)


def test_predictions_and_networks_of_a_task(batches, state):
  this = make()
  predict = this.prediction('parity.predict')
  outputs = jax.jit(predict)(state, batches['parity'], KEY)
  assert outputs['logits'].shape == (8, 2)
  networks = this.networks()
  assert list(networks) == ['digit.model', 'parity.model']
  network = networks['parity.model']
  logits = network.module.apply(network.variables(state), *network.inputs(batches))
  np.testing.assert_allclose(logits['logits'], outputs['logits'], atol=1e-6)
  assert this.images == (0.5, 0.5)
  mixed = {'digit': part(4), 'parity': part(2, mean=0.4)}
  assert make(tasks=mixed).images is None
  for name in ('predict', 'other.predict', 'parity'):
    with pytest.raises(UserError, match='use TASK.METHOD, such as digit.predict'):
      this.prediction(name)
  with pytest.raises(UserError, match="has no prediction 'generate'; it has predict"):
    this.prediction('digit.generate')


def test_tasks_that_do_not_fit_are_reported(batches):
  tasks = {'digit': part(4), 'parity': part(2)}
  with pytest.raises(UserError, match="task 'parity' has no data: train_data gives ba"):
    make().init(KEY, {'digit': batches['digit']})
  with pytest.raises(
    UserError, match="there are batches of 'more', but the tasks are dig"
  ):
    make().check({'more': batches['digit']})
  wrong = batches['parity'] | {'label': np.full(8, 3, np.int32)}
  with pytest.raises(UserError, match='label 3 is out of range: the model has 2 class'):
    make().check({'parity': wrong})
  wide = tasks | {'parity': part(2, width=6)}
  with pytest.raises(UserError, match=r"trunk/\w+ is \[.*6\] in task 'parity' and \["):
    make(tasks=wide).init(KEY, batches)
  with pytest.raises(UserError, match='a step takes a batch of one task'):
    make().train_step(None, batches, KEY)
  trained = part(4).__class__(model=Small(4), optimizer=optim.momentum(0.1))
  with pytest.raises(UserError, match='tasks.digit: set optimizer=None and no ema'):
    make(tasks={'digit': trained})
  for name in ('shared', 'a.b'):
    with pytest.raises(UserError, match=f'tasks: {name!r} cannot name a task'):
      make(tasks={name: part(4)})
