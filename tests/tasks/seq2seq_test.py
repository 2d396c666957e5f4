import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.errors import UserError
from big_vision_like.models import transformer
from big_vision_like.ops import losses, search
from big_vision_like.tasks import seq2seq
from big_vision_like.tasks.task import State
from big_vision_like.weights import tree

V, S, T = 12, 6, 5


def make(**options):
  model = transformer.Transformer(
    **dict(
      dict(vocab_size=V, width=16, depth=1, num_heads=2, mlp_dim=24, dropout=0.0),
      **options.pop('model', {}),
    )
  )
  default = dict(optimizer=optim.adamw(rate=1e-2, b2=0.98, eps=1e-9), extra_length=2)
  return seq2seq.Seq2Seq(model=model, **default | options)


def some_batch(seed=0, rows=4):
  rng = np.random.default_rng(seed)
  source, target = rng.integers(3, V, (rows, S)), rng.integers(3, V, (rows, T))
  source[:, -1] = target[:, -1] = 2
  source[0, 3:], target[0, 2:] = [2, 0, 0], [2, 0, 0]
  return {'source': source.astype(np.int32), 'target': target.astype(np.int32)}


@pytest.fixture(scope='module')
def started():
  task = make()
  state = jax.jit(task.init)(jax.random.key(3), some_batch())
  return task, state


def test_the_decoder_reads_the_target_shifted_right():
  batch = some_batch()
  source, inputs = make(bos_id=7).model_inputs(batch)
  np.testing.assert_array_equal(source, batch['source'])
  np.testing.assert_array_equal(inputs[:, 0], 7)
  np.testing.assert_array_equal(inputs[:, 1:], batch['target'][:, :-1])


def test_every_segment_is_shifted_separately():
  row = lambda *ids: np.array([ids], np.int32)  # noqa: E731
  batch = dict(
    source=row(5, 2, 6, 2),
    target=row(5, 2, 6, 7, 2, 0),
    source_segment=row(1, 1, 2, 2),
    target_segment=row(1, 1, 2, 2, 2, 0),
    source_position=row(0, 1, 0, 1),
    target_position=row(0, 1, 0, 1, 2, 0),
  )
  inputs = make().model_inputs(batch)
  np.testing.assert_array_equal(inputs[1], [[1, 5, 1, 6, 7, 2]])
  np.testing.assert_array_equal(inputs[3], batch['target_segment'])


@pytest.mark.parametrize('form', losses.SMOOTHINGS)
def test_every_token_counts_once(form, started):
  _, state = started
  task = make(smoothing_form=form)
  loss, (_, scalars) = jax.jit(task.loss)(
    state.params, {}, some_batch(), jax.random.key(0)
  )
  batch = some_batch()
  logits = task.model.apply({'params': state.params}, *task.model_inputs(batch))
  each = losses.smoothed_cross_entropy(logits['logits'], batch['target'], 0.1, form)
  real = batch['target'] != 0
  np.testing.assert_allclose(loss, each[real].mean(), rtol=1e-5)
  assert scalars['weight'] == real.sum() == 18
  hits = np.asarray(logits['logits']).argmax(-1) == batch['target']
  np.testing.assert_allclose(scalars['accuracy'], hits[real].mean(), rtol=1e-6)


