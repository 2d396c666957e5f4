import pytest

from big_vision_like.errors import UserError
from big_vision_like.run import experiment


@pytest.mark.parametrize('name', ['evals', 'frozen', 'mesh'])
def test_groups_of_fields_are_no_numbers(name):
  with pytest.raises(UserError, match=f'config.{name} is an int, not a group of fiel'):
    experiment.Settings(task=None, train_data=None, total_steps=1, **{name: 3})
