import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from big_vision_like.cost import flops, hlo, hlo_text
from big_vision_like.devices import chips
from big_vision_like.models import vit

V5E = chips.of_kind('TPU v5 lite')


@pytest.fixture(scope='module')
def tpus():
  """Yields four TPU v5e devices of a topology, without hardware."""
  pytest.importorskip('libtpu')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')
    yield topologies.get_topology_desc('v5e:2x2', 'tpu').devices


@pytest.fixture(params=['cpu', 'tpu'])
def devices(request):
  return request.getfixturevalue('tpus') if request.param == 'tpu' else jax.devices()


def array(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def compiled(devices, fn, *args, specs=None, out=None, shape=None, **options):
  """Compiles `fn` for a mesh of axes x and y, or for one device if `specs` is None."""
  if specs is None:
    devices, specs = devices[:1], [P()] * len(args)
  mesh = Mesh(np.reshape(devices, shape or (len(devices), 1)), ('x', 'y'))
  args = [
    jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))
    for x, spec in zip(args, specs, strict=True)
  ]
  if out is not None:
    options['out_shardings'] = NamedSharding(mesh, out)
  return jax.jit(fn, **options).lower(*args).compile()


def read(*args, **options):
  return hlo.costs(compiled(*args, **options).as_text())


def conv(x, w, stride=2, padding='VALID', groups=1):
  return jax.lax.conv_general_dilated(
    x,
    w,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    feature_group_count=groups,
  )


def scanned(x, ws):
  return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, ws)[0]


def unrolled(x, ws):
  for w in ws:
    x = jnp.tanh(x @ w)
  return x


@pytest.mark.parametrize(
  'fn, shapes, multiply_adds',
  [
    (jnp.matmul, [(24, 40), (40, 16)], 24 * 40 * 16),
    (
      functools.partial(jnp.einsum, 'bqhd,bkhd->bhqk'),
      [(2, 5, 3, 8), (2, 7, 3, 8)],
      2 * 3 * 5 * 7 * 8,
    ),
    (conv, [(2, 12, 16, 3), (4, 4, 3, 8)], 2 * 5 * 7 * 8 * 4 * 4 * 3),
    (
      functools.partial(conv, groups=2),
      [(2, 8, 8, 4), (2, 2, 2, 6)],
      2 * 4 * 4 * 6 * 2 * 2 * 2,
    ),
    # In the last row and column of windows, one of 3 rows or columns is padding.
    (
      functools.partial(conv, padding='SAME'),
      [(1, 8, 8, 3), (3, 3, 3, 4)],
      (3 * 3 + 2) ** 2 * 3 * 4,
    ),
  ],
)
def test_operations_of_products(devices, fn, shapes, multiply_adds):
  assert read(devices, fn, *(array(*s) for s in shapes)).flops == 2 * multiply_adds


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_of_a_convolution_cost_as_much_each(devices, stride):
  def loss(x, w):
    return (conv(x, w, stride, 'SAME') ** 2).sum()

  x, w = array(8, 16, 16, 4), array(3, 3, 4, 8)
  forward = read(devices, loss, x, w).flops
  both = read(devices, jax.grad(loss, argnums=(0, 1)), x, w).flops
  assert both == 3 * forward


def tiny_vit(depth=2, **options):
  model = vit.ViT(
    num_classes=5, patch=4, width=32, depth=depth, num_heads=2, mlp_dim=48, **options
  )
  image = array(4, 16, 16, 3)
  params = jax.eval_shape(model.init, jax.random.key(0), image)

  def loss(params, image):
    return (model.apply(params, image)['logits'] ** 2).sum()

  return jax.grad(loss), params, image


def count(devices, fn, params, image):
  args, tree = jax.tree.flatten((params, image))
  return read(devices, lambda *args: fn(*tree.unflatten(args)), *args)


def test_a_model_counts_as_its_jaxpr_does(devices):
  fn, *args = tiny_vit()
  assert count(devices, fn, *args).flops == flops.count(fn, *args)


def test_recomputation_counts(tpus):
  plain, again, again_scanned = (
    count(tpus, *tiny_vit(scan=scan, remat=remat)).flops
    for scan, remat in [(False, 'none'), (False, 'full'), (True, 'full')]
  )
  assert plain < again < 4 / 3 * plain
  assert again_scanned == pytest.approx(again, rel=0.05)


