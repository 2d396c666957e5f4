import dataclasses
import json
import pathlib
import types

import jax
import numpy as np
import pytest
import several_shapes_config
import tiny_config

from big_vision_like import plan, spec
from big_vision_like.cost import flops
from big_vision_like.data.input import alternating, pipeline
from big_vision_like.data.procedural import sequences
from big_vision_like.devices import chips
from big_vision_like.devices import mesh as meshes
from big_vision_like.errors import UserError
from big_vision_like.run import experiment

TINY, SEVERAL = tiny_config.__file__, several_shapes_config.__file__
I21K = str(pathlib.Path(TINY).parent.parent / 'configs' / 'vit' / 'i21k.py')


@pytest.fixture(scope='module')
def on_tpu(data_dir):
  pytest.importorskip('libtpu')
  return plan.plan(TINY, 'v5e:2x2', overrides=['mesh.data=2', 'mesh.fsdp=2'])


@pytest.fixture(scope='module')
def on_cpu(data_dir):
  return plan.plan(TINY, 'cpu:8')


def test_a_plan_matches_the_real_step(on_tpu):
  run = experiment.make(spec.load(TINY, root=experiment.Settings))
  jaxpr = run.compiled_step.trace(run.abstract_state, run.abstract_batch).jaxpr
  assert on_tpu.flops == flops.total(jaxpr)
  assert on_tpu.mesh == dict(data=2, fsdp=2, tensor=1)
  assert (on_tpu.chips, on_tpu.hosts, on_tpu.batch_size) == (4, 1, 32)
  assert on_tpu.chip is chips.V5E and on_tpu.fits
  # Without rematerialization, all chips together compute the operations of the step.
  assert on_tpu.costs.flops * 4 == pytest.approx(on_tpu.flops, rel=0.05)
  held = meshes.bytes_per_device(run.abstract_state)
  assert on_tpu.parameters + on_tpu.optimizer == held  # too small to be sharded
  assert on_tpu.needed > held
  assert {c.kind for c in on_tpu.costs.collectives} >= {'all-reduce'}


def test_the_estimate_follows_the_program(on_tpu):
  assert on_tpu.seconds >= on_tpu.roofline.total > 0
  rate = on_tpu.flops / on_tpu.seconds / 4
  assert on_tpu.mfu == pytest.approx(rate / chips.V5E.peak_flops)
  assert 0 < on_tpu.mfu < 1


def test_simulated_devices_have_sizes_and_no_times(on_cpu):
  assert on_cpu.fits and on_cpu.seconds is None and on_cpu.mfu is None
  assert on_cpu.chips == 8 and on_cpu.mesh['data'] == 8
  json.dumps(on_cpu.record())


def test_batches_of_several_shapes():
  """Checks that the largest shape is planned, and that frequencies of all are known."""
  run = experiment.make(
    spec.load(SEVERAL, root=experiment.Settings), planned_for=jax.devices()
  )
  flops_of = {}
  for shape in several_shapes_config.SHAPES:
    batch = run.abstract_batch_of(shape)
    assert batch['image'].shape == (8, *shape, 3)
    jaxpr = run.compiled_step.trace(run.abstract_state, batch).jaxpr
    flops_of[shape] = flops.total(jaxpr)
  stream, count = iter(run.data), dict.fromkeys(flops_of, 0)
  for _ in range(plan.FIRST_BATCHES):
    count[next(stream)['image'].shape[1:3]] += 1
  stream.close()
  expected = {s: (count[s] / plan.FIRST_BATCHES, flops_of[s]) for s in flops_of}
  assert plan.works_of(run) == expected
  assert max(expected, key=lambda shape: expected[shape][1]) == (48, 48)
  assert run.abstract_batch['image'].shape == (8, 48, 48, 3)


