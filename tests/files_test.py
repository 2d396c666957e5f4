import os

import pytest

from big_vision_like import files
from big_vision_like.errors import UserError


def test_a_file_or_folder_appears_when_it_is_complete(tmp_path):
  path = tmp_path / 'new' / 'a.json'
  files.write_json(path, {'é': [1]})
  assert files.read_fields(path) == {'é': [1]}
  with files.atomic(path) as part:
    part.write_text('[]')
    assert files.read_json(path) == {'é': [1]}
  assert files.read_json(path) == []
  with files.atomic(tmp_path / 'folder') as part:
    part.mkdir()
    files.write(part / 'b', b'\xff')
  assert (tmp_path / 'folder' / 'b').read_bytes() == b'\xff'
  assert os.listdir(path.parent) == ['a.json']


def test_a_folder_that_takes_no_file_is_reported_with_the_name_of_the_file(tmp_path):
  path = tmp_path / ('a' * 250)  # the name of its temporary file is too long
  with pytest.raises(OSError) as raised:
    files.write(path, 'text')
  assert raised.value.filename == str(path) and not [*tmp_path.iterdir()]


def test_links_and_devices_stay(tmp_path):
  for name, target in {'link': tmp_path / 'file', 'null': os.devnull}.items():
    (tmp_path / name).symlink_to(target)
    files.write(tmp_path / name, 'text')
    assert (tmp_path / name).is_symlink()
  assert (tmp_path / 'file').read_text() == 'text'
  assert sorted(os.listdir(tmp_path)) == ['file', 'link', 'null']


def test_unwritable_paths_are_named_as_the_user_wrote_them(tmp_path):
  (tmp_path / 'folder').mkdir()
  with pytest.raises(IsADirectoryError) as error:
    files.write(tmp_path / 'folder', 'text')
  assert error.value.filename == str(tmp_path / 'folder')
  with pytest.raises(OSError, match='No space') as error:
    files.write('/dev/full', 'text')
  assert error.value.filename == '/dev/full'
  with pytest.raises(FileNotFoundError) as error:
    files.write('/proc/no', 'text')
  assert error.value.filename == '/proc/no'
  assert os.listdir(tmp_path) == ['folder'] and os.listdir(tmp_path / 'folder') == []


def test_devices_are_not_read_for_ever():
  with pytest.raises(UserError, match='/dev/zero cannot be read: It is a device'):
    files.read_json('/dev/zero')


@pytest.mark.parametrize('make', ['touch', 'mkdir'])
def test_a_failed_write_keeps_the_old_content(tmp_path, make):
  path = tmp_path / 'a'
  files.write(path, 'before')
  with pytest.raises(OSError, match='full'), files.atomic(path) as part:
    getattr(part, make)()
    raise OSError('the disk is full')
  assert path.read_text() == 'before' and os.listdir(tmp_path) == ['a']


@pytest.mark.parametrize(
  'content, words',
  [
    (None, r'a\.json cannot be read: No such file'),
    (b'{', r'a\.json is not JSON: .*line 1 column 2'),
    (b'\xff', r'a\.json is not JSON: .*utf-8'),
    (b'[]', r'a\.json holds a list, not fields by name'),
    ('{}'.encode('utf-16'), r'a\.json is not JSON: .*utf-8'),
    (b'[' * 100_000, r'a\.json is not readable as JSON: it is nested too deeply'),
    (b'{"a":' * 100_000, r'a\.json is not readable as JSON: it is nested too deeply'),
    (b'{"a": %s}' % (b'1' * 5000), 'is not JSON: an integer has too many digits'),
    (b'{"a": {"b": 1, "b": 1}}', "not JSON: the name 'b' appears twice in one object"),
  ],
)
def test_a_bad_file_is_named(tmp_path, content, words):
  path = tmp_path / 'a.json'
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(UserError, match=words):
    files.read_fields(path)


def test_a_byte_order_mark_is_passed_over(tmp_path):
  path = tmp_path / 'a.json'
  path.write_bytes(b'\xef\xbb\xbf{"a": NaN}')
  assert list(files.read_fields(path)) == ['a']  # written by Python


@pytest.mark.parametrize(
  'content, words',
  [
    (b'{"a": {"b": [1, NaN]}}', r'a\.json: a\.b\[1\] is nan, not a finite number'),
    (b'{"a": -Infinity}', r'a\.json: a is -inf, not a finite number'),
    (b'{"a": 1e999}', r'a\.json: a is inf, not a finite number'),
    (b'{"a": 9223372036854775808}', 'a is an integer of more than 64 bits'),
    (b'{"a": %s}' % (b'[' * 60 + b']' * 60), 'is nested deeper than 50 levels'),
    (b'{"a": "\\ud800"}', 'has half a character'),
    (b'{"\\ud800": 1}', 'has half a character'),
  ],
)
def test_plain_fields_have_values_that_can_be_used(tmp_path, content, words):
  path = tmp_path / 'a.json'
  path.write_bytes(content)
  assert files.read_fields(path)
  with pytest.raises(UserError, match=words):
    files.read_fields(path, plain=True)