@pytest.mark.parametrize(
  'fn, shapes',
  [
    (jnp.matmul, [(256, 512), (512, 128)]),
    (lambda x, w: jax.nn.gelu(x @ w) @ w.T, [(256, 64), (64, 128)]),
    (conv, [(4, 32, 32, 8), (4, 4, 8, 16)]),
    (functools.partial(jax.nn.standardize, axis=-1), [(64, 96)]),
    (lambda x: jax.nn.softmax(x, axis=-1).T, [(128, 256)]),
    (lambda x: x[3:9] * 2, [(64, 512)]),
  ],
)
def test_traffic_is_what_the_compiler_counts(fn, shapes):
  program = compiled(jax.devices(), fn, *(array(*s) for s in shapes))
  counted = program.cost_analysis()['bytes accessed']
  assert hlo.costs(program.as_text()).bytes == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(
  'fn, shapes',
  [
    (jnp.matmul, [(512, 1024), (1024, 256)]),
    (lambda x, w, v: jax.nn.gelu(x @ w) @ v, [(256, 200), (200, 500), (500, 96)]),
    (conv, [(8, 32, 32, 16), (4, 4, 16, 32)]),
  ],
)
def test_traffic_with_all_memories_is_what_the_compiler_counts(tpus, fn, shapes):
  program = compiled(tpus, fn, *(array(*s) for s in shapes))
  everywhere = re.sub(r'S\(\d+\)', '', program.as_text())
  found = hlo.costs(everywhere)
  # The compiler counts copies that overlap with computation twice.
  copied = sum(item.bytes for item in found.items if item.overlapped)
  counted = program.cost_analysis()['bytes accessed']
  assert found.bytes + copied == pytest.approx(counted, rel=0.01)
  assert hlo.costs(program.as_text()).bytes < found.bytes


def test_a_slice_is_all_that_is_read_or_written(devices):
  x, row, n = array(64, 256, 256), array(256, 256), array(dtype=jnp.int32)
  size = 4 * 256 * 256
  taken = read(devices, lambda x, n: x[n] * 2, x, n)
  assert taken.bytes == pytest.approx(2 * size, rel=0.02)

  def place(x, row, n):
    return jax.lax.dynamic_update_index_in_dim(x, row, n, axis=0)

  put = read(devices, place, x, row, n, donate_argnums=0)
  assert put.bytes == pytest.approx(2 * size, rel=0.02)


@pytest.mark.parametrize('grad', [False, True])
def test_loops_cost_their_body_each_trip(devices, grad):
  def cost(layers, depth):
    def loss(ws, x):
      return layers(x, ws).sum()

    fn = jax.grad(loss) if grad else loss
    return read(devices, fn, array(depth, 256, 256), array(512, 256))

  three, six, twelve = (cost(scanned, n) for n in (3, 6, 12))
  product = 2 * 512 * 256 * 256
  assert six.flops == 6 * product * (3 if grad else 1)
  assert six.flops - three.flops == (twelve.flops - six.flops) / 2
  assert six.unknown_loops == ()
  by_hand = cost(unrolled, 6)
  assert by_hand.flops <= six.flops <= by_hand.flops + product
  if devices[0].platform == 'cpu':
    traffic = [c.bytes for c in (three, six, twelve)]
    assert traffic[1] - traffic[0] == pytest.approx(
      (traffic[2] - traffic[1]) / 2, rel=0.01
    )


def test_loops_in_loops(devices):
  def outer(x, ws):
    return jax.lax.scan(lambda x, _: (scanned(x, ws), None), x, length=5)[0]

  found = read(devices, outer, array(64, 32), array(3, 32, 32))
  assert found.flops == 5 * 3 * 2 * 64 * 32 * 32
  assert found.unknown_loops == ()


def test_counters_that_start_and_step_elsewhere(devices):
  def loop(x):
    body = lambda c: (c[0] + 3, jnp.tanh(c[1] @ c[1]))  # noqa: E731
    return jax.lax.while_loop(lambda c: c[0] < 20, body, (2, x))[1]

  assert read(devices, loop, array(64, 64)).flops == 6 * 2 * 64**3


def test_a_loop_of_unknown_length(devices):
  def loop(x):
    return jax.lax.while_loop(lambda x: x.sum() < 3, lambda x: jnp.tanh(x @ x), x)

  found = read(devices, loop, array(64, 64))
  assert found.flops == 2 * 64**3
  assert len(found.unknown_loops) == 1


def test_the_most_expensive_branch_counts(devices):
  def branch(which, x, w):
    return jax.lax.switch(which, [lambda: x, lambda: (x @ w) @ w.T, lambda: x @ w @ w])

  found = read(devices, branch, array(dtype=jnp.int32), array(64, 32), array(32, 32))
  assert found.flops == 2 * 2 * 64 * 32 * 32