def test_times_are_for_the_mean_shape(on_tpu, capsys):
  signatures = {'8x4': (0.25, on_tpu.flops // 2), '8x8': (0.75, on_tpu.flops)}
  made = dataclasses.replace(on_tpu, signatures=signatures, padded_share=0.2)
  assert made.mean_seconds == pytest.approx(0.875 * made.seconds, rel=1e-6)
  assert made.mfu == on_tpu.mfu
  assert json.loads(json.dumps(made.record()))['signatures'][0]['label'] == '8x4'
  plan.tell(made, price=None, rate=1.0, given=True)
  printed = capsys.readouterr().out
  assert '8x4: 25.0 % of the steps' in printed and '8x8: 75.0 %' in printed
  assert '20.0 % of the pixels are padding' in printed
  assert 'step below is for 8x8; the mean step has 0.88 of its' in printed
  assert f'{1e3 * made.mean_seconds:,.1f} ms for the mean step' in printed
  speed = made.batch_size / made.mean_seconds
  assert f'{speed:,.0f} in total' in printed
  hours = made.total_steps * made.mean_seconds / 3600
  assert f'steps: {hours:,.1f} hours' in printed
  assert on_tpu.mean_seconds == on_tpu.seconds
  plan.tell(on_tpu, price=None, rate=1.0, given=True)
  assert 'batches' not in capsys.readouterr().out


def test_operations_of_each_of_several_inputs(capsys):
  images = spec.build(spec.load(SEVERAL, root=experiment.Settings).train_data)
  pairs = sequences.Reverse(examples=50, split='train')
  data = alternating.Alternating(
    inputs={
      'coco': images,
      'reverse': pipeline.TrainInput(source=pairs, batch_size=8),
    },
    shares={'coco': 0.25, 'reverse': 0.75},
  )

  def step(state, batch):
    [(name, own)] = batch.items()
    x = own['image'][:, 0, :, 0] if name == 'coco' else own['source']
    return x.astype(np.float32) @ state[: x.shape[1]]

  run = types.SimpleNamespace(
    data=data,
    compiled_step=jax.jit(step),
    abstract_state=jax.ShapeDtypeStruct((64, 2), np.float32),
    abstract_batch_of=data.abstract,
  )
  found = plan.works_of(run)
  shares = {data.label(key): share for key, (share, _) in found.items()}
  assert shares['reverse'] == 0.75 and sum(shares.values()) == pytest.approx(1)
  assert all(name.startswith('coco ') for name in shares if name != 'reverse')
  assert found['reverse', ()][1] == 2 * 8 * 13 * 2


@pytest.mark.parametrize(
  'topology, words',
  [
    ('v9:2x2', r"unknown topology 'v9:2x2'. Known ones:\n  v4: 2x2x1 (.*\n)+  v5e: "),
    ('v5e', "unknown topology 'v5e'"),
    ('v5e:abc', "unknown topology 'v5e:abc'"),
    ('cpu:x', "unknown topology 'cpu:x'"),
    ('cpu:0', "unknown topology 'cpu:0'"),
    ('cpu:99', 'cpu:99: this process has only 8 devices'),
  ],
)
def test_unknown_topologies_list_the_known_ones(topology, words):
  with pytest.raises(UserError, match=words):
    plan.slice_devices(topology)


def test_a_shape_that_no_slice_has():
  pytest.importorskip('libtpu')
  with pytest.raises(UserError, match="no topology 'v5e:3x5' .*. Known ones:"):
    plan.slice_devices('v5e:3x5')


@pytest.mark.parametrize('name, chips', [('v4:2x2x1', 4), ('v5p:2x2x1', 4)])
def test_both_cores_of_a_chip_are_one_device(name, chips):
  pytest.importorskip('libtpu')
  assert len(plan.slice_devices(name)) == chips


def test_a_plan_that_does_not_fit_says_by_how_much(capsys):
  pytest.importorskip('libtpu')
  made = plan.plan(I21K + ':B/16', 'v5e:2x2')
  assert not made.fits and made.needed > made.chip.hbm_bytes
  plan.tell(made, price=None, rate=1.0, given=True)
  printed = capsys.readouterr().out
  over = plan.gib(made.needed - made.chip.hbm_bytes)
  assert f'does NOT fit, {over} over 15.75 GiB' in printed


def test_the_compilers_two_ways_to_say_that_it_is_too_much():
  used = 'Used 22.50G of 15.75G hbm. Exceeded hbm capacity by 6.75G.'
  assert plan._asked_for(used, held=7) == 22.5 * 2**30
  temporaries = 'HLO temporaries (39.50G) exceeds available HBM (15.75G)'
  assert plan._asked_for(temporaries, held=7) == 39.5 * 2**30 + 7
  with pytest.raises(UserError, match='gave up: another reason'):
    plan._asked_for('another reason', held=0)


def test_a_plan_reads_no_program_compiled_before(tmp_path, on_tpu):
  """Checks this because JAX stores programs for absent chips, but cannot read them."""
  settings = {
    'jax_enable_compilation_cache': True,
    'jax_compilation_cache_dir': str(tmp_path),
    'jax_persistent_cache_min_compile_time_secs': 0.0,
  }
  before = {name: getattr(jax.config, name) for name in settings}
  try:
    for name, value in settings.items():
      jax.config.update(name, value)
    plan.compilation_cache.reset_cache()
    for _ in range(2):
      again = plan.plan(TINY, 'v5e:2x2', overrides=['mesh.data=2', 'mesh.fsdp=2'])
      assert again.needed == on_tpu.needed
    assert jax.config.jax_enable_compilation_cache
  finally:
    for name, value in before.items():
      jax.config.update(name, value)
    plan.compilation_cache.reset_cache()


def test_variants_to_try():
  config = spec.load(I21K, root=experiment.Settings)
  found = list(plan.variants(config, chips=32, batches=[1024, 2048]))
  assert len(found) == 2 * 4 * 3
  assert found[0] == (
    'train_data.batch_size=1024',
    'mesh.data=32',
    'task.model.remat=none',
  )
  mesh = ('mesh.data=1', 'mesh.fsdp=16', 'mesh.tensor=2')
  assert ('train_data.batch_size=2048', *mesh, 'task.model.remat=full') in found
  for overrides in found[:12]:
    changed = spec.load(I21K, overrides, root=experiment.Settings)
    assert changed.mesh.data * changed.mesh.get('fsdp', 1) in (32, 16)


def test_variants_leave_nothing_of_the_mesh_given():
  config = spec.load(I21K, ['mesh.fsdp=4'], root=experiment.Settings)
  found = next(plan.variants(config, chips=32))
  assert set(found) == {'mesh.fsdp=1', 'mesh.data=32', 'task.model.remat=none'}


def test_sweep_takes_the_fastest_that_fits(monkeypatch, capsys, data_dir):
  known = {'a': (3.0, True), 'b': (1.0, False), 'c': (2.0, True)}

  def planned(path, topology, slices, overrides):
    name = overrides[-1]
    if name == 'd':
      raise UserError('does not divide')
    return Planned(name, *known[name])

  monkeypatch.setattr(plan, 'variants', lambda *_: [('a',), ('b',), ('c',), ('d',)])
  monkeypatch.setattr(plan, 'plan', planned)
  best = plan.sweep(TINY, 'cpu:8', 1, [], [])
  assert best.name == 'c'
  printed = capsys.readouterr().out
  assert 'too large b' in printed and 'skipped   d: does not divide' in printed
  known.update(a=(3.0, False), c=(2.0, False))
  with pytest.raises(UserError, match='nothing fits'):
    plan.sweep(TINY, 'cpu:8', 1, [], [])


def test_nearest_is_the_first_that_fits_or_the_batch_in_parts(monkeypatch, data_dir):
  tried = []

  def planned(path, topology, slices, overrides):
    tried.append(overrides)
    return Planned(overrides, 1.0, fits=wanted in overrides)

  monkeypatch.setattr(plan, 'plan', planned)
  wanted = 'task.model.remat=full'
  found = plan.nearest(TINY, 'cpu:8', 1, ['seed=1'], 8)
  assert found.name == ['seed=1', 'mesh.data=8', 'task.model.remat=full']
  assert len(tried) == 3
  wanted = 'task.accumulate=4'
  found = plan.nearest(TINY, 'cpu:8', 1, [], 8)
  assert found.name == ['mesh.data=1', 'mesh.fsdp=8', 'task.model.remat=full', wanted]
  wanted = 'nothing'
  assert plan.nearest(TINY, 'cpu:8', 1, [], 8) is None


class Planned:
  """The part of a plan that a sweep reads."""

  chips, batch_size, needed = 8, 64, 2**20

  def __init__(self, name, seconds, fits):
    self.name, self.seconds, self.fits = name, seconds, fits


def test_command(spawn, tmp_path):
  """Checks a user's output, which must not contain messages of libtpu."""
  pytest.importorskip('libtpu')
  out = tmp_path / 'plan.json'
  words = ['--topology=v5e:2x2', f'--config={TINY}', '--config.task.accumulate=2']
  done = spawn(
    '-m', 'big_vision_like.plan', *words, '--price=1.5', '--host-rate=10',
    f'--json={out}', '--bill', quick=False,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  assert done.stderr == ''
  titles = [line.split()[0] for line in done.stdout.splitlines() if line[0] != ' ']
  assert titles[:5] == ['plan', 'mesh', 'memory', 'work', 'traffic']
  assert titles[-4:] == ['time', 'speed', 'recipe', 'input']
  assert 'input-bound by' in done.stdout and 'at 1.5 per chip-hour' in done.stdout
  record = json.loads(out.read_text())
  assert record['overrides'] == ['task.accumulate=2'] and record['fits']
  assert record['seconds'] >= record['roofline_seconds']
  assert any(c['kind'] == 'all-reduce' for c in record['collectives'])


def test_plans_without_libtpu(monkeypatch):
  def missing(*_, **__):
    raise RuntimeError('no libtpu')

  monkeypatch.setattr(plan.topologies, 'get_topology_desc', missing)
  with pytest.raises(UserError, match=r'need the package libtpu \(pip install'):
    plan.slice_devices('v5e:2x2')
