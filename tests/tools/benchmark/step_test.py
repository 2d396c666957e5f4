"""Tests of the benchmark on a tiny config, and of the sum of its bill."""

import json
import sys

import jax
import pytest

WORDS = ('tools/benchmark/step.py', '--config=tests/tiny_config.py')
WORDS += ('--repeats=2', '--steps=3', '--config.train_data.batch_size=64')


@pytest.fixture
def trace_bill():
  from tools.benchmark.parts import trace_bill

  return trace_bill


def test_benchmark_measures_everything(spawn, tmp_path):
  trace = tmp_path / 'trace'
  done = spawn(*WORDS, '--with-input', '--checkpoint', f'--profile={trace}')
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  assert result['batch_size'] == 64
  for name in ('train', 'predict'):
    times = result[name]['step_seconds']
    assert 0 < times['p10'] <= times['median'] <= times['p90']
    assert result[name]['examples_per_second'] == pytest.approx(64 / times['median'])
  used = result['utilization']
  assert used['operations_per_step'] == 2 * 15_411_200  # linear in the batch of 32
  assert used['mfu_of_measured_peak'] == pytest.approx(
    used['operations_per_step']
    / result['train']['step_seconds']['median']
    / used['matmul_peak_per_device']['float32']
  )
  assert used['mfu_of_data_sheet'] is None  # no data sheet states a CPU's
  # Parameters, two moments, average: the step holds all of them.
  assert result['peak_memory']['bytes'] > 4 * 4 * 4_490
  assert result['with_input']['wait_seconds']['mean'] > 0
  assert 0 < result['with_input']['wait_share'] < 1
  assert result['with_input']['process_cpu_seconds'] > 0
  assert result['with_input']['input_cpu_seconds'] > 0
  assert result['checkpoint']['bytes'] > 4 * 4 * 4_490

  bill = result['profile']
  parts = bill['parts']
  assert set(parts) == {'compute', 'collectives', 'input', 'gaps'}
  assert sum(parts.values()) == pytest.approx(bill['step_seconds'], rel=1e-6)
  assert parts['compute'] > 0 and parts['collectives'] == 0
  shares = [entry['share'] for entry in bill['operations']]
  assert len(shares) == 10 and shares == sorted(shares, reverse=True)
  assert sum(shares) <= 1 + 1e-9
  assert any('encoder/block_*' in entry['name'] for entry in bill['operations'])
  assert list(trace.rglob('*.xplane.pb'))
  for text in (
    'examples/s',
    'ms are spent on input',
    'products reach here',
    'delays training by',
    'compute',
  ):
    assert text in done.stderr, text


def test_benchmark_names_the_extra_that_is_missing(run, monkeypatch):
  monkeypatch.setitem(sys.modules, 'torch', None)
  done = run(*WORDS, '--against=timm')
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr.startswith("error: --against timm needs the extra 'parity'")
  assert 'Traceback' not in done.stderr


def test_benchmark_refuses_no_repeats(run):
  done = run(*WORDS, '--repeats=0')
  assert done.returncode == 1 and '--repeats must be 1 or more' in done.stderr


def test_spans(trace_bill):
  merged = trace_bill.merge([(5, 6), (0, 2), (1, 3), None, (3, 4)])
  assert merged == [(0, 4), (5, 6)]
  left = trace_bill.subtract([(0, 10), (12, 14)], [(1, 2), (4, 5), (9, 13)])
  assert left == [(0, 1), (2, 4), (5, 9), (13, 14)]
  assert trace_bill.subtract([(0, 4)], [(0, 4)]) == []
  assert trace_bill.length(left) == 8