def test_sums_over_axes():
  def sums(x):
    return jax.lax.psum(x, 'x'), jax.lax.psum(x * 2, 'y')

  mesh = Mesh(np.reshape(jax.devices(), (2, 4)), ('x', 'y'))
  fn = jax.shard_map(
    sums, mesh=mesh, in_specs=P('x', 'y'), out_specs=(P(None, 'y'), P('x'))
  )
  found = read(jax.devices(), fn, array(64, 128), specs=[P('x', 'y')], shape=(2, 4))
  size = 4 * 32 * 32
  two, four = found.collectives
  assert two == hlo.Collective('all-reduce', 2, False, 1, size, size)
  assert four == hlo.Collective('all-reduce', 4, False, 1, size, 1.5 * size)


def fsdp(devices, depth):
  """Compiles a step of layers whose weights are sharded over all devices."""
  n = len(devices)

  def step(ws, x):
    grad = jax.grad(lambda ws: scanned(x, ws).sum())(ws)
    return ws - grad

  weights, batch = array(depth, 256, 256), array(128 * n, 256)
  split = P(None, 'x')
  return read(devices, step, weights, batch, specs=[split, P('x')], out=split)


def totals(found, kinds):
  """Returns count, payload and link bytes of all collectives of these kinds."""
  chosen = [c for c in found.collectives if c.kind in kinds]
  return tuple(
    sum(getattr(c, k) for c in chosen) for k in ('times', 'payload', 'link_bytes')
  )


def test_weights_are_gathered_in_each_trip(devices):
  n, depth = len(devices), 6
  found = fsdp(devices, depth)
  # Once in the forward and once in the backward pass; a TPU gathers bfloat16, the type
  # of the product.
  size = 256 * 256 * (2 if devices[0].platform == 'tpu' else 4)
  gathered = 2 * depth * size
  expected = (2 * depth, gathered, gathered * (n - 1) / n)
  assert totals(found, {'all-gather'}) == expected
  times, payload, link_bytes = totals(found, {'all-reduce', 'reduce-scatter'})
  summed = depth * 256 * 256 * 4
  assert (times, payload) == (depth, summed)
  rounds = 1 if devices[0].platform == 'tpu' else 2  # reduce-scatter, or all-reduce
  assert link_bytes == rounds * summed * (n - 1) / n
  assert {c.group for c in found.collectives} == {n}
  assert found.flops == 3 * depth * 2 * 128 * 256 * 256


def test_collectives_that_overlap_with_computation(tpus):
  found = fsdp(tpus, 6)
  beside = [c for c in found.collectives if c.overlapped]
  assert [(c.kind, c.times) for c in beside] == [('all-gather', 6)]


LINE = '  ROOT %r = f32[64]{0} all-reduce(%x), channel_id=1, '


@pytest.mark.parametrize(
  'groups, size',
  [
    ('replica_groups={{0,1},{2,3},{4,5},{6,7}}', 2),
    ('replica_groups={{0,1,2,3}}', 4),
    ('replica_groups={}', 8),
    ('replica_groups=[2,4]<=[8]', 4),
    ('replica_groups=[4,2]<=[2,4]T(1,0)', 2),
    ("replica_groups=mesh['a'=2,'b'=4] {'b'}", 4),
    ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}", 8),
    ("replica_groups=mesh['a'=8], device_ids=([2,4]T(1,0)) {'a':(2)4}", 4),
  ],
)
def test_groups(groups, size):
  text = (
    'HloModule m, is_scheduled=true, num_partitions=8\n\n'
    'ENTRY %main (x: f32[64]) -> f32[64] {\n'
    '  %x = f32[64]{0} parameter(0)\n'
    f'{LINE}{groups}, use_global_device_ids=true, to_apply=%add\n'
    '}\n'
  )
  (found,) = hlo.costs(text).collectives
  assert found.group == size
  assert found.link_bytes == pytest.approx(2 * 256 * (size - 1) / size)


@pytest.mark.parametrize(
  'line, expected',
  [
    (
      '((f32[8]{0}), f32[32]{0}) all-gather-start(%x), replica_groups=[1,4]<=[4]',
      ('all-gather', True, 128, 96),
    ),
    (
      'f32[8]{0} all-reduce-start(%x), replica_groups=[1,4]<=[4]',
      ('all-reduce', True, 32, 48),
    ),
    (
      'f32[2]{0} reduce-scatter(%x), replica_groups=[1,4]<=[4]',
      ('reduce-scatter', False, 32, 24),
    ),
    # Half of the bytes travel one hop, a quarter two.
    (
      'f32[8]{0} all-to-all(%x), replica_groups=[1,4]<=[4]',
      ('all-to-all', False, 32, 32),
    ),
    (
      '(f32[8]{0}, f32[8]{0}, u32[]{:S(2)}) collective-permute-start(%x),'
      ' source_target_pairs={{0,1},{1,2},{2,3},{3,0}}',
      ('collective-permute', True, 32, 32),
    ),
  ],
)
def test_kinds_of_collectives(line, expected):
  text = (
    'HloModule m, num_partitions=4\n\n'
    'ENTRY %main (x: f32[8]) -> f32[8] {\n'
    '  %x = f32[8]{0} parameter(0)\n'
    f'  %s = {line}\n'
    '  ROOT %d = f32[8]{0} copy-done(%s)\n'
    '}\n'
  )
  (found,) = hlo.costs(text).collectives
  kind = (found.kind, found.overlapped, found.payload, found.link_bytes)
  assert kind == expected
  assert (found.times, found.group) == (1, 4)


