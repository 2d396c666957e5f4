import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_like import optim, plan
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.models import vit
from big_vision_like.ops import mixing, sharding
from big_vision_like.tasks import classification
from big_vision_like.tasks.task import State

# Meshes and batches


@pytest.mark.parametrize(
  'sizes, shape',
  [
    (dict(), (8, 1, 1)),
    (dict(data=-1), (8, 1, 1)),
    (dict(data=2, fsdp=-1), (2, 4, 1)),
    (dict(data=2, fsdp=2, tensor=2), (2, 2, 2)),
    (dict(data=1, tensor=-1), (1, 1, 8)),
  ],
)
def test_mesh_sizes(sizes, shape):
  mesh = meshes.make_mesh(**sizes)
  assert mesh.axis_names == ('data', 'fsdp', 'tensor')
  assert mesh.devices.shape == shape
  assert set(mesh.devices.flat) == set(jax.devices())


def test_mesh_over_some_devices():
  mesh = meshes.make_mesh(fsdp=2, devices=jax.devices()[:4])
  assert mesh.devices.shape == (2, 2, 1)
  assert set(mesh.devices.flat) == set(jax.devices()[:4])


@pytest.mark.parametrize(
  'sizes, words',
  [
    (dict(data=3), 'data=3, fsdp=1, tensor=1 does not fit 8 devices'),
    (dict(data=-1, fsdp=3), 'data=-1, fsdp=3, tensor=1 does not fit 8 devices'),
    (dict(data=4), 'the sizes must multiply to that number'),
    (dict(data=16), 'does not fit 8 devices'),
    (dict(data=-1, tensor=-1), 'only one axis can be -1'),
    (dict(data=-1, fsdp=0), 'fsdp=0'),
  ],
)
def test_meshes_that_do_not_fit(sizes, words):
  with pytest.raises(UserError, match=words):
    meshes.make_mesh(**sizes)


@pytest.mark.parametrize(
  'sizes, batch_size, words',
  [
    (dict(), 12, 'config.x=12 does not divide over 8 devices: use 8 or 16.'),
    (dict(), 3, 'config.x=3 does not divide over 8 devices: use 8.'),
    (dict(data=2, fsdp=2, tensor=2), 6, 'divide over 4 devices: use 4 or 8.'),
    (dict(), 16, None),
    (dict(data=1, fsdp=2, tensor=4), 6, None),
  ],
)
def test_batch_size(sizes, batch_size, words):
  mesh = meshes.make_mesh(**sizes)
  if words is None:
    meshes.check_batch_size(mesh, batch_size, 'config.x')
    return
  with pytest.raises(UserError, match=words):
    meshes.check_batch_size(mesh, batch_size, 'config.x')


# Shardings


def abstract(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def specs_of(mesh, params, rules=(), model_rules=()):
  state = State(step=abstract(), params=params, opt_state=None)
  shardings = meshes.state_shardings(mesh, state, rules, model_rules)
  return jax.tree.map(lambda s: s.spec, shardings.params)


def test_fsdp_splits_the_largest_dimension_that_divides(monkeypatch):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 64)
  state = dict(
    first=abstract(16, 8),
    last=abstract(3, 8, 32),
    middle=abstract(4, 12, 30),
    none=abstract(9, 25),
    small=abstract(7, 8),
    scalar=abstract(),
  )
  mesh = meshes.make_mesh(data=2, fsdp=4)
  assert specs_of(mesh, state) == dict(
    first=P('fsdp'),
    last=P(None, None, 'fsdp'),
    middle=P(None, 'fsdp'),
    none=P(),
    small=P(),
    scalar=P(),
  )


def test_fsdp_replicates_everything_if_its_axis_has_size_one():
  assert specs_of(meshes.make_mesh(), dict(a=abstract(1024, 1024))) == dict(a=P())


def test_small_leaves_are_those_below_the_limit():
  mesh = meshes.make_mesh(data=1, fsdp=8)
  state = dict(large=abstract(256, 256), small=abstract(256, 255))
  assert specs_of(mesh, state) == dict(large=P('fsdp'), small=P())


def test_the_first_rule_counts_before_the_fsdp_rule(monkeypatch):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 1)
  mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
  state = dict(mlp=dict(kernel=abstract(4, 8), bias=abstract(8)), head=abstract(6, 2))
  rules = [('mlp/kernel', (None, 'tensor')), ('mlp/.*', ()), ('head', ('fsdp',))]
  assert specs_of(mesh, state, rules) == dict(
    mlp=dict(kernel=P(None, 'tensor'), bias=P()), head=P('fsdp')
  )


