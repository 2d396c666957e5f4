import json


def test_against_timm(run):
  done = run(
    'tools/benchmark/step.py',
    '--config=tests/tiny_config.py',
    '--repeats=2',
    '--steps=2',
    '--against=timm',
  )
  assert done.returncode == 0, done.stderr
  timm = json.loads(done.stdout)['timm']
  assert timm['ratio']['train'] > 0


def test_detr_against_transformers(run):
  done = run(
    'tools/benchmark/detr.py',
    '--config=configs/detr/small.py',
    '--config.task.model.num_queries=100',
    '--batch-size=2',
    '--image-size=32x48',
    '--repeats=2',
    '--steps=2',
    '--against=transformers',
  )
  assert done.returncode == 0, done.stderr
  result = json.loads(done.stdout)
  for work in ('train', 'network', 'predict'):
    assert result[work]['ratio'] > 0


def test_classifiers_against_timm(run):
  done = run(
    'tools/benchmark/classifiers.py',
    'efficientnet_b0',
    '--batch-size=2',
    '--image-size=32',
    '--repeats=1',
    '--steps=1',
    '--torch=channels_last',
  )
  assert done.returncode == 0, done.stderr
  train, predict = json.loads(done.stdout)['results']
  assert train['operations_per_step'] > 2 * 2 * 0.38e9 * (32 / 224) ** 2 * 2
  assert train['ratios']['timm, channels_last'] > 0
  assert predict['ratios']['timm, channels_last'] > 0


def test_bert_against_transformers(run):
  done = run(
    'tools/benchmark/bert.py',
    '--size=tiny',
    '--batch-size=2',
    '--length=8',
    '--repeats=1',
    '--steps=1',
  )
  assert done.returncode == 0, done.stderr
  train, predict = json.loads(done.stdout)['results']
  for result in (train, predict):
    assert result['ratios'].keys() == {'transformers, eager', 'transformers, sdpa'}
    assert min(result['ratios'].values()) > 0
