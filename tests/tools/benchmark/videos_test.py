import json

import numpy as np
import pytest

from tools.benchmark import videos as tool


@pytest.fixture(autouse=True)
def small(monkeypatch):
  monkeypatch.setattr(tool, 'HEIGHT', 48)
  monkeypatch.setattr(tool, 'WIDTH', 64)
  monkeypatch.setattr(tool, 'INTERVALS', (12,))


def test_readers_are_measured_and_compared(tmp_path, monkeypatch, capsys):
  def shifted(path, wanted):
    return tool.ours(path, wanted + 1)

  def broken(path, wanted):
    raise OSError('no such library')

  readers = {'ours': tool.ours, 'start': tool.from_start, 'opencv': tool.with_opencv}
  monkeypatch.setattr(tool, 'READERS', readers | {'off': shifted, 'gone': broken})
  out = tmp_path / 'result.json'
  options = ['--videos=1', '--seconds=9', '--clips=1', '--rounds=1']
  assert tool.main([*options, f'--output={out}']) == 0
  (row,) = json.loads(out.read_text())['videos']
  assert row['key_frame_interval'] == 12 and row['kilobytes'] > 1
  assert row['clips_per_cpu_second'].keys() == {*readers, 'off'}
  assert min(row['clips_per_cpu_second'].values()) > 0
  assert row['missing'] == {'gone': 'OSError: no such library'}
  assert [row['difference'][name] for name in ('ours', 'start', 'opencv')] == [0] * 3
  assert row['difference']['off'] > 0
  printed = capsys.readouterr()
  assert 'key frames every 12: ours' in printed.err and not printed.out


def test_clips_are_those_of_training():
  given = tool.clips(['a', 'b'], 4, 30)
  assert [path for path, _ in given] == ['a', 'b', 'a', 'b']
  for _, wanted in given:
    assert len(wanted) == 8 and 253 <= wanted[-1] - wanted[0] <= 256
    assert np.diff(wanted).min() > 30


@pytest.mark.parametrize(
  'words, message',
  [
    (['--seconds=8'], 'shorter than a clip: give 9'),
    (['--rounds=0'], 'must be 1 or more'),
  ],
)
def test_wrong_arguments(words, message, capsys):
  assert tool.main(words) == 1
  assert message in capsys.readouterr().err
