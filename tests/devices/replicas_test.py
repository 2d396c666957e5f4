"""Tests that a device whose copy of the state differs by one bit is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_vision_like.devices import mesh as meshes
from big_vision_like.devices.replicas import Replicas
from big_vision_like.errors import UserError
from big_vision_like.tasks.task import State

# `fsdp` splits one kernel, `tensor` another; everything else is replicated.
RULES = [('mlp/kernel', (None, 'fsdp')), ('attention/kernel', ('tensor',))]
MESHES = [
  dict(data=8),
  dict(data=4, fsdp=2),
  dict(data=2, fsdp=4),
  dict(data=4, tensor=2),
  dict(data=2, fsdp=2, tensor=2),
]


def state_on(mesh: jax.sharding.Mesh) -> State:
  """Returns a state with leaves of several types and shapes."""
  rng = np.random.default_rng(0)
  params = {
    'mlp': {'kernel': rng.normal(size=(6, 8)).astype(np.float32)},
    'attention': {'kernel': rng.normal(size=(4, 3, 2)).astype(jnp.bfloat16)},
    'bias': rng.normal(size=(5,)).astype(np.float32),
  }
  state = State(step=np.int32(7), params=params, opt_state=({'flag': np.bool_(True)},))
  return meshes.put_tree(state, meshes.state_shardings(mesh, state, RULES))


def flipped(x: jax.Array, device: int, bit: int = 0) -> jax.Array:
  """Returns the same global array, with one bit of one device's copy changed."""
  parts = []
  for shard in x.addressable_shards:
    part = np.array(shard.data)
    if shard.device.id == device:
      part.reshape(-1).view(np.uint8)[bit // 8] ^= 1 << bit % 8
    parts.append(jax.device_put(part, shard.device))
  return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)


def with_params(state: State, name: str, change) -> State:
  params = jax.tree.map(lambda x: x, state.params)
  if name == 'bias':
    params[name] = change(params[name])
  else:
    params[name]['kernel'] = change(params[name]['kernel'])
  return state.replace(params=params)


def checked(mesh: jax.sharding.Mesh, state: State) -> None:
  replicas = Replicas(mesh, state_on(mesh))
  replicas.check(1000, jax.device_get(replicas.sums(state)), last_good=900)


@pytest.mark.parametrize('sizes', MESHES, ids=str)
def test_equal_copies_pass_and_one_bit_does_not(sizes):
  mesh = meshes.make_mesh(**sizes)
  state = state_on(mesh)
  replicas = Replicas(mesh, state)

  def check(state: State) -> None:
    replicas.check(1000, jax.device_get(replicas.sums(state)), last_good=900)

  check(state)
  for name, split in [('bias', 1), ('mlp', 'fsdp'), ('attention', 'tensor')]:
    copies = 8 // (mesh.shape[split] if split != 1 else 1)
    for device, bit in [(0, 0), (5, 31 if name == 'mlp' else 15)]:
      broken = with_params(state, name, lambda x: flipped(x, device, bit))  # noqa: B023
      with pytest.raises(UserError) as error:
        check(broken)
      told = str(error.value)
      path = name if name == 'bias' else f'{name}/kernel'
      assert f'params/{path}' in told
      assert 'step 1,000' in told and 'step 900 is kept' in told
      if copies > 2:
        assert f'device {device} of process 0 deviates from {copies - 1} others' in told
      else:
        assert 'two devices disagree' in told and f'device {device} of' in told


def test_every_type_of_leaf_is_compared():
  mesh = meshes.make_mesh()
  state = state_on(mesh)
  (moments,) = state.opt_state
  flag = flipped(moments['flag'], 3)
  with pytest.raises(UserError, match='device 3 .* opt_state/0/flag'):
    checked(mesh, state.replace(opt_state=({'flag': flag},)))
  with pytest.raises(UserError, match='device 2 .* in step'):
    checked(mesh, state.replace(step=flipped(state.step, 2)))


def test_values_that_change_places_are_seen():
  mesh = meshes.make_mesh()
  state = state_on(mesh)

  def swapped(x: jax.Array) -> jax.Array:
    parts = [jax.device_put(np.array(s.data), s.device) for s in x.addressable_shards]
    parts[6] = jax.device_put(np.array(parts[6])[::-1].copy(), jax.devices()[6])
    return jax.make_array_from_single_device_arrays(x.shape, x.sharding, parts)

  with pytest.raises(UserError, match='device 6 '):
    checked(mesh, with_params(state, 'bias', swapped))


def test_without_a_majority_all_known_facts_are_reported():
  mesh = meshes.make_mesh(data=8)
  state = state_on(mesh)
  for device in range(4):
    state = with_params(state, 'bias', lambda x: flipped(x, device, device))  # noqa: B023
  with pytest.raises(UserError, match='8 devices disagree with no majority in params'):
    checked(mesh, state)


def test_nothing_to_compare_costs_nothing():
  mesh = meshes.make_mesh(data=1, devices=jax.devices()[:1])
  state = state_on(mesh)
  replicas = Replicas(mesh, state)
  assert replicas.sums(state) is None
  replicas.check(10, None, last_good=None)