@pytest.mark.parametrize(
  'axes, words',
  [
    (('tensor',), r"a/kernel of shape \(6, 8\): 6 does not divide over 4 .*'tensor'"),
    (('model',), "'model'"),
    ((None, None, 'tensor'), r'a/kernel of shape \(6, 8\)'),
  ],
)
def test_rules_that_do_not_fit(axes, words):
  mesh = meshes.make_mesh(data=2, tensor=4)
  state = dict(a=dict(kernel=abstract(6, 8)))
  with pytest.raises(UserError, match=words):
    specs_of(mesh, state, [('.*kernel', axes)])


def test_rules_of_the_model_leave_the_rest_to_fsdp(monkeypatch):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 1)
  params = dict(kernel=abstract(6, 8), other=abstract(6, 8))
  rules = [('kernel', (None, 'tensor'))]
  mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
  assert specs_of(mesh, params, model_rules=rules) == dict(
    kernel=P('fsdp', 'tensor'), other=P(None, 'fsdp')
  )
  whole = meshes.make_mesh(data=4, fsdp=2)
  assert specs_of(whole, params, model_rules=rules) == dict(
    kernel=P(None, 'fsdp'), other=P(None, 'fsdp')
  )
  mine = specs_of(mesh, params, rules=[('kernel', ())], model_rules=rules)
  assert mine['kernel'] == P()  # the config's rules come first, and apply unchanged


def test_a_rule_that_matches_nothing_names_itself_and_a_parameter():
  mesh = meshes.make_mesh()
  with pytest.raises(UserError, match=r"'a/bias' matches no parameter .*'a/kernel'"):
    specs_of(mesh, dict(a=dict(kernel=abstract(6, 8))), [('a/bias', ('fsdp',))])


def test_heads_that_do_not_divide_are_named():
  mesh = meshes.make_mesh(data=2, tensor=4)
  model = vit.ViT(num_classes=4, **vit.variant('Ti/16'))
  params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  with pytest.raises(UserError) as error:
    specs_of(mesh, params['params'], model_rules=model.sharding_rules)
  assert str(error.value) == (
    'encoder/block_0/attention/key/bias of shape (3, 64): 3 does not divide over 4'
    " devices of axis 'tensor'; use another mesh, or give it a rule in config.sharding"
  )


@pytest.mark.parametrize('scan', [False, True])
def test_moments_and_averages_are_sharded_like_their_parameters(scan, monkeypatch):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 1)
  model = vit.ViT(
    num_classes=8, patch=4, width=8, depth=2, num_heads=2, mlp_dim=16, scan=scan
  )
  task = classification.Classification(
    model=model, optimizer=optim.adamw(0.1), ema=optim.Ema(decay=0.9)
  )
  image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
  state = jax.eval_shape(task.init, jax.random.key(0), dict(image=image))
  mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
  found = meshes.state_shardings(mesh, state, model_rules=task.sharding_rules)
  adam = found.opt_state[0]
  assert found.ema['params'] == found.params == adam.mu == adam.nu
  block = found.params['encoder']['blocks' if scan else 'block_1']
  query, fc2 = block['attention']['query'], block['mlp']['fc2']
  first = (None,) if scan else ()  # the axis of scanned blocks is never split
  assert query['kernel'].spec == P(*first, 'fsdp', 'tensor')
  assert fc2['kernel'].spec == P(*first, 'tensor', 'fsdp')
  assert found.params['head']['kernel'].spec == P('fsdp')


@pytest.mark.parametrize(
  'make', [optim.rmsprop_tf, functools.partial(optim.lamb, weight_decay=0.1)]
)
def test_sharded_updates_match_one_device(make, monkeypatch):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 1)
  rng = np.random.default_rng(0)

  def kernels():
    head, query = (rng.normal(size=s).astype('float32') for s in ((8, 3), (3, 8, 2, 2)))
    return {'head': {'kernel': head}, 'blocks': {'query': {'kernel': query}}}

  optimizer = make([('head/.*', 0.1), ('.*', optax.linear_schedule(0.1, 0.0, 4))])

  def descended(params, *grads):
    state = State(jnp.int32(0), params, optimizer.init(params))
    for gradient in grads:
      updates, moments = optimizer.update(gradient, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      state = state.replace(params=params, opt_state=moments)
    return state

  params, *grads = (kernels() for _ in range(3))
  want = jax.jit(descended)(params, *grads)
  shardings = meshes.state_shardings(meshes.make_mesh(data=2, fsdp=4), want)
  specs = [x.spec for x in jax.tree.leaves(shardings.opt_state) if x.spec]
  assert sorted(specs, key=len, reverse=True) == 2 * [P(None, 'fsdp')] + 2 * [P('fsdp')]
  params = meshes.put_tree(params, shardings.params)
  got = jax.jit(descended, out_shardings=shardings)(params, *grads)
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, 1e-5, 1e-7), got, want)


