"""Training of UniT's tasks together: shared parameters, losses, checks of batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from battery import unit as cases

from big_vision_like import optim
from big_vision_like.data.input import alternating, pipeline
from big_vision_like.data.sources.base import Source
from big_vision_like.errors import UserError
from big_vision_like.models import unit
from big_vision_like.ops import losses
from big_vision_like.tasks import multi_task, set_detection
from big_vision_like.tasks import unit as tasks

KEY = jax.random.key(0)
OBJECTS, ANSWERS = cases.OBJECTS, cases.CASES['unit_answers']
ANSWERS = ANSWERS._replace(model=ANSWERS.model.clone(text=cases.text()))
SHARED = {'backbone', 'input_proj', 'encoder', 'image_proj', 'image_position_proj'}
SHARED |= {'image_task', 'text', 'text_proj', 'text_position_proj', 'text_task'}
SHARED |= {'decoder'}


@dataclasses.dataclass(frozen=True)
class Zeros(Source):
  """Four equal examples."""

  def __len__(self):
    return 4

  def __getitem__(self, index):
    return {'x': np.zeros(1)}

  def fingerprint(self):
    return '0'


def batches():
  image_BHWC, size_B2, *text = ANSWERS.inputs
  rng = np.random.default_rng(0)
  found = {
    'objects': dict(
      image=image_BHWC,
      size=size_B2,
      boxes=np.tile(np.float32([1, 1, 6, 5]), (4, 2, 1)),
      box_labels=rng.integers(0, 4, (4, 2)).astype(np.int32),
      box_mask=np.array([[True, True], [True, False]] * 2),
      attributes=np.array([[[0, 2], [1, -1]]] * 4, np.int32),
    ),
    'answers': dict(image=image_BHWC, size=size_B2, label=np.arange(4)),
    'texts': dict(label=np.arange(4) % 2),
  }
  for name in ('answers', 'texts'):
    found[name] |= dict(zip(tasks.TEXT, text, strict=True))
  return found


def made(**options):
  without_image = ANSWERS.model.clone(backbone=None, head=unit.Labels(2))
  parts = {
    'objects': set_detection.Detection(model=OBJECTS.model, optimizer=None),
    'answers': tasks.TextClassification(model=ANSWERS.model, optimizer=None),
    'texts': tasks.TextClassification(
      model=without_image.clone(first_token_only=True), optimizer=None
    ),
  }
  options = dict(optimizer=optim.momentum(0.1), own=unit.OWN) | options
  return multi_task.MultiTask(tasks=parts, **options)


@pytest.fixture(scope='module')
def trained():
  """Returns the state before and after a step on answers, and its scalars."""
  task, all_batches = made(), batches()
  state = jax.jit(task.init)(KEY, all_batches)
  batch = {'answers': all_batches['answers']}
  after, scalars = jax.jit(task.train_step)(state, batch, KEY)
  return state, after, scalars


def changed(before, after):
  """Returns the names of parts of which a parameter changed."""
  return {
    name
    for name in before
    if not all(jax.tree.leaves(jax.tree.map(np.array_equal, before[name], after[name])))
  }


def test_a_step_changes_only_what_its_task_reads(trained):
  state, after, scalars = trained
  assert changed(state.params, after.params) == {'shared', 'answers'}
  assert state.params['shared'].keys() == SHARED
  assert changed(state.params['shared'], after.params['shared']) == SHARED
  own = state.params['answers'], after.params['answers']
  assert changed(*own) == {'queries', 'head'}
  assert np.isfinite(scalars['loss']) and scalars['answers/score'] <= 1
  # Tokens of other tasks are rows of the same table.
  table, new = (x.params['shared']['text_task']['embedding'] for x in (state, after))
  np.testing.assert_array_equal(table[0], new[0])
  assert not np.array_equal(table[1], new[1])


def test_separate_decoders_belong_to_their_tasks():
  task = made(own=unit.OWN_DECODER)
  state = jax.eval_shape(task.init, KEY, batches())
  assert state.params['shared'].keys() == SHARED - {'decoder'}
  for name in ('objects', 'answers', 'texts'):
    assert state.params[name].keys() == {'queries', 'head', 'decoder'}


def test_the_loss_of_attributes():
  logits_BKA = jnp.array([[[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [9.0, 0.0, 0.0]]])
  attribute_BKN = jnp.array([[[0, 1], [1, -1], [-1, -1]]])
  log = np.array(jax.nn.log_softmax(logits_BKA))[0]
  want = -0.5 * ((log[0, 0] + log[0, 1]) / 2 + log[1, 1]) / 2
  found = losses.attributes(logits_BKA, attribute_BKN)
  np.testing.assert_allclose(found, want, rtol=1e-6)
  assert losses.attributes(logits_BKA, -jnp.ones_like(attribute_BKN)) == 0


def test_padding_has_no_attributes():
  task, batch = made().tasks['objects'], batches()['objects']
  variables = cases.OBJECTS
  state = jax.eval_shape(task.model.init, KEY, *variables.inputs)
  params = jax.tree.map(lambda x: jnp.full(x.shape, 0.1), state['params'])
  outputs = {'layer_features': jnp.ones((2, 4, 5, 24))}
  query_LBK = jnp.array([[[0, 1], [2, -1]] * 2] * 2)
  found = task._attribute_losses(params, outputs, batch, query_LBK)
  other = batch['attributes'].copy()
  other[1::2, 1] = 2
  again = task._attribute_losses(
    params, outputs, batch | {'attributes': other}, query_LBK
  )
  assert found.shape == (2,) and (found > 0).all()
  np.testing.assert_array_equal(found, again)


def test_shares_of_steps_are_exact_and_equal_on_all_hosts():
  shares = dict(coco=0.2, vg=0.07, vqa=0.26, ve=0.12, qnli=0.1, mnli=0.1)
  shares |= dict(qqp=0.1, sst2=0.05)

  def data():
    inputs = {n: pipeline.TrainInput(source=Zeros(), batch_size=2) for n in shares}
    return alternating.Alternating(inputs=inputs, shares=shares, seed=3)

  counts = data().steps_of(100_000)
  for name, share in shares.items():
    assert abs(counts[name] / 100_000 - share) < 0.01 * share
  drawn = [data().part(step) for step in range(200)]
  hosts = [data().batches(lambda n, k=k: np.arange(k, n, 2)) for k in range(2)]
  for batch_of in hosts:
    assert [next(iter(next(batch_of))) for _ in range(20)] == drawn[:20]
    batch_of.close()


@pytest.mark.parametrize(
  ('name', 'changes', 'message'),
  [
    ('texts', dict(label=np.array([0, 1, 2, 0])), 'label 2 is out of range'),
    (
      'answers',
      dict(label=None, target=np.zeros((4, 7))),
      'targets for 7 classes, but the head has 6',
    ),
    (
      'texts',
      dict(tokens=np.zeros((4, 9), np.int32)),
      'texts have 9 tokens, but the model has positions for 6',
    ),
    ('answers', dict(image=None), "batches have no 'image'"),
    (
      'objects',
      dict(attributes=np.full((4, 2, 2), 12)),
      'object 0 of row 0 has the attribute 12, but the model has 12',
    ),
    ('captions', {}, "batches of 'captions', but the tasks are objects, answers"),
  ],
)
def test_batches_that_do_not_fit_are_refused(name, changes, message):
  batch = batches().get(name, {}) | changes
  batch = {key: x for key, x in batch.items() if x is not None}
  with pytest.raises(UserError, match=message):
    made().check({name: batch})
