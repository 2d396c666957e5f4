"""What every model must pass; a new one joins with a module of tests/battery.

`PYTHONPATH=tests python tests/models/battery_test.py [CASE ...]` writes the golden
parameter trees: the diff of tests/golden/params then shows what a change did.
"""

import functools
import pathlib
import re
import sys
from collections.abc import Callable
from typing import NamedTuple

import battery
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.devices import mesh as meshes
from big_vision_like.ops import sharding
from big_vision_like.weights import tree as trees

GOLDEN = pathlib.Path(__file__).parent.parent / 'golden' / 'params'
CASES = battery.cases()
RUNNABLE = [name for name, case in CASES.items() if case.outputs]
# Those with blocks of one kind, and randomness.
STACKS = [name for name in RUNNABLE if hasattr(CASES[name].model, 'scan')]


def listed(case: battery.Case) -> str:
  """Names and shapes of all parameters, one a line."""
  params = jax.eval_shape(case.model.init, jax.random.key(0), *case.inputs)['params']
  flat = trees.flatten(params)
  lines = [f'{name} {"x".join(map(str, flat[name].shape))}' for name in sorted(flat)]
  total = sum(leaf.size for leaf in flat.values())
  return '\n'.join([*lines, f'total {total:,}']) + '\n'


def applied(model: nn.Module, variables: dict, inputs: tuple) -> dict:
  """Returns the model's outputs; only slots are random."""
  return model.apply(variables, *inputs, rngs={'slots': jax.random.key(4)})


apply = jax.jit(applied, static_argnums=0)


def with_gradients(model: nn.Module, names: tuple[str, ...]) -> Callable:
  """Returns a function of variables and inputs: loss of outputs, outputs, gradients."""

  def loss(params, variables, inputs):
    outputs = applied(model, variables | {'params': params}, inputs)
    found = [outputs[name].ravel() for name in names]
    return sum((x * jnp.linspace(0.0, 2.0, x.size)).mean() for x in found), outputs

  def run(variables, inputs):
    gradient = jax.value_and_grad(loss, has_aux=True)
    (value, outputs), gradients = gradient(variables['params'], variables, inputs)
    return value, outputs, gradients

  return jax.jit(run)


class Run(NamedTuple):
  """A case with random variables, `with_gradients` of it, and what that gives."""

  case: battery.Case
  variables: dict
  run: Callable
  loss: jax.Array
  outputs: dict[str, jax.Array]
  gradients: dict


def unreached(grads: dict[str, np.ndarray], case: battery.Case) -> list[str]:
  """Returns a sentence for each parameter whose gradient should not be as it is."""
  largest, file = max(np.abs(g).max() for g in grads.values()), f'{case.module}.py'
  problems = []
  for name, grad in grads.items():
    cancelled = any(re.fullmatch(pattern, name) for pattern in case.cancelled)
    reached = np.abs(grad).max() > 1e-6 * largest
    if not reached and not cancelled:
      problems.append(
        f'no output depends on {name}: use it, remove it, or, if a norm or a softmax'
        f' cancels it, add it to CANCELLED in tests/battery/{file} with the reason'
      )
    if reached and cancelled:
      problems.append(
        f'outputs depend on {name}: remove it from CANCELLED in tests/battery/{file}'
      )
  return problems


@functools.cache
def ran(name: str) -> Run:
  case = CASES[name]
  variables = battery.variables(case.model, *case.inputs, deviations=case.deviations)
  run = with_gradients(case.model, case.outputs)
  return Run(case, variables, run, *run(variables, case.inputs))


@pytest.mark.parametrize('name', CASES)
def test_parameter_tree_is_the_golden_one(name):
  file = GOLDEN / f'{name}.txt'
  command = f'PYTHONPATH=tests python tests/models/battery_test.py {name}'
  assert file.exists(), f'to write {file}, run: {command}'
  assert listed(CASES[name]) == file.read_text()


@pytest.mark.parametrize('name', RUNNABLE)
def test_gradient_reaches_every_parameter(name):
  grads = trees.flatten(ran(name).gradients)
  assert all(np.isfinite(grad).all() for grad in grads.values())
  problems = unreached(grads, CASES[name])
  assert not problems, '\n'.join(problems)


@pytest.mark.parametrize('module', sorted({CASES[name].module for name in RUNNABLE}))
def test_parameters_declared_as_cancelled_exist(module):
  cases = {name: CASES[name] for name in RUNNABLE if CASES[name].module == module}
  names = [key for n in cases for key in trees.flatten(ran(n).variables['params'])]
  for pattern in next(iter(cases.values())).cancelled:
    assert any(re.fullmatch(pattern, name) for name in names), (
      f'CANCELLED of tests/battery/{module}.py: no parameter matches {pattern!r}'
    )


