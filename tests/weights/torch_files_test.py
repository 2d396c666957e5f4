"""Tests of files of torch.save; PyTorch 2.13 wrote the two fixtures."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch_archives

from big_vision_like.errors import UserError
from big_vision_like.weights import archives, files, torch_files

FILES = ['torch_save', 'torch_save_old']
WEIGHT = np.arange(6.0, dtype='float32').reshape(2, 3)


@pytest.mark.parametrize('name', FILES)
def test_both_layouts(golden, name):
  state = files.read(golden / f'{name}.pth')
  assert list(state) == ['weight', 'turned', 'half', 'count']
  np.testing.assert_array_equal(state['weight'], WEIGHT)
  np.testing.assert_array_equal(state['turned'], WEIGHT.T)
  np.testing.assert_array_equal(state['half'].astype('float32'), [0.5, -2.0])
  assert state['weight'].dtype == np.float32
  assert (state['count'], state['count'].dtype, state['count'].shape) == (
    7,
    'int64',
    (),
  )


def test_the_state_dict_is_found(tmp_path):
  path, state = tmp_path / 'a.pth', {'w': WEIGHT}
  for content in (state, {'model': state}, {'epoch': 3, 'state_dict': state}):
    torch_archives.save(path, content)
    got = files.read(path)
    assert list(got) == ['w']
    np.testing.assert_array_equal(got['w'], WEIGHT)
  torch_archives.save(path, {'model': WEIGHT, 'x': WEIGHT})  # here an array's name
  assert list(files.read(path)) == ['model', 'x']
  torch_archives.save(path, {'shadow': state, **{f'a{i}': i for i in range(20)}})
  words = 'is not a state dict.*; its keys are shadow, a0, .*, a8 ...$'
  with pytest.raises(UserError, match=words):
    files.read(path)


class Runs:
  """An object that creates a folder if it is unpickled without checks."""

  def __init__(self, folder):
    self.folder = str(folder)

  def __reduce__(self):
    return os.mkdir, (self.folder,)


@pytest.mark.parametrize('archive', [True, False])
def test_nothing_in_a_file_runs(tmp_path, archive):
  bomb, path = Runs(tmp_path / 'ran'), tmp_path / 'model.pth'
  content = pickle.dumps({'model': {'weight': bomb}}, protocol=2)
  if archive:
    with zipfile.ZipFile(path, 'w') as file:
      file.writestr('model/data.pkl', content)
  else:
    start = [torch_files._MAGIC, torch_files._VERSION, {'little_endian': True}]
    path.write_bytes(b''.join(map(pickle.dumps, start)) + content)
  with pytest.raises(UserError, match=r'model.pth: it holds a \w+.mkdir, which is not'):
    files.read(path)
  assert not (tmp_path / 'ran').exists()
  pickle.loads(content)
  assert (tmp_path / 'ran').exists()  # plain pickle creates it


@pytest.mark.parametrize('name', FILES)
@pytest.mark.parametrize('kept', [0, 0.3, 0.6, 0.99])
def test_cut_files_say_so(golden, tmp_path, name, kept):
  content = (golden / f'{name}.pth').read_bytes()
  path = tmp_path / 'cut.pth'
  path.write_bytes(content[: int(kept * len(content))])
  with pytest.raises(UserError, match='is not a whole file of torch.save'):
    files.read(path)


def archive_of(path, sizes, numbers):
  """Writes an archive with one tensor, whose storage has these bytes."""
  tensor = torch_archives.tensor(0, 'float32', *sizes)
  torch_archives.write(path, torch_archives.named('weight', tensor), [numbers])


BAD_TENSORS = {
  'beyond its numbers': (6, 0, (2, 4), (4, 1)),
  'behind its numbers': (6, 5, (2,), (1,)),
  'repeated': (6, 0, (1000, 1000), (0, 0)),
  'backwards': (6, 5, (6,), (-1,)),
}


def test_views_stay_within_their_numbers(tmp_path):
  path, numbers = tmp_path / 'model.pth', WEIGHT.tobytes()
  archive_of(path, (6, 0, (2, 3), (3, 1)), numbers)
  np.testing.assert_array_equal(files.read(path)['weight'], WEIGHT)
  archive_of(path, (6, 1, (2,), (3,)), numbers)
  np.testing.assert_array_equal(files.read(path)['weight'], WEIGHT[:, 1])
  for case, tensor in BAD_TENSORS.items():
    archive_of(path, tensor, numbers)
    with pytest.raises(UserError, match='not a whole file'):
      print(case, files.read(path))


def test_other_names_of_the_state_dict(tmp_path):
  path, state = tmp_path / 'a.pth', {'w': WEIGHT}
  for content in (
    {'model': {'state_dict': state}},
    {'state_dict': {'module': state}, 'optimizer': {'state': {'0': state}}},
    {'model_ema': state, 'epoch': 3},
    {'ema': {'module': state}},
    {'net': state},
    {'model': {}, 'model_ema': state},
    {'net': {'depth': 3}, 'ema': state},
  ):
    torch_archives.save(path, content)
    state_dict, told = torch_files.read_told(path)
    assert list(state_dict) == ['w']
    assert not told or told == ("'ema' of the file is read, not 'net'",)
  torch_archives.save(path, {'model_ema': state, 'model': {'x': WEIGHT}})
  state_dict, told = torch_files.read_told(path)
  assert list(state_dict) == ['x']
  assert told == ("'model' of the file is read, not 'model_ema'",)


def nested(depth, make):
  found = make(())
  for _ in range(depth):
    found = make((found, found))
  return pickle.dumps(found, protocol=2)[2:-1]


NAME, CALL = torch_archives._text('model'), b'ctorch._utils\n_rebuild_parameter\n'
HUGE = b'(' + b'K\0' * 100_000 + b'tq\0'
# Programs that would never end or fill the memory, and the expected messages.
ENDLESS = {
  'lists': (b'}' + NAME + nested(40, list) + b's', 'is not a state dict'),
  'a key': (b'}' + nested(40, tuple) + b'K\1s', 'is not a state dict'),
  'a name': (nested(40, tuple) + b')R', 'is not a whole'),
  'a class': (nested(40, tuple) + nested(40, tuple) + b'\x93', 'is not a whole'),
  'a storage': (nested(40, tuple) + b'Q', 'is not a whole'),
  'deep': (b']' * 100_000 + b'a' * 99_999, 'is not a state dict'),
  'a deep key': (b'})' + b'\x85' * 100_000 + b'K\1s', 'is not a state dict'),
  'in itself': (b'}q\0' + NAME + b'h\0s', 'is not a state dict'),
  'arguments': (HUGE + CALL + b'h\0R', 'too many arguments'),
  'calls': (HUGE + b'(' + (CALL + b'h\0\x85R') * 100 + b't', 'over 2,000,000 instr'),
  'nothing': (b'N' * 2_000_001, 'over 2,000,000 instr'),
  'a global': (b'cbuiltins\neval\n', 'it holds a builtins.eval, which is not read'),
  'a set': (b'\x8f', 'its pickle has an instruction that is not supported, EMPTY'),
  'twice': (b'}' + NAME + b'Ns' + NAME + b'Ns', 'a name occurs twice'),
  'too little': (b'(NR', 'is not a whole file'),
}


@pytest.mark.parametrize('case', ENDLESS)
def test_programs_that_never_end(tmp_path, case):
  path, (program, words) = tmp_path / 'model.pth', ENDLESS[case]
  torch_archives.write(path, b'\x80\2' + program + b'.', [])
  with pytest.raises(UserError, match=words):
    files.read(path)


def test_tensors_in_proportion_to_their_file(tmp_path, monkeypatch):
  path, numbers = tmp_path / 'model.pth', bytes(4000)
  archive_of(path, (10, 0, (10,), (1,)), numbers)
  with pytest.raises(UserError, match='storage 0 declares 40 bytes, but has'):
    files.read(path)
  monkeypatch.setattr(archives, 'SMALL', 1000)
  archive_of(path, (1000, 0, (10,), (1,)), numbers)
  with pytest.raises(UserError, match=r'4,000 bytes for tensors of 40: save copies'):
    files.read(path)
  whole = torch_archives.tensor(0, 'float32', 1000, 0, (1000,), (1,))
  names = b''.join(torch_archives._text(str(i)) + whole for i in range(100))
  torch_archives.write(path, b'\x80\2}(' + names + b'u.', [numbers])
  with pytest.raises(UserError, match='declares 400,000'):
    files.read(path)


def test_an_average_of_a_model_has_a_count(tmp_path):
  path = tmp_path / 'model.pth'
  torch_archives.save(path, {'module.w': WEIGHT, 'n_averaged': np.array(3)})
  assert list(files.without_counts(files.read(path))) == ['module.w']


def test_nothing_follows_the_numbers(golden, tmp_path):
  path = tmp_path / 'old.pth'
  path.write_bytes((golden / 'torch_save_old.pth').read_bytes() + b'x')
  with pytest.raises(UserError, match='is not a whole .*1 bytes follow its numbers'):
    files.read(path)
