import json

from tools.benchmark import attention as tool


def test_parts_are_measured(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(tool, 'SHAPES', {'tiny': (2, 5, 2, 4)})
  monkeypatch.setattr(tool.benchmark, 'REPEAT_SECONDS', 0.0)
  sizes = dict(width=8, depth=1, mlp_dim=8, num_heads=2)
  monkeypatch.setattr(tool, 'MODELS', {'tiny': sizes})
  monkeypatch.setattr(tool, 'DECODE', dict(batch=2, source=4, length=6, beams=2))
  monkeypatch.setattr(tool, 'MEMORY_TOKENS', (2048,))
  monkeypatch.setattr(tool, 'MEMORY_MASKS', ('plain',))
  out = tmp_path / 'result.json'
  parts = ['attend', 'memory', 'decode']
  assert tool.main([*parts, '--repeats=1', f'--output={out}']) == 0
  result = json.loads(out.read_text())
  assert {row['mask'] for row in result['attend']} == {'plain', 'causal', 'padding'}
  assert all(row['ratio'] > 0 for row in result['attend'])
  (decoded,) = result['decode']
  assert decoded['same_tokens'] == 1.0
  assert decoded['score_difference'] < 1e-4
  (plain,) = result['memory']
  assert plain['pallas'] < plain['xla']
  printed = capsys.readouterr()
  assert 'attend' in printed.err and not printed.out


def test_unknown_parts_are_reported(capsys):
  assert tool.main(['speed']) == 1
  assert "no part 'speed': there are attend, memory, decode" in capsys.readouterr().err