def test_bytes_per_device():
  mesh = meshes.make_mesh(data=1, fsdp=8)
  leaf = jax.ShapeDtypeStruct((16, 3), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
  part = jax.ShapeDtypeStruct(
    (16, 3), jnp.float32, sharding=NamedSharding(mesh, P('fsdp'))
  )
  assert meshes.bytes_per_device(dict(leaf=leaf, part=part)) == 16 * 3 * 2 + 2 * 3 * 4


# Slices and machines joined by a slow network


@pytest.fixture(scope='module')
def two_slices():
  pytest.importorskip('libtpu')
  return plan.slice_devices('v5e:2x2', slices=2)


def test_slices_are_spread_over_data(two_slices):
  mesh = meshes.make_mesh(data=4, fsdp=2, devices=two_slices)
  slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
  assert slices[:, 0, 0].tolist() == slices[:, 1, 0].tolist() == [0, 0, 1, 1]
  only_fsdp = meshes.make_mesh(data=1, fsdp=8, devices=two_slices)
  assert [d.slice_index for d in only_fsdp.devices.flat] == [0] * 4 + [1] * 4
  with pytest.raises(UserError, match='make data a multiple of the 2 slices'):
    meshes.make_mesh(data=1, tensor=8, devices=two_slices)


@pytest.mark.parametrize('tensor', [1, 2, 8])
def test_each_process_reads_the_rows_of_its_devices(tensor, two_slices, monkeypatch):
  devices = plan.slice_devices('v5e:4x4')  # four processes with four devices each
  mesh = meshes.make_mesh(data=-1, tensor=tensor, devices=devices)
  read = []
  for process in range(4):
    sharding.local_shards.cache_clear()
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    rows = sharding.local_rows(mesh, 32)
    assert len(rows) == 32 * max(4, tensor) // 16
    here = [d for d in mesh.devices.flat if d.process_index == process]
    held = sharding.batch_sharding(mesh).devices_indices_map((32,))
    wanted = {i for d in here for i in range(*held[d][0].indices(32))}
    assert set(rows.tolist()) == wanted
    read.extend(rows.tolist())
  sharding.local_shards.cache_clear()
  assert sorted(read) == sorted([*range(32)] * max(1, tensor // 4))


# Between host and devices


def test_put_splits_rows_over_data_and_fsdp():
  mesh = meshes.make_mesh(data=2, fsdp=2, tensor=2)
  batch = dict(
    image=np.arange(8 * 3 * 3, dtype=np.uint8).reshape(8, 3, 3),
    label=np.arange(8, dtype=np.int32),
  )
  arrays = sharding.put(batch, mesh)
  for name, array in arrays.items():
    assert array.dtype == batch[name].dtype
    np.testing.assert_array_equal(array, batch[name])
    assert {shard.data.shape[0] for shard in array.addressable_shards} == {2}
  rows = sorted(s.data.tolist() for s in arrays['label'].addressable_shards)
  # Each row appears twice: the axis `tensor` does not split batches.
  assert rows == [[0, 1], [0, 1], [2, 3], [2, 3], [4, 5], [4, 5], [6, 7], [6, 7]]


def test_put_tree_round_trip(monkeypatch):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 1)
  mesh = meshes.make_mesh(data=2, fsdp=4)
  tree = dict(
    kernel=np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32),
    step=np.int32(7),
    odd=np.arange(5.0, dtype=np.float32),
  )
  shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs_of(mesh, tree))
  arrays = meshes.put_tree(tree, shardings)
  assert arrays['kernel'].sharding == shardings['kernel']
  assert {s.data.shape for s in arrays['kernel'].addressable_shards} == {(8, 3)}
  assert arrays['step'].is_fully_replicated
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(arrays), tree)


# A training step is the same on any mesh


