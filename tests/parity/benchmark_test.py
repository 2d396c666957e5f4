import json


def test_against_timm(run):
  done = run(
    'tools/benchmark.py',
    '--config=tests/tiny_config.py',
    '--repeats=2',
    '--steps=2',
    '--against=timm',
  )
  assert done.returncode == 0, done.stderr
  timm = json.loads(done.stdout)['timm']
  assert timm['ratio']['train'] > 0