def test_parts_of_a_batch_weigh_by_their_tokens(started):
  _, state = started
  plain = dict(optimizer=optim.momentum(1.0))  # one step is the gradient
  whole, parts = make(**plain), make(**plain, accumulate=2)
  state = state.replace(opt_state=whole.optimizer.init(state.params))
  batch, key = some_batch(), jax.random.key(0)
  want, scalars = jax.jit(whole.train_step)(state, batch, key)
  got, in_parts = jax.jit(parts.train_step)(state, batch, key)
  for name in 'loss', 'gradient_norm', 'accuracy':
    np.testing.assert_allclose(in_parts[name], scalars[name], rtol=1e-5)
  for a, b in zip(
    jax.tree.leaves(got.params), jax.tree.leaves(want.params), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.fixture(scope='module')
def trained():
  """Returns parameters of two blocks that have nearly memorized a batch."""
  task, batch = make(model=dict(depth=2)), some_batch()
  state = jax.jit(task.init)(jax.random.key(3), batch)
  step = jax.jit(task.train_step)
  for n in range(120):
    state, scalars = step(state, batch, jax.random.key(n))
  assert scalars['accuracy'] == 1.0
  return state.params


def test_a_learnt_batch_is_found(trained):
  task, batch = make(model=dict(depth=2)), some_batch()
  state = State(step=0, params=trained, opt_state=None)
  found = jax.jit(task.predict)(state, batch, jax.random.key(0))
  want = np.pad(batch['target'], ((0, 0), (0, S + 2 - T)))
  for search_for in (task.greedy, task.translate):
    ids = jax.jit(search_for)(state, batch, jax.random.key(0))['ids']
    np.testing.assert_array_equal(ids, want)
  np.testing.assert_array_equal(found['tokens'], (want != 0).sum(axis=1))
  assert (found['nll'] < 1.0).all()


def uncached(task, variables, source):
  """Returns a step that runs the whole decoder on all tokens so far."""
  memory = task.model.apply(variables, source, method='encode')

  def step(token, index, ids):
    ids = jax.lax.dynamic_update_index_in_dim(ids, token, index, axis=1)
    beams = len(ids) // len(source)
    repeat = functools.partial(jnp.repeat, repeats=beams, axis=0)
    features = task.model.apply(
      variables, ids, repeat(memory), repeat(source), method='decode'
    )
    logits = task.model.apply(variables, features, method='logits')
    return logits[:, index], ids

  return step


@pytest.mark.parametrize('scan', [False, True])
def test_beams_with_a_cache_match_those_without(scan, trained):
  task = make(model=dict(scan=scan, depth=2), beams=3)
  batch, length = some_batch(1), S + 2  # not the memorized batch
  params = tree.stack_blocks(trained) if scan else trained
  variables = {'params': params}

  @jax.jit
  def both(variables, source):
    def reorder(ids, beam):
      rows = (jnp.arange(len(source))[:, None] * 3 + beam).reshape(-1)
      return ids[rows]

    slow = search.beam_search(
      uncached(task, variables, source),
      jnp.zeros((len(source) * 3, length), jnp.int32),
      jnp.full(len(source), task.bos_id),
      length,
      task.eos_id,
      task.beams,
      task.alpha,
      reorder,
      task.never,
    )
    return slow, task.search_beams(variables, source)

  (slow_ids, slow_scores), (ids, scores) = both(variables, batch['source'])
  np.testing.assert_allclose(scores, slow_scores, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(ids, slow_ids)
  assert len(np.unique(ids[:, 0], axis=0)) > 1  # the source has an effect
  assert (np.diff(scores, axis=1) <= 0).all()


def test_the_score_of_a_beam_matches_the_model(started):
  """Checks that the best beam's score is its log probability, teacher-forced."""
  task, state = started
  batch = some_batch(2)
  found = jax.jit(task.translate)(state, batch, jax.random.key(0))
  again = jax.jit(task.predict)(
    state, {'source': batch['source'], 'target': found['ids']}, jax.random.key(0)
  )
  ended = (found['ids'] == task.eos_id).any(axis=1)
  assert ended.any()
  penalty = ((5 + again['tokens']) / 6) ** task.alpha
  np.testing.assert_allclose(
    found['scores'][ended, 0], (-again['nll'] / penalty)[ended], rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize(
  'change, words',
  [
    (dict(source=np.full((2, 3), 12)), r'source \(2, 3\) has the token id 12 in row 0'),
    (dict(target=np.array([[1, 2], [-1, 2]])), r'target \(2, 2\) has the token id -1'),
    (dict(source=np.array([[5, 2], [0, 0]])), r'row 1 of \(2, 2\) \(id 8\) is empty'),
  ],
)
def test_unusable_batches_are_reported(change, words):
  batch = {name: np.full((2, 2), 3) for name in ('source', 'target')}
  batch['id'] = np.array([7, 8])
  make().check(batch)
  with pytest.raises(UserError, match=words):
    make().check(batch | change)


def test_unknown_forms_are_reported():
  with pytest.raises(UserError, match="smoothing_form='kl' is not one of"):
    make(smoothing_form='kl')