def test_own_times_exclude_nested_spans(trace_bill):
  operation = trace_bill.Operation
  found = [
    operation('loop', (0.0, 10.0), 'a'),
    operation('inner', (1.0, 4.0), 'a'),
    operation('innermost', (2.0, 3.0), 'a'),
    operation('inner', (5.0, 6.0), 'a'),
    operation('other', (0.0, 7.0), 'b'),
  ]
  own = {}
  for name, seconds in trace_bill.own_times(found):
    own[name] = own.get(name, 0) + seconds
  assert own == {'loop': 6.0, 'inner': 3.0, 'innermost': 1.0, 'other': 7.0}


def test_sources_are_scopes_of_the_program(trace_bill):
  hlo = """
  %dot.3 = f32[8]{0} dot(%a, %b), metadata={op_type="x" \
op_name="jit(step)/transpose(jvp(ViT))/encoder/block_11/mlp/fc1/dot_general"}
  ROOT add.1 = f32[] add(%a, %b), metadata={op_name="jit(step)/jvp(ViT)/head/add"}
  %bare = f32[] add(%a, %b)
"""
  assert trace_bill.sources_of(hlo) == {
    'dot.3': 'ViT/encoder/block_*/mlp/fc1/dot_general, backward',
    'add.1': 'ViT/head/add',
  }


# Microseconds: line, name of the event, start, length.
HOST = [
  ('python', 'traced loop', 0, 100),
  ('python', 'wait for input', 0, 20),
  ('python', 'wait for input', 50, 5),
]
TPU = [
  ('XLA Modules', 'jit_step', 10, 80),
  ('XLA Ops', '%fusion.1 = f32[8] fusion(%x)', 10, 30),
  ('XLA Ops', '%all-reduce.2 = f32[8] all-reduce(%y)', 40, 20),
  ('XLA Ops', '%fusion.3 = f32[8] fusion(%x)', 70, 20),
]
GPU = [
  ('Stream #7(Compute)', 'fusion_1', 10, 30),
  ('Stream #9(NCCL)', 'ncclDevKernel_AllReduce_Sum_f32', 30, 30),
  ('Stream #7(Compute)', 'fusion_3', 70, 20),
]


def plane(name, events):
  """Returns the text form of one plane of a trace."""
  text = f'name: "{name}"\n'
  for i, (_, title, _, _) in enumerate(events, start=1):
    text += f'event_metadata {{ key: {i} value {{ id: {i} name: "{title}" }} }}\n'
  for line in dict.fromkeys(line for line, *_ in events):
    text += f'lines {{ name: "{line}" timestamp_ns: 1000\n'
    for i, (where, _, start, length) in enumerate(events, start=1):
      if where == line:
        text += f'events {{ metadata_id: {i} offset_ps: {start * 10**6}'
        text += f' duration_ps: {length * 10**6} }}\n'
    text += '}\n'
  return f'planes {{ {text} }}\n'


@pytest.mark.parametrize(
  'name, device, collectives',
  # The GPU's collective overlaps with compute for the first 10 of its 30.
  [('/device:TPU:0', TPU, 20), ('/device:GPU:0', GPU, 20)],
)
def test_bill_of_an_accelerator(trace_bill, tmp_path, name, device, collectives):
  text = plane('/host:CPU', HOST) + plane(name, device)
  text += plane(name.replace('0', '1'), [(*device[0][:2], 0, 100)])
  trace = jax.profiler.ProfileData.text_proto_to_serialized_xspace(text)
  (tmp_path / 'host.xplane.pb').write_bytes(trace)
  bill = trace_bill.bill(tmp_path, steps=2)
  assert bill['step_seconds'] == pytest.approx(50e-6)
  # Idle are 0-10, 60-70 and 90-100; in the first 10 the host waits for input.
  assert bill['parts'] == pytest.approx(
    {'compute': 25e-6, 'collectives': collectives / 2e6, 'input': 5e-6, 'gaps': 10e-6}
  )
  first = bill['operations'][0]
  assert first['name'].startswith('fusion')


def test_bill_reports_missing_parts(trace_bill, tmp_path):
  with pytest.raises(ValueError, match='left no trace'):
    trace_bill.bill(tmp_path, steps=1)
