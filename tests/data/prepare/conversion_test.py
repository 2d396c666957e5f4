import pathlib

import pytest

from big_vision_like.data.prepare import conversion
from big_vision_like.errors import UserError


def test_a_full_disk_is_one_sentence():
  with (
    pytest.raises(UserError, match='a-0 could not be written: No space left'),
    conversion._writing(pathlib.Path('a-0')),
  ):
    raise RuntimeError('No space left')