@pytest.mark.parametrize(
  'shape, size, tiled, hbm',
  [
    ('f32[3,5]{1,0}', 60, 60, True),
    ('bf16[197,64]{1,0:T(8,128)(2,1)}', 197 * 64 * 2, 200 * 128 * 2, True),
    ('bf16[2,197,3]{1,2,0:T(8,128)(2,1)S(1)}', 2364, 2 * 8 * 256 * 2, False),
    ('f32[300]{0:T(512)}', 1200, 2048, True),
    ('s32[]{:T(128)S(6)}', 4, 512, False),
    ('pred[7]', 7, 7, True),
    ('s4[7]{0}', 4, 4, True),
    ('f8e4m3fn[6]{0}', 6, 6, True),
    ('c64[2]{0}', 16, 16, True),
    ('f64[<=4]{0}', 32, 32, True),
    ('u8[0,4]{1,0}', 0, 0, True),
    ('token[]', 0, 0, True),
    ('opaque[]', 0, 0, True),
  ],
)
def test_shapes(shape, size, tiled, hbm):
  (found,) = hlo_text._arrays(shape)
  assert (found.size, found.tiled, found.hbm) == (size, tiled, hbm)


def test_tuples_and_unknown_names():
  text = (
    'HloModule m\n\n'
    'ENTRY %main (x: f32[8]) -> (f32[8], token[], /*index=2*/opaque[]) {\n'
    '  %x = f32[8]{0} parameter(0), metadata={op_name="x"}\n'
    '  %c = f32[2]{0} constant({1, 2}), metadata={op_name="a %b (c"}\n'
    '  ROOT %t = (f32[8]{0:T(8)}, token[], /*index=2*/opaque[]) strange-op(%x, %c),'
    ' wishes={{1,(2)}}, metadata={op_name="jit(f)/\\"q\\"/strange"}\n'
    '}\n'
  )
  (item,) = hlo.costs(text).items
  assert (item.name, item.bytes, item.flops) == ('t', 32 + 8 + 32, 0)
  assert item.op_name.endswith('/strange')


def test_the_parts_of_an_estimate():
  ms = 1e-3
  work = hlo.Item('a', '', 2, flops=round(V5E.peak_flops * ms), cycles=6_000_000)
  copy = hlo.Item('b', '', 1, bytes=round(V5E.hbm_bandwidth * ms), overlapped=True)
  sent = V5E.ring_bandwidth * ms
  sync = hlo.Item('c', '', 3, kind='all-reduce', link_bytes=sent)
  beside = hlo.Item('d', '', 5, kind='all-gather', link_bytes=sent, overlapped=True)

  def parts(*items, **options):
    found = hlo.Costs(items).estimate(V5E, **options)
    return [
      round(1e3 * seconds, 6)
      for seconds in (
        found.compute,
        found.collectives,
        found.overlapped_collectives,
        found.total,
      )
    ]

  assert parts(work) == [2, 0, 0, 2]
  assert parts(work, copy) == [2, 0, 0, 2]
  assert parts(work, copy, copy, copy) == [3, 0, 0, 3]
  assert parts(work, sync) == [2, 3, 0, 5]
  assert parts(work, sync, beside) == [2, 3, 5, 2 + 3 + 3]
  assert parts(work, sync, beside, expected=True) == [8, 3, 5, 8 + 3]
  bill = hlo.Costs((work, copy, sync, beside)).bill(V5E)
  assert [item.name for _, item in bill] == ['d', 'c', 'a', 'b']
  assert math.isclose(bill[0][0], 5 * ms)


def test_the_compiler_expects_no_less_than_is_possible(tpus):
  fn, *args = tiny_vit(depth=1)
  found = count(tpus, fn, *args)
  least, expected = (found.estimate(V5E, e).total for e in (False, True))
  assert 0 < least < expected < 1e-2
  assert 'ViT' in found.bill(V5E, expected=True)[0][1].op_name
