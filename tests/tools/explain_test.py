"""Tests of the tree that explain prints."""

import re


def test_explain_counts_parameters_operations_and_rules(run):
  done = run(
    'tools/explain.py',
    '--config=tests/tiny_config.py',
    '--config.task.optimizer.rate_rules=[("embed/.*", 0.5)]',
    '--config.task.model.drop_path=0.0',
  )
  assert done.returncode == 0, done.stderr
  text = done.stdout
  assert re.search(r'  all +4,490 +[0-9.]+', text)
  assert re.search(r'block_1 +17x16 +', text)
  # 17 tokens with width 16 to 24: multiplications and additions.
  assert re.search(rf'fc1 +17x24 +408 +{2 * 17 * 16 * 24 / 1e6:.3f}', text)
  assert re.search(r'embed/kernel +2x2x1x16 +0.05 +0.5', text)
  assert re.search(r'encoder/block_0/attention/query/kernel +16x2x8 +0.05 +1', text)
  assert re.search(r'encoder/norm/scale +16 +0 +1', text)


def test_explain_refuses_a_rule_that_matches_nothing(run):
  done = run(
    'tools/explain.py',
    '--config=tests/tiny_config.py',
    '--config.task.optimizer.decay_rules=[("blocks/.*", 1.0)]',
  )
  assert done.returncode == 1
  assert "the rule 'blocks/.*' matches no parameter" in done.stderr


def test_explain_prints_axes_and_bytes_per_device(run):
  done = run(
    'tools/explain.py',
    '--config=tests/tiny_config.py',
    '--config.sharding=[("head/kernel", ("fsdp",))]',
    '--config.mesh.fsdp=2',
    '--config.mesh.tensor=2',
    devices=8,
  )
  assert done.returncode == 0, done.stderr
  rows = {row[0]: row[1:] for row in map(str.split, done.stdout.splitlines()) if row}
  assert rows['head/kernel'] == ['16x10', '0.05', '1', 'fsdp', '320']
  query = rows['encoder/block_1/attention/query/kernel']
  assert query == ['16x2x8', '0.05', '1', '-,', 'tensor', '512']
  assert rows['encoder/norm/scale'] == ['16', '0', '1', '64']  # not sharded: no axes
  assert 'State on a mesh of data=2 fsdp=2 tensor=2' in done.stdout
  whole, held, ratio = rows['params']
  assert float(ratio) > 1
  assert int(held.replace(',', '')) < int(whole.replace(',', ''))


def test_explain_names_a_rule_that_matches_nothing(run):
  wrong = '--config.sharding=[("heads/.*", ("fsdp",))]'
  done = run('tools/explain.py', '--config=tests/tiny_config.py', wrong)
  assert done.returncode == 1 and done.stdout == ''
  assert "the rule 'heads/.*' matches no parameter" in done.stderr


def test_explain_counts_methods_of_a_model(run):
  done = run('tools/explain.py', '--config=configs/transformer/reverse.py')
  assert done.returncode == 0, done.stderr
  rows = {row[0]: row[1:] for row in map(str.split, done.stdout.splitlines()) if row}
  tokens, width, hidden = 13, 64, 128
  block = 2 * tokens * (4 * width**2 + 2 * tokens * width + 2 * width * hidden)
  assert rows['encoder'] == ['13x64', '66,944', f'{2 * block / 1e6:.3f}']
