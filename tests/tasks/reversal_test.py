import json

CONFIG = 'configs/transformer/reverse.py'


def test_learns_to_write_backwards(spawn, tmp_path):
  """Trains a third as long as the config does, with a running average instead."""
  done = spawn(
    *('-m', 'big_vision_like.train', f'--config={CONFIG}', f'--workdir={tmp_path}'),
    '--config.total_steps=1000',
    '--config.task.ema.decay=0.99',
    '--config.task.ema.warmup=True',
    '--config.evals.greedy.every=0',
    '--config.evals.beam.every=0',
    '--config.evals.longer.every=0',
    quick=False,
  )
  assert done.returncode == 0, done.stderr
  lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  found = {k: v for line in lines for k, v in json.loads(line).items()}
  assert found['greedy/exact'] >= 0.95
  assert found['beam/exact'] >= 0.95
