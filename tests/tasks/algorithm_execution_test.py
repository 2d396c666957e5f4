"""Axes: B batch, S states, L slots, N nodes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like import optim
from big_vision_like.data.input import pipeline
from big_vision_like.data.procedural import number_lists, weighted_graphs
from big_vision_like.errors import UserError
from big_vision_like.models import neural_execution as models
from big_vision_like.tasks import algorithm_execution

SMALL = dict(width=8, depth=1, hidden=8, scan=True)
ENGINE = models.Engine(models.Subroutine(10, **SMALL), models.MaskNetwork(filters=4))
TASK = algorithm_execution.AlgorithmExecution(model=ENGINE, optimizer=optim.adamw(1e-2))
KEY = jax.random.key(0)


def batch_of(source, size=8):
  return next(pipeline.EvalInput(source=source, batch_size=size).epoch())


@functools.cache
def batch():
  return batch_of(number_lists.SortSteps(examples=8, split='train'))


@functools.cache
def state():
  return jax.jit(TASK.init)(KEY, batch())


step = jax.jit(TASK.train_step)


def test_losses_fall_and_are_parts_of_their_sum():
  now, first = step(state(), batch(), KEY)
  parts = [first[f'loss_{name}'] for name in ('number', 'pointer', 'mask')]
  np.testing.assert_allclose(first['loss'], sum(parts), rtol=1e-6)
  for _ in range(30):
    now, last = step(now, batch(), KEY)
  for name in ('loss_number', 'loss_pointer', 'loss_mask'):
    assert last[name] < first[name], name


def test_importance_weights_all_losses():
  none = batch() | {'importance': 0 * batch()['importance']}
  assert jax.jit(lambda s, b: TASK.loss(s.params, {}, b, KEY)[0])(state(), none) == 0


def test_sums_have_a_loss_of_numbers_alone():
  adder = models.Engine(models.Subroutine(9, **SMALL, positions=True))
  task = dataclasses.replace(TASK, model=adder)
  sums = batch_of(number_lists.Arithmetic(operation='sum', split='train'))
  own = jax.jit(task.init)(KEY, sums)
  _, (_, scalars) = jax.jit(lambda p: task.loss(p, {}, sums, KEY))(own.params)
  assert {*scalars} == {'loss_number', 'accuracy'}
  with pytest.raises(UserError, match='programs need a mask network'):
    task.prim(own, {'weight': np.zeros((1, 4, 4), np.int32)}, KEY)


def test_programs_agree_with_single_steps():
  # The first step of a program is a step from the true state.
  items = {'items': batch()['numbers'][:, 0, :-1]}
  trace = jax.jit(TASK.selection_sort)(state(), items, KEY)
  outputs = jax.jit(TASK.predict)(state(), batch(), KEY)
  np.testing.assert_allclose(trace['logits'][:, 0], outputs['logits'][:, 0], atol=1e-5)
  assert trace['sorted'].shape == (8, 8) and trace['pointer'].shape == (8, 8, 9)
  np.testing.assert_array_equal(
    trace['hidden'][:, 1:], trace['mask_logits'][:, :-1] > 0
  )


def test_graphs_run_with_a_frozen_adder():
  adder = models.Engine(models.Subroutine(9, **SMALL, positions=True))
  task = dataclasses.replace(TASK, adder=adder)
  steps = weighted_graphs.GraphSteps(algorithm='dijkstra', examples=8, split='train')
  graphs = batch_of(
    weighted_graphs.WeightedGraphs(nodes=5, examples=2, split='test'), 2
  )
  own = jax.jit(task.init)(KEY, batch_of(steps))
  assert own.frozen['adder']['params']['subroutine']['head']['kernel'].shape == (8, 9)
  found = jax.jit(task.dijkstra)(own, graphs, KEY)
  assert found['distance'].shape == (2, 5)
  tree = jax.jit(task.prim)(own, graphs, KEY)
  assert tree['total'].shape == (2,)
  with pytest.raises(UserError, match='needs an adder'):
    TASK.dijkstra(own, graphs, KEY)


def test_without_masks_everything_is_visible_and_the_previous_number_is_read():
  task = dataclasses.replace(TASK, model=ENGINE.clone(mask=None), masks=False)
  numbers, hidden, _, previous = task.model_inputs(batch())
  assert not hidden.any() and numbers is batch()['numbers']
  np.testing.assert_array_equal(previous[:, 1:], batch()['target'][:, :-1])
  own = jax.jit(task.init)(KEY, batch())
  items = {'items': batch()['numbers'][:, 0, :-1]}
  trace = jax.jit(task.selection_sort)(own, items, KEY)
  assert not trace['hidden'].any()
  with pytest.raises(UserError, match='masks=False: set task.model.mask to None'):
    dataclasses.replace(TASK, masks=False)


def test_a_sort_of_a_hundred_numbers_is_one_loop():
  items = {'items': jax.ShapeDtypeStruct((1, 100), jnp.int32)}
  text = str(jax.make_jaxpr(TASK.selection_sort)(state(), items, KEY))
  assert text.count('length=100') == 1


@pytest.mark.parametrize(
  ('change', 'sentence'),
  [
    (dict(numbers=1024), r'numbers .* has 1024: an engine of 10 bits knows 0 to 1023'),
    (dict(target=-1), r'target \(8, 9\) has -1: an engine of 10 bits'),
  ],
)
def test_numbers_out_of_range_are_refused(change, sentence):
  [(name, number)] = change.items()
  wrong = batch()[name].copy()
  wrong.flat[3] = number
  TASK.check(batch())
  with pytest.raises(UserError, match=sentence):
    TASK.check(batch() | {name: wrong})
