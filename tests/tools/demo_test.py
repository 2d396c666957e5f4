"""Tests of `make train` with small sizes: five trainings, the table and the page."""

import re

from tools import demo


def test_demo_prints_its_table_and_writes_its_page(run, tmp_path):
  words = ('tools/demo.py', f'--runs={tmp_path}', '--override=total_steps=4')
  words += ('--override=task.optimizer.rate.warmup_steps=1',)
  words += ('--override=task.model.depth=1', '--override=train_data.batch_size=32')
  words += ('--override=task.model.width=24', '--override=task.model.mlp_dim=32')
  done = run(*words)
  assert done.returncode == 0, done.stderr
  for row in ('5-shot linear probe +50', 'fine-tuning +1,347', 'fine-tuning +100'):
    assert re.search(rf'{row} +[0-9.]+ +[0-9.]+ +[+-][0-9.]+', done.stdout), row
  for line in re.findall(r'[\d,]+ +([\d.]+ +[\d.]+ +[+-][\d.]+)\n', done.stdout):
    before, after, gain = map(float, line.split())
    assert gain == round(after - before, 1), line  # of the printed numbers
  assert 'glyphs   top-1' in done.stdout
  for row in ('pretraining', 'fine-tuning'):
    assert re.search(rf'{row}(  +\d+:\d\d){{4}}', done.stdout), row
  assert re.search(r'time     \d+:\d\d; the first result came after', done.stdout)
  page = (tmp_path / 'report.html').read_text()
  assert 'Attention rollout' in page and 'digits_all_pretrained' in page
  # The scratch run starts elsewhere; the pretrained one starts where pretraining ended.
  loaded = re.findall(r'loaded (\d+) of (\d+) parameters', done.stdout)
  assert [int(of) - int(n) for n, of in loaded] == [2, 2], loaded

  again = run(*words)
  assert again.returncode == 0, again.stderr
  assert again.stdout.count('is already at step 4 of 4') == 5


def test_the_time_of_a_run_is_split_into_phases():
  records = [
    {
      'kind': 'info',
      'import_seconds': 2.0,
      'init_seconds': 1.0,
      'compile_seconds': 4.0,
    },
    {'kind': 'train', 'seconds': 10.0},
    {'kind': 'eval', 'val/top1': 0.5},
    {'kind': 'info', 'evaluation_seconds': 3.0, 'seconds': 14.0},
    {'kind': 'train', 'seconds': 20.0},
    {'kind': 'info', 'evaluation_seconds': 2.0, 'seconds': 22.0},
  ]
  assert demo.phases(records) == (7.0, 13.0, 5.0)
  assert demo.first_result(records) == 17.0