def test_what_is_unreached():
  case = CASES['vit_token']._replace(cancelled=('.*key/bias',))
  grads = {'a/key/bias': np.zeros(3), 'b/bias': np.zeros(3), 'head': np.ones(3)}
  [told] = unreached(grads, case)
  assert told.startswith('no output depends on b/bias') and 'battery/vit.py' in told
  grads = {'a/key/bias': np.ones(3), 'head': np.ones(3)}
  [told] = unreached(grads, case)
  assert told.startswith('outputs depend on a/key/bias')


@pytest.mark.parametrize('name', RUNNABLE)
def test_examples_do_not_see_each_other(name):
  case, variables, run, _, one, _ = ran(name)
  changed = [x.copy() for x in case.inputs]
  for x in changed:
    x[1] = x[1, ::-1]
  _, other, _ = run(variables, tuple(changed))
  for name in one:
    if name.startswith('layer_'):  # whose first axis is another one
      continue
    np.testing.assert_allclose(one[name][0], other[name][0], atol=1e-6, err_msg=name)
    assert np.abs(one[name][1] - other[name][1]).max() > 1e-3, name


@pytest.mark.parametrize('name', STACKS)
def test_training_is_random_and_evaluation_is_not(name):
  case, variables, *_ = ran(name)
  rates = {n: 0.3 for n in ('dropout', 'drop_path') if hasattr(case.model, n)}
  model = case.model.clone(**rates)

  @jax.jit
  def train(key):
    rngs = {'dropout': key}
    outputs = model.apply(variables, *case.inputs, train=True, rngs=rngs)
    return outputs[case.outputs[0]]

  keys = jax.random.split(jax.random.key(3))
  one, other = map(train, keys)
  assert np.abs(one - other).max() > 1e-3
  np.testing.assert_array_equal(one, train(keys[0]))
  assert np.abs(one - ran(name).outputs[case.outputs[0]]).max() > 1e-3
  # Flax refuses to draw without a key, of which this one is for slots alone.
  jax.eval_shape(functools.partial(applied, model), variables, case.inputs)


@pytest.mark.parametrize('name', RUNNABLE)
def test_bfloat16_is_finite_and_near(name):
  case, variables, _, _, exact, _ = ran(name)
  rough = apply(case.model.clone(dtype='bfloat16'), variables, case.inputs)
  result = case.outputs[0]
  assert rough[result].dtype == jnp.float32
  if 'features' in rough:
    assert rough['features'].dtype == jnp.bfloat16
  for name, value in rough.items():
    assert np.isfinite(value.astype(jnp.float32)).all(), name
  scale, error = np.abs(exact[result]).max(), rough[result] - exact[result]
  assert np.abs(error).max() < 0.05 * scale
  assert np.any(error)  # half precision was at work


@pytest.mark.parametrize(
  ('name', 'scan', 'remat'),
  [
    *((name, True, 'full') for name in STACKS),
    *(('vit_token', True, remat) for remat in ('none', 'dots')),
    *(('vit_token', False, remat) for remat in ('full', 'dots')),
  ],
)
def test_scan_and_remat_change_nothing(name, scan, remat):
  case, variables, _, loss, _, grads = ran(name)
  stacked = variables
  if scan:
    stacked = variables | {'params': trees.stack_blocks(variables['params'])}
  model = case.model.clone(scan=scan, remat=remat)
  scanned = with_gradients(model, case.outputs)(stacked, case.inputs)
  np.testing.assert_allclose(loss, scanned[0], rtol=1e-5)
  back = trees.flatten(trees.unstack_blocks(scanned[-1]))
  for name, grad in trees.flatten(grads).items():
    np.testing.assert_allclose(grad, back[name], atol=1e-5, rtol=1e-3, err_msg=name)


@pytest.mark.parametrize('name', RUNNABLE)
def test_four_devices_are_one(name):
  case, variables, _, _, one, _ = ran(name)
  mesh = meshes.make_mesh(devices=jax.devices()[:4])
  named = {str(n): x for n, x in enumerate(case.inputs)}
  spread = tuple(sharding.put(named, mesh).values())
  assert all(len(x.sharding.device_set) == 4 for x in spread)
  four = apply(case.model, variables, spread)
  for name in one:
    allowed = 2e-5 * max(1.0, np.abs(one[name]).max())
    np.testing.assert_allclose(one[name], four[name], atol=allowed, err_msg=name)


if __name__ == '__main__':
  for name in sys.argv[1:] or CASES:
    (GOLDEN / f'{name}.txt').write_text(listed(CASES[name]))
