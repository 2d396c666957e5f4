import pytest

from big_vision_like import optim, spec
from big_vision_like.errors import UserError
from big_vision_like.run import experiment


@pytest.mark.parametrize('name', ['evals', 'frozen', 'mesh', 'writers'])
def test_groups_of_fields_are_not_numbers(name):
  with pytest.raises(UserError, match=f'config.{name} is an int, not a group of fiel'):
    experiment.Settings(task=None, train_data=None, total_steps=1, **{name: 3})


@pytest.mark.parametrize(
  ('schedule', 'rest'),
  [
    (optim.linear, {}),
    (optim.rsqrt, {'timescale': 3}),
    (optim.per_epoch_cosine, {'epoch_steps': 1.5}),
  ],
)
def test_a_warm_up_longer_than_the_run_is_refused(schedule, rest):
  rate = spec.spec(schedule, peak_value=1.0, warmup_steps=100, total_steps=50, **rest)
  node = {'optimizer': spec.spec(optim.adamw, rate=rate)}
  told = r'config.task.optimizer.rate.warmup_steps=100 is more than total_steps=50'
  with pytest.raises(UserError, match=told):
    experiment.check_warmups(node)
  node['optimizer']['rate']['total_steps'] = 100
  experiment.check_warmups(node)
  node['optimizer']['rate']['total_steps'] = 62.5
  with pytest.raises(UserError, match='is more than total_steps=62.5'):
    experiment.check_warmups(node)
