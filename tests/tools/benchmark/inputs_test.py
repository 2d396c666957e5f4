import json

import pytest

from tools.benchmark import inputs as tool


def test_photographs_resemble_those_of_imagenet():
  for markers in (False, True):
    first, second = tool.photographs(2, markers)
    assert first != second and 50_000 < len(first) < 200_000
    assert (b'\xff\xd0' in first) == markers


def test_measurements(monkeypatch, capsys):
  name = 'crop and flip, restart markers'
  monkeypatch.setattr(tool, 'VARIANTS', {name: tool.VARIANTS[name]})
  monkeypatch.setattr(tool.os, 'sched_getaffinity', lambda process: {0})
  tool.main(['--photographs=8', '--rounds=1', '--seconds=0.1', '--examples=640'])
  out, err = capsys.readouterr()
  result = json.loads(out)
  assert [(r['kind'], r['workers']) for r in result['rates']] == [
    ('ours', 0),
    ('ours', 1),
  ]
  assert all(r['images_per_second'] > 0 for r in result['rates'])
  assert 0 <= result['wait']['share'] <= 1
  assert len(result['memory_mib']) == 10 and min(result['memory_mib'].values()) > 10
  assert name in err and 'one core' in err


def test_tensorflow_needs_the_reference(capsys):
  with pytest.raises(SystemExit):
    tool.main(['--against=tensorflow'])
  assert 'needs --big-vision FOLDER' in capsys.readouterr().err
