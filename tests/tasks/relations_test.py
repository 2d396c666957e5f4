import jax
import numpy as np
import pytest
from battery import relations as cases

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.tasks import relations as tasks

MODEL = cases.CASES['relations'].model
MODEL = MODEL.clone(encoder=MODEL.encoder.clone(depth=1))
TAGS = np.array([[1, 2, 3, 0]] * 4, np.int32)
RELATED = np.array([[[0, 2, 0], [1, 0, 0], [0, 0, 0]]] * 4, np.int32)
BATCH = dict(
  zip((*tasks.TEXT, *tasks.ENTITIES), cases.CASES['relations'].inputs, strict=True)
) | {'tags': TAGS, 'relations': RELATED, 'entity_mask': cases.THERE_BN}


def make(**options):
  options = (
    dict(kinds='ab', relations=('x', 'y'), optimizer=optim.adamw(3e-3)) | options
  )
  return tasks.Relations(model=MODEL, **options)


@pytest.fixture(scope='module')
def state():
  return jax.jit(make().init)(jax.random.key(1), BATCH)


def test_the_loss_of_words_and_of_pairs(state):
  task = make(weight=0.5)
  # Rows have different numbers of words and of entities.
  words = cases.WORDS_BW & (np.arange(4)[None] < np.array([[3], [2], [1], [3]]))
  there = cases.THERE_BN & (np.arange(3)[None] < np.array([[2], [1], [2], [2]]))
  batch = BATCH | {'word_mask': words, 'entity_mask': there}
  prepared = task.prepare(batch, jax.random.key(0))
  loss, (_, scalars) = task.loss(state.params, {}, prepared, jax.random.key(0))
  outputs = MODEL.apply({'params': state.params}, *task.model_inputs(batch))
  logs = {k: np.asarray(jax.nn.log_softmax(outputs[k])) for k in ('tags', 'relations')}
  tags = [logs['tags'][b, w, TAGS[b, w]] for b, w in np.argwhere(words)]
  pairs = [
    logs['relations'][b, i, j, RELATED[b, i, j]]
    for b in range(4)
    for i in range(3)
    for j in range(3)
    if i != j and there[b, i] and there[b, j]
  ]
  assert len(tags) == 9 and len(pairs) == 6
  np.testing.assert_allclose(scalars['tag_loss'], -np.mean(tags), rtol=1e-5)
  np.testing.assert_allclose(scalars['relation_loss'], -np.mean(pairs), rtol=1e-5)
  np.testing.assert_allclose(loss, -np.mean(tags) - 0.5 * np.mean(pairs), rtol=1e-5)


def test_parts_of_a_batch_give_the_same_step(state):
  words = cases.WORDS_BW & (np.arange(4)[None] < np.array([[3], [2], [1], [3]]))
  batch = BATCH | {'word_mask': words}
  whole, parts = (
    jax.jit(make(accumulate=n).train_step)(state, batch, jax.random.key(0))
    for n in (1, 2)
  )
  np.testing.assert_allclose(whole[1]['loss'], parts[1]['loss'], rtol=1e-5)
  np.testing.assert_allclose(
    whole[1]['gradient_norm'], parts[1]['gradient_norm'], rtol=1e-4
  )


def test_predictions_relate_different_entities_only(state):
  found = jax.jit(make().predict)(state, BATCH, jax.random.key(0))
  labels, there = np.asarray(found['labels']), np.asarray(found['entity_mask'])
  assert labels.any()
  assert not labels[:, np.arange(3), np.arange(3)].any()
  assert not labels[~(there[:, :, None] & there[:, None])].any()


def test_names_must_fit_the_model():
  with pytest.raises(
    UserError, match='num_kinds=2 and num_relations=3, and the task na'
  ):
    make(kinds=('a',))