TASK = classification.Classification(
  model=vit.ViT(num_classes=4, patch=4, width=8, depth=1, num_heads=2, mlp_dim=16),
  # Not Adam, whose first steps turn the rounding of a small gradient into a whole step.
  optimizer=optim.momentum(0.1, weight_decay=0.1, clip_norm=1.0),
)


@pytest.fixture(scope='module')
def batch():
  rng = np.random.default_rng(0)
  return dict(
    image=rng.integers(0, 256, (8, 8, 8, 1), dtype=np.uint8),
    label=rng.integers(0, 4, 8).astype(np.int32),
  )


@pytest.fixture(scope='module')
def state(batch):
  """Returns a state on the host; not the initial one, whose head passes no gradient."""
  shapes = jax.eval_shape(TASK.init, jax.random.key(0), batch)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: rng.normal(0, 0.5, x.shape).astype('f4'), state.params
  )
  return state.replace(params=params)


def step_on(mesh, state, batch, rules=()):
  shardings = meshes.state_shardings(mesh, state, rules, TASK.sharding_rules)

  def train_step(state, batch):
    with sharding.on_mesh(mesh):
      return TASK.train_step(state, batch, key=jax.random.key(3))

  step = jax.jit(
    train_step,
    out_shardings=(shardings, sharding.replicated(mesh)),
  )
  return step(meshes.put_tree(state, shardings), sharding.put(batch, mesh))


def assert_same(got, want):
  got, want = jax.device_get((got, want))
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, 2e-5, 2e-6), got, want)


@pytest.fixture(scope='module')
def on_one_device(state, batch):
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  result = step_on(mesh, state, batch)
  moved = jax.tree.map(lambda a, b: abs(a - b).max(), result[0].params, state.params)
  # All parameters except the keys' bias, on which no softmax over keys depends.
  assert sorted(jax.tree.leaves(moved))[1] > 1e-5
  return result


TENSOR_RULES = [
  (r'.*mlp/fc1/kernel', (None, 'tensor')),
  (r'.*mlp/fc2/kernel', ('tensor', None)),
]


@pytest.mark.parametrize(
  'count, sizes, rules',
  [
    (2, dict(data=2), ()),
    (4, dict(data=1, fsdp=4), ()),
    (8, dict(data=8), ()),
    (4, dict(data=2, tensor=2), ()),
    (8, dict(data=2, fsdp=2, tensor=2), ()),
    (8, dict(data=2, fsdp=2, tensor=2), TENSOR_RULES),
  ],
)
def test_a_step_is_the_same_on_any_mesh(
  count, sizes, rules, state, batch, on_one_device, monkeypatch
):
  monkeypatch.setattr(meshes, 'MIN_FSDP_SIZE', 32)
  mesh = meshes.make_mesh(**sizes, devices=jax.devices()[:count])
  result = step_on(mesh, state, batch, rules=rules)
  assert_same(result, on_one_device)
  fc1 = result[0].params['encoder']['block_0']['mlp']['fc1']['kernel']
  split = any(sizes.get(axis, 1) > 1 for axis in ('fsdp', 'tensor'))
  assert fc1.is_fully_replicated == (not split)


def test_a_step_matches_pmap(state, batch, on_one_device):
  def step(state, batch):
    gradient = jax.value_and_grad(TASK.loss, has_aux=True)
    key = jax.random.key(3)
    (loss, _), grads = gradient(state.params, {}, TASK.prepare(batch, key), key)
    loss, grads = jax.lax.pmean((loss, grads), 'devices')
    updates, _ = TASK.optimizer.update(grads, state.opt_state, state.params)
    return optax.apply_updates(state.params, updates), loss

  shards = jax.tree.map(lambda x: x.reshape(8, 1, *x.shape[1:]), batch)
  params, loss = jax.pmap(step, 'devices', in_axes=(None, 0))(state, shards)
  ours, scalars = on_one_device
  assert_same(jax.tree.map(lambda x: x[0], params), ours.params)
  assert_same(loss[0], scalars['loss'])


def test_partners_of_mixup_come_from_the_whole_batch(batch):
  image = batch['image'].astype(np.float32)
  target = np.eye(8, dtype=np.float32)
  key = jax.random.key(0)
  want = mixing.mixup(key, image, target, alpha=1.0)
  arrays = sharding.put(dict(image=image, target=target), meshes.make_mesh())
  mixup = jax.jit(functools.partial(mixing.mixup, key, alpha=1.0))
  assert_same(mixup(arrays['image'], arrays['target']), want)
